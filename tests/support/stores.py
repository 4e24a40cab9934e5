"""The store of a service in a directory, on the back end that the tests are run on: what tests see and change
from outside, and how they open it in their own process.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg

from server.clock import Clock
from server.store import is_shared, maintenance
from server.store.contract import Store
from server.store.postgres.place import Place
from server.store.postgres.store import PostgresStore
from server.store.sqlite.store import SqliteStore
from tests.support.service import back_end, direct_url, store_settings


def execute(directory: Path, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Carries out a statement that both back ends know, its values as `?`; returns its rows."""
    url = direct_url(directory)
    if is_shared(url):
        with psycopg.connect(url) as link:
            cursor = link.execute(statement.replace("?", "%s").encode(), values)
            return cursor.fetchall() if cursor.description else []
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
        return connection.execute(statement, values).fetchall()


def find_problems(directory: Path) -> list[str]:
    """What `eliza-sessions check` finds wrong with the store."""
    found: list[str] = []
    maintenance(direct_url(directory)).check(found.append)
    return found


def store_class() -> type[Store]:
    """The class of the stores of the back end."""
    return SqliteStore if back_end() == "sqlite" else PostgresStore


async def open_here(directory: Path, clock: Clock) -> Store:
    """Opens the store in this process. On PostgreSQL the clock is the database's."""
    settings = store_settings(directory)
    url = settings["DATABASE_URL"]
    if not is_shared(url):
        return await SqliteStore.open(Path(url.removeprefix("sqlite:///")), clock)
    place = Place(
        url,
        listen_url=settings.get("DATABASE_LISTEN_URL", ""),
        prepares=settings.get("POSTGRES_PREPARE") != "false",
        announces=settings.get("POSTGRES_ANNOUNCE") != "false",
    )
    return await PostgresStore.open(place)
