"""Bounds the bytes of large requests under way: gRPC keeps each until its call ends."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from server.domain.errors import OverloadedError
from server.rpc.parsing import MAX_REQUEST_BYTES

MAX_HELD_BYTES: Final = 32 * 1024 * 1024
"""How many bytes of large requests (more than MAX_REQUEST_BYTES) may be under way.

The bounds on calls and streams bound small requests.
"""

Read = Callable[[Any], Any]
"""Makes the request from the received bytes. Within one process these are the request itself."""


class LargeRequests:
    """The bytes of the large requests under way, of all calls and streams."""

    def __init__(self) -> None:
        self._bytes = 0
        self._room = asyncio.Event()

    def hold(self, size_bytes: int) -> None:
        """Counts the bytes of a large request. Raises OverloadedError."""
        if size_bytes and self._bytes + size_bytes > MAX_HELD_BYTES:
            raise OverloadedError("too many large requests are under way")
        self._bytes += size_bytes

    def let_go(self, size_bytes: int) -> None:
        """Counts them no longer."""
        if size_bytes:
            self._bytes -= size_bytes
            self._room.set()

    @contextmanager
    def held(self, raw: Any) -> Iterator[None]:
        """Counts the bytes of a request; one that is a stream has none yet. Raises OverloadedError."""
        size_bytes = counted_bytes(raw)
        self.hold(size_bytes)
        try:
            yield
        finally:
            self.let_go(size_bytes)

    async def read_many(self, read: Read, raws: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        """Reads the requests of a stream.

        A large one waits, where others are under way, until there is room for it.
        """
        async for raw in raws:
            while (size := counted_bytes(raw)) and self._bytes + size > MAX_HELD_BYTES:
                self._room.clear()
                await self._room.wait()
            with self.held(raw):
                yield read(raw)


def counted_bytes(raw: Any) -> int:
    """How many bytes of a request count: none of a small one."""
    return len(raw) if isinstance(raw, bytes) and len(raw) > MAX_REQUEST_BYTES else 0
