"""`eliza-sessions compact`: makes a store that is not served as small as it can be."""

import click

from server.cli.common import progress_bar, settings_or_exit
from server.store import maintenance
from server.store.values import StoreOpenError


@click.command()
@click.option(
    "--database-url", metavar="URL", help="Where the store is.  [DATABASE_URL, sqlite:///eliza-sessions.db]"
)
def compact(database_url: str | None) -> None:
    """Make the store as small as it can be. The service must not be running.

    It also has an old store give room back by itself from then on, as new ones do. It needs twice the room of
    what the store holds, and says how much where there is less.
    """
    try:
        store = maintenance(settings_or_exit(database_url=database_url).database_url)
        with progress_bar(f"Compacting {store.place}") as progress:
            before, after = store.compact(progress)
    except StoreOpenError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{store.place}: {before} bytes before, {after} bytes now")
