"""Something that is to be done once, at the earliest of the times that were named."""

import asyncio
from collections.abc import Callable


class Alarm:
    """See the module.

    It waits by the loop's time. What it has waited for is due whatever the clock says, which may stand, or be
    set back: `waited_ms` is that instant, in ms, until it is taken.
    """

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._timer: asyncio.TimerHandle | None = None
        # In the loop's time. The timer itself does not say it: uvloop makes none of less than a millisecond.
        self._end_s = 0.0
        self._waited_ms = 0

    @property
    def is_set(self) -> bool:
        """Whether it waits."""
        return self._timer is not None

    def set(self, seconds: float, due_ms: int = 0) -> None:
        """Has it end so much later, unless it does before that anyway. Then `due_ms` is due."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + seconds
        if self._timer and self._end_s <= end_s:
            return
        self.cancel()
        self._end_s = end_s
        self._timer = loop.call_later(max(seconds, 0), self._end, due_ms)

    def cancel(self) -> None:
        """Has it wait no longer."""
        if self._timer:
            self._timer.cancel()
        self._timer = None

    def take_waited_ms(self) -> int:
        """The latest instant that was waited for since this was last asked; 0: none."""
        waited_ms, self._waited_ms = self._waited_ms, 0
        return waited_ms

    def _end(self, due_ms: int) -> None:
        self._timer = None
        self._waited_ms = max(self._waited_ms, due_ms)
        self._on_end()
