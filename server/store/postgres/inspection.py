"""The deliveries and sessions in PostgreSQL as an operator looks for them."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final

from server.domain.access import Scope
from server.domain.deliveries import OPEN_STATES, DeliveryState
from server.domain.sessions import Session
from server.store.counts import EXPIRED, LIVE
from server.store.inspection import MAX_LOOKED_AT, MAX_QUEUED, Inspection
from server.store.pages import ALWAYS_MS, fill_search, narrow, search_start
from server.store.postgres import rows
from server.store.postgres.lists import PostgresLists, place_values
from server.store.values import (
    AgentQueue,
    DeliveryPage,
    FoundDelivery,
    Place,
    Position,
    Runs,
    SearchPage,
    SessionFilter,
)

_SESSION: Final = ", ".join(rows.SESSION)
_FROM_ID: Final = (
    f"SELECT {_SESSION} FROM sessions WHERE id >= %s::uuid ORDER BY id LIMIT {MAX_LOOKED_AT + 1}"
)


def _newest(state: str, *filters: str) -> str:
    """The newest sessions of a state before a place, from the index that has those of a tenant in order."""
    says = {True: f"expired = {str(state == EXPIRED).lower()}", False: "expired"}[filters == ("user_id",)]
    if not (state == EXPIRED or filters == ("user_id",)):
        says = "NOT expired"
    named = "".join(f" AND {column} = %({column})s::uuid" for column in filters)
    return (
        f"SELECT {_SESSION} FROM unnest(%(tenants)s::text[]) AS wanted, LATERAL (SELECT {_SESSION} "
        f"FROM sessions WHERE {says} AND tenant = wanted{named} "
        "AND (created_at_ms, id) < (%(created_at_ms)s, %(id)s::uuid) "
        "ORDER BY created_at_ms DESC, id DESC LIMIT %(rows)s) AS found "
        "ORDER BY created_at_ms DESC, id DESC LIMIT %(rows)s"
    )


_NEWEST: Final[dict[tuple[str, tuple[str, ...]], str]] = {
    (state, filters): _newest(state, *filters)
    for state in (LIVE, EXPIRED)
    for filters in ((), ("agent_id",), ("user_id",), ("agent_id", "user_id"))
}
_FOUND: Final = f"{rows.of('deliveries', rows.DELIVERY)}, log.message_id, log.at_ms, holder IS NOT NULL"
_FAILED: Final = frozenset([DeliveryState.FAILED])
_OPEN: Final = frozenset(OPEN_STATES)
_IS: Final = {_FAILED: f"AND state = '{DeliveryState.FAILED}'", _OPEN: f"AND state IN {rows.OPEN}", None: ""}
_OF_SESSION: Final = {
    states: (
        f"SELECT {_FOUND} FROM deliveries JOIN log USING (session_id, sequence) "
        f"WHERE deliveries.session_id = %(id)s::uuid AND deliveries.sequence < %(before)s {condition} "
        "AND EXISTS (SELECT 1 FROM sessions WHERE sessions.id = %(id)s::uuid) "
        "ORDER BY deliveries.sequence DESC LIMIT %(rows)s"
    )
    for states, condition in _IS.items()
}
_NEXT_OF_SESSION: Final = {
    is_failed: (
        f"SELECT {_FOUND} FROM deliveries JOIN log USING (session_id, sequence) "
        f"WHERE deliveries.session_id = %s::uuid AND deliveries.sequence > %s {_IS[states]} "
        "ORDER BY deliveries.sequence LIMIT %s"
    )
    for is_failed, states in ((True, _FAILED), (False, _OPEN))
}
_HEADS: Final = (
    "(SELECT head_due_ms AS due_ms, sequence, session_id FROM deliveries WHERE agent_id = %(agent)s::uuid "
    "AND head_due_ms IS NOT NULL "
    "AND (head_due_ms, sequence, session_id) >= (%(due)s, %(sequence)s, %(id)s::uuid) "
    "ORDER BY head_due_ms, sequence, session_id LIMIT %(rows)s) UNION ALL "
    # Those that a server has in hand.
    "(SELECT 0, sequence, session_id FROM deliveries WHERE agent_id = %(agent)s::uuid "
    "AND holder IS NOT NULL AND (0, sequence, session_id) >= (%(due)s, %(sequence)s, %(id)s::uuid) "
    "ORDER BY sequence, session_id LIMIT %(rows)s)"
)
_WAITING: Final = (
    "SELECT due_ms, sequence, session_id, sessions.id, tenant, user_id, sessions.expires_at_ms "
    f"FROM ({_HEADS}) AS heads JOIN sessions ON sessions.id = session_id "
    "ORDER BY due_ms, sequence, session_id LIMIT %(rows)s"
)
_WITH_FAILED: Final = (
    "SELECT tenant, created_at_ms, id, id, tenant, user_id, expires_at_ms FROM sessions "
    "WHERE failed_deliveries > 0 AND agent_id = %(agent)s::uuid "
    "AND (%(only)s::text IS NULL OR tenant = %(only)s::text) "
    "AND (tenant, created_at_ms, id) <= (%(tenant)s, %(created)s, %(id)s::uuid) "
    "ORDER BY tenant DESC, created_at_ms DESC, id DESC LIMIT %(rows)s"
)
_QUEUE: Final = (
    "SELECT sessions.id, tenant, user_id, sessions.agent_id, open_deliveries, log.at_ms "
    f"FROM ({_HEADS}) AS heads JOIN sessions ON sessions.id = heads.session_id "
    "JOIN log ON log.session_id = heads.session_id AND log.sequence = heads.sequence "
    "ORDER BY due_ms LIMIT %(rows)s"
)
_COUNT_FAILED: Final = (
    "SELECT id, tenant, user_id, agent_id, failed_deliveries FROM sessions WHERE failed_deliveries > 0 "
    f"AND agent_id = %s::uuid AND (%s::text IS NULL OR tenant = %s::text) LIMIT {MAX_QUEUED}"
)
_FIND_MESSAGE: Final = (
    "SELECT sequence FROM log WHERE session_id = %(id)s::uuid AND sequence > (SELECT max(sequence) FROM log "
    f"WHERE session_id = %(id)s::uuid) - {MAX_LOOKED_AT} AND message_id = %(message)s "
    "AND EXISTS (SELECT 1 FROM sessions WHERE sessions.id = %(id)s::uuid)"
)
_READ_TOGETHER: Final = 50
_LAST_TENANT: Final = "\U0010ffff"
"""Behind the name of every tenant."""
STATEMENTS: Final = {
    "search_from_id": _FROM_ID,
    **{f"search_{state}_{'_'.join(filters)}": text for (state, filters), text in _NEWEST.items()},
    "list_failed_deliveries": _OF_SESSION[_FAILED],
    "list_open_deliveries": _OF_SESSION[_OPEN],
    "list_deliveries": _OF_SESSION[None],
    "next_failed_of_session": _NEXT_OF_SESSION[True],
    "next_open_of_session": _NEXT_OF_SESSION[False],
    "waiting_sessions": _WAITING,
    "sessions_with_failed": _WITH_FAILED,
    "describe_queue": _QUEUE,
    "count_failed": _COUNT_FAILED,
    "find_message": _FIND_MESSAGE,
}
"""All of them by name, for the tests of their plans."""


class PostgresInspection(PostgresLists, Inspection):
    """See Inspection."""

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
        if wanted.id_prefix:
            low = wanted.id_prefix + rows.NO_ID[len(wanted.id_prefix) :]
            few = await self._read(_FROM_ID, [low]) if rows.is_uuid(low) else []
            found = [rows.session_of(row) for row in few]
            if len(found) <= MAX_LOOKED_AT or not found[-1].id.startswith(wanted.id_prefix):
                mine = sorted(
                    (one for one in found if one.id.startswith(wanted.id_prefix)), key=_place_of, reverse=True
                )
                behind = [one for one in mine if _place_of(one) < (start.created_at_ms, start.id)]
                return _fill(behind, wanted, narrowed, now_ms, limit)
        read: list[Session] = []
        count = limit + 1
        while True:
            more = await self._newest(wanted, narrowed, start, count)
            read += more
            page = _fill(read, wanted, narrowed, now_ms, limit)
            if page.next is not None or len(more) < count or more[-1].created_at_ms < wanted.created_from_ms:
                return page
            start, count = Position(*_place_of(more[-1])), _READ_TOGETHER

    async def _newest(
        self, wanted: SessionFilter, scope: Scope, start: Position, count: int
    ) -> list[Session]:
        """The newest sessions of a scope before a place in a wanted state, as far as that is written."""
        filters = {"agent_id": scope.agent_id, "user_id": scope.user_id}
        named = {column: value for column, value in filters.items() if value is not None}
        states = {None: (LIVE, EXPIRED), True: (EXPIRED,), False: (LIVE,)}[wanted.is_expired]
        found: list[Session] = []
        for state in states:
            tenants = list(await self._count(state, scope))
            values = {**named, "tenants": tenants, "rows": count, **place_values(start)}
            found += [rows.session_of(row) for row in await self._read(_NEWEST[state, tuple(named)], values)]
        return sorted(found, key=_place_of, reverse=True)[:count]

    async def list_deliveries(
        self,
        session: Session,
        *,
        limit: int,
        state: frozenset[DeliveryState],
        after: Place | None = None,
    ) -> DeliveryPage:
        statement = _OF_SESSION.get(state) or _OF_SESSION[None]
        values = {
            "id": session.id,
            "before": after[0] if after else ALWAYS_MS,
            "rows": limit + 1 + (0 if state in _OF_SESSION else MAX_LOOKED_AT),
        }
        end_ms = 0 if session.expiry_logged else session.expires_at_ms
        page: list[FoundDelivery] = []
        last: Place | None = None
        left = MAX_LOOKED_AT
        for one in _found(await self._read(statement, values), end_ms):
            if one.delivery.state not in state:
                left -= 1
            elif len(page) == limit:
                return DeliveryPage(page, last)
            else:
                page.append(one)
            last = (one.delivery.sequence,)
            if not left:
                return DeliveryPage(page, last)
        return DeliveryPage(page, None)

    async def list_agent_deliveries(
        self, agent_id: str, *, scope: Scope, limit: int, failed: bool, after: Place | None = None
    ) -> DeliveryPage:
        if not rows.is_uuid(agent_id):
            return DeliveryPage([], None)
        page: list[FoundDelivery] = []
        last, left = after, MAX_LOOKED_AT
        place, first = (after[:-1], int(after[-1])) if after else (None, 0)
        while True:
            sessions = await self._read(*_from(agent_id, scope, failed, place, min(_READ_TOGETHER, left)))
            # The session that the page before ended in comes again, from where that stopped.
            starts = [first if row[:3] == place else 0 for row in sessions]
            inside = [scope.includes(row[3], row[4], row[5], agent_id) for row in sessions]
            found = await asyncio.gather(
                *(
                    self._read(_NEXT_OF_SESSION[failed], [row[3], start, min(limit + 1, MAX_LOOKED_AT)])
                    for row, start, is_mine in zip(sessions, starts, inside, strict=True)
                    if is_mine
                )
            )
            each = iter(found)
            for row, is_mine in zip(sessions, inside, strict=True):
                for one in _found(next(each) if is_mine else (), row[6]):
                    if len(page) == limit:
                        return DeliveryPage(page, last)
                    page.append(one)
                    last = (*row[:3], one.delivery.sequence)
                last = (*row[:3], ALWAYS_MS)
                left -= 1
                if left <= 0:
                    return DeliveryPage(page, last)
            if len(sessions) < _READ_TOGETHER:
                return DeliveryPage(page, None)
            place, first = tuple(sessions[-1][:3]), ALWAYS_MS

    async def find_message(self, session: Session, message_id: str) -> int | None:
        if "\0" in message_id:
            # No text of PostgreSQL has it, and none may be compared with it.
            return None
        found = await self._read(_FIND_MESSAGE, {"id": session.id, "message": message_id})
        return int(found[0][0]) if found else None

    async def describe_queue(self, agent_id: str, *, scope: Scope) -> AgentQueue:
        if not rows.is_uuid(agent_id):
            self._lane()
            return AgentQueue(0, None, 0)
        values = {"agent": agent_id, "due": -ALWAYS_MS, "sequence": 0, "id": rows.NO_ID, "rows": MAX_QUEUED}
        waiting = [row for row in await self._read(_QUEUE, values) if scope.includes(*row[:4])]
        failed = await self._read(_COUNT_FAILED, [agent_id, scope.tenant, scope.tenant])
        count = sum(row[4] for row in failed if scope.includes(*row[:4]))
        oldest_ms = min((row[5] for row in waiting), default=None)
        return AgentQueue(sum(row[4] for row in waiting), oldest_ms, min(count, MAX_QUEUED))

    async def last_runs(self) -> Runs:
        # Backups are PostgreSQL's own, and nobody notes a check.
        self._lane()
        return Runs()


def _from(
    agent_id: str, scope: Scope, failed: bool, place: Place | None, count: int
) -> tuple[str, dict[str, Any]]:
    """The statement that finds an agent's sessions from a place on, and its parameters."""
    values: dict[str, Any] = {"agent": agent_id, "rows": count}
    if failed:
        tenant, created, session_id = _readable(place) or (_LAST_TENANT, ALWAYS_MS, rows.LAST_ID)
        return _WITH_FAILED, values | {
            "only": scope.tenant,
            "tenant": tenant,
            "created": created,
            "id": session_id,
        }
    due, sequence, session_id = _readable(place) or (-ALWAYS_MS, 0, rows.NO_ID)
    return _WAITING, values | {"due": due, "sequence": sequence, "id": session_id}


def _readable(place: Place | None) -> Place | None:
    """A place, whose id may be any text: it comes from a client's token."""
    if place is None or rows.is_uuid(str(place[2])):
        return place
    return *place[:2], rows.NO_ID


def _fill(
    found: Sequence[Session], wanted: SessionFilter, scope: Scope, now_ms: int, limit: int
) -> SearchPage:
    by_id = {one.id: one for one in found}
    return fill_search(map(_place_of, found), by_id.get, wanted, scope, now_ms, limit)


def _place_of(session: Session) -> tuple[int, str]:
    return session.created_at_ms, session.id


def _found(read: Iterable[rows.Row], session_end_ms: int) -> list[FoundDelivery]:
    """The deliveries in rows."""
    return [
        FoundDelivery(rows.delivery_of(tuple(row)), message_id, at_ms, session_end_ms, is_held)
        for *row, message_id, at_ms, is_held in read
    ]
