"""The Engine.IO server under Socket.IO. What clients send is checked here, before the library reads it.

By itself the library answers 200 to a payload that it cannot read, reads bodies of any size, and lets
unreadable frames end in a stack trace. What is used of it beside its documented interface is named here.
"""

import asyncio
import re
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs

import socketio
import structlog
from engineio import exceptions
from engineio.async_socket import AsyncSocket
from engineio.packet import CLOSE, MESSAGE, PONG, Packet

from rest_facade.bridge import ClientGoneError, Message, Receive, Send, read_body
from rest_facade.connections import CLIENT, MAX_PER_CLIENT
from rest_facade.engine_refusals import AllKeys, refuse, telling, unreadable
from rest_facade.errors import RETRY_AFTER_SECONDS, ApiError

MAX_PACKETS: Final = 1000
"""How many packets a POST may hold."""

SLICE: Final = 16
"""How many packets are handled before the loop serves others, and how many the answer to a poll holds at most.

The Python client reads no more than 16 of an answer.
"""

MAX_WAITING: Final = 3 * MAX_PACKETS
"""How many packets may wait for a polling client: the answers to a full POST, and as much again."""

MAX_UNREAD: Final = 500
"""How many packets may wait for a WebSocket before its own are read no more."""

MAX_POLL_CHARS: Final = 1024 * 1024
"""How many characters the answer to a poll holds before no further packet is added to it."""

CONNECT_SECONDS: Final = 10.0
"""How long a socket may take from its handshake until it is connected to Socket.IO, which it is by `40`."""

MAX_CONNECTING: Final = 1000
"""How many sockets may be about to connect. For one more the oldest of them ends, which has not come in time it seems."""

MAX_POLLING: Final = 10_000
"""How many sockets there may be before a handshake of polling is refused. One client may have MAX_PER_CLIENT by polling."""

_SERVER_NAMES: Final = ("handlers", "sockets", "on", "ping_interval", "ping_timeout", "log_message_keys")
_SOCKET_NAMES: Final = (
    *("poll", "receive", "close", "queue", "sid"),
    *("closed", "connected", "upgraded", "upgrading"),
    *("schedule_ping", "_send_ping", "last_ping"),
)
"""What is used of the library's server and of its sockets."""

_METHODS: Final = ("GET", "OPTIONS", "POST")

_FROM_CLIENTS: Final = (CLOSE, PONG, MESSAGE)
"""The types of packets that clients send, but for those that change the transport."""

_UNREADABLE: Final = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What the library raises when it decodes something that is not Socket.IO. Our own handlers raise nothing."""

_HANDSHAKE: Final = ("2probe", "5")
"""The frames with which a WebSocket takes over from polling."""

_BINARY: Final = ("5", "6")
"""How events and acknowledgements begin that announce binary packets."""

_SEPARATOR: Final = "\x1e"
_PACKET: Final = re.compile(r"4[0-6]|[^4]\Z|b")
"""How packets begin that clients send: one of Socket.IO, one without anything, or a binary one."""


_log = structlog.get_logger(__name__)


class Engine:
    """An ASGI app: the Socket.IO server's, given only what it can bear."""

    def __init__(self, io: socketio.AsyncServer, path: str, max_bytes: int) -> None:
        """`max_bytes` is the greatest size of a POST's body."""
        self._eio = io.eio
        self._library = socketio.ASGIApp(io, socketio_path=path)
        self._max_bytes = max_bytes
        # The timers of the sockets that are about to connect, in the order of their handshakes.
        self._connecting: dict[str, asyncio.TimerHandle] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._ping_tasks: dict[str, asyncio.Task[None]] = {}
        # The clients of the sockets that began with polling and have bounds of their own.
        self._clients: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._is_checked = not _find_missing(self._eio)
        if self._is_checked:
            self._eio.log_message_keys = AllKeys()
            self._eio.on("connect", self._prepare(self._eio.handlers["connect"]))
            self._eio.on("disconnect", self._forget(self._eio.handlers["disconnect"]))
            self._eio.on("message", self._guard(self._eio.handlers["message"]))

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serves one connection, as ASGI 3 wants it."""
        if not self._is_checked:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._serve_websocket(scope, receive, send)
        elif scope["method"] == "POST":
            await self._serve_post(scope, receive, send)
        elif scope["method"] not in _METHODS:
            told = "Socket.IO does not have this method"
            await refuse(send, ApiError("METHOD_NOT_ALLOWED", told, method=scope["method"], allowed=list(_METHODS)))
        elif scope["method"] == "GET" and "sid" not in _query(scope) and self._is_full_for(scope["state"].get(CLIENT)):
            await refuse(send, _full())
        else:
            await self._app(scope, _giving(b""), send)

    async def _app(self, scope: Message, receive: Receive, send: Send) -> None:
        await self._library(scope, receive, telling(send))

    async def end(self, transport: Any) -> None:
        """Ends a connection. Its poll, or its WebSocket, ends with it."""
        await transport.close(wait=False)
        transport.queue.put_nowait(None)
        if not transport.upgraded:
            self._eio.sockets.pop(transport.sid, None)

    def note_connected(self, socket_id: str) -> None:
        """Notes that a socket is connected to Socket.IO, and may stay."""
        if timer := self._connecting.pop(socket_id, None):
            timer.cancel()

    def _is_full_for(self, client: str | None) -> bool:
        return len(self._eio.sockets) >= MAX_POLLING or (client is not None and self._counts[client] >= MAX_PER_CLIENT)

    def _end_unconnected(self, socket_id: str) -> None:
        """Ends a socket that has not connected in time."""
        self._connecting.pop(socket_id).cancel()
        if transport := self._eio.sockets.get(socket_id):
            task = asyncio.ensure_future(self.end(transport))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _serve_post(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handles the packets of a POST. What cannot be read, or is too much, is a 400 and ends the connection."""
        query = _query(scope)
        transport = self._eio.sockets.get(query.get("sid", [""])[0])
        if transport is not None and transport.closed:
            self._eio.sockets.pop(transport.sid, None)
            transport = None
        left = b""
        if transport is not None and transport.connected and not transport.upgraded:
            try:
                if query.get("transport", ["polling"])[0] != "polling":
                    raise unreadable("a POST belongs to the transport polling")
                body = await read_body(receive, self._max_bytes)
                if body is None:
                    raise unreadable(f"the payload is larger than {self._max_bytes} bytes")
                left = await self._handle(transport, _packets(body))
            except ApiError as error:
                _log.info("a polling client's request cannot be read", reason=error.message)
                await self.end(transport)
                await refuse(send, error)
                return
            except ClientGoneError:
                return
        # The library answers. All that it still has to do is to close the connection, where the client says so.
        of_body = (b"content-length", b"transfer-encoding")
        headers = [header for header in scope["headers"] if header[0] not in of_body]
        headers.append((b"content-length", str(len(left)).encode()))
        await self._app({**scope, "headers": headers}, _giving(left), send)

    async def _handle(self, transport: Any, texts: list[str]) -> bytes:
        """Handles packets in order, some at a time; returns the one by which the client closes, if any.

        Raises ApiError.
        """
        for count, text in enumerate(texts, 1):
            packet = _read(text)
            if packet.packet_type == CLOSE:
                return text.encode()
            await transport.receive(packet)
            if transport.closed:
                raise unreadable("a packet is not one of Socket.IO, or the connection has ended")
            if transport.queue.qsize() > MAX_WAITING:
                raise unreadable(f"more than {MAX_WAITING} packets wait to be polled")
            if count % SLICE == 0:
                await asyncio.sleep(0)
        return b""

    async def _serve_websocket(self, scope: Message, receive: Receive, send: Send) -> None:
        """Hands on the frames that can be read; one that cannot ends the connection."""
        polling = self._eio.sockets.get(_query(scope).get("sid", [""])[0])
        expected = list(_HANDSHAKE) if polling else []

        async def read() -> Message:
            message = await receive()
            if message["type"] == "websocket.receive":
                try:
                    _check_frame(message.get("text"))
                except ApiError as error:
                    _log.info("a WebSocket's frame cannot be read", reason=error.message)
                    await send({"type": "websocket.close", "code": 1008, "reason": error.message[:100]})
                    return {"type": "websocket.disconnect", "code": 1008}
            return message

        async def read_expected() -> Message:
            if not expected:
                return await read()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._eio.ping_timeout):
                    message = await receive()
                    if message["type"] == "websocket.connect" or message.get("text") == expected.pop(0):
                        return message
            return {"type": "websocket.disconnect", "code": 1008}

        try:
            await self._app(scope, read_expected, send)
        finally:
            if polling and not polling.upgraded:
                # The library would hold back what is polled for ever.
                polling.upgrading = False

    def _prepare(self, handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """The library's handler of new connections; their polls are answered with SLICE packets at most."""

        async def prepared(socket_id: str, environ: dict[str, Any]) -> Any:
            transport = self._eio.sockets[socket_id]
            # Weakly, so that it is gone when the library lets go of it.
            weak = weakref.proxy(transport)
            transport.poll = partial(_poll, weak, self._eio.ping_interval + self._eio.ping_timeout)
            transport.schedule_ping = partial(self._schedule_ping, weak)
            scope = environ["asgi.scope"]
            client = scope["state"].get(CLIENT)
            if client is not None and scope["type"] == "http":
                self._clients[socket_id] = client
                self._counts[client] += 1
            if len(self._connecting) >= MAX_CONNECTING:
                self._end_unconnected(next(iter(self._connecting)))
            later = asyncio.get_running_loop().call_later
            self._connecting[socket_id] = later(CONNECT_SECONDS, self._end_unconnected, socket_id)
            return await handler(socket_id, environ)

        return prepared

    def _forget(self, handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """The library's handler of the ends of connections; nothing is kept of one behind it."""

        async def forgotten(socket_id: str, *reason: Any) -> Any:
            self.note_connected(socket_id)
            if task := self._ping_tasks.pop(socket_id, None):
                task.cancel()
            if client := self._clients.pop(socket_id, None):
                self._counts[client] -= 1
                if not self._counts[client]:
                    del self._counts[client]
            return await handler(socket_id, *reason)

        return forgotten

    def _schedule_ping(self, transport: Any) -> None:
        """Schedules the next ping of a connection, as the library does. Keeps the task, so that it ends with the connection."""
        if transport.last_ping:
            transport.last_ping = None
            task = self._ping_tasks[transport.sid] = asyncio.ensure_future(transport._send_ping())
            task.add_done_callback(partial(self._forget_ping, transport.sid))

    def _forget_ping(self, socket_id: str, task: asyncio.Task[None]) -> None:
        if self._ping_tasks.get(socket_id) is task:
            del self._ping_tasks[socket_id]

    def _guard(self, handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """The library's handler of messages; one that is not Socket.IO ends the connection."""

        async def guarded(socket_id: str, data: str | bytes) -> None:
            transport = self._eio.sockets.get(socket_id)
            if transport is None or transport.closed:
                return
            try:
                _check_text(data)
                await handler(socket_id, data)
            except _UNREADABLE as error:
                reason = f"{type(error).__name__}: {error}"[:200]
                _log.info("a client's packet is not one of Socket.IO", reason=reason)
                await self.end(transport)
            if transport.upgraded and transport.queue.qsize() > MAX_UNREAD:
                # Who does not read is not read from, so that what waits for it has a bound.
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._eio.ping_timeout):
                        await transport.queue.join()

        return guarded


async def _poll(transport: Any, seconds: float) -> list[Packet]:
    """What waits for a client, at most SLICE packets; empty when it is to end.

    Raises QueueEmpty after `seconds`.
    """
    queue = transport.queue
    try:
        packets = [await asyncio.wait_for(queue.get(), seconds)]
    except (TimeoutError, asyncio.CancelledError) as error:
        raise exceptions.QueueEmpty from error
    queue.task_done()
    if packets == [None]:
        return []
    chars = _count_chars(packets[0])
    while len(packets) < SLICE and chars < MAX_POLL_CHARS and not queue.empty():
        packet = queue.get_nowait()
        queue.task_done()
        if packet is None:
            queue.put_nowait(None)
            break
        packets.append(packet)
        chars += _count_chars(packet)
    return packets


def _count_chars(packet: Packet) -> int:
    """How long a packet is, nearly: what is not text is small."""
    return len(packet.data) if isinstance(packet.data, str) else 0


def _find_missing(eio: Any) -> list[str]:
    """The names that this module needs and the library does not have; warns, because then nothing is checked."""
    socket = AsyncSocket(eio, "")
    missing = [f"AsyncServer.{name}" for name in _SERVER_NAMES if not hasattr(eio, name)]
    missing += [f"AsyncSocket.{name}" for name in _SOCKET_NAMES if not hasattr(socket, name)]
    handlers = getattr(eio, "handlers", ())
    missing += [f"the handler of {name}" for name in ("connect", "disconnect", "message") if name not in handlers]
    if missing:
        _log.warning("python-engineio lacks names that are needed: packets are not checked", missing=missing)
    return missing


def _query(scope: Message) -> dict[str, list[str]]:
    return parse_qs(scope["query_string"].decode("latin-1"))


def _packets(body: bytes) -> list[str]:
    """The packets of a payload, not read yet. Raises ApiError."""
    try:
        text = body.decode()
        # So browsers wrote it that had no other way across origins.
        if text.startswith("d="):
            text = parse_qs(text)["d"][0]
    except (ValueError, LookupError):
        raise unreadable("the payload is not UTF-8") from None
    texts = text.split(_SEPARATOR, MAX_PACKETS)
    if len(texts) > MAX_PACKETS:
        raise unreadable(f"the payload has more than {MAX_PACKETS} packets")
    return texts


def _read(text: str) -> Packet:
    """Reads one packet of a client. Raises ApiError."""
    if not _PACKET.match(text):
        # The library would read it as JSON, and fail at what is nested deeply, where nobody catches that.
        raise unreadable("a packet is not one that clients send")
    try:
        packet = Packet(encoded_packet=text)
    except (ValueError, RecursionError):
        raise unreadable("a packet is not one of Engine.IO") from None
    if packet.packet_type not in _FROM_CLIENTS:
        raise unreadable(f"clients do not send packets of type {packet.packet_type}")
    return packet


def _check_frame(text: str | None) -> None:
    """Raises ApiError for a frame that cannot be read, or is binary (None)."""
    if text is None:
        raise unreadable("binary frames are not taken")
    _read(text)


def _check_text(data: str | bytes) -> None:
    """Raises ValueError for a binary packet, and for an event that announces some: no event of the contract has any.

    The library would keep them until the last one has come.
    """
    if not isinstance(data, str) or data.startswith(_BINARY):
        raise ValueError("binary packets are not taken")


def _full() -> ApiError:
    return ApiError("OVERLOADED", "There are too many sockets", retryAfterSeconds=RETRY_AFTER_SECONDS)


def _giving(body: bytes) -> Receive:
    """Has the library receive this body."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
