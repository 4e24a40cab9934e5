"""A SQLite file as what a store is copied from, or to."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

from server.store import rows
from server.store.copying import TABLES, CopySource, CopyTarget, Key, Row
from server.store.sqlite.file import (
    COPY_TABLE,
    FileLock,
    check_version,
    connect,
    explaining,
    prepare,
    reading,
    real_path,
    schema_version,
)
from server.store.values import CopyError, StoreOpenError

_SESSION: Final = (*rows.SESSION, "due_at_ms")
# Only of sessions that are there. Joined in this order, so that rows come in that of the index.
_OF_SESSIONS: Final = "CROSS JOIN sessions ON sessions.id = {}.session_id"
_READ: Final = {
    "agents": (f"SELECT {', '.join(rows.AGENT)} FROM agents", ("id",)),
    "seeded_agents": ("SELECT id FROM seeded_agents", ("id",)),
    "sessions": (f"SELECT {', '.join(_SESSION)} FROM sessions", ("id",)),
    "session_counts": (
        f"SELECT {', '.join(rows.COUNT)} FROM session_counts WHERE sessions <> 0",
        rows.COUNT[:-1],
    ),
    "log": (
        f"SELECT {rows.of('log', rows.ENTRY)} FROM log INDEXED BY log_by_sequence "
        f"{_OF_SESSIONS.format('log')}",
        ("log.session_id", "log.sequence"),
    ),
    "deliveries": (
        f"SELECT {rows.of('deliveries', rows.DELIVERY)}, sessions.agent_id, "
        "iif(head_sequence = deliveries.sequence, head_due_ms, NULL) FROM deliveries "
        f"{_OF_SESSIONS.format('deliveries')}",
        ("deliveries.session_id", "deliveries.sequence"),
    ),
    "requests": (
        f"SELECT {rows.of('requests', rows.REQUEST)} FROM requests {_OF_SESSIONS.format('requests')}",
        ("requests.scope", "requests.id"),
    ),
}
"""What reads each table, and its key."""
_WRITE: Final = {
    "agents": rows.AGENT,
    "seeded_agents": ("id",),
    "sessions": _SESSION,
    "session_counts": rows.COUNT,
    "log": rows.ENTRY,
    "deliveries": rows.DELIVERY,
    "requests": rows.REQUEST,
}
"""The columns that a row fills. Behind those of a delivery come its agent, which is the session's, and from
when on it may be given.
"""
_SET_HEAD: Final = "UPDATE sessions SET head_sequence = ?, head_due_ms = ? WHERE id = ?"


class SqliteCopySource(CopySource):
    """See CopySource."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.place = str(path)
        self._path = path
        self._connection = connection

    def count_rows(self) -> int:
        with explaining(self._path):
            counts = " + ".join(f"(SELECT count(*) FROM {table})" for table in TABLES)
            return int(self._connection.execute(f"SELECT {counts}").fetchone()[0])

    def read_rows(self, table: str, after: Key | None = None) -> Iterator[Row]:
        statement, key = _READ[table]
        if after is not None:
            behind = f"({', '.join(key)}) > ({', '.join('?' * len(key))})"
            statement += f" {'AND' if ' WHERE ' in statement else 'WHERE'} {behind}"
        statement += f" ORDER BY {', '.join(key)}"
        with explaining(self._path), closing(self._connection.execute(statement, after or ())) as found:
            yield from found

    def require_unserved(self) -> None:
        # The lock of the file says so all the time.
        pass


class SqliteCopyTarget(SqliteCopySource, CopyTarget):
    """See CopyTarget."""

    def is_empty(self) -> bool:
        with explaining(self._path):
            filled = " OR ".join(f"EXISTS (SELECT 1 FROM {table})" for table in TABLES)
            return not self._connection.execute(f"SELECT {filled}").fetchone()[0]

    def read_note(self) -> str | None:
        with explaining(self._path):
            if not self._connection.execute(
                "SELECT 1 FROM sqlite_schema WHERE name = ?", [COPY_TABLE]
            ).fetchone():
                return None
            return str(self._connection.execute(f"SELECT note FROM {COPY_TABLE}").fetchone()[0])

    def begin(self, note: str) -> None:
        with self._transaction():
            self._connection.execute(f"CREATE TABLE {COPY_TABLE} (note TEXT NOT NULL) STRICT")
            self._connection.execute(f"INSERT INTO {COPY_TABLE} VALUES (?)", [note])

    def write_rows(self, table: str, rows: Sequence[Row], before: str, after: str) -> None:
        columns = _WRITE[table]
        with self._transaction():
            noted = self._connection.execute(
                f"UPDATE {COPY_TABLE} SET note = ? WHERE note = ?", [after, before]
            )
            if noted.rowcount != 1:
                raise CopyError(f"{self.place} is written by another process, too")
            self._connection.executemany(
                f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
                (row[: len(columns)] for row in rows) if table == "deliveries" else rows,
            )
            if table == "deliveries":
                heads = [(row[1], row[-1], row[0]) for row in rows if row[-1] is not None]
                self._connection.executemany(_SET_HEAD, heads)

    def finish(self) -> None:
        with self._transaction():
            self._connection.execute(f"DROP TABLE {COPY_TABLE}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with explaining(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.IntegrityError):
                    raise CopyError(f"{self.place} does not take a row: {error}") from error
                raise


@contextmanager
def open_source(path: Path) -> Iterator[SqliteCopySource]:
    """A file to be copied, which nobody else can open meanwhile. Raises StoreOpenError, saying why."""
    path = real_path(path)
    if not path.is_file() or not path.stat().st_size:
        raise StoreOpenError(f"{path} is not there, or empty")
    with ExitStack() as opened:
        with explaining(path):
            opened.callback(FileLock(path).release)
            connection = opened.enter_context(reading(path))
            if (version := check_version(path, connection)) < schema_version():
                raise StoreOpenError(
                    f"{path} is of schema {version}: `eliza-sessions migrate` brings it to "
                    f"{schema_version()} first"
                )
        yield SqliteCopySource(path, connection)


@contextmanager
def open_target(path: Path) -> Iterator[SqliteCopyTarget]:
    """A file to be made, or one with a copy that was begun. Raises StoreOpenError, saying why."""
    path = real_path(path)
    with explaining(path):
        if path.is_file() and path.stat().st_size:
            with reading(path, is_copying=True) as connection:
                version = check_version(path, connection, is_copying=True)
            if 0 < version < schema_version():
                raise StoreOpenError(f"{path} holds a store of schema {version}: name an empty place")
    lock = prepare(path, is_copying=True)
    try:
        with closing(connect(path)) as connection:
            yield SqliteCopyTarget(path, connection)
    finally:
        lock.release()
