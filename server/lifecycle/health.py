"""Whether the service can do its work: the monitor of its store."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Final

import structlog

from server.domain.errors import DomainError
from server.store.contract import Store

CHECK_SECONDS: Final = 2.0
RECHECK_SECONDS: Final = 1.0
"""How often the store is tried: while it is well, and while it is not."""

log = structlog.get_logger()


class HealthMonitor:
    """Tries every few seconds whether the store can write.

    `trouble` says for people why it cannot; empty where it can.
    """

    def __init__(self, store: Store, on_change: Callable[[bool], None]) -> None:
        """`on_change` is told whether the store can write: at first, and whenever that changes."""
        self._store = store
        self._on_change = on_change
        self._doubt = asyncio.Event()
        self._serving: bool | None = None
        self.trouble = ""

    @property
    def is_serving(self) -> bool:
        """Whether the store could write when it was last tried."""
        return bool(self._serving)

    def doubt(self) -> None:
        """Reports trouble of a call at once, and tries the store to see whether it lasts.

        Against a lock the next try takes as long as the failed call.
        """
        self._set(False, self.trouble or "a call could not use it")
        self._doubt.set()

    async def check(self) -> bool:
        """Tries the store, and returns whether it could write."""
        try:
            await self._store.check_writable()
        except DomainError as error:
            self._set(False, str(error))
            return False
        except Exception:
            error_id = uuid.uuid4().hex
            log.exception("the store cannot be tried", error_id=error_id)
            self._set(False, f"internal error {error_id}, see the log")
            return False
        self._set(True)
        return True

    async def run(self) -> None:
        """Checks until cancelled."""
        while True:
            well = await self.check()
            try:
                async with asyncio.timeout(CHECK_SECONDS if well else RECHECK_SECONDS):
                    await self._doubt.wait()
            except TimeoutError:
                continue
            self._doubt.clear()
            if not well:
                await asyncio.sleep(RECHECK_SECONDS)

    def _set(self, serving: bool, trouble: str = "") -> None:
        self.trouble = trouble
        if serving is self._serving:
            return
        if self._serving is not None:
            log.warning("health changed", serving=serving)
        self._serving = serving
        self._on_change(serving)
