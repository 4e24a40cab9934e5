"""A PostgreSQL database as what a store is copied from, or to: by COPY, both ways."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any, Final

import orjson
import psycopg

from server.store.copying import TABLES, CopySource, CopyTarget, Key, Row
from server.store.pages import text_size
from server.store.postgres import rows
from server.store.postgres.counts import SHARED_LANE
from server.store.postgres.place import Place
from server.store.postgres.schema import (
    COPY_TABLE,
    Connection,
    has_store,
    prepare,
    require_known,
    schema_version,
)
from server.store.values import CopyError, StoreOpenError

_SESSION: Final = (*rows.SESSION, "due_at_ms")
_BEHIND: Final = "WHERE EXISTS (SELECT 1 FROM sessions WHERE sessions.id = session_id)"
# Who has a delivery does not run any more.
_HEAD: Final = "CASE WHEN holder IS NULL THEN head_due_ms ELSE 0 END"
_BY_SEQUENCE: Final = ("session_id", "sequence")
_READ: Final = {
    "agents": (rows.AGENT, "FROM agents", ("id",)),
    "seeded_agents": (("id",), "FROM seeded_agents", ("id",)),
    "sessions": (_SESSION, "FROM sessions", ("id",)),
    # All lanes together.
    "session_counts": (
        (*rows.COUNT[:-1], "sum(sessions)::bigint"),
        f"FROM session_counts {{}} GROUP BY {', '.join(rows.COUNT[:-1])} HAVING sum(sessions) <> 0",
        rows.COUNT[:-1],
    ),
    "log": (rows.ENTRY, f"FROM log {_BEHIND}", _BY_SEQUENCE),
    "deliveries": (
        (*rows.DELIVERY, "agent_id", _HEAD),
        f"FROM deliveries {_BEHIND}",
        _BY_SEQUENCE,
    ),
    "requests": (rows.REQUEST, f"FROM requests {_BEHIND}", ("scope", "id")),
}
"""The columns of each table, where they are read, and the key."""
_WRITE: Final = {
    "agents": rows.AGENT,
    "seeded_agents": ("id",),
    "sessions": rows.NEW_SESSION,
    "session_counts": rows.SET_COUNT,
    "log": rows.NEW_ENTRY,
    "deliveries": rows.SET_DELIVERY,
    "requests": rows.REQUEST,
}
"""The columns that are written."""
_LOADED: Final = {"boolean": "int8", "integer": "int8", "bigint": "int8", "float8": "float8"}
"""As what the types that are not text are read."""
_EXPIRED, _EXPIRES_AT, _RETENTION = (
    rows.SESSION.index(column) for column in ("expired", "expires_at_ms", "retention_ms")
)
_MESSAGE_ID, _FAILURE = rows.ENTRY.index("message_id"), rows.ENTRY.index("failure")

# A copy takes longer than a statement of the service; rows are to come by their index, not sorted on a disk.
_SETTINGS: Final = (
    "SELECT set_config(name, value, true) FROM (VALUES ('statement_timeout', '0'), ('lock_timeout', '0'), "
    "('idle_in_transaction_session_timeout', '0'), ('enable_sort', 'off'), ('enable_hashjoin', 'off')) "
    "AS settings (name, value)"
)
_GUARD: Final = "SELECT version FROM schema_version FOR UPDATE NOWAIT"
_COUNT_SERVERS: Final = (
    "SELECT count(*) FROM replicas WHERE alive_until_ms > extract(epoch FROM clock_timestamp()) * 1000"
)


class PostgresCopySource(CopySource):
    """See CopySource."""

    def __init__(self, place: Place, link: Connection) -> None:
        self.place = str(place)
        self._link = link

    def count_rows(self) -> int:
        with self._transaction():
            counts = " + ".join(f"(SELECT count(*) FROM {table})" for table in TABLES)
            return int(self._one(f"SELECT {counts}"))

    def read_rows(self, table: str, after: Key | None = None) -> Iterator[Row]:
        statement, types = select_rows(table, after)
        with (
            self._transaction(),
            self._link.cursor() as cursor,
            cursor.copy(f"COPY ({statement}) TO STDOUT".encode(), after) as found,
        ):
            found.set_types(types)
            yield from found.rows()

    def require_unserved(self) -> None:
        with self._transaction():
            servers = self._one(_COUNT_SERVERS)
        if servers:
            raise StoreOpenError(
                f"{self.place} is served by {servers} server{'s' * (servers > 1)}: stop them first (one that "
                "was killed counts for 8 seconds more)"
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with explaining(self.place), self._link.transaction():
            self._link.execute(_SETTINGS)
            yield

    def _one(self, statement: str) -> Any:
        return self._link.execute(statement.encode()).fetchall()[0][0]


class PostgresCopyTarget(PostgresCopySource, CopyTarget):
    """See CopyTarget."""

    def is_empty(self) -> bool:
        with self._transaction():
            filled = " OR ".join(f"EXISTS (SELECT 1 FROM {table})" for table in TABLES)
            return not self._one(f"SELECT {filled}")

    def read_note(self) -> str | None:
        with self._transaction():
            if not self._one(f"SELECT to_regclass('{COPY_TABLE}') IS NOT NULL"):
                return None
            # Waits for what a run that was killed has yet to commit.
            return str(self._one(f"SELECT note FROM {COPY_TABLE} FOR UPDATE"))

    def begin(self, note: str) -> None:
        with self._transaction():
            self._link.execute(
                f"CREATE TABLE {COPY_TABLE} (one boolean PRIMARY KEY, note text NOT NULL)".encode()
            )
            self._link.execute(f"INSERT INTO {COPY_TABLE} VALUES (true, %s)".encode(), [note])

    def write_rows(self, table: str, rows: Sequence[Row], before: str, after: str) -> None:
        columns = _WRITE[table]
        with self._transaction():
            noted = self._link.execute(
                f"UPDATE {COPY_TABLE} SET note = %s WHERE note = %s".encode(), [after, before]
            )
            if noted.rowcount != 1:
                raise CopyError(f"{self.place} is written by another process, too")
            with self._link.cursor() as cursor:
                statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
                with cursor.copy(statement.encode()) as copied:
                    for row in _stored(table, rows):
                        copied.write_row(row)

    def finish(self) -> None:
        with self._transaction():
            self._link.execute(f"DROP TABLE {COPY_TABLE}".encode())
            # Else the first queries would be planned for empty tables.
            self._link.execute(f"ANALYZE {', '.join(TABLES)}".encode())


def select_rows(table: str, after: Key | None) -> tuple[str, list[str]]:
    """The statement that reads a table in order, from behind a key on, and the types of its columns."""
    columns, source, key = _READ[table]
    behind = ""
    if after is not None:
        word = "AND" if " WHERE " in source else "WHERE"
        behind = f"{word} ({', '.join(key)}) > ({', '.join(['%s'] * len(key))})"
    source = source.format(behind) if "{}" in source else f"{source} {behind}"
    chosen = [f"{one}::integer" if rows.TYPES.get(one) == "boolean" else one for one in columns]
    statement = f"SELECT {', '.join(chosen)} {source} ORDER BY {', '.join(key)}"
    return statement, [_loaded_as(one) for one in columns]


def _loaded_as(column: str) -> str:
    """The type that a column is read as."""
    if column in ("sum(sessions)::bigint", _HEAD):
        return "int8"
    return _LOADED.get(rows.TYPES.get(column, ""), "text")


def _stored(table: str, copied: Sequence[Row]) -> Iterator[Row]:
    """The rows with the columns that only this back end has."""
    match table:
        case "sessions":
            for row in copied:
                yield *row, *rows.purge_times(bool(row[_EXPIRED]), row[_EXPIRES_AT], row[_RETENTION])
        case "session_counts":
            for row in copied:
                yield *row[:-1], SHARED_LANE, row[-1]
        case "log":
            for row in copied:
                yield *row, _size(row), _failed_sequence(row)
        case "deliveries":
            for row in copied:
                yield *row, None
        case _:
            yield from copied


def _size(row: Row) -> int:
    """How much text an entry holds."""
    if row[_MESSAGE_ID] is None:
        return 0
    try:
        return text_size(rows.entry_of(tuple(row)))
    except (ValueError, TypeError):
        # One that cannot be read back is taken along as it is.
        return sum(len(value) for value in row[_MESSAGE_ID + 1 :] if isinstance(value, str))


def _failed_sequence(row: Row) -> int | None:
    """The sequence of the message that a failure is about."""
    if row[_FAILURE] is None:
        return None
    try:
        found = orjson.loads(row[_FAILURE])["message_sequence"]
    except (ValueError, TypeError, KeyError):
        return None
    return found if isinstance(found, int) else None


@contextmanager
def explaining(place: str) -> Iterator[None]:
    """Raises StoreOpenError where the database cannot be used, and CopyError where it does not take a row."""
    try:
        yield
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        # Not all of the text: it repeats what is in the row.
        raise CopyError(f"{place} does not take a row: {error.diag.message_primary or error}") from error
    except psycopg.Error as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise StoreOpenError(f"{place} cannot be used: {why}") from error


@contextmanager
def open_source(place: Place) -> Iterator[PostgresCopySource]:
    """A database to be copied, which no server can begin to serve meanwhile. Raises StoreOpenError."""
    with _open(place) as link:
        with explaining(str(place)):
            version = require_known(place, link)
        if version < schema_version():
            raise StoreOpenError(
                f"{place} is of schema {version}: `eliza-sessions migrate` brings it to {schema_version()} "
                "first"
            )
        with _guarded(place):
            source = PostgresCopySource(place, link)
            source.require_unserved()
            yield source


@contextmanager
def open_target(place: Place) -> Iterator[PostgresCopyTarget]:
    """A database to be filled, or one with a copy that was begun. Raises StoreOpenError, saying why."""
    with _open(place) as link:
        with explaining(str(place)):
            if has_store(link) and require_known(place, link, is_copying=True) < schema_version():
                raise StoreOpenError(f"{place} holds a store of an older schema: name an empty place")
        prepare(place, is_copying=True)
        with _guarded(place):
            target = PostgresCopyTarget(place, link)
            target.require_unserved()
            yield target


@contextmanager
def _open(place: Place) -> Iterator[Connection]:
    with explaining(str(place)):
        link = place.connect_now("copy-store")
    # Few statements are repeated, and a pooler may be on the way.
    link.prepare_threshold = None
    with closing(link):
        yield link


@contextmanager
def _guarded(place: Place) -> Iterator[None]:
    """Keeps others from copying the store, and servers from starting on it: they wait for the same lock."""
    with ExitStack() as held, _open(place) as link:
        with explaining(str(place)):
            held.enter_context(link.transaction())
            link.execute(_SETTINGS)
            try:
                link.execute(_GUARD)
            except psycopg.errors.LockNotAvailable as error:
                raise StoreOpenError(f"{place} is being migrated or copied by another process") from error
        yield
