"""The lanes of a store. A session belongs to one of them by its id, so that its writes keep their order."""

import zlib
from collections.abc import Callable

from server.store.contract import CommitListener
from server.store.postgres.lane import Lane
from server.store.postgres.place import Place
from server.telemetry.telemetry import OFF, Telemetry
from server.telemetry.traces import NO_TRACES, Traces

MOST_LANES = 16


class Lanes:
    """See the module. `first`: the lane of all that is of no session."""

    def __init__(
        self,
        place: Place,
        slot: int,
        on_time: Callable[[int], None],
        most_queued: int,
        telemetry: Telemetry = OFF,
        traces: Traces = NO_TRACES,
    ) -> None:
        self.listeners: list[CommitListener] = []
        self._lanes = [
            # Lane 0 is that of the counts which all share.
            Lane(
                place,
                1 + slot * MOST_LANES + number,
                self.listeners,
                # Of two answers the one that is read last may be the older.
                _ignore if number else on_time,
                most_queued,
                telemetry,
                traces,
            )
            for number in range(place.lanes)
        ]
        self.first = self._lanes[0]

    def of(self, session_id: str) -> Lane:
        """The lane of a session."""
        if len(self._lanes) == 1:
            return self.first
        return self._lanes[zlib.crc32(session_id.encode("utf-8", "replace")) % len(self._lanes)]

    async def close(self) -> None:
        """Finishes what was accepted."""
        for lane in self._lanes:
            await lane.close()


def _ignore(now_ms: int) -> None:
    """The first lane tells the time."""
