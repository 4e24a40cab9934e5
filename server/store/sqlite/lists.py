"""Lists of sessions in the SQLite file, and how many there are of what they list.

An index has the sessions of each tenant in order. Those of several tenants, which only the service itself and
an administrator see, are merged.
"""

import sqlite3
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Final

import orjson

from server.domain.access import EVERYTHING, Scope
from server.domain.sessions import Session
from server.store import rows
from server.store.contract import Sessions
from server.store.counts import EXPIRED, LIVE, WARNED
from server.store.pages import FIRST, LAST, fill_active, fill_page, narrow
from server.store.sqlite.ranges import in_order
from server.store.sqlite.reading import Reading
from server.store.values import Counts, Position, SessionPage

_SESSION: Final = ", ".join(rows.SESSION)
READABLE: Final = "iif(json_valid(metadata), json_type(metadata) = 'object', false)"
"""Whether a session can be read back.

In a damaged file some cannot: reads count them, and no list shows them.
"""
_MAX_UNREADABLE: Final = 1000
"""How many sessions that cannot be read back are remembered, and counted."""
_PLACE: Final = itemgetter(rows.SESSION.index("created_at_ms"), rows.SESSION.index("id"))
_LISTS: Final = {
    (): "sessions_live",
    ("agent_id",): "sessions_of_agent",
    ("user_id",): "sessions_of_user",
    ("agent_id", "user_id"): "sessions_of_agent_and_user",
}
"""The index that has a tenant's live sessions in order, by what they are filtered by."""
_IS_LIVE: Final = dict.fromkeys(_LISTS, "NOT expired") | {("user_id",): "expired = 0"}
"""How each says so: that of a user has the expired ones, too."""
_OF_USER: Final = (
    f"SELECT {_SESSION}, {READABLE} FROM sessions INDEXED BY sessions_of_user WHERE user_id = :user_id AND "
    "tenant = :tenant AND expired = :expired AND (created_at_ms, id) < (:created_at_ms, :id) "
    "ORDER BY created_at_ms DESC, id DESC"
)
_COUNT: Final = (
    "SELECT tenant, sessions FROM session_counts WHERE state = ? AND agent_id = ? AND user_id = ? AND "
    "tenant = ?"
)
_COUNT_ALL: Final = (
    "SELECT tenant, sessions FROM session_counts WHERE state = ? AND agent_id = ? AND user_id = ?"
)


class SqliteLists(Reading, Sessions):
    """See Sessions."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        # The ids of sessions that were met and cannot be read back.
        self._unreadable_sessions: set[str] = set()

    async def list_sessions(
        self,
        now_ms: int,
        *,
        scope: Scope,
        limit: int,
        after: Position | None = None,
        agent_id: str | None = None,
        user_id: str | None = None,
    ) -> SessionPage:
        narrowed = narrow(scope, agent_id, user_id)
        if narrowed is None:
            return SessionPage([], None, 0)
        filters = {"agent_id": narrowed.agent_id, "user_id": narrowed.user_id}
        named = {column: value for column, value in filters.items() if value is not None}
        statement = (
            f"SELECT {_SESSION}, {READABLE} FROM sessions INDEXED BY {_LISTS[tuple(named)]} WHERE "
            f"{' AND '.join([_IS_LIVE[tuple(named)], *(f'{column} = :{column}' for column in named)])} "
            "AND tenant = :tenant AND (created_at_ms, id) > (:created_at_ms, :id) ORDER BY created_at_ms, id"
        )
        start = after or FIRST
        values = {"created_at_ms": start.created_at_ms, "id": start.id, **named}

        def read(connection: sqlite3.Connection) -> SessionPage:
            tenants = count(connection, LIVE, narrowed)
            ranges = [(statement, values | {"tenant": tenant}) for tenant in tenants]
            with in_order(connection, ranges, _PLACE) as found:
                page, behind = fill_active(_each(found), now_ms, limit, self._note_unreadable)
            return SessionPage(page, behind, sum(tenants.values()))

        return await self._read_long(read)

    async def list_user_sessions(
        self, user_id: str, *, scope: Scope, limit: int, before: Position | None = None
    ) -> SessionPage:
        narrowed = narrow(scope, None, user_id)
        if narrowed is None:
            return SessionPage([], None, 0)
        start = before or LAST
        values = {"created_at_ms": start.created_at_ms, "id": start.id, "user_id": user_id}

        def read(connection: sqlite3.Connection) -> SessionPage:
            ranges, total = [], 0
            for state in (LIVE, EXPIRED):
                total += sum(count(connection, state, narrowed).values())
                ranges += [
                    (_OF_USER, values | {"tenant": tenant, "expired": int(state == EXPIRED)})
                    for tenant in count(connection, state, narrowed)
                ]
            with in_order(connection, ranges, _PLACE, newest_first=True) as found:
                read_back = (session for session, is_readable in _each(found) if is_readable)
                mine = (session for session in read_back if scope.has(session))
                page, has_more = fill_page(mine, limit, lambda session: len(session.metadata))
            last = Position(page[-1].created_at_ms, page[-1].id) if page and has_more else None
            return SessionPage(page, last, total)

        return await self._read_long(read)

    async def counts(self, *, scope: Scope) -> Counts:
        narrowed = narrow(scope, None, None)
        if narrowed is None:
            return Counts(0, 0, 0, 0)

        def read(connection: sqlite3.Connection) -> Counts:
            active, expired, warned = (
                sum(count(connection, state, narrowed).values()) for state in (LIVE, EXPIRED, WARNED)
            )
            invalid = self._count_unreadable(connection) if scope == EVERYTHING else 0
            return Counts(active, expired, warned, invalid)

        return self._read(read)

    def _note_unreadable(self, session_id: str) -> None:
        if len(self._unreadable_sessions) < _MAX_UNREADABLE:
            self._unreadable_sessions.add(session_id)

    def _count_unreadable(self, connection: sqlite3.Connection) -> int:
        """How many sessions that were met are still there, and still cannot be read back."""
        if not self._unreadable_sessions:
            return 0
        # A copy, because the thread of long reads may add to them meanwhile.
        met = list(self._unreadable_sessions)
        statement = f"SELECT id FROM sessions WHERE id IN (SELECT value FROM json_each(?)) AND NOT {READABLE}"
        left = {row[0] for row in connection.execute(statement, (orjson.dumps(met).decode(),))}
        self._unreadable_sessions.difference_update(set(met) - left)
        return len(left)


def count(connection: sqlite3.Connection, state: str, scope: Scope) -> dict[str, int]:
    """How many sessions of a scope are in a state, by tenant."""
    key = state, scope.agent_id or "", scope.user_id or ""
    if scope.tenant is None:
        return dict(connection.execute(_COUNT_ALL, key).fetchall())
    return dict(connection.execute(_COUNT, (*key, scope.tenant)).fetchall())


def _each(found: Iterator[rows.Row]) -> Iterator[tuple[Session, bool]]:
    """The sessions in rows, each with whether it can be read back."""
    return ((rows.session_of(row[:-1]), row[-1]) for row in found)
