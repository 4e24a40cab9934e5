"""The database's time, by which all servers go: each counts its own steps from when it was last told."""

import time

from server.clock import SystemClock, TestClock


class DatabaseTime:
    """Tells the service's time as the database last said it, and as much more as has passed since.

    It is late by as long as the last answer took to be read. Before the first time it is the machine's.
    """

    def __init__(self) -> None:
        self._told_ms = SystemClock().now_ms()
        self._told_s = time.monotonic()

    def now_ms(self) -> int:
        """The present instant, in ms since the epoch."""
        return self._told_ms + round((time.monotonic() - self._told_s) * 1000)

    def learn(self, now_ms: int) -> None:
        """Is told the time by the database."""
        self._told_ms, self._told_s = now_ms, time.monotonic()


class DatabaseTestTime(DatabaseTime, TestClock):
    """A clock that stands still until some server sets it: it is a row in the database."""

    def __init__(self) -> None:
        DatabaseTime.__init__(self)
        TestClock.__init__(self)

    def now_ms(self) -> int:
        """The present instant, in ms since the epoch."""
        return self._told_ms

    def learn(self, now_ms: int) -> None:
        """Is told the time by the database."""
        self._told_ms = now_ms

    def set_ms(self, now_ms: int) -> None:
        """Notes a time that was set; the store has it by then."""
        self.learn(now_ms)
