"""The Engine.IO server under Socket.IO. It checks what clients send before the library reads it.

The library answers 200 to a payload that it cannot read, reads bodies of any size, and lets unreadable frames
end in a stack trace. `patches.socketio` holds the private names that this uses.
"""

import asyncio
import re
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import parse_qs

import socketio
import structlog
from engineio.packet import CLOSE, MESSAGE, PONG, Packet

from rest_facade.front_door.asgi import TOO_LARGE
from rest_facade.front_door.connections import CLIENT, MAX_PER_CLIENT
from rest_facade.patches import socketio as patched
from rest_facade.shapes.asgi import Message, Receive, Send
from rest_facade.shapes.credentials import read_headers
from rest_facade.shapes.errors import RETRY_AFTER_SECONDS, ApiError
from rest_facade.socketio.engine_refusals import refuse, translate_refusals, unreadable

MAX_PACKETS: Final = 1000
"""How many packets a POST may hold."""

SLICE: Final = 16
"""How many packets are handled before the loop serves others, and how many an answer to a poll may hold.

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
"""How many sockets may be about to connect.

For one more the oldest of them ends, which has not come in time it seems.
"""

MAX_POLLING: Final = 10_000
"""How many sockets there may be before a handshake of polling is refused.

One client may have MAX_PER_CLIENT by polling.
"""

_METHODS: Final = ("GET", "OPTIONS", "POST")

_FROM_CLIENTS: Final = (CLOSE, PONG, MESSAGE)
"""The types of packets that clients send, except those that change the transport."""

_UNREADABLE: Final = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""The errors of the library when it decodes something that is not Socket.IO. Our handlers raise none."""

_HANDSHAKE: Final = ("2probe", "5")
"""The frames with which a WebSocket takes over from polling."""

_BINARY: Final = ("5", "6")
"""How events and acknowledgements begin that announce binary packets."""

_SEPARATOR: Final = "\x1e"
_PACKET: Final = re.compile(r"4[0-6]|[^4]\Z|b")
"""How packets begin that clients send: one of Socket.IO, one without anything, or a binary one."""


_log = structlog.get_logger(__name__)


class Engine:
    """The Socket.IO server as an ASGI app. It passes on only packets that the library can read."""

    def __init__(self, io: socketio.AsyncServer, path: str, max_bytes: int) -> None:
        """`max_bytes` is the greatest size of a POST's body."""
        self._eio = io.eio
        self._library = socketio.ASGIApp(io, socketio_path=path)
        self._max_bytes = max_bytes
        # The timers of the sockets that are about to connect, in the order of their handshakes.
        self._connecting: dict[str, asyncio.TimerHandle] = {}
        # By socket: the credentials in the headers of its handshake.
        self._digests: dict[str, bytes] = {}
        self._key = secrets.token_bytes(32)
        self._ending: set[asyncio.Task[None]] = set()
        self._pings = patched.Pings()
        # The clients of the sockets that began with polling and have bounds of their own.
        self._clients: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        missing = patched.missing_names(io)
        self._is_checked = not missing
        if missing:
            _log.warning(
                "python-engineio lacks names that are needed: packets are not checked", missing=missing
            )
        else:
            patched.silence_refusals(io)
            patched.translate_without_class(io)
            patched.wrap_handler(io, "connect", self._prepare)
            patched.wrap_handler(io, "disconnect", self._forget)
            patched.wrap_handler(io, "message", self._guard)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serves one connection as an ASGI 3 app."""
        if not self._is_checked:
            await self._app(scope, receive, send)
        elif self._is_of_another(scope):
            await refuse(send, ApiError("UNAUTHENTICATED", "This sid has another credential"), scope["type"])
        elif scope["type"] == "websocket":
            await self._serve_websocket(scope, receive, send)
        elif scope["method"] == "POST":
            await self._serve_post(scope, receive, send)
        elif scope["method"] not in _METHODS:
            told = "Socket.IO does not have this method"
            await refuse(
                send, ApiError("METHOD_NOT_ALLOWED", told, method=scope["method"], allowed=list(_METHODS))
            )
        elif (
            scope["method"] == "GET"
            and "sid" not in _query(scope)
            and self._is_full_for(scope["state"].get(CLIENT))
        ):
            await refuse(send, _full())
        else:
            await self._app(scope, _giving(b""), send)

    async def _app(self, scope: Message, receive: Receive, send: Send) -> None:
        await self._library(scope, receive, translate_refusals(send))

    async def end(self, transport: Any) -> None:
        """Ends a connection. Its poll, or its WebSocket, ends with it."""
        await transport.close(wait=False)
        patched.end_poll(transport)
        if not transport.upgraded:
            self._eio.sockets.pop(transport.sid, None)

    def note_connected(self, socket_id: str) -> None:
        """Notes that a socket is connected to Socket.IO, and may stay."""
        if timer := self._connecting.pop(socket_id, None):
            timer.cancel()

    def note_disconnected(self, socket_id: str) -> None:
        """Notes that a socket is no longer connected to Socket.IO. Its connection ends soon."""
        if socket_id in self._eio.sockets:
            self.note_connected(socket_id)
            self._end_in_time(socket_id)

    def _end_in_time(self, socket_id: str) -> None:
        """Ends a socket that is not connected to Socket.IO within CONNECT_SECONDS."""
        if len(self._connecting) >= MAX_CONNECTING:
            self._end_unconnected(next(iter(self._connecting)))
        later = asyncio.get_running_loop().call_later
        self._connecting[socket_id] = later(CONNECT_SECONDS, self._end_unconnected, socket_id)

    def _is_of_another(self, scope: Message) -> bool:
        """Whether a request for a connection has other credentials in its headers than its handshake had.

        One without any is not another's: Python's client sends its headers with the handshake only.
        """
        socket_id, digest = _query(scope).get("sid", [""])[0], self._digest(scope)
        return bool(digest) and socket_id in self._eio.sockets and digest != self._digests.get(socket_id)

    def _digest(self, scope: Message) -> bytes:
        """A digest of the credentials in the headers of a request; empty where there are none."""
        credentials = read_headers(scope["headers"])
        return blake2b(repr(credentials).encode(), key=self._key).digest() if credentials else b""

    def _is_full_for(self, client: str | None) -> bool:
        return len(self._eio.sockets) >= MAX_POLLING or (
            client is not None and self._counts[client] >= MAX_PER_CLIENT
        )

    def _end_unconnected(self, socket_id: str) -> None:
        """Ends a socket that has not connected in time."""
        self._connecting.pop(socket_id).cancel()
        if transport := self._eio.sockets.get(socket_id):
            task = asyncio.ensure_future(self.end(transport))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _serve_post(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handles the packets of a POST.

        A payload that is unreadable or too large is a 400 and ends the connection.
        """
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
                if scope["state"][TOO_LARGE]:
                    raise unreadable(f"the payload is larger than {self._max_bytes} bytes")
                left = await self._handle(transport, _packets((await receive())["body"]))
            except ApiError as error:
                _log.info("a polling client's request cannot be read", reason=error.message)
                await self.end(transport)
                await refuse(send, error)
                return
        # The library answers. It only has to close the connection, where the client says so.
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
            if patched.count_waiting(transport) > MAX_WAITING:
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
                # The library would hold back polled packets for ever.
                polling.upgrading = False

    def _prepare(self, handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """The library's handler of new connections; their polls are answered with SLICE packets at most."""

        async def prepared(socket_id: str, environ: dict[str, Any]) -> Any:
            transport = self._eio.sockets[socket_id]
            patched.bound(transport, self._pings, SLICE, MAX_POLL_CHARS)
            scope = environ["asgi.scope"]
            client = scope["state"].get(CLIENT)
            if client is not None and scope["type"] == "http":
                self._clients[socket_id] = client
                self._counts[client] += 1
            if digest := self._digest(scope):
                self._digests[socket_id] = digest
            self._end_in_time(socket_id)
            return await handler(socket_id, environ)

        return prepared

    def _forget(self, handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """The library's handler of the ends of connections; nothing is kept of one behind it."""

        async def forgotten(socket_id: str, *reason: Any) -> Any:
            self.note_connected(socket_id)
            self._pings.end(socket_id)
            self._digests.pop(socket_id, None)
            if client := self._clients.pop(socket_id, None):
                self._counts[client] -= 1
                if not self._counts[client]:
                    del self._counts[client]
            if transport := self._eio.sockets.get(socket_id):
                # The library leaves the last poll of a client that said goodbye waiting.
                # What it sends itself at the end of a connection comes first.
                asyncio.get_running_loop().call_soon(patched.end_poll, transport)
            return await handler(socket_id, *reason)

        return forgotten

    def _guard(self, handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """The library's handler of messages; one that is not Socket.IO ends the connection."""

        async def guarded(socket_id: str, data: str | bytes) -> None:
            transport = self._eio.sockets.get(socket_id)
            if transport is None or transport.closed:
                return
            try:
                _check_text(data)
                with self._pings.hold(transport):
                    await handler(socket_id, data)
            except _UNREADABLE as error:
                reason = f"{type(error).__name__}: {error}"[:200]
                _log.info("a client's packet is not one of Socket.IO", reason=reason)
                await self.end(transport)
            if transport.upgraded and patched.count_waiting(transport) > MAX_UNREAD:
                # A client that does not read is not read from, so that its waiting packets have a bound.
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._eio.ping_timeout):
                        await patched.wait_until_sent(transport)

        return guarded


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
        # The library would read it as JSON, and raise at deep nesting where nobody catches that.
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
    """Raises ValueError for binary packets and the events that announce some.

    No published event has any, and the library would keep them until the last one has come.
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
