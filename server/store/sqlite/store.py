"""The Store on a SQLite file of this process alone: one writer thread, short reads where they are, long reads
on a thread of their own.
"""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final, cast

import orjson

from server.clock import Clock
from server.domain.errors import SessionNotFoundError
from server.domain.idempotency import RequestKey
from server.domain.log import Entry
from server.domain.sessions import Creation, Outcome, Rule, Session
from server.store.batch import Apply, Claimed, Create, Delete
from server.store.contract import MAX_WRITES, PAGE_BYTES, CommitListener, Store
from server.store.counts import EXPIRED, LIVE, WARNED
from server.store.pages import (
    ALWAYS_MS,
    FIRST,
    fill_active,
    fill_history,
    fill_messages,
    text_size,
    travels_forward,
)
from server.store.sqlite import rows
from server.store.sqlite.agents import SqliteAgents
from server.store.sqlite.deliveries import SqliteDeliveries
from server.store.sqlite.due import apply_due
from server.store.sqlite.file import FileLock, prepare, real_path, schema_version
from server.store.sqlite.removal import IS_THERE, Pieces, clear, take_expired
from server.store.sqlite.writer import SqliteWriter
from server.store.values import Counts, Description, MessagePage, Position, SessionPage, StoreOpenError

_SESSION: Final = ", ".join(rows.SESSION)
_ENTRY: Final = ", ".join(rows.ENTRY)
_READABLE: Final = "iif(json_valid(metadata), json_type(metadata) = 'object', false)"
"""Whether a session can be read back.

In a damaged file some cannot: reads count them, and no list shows them.
"""
_MAX_UNREADABLE: Final = 1000
"""How many sessions that cannot be read back are remembered, and counted."""
_LISTS: Final = {
    (): "sessions_live",
    ("agent_id",): "sessions_of_agent",
    ("user_id",): "sessions_of_user",
    ("agent_id", "user_id"): "sessions_of_agent_and_user",
}
"""The index that has the sessions in order, by what they are filtered by."""


class SqliteStore(SqliteAgents, SqliteDeliveries, Store):
    """See Store. Made by `open`."""

    def __init__(self, path: Path, lock: FileLock, clock: Clock, max_writes: int) -> None:
        super().__init__(path)
        self._lock = lock
        self._purged, self._forgotten = Pieces(), Pieces()
        # Last, because it starts a thread.
        self._writer = SqliteWriter(path, lock, clock, max_writes)
        # The ids of sessions that were met and cannot be read back.
        self._unreadable_sessions: set[str] = set()

    @classmethod
    async def open(cls, path: Path, clock: Clock, max_writes: int = MAX_WRITES) -> "SqliteStore":
        """Opens the file, making or migrating it first; `max_writes` may wait for the disk.

        Raises StoreOpenError, saying why.
        """
        path = real_path(path)
        lock = await asyncio.to_thread(prepare, path)
        try:
            return cls(path, lock, clock, max_writes)
        except sqlite3.Error as error:
            lock.release()
            raise StoreOpenError(f"{path} cannot be used: {error}") from error

    def add_listener(self, listener: CommitListener) -> None:
        self._writer.listeners.append(listener)

    async def create_session(
        self, agent_id: str, rule: Creation, request: RequestKey | None = None
    ) -> Outcome:
        return await self._writer.apply(Create(agent_id, rule, request))

    async def apply(self, session_id: str, rule: Rule, request: RequestKey | None = None) -> Outcome:
        return await self._writer.apply(Apply(session_id, rule, request))

    async def delete_session(self, session_id: str, etag: str = "") -> None:
        await self._writer.delete(Delete(session_id, etag))

    async def get_session(self, session_id: str) -> Session:
        recent = self._writer.recent.get(session_id)
        if recent is not None and not self._closed:
            return recent
        found = self._read(lambda connection: connection.execute(_GET_SESSION, (session_id,)).fetchall())
        if not found:
            raise SessionNotFoundError(session_id)
        *row, is_readable = found[0]
        if not is_readable:
            self._note_unreadable(session_id)
        return rows.session_of(row)

    async def find_channel(self, channel_id: str) -> str:
        statement = "SELECT id FROM sessions WHERE channel_id = ?"
        found = self._read(lambda connection: connection.execute(statement, (channel_id,)).fetchone())
        if found is None:
            raise SessionNotFoundError(channel_id)
        return cast(str, found[0])

    async def list_sessions(
        self,
        now_ms: int,
        *,
        limit: int,
        after: Position | None = None,
        agent_id: str | None = None,
        user_id: str | None = None,
    ) -> SessionPage:
        filters = {"agent_id": agent_id, "user_id": user_id}
        named = {column: value for column, value in filters.items() if value is not None}
        statement = (
            f"SELECT {_SESSION}, {_READABLE} FROM sessions INDEXED BY {_LISTS[tuple(named)]} WHERE "
            f"{' AND '.join(['NOT expired', *(f'{column} = :{column}' for column in named)])} "
            "AND (created_at_ms, id) > (:created_at_ms, :id) ORDER BY created_at_ms, id"
        )
        start = after or FIRST
        values = {"created_at_ms": start.created_at_ms, "id": start.id, **named}

        def read(connection: sqlite3.Connection) -> SessionPage:
            total = _count(connection, LIVE, agent_id or "", user_id or "")
            with closing(connection.execute(statement, values)) as found:
                sessions = ((rows.session_of(row[:-1]), row[-1]) for row in found)
                return SessionPage(*fill_active(sessions, now_ms, limit, self._note_unreadable), total)

        return await self._read_long(read)

    def _note_unreadable(self, session_id: str) -> None:
        if len(self._unreadable_sessions) < _MAX_UNREADABLE:
            self._unreadable_sessions.add(session_id)

    async def list_messages(
        self, session: Session, *, limit: int, before_ms: int | None = None, after_ms: int | None = None
    ) -> MessagePage:
        forward = travels_forward(before_ms, after_ms)
        statement = (
            f"SELECT {_ENTRY} FROM log WHERE session_id = ?1 AND message_id IS NOT NULL AND at_ms > ?2 AND "
            "at_ms < ?3 "
            f"AND {IS_THERE.format('?1')} ORDER BY at_ms {'ASC' if forward else 'DESC'} LIMIT ?4"
        )
        low_ms, high_ms = (
            -ALWAYS_MS if after_ms is None else after_ms,
            ALWAYS_MS if before_ms is None else before_ms,
        )

        def read(connection: sqlite3.Connection) -> MessagePage:
            with closing(connection.execute(statement, (session.id, low_ms, high_ms, limit + 1))) as found:
                return fill_messages(map(rows.entry_of, found), session, limit, forward=forward)

        return self._read(read)

    async def list_entries(
        self, session_id: str, *, after_sequence: int, limit: int, most_bytes: int | None = None
    ) -> list[Entry]:
        statement = (
            f"SELECT {_ENTRY} FROM log WHERE session_id = ?1 AND sequence > ?2 AND "
            f"{IS_THERE.format('?1')} ORDER BY sequence LIMIT ?3"
        )

        def read(connection: sqlite3.Connection) -> list[Entry]:
            page: list[Entry] = []
            left_bytes = most_bytes or PAGE_BYTES
            with closing(connection.execute(statement, (session_id, after_sequence, limit))) as found:
                for entry in map(rows.entry_of, found):
                    left_bytes -= text_size(entry)
                    if page and left_bytes < 0:
                        break
                    page.append(entry)
                    if left_bytes <= 0:
                        # Nothing fits any more: the next one, which may be large, is not read.
                        break
            return page

        return self._read(read)

    async def list_history(self, session: Session, *, before_sequence: int, limit: int) -> list[Entry]:
        statement = (
            f"SELECT {_ENTRY} FROM log INDEXED BY log_by_place WHERE session_id = ?1 AND message_id IS NOT "
            "NULL AND place < ?2 "
            f"AND {IS_THERE.format('?1')} ORDER BY place DESC, sequence DESC LIMIT ?3"
        )

        def read(connection: sqlite3.Connection) -> list[Entry]:
            with closing(connection.execute(statement, (session.id, before_sequence, limit))) as found:
                return fill_history(map(rows.entry_of, found), limit)

        return self._read(read)

    async def count_history(self, session: Session, *, before_sequence: int, limit: int) -> int:
        # A user's message has a delivery, and a reply what it answers: two indexes say it all, and no text is
        # passed over.
        statements = (
            "SELECT 1 FROM deliveries WHERE session_id = ? AND sequence < ? LIMIT ?",
            "SELECT 1 FROM log WHERE session_id = ? AND answers < ? LIMIT ?",
        )
        named = (session.id, before_sequence, limit)

        def read(connection: sqlite3.Connection) -> int:
            return min(
                limit, sum(len(connection.execute(statement, named).fetchall()) for statement in statements)
            )

        return self._read(read)

    async def describe(self) -> Description:
        def read(connection: sqlite3.Connection) -> Description:
            return Description(
                str(self._path), schema_version(), _count(connection, LIVE) + _count(connection, EXPIRED)
            )

        return self._read(read)

    async def counts(self) -> Counts:
        def read(connection: sqlite3.Connection) -> Counts:
            active, expired, warned = (_count(connection, state) for state in (LIVE, EXPIRED, WARNED))
            return Counts(active, expired, warned, self._count_unreadable(connection))

        return self._read(read)

    def _count_unreadable(self, connection: sqlite3.Connection) -> int:
        """How many sessions that were met are still there, and still cannot be read back."""
        if not self._unreadable_sessions:
            return 0
        # A copy, because the thread of long reads may add to them meanwhile.
        met = list(self._unreadable_sessions)
        statement = (
            f"SELECT id FROM sessions WHERE id IN (SELECT value FROM json_each(?)) AND NOT {_READABLE}"
        )
        left = {row[0] for row in connection.execute(statement, (orjson.dumps(met).decode(),))}
        self._unreadable_sessions.difference_update(set(met) - left)
        return len(left)

    async def apply_due(self, rule: Rule, due_ms: int, limit: int) -> int:
        def work(connection: sqlite3.Connection, now_ms: int) -> Claimed:
            return apply_due(connection, rule, due_ms, limit, now_ms)

        return (await self._writer.run(work)).count

    async def next_due_ms(self) -> int | None:
        statement = "SELECT min(due_at_ms) FROM sessions WHERE due_at_ms IS NOT NULL"
        return self._read(lambda connection: cast(int | None, connection.execute(statement).fetchone()[0]))

    async def purge(self, expired_by_ms: int, limit: int) -> int:
        def work(connection: sqlite3.Connection, now_ms: int) -> int:
            return self._purged.take(limit, lambda rows: take_expired(connection, expired_by_ms, rows))

        return await self._writer.run(work)

    async def forget_requests(self, made_by_ms: int, limit: int) -> int:
        statement = (
            "DELETE FROM requests WHERE (scope, id) IN (SELECT scope, id FROM requests WHERE "
            "created_at_ms <= ? LIMIT ?)"
        )

        def work(connection: sqlite3.Connection, now_ms: int) -> int:
            return self._forgotten.take(
                limit, lambda rows: connection.execute(statement, (made_by_ms, rows)).rowcount
            )

        return await self._writer.run(work)

    async def clear_sessions(self) -> None:
        def work(connection: sqlite3.Connection, now_ms: int) -> None:
            clear(connection)

        await self._writer.run(work)

    async def check_writable(self) -> None:
        def work(connection: sqlite3.Connection, now_ms: int) -> None:
            # The same value again: SQLite writes the page all the same, and that is what is wanted.
            connection.execute(
                f"PRAGMA user_version = {connection.execute('PRAGMA user_version').fetchone()[0]}"
            )

        if self._unreadable:
            await self._read_long(self._check_readable)
            self._unreadable = False
        await self._writer.run(work)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._writer.close()
        await asyncio.to_thread(self._long_reader.close)
        self._read_connection.close()
        self._lock.release()


_GET_SESSION: Final = f"SELECT {_SESSION}, {_READABLE} FROM sessions WHERE id = ?"


_COUNT: Final = "SELECT sessions FROM session_counts WHERE state = ? AND agent_id = ? AND user_id = ?"


def _count(connection: sqlite3.Connection, state: str, agent_id: str = "", user_id: str = "") -> int:
    """How many sessions are in a state; of any agent and any user where they are empty."""
    found = connection.execute(_COUNT, (state, agent_id, user_id)).fetchone()
    return cast(int, found[0]) if found else 0
