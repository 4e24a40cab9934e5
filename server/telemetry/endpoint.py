"""`GET /metrics` on an address of its own, and the watch over the event loop that it tells of."""

import asyncio
import socket
from contextlib import suppress
from typing import Final

from server.telemetry.metrics import Metrics
from server.telemetry.text import CONTENT_TYPE, write_families

PATH: Final = "/metrics"

MAX_CONNECTIONS: Final = 16
"""How many connections there may be; one more is closed at once."""

MAX_HEAD_BYTES: Final = 8192
HEAD_SECONDS: Final = 2.0
"""How long a request's head may be, and take."""

WRITE_SECONDS: Final = 10.0
"""How long a client may take to read the answer."""

FRESH_SECONDS: Final = 0.5
"""How long an answer is good for others who ask: scrapes cost the same however many scrape."""

TICK_SECONDS: Final = 0.1
"""How often the event loop is asked whether it is late."""

_STATUSES: Final = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}


class MetricsEndpoint:
    """Serves metrics on a socket that listens, for the loop that runs."""

    def __init__(self, metrics: Metrics, listener: socket.socket) -> None:
        self._metrics = metrics
        self._listener = listener
        self._server: asyncio.Server | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()
        self._is_stopping = False
        self._text = b""
        self._written_s = float("-inf")

    async def start(self) -> None:
        """Accepts connections."""
        self._server = await asyncio.start_server(self._serve, sock=self._listener, limit=MAX_HEAD_BYTES)
        self._ticking = asyncio.create_task(self._tick())

    async def stop(self) -> None:
        """Closes the port and the connections."""
        self._is_stopping = True
        if self._server:
            self._server.close()
        tasks = [*self._tasks, *([self._ticking] if self._ticking else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _tick(self) -> None:
        """Tells how late the loop is, until cancelled."""
        now_s = asyncio.get_running_loop().time
        while True:
            due_s = now_s() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            self._metrics.note_loop_lag(max(0.0, now_s() - due_s))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._tasks) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._tasks.add(task)
        try:
            # A client that goes away, says too much or nothing gets no answer.
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                async with asyncio.timeout(HEAD_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                answer = await self._answer(head)
                async with asyncio.timeout(WRITE_SECONDS):
                    writer.write(answer)
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        except asyncio.CancelledError:
            # asyncio's own callback would log a task that ends so.
            if not self._is_stopping:
                raise
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _answer(self, head: bytes) -> bytes:
        """The answer to a request, of which the connection ends."""
        line = head.split(b"\r\n", 1)[0].split(b" ")
        if len(line) != 3:
            return _response(400, b"")
        method, target, _ = line
        if target.partition(b"?")[0] != PATH.encode():
            return _response(404, b"There is only /metrics.\n")
        if method not in (b"GET", b"HEAD"):
            return _response(405, b"")
        text = await self._read()
        return _response(200, text, CONTENT_TYPE, with_body=method == b"GET")

    async def _read(self) -> bytes:
        """The metrics as text, no older than FRESH_SECONDS."""
        now_s = asyncio.get_running_loop().time
        async with self._lock:
            if now_s() - self._written_s > FRESH_SECONDS:
                self._text = await write_families(await self._metrics.read())
                self._written_s = now_s()
            return self._text


def _response(
    status: int, body: bytes, content_type: str = "text/plain; charset=utf-8", *, with_body: bool = True
) -> bytes:
    head = (
        f"HTTP/1.1 {status} {_STATUSES[status]}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n"
        f"{'Allow: GET, HEAD' + chr(13) + chr(10) if status == 405 else ''}Connection: close\r\n\r\n"
    )
    return head.encode() + (body if with_body else b"")
