"""`eliza-sessions check`: whether everything in a store fits together."""

import click

from server.cli.common import settings_or_exit
from server.store import maintenance
from server.store.values import StoreOpenError


@click.command()
@click.option(
    "--database-url", metavar="URL", help="Where the store is.  [DATABASE_URL, sqlite:///eliza-sessions.db]"
)
def check(database_url: str | None) -> None:
    """Verify a store: the file, and that sequences, messages, deliveries and requests fit together.

    Works on a store that is being served, as of one moment. Prints a line for each problem; the exit status
    is 1 when there is one. The store is left as it is: of a store of an older schema a temporary copy is
    migrated and checked.
    """
    found = 0

    def tell(problem: str) -> None:
        nonlocal found
        click.echo(problem)
        found += 1

    try:
        settings = settings_or_exit(database_url=database_url)
        store = maintenance(settings.database_url, settings.shared_options)
        # It notes how it ends, also where not even the schema can be read.
        summary = store.check(tell)
        version = store.stored_schema()
    except StoreOpenError as error:
        raise click.ClickException(str(error)) from error
    if found:
        raise click.ClickException(f"{store.place}: {found} problems")
    older = f" (of schema {version}, checked as schema {store.schema})" if version < store.schema else ""
    click.echo(f"{store.place} is sound: {summary}{older}")
