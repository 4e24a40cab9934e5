"""`eliza-sessions backup` and `restore`: a copy of the store, and the way back."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import click

from server.cli.common import settings_or_exit
from server.store import sqlite_path
from server.store.base import StoreOpenError
from server.store.sqlite_copy import CopyError, Progress, copy_store, restore_store, stored_schema
from server.store.sqlite_file import schema_version

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--database-url", metavar="URL", help="Where the store is.  [DATABASE_URL, sqlite:///eliza-sessions.db]")
@click.argument("file", type=_FILE)
def backup(database_url: str | None, file: Path) -> None:
    """Copy the store to FILE, as it is at one moment, also while it is served. FILE must not be there yet."""
    _copy(copy_store, _path(database_url), file)


@click.command()
@click.option("--database-url", metavar="URL", help="Where the store is to be.  [DATABASE_URL, sqlite:///eliza-sessions.db]")
@click.argument("file", type=_FILE)
def restore(database_url: str | None, file: Path) -> None:
    """Put a backup in place. A store that is there already is not overwritten: move it away first.

    A backup of an older schema is put in place as it is; the next start of the service migrates it.
    """
    target = _path(database_url)
    _copy(restore_store, file, target)
    if (version := stored_schema(target)) < schema_version():
        click.echo(f"{target}: it is of schema {version}: the next start brings it to {schema_version()}")


def _path(database_url: str | None) -> Path:
    try:
        return sqlite_path(settings_or_exit(database_url=database_url).database_url)
    except StoreOpenError as error:
        raise click.ClickException(str(error)) from error


def _copy(copy: Callable[[Path, Path, Progress], None], source: Path, target: Path) -> None:
    """Copies, with a progress bar where somebody watches."""
    with ExitStack() as stack:
        bar = (
            stack.enter_context(click.progressbar(length=1, label=f"{source} to {target}", file=sys.stderr))
            if sys.stderr.isatty()
            else None
        )

        def progress(done: int, total: int) -> None:
            if bar:
                bar.length = total
                bar.pos = done
                bar.render_progress()

        try:
            copy(source, target, progress)
        except CopyError as error:
            raise click.ClickException(str(error)) from error
    click.echo(f"{target}: {target.stat().st_size} bytes")
