"""Looks at what other servers have written: when one of them tells, and every few seconds all the same."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog

from server.domain.errors import STORE_TROUBLE

LOOK_SECONDS: Final = 5.0
"""How long it takes at most to see what nobody has announced."""

log = structlog.get_logger()


class Looks:
    """Repeats a look. Announcements are hints: with none of them everything comes by the whole look."""

    def __init__(self, what: str, look: Callable[[bool], Awaitable[None]], look_s: float) -> None:
        """`what` is looked for, for the log. `look` is told whether to look at all, or at what was told."""
        self._what = what
        self._look = look
        self._look_s = look_s
        self._woken = asyncio.Event()
        self._is_all = True

    def wake(self, *, is_all: bool) -> None:
        """Has it look now."""
        self._is_all = self._is_all or is_all
        self._woken.set()

    async def run(self) -> None:
        """Looks until cancelled."""
        loop = asyncio.get_running_loop()
        next_s = loop.time() + self._look_s
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_s):
                    await self._woken.wait()
            # However often it is woken: a hint that was lost is nobody's who wakes it.
            is_all = self._is_all or loop.time() >= next_s
            if is_all:
                next_s = loop.time() + self._look_s
            self._is_all = False
            self._woken.clear()
            try:
                await self._look(is_all)
            except STORE_TROUBLE as error:
                self._is_all = True
                log.info(f"{self._what} is looked for later", cause=str(error))
            except Exception:
                self._is_all = True
                log.exception(f"{self._what} cannot be read", error_id=uuid.uuid4().hex)
