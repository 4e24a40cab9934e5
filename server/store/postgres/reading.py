"""The part of a PostgreSQL store that reads."""

from typing import Any

from server.domain.errors import UnavailableError
from server.store.postgres.place import Place
from server.store.postgres.reads import ReadLane, Rows

READ_LANES = 2


class Reading:
    """Reads by the lane with the fewest waiting."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._closed = False
        self._read_lanes = [ReadLane(place, number) for number in range(READ_LANES)]

    async def _read(self, statement: str, values: Any = ()) -> Rows:
        """The rows of a statement. Raises UnavailableError and the like."""
        return await self._lane().read(statement, values)

    async def _read_one(self, statement: str, key: str) -> Rows:
        """See `ReadLane.read_one`."""
        return await self._lane().read_one(statement, key)

    def _lane(self) -> ReadLane:
        if self._closed:
            raise UnavailableError("The service is stopping")
        return min(self._read_lanes, key=lambda lane: lane.waiting)

    async def _close_reading(self) -> None:
        for lane in self._read_lanes:
            await lane.close()
