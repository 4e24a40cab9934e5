"""Clients that take a second for each byte."""

import asyncio
import uuid
from collections import Counter
from typing import Final

from eliza.sessions.v1 import message_service_pb2
from tests.campaigns.http2_frames import DATA, END_HEADERS, HEADERS, START, frame, headers, message, opened
from tests.campaigns.http_attack import SESSIONS
from tests.support.service import Serve


class SlowClients:
    """Connections that send a byte a second each, with a request that never ends while they do."""

    PACE_SECONDS: Final = 1.0

    def __init__(self, service: Serve) -> None:
        big = message_service_pb2.SendMessageRequest(
            session_id=str(uuid.UUID(int=2)), content="x" * 4000
        ).SerializeToString()
        send = headers("/eliza.sessions.v1.MessageService/SendMessage")
        watch = headers("/eliza.sessions.v1.SessionService/WatchSessions")
        head = (
            b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" % SESSIONS.encode()
        )
        self._clients: Final = {
            # By what is slow: what they send at once, and what byte by byte.
            "heads": (
                (service.rest, b"", head + b"X: " + b"y" * 1000),
                (service.grpc, b"", START + opened()),
            ),
            "bodies": (
                (service.rest, head + b"Content-Length: 4000\r\n\r\n", b" " * 4000),
                (service.rest, head + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 1000),
                (service.grpc, START + frame(HEADERS, END_HEADERS, 1, send), frame(DATA, 0, 1, message(big))),
                (
                    service.grpc,
                    START + frame(HEADERS, END_HEADERS, 1, watch),
                    frame(DATA, 0, 1, message(big)),
                ),
            ),
        }
        self.opened = 0
        self.cut: Counter[str] = Counter()

    def run(self, kind: str, count: int, seconds: float) -> None:
        """So many of them on each port, for so long."""
        asyncio.run(self._run(kind, count, seconds))

    async def _run(self, kind: str, count: int, seconds: float) -> None:
        clients = self._clients[kind]
        running = []
        for port in {address for address, _, _ in clients}:
            mine = [client for client in clients if client[0] == port]
            running += [self._one(*mine[number % len(mine)], seconds) for number in range(count)]
        for outcome in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(outcome, BaseException):
                self.cut[type(outcome).__name__] += 1

    async def _one(self, address: str, at_once: bytes, slowly: bytes, seconds: float) -> None:
        host, _, port = address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        self.opened += 1
        try:
            writer.write(at_once)
            for byte in slowly[: max(1, round(seconds / self.PACE_SECONDS))]:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(self.PACE_SECONDS)
        finally:
            writer.transport.abort()
