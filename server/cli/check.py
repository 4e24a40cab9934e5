"""`eliza-sessions check`: whether everything in a store fits together."""

import sqlite3

import click

from server.cli.common import settings_or_exit
from server.store import sqlite_path
from server.store.base import StoreOpenError
from server.store.sqlite_check import problems, summary
from server.store.sqlite_file import reading


@click.command()
@click.option("--database-url", metavar="URL", help="Where the store is.  [DATABASE_URL, sqlite:///eliza-sessions.db]")
def check(database_url: str | None) -> None:
    """Verify a store: the file, and that sequences, messages, deliveries and requests fit together.

    Works on a store that is being served, as of one moment. Prints a line for each problem; the exit status is 1 when there is one.
    """
    settings = settings_or_exit(database_url=database_url)
    try:
        path = sqlite_path(settings.database_url)
    except StoreOpenError as error:
        raise click.ClickException(str(error)) from error
    try:
        with reading(path) as connection:
            found = 0
            for problem in problems(connection):
                click.echo(problem)
                found += 1
            if found:
                raise click.ClickException(f"{path}: {found} problems")
            click.echo(f"{path} is sound: {summary(connection)}")
    except StoreOpenError as error:
        raise click.ClickException(str(error)) from error
    except (OSError, sqlite3.Error) as error:
        raise click.ClickException(f"{path} cannot be checked: {error}") from error
