"""An event loop without a clock and without sockets: what is ready runs in an order that the seed chooses,
one callback at a time.

Time stands still while anything is ready, but for small seeded steps (the machine is slow), and jumps to the
next timer when nothing is. What is handed over by `call_soon_threadsafe` keeps its order, as it does in a
real loop that one thread hands things to.
"""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SLOWNESS = 0.02
"""How often time moves although something is ready."""

SLOW_SECONDS = 0.004


class SimulatedLoop(asyncio.BaseEventLoop):
    """Stepped from outside: whoever calls `step` decides between any two callbacks how it goes on."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self._now_s = 0.0
        self._in_order: deque[asyncio.Handle] = deque()
        self.steps = 0
        self.problems: list[str] = []
        """What nobody caught."""

    def time(self) -> float:
        return self._now_s

    def step(self, until_s: float) -> bool:
        """Runs one callback, at `until_s` at the latest; tells whether there was one.

        If not, it is now `until_s`.
        """
        timers, ready = self._scheduled, self._ready  # type: ignore[attr-defined]
        while timers and timers[0].cancelled():
            self._forget(heapq.heappop(timers))
        if not ready:
            if not timers or timers[0].when() > until_s:
                self._now_s = max(self._now_s, until_s)
                return False
            self._now_s = max(self._now_s, timers[0].when())
        elif self._chance.random() < SLOWNESS:
            self._now_s += self._chance.random() * SLOW_SECONDS
        while timers and timers[0].when() <= self._now_s:
            timer = heapq.heappop(timers)
            _unschedule(timer)
            ready.append(timer)
        self._run(self._take(ready))
        return True

    def run_ready(self) -> None:
        """Runs every callback that is ready, in the order in which they came, and those that they add."""
        while self._ready:  # type: ignore[attr-defined]
            self._run(self._ready.popleft())  # type: ignore[attr-defined]

    def drop(self) -> None:
        """Forgets every timer and every callback that is ready, as if the process were gone."""
        for timer in self._scheduled:  # type: ignore[attr-defined]
            _unschedule(timer)
        self._scheduled.clear()  # type: ignore[attr-defined]
        self._ready.clear()  # type: ignore[attr-defined]
        self._in_order.clear()
        self._timer_cancelled_count = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """While this is the loop that runs."""
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)
            self.drop()
            self.close()

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        handle = self.call_soon(callback, *args, context=context)
        self._in_order.append(handle)
        return handle

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Right here: a thread would be another order of events than the seed's."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it is the caller's
            future.set_exception(error)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.problems.append(f"{context.get('message')}: {context.get('exception')!r}")

    def _take(self, ready: "deque[asyncio.Handle]") -> asyncio.Handle:
        place = self._chance.randrange(len(ready)) if len(ready) > 1 else 0
        handle = ready[place]
        if self._in_order and handle in self._in_order:
            handle = self._in_order.popleft()
            ready.remove(handle)
        else:
            del ready[place]
        return handle

    def _run(self, handle: asyncio.Handle) -> None:
        if not handle.cancelled():
            self.steps += 1
            handle._run()

    def _forget(self, timer: asyncio.TimerHandle) -> None:
        _unschedule(timer)
        self._timer_cancelled_count -= 1

    def _process_events(self, event_list: object) -> None:
        """There are none."""


def _unschedule(timer: asyncio.TimerHandle) -> None:
    """Notes that a timer is in the loop's heap no longer, as asyncio's loop does."""
    timer._scheduled = False
