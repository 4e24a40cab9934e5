"""Reads of one session and its log in PostgreSQL.

A page is filled by the sizes of its entries: what does not fit is not read.
"""

from typing import Final

from server.domain.access import Scope
from server.domain.deliveries import DeliveryState
from server.domain.errors import SessionNotFoundError
from server.domain.log import Entry
from server.domain.sessions import Session
from server.store.contract import PAGE_BYTES, Sessions
from server.store.pages import ALWAYS_MS, fill_history, fill_messages, text_size, travels_forward
from server.store.postgres import rows
from server.store.postgres.reading import Reading
from server.store.postgres.scopes import in_scope, named
from server.store.values import MessagePage

_ENTRY: Final = ", ".join(rows.ENTRY)
_IS_THERE: Final = "EXISTS (SELECT 1 FROM sessions WHERE sessions.id = %(id)s::uuid{})"
_GET_SESSION: Final = f"SELECT {', '.join(rows.SESSION)} FROM sessions WHERE id = ANY(%s::uuid[])"
_FIND_CHANNEL: Final = in_scope("SELECT id FROM sessions WHERE channel_id = %(channel_id)s::uuid{}")


def filled(select: str, order: str, least: int = 1) -> str:
    """Of the rows of a statement that has `size`, as many as fit `most_bytes` and one more, at least `least`.

    Only the sizes of the others are looked at, however large they are.
    """
    return (
        f"SELECT {_ENTRY} FROM (SELECT *, row_number() OVER way AS place, sum(size + %(each)s) OVER way "
        f"- size - %(each)s AS before FROM ({select} ORDER BY {order} LIMIT %(rows)s) AS found "
        f"WINDOW way AS (ORDER BY {order} ROWS UNBOUNDED PRECEDING)) AS filled "
        f"WHERE before <= %(most_bytes)s OR place <= {least} ORDER BY {order}"
    )


_LIST_MESSAGES: Final = {
    forward: filled(
        "SELECT * FROM log WHERE session_id = %(id)s::uuid AND message_id IS NOT NULL "
        f"AND at_ms > %(low)s AND at_ms < %(high)s AND {_IS_THERE.format('')}",
        "at_ms" if forward else "at_ms DESC",
        # Behind a message that fills a page alone there may be another.
        least=2,
    )
    for forward in (False, True)
}
_LIST_ENTRIES: Final = in_scope(
    filled(
        f"SELECT * FROM log WHERE session_id = %(id)s::uuid AND sequence > %(after)s AND {_IS_THERE}",
        "sequence",
    ),
    "sessions",
)
_LIST_HISTORY: Final = filled(
    "SELECT * FROM log WHERE session_id = %(id)s::uuid AND message_id IS NOT NULL "
    f"AND coalesce(answers, sequence) < %(before)s AND {_IS_THERE.format('')}",
    "coalesce(answers, sequence) DESC, sequence DESC",
)
# A user's message has a delivery, and a reply what it answers: two indexes say it all.
_COUNT_HISTORY: Final = (
    "SELECT (SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE session_id = %(id)s::uuid "
    "AND sequence < %(before)s LIMIT %(rows)s) AS sent) + (SELECT count(*) FROM (SELECT 1 FROM log "
    "WHERE session_id = %(id)s::uuid AND answers < %(before)s LIMIT %(rows)s) AS answered)"
)
_FIND_ANSWER: Final = in_scope(
    f"(SELECT {_ENTRY} FROM log WHERE session_id = %(id)s::uuid AND answers = %(sequence)s AND {_IS_THERE}) "
    f"UNION ALL (SELECT {_ENTRY} FROM log WHERE session_id = %(id)s::uuid AND failed_sequence = %(sequence)s "
    "AND EXISTS (SELECT 1 FROM deliveries WHERE session_id = %(id)s::uuid AND sequence = %(sequence)s "
    f"AND state = '{DeliveryState.FAILED}') AND {_IS_THERE} ORDER BY sequence DESC LIMIT 1) LIMIT 1",
    "sessions",
)
STATEMENTS: Final = {
    "get_session": _GET_SESSION,
    "find_channel": _FIND_CHANNEL[True],
    "list_messages_back": _LIST_MESSAGES[False],
    "list_messages_forward": _LIST_MESSAGES[True],
    "list_entries": _LIST_ENTRIES[True],
    "list_history": _LIST_HISTORY,
    "count_history": _COUNT_HISTORY,
    "find_answer": _FIND_ANSWER[True],
}
"""All of them by name, for the tests of their plans."""


class PostgresMessages(Reading, Sessions):
    """See Sessions."""

    async def get_session(self, session_id: str, *, scope: Scope) -> Session:
        # Another's is read like nobody's, by the same index.
        known = session_id if rows.is_uuid(session_id) else rows.NO_ID
        found = await self._read_one(_GET_SESSION, known)
        session = rows.session_of(found[0]) if found else None
        if session is None or session.id != session_id or not scope.has(session):
            raise SessionNotFoundError(session_id)
        return session

    async def find_channel(self, channel_id: str, *, scope: Scope) -> str:
        known = channel_id if rows.is_uuid(channel_id) else rows.NO_ID
        found = await self._read(_FIND_CHANNEL[scope != Scope()], named(scope, channel_id=known))
        if not found or known != channel_id:
            raise SessionNotFoundError(channel_id)
        return str(found[0][0])

    async def list_messages(
        self, session: Session, *, limit: int, before_ms: int | None = None, after_ms: int | None = None
    ) -> MessagePage:
        forward = travels_forward(before_ms, after_ms)
        values = {
            "id": session.id,
            "low": -ALWAYS_MS if after_ms is None else after_ms,
            "high": ALWAYS_MS if before_ms is None else before_ms,
            "rows": limit + 1,
            "each": len(session.metadata),
            "most_bytes": PAGE_BYTES,
        }
        found = await self._read(_LIST_MESSAGES[forward], values)
        return fill_messages(map(rows.entry_of, found), session, limit, forward=forward)

    async def list_entries(
        self,
        session_id: str,
        *,
        scope: Scope,
        after_sequence: int,
        limit: int,
        most_bytes: int | None = None,
    ) -> list[Entry]:
        left_bytes = most_bytes or PAGE_BYTES
        values = named(scope, id=session_id, after=after_sequence, rows=limit, each=0, most_bytes=left_bytes)
        page: list[Entry] = []
        for entry in map(rows.entry_of, await self._read(_LIST_ENTRIES[scope != Scope()], values)):
            left_bytes -= text_size(entry)
            if page and left_bytes < 0:
                break
            page.append(entry)
        return page

    async def list_history(self, session: Session, *, before_sequence: int, limit: int) -> list[Entry]:
        values = {
            "id": session.id,
            "before": before_sequence,
            "rows": limit,
            "each": 0,
            "most_bytes": PAGE_BYTES,
        }
        return fill_history(map(rows.entry_of, await self._read(_LIST_HISTORY, values)), limit)

    async def count_history(self, session: Session, *, before_sequence: int, limit: int) -> int:
        values = {"id": session.id, "before": before_sequence, "rows": limit}
        ((count,),) = await self._read(_COUNT_HISTORY, values)
        return min(limit, int(count))

    async def find_answer(self, session_id: str, sequence: int, *, scope: Scope) -> Entry | None:
        values = named(scope, id=session_id, sequence=sequence)
        found = await self._read(_FIND_ANSWER[scope != Scope()], values)
        return rows.entry_of(found[0]) if found else None
