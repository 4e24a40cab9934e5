"""What tests see and change of an SQLite store behind its contract: the one place that knows its parts."""

import sqlite3
from pathlib import Path
from typing import Any

from server.domain.sessions import Session
from server.store.sqlite import file as sqlite_file
from server.store.sqlite.file import FileLock
from server.store.sqlite.store import SqliteStore


def writer_of(store: SqliteStore) -> Any:
    """The thread that writes."""
    return store._writer


def write_connection(store: SqliteStore) -> sqlite3.Connection:
    """The connection that writes, which statements of a test may use while nothing is written."""
    connection: sqlite3.Connection = writer_of(store)._connection
    return connection


def read_connections(store: SqliteStore) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    """The connection that reads, and the one for reads that take long."""
    return store._read_connection, store._long_reader.connection


def cached_sessions(store: SqliteStore) -> dict[str, Session]:
    """The sessions that the writer keeps between its batches."""
    cached: dict[str, Session] = writer_of(store).recent
    return cached


def lock_of(store: SqliteStore) -> FileLock:
    """The lock on the store's file."""
    return store._lock


def path_of(store: SqliteStore) -> Path:
    """Where the store's file is."""
    return store._path


def all_migrations() -> Any:
    """The migrations of a store's file, in order."""
    return sqlite_file._migrations()
