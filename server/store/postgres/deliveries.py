"""The deliveries in PostgreSQL: which of an agent are due, and how a server leases them.

A lease belongs to the server that has it, its holder, as long as that server runs. To claim is to lock the
session, passing over those that somebody else has locked; then the delivery is read again, because a lease
changes nothing in the session's row.
"""

import asyncio
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog

from server.domain.access import EVERYTHING, Scope
from server.domain.deliveries import DeliveryState, delivery_id
from server.domain.errors import (
    DeliveryNotFoundError,
    DeliveryNotLeasedError,
    DomainError,
    SessionExpiredError,
    SessionNotFoundError,
)
from server.domain.log import message_of
from server.domain.replies import DeliveryRule, put_off
from server.domain.sessions import Outcome
from server.store.batch import Batch, Claimed, Loaded
from server.store.contract import PAGE_BYTES, PUT_OFF_MS, Deliveries, LeaseRule
from server.store.operations import ApplyToDelivery
from server.store.pages import text_size
from server.store.postgres import rows
from server.store.postgres.front import Front, oldest
from server.store.postgres.group import Locked, write
from server.store.postgres.lanes import Lanes
from server.store.postgres.place import Link
from server.store.postgres.reading import Reading
from server.store.values import OpenDelivery

_IS_FREE: Final = "agent_id = %(agent)s::uuid AND session_id <> ALL(%(held)s::uuid[])"
# What this server had and has not any more is due at once.
_DUE: Final = (
    f"(SELECT session_id, sequence, head_due_ms FROM deliveries WHERE {_IS_FREE} "
    "AND head_due_ms BETWEEN %(from)s AND %(due)s ORDER BY head_due_ms, sequence LIMIT %(rows)s) UNION ALL "
    f"(SELECT session_id, sequence, 0 FROM deliveries WHERE {_IS_FREE} AND head_due_ms <= 0 "
    "ORDER BY head_due_ms, sequence LIMIT %(rows)s) UNION ALL "
    f"(SELECT session_id, sequence, 0 FROM deliveries WHERE holder = %(me)s::uuid AND {_IS_FREE} "
    "LIMIT %(rows)s)"
)
_ROW: Final = (
    f"{rows.of('sessions', rows.SESSION)}, {rows.of('log', rows.ENTRY)}, "
    f"{rows.of('deliveries', rows.DELIVERY)}"
)
_JOINED: Final = (
    "JOIN deliveries USING (session_id, sequence) JOIN log USING (session_id, sequence) "
    "JOIN sessions ON sessions.id = deliveries.session_id"
)
_READ_DUE: Final = (
    "WITH due AS (SELECT session_id, sequence, due.head_due_ms AS since_ms, "
    "sum(log.size) OVER (ORDER BY due.head_due_ms, sequence, session_id ROWS UNBOUNDED PRECEDING) "
    f"- log.size AS before FROM (SELECT * FROM ({_DUE}) AS either ORDER BY head_due_ms, sequence "
    "LIMIT %(rows)s) AS due JOIN log USING (session_id, sequence)) "
    f"SELECT {_ROW} FROM due {_JOINED} WHERE before <= %(most_bytes)s "
    "ORDER BY since_ms, due.sequence, due.session_id"
)
_CLAIM: Final = (
    "SELECT sessions.id, sequence FROM deliveries JOIN sessions ON sessions.id = session_id "
    "WHERE deliveries.agent_id = %(agent)s::uuid AND session_id <> ALL(%(held)s::uuid[]) "
    "AND head_due_ms BETWEEN %(from)s AND %(due)s ORDER BY head_due_ms, sequence LIMIT %(rows)s "
    "FOR UPDATE OF sessions SKIP LOCKED"
)
_AT_ONCE: Final = {"from": 0, "due": 0}
"""What a claim of those asks for that are due whatever the time."""
_CLAIM_LOST: Final = (
    "SELECT sessions.id, sequence FROM deliveries JOIN sessions ON sessions.id = session_id "
    "WHERE holder = %(me)s::uuid AND deliveries.agent_id = %(agent)s::uuid "
    "AND session_id <> ALL(%(held)s::uuid[]) LIMIT %(rows)s FOR UPDATE OF sessions SKIP LOCKED"
)
_READ_CLAIMED: Final = (
    "WITH due AS (SELECT session_id, sequence, deliveries.head_due_ms AS since_ms, "
    "sum(log.size) OVER (ORDER BY deliveries.head_due_ms, sequence, session_id ROWS UNBOUNDED PRECEDING) "
    "- log.size AS before FROM unnest(%(ids)s::uuid[], %(sequences)s::bigint[]) AS claimed (session_id, "
    "sequence) JOIN deliveries USING (session_id, sequence) JOIN log USING (session_id, sequence) "
    "WHERE deliveries.head_due_ms <= %(due)s OR deliveries.holder = %(me)s::uuid) "
    f"SELECT {_ROW} FROM due {_JOINED} WHERE before <= %(most_bytes)s "
    "ORDER BY since_ms, due.sequence, due.session_id"
)
_NEXT: Final = (
    f"(SELECT head_due_ms FROM deliveries WHERE {_IS_FREE} AND head_due_ms <= 0 LIMIT 1) UNION ALL "
    f"(SELECT head_due_ms FROM deliveries WHERE {_IS_FREE} AND head_due_ms >= %(from)s "
    "ORDER BY head_due_ms LIMIT 1) ORDER BY head_due_ms LIMIT 1"
)
_HAS_LOST: Final = f"SELECT 1 FROM deliveries WHERE holder = %(me)s::uuid AND {_IS_FREE} LIMIT 1"
_COUNT_OPEN: Final = f"SELECT agent_id, count(*) FROM deliveries WHERE state IN {rows.OPEN} GROUP BY agent_id"
_OLDEST_OPEN: Final = (
    f"SELECT min(at_ms) FROM deliveries JOIN log USING (session_id, sequence) WHERE state IN {rows.OPEN}"
)
# Passes over what a group has locked, and so waits for nobody.
_GIVE_BACK: Final = (
    "UPDATE deliveries SET holder = NULL, head_due_ms = 0 WHERE (session_id, sequence) IN ("
    "SELECT session_id, sequence FROM deliveries WHERE holder IS NOT NULL "
    f"AND state = '{DeliveryState.LEASED}' "
    "AND NOT EXISTS (SELECT 1 FROM replicas WHERE replicas.id = holder) FOR UPDATE SKIP LOCKED)"
)
STATEMENTS: Final = {
    "read_due": _READ_DUE,
    "claim": _CLAIM,
    "claim_lost": _CLAIM_LOST,
    "read_claimed": _READ_CLAIMED,
    "next_delivery": _NEXT,
    "has_lost": _HAS_LOST,
    "give_back": _GIVE_BACK,
}
"""Those whose cost must not grow with the tables, by name, for the tests of their plans."""

_CLOSED: Final = (DeliveryNotLeasedError, DeliveryNotFoundError, SessionNotFoundError)
"""What the rules raise where a delivery was closed since it was read."""

MOST_FRONTS: Final = 10_000
"""Of how many agents it is known where their queues begin; a look at another one reads from the start."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Leased(Claimed):
    """What was leased, or has failed because its attempts are used up. `first`: the row of the first one."""

    found: Sequence[OpenDelivery]
    first: list[rows.Row]


@dataclass(frozen=True)
class _Lease(ApplyToDelivery):
    """Applies a rule to a delivery that was claimed; has it rest where its session is about to expire."""

    def carry_out(self, batch: Batch, now_ms: int) -> Outcome:
        try:
            return super().carry_out(batch, now_ms)
        except SessionExpiredError:
            rested = ApplyToDelivery(
                self.session_id, self.sequence, partial(put_off, rest_ms=PUT_OFF_MS), self.scope
            )
            return rested.carry_out(batch, now_ms)
        except DomainError:
            raise
        except Exception as error:
            # It is of this session alone, and holds up no other.
            log.exception("a delivery is held up", error_id=uuid.uuid4().hex, session_id=self.session_id)
            raise DeliveryNotLeasedError(delivery_id(self.session_id, self.sequence)) from error


class PostgresDeliveries(Reading, Deliveries):
    """See Deliveries."""

    replica_id: str
    _lanes: Lanes
    _fronts: dict[str, Front]

    async def apply_delivery(
        self, session_id: str, sequence: int, rule: DeliveryRule, *, scope: Scope
    ) -> Outcome:
        return await self._lanes.of(session_id).apply(ApplyToDelivery(session_id, sequence, rule, scope))

    async def lease_due(
        self,
        agent_id: str,
        due_ms: int,
        limit: int,
        held: Collection[str] = (),
        rule: LeaseRule | None = None,
    ) -> list[OpenDelivery]:
        if not rows.is_uuid(agent_id):
            return []
        front = self._front_of(agent_id)
        values = {
            **self._claim(agent_id, held),
            "from": front.begin("lease"),
            "due": due_ms,
            "rows": limit,
            "most_bytes": PAGE_BYTES,
        }
        if rule is None:
            found, first = await asyncio.gather(self._read(_READ_DUE, values), self._read(*oldest(values)))
            front.note(first)
            return _within_page([_open_delivery_of(row) for row in found])

        async def work(link: Link, now_ms: int) -> _Leased:
            return await lease(link, now_ms, values, rule, self.replica_id, self._lanes.first.number)

        leased = await self._lanes.first.run(work)
        front.note(leased.first)
        return list(leased.found)

    async def next_delivery_ms(self, agent_id: str, held: Collection[str] = ()) -> int | None:
        if not rows.is_uuid(agent_id):
            # Nothing is asked, but a store that is closed says so.
            self._lane()
            return None
        front = self._front_of(agent_id)
        values = {**self._claim(agent_id, held), "from": front.begin("next")}
        if await self._read(_HAS_LOST, values):
            return 0
        found = await self._read(_NEXT, values)
        if not found:
            return None
        next_ms = int(found[0][0])
        if next_ms > 0:
            # Whoever asks claims next, by a look of the other kind, which need not be a full one.
            front.note_due(next_ms)
        return next_ms

    async def count_open(self) -> Mapping[str, int]:
        return dict(await self._read(_COUNT_OPEN))

    async def oldest_open_ms(self) -> int | None:
        ((oldest_ms,),) = await self._read(_OLDEST_OPEN)
        return None if oldest_ms is None else int(oldest_ms)

    def _front_of(self, agent_id: str) -> Front:
        """The front of an agent's queue; that of whoever was looked at longest ago makes room for it."""
        front = self._fronts.pop(agent_id, None) or Front()
        self._fronts[agent_id] = front
        if len(self._fronts) > MOST_FRONTS:
            del self._fronts[next(iter(self._fronts))]
        return front

    def _claim(self, agent_id: str, held: Collection[str]) -> dict[str, Any]:
        return {"agent": agent_id, "held": list(held), "me": self.replica_id}


async def lease(
    link: Link, now_ms: int, values: Mapping[str, Any], rule: LeaseRule, holder: str, lane: int
) -> _Leased:
    """Claims what is due in a transaction that has begun, applies the rule to it. Raises psycopg.Error."""
    async with link.pipeline():
        due = await link.execute(_CLAIM, values)
        at_once = await link.execute(_CLAIM, {**values, **_AT_ONCE})
        lost = await link.execute(_CLAIM_LOST, values)
        first = await (await link.execute(*oldest(values))).fetchall()
    claimed = [*await lost.fetchall(), *await at_once.fetchall(), *await due.fetchall()][: values["rows"]]
    if not claimed:
        return _Leased(0, [], [], first)
    again = {
        **values,
        "ids": [row[0] for row in claimed],
        "sequences": [row[1] for row in claimed],
    }
    found = _within_page(
        [_open_delivery_of(row) for row in await (await link.execute(_READ_CLAIMED, again)).fetchall()]
    )
    batch = Batch(
        [
            _Lease(
                one.session.id,
                one.delivery.sequence,
                partial(rule, message_id=message_of(one.entry).id),
                EVERYTHING,
            )
            for one in found
        ]
    )
    loaded = Loaded(
        {one.session.id: one.session for one in found},
        {(one.session.id, one.delivery.sequence): one.delivery for one in found},
    )
    results = batch.apply(loaded, lambda: now_ms)
    holders = {
        (result.delivery.session_id, result.delivery.sequence): holder
        for result in results
        if isinstance(result, Outcome) and result.delivery and result.delivery.state is DeliveryState.LEASED
    }
    async with link.pipeline():
        await write(link, batch.written(), Locked(loaded, now_ms), lane=lane, holders=holders)
    outcomes = [result for result in results if isinstance(result, Outcome)]
    taken = [
        OpenDelivery(result.session, one.entry, result.delivery or one.delivery)
        for one, result in zip(found, results, strict=True)
        if isinstance(result, Outcome)
        and result.delivery
        and result.delivery.state is not DeliveryState.PENDING
    ]
    return _Leased(len(claimed), outcomes, taken, first)


async def give_back(link: Link) -> int:
    """Gives back the leases of servers that do not run any more; returns how many. Raises psycopg.Error."""
    return (await link.execute(_GIVE_BACK)).rowcount


def _within_page(found: list[OpenDelivery]) -> list[OpenDelivery]:
    """The first of them, up to PAGE_BYTES of text."""
    page: list[OpenDelivery] = []
    left = PAGE_BYTES
    for one in found:
        left -= text_size(one.entry)
        if page and left < 0:
            break
        page.append(one)
    return page


def _open_delivery_of(row: rows.Row) -> OpenDelivery:
    session, entry = row[: len(rows.SESSION)], row[len(rows.SESSION) : -len(rows.DELIVERY)]
    return OpenDelivery(
        rows.session_of(session), rows.entry_of(entry), rows.delivery_of(row[-len(rows.DELIVERY) :])
    )
