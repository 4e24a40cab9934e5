"""`eliza-sessions migrate`: brings the store's schema up to date without serving."""

import click

from server.cli.common import settings_or_exit
from server.store import maintenance
from server.store.values import StoreOpenError


@click.command()
@click.option(
    "--database-url", metavar="URL", help="Where the store is.  [DATABASE_URL, sqlite:///eliza-sessions.db]"
)
def migrate(database_url: str | None) -> None:
    """Make the store, or bring its schema up to date.

    `serve` does the same when it starts; this is for doing it, and seeing it fail, on its own. A service must
    not be running on a SQLite file. Servers may be on PostgreSQL: what older ones need stays until none of
    them runs any more.
    """
    try:
        settings = settings_or_exit(database_url=database_url)
        store = maintenance(settings.database_url, settings.shared_options)
        store.migrate()
    except StoreOpenError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{store.place} is at schema {store.schema}")
