"""The purge: removes the rest of deleted sessions, and sessions and requests past their retention."""

import asyncio
import uuid
from contextlib import suppress
from typing import Final

import structlog

from server.clock import Clock
from server.domain.errors import DomainError
from server.domain.timeouts import minutes_ms
from server.store.contract import Store
from server.store.values import Commit

STEP_ROWS: Final = 2000
"""More than the store removes in one step's time."""

log = structlog.get_logger()


class Purge:
    """Removes old records in small steps, between which writers have their turn.

    Contract: "it … goes on answering 410 until its record is purged (the retention is a setting)".
    `trouble` says for people why the last run was held up; empty where it was not.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        retention_minutes: float,
        request_retention_minutes: float,
        interval_minutes: float,
    ) -> None:
        """`retention_minutes` are those of sessions whose agent has no retention of its own."""
        self._store = store
        self._clock = clock
        self._retention_ms = minutes_ms(retention_minutes)
        self._request_retention_ms = minutes_ms(request_retention_minutes)
        self._interval_s = interval_minutes * 60
        self._deleted = asyncio.Event()
        self.trouble = ""

    def on_commit(self, commit: Commit) -> None:
        """Wakes the purge where a commit has deleted sessions, whose rest does not wait for the interval."""
        if commit.deleted:
            self._deleted.set()

    async def run_due(self) -> None:
        """Removes the rest of deleted sessions, and all that is past its retention now. Raises the store's
        errors.
        """
        now_ms, removed = self._clock.now_ms(), 0
        while step := await self._store.purge(now_ms, STEP_ROWS, retention_ms=self._retention_ms):
            removed += step
        if removed:
            log.info("purged old sessions", rows=removed)
        made_by_ms = self._clock.now_ms() - self._request_retention_ms
        while await self._store.forget_requests(made_by_ms, STEP_ROWS):
            # Another step, until there is nothing left to forget.
            continue
        while await self._store.shrink():
            # As above.
            continue

    async def run(self) -> None:
        """Purges at every interval and after every deletion, until cancelled."""
        while True:
            self._deleted.clear()
            try:
                await self.run_due()
                self.trouble = ""
            except DomainError as error:
                self.trouble = str(error)
                log.warning("the purge is held up", cause=str(error))
            except Exception:
                error_id = uuid.uuid4().hex
                self.trouble = f"internal error {error_id}, see the log"
                log.exception("the purge is held up", error_id=error_id)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._deleted.wait()
