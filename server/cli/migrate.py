"""`eliza-sessions migrate`: brings the store's schema up to date without serving."""

from pathlib import Path

import click

from server.cli.common import settings_or_exit
from server.store import sqlite_path
from server.store.base import StoreOpenError
from server.store.sqlite_file import prepare, schema_version


@click.command()
@click.option("--database-url", metavar="URL", help="Where the store is.  [DATABASE_URL, sqlite:///eliza-sessions.db]")
def migrate(database_url: str | None) -> None:
    """Make the store, or bring its schema up to date.

    `serve` does the same when it starts; this is for doing it, and seeing it fail, on its own. The service must not be running.
    """
    try:
        path: Path = sqlite_path(settings_or_exit(database_url=database_url).database_url)
        prepare(path).release()
        click.echo(f"{path} is at schema {schema_version()}")
    except StoreOpenError as error:
        raise click.ClickException(str(error)) from error
