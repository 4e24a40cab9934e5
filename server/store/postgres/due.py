"""Sessions that are due in PostgreSQL: claimed by locking them, passing over those that somebody else has
locked, and a rule applied to them, in one transaction.

The column `due_at_ms` is a lower bound: a message moves a deadline away, and leaves the column and its index
alone.
"""

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import psycopg
import structlog

from server.domain.access import EVERYTHING
from server.domain.sessions import Outcome, Rule, due_at_ms
from server.store.batch import Batch, Claimed, Loaded
from server.store.contract import PUT_OFF_MS
from server.store.operations import Apply
from server.store.postgres import rows
from server.store.postgres.group import Locked, write
from server.store.postgres.lane import Lane
from server.store.postgres.place import Link

_CLAIM: Final = (
    f"SELECT {', '.join(rows.SESSION)} FROM sessions WHERE due_at_ms <= %s ORDER BY due_at_ms, id LIMIT %s "
    "FOR UPDATE SKIP LOCKED"
)
_PUT_OFF: Final = (
    "WITH held_up AS (SELECT id FROM sessions WHERE due_at_ms <= %s ORDER BY due_at_ms, id LIMIT 1 "
    "FOR UPDATE SKIP LOCKED) UPDATE sessions SET due_at_ms = %s FROM held_up WHERE sessions.id = held_up.id "
    "RETURNING sessions.id"
)
NEXT_DUE: Final = "SELECT min(due_at_ms) FROM sessions WHERE due_at_ms IS NOT NULL"
STATEMENTS: Final = {"claim_due": _CLAIM, "put_off": _PUT_OFF, "next_due": NEXT_DUE}
"""All of them by name, for the tests of their plans."""

log = structlog.get_logger()


@dataclass(frozen=True)
class _FallDue(Apply):
    """Applies a rule to a session that is due; notes it where the rule fails, which holds up no other."""

    def carry_out(self, batch: Batch, now_ms: int) -> Outcome:
        try:
            return super().carry_out(batch, now_ms)
        except Exception:
            log.exception(
                "a session cannot meet its deadline", error_id=uuid.uuid4().hex, session_id=self.session_id
            )
            return Outcome(batch.session(self.session_id, EVERYTHING), replayed=True)


async def apply_due(lane: Lane, rule: Rule, due_ms: int, limit: int) -> int:
    """See Store."""
    try:
        return (await lane.run(_work(lane, rule, due_ms, limit))).count
    except psycopg.Error:
        # What a rule has left cannot be stored. Each alone then, and none that cannot twice.
        log.warning("sessions that are due are dealt with one by one")
    taken = 0
    while taken < limit:
        try:
            step = (await lane.run(_work(lane, rule, due_ms, 1))).count
        except psycopg.Error:
            step = await lane.run(_put_off(due_ms))
        if not step:
            break
        taken += step
    return taken


def _work(lane: Lane, rule: Rule, due_ms: int, limit: int) -> Callable[[Link, int], Awaitable[Claimed]]:
    async def work(link: Link, now_ms: int) -> Claimed:
        now_ms = max(now_ms, due_ms)
        found = await (await link.execute(_CLAIM, [due_ms, limit])).fetchall()
        if not found:
            return Claimed(0, [])
        sessions = [rows.session_of(row) for row in found]
        batch = Batch([_FallDue(one.id, rule, EVERYTHING) for one in sessions])
        loaded = Loaded({one.id: one for one in sessions})
        results = [one for one in batch.apply(loaded, lambda: now_ms) if isinstance(one, Outcome)]
        deadlines = [
            (one.session.id, now_ms + PUT_OFF_MS if one.replayed else due_at_ms(one.session))
            for one in results
        ]
        async with link.pipeline():
            await write(
                link,
                batch.written(),
                Locked(loaded, now_ms),
                lane=lane.number,
                holders={},
                deadlines=deadlines,
            )
        return Claimed(len(found), results)

    return work


def _put_off(due_ms: int) -> Callable[[Link, int], Awaitable[int]]:
    async def work(link: Link, now_ms: int) -> int:
        found = await (await link.execute(_PUT_OFF, [due_ms, max(now_ms, due_ms) + PUT_OFF_MS])).fetchall()
        for (session_id,) in found:
            log.error("a session cannot meet its deadline: it is put off", session_id=session_id)
        return len(found)

    return work
