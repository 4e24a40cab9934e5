"""Warnings and expiries, made when they fall due."""

import asyncio
import uuid
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import structlog

from server.clock import Clock
from server.domain.errors import DomainError
from server.domain.sessions import due_at_ms, fall_due
from server.store.contract import Store
from server.store.values import Commit
from server.telemetry.telemetry import Reading

BATCH: Final = 256
LONGEST_SLEEP_S: Final = 1.0
"""Not longer, because the clock may be set while we sleep."""

log = structlog.get_logger()


class ExpiryScheduler:
    """Sleeps until the earliest deadline, and applies the rule to due sessions in batches.

    `trouble` says for people why that was held up last; empty where it was not.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._nearer = asyncio.Event()
        self._next_ms: int | None = None
        self.trouble = ""

    def on_commit(self, commit: Commit) -> None:
        """Wakes the sleeper when a commit has made a deadline that is nearer than the one it sleeps until."""
        due = (due_at_ms(outcome.session) for outcome in commit.outcomes)
        if any(due_ms is not None and (self._next_ms is None or due_ms < self._next_ms) for due_ms in due):
            self._nearer.set()

    async def read_gauges(self) -> Iterable[Reading]:
        """How long the earliest deadline has been overdue, as far as this has seen."""
        return [Reading("eliza_expiry_lag_seconds", self.lag_ms() / 1000)]

    def lag_ms(self) -> int:
        """How long the earliest deadline has been overdue, as far as this has seen."""
        return 0 if self._next_ms is None else max(0, self._clock.now_ms() - self._next_ms)

    async def run_due(self) -> None:
        """Applies the rule to all sessions that are due now. Raises the store's errors."""
        due_ms = self._clock.now_ms()
        # A session that was due then stays due, even if the clock has been set back since.
        while await self._store.apply_due(
            lambda session, now_ms: fall_due(session, max(now_ms, due_ms)), due_ms, BATCH
        ):
            # Others write between two batches.
            continue

    async def run(self) -> None:
        """Makes everything happen as it falls due, until cancelled."""
        while True:
            wait_s = LONGEST_SLEEP_S
            self._nearer.clear()
            try:
                await self.run_due()
                self._next_ms = await self._store.next_due_ms()
                if self._next_ms is not None:
                    wait_s = (self._next_ms - self._clock.now_ms()) / 1000
                self.trouble = ""
            except DomainError as error:
                self.trouble = str(error)
                log.warning("deadlines are held up", cause=str(error))
            except Exception:
                error_id = uuid.uuid4().hex
                self.trouble = f"internal error {error_id}, see the log"
                log.exception("deadlines are held up", error_id=error_id)
            with suppress(TimeoutError):
                async with asyncio.timeout(min(max(wait_s, 0), LONGEST_SLEEP_S)):
                    await self._nearer.wait()
