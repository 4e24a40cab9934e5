"""Errors of SQLite that say that a database is damaged."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager


def corrupt(problem: str) -> sqlite3.DatabaseError:
    """The error that SQLite itself would raise on meeting the problem."""
    error = sqlite3.DatabaseError(problem)
    error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_CORRUPT, "SQLITE_CORRUPT"
    return error


@contextmanager
def reading_schema() -> Iterator[None]:
    """Raises sqlite3.DatabaseError where SQLite's words about a damaged schema quote it, and Python cannot
    read them.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise corrupt("malformed database schema") from error
