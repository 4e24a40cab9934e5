"""Decides which requests run now, which wait in a queue, and which are refused."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Final, Protocol

ACTIVE_REQUESTS: Final = 128
"""How many requests run at a time: enough for the full rate, few enough that health is answered soon."""

STARTED_PER_TURN: Final = 2
"""How many requests begin in a turn of the loop at most. All else on the loop waits for their views."""

STARTED_SECONDS: Final = 0.0004
"""How long a turn's first request may have taken for another one to begin in that turn."""

QUEUE_SECONDS: Final = 0.5
"""New requests are refused once the oldest queued one has waited this long and ACTIVE_REQUESTS run.

A limit on length alone is too long on a slow machine.
"""

TURN_SECONDS: Final = 2.0
"""How long a request waits in the queue at most: where those before it hang, it is refused."""


REFUSED_PER_TICK: Final = 40
TICK_SECONDS: Final = 0.02
"""How many requests are refused in each tick at most; the next ones wait for the next tick.

Clients that ask again at once would take all the time otherwise: with room for 64, 512 of them brought the
requests that were served from 434 to 43 a second. So paced, they wait for their refusals, and refusing takes
6 % of a core.
"""


class Request(Protocol):
    """A request that has been read as a whole."""

    async def run(self, on_wait: Callable[[], None]) -> None:
        """Runs the request. `Admission.end` is due when it is over, or only waits for somebody else.

        Calls `on_wait` before it first waits: from then on the task is its own.
        """

    def refuse(self) -> None:
        """Answers that there is too much to do."""


class Admission:
    """The requests that wait for their turn, and how many are worked on."""

    def __init__(self, most: int) -> None:
        """At most `most` requests wait or are worked on at a time."""
        self._most = most
        self._active = 0
        self._exempt: deque[Request] = deque()
        # Since when each waits, in order.
        self._waiting: OrderedDict[Request, float] = OrderedDict()
        self._taking: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._to_refuse: OrderedDict[Request, None] = OrderedDict()
        self._refusals_left = REFUSED_PER_TICK
        self._is_ticking = False
        # That of no request: each begins with a copy of it.
        self._context = copy_context()

    @property
    def taken(self) -> int:
        """How many requests wait or are worked on."""
        return len(self._waiting) + self._active

    @property
    def is_full(self) -> bool:
        """Whether one more request has to be refused."""
        if self.taken < min(self._most, ACTIVE_REQUESTS):
            return False
        return self.taken >= self._most or (
            bool(self._waiting) and time.monotonic() - self._oldest_s() > QUEUE_SECONDS
        )

    def add(self, request: Request) -> None:
        """Queues a request, or refuses it where there is no room."""
        if self.is_full:
            self.refuse(request)
            return
        self._waiting[request] = time.monotonic()
        self._plan()

    def add_exempt(self, request: Request) -> None:
        """Queues a request that takes no place; `end` is not due for it."""
        self._exempt.append(request)
        self._plan()

    def refuse(self, request: Request) -> None:
        """Refuses a request: at once, unless many are refused."""
        self._to_refuse[request] = None
        self._refuse_some()

    def remove(self, request: Request) -> None:
        """Forgets a request that has not begun, if it is there: its client has gone."""
        self._waiting.pop(request, None)
        self._to_refuse.pop(request, None)

    def end(self) -> None:
        """Notes that one request fewer is worked on."""
        self._active -= 1
        self._plan()

    def _plan(self) -> None:
        has_turn = self._active < ACTIVE_REQUESTS
        if self._taking is None and (self._exempt or (self._waiting and has_turn)):
            self._taking = asyncio.get_running_loop().create_task(self._take_turns(), context=self._context)
        if self._waiting and not has_turn and self._expiry is None:
            wait_s = max(0.0, self._oldest_s() + TURN_SECONDS - time.monotonic())
            self._expiry = asyncio.get_running_loop().call_later(wait_s, self._refuse_late)

    async def _take_turns(self) -> None:
        """Begins requests, in each turn of the loop a few. The first one that waits keeps this task."""
        this = asyncio.current_task()
        try:
            while self._taking is this:
                stop_by_s = time.monotonic() + STARTED_SECONDS
                for _ in range(STARTED_PER_TURN):
                    if (request := self._next()) is None:
                        return
                    await request.run(self._leave_turns)
                    if self._taking is not this:
                        return
                    if time.monotonic() >= stop_by_s:
                        break
                await asyncio.sleep(0)
        finally:
            if self._taking is this:
                self._leave_turns()

    def _leave_turns(self) -> None:
        """Leaves the next turns to another task."""
        self._taking = None
        self._plan()

    def _next(self) -> Request | None:
        """The request that may begin now."""
        if self._exempt:
            return self._exempt.popleft()
        if self._waiting and self._active < ACTIVE_REQUESTS:
            self._active += 1
            return self._waiting.popitem(last=False)[0]
        return None

    def _refuse_late(self) -> None:
        self._expiry = None
        while (
            self._waiting
            and self._active >= ACTIVE_REQUESTS
            and time.monotonic() - self._oldest_s() >= TURN_SECONDS
        ):
            self.refuse(self._waiting.popitem(last=False)[0])
        self._plan()

    def _refuse_some(self) -> None:
        while self._to_refuse and self._refusals_left:
            self._refusals_left -= 1
            self._to_refuse.popitem(last=False)[0].refuse()
        if not self._is_ticking and self._refusals_left < REFUSED_PER_TICK:
            self._is_ticking = True
            asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._is_ticking = False
        self._refusals_left = REFUSED_PER_TICK
        self._refuse_some()

    def _oldest_s(self) -> float:
        return next(iter(self._waiting.values()))
