"""Bounds what is held of answers while their clients read them. A part is counted once for all clients."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

MAX_UNSENT_BYTES: Final = 3 * 1024 * 1024
"""How many bytes may wait to be sent on the connections whose clients lag behind, together.

Beyond it nothing large is read for anybody.
"""

SMALL_BYTES: Final = 64 * 1024
"""How many bytes of an answer a connection gets at a time. This much stays held however many wait."""

TURN_SECONDS: Final = 0.05
"""How long one reader may keep the next from reading, once there is room again."""

T = TypeVar("T")


class Answers:
    """Knows the parts of answers that are being sent, each once however many clients are sent it."""

    def __init__(self) -> None:
        # By the identity of each part: how many connections send it, and the part.
        self._held: dict[int, tuple[int, bytes]] = {}
        self._bytes = 0
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    @property
    def held_bytes(self) -> int:
        """How many bytes all parts are."""
        return self._bytes

    @property
    def is_full(self) -> bool:
        """Whether too much is held for anything large to be read."""
        return self._bytes >= MAX_UNSENT_BYTES

    def hold(self, part: bytes) -> None:
        """Counts a part that a connection begins to send. To be let go after it."""
        count, _ = self._held.get(id(part), (0, part))
        self._held[id(part)] = count + 1, part
        self._bytes += 0 if count else len(part)

    def let_go(self, part: bytes) -> None:
        """Notes that a connection has sent a part."""
        count, _ = self._held[id(part)]
        if count > 1:
            self._held[id(part)] = count - 1, part
            return
        del self._held[id(part)]
        self._bytes -= len(part)
        if not self.is_full:
            self._freed.set()

    async def read(self, read: Callable[[], Awaitable[T]]) -> T:
        """Reads an answer. While too much is held, readers wait and go in turn."""
        return await (self.read_in_turn(read) if self.is_full else read())

    async def read_in_turn(self, read: Callable[[], Awaitable[T]]) -> T:
        """Reads an answer in turn with other readers, once there is room."""
        async with self._turn:
            while self.is_full:
                self._freed.clear()
                await self._freed.wait()
            reading = asyncio.ensure_future(read())
            try:
                await asyncio.wait([reading], timeout=TURN_SECONDS)
                # Others go on before the next one begins.
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                reading.cancel()
                raise
        try:
            return await reading
        finally:
            # An error leads to this frame, and the frame must not lead back to it.
            del reading
