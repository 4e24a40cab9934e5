"""The deliveries in the SQLite file as an operator looks at them: of a session, and of an agent."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Final

import structlog

from server.domain.access import Scope
from server.domain.deliveries import OPEN_STATES, DeliveryState
from server.domain.sessions import Session
from server.store import rows
from server.store.inspection import MAX_LOOKED_AT, MAX_QUEUED, Inspection
from server.store.pages import ALWAYS_MS
from server.store.sqlite.removal import IS_THERE
from server.store.sqlite.runs import read_runs
from server.store.sqlite.search import SqliteSearch
from server.store.values import AgentQueue, DeliveryPage, FoundDelivery, Place, Runs

_FAILED: Final = frozenset([DeliveryState.FAILED])
_OPEN: Final = frozenset(OPEN_STATES)
_FOUND: Final = f"{rows.of('deliveries', rows.DELIVERY)}, log.message_id, log.at_ms"
_OF_LOG: Final = (
    "CROSS JOIN log ON log.session_id = deliveries.session_id AND log.sequence = deliveries.sequence"
)
_OF_SESSION: Final = {
    states: (
        f"SELECT {_FOUND} FROM deliveries {index} {_OF_LOG} WHERE deliveries.session_id = ?1 "
        f"AND deliveries.sequence < ?2 {condition} AND {IS_THERE.format('?1')} "
        "ORDER BY deliveries.sequence DESC"
    )
    for states, index, condition in (
        (_FAILED, "INDEXED BY deliveries_failed", f"AND state = '{DeliveryState.FAILED}'"),
        (_OPEN, "INDEXED BY deliveries_open", f"AND state IN {rows.OPEN}"),
        (None, "", ""),
    )
}
"""By the states that an index has. From all others those in another state are passed over."""
_NEXT_OF_SESSION: Final = {
    is_failed: (
        f"SELECT {_FOUND} FROM deliveries INDEXED BY {index} {_OF_LOG} WHERE deliveries.session_id = ? "
        f"AND deliveries.sequence > ? AND {condition} ORDER BY deliveries.sequence"
    )
    for is_failed, index, condition in (
        (True, "deliveries_failed", f"state = '{DeliveryState.FAILED}'"),
        (False, "deliveries_open", f"state IN {rows.OPEN}"),
    )
}
_SESSION: Final = "id, tenant, user_id, expires_at_ms"
# A place has the session's id, because PostgreSQL goes by that, and a copy may go on there.
_WAITING: Final = (
    f"SELECT head_due_ms, head_sequence, id, {_SESSION} FROM sessions INDEXED BY sessions_by_head WHERE "
    "agent_id = ? AND head_due_ms IS NOT NULL AND (head_due_ms, head_sequence, rowid) >= "
    "(?, ?, coalesce((SELECT rowid FROM sessions WHERE id = ?), 0)) "
    "ORDER BY head_due_ms, head_sequence, rowid"
)
_WITH_FAILED: Final = {
    is_of_tenant: (
        f"SELECT tenant, created_at_ms, id, {_SESSION} FROM sessions INDEXED BY sessions_failed WHERE "
        f"failed_deliveries > 0 AND agent_id = :agent_id AND {condition} "
        "ORDER BY tenant DESC, created_at_ms DESC, id DESC"
    )
    for is_of_tenant, condition in (
        (True, "tenant = :tenant AND (created_at_ms, id) <= (:created_at_ms, :id)"),
        (False, "(tenant, created_at_ms, id) <= (:tenant, :created_at_ms, :id)"),
    )
}
_QUEUE: Final = (
    f"SELECT {rows.of('sessions', ('id', 'tenant', 'user_id', 'open_deliveries'))}, log.at_ms "
    "FROM sessions INDEXED BY sessions_by_head "
    "CROSS JOIN log ON log.session_id = sessions.id AND log.sequence = head_sequence "
    f"WHERE agent_id = ? AND head_due_ms IS NOT NULL ORDER BY head_due_ms LIMIT {MAX_QUEUED}"
)
_COUNT_FAILED: Final = {
    is_of_tenant: (
        "SELECT id, tenant, user_id, failed_deliveries FROM sessions INDEXED BY sessions_failed WHERE "
        f"failed_deliveries > 0 AND agent_id = :agent_id {condition} LIMIT {MAX_QUEUED}"
    )
    for is_of_tenant, condition in ((True, "AND tenant = :tenant"), (False, ""))
}
_FIND_MESSAGE: Final = (
    "SELECT sequence FROM log INDEXED BY log_by_sequence WHERE session_id = ?1 "
    f"AND sequence > (SELECT max(sequence) FROM log WHERE session_id = ?1) - {MAX_LOOKED_AT} "
    f"AND message_id = ?2 AND {IS_THERE.format('?1')}"
)
_LAST_TENANT: Final = "\U0010ffff"
"""Behind the name of every tenant, as SQLite orders texts."""


log = structlog.get_logger()


class SqliteInspection(SqliteSearch, Inspection):
    """See Inspection."""

    _path: Path

    async def list_deliveries(
        self,
        session: Session,
        *,
        limit: int,
        state: frozenset[DeliveryState],
        after: Place | None = None,
    ) -> DeliveryPage:
        statement = _OF_SESSION.get(state) or _OF_SESSION[None]
        before = after[0] if after else ALWAYS_MS
        end_ms = 0 if session.expiry_logged else session.expires_at_ms

        def read(connection: sqlite3.Connection) -> DeliveryPage:
            page: list[FoundDelivery] = []
            last: Place | None = None
            left = MAX_LOOKED_AT
            with closing(connection.execute(statement, (session.id, before))) as found:
                for sequence, one in _read_each(found, end_ms):
                    if one is None or one.delivery.state not in state:
                        left -= 1
                    elif len(page) == limit:
                        return DeliveryPage(page, last)
                    else:
                        page.append(one)
                    last = (sequence,)
                    if not left:
                        return DeliveryPage(page, last)
            return DeliveryPage(page, None)

        return await self._read_long(read)

    async def list_agent_deliveries(
        self, agent_id: str, *, scope: Scope, limit: int, failed: bool, after: Place | None = None
    ) -> DeliveryPage:
        select = _select_failed if failed else _select_waiting
        place, after_sequence = (after[:-1], after[-1]) if after else (None, 0)

        def read(connection: sqlite3.Connection) -> DeliveryPage:
            page: list[FoundDelivery] = []
            last, left = after, MAX_LOOKED_AT
            with closing(select(connection, agent_id, scope, place)) as sessions:
                for *key, session_id, tenant, user_id, end_ms in sessions:
                    # The rest of the session that the page before ended in, else of the session as a whole.
                    first = after_sequence if tuple(key) == place else 0
                    if scope.includes(session_id, tenant, user_id, agent_id):
                        values = session_id, first
                        with closing(connection.execute(_NEXT_OF_SESSION[failed], values)) as found:
                            for sequence, one in islice(_read_each(found, end_ms), MAX_LOOKED_AT):
                                if len(page) == limit:
                                    return DeliveryPage(page, last)
                                page += [one] if one else []
                                last = (*key, sequence)
                    last = (*key, ALWAYS_MS)
                    left -= 1
                    if not left:
                        return DeliveryPage(page, last)
            return DeliveryPage(page, None)

        return await self._read_long(read)

    async def find_message(self, session: Session, message_id: str) -> int | None:
        values = session.id, message_id

        def read(connection: sqlite3.Connection) -> int | None:
            found = connection.execute(_FIND_MESSAGE, values).fetchone()
            return found[0] if found else None

        return await self._read_long(read)

    async def describe_queue(self, agent_id: str, *, scope: Scope) -> AgentQueue:
        is_of_tenant = scope.tenant is not None

        def read(connection: sqlite3.Connection) -> AgentQueue:
            waiting = [
                (count, at_ms)
                for session_id, tenant, user_id, count, at_ms in connection.execute(_QUEUE, (agent_id,))
                if scope.includes(session_id, tenant, user_id, agent_id)
            ]
            values = {"agent_id": agent_id} | ({"tenant": scope.tenant} if is_of_tenant else {})
            failed = sum(
                count
                for session_id, tenant, user_id, count in connection.execute(
                    _COUNT_FAILED[is_of_tenant], values
                )
                if scope.includes(session_id, tenant, user_id, agent_id)
            )
            oldest_ms = min((at_ms for _, at_ms in waiting), default=None)
            return AgentQueue(sum(count for count, _ in waiting), oldest_ms, min(failed, MAX_QUEUED))

        return await self._read_long(read)

    async def last_runs(self) -> Runs:
        # On its thread, because the files may be on a file system that hangs.
        return await self._read_long(lambda _: read_runs(self._path))


def _select_waiting(
    connection: sqlite3.Connection, agent_id: str, scope: Scope, place: Place | None
) -> sqlite3.Cursor:
    """The sessions of an agent with open deliveries, from a place on."""
    return connection.execute(_WAITING, (agent_id, *(place or (-ALWAYS_MS, 0, ""))))


def _select_failed(
    connection: sqlite3.Connection, agent_id: str, scope: Scope, place: Place | None
) -> sqlite3.Cursor:
    """The sessions of an agent with failed deliveries, from a place on."""
    tenant, created_at_ms, session_id = place or (_LAST_TENANT, ALWAYS_MS, "")
    values = {"agent_id": agent_id, "created_at_ms": created_at_ms, "id": session_id}
    if scope.tenant is not None:
        tenant = scope.tenant
    return connection.execute(_WITH_FAILED[scope.tenant is not None], values | {"tenant": tenant})


def _read_each(found: Iterable[rows.Row], session_end_ms: int) -> Iterator[tuple[int, FoundDelivery | None]]:
    """The deliveries in rows, each with its sequence; None for one that cannot be read back."""
    for *row, message_id, at_ms in found:
        one = None
        try:
            one = FoundDelivery(rows.delivery_of(tuple(row)), message_id, at_ms, session_end_ms)
        except (ValueError, TypeError):
            log.exception("a delivery cannot be read back", session_id=row[0])
        yield row[1], one
