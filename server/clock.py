"""The only place that reads the wall clock. Everything else is given a Clock."""

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the service's time."""

    def now_ms(self) -> int:
        """The present instant, in ms since the epoch."""


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """The present instant, in ms since the epoch."""
        return time.time_ns() // 1_000_000


class TestClock:
    """A clock that stands still until it is set. It starts at the machine's time."""

    __test__ = False

    def __init__(self) -> None:
        self._now_ms = SystemClock().now_ms()

    def now_ms(self) -> int:
        """The present instant, in ms since the epoch."""
        return self._now_ms

    def set_ms(self, now_ms: int) -> None:
        """Sets the clock, forward or back, in ms since the epoch."""
        self._now_ms = now_ms
