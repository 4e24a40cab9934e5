"""`eliza-sessions backup` and `restore`: a copy of the store, and the way back."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from server.cli.common import progress_bar, settings_or_exit
from server.store import maintenance
from server.store.tools import Progress, StoreTools
from server.store.values import CopyError, StoreOpenError

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option(
    "--database-url", metavar="URL", help="Where the store is.  [DATABASE_URL, sqlite:///eliza-sessions.db]"
)
@click.argument("file", type=_FILE)
def backup(database_url: str | None, file: Path) -> None:
    """Copy the store to FILE, as it is at one moment, also while it is served. FILE must not be there yet."""
    store = _store(database_url)
    _copy(partial(store.back_up, file), store.place, file)


@click.command()
@click.option(
    "--database-url",
    metavar="URL",
    help="Where the store is to be.  [DATABASE_URL, sqlite:///eliza-sessions.db]",
)
@click.argument("file", type=_FILE)
def restore(database_url: str | None, file: Path) -> None:
    """Put a backup in place. A store that is there already is not overwritten: move it away first.

    A backup of an older schema is put in place as it is; the next start of the service migrates it.
    """
    store = _store(database_url)
    _copy(partial(store.restore, file), str(file), Path(store.place))
    if (version := store.stored_schema()) < store.schema:
        click.echo(f"{store.place}: it is of schema {version}: the next start brings it to {store.schema}")


def _store(database_url: str | None) -> StoreTools:
    try:
        return maintenance(settings_or_exit(database_url=database_url).database_url)
    except StoreOpenError as error:
        raise click.ClickException(str(error)) from error


def _copy(copy: Callable[[Progress], None], source: str, target: Path) -> None:
    """Copies, with a progress bar where somebody watches."""
    with progress_bar(f"{source} to {target}") as progress:
        try:
            copy(progress)
        except CopyError as error:
            raise click.ClickException(str(error)) from error
    click.echo(f"{target}: {target.stat().st_size} bytes")
