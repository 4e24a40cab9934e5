"""A proxy between a client and a server that cuts connections, or holds what is sent, where a test says."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from enum import Enum

from tests.support.waiting import eventually


class Verdict(Enum):
    """What becomes of some bytes."""

    PASS = "pass"
    CUT = "cut"
    """The connection ends, and they do not arrive."""
    PASS_AND_CUT = "pass and cut"
    """They arrive, and then the connection ends."""
    PASS_HALF_AND_CUT = "pass half and cut"
    """The first half arrives, and then the connection ends."""


Rule = Callable[[bytes, bool], Verdict]
"""Judges bytes, and whether they come from the client."""


def let_pass(data: bytes, is_clients: bool) -> Verdict:
    return Verdict.PASS


class CuttingProxy:
    """Listens on `port` and leads to another one. To be used as a context."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.rule: Rule = let_pass
        # Makes a rule of its own for each connection, which may then know what has passed on it.
        self.make_rule: Callable[[], Rule] | None = None
        self.cuts = 0
        self.port = 0

    async def __aenter__(self) -> "CuttingProxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.release()
        self.cut_all()
        await self.until_idle()

    def hold(self) -> None:
        """Lets nothing through from now on, without a word."""
        self._flows.clear()

    def release(self) -> None:
        """Lets through what was held, and what comes."""
        self._flows.set()

    def cut_all(self) -> None:
        """Ends the connections that are open."""
        for writer in list(self._writers):
            writer.close()

    async def until_idle(self) -> None:
        """Waits until no connection is open."""
        await eventually(lambda: not self._writers)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with suppress(OSError):
                onward = await asyncio.open_connection("127.0.0.1", self._target_port)
                await self._join((reader, writer), onward)
        finally:
            writer.close()
            self._writers.discard(writer)

    async def _join(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        rule = self.make_rule() if self.make_rule else lambda *told: self.rule(*told)
        ways = [
            asyncio.create_task(self._carry(client[0], server[1], rule, is_clients=True)),
            asyncio.create_task(self._carry(server[0], client[1], rule, is_clients=False)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            server[1].close()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rule: Rule, *, is_clients: bool
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._flows.wait()
                verdict = rule(data, is_clients)
                if verdict is not Verdict.CUT:
                    is_half = verdict is Verdict.PASS_HALF_AND_CUT
                    writer.write(data[: len(data) // 2] if is_half else data)
                    await writer.drain()
                if verdict is not Verdict.PASS:
                    self.cuts += 1
                    return
