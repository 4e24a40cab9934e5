"""A facade in this process, without a server behind it."""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Collection
from functools import partial
from typing import Any

import pytest

from rest_facade import main
from rest_facade.front_door.connections import Connection, Connections
from rest_facade.upstream.backend import Backend, dial
from tests.support.waiting import PATIENCE_SECONDS

HEALTH = b"GET /api/messaging/sessions/health HTTP/1.1\r\nHost: localhost\r\n\r\n"

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class VisibleConnections(Connections):
    """Connections whose counts tests can read."""

    @property
    def clients(self) -> Collection[Connection]:
        """Those that there are."""
        return self._clients

    @property
    def counts(self) -> Counter[str]:
        """How many each client has, where that is counted."""
        return self._counts

    @property
    def lagging(self) -> Collection[Connection]:
        """Those whose clients do not read."""
        return self._lagging

    @property
    def held_bytes(self) -> int:
        """How much of what came in is held for all."""
        return self._held_bytes

    async def are_gone(self) -> None:
        """Waits until there is none."""
        await asyncio.wait_for(self.wait_until_none(), PATIENCE_SECONDS)


class Facade:
    """A facade without a server behind it. `shared` is what its connections share."""

    def __init__(self, port: int, shared: VisibleConnections) -> None:
        self.port = port
        self.shared = shared
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self, content: bytes = b"") -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        writer.write(content)
        return reader, writer

    async def status(self, content: bytes = HEALTH) -> int:
        """The status of the answer to a request on a connection of its own."""
        reader, writer = await self.connect(content)
        try:
            return await status(reader)
        finally:
            writer.close()

    def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


async def status(reader: asyncio.StreamReader) -> int:
    """The status of the next answer; what follows its head is left."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split()[1])


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection ends."""
    parts = b""
    async with asyncio.timeout(PATIENCE_SECONDS):
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(65_536):
                parts += part
    return parts


@contextlib.asynccontextmanager
async def running(
    monkeypatch: pytest.MonkeyPatch, server: str = "127.0.0.1:1", **arguments: Any
) -> AsyncIterator[Facade]:
    made: list[VisibleConnections] = []

    def make(*given: Any) -> VisibleConnections:
        made.append(VisibleConnections(*given))
        return made[-1]

    monkeypatch.setattr("rest_facade.main.Connections", make)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    serving = main.Facade(Backend(partial(dial, server), 30, 120), listener, max_requests=100, **arguments)
    await serving.start()
    facade = Facade(port, made[0])
    try:
        yield facade
    finally:
        facade.close()
        await serving.stop(0.1)
