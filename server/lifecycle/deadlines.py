"""Warnings and expiries, made when they fall due."""

import asyncio
from typing import Final

import structlog

from server.clock import Clock
from server.domain.errors import DomainError, SessionNotFoundError
from server.domain.sessions import fall_due
from server.store.base import Store

BATCH: Final = 256
LONGEST_SLEEP_S: Final = 1.0
"""Not longer, because the clock may be set, and a deadline may be moved nearer, while we sleep."""

log = structlog.get_logger()


class Deadlines:
    """Sleeps until the earliest deadline, takes what is due in batches, and applies the rule to each session."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def run_due(self) -> None:
        """Makes everything happen that is due at this instant. Raises what the store raises when it cannot be used."""
        now_ms = self._clock.now_ms()
        while ids := await self._store.due(now_ms, BATCH):
            await asyncio.gather(*map(self._fall_due, ids))

    async def run(self) -> None:
        """Makes everything happen as it falls due, until cancelled."""
        while True:
            try:
                await self.run_due()
                next_ms = await self._store.next_due_ms()
            except DomainError as error:
                log.warning("deadlines are held up", cause=str(error))
                next_ms = None
            wait_s = LONGEST_SLEEP_S if next_ms is None else (next_ms - self._clock.now_ms()) / 1000
            await asyncio.sleep(min(max(wait_s, 0), LONGEST_SLEEP_S))

    async def _fall_due(self, session_id: str) -> None:
        try:
            await self._store.apply(session_id, fall_due)
        except SessionNotFoundError:
            log.debug("deleted before its deadline", session_id=session_id)
