"""The search for sessions in the SQLite file.

Indexes have the sessions of each tenant in order, live and expired ones apart. What is wanted is read from
several of them at a time, the newest first.
"""

import sqlite3
from operator import itemgetter
from typing import Final

from server.domain.access import Scope
from server.domain.sessions import Session
from server.store import rows
from server.store.counts import EXPIRED, LIVE
from server.store.inspection import MAX_LOOKED_AT
from server.store.pages import fill_search, narrow, search_start
from server.store.sqlite.lists import READABLE, SqliteLists, count
from server.store.sqlite.ranges import Range, in_order
from server.store.values import Position, SearchPage, SessionFilter

_GET: Final = f"SELECT {', '.join(rows.SESSION)}, {READABLE} FROM sessions WHERE id = ?"
# As many rows wherever it begins: how long it takes tells nothing of the sessions of others.
_FROM_ID: Final = (
    "SELECT created_at_ms, id, tenant, user_id, agent_id FROM sessions WHERE id >= ? ORDER BY id LIMIT "
    f"{MAX_LOOKED_AT + 1}"
)
_PLACE: Final = itemgetter(0, 1)
_INDEXES: Final = {
    (LIVE, ()): ("sessions_live", "NOT expired"),
    (LIVE, ("agent_id",)): ("sessions_of_agent", "NOT expired"),
    (LIVE, ("user_id",)): ("sessions_of_user", "expired = 0"),
    (LIVE, ("agent_id", "user_id")): ("sessions_of_agent_and_user", "NOT expired"),
    (EXPIRED, ()): ("sessions_ended", "expired"),
    (EXPIRED, ("agent_id",)): ("sessions_ended_of_agent", "expired"),
    (EXPIRED, ("user_id",)): ("sessions_of_user", "expired = 1"),
    # Of a user with several agents some are passed over.
    (EXPIRED, ("agent_id", "user_id")): ("sessions_of_user", "expired = 1"),
}
"""The index that has a tenant's sessions of a state in order, by what they are filtered by, and how it says
which state that is.
"""


class SqliteSearch(SqliteLists):
    """The search of Inspection."""

    async def search_sessions(
        self,
        now_ms: int,
        wanted: SessionFilter,
        *,
        scope: Scope,
        limit: int,
        before: Position | None = None,
    ) -> SearchPage:
        narrowed = narrow(scope, wanted.agent_id, wanted.user_id)
        if narrowed is None:
            return SearchPage([], None)
        start = search_start(wanted, before)

        def read(connection: sqlite3.Connection) -> SearchPage:
            def get(session_id: str) -> Session | None:
                return self._get_readable(connection, session_id)

            few = _find_few(connection, wanted.id_prefix, narrowed) if wanted.id_prefix else None
            if few is not None:
                behind = (key for key in few if key < (start.created_at_ms, start.id))
                return fill_search(behind, get, wanted, narrowed, now_ms, limit)
            ranges = _ranges(connection, wanted, narrowed, start)
            with in_order(connection, ranges, _PLACE, newest_first=True) as found:
                return fill_search(found, get, wanted, narrowed, now_ms, limit)

        return await self._read_long(read)

    def _get_readable(self, connection: sqlite3.Connection, session_id: str) -> Session | None:
        """A session; None for one that cannot be read back."""
        found = connection.execute(_GET, (session_id,)).fetchone()
        if found is not None and found[-1]:
            return rows.session_of(found[:-1])
        if found is not None:
            self._note_unreadable(session_id)
        return None


def _find_few(connection: sqlite3.Connection, prefix: str, scope: Scope) -> list[tuple[int, str]] | None:
    """The sessions of a scope whose ids begin so, the newest first; None where very many ids do."""
    found = connection.execute(_FROM_ID, (prefix,)).fetchall()
    if len(found) > MAX_LOOKED_AT and found[-1][1].startswith(prefix):
        return None
    keys = [
        (created_at_ms, session_id)
        for created_at_ms, session_id, tenant, user_id, agent_id in found
        if session_id.startswith(prefix) and scope.includes(session_id, tenant, user_id, agent_id)
    ]
    return sorted(keys, reverse=True)


def _ranges(
    connection: sqlite3.Connection, wanted: SessionFilter, scope: Scope, start: Position
) -> list[Range]:
    """The times and ids of the sessions of a scope that are in a wanted state, as far as that is written."""
    filters = {"agent_id": scope.agent_id, "user_id": scope.user_id}
    named = {column: value for column, value in filters.items() if value is not None}
    states = {None: (LIVE, EXPIRED), True: (EXPIRED,), False: (LIVE,)}[wanted.is_expired]
    found: list[Range] = []
    for state in states:
        index, condition = _INDEXES[state, tuple(named)]
        used = [column for column in named if index != "sessions_of_user" or column == "user_id"]
        statement = (
            f"SELECT created_at_ms, id FROM sessions INDEXED BY {index} WHERE "
            f"{' AND '.join([condition, *(f'{column} = :{column}' for column in used)])} "
            "AND tenant = :tenant AND (created_at_ms, id) < (:created_at_ms, :id) "
            "ORDER BY created_at_ms DESC, id DESC"
        )
        values = {"created_at_ms": start.created_at_ms, "id": start.id, **named}
        found += [(statement, values | {"tenant": tenant}) for tenant in count(connection, state, scope)]
    return found
