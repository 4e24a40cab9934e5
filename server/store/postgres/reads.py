"""Reads in groups: what queues while a connection waits goes out together, in one round trip."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from server.domain.errors import OverloadedError, UnavailableError
from server.store.batch import strip
from server.store.postgres.errors import is_away, is_passing
from server.store.postgres.link import KeptLink, end_of
from server.store.postgres.place import LOCAL_LIMITS, Link, Place

MOST_TOGETHER: Final = 64
"""How many statements go out together. Their answers are in memory at the same time."""
MOST_KEYS: Final = 256
"""How many rows are asked for by their keys together."""
MOST_QUEUED: Final = 20_000

Rows: TypeAlias = list[tuple[Any, ...]]


@dataclass(slots=True, eq=False)
class _Read:
    """A statement, who waits for its rows, and since when in the loop's time.

    `key`: it stands for one row of a statement that takes many.
    """

    statement: str
    values: Any
    future: asyncio.Future[Rows]
    since_s: float
    key: str | None = None


class ReadLane:
    """One connection that reads for all who ask."""

    def __init__(self, place: Place, number: int) -> None:
        self._link = KeptLink(place, f"reads {number}")
        self._queue: list[_Read] = []
        self._woken = asyncio.Event()
        self._is_closed = False
        self._task = asyncio.create_task(self._run())

    @property
    def waiting(self) -> int:
        """How many reads wait."""
        return len(self._queue)

    async def read(self, statement: str, values: Any = ()) -> Rows:
        """The rows of a statement. Raises UnavailableError and the like."""
        return await self._submit(statement, values)

    async def read_one(self, statement: str, key: str) -> Rows:
        """The row of a key, of a statement that has one parameter, an array of keys, and rows that begin with
        theirs. Raises UnavailableError and the like.
        """
        return await self._submit(statement, None, key)

    async def close(self) -> None:
        """Ends the reads that wait, and lets go of the connection."""
        self._is_closed = True
        self._woken.set()
        await end_of(self._task)

    async def _submit(self, statement: str, values: Any, key: str | None = None) -> Rows:
        if self._is_closed:
            raise UnavailableError("The service is stopping")
        if len(self._queue) >= MOST_QUEUED:
            raise OverloadedError("too many reads are waiting")
        loop = asyncio.get_running_loop()
        one = _Read(statement, values, loop.create_future(), loop.time(), key)
        self._queue.append(one)
        self._woken.set()
        return await one.future

    async def _run(self) -> None:
        while not self._is_closed:
            await self._woken.wait()
            self._woken.clear()
            while self._queue and not self._is_closed:
                await self._carry_out(self._take())
        for one in self._queue:
            _refuse(one, UnavailableError("The service is stopping"))
        self._queue.clear()
        await self._link.drop()

    def _take(self) -> list[_Read]:
        """Takes what goes out together: at most MOST_TOGETHER statements, one for all keys of a kind."""
        taken: list[_Read] = []
        statements = 0
        keyed: dict[str, int] = {}
        for one in self._queue:
            if one.key is None or one.statement not in keyed:
                statements += 1
            if statements > MOST_TOGETHER or keyed.get(one.statement, 0) >= MOST_KEYS:
                break
            if one.key is not None:
                keyed[one.statement] = keyed.get(one.statement, 0) + 1
            taken.append(one)
        del self._queue[: len(taken)]
        return [one for one in taken if not one.future.cancelled()]

    async def _carry_out(self, group: list[_Read]) -> None:
        loop, wait_s = asyncio.get_running_loop(), self._link.place.wait_s
        while group:
            was_open = not self._link.is_lost
            try:
                link = await self._link.open()
                with self._link.bounded():
                    await self._read(link, group)
            except Exception as error:  # noqa: BLE001 - it goes to who has asked
                failure = strip(error)
            else:
                return
            if is_away(failure) or not self._link.is_idle:
                await self._link.drop()
            is_late = loop.time() >= group[-1].since_s + wait_s
            if is_away(failure) and not self._is_closed and (was_open or not is_late):
                if not was_open:
                    group = self._give_up_late(group, failure)
                await self._link.pause()
            elif len(group) > 1 and not is_away(failure) and not (is_passing(failure) and is_late):
                # Only the culprit is to fail, unless each would take too long.
                for one in group:
                    await self._carry_out([one])
                return
            else:
                public = self._link.refuse(failure)
                for one in group:
                    _refuse(one, public)
                return

    def _give_up_late(self, group: list[_Read], failure: Exception) -> list[_Read]:
        """Refuses those that have waited for as long as a read may, and returns the others."""
        latest_s = asyncio.get_running_loop().time() - self._link.place.wait_s
        if late := [one for one in group if one.since_s <= latest_s]:
            public = self._link.refuse(failure)
            for one in late:
                _refuse(one, public)
        return [one for one in group if one.since_s > latest_s]

    async def _read(self, link: Link, group: Sequence[_Read]) -> None:
        """Has a group answered in one round trip. Raises psycopg.Error, having answered nobody."""
        keyed: dict[str, dict[str, list[_Read]]] = {}
        single: list[_Read] = []
        for one in group:
            if one.key is None:
                single.append(one)
            else:
                keyed.setdefault(one.statement, {}).setdefault(one.key, []).append(one)
        async with link.pipeline():
            if link.prepare_threshold is None:
                await link.execute("BEGIN READ ONLY")
                await link.execute(LOCAL_LIMITS)
            cursors = [await link.execute(one.statement, one.values) for one in single]
            by_key = [await link.execute(statement, [list(keys)]) for statement, keys in keyed.items()]
            if link.prepare_threshold is None:
                await link.execute("COMMIT")
        answers = [(one, await cursor.fetchall()) for one, cursor in zip(single, cursors, strict=True)]
        for cursor, keys in zip(by_key, keyed.values(), strict=True):
            found = {str(row[0]): row for row in await cursor.fetchall()}
            answers += [
                (one, [found[key]] if key in found else []) for key, askers in keys.items() for one in askers
            ]
        for one, answer in answers:
            if not one.future.done():
                one.future.set_result(answer)


def _refuse(one: _Read, error: Exception) -> None:
    if not one.future.done():
        # Each caller adds its frames to an error, so each has its own.
        same = UnavailableError(str(error)) if isinstance(error, UnavailableError) else error
        one.future.set_exception(same)
