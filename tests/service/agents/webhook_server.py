"""An HTTP server on bare sockets that does to each request what the test says, right or wrong, and keeps what
it was asked.
"""

import asyncio
import json
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeAlias

JSON = "application/json"
EVENTS = "text/event-stream"


@dataclass(frozen=True)
class Request:
    """What was asked. The names of headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """The way back to whoever asked."""

    def __init__(
        self, server: "Server", request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.request = request
        self._server = server
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Sends bytes, as fast as they are taken."""
        self._server.sent += len(data)
        self._writer.write(data)
        await self._writer.drain()

    async def gone(self) -> None:
        """Says nothing more, and waits until the other side has gone."""
        await self._reader.read()

    def reset(self) -> None:
        """Breaks the connection off."""
        # Without it the other side would see a mere end.
        self._writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self._writer.transport.abort()


Behaviour: TypeAlias = Callable[[Connection], Awaitable[None]]


class Server:
    """Listens on `host` and `port`. The first request meets the first behaviour, and so on; the last one goes
    on for ever.

    `connections` counts who came, `requests` has what they asked, `sent` counts the bytes of the answers.
    While it is held, it answers nothing. A context manager, which closes it.
    """

    def __init__(
        self,
        *behaviours: Behaviour,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        held: bool = False,
    ) -> None:
        self.behaviours = list(behaviours)
        self.requests: list[Request] = []
        self.connections = 0
        self.sent = 0
        self.host, self.port = host, port
        self._tls = tls
        self._held = held
        listening = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(listening)), daemon=True)
        self._thread.start()
        assert listening.wait(10)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)

    def release(self) -> None:
        """Answers from now on."""
        self._loop.call_soon_threadsafe(self._open.set)

    async def _run(self, listening: threading.Event) -> None:
        self._loop, self._open, self._ended = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        # What a client does to a connection that it gives up is no failure of the test.
        self._loop.set_exception_handler(lambda *_: None)
        if not self._held:
            self._open.set()
        server = await asyncio.start_server(self._serve, self.host, self.port, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        listening.set()
        await self._ended.wait()
        server.close()
        for task in (serving := asyncio.all_tasks() - {asyncio.current_task()}):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        # Two turns of the loop, in which what was broken off is closed.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._behave(reader, writer)
            writer.close()
            await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    async def _behave(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = head.rstrip().split("\r\n")
        method, path, _ = line.split(" ")
        headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
        request = Request(
            method, path, headers, await reader.readexactly(int(headers.get("content-length", "0")))
        )
        self.requests.append(request)
        behaviour = self.behaviours[min(len(self.requests), len(self.behaviours)) - 1]
        await self._open.wait()
        await behaviour(Connection(self, request, reader, writer))


def head(status: int = 200, content_type: str = JSON, headers: Mapping[str, str] | None = None) -> bytes:
    """The beginning of a response that ends with the connection."""
    given = {"Content-Type": content_type, "Connection": "close", **(headers or {})}
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        *(f"{name}: {value}" for name, value in given.items() if value),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def said(*parts: bytes) -> Behaviour:
    """Sends these bytes and closes."""

    async def behave(connection: Connection) -> None:
        for part in parts:
            await connection.send(part)

    return behave


def answer(
    body: object = b"", status: int = 200, content_type: str = JSON, headers: Mapping[str, str] | None = None
) -> Behaviour:
    """A whole response; a body that is not bytes is written as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return said(head(status, content_type, {"Content-Length": str(len(data)), **(headers or {})}) + data)


def reply(content: str = "a reply", **fields: object) -> Behaviour:
    """A reply, as a webhook gives it in one piece."""
    return answer({"content": content, **fields})


def event(name: str, data: object) -> bytes:
    """One event of an event stream."""
    return f"event: {name}\ndata: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


def streamed(*events: bytes) -> Behaviour:
    """An event stream, one event at a time."""
    return said(head(content_type=EVENTS), *events)


def hanging(*parts: bytes) -> Behaviour:
    """Sends these bytes and then nothing, with the connection open."""

    async def behave(connection: Connection) -> None:
        for part in parts:
            await connection.send(part)
        await connection.gone()

    return behave


def reset(*parts: bytes) -> Behaviour:
    """Sends these bytes and breaks off."""

    async def behave(connection: Connection) -> None:
        for part in parts:
            await connection.send(part)
        connection.reset()

    return behave


def flood(start: bytes, piece: bytes, total: int) -> Behaviour:
    """Sends `start`, then `piece` again and again, up to `total` bytes."""

    async def behave(connection: Connection) -> None:
        await connection.send(start)
        for _ in range(total // len(piece)):
            await connection.send(piece)

    return behave


def drip(start: bytes, body: bytes, seconds: float) -> Behaviour:
    """Sends `start`, then a byte at a time."""

    async def behave(connection: Connection) -> None:
        await connection.send(start)
        for byte in body:
            await asyncio.sleep(seconds)
            await connection.send(bytes([byte]))

    return behave
