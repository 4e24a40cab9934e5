"""Where in the queue of an agent its first delivery is, so that a look begins there.

What was delivered leaves dead rows before it, and entries of the index that lead to them. PostgreSQL cannot
remove these while a transaction is open that is as old, a dump say: then each look would read all of them.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from server.store.postgres.group import NOW

MARGIN_MS: Final = 2_000
"""How far before the first delivery a look begins: others may have been due earlier and be stored later."""
FULL_LOOK_SECONDS: Final = 5.0
"""How often a look begins at the very start, for what is even later, and where the clock was set back."""
_START_MS: Final = 1
"""Before all that is due at an instant. What is due whatever the time has 0, and is looked for by itself."""

# What becomes due from now on may lie before a first one that rests.
_OLDEST: Final = (
    f"SELECT least(head_due_ms, ({NOW})) FROM deliveries WHERE agent_id = %(agent)s::uuid "
    "AND head_due_ms >= %(from)s ORDER BY head_due_ms LIMIT 1"
)
STATEMENTS: Final = {"oldest_delivery": _OLDEST}
"""By name, for the tests of their plans."""


class Front:
    """The front of the queue of one agent."""

    def __init__(self) -> None:
        self._oldest_ms = _START_MS
        # When each kind of look was last a full one, in the loop's time.
        self._full_s: dict[str, float] = {}

    @property
    def begins_ms(self) -> int:
        """From which instant on most looks begin, in ms."""
        return max(self._oldest_ms - MARGIN_MS, _START_MS)

    def begin(self, kind: str) -> int:
        """Tells from which instant on a look of a kind is to begin, in ms."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._full_s.get(kind, -FULL_LOOK_SECONDS) >= FULL_LOOK_SECONDS:
            self._full_s[kind] = now_s
            return _START_MS
        return self.begins_ms

    def note(self, oldest: list[tuple[Any, ...]]) -> None:
        """Takes note of the rows of `oldest`, of a look that has ended."""
        if oldest:
            self._oldest_ms = int(oldest[0][0])

    def note_due(self, due_ms: int) -> None:
        """Takes note of a delivery that a look has found: those that follow are to find it, too."""
        self._oldest_ms = min(self._oldest_ms, max(due_ms, _START_MS))


def oldest(values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The statement that finds the first delivery of a queue, whoever has locked it or has it in hand."""
    return _OLDEST, values
