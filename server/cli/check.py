"""`eliza-sessions check`: whether everything in a store fits together."""

import sqlite3

import click

from server.cli.common import settings_or_exit
from server.store import sqlite_path
from server.store.base import StoreOpenError
from server.store.sqlite_check import problems, summary
from server.store.sqlite_copy import reading_current, stored_schema
from server.store.sqlite_file import schema_version


@click.command()
@click.option("--database-url", metavar="URL", help="Where the store is.  [DATABASE_URL, sqlite:///eliza-sessions.db]")
def check(database_url: str | None) -> None:
    """Verify a store: the file, and that sequences, messages, deliveries and requests fit together.

    Works on a store that is being served, as of one moment. Prints a line for each problem; the exit status is 1 when there is one.
    The store is left as it is: of a store of an older schema a temporary copy is migrated and checked.
    """
    settings = settings_or_exit(database_url=database_url)
    try:
        path = sqlite_path(settings.database_url)
    except StoreOpenError as error:
        raise click.ClickException(str(error)) from error
    try:
        version = stored_schema(path)
        with reading_current(path) as connection:
            found = 0
            for problem in problems(connection):
                click.echo(problem)
                found += 1
            if found:
                raise click.ClickException(f"{path}: {found} problems")
            older = f" (of schema {version}, checked as schema {schema_version()})" if version < schema_version() else ""
            click.echo(f"{path} is sound: {summary(connection)}{older}")
    except StoreOpenError as error:
        raise click.ClickException(str(error)) from error
    except (OSError, sqlite3.Error) as error:
        raise click.ClickException(f"{path} cannot be checked: {error}") from error
