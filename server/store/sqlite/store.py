"""The Store on a SQLite file of this process alone: one writer thread, short reads where they are, long reads
on a thread of their own.
"""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final, cast

from server.clock import Clock
from server.domain.access import Scope
from server.domain.errors import SessionNotFoundError
from server.domain.idempotency import RequestKey
from server.domain.log import Entry
from server.domain.quotas import UserQuota
from server.domain.sessions import Creation, Outcome, Rule, Session
from server.store import rows
from server.store.batch import Claimed
from server.store.contract import MAX_WRITES, PAGE_BYTES, CommitListener, Store
from server.store.operations import Apply, Create, Delete
from server.store.pages import (
    ALWAYS_MS,
    fill_history,
    fill_messages,
    text_size,
    travels_forward,
)
from server.store.sqlite.agents import SqliteAgents
from server.store.sqlite.deliveries import SqliteDeliveries
from server.store.sqlite.due import apply_due
from server.store.sqlite.file import FileLock, prepare, real_path
from server.store.sqlite.inspection import SqliteInspection
from server.store.sqlite.lists import READABLE
from server.store.sqlite.maintenance import SqliteMaintenance
from server.store.sqlite.removal import IS_THERE
from server.store.sqlite.scopes import in_scope, is_narrow, named, one_in_scope
from server.store.sqlite.writer import SqliteWriter
from server.store.values import MessagePage, StoreOpenError
from server.telemetry.telemetry import OFF, Telemetry
from server.telemetry.traces import NO_TRACES, Traces

_SESSION: Final = ", ".join(rows.SESSION)
_ENTRY: Final = ", ".join(rows.ENTRY)
_GET_SESSION: Final = f"SELECT {_SESSION}, {READABLE} FROM sessions WHERE id = ?"
_GET_NEXT: Final = f"SELECT {_SESSION}, {READABLE} FROM sessions WHERE id > ? ORDER BY id LIMIT 1"
_FIND_CHANNEL: Final = one_in_scope("SELECT id FROM sessions", "channel_id")
_LIST_ENTRIES: Final = in_scope(
    f"SELECT {_ENTRY} FROM log WHERE session_id = :id AND sequence > :after AND EXISTS (SELECT 1 FROM "
    "sessions WHERE sessions.id = :id{}) ORDER BY sequence LIMIT :limit",
    "sessions",
)


class SqliteStore(SqliteInspection, SqliteAgents, SqliteDeliveries, SqliteMaintenance, Store):
    """See Store. Made by `open`."""

    def __init__(
        self,
        path: Path,
        lock: FileLock,
        clock: Clock,
        max_writes: int,
        telemetry: Telemetry = OFF,
        traces: Traces = NO_TRACES,
    ) -> None:
        super().__init__(path)
        self._lock = lock
        # Last, because it starts a thread.
        self._writer = SqliteWriter(path, lock, clock, max_writes, telemetry, traces)

    @classmethod
    async def open(
        cls,
        path: Path,
        clock: Clock,
        max_writes: int = MAX_WRITES,
        telemetry: Telemetry = OFF,
        traces: Traces = NO_TRACES,
    ) -> "SqliteStore":
        """Opens the file, making or migrating it first; `max_writes` may wait for the disk.

        Raises StoreOpenError, saying why.
        """
        path = real_path(path)
        lock = await asyncio.to_thread(prepare, path)
        try:
            return cls(path, lock, clock, max_writes, telemetry, traces)
        except sqlite3.Error as error:
            lock.release()
            raise StoreOpenError(f"{path} cannot be used: {error}") from error

    def add_listener(self, listener: CommitListener) -> None:
        self._writer.listeners.append(listener)

    async def create_session(
        self,
        agent_id: str,
        rule: Creation,
        request: RequestKey | None = None,
        *,
        scope: Scope,
        of: UserQuota | None = None,
    ) -> Outcome:
        return await self._writer.apply(Create(agent_id, rule, scope, request, of))

    async def apply(
        self, session_id: str, rule: Rule, request: RequestKey | None = None, *, scope: Scope
    ) -> Outcome:
        return await self._writer.apply(Apply(session_id, rule, scope, request))

    async def delete_session(self, session_id: str, etag: str = "", *, scope: Scope) -> None:
        await self._writer.delete(Delete(session_id, etag, scope))

    async def get_session(self, session_id: str, *, scope: Scope) -> Session:
        recent = self._writer.recent.get(session_id)
        # Another's is asked of the file like nobody's, which takes as long.
        if recent is not None and scope.has(recent) and not self._closed:
            return recent
        found = self._read(lambda connection: connection.execute(_GET_SESSION, (session_id,)).fetchall())
        # Where there is none the next one is read instead: to look at another's takes no longer.
        looked_at = found or self._read(
            lambda connection: connection.execute(_GET_NEXT, (session_id,)).fetchall()
        )
        for *row, is_readable in looked_at:
            session = rows.session_of(row)
            if session.id != session_id or not scope.has(session):
                break
            if not is_readable:
                self._note_unreadable(session_id)
            return session
        raise SessionNotFoundError(session_id)

    async def find_channel(self, channel_id: str, *, scope: Scope) -> str:
        statement, values = _FIND_CHANNEL[is_narrow(scope)], named(scope, channel_id=channel_id)
        found = self._read(lambda connection: connection.execute(statement, values).fetchone())
        if found is None:
            raise SessionNotFoundError(channel_id)
        return cast(str, found[0])

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
        self,
        session_id: str,
        *,
        scope: Scope,
        after_sequence: int,
        limit: int,
        most_bytes: int | None = None,
    ) -> list[Entry]:
        statement = _LIST_ENTRIES[is_narrow(scope)]
        values = named(scope, id=session_id, after=after_sequence, limit=limit)

        def read(connection: sqlite3.Connection) -> list[Entry]:
            page: list[Entry] = []
            left_bytes = most_bytes or PAGE_BYTES
            with closing(connection.execute(statement, values)) as found:
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

    async def apply_due(self, rule: Rule, due_ms: int, limit: int) -> int:
        def work(connection: sqlite3.Connection, now_ms: int) -> Claimed:
            return apply_due(connection, rule, due_ms, limit, now_ms)

        def changed(claimed: Claimed) -> list[str]:
            return [outcome.session.id for outcome in claimed.outcomes]

        return (await self._writer.run(work, changed=changed)).count

    async def next_due_ms(self) -> int | None:
        statement = "SELECT min(due_at_ms) FROM sessions WHERE due_at_ms IS NOT NULL"
        return self._read(lambda connection: cast(int | None, connection.execute(statement).fetchone()[0]))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._writer.close()
        await asyncio.to_thread(self._long_reader.close)
        self._read_connection.close()
        self._lock.release()
