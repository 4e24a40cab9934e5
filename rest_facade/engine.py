"""The Engine.IO server under Socket.IO. What clients send is checked here, before the library reads it.

By itself the library answers 200 to a payload that it cannot read, reads bodies of any size, and lets
unreadable frames end in a stack trace. What is used of it beside its documented interface is named here.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs

import orjson
import socketio
import structlog
from engineio import exceptions
from engineio.async_socket import AsyncSocket
from engineio.packet import CLOSE, MESSAGE, PONG, Packet

from rest_facade.bridge import ClientGoneError, Message, Receive, Send, read_body
from rest_facade.errors import ApiError

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

MAX_ATTACHMENTS: Final = 10
"""How many binary packets an event may announce; no event of the contract has any."""

_SERVER_NAMES: Final = ("handlers", "sockets", "on", "ping_interval", "ping_timeout")
_SOCKET_NAMES: Final = (
    *("poll", "receive", "close", "queue", "sid"),
    *("closed", "connected", "upgraded", "upgrading"),
)
"""What is used of the library's server and of its sockets."""

_FROM_CLIENTS: Final = (CLOSE, PONG, MESSAGE)
"""The types of packets that clients send, but for those that change the transport."""

_UNREADABLE: Final = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What the library raises when it decodes something that is not Socket.IO. Our own handlers raise nothing."""

_HANDSHAKE: Final = ("2probe", "5")
"""The frames with which a WebSocket takes over from polling."""

_SEPARATOR: Final = "\x1e"
_ATTACHMENTS: Final = re.compile(r"[56](\d+)-")

_log = structlog.get_logger(__name__)


class Engine:
    """An ASGI app: the Socket.IO server's, given only what it can bear."""

    def __init__(self, io: socketio.AsyncServer, path: str, max_bytes: int) -> None:
        """`max_bytes` is the greatest size of a POST's body."""
        self._eio = io.eio
        self._app = socketio.ASGIApp(io, socketio_path=path)
        self._max_bytes = max_bytes
        self._is_checked = not _find_missing(self._eio)
        if self._is_checked:
            self._eio.on("connect", self._prepare(self._eio.handlers["connect"]))
            self._eio.on("message", self._guard(self._eio.handlers["message"]))

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serves one connection, as ASGI 3 wants it."""
        if not self._is_checked:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._serve_websocket(scope, receive, send)
        elif scope["method"] == "POST":
            await self._serve_post(scope, receive, send)
        else:
            await self._app(scope, _giving(b""), send)

    async def end(self, transport: Any) -> None:
        """Ends a connection. Its poll, or its WebSocket, ends with it."""
        await transport.close(wait=False)
        transport.queue.put_nowait(None)
        if not transport.upgraded:
            self._eio.sockets.pop(transport.sid, None)

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
                    raise _unreadable("a POST belongs to the transport polling")
                body = await read_body(receive, self._max_bytes)
                if body is None:
                    raise _unreadable(f"the payload is larger than {self._max_bytes} bytes")
                left = await self._handle(transport, _packets(body))
            except ApiError as error:
                _log.info("a polling client's request cannot be read", reason=error.message)
                await self.end(transport)
                await _refuse(scope, send, error)
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
                raise _unreadable("a packet is not one of Socket.IO, or the connection has ended")
            if transport.queue.qsize() > MAX_WAITING:
                raise _unreadable(f"more than {MAX_WAITING} packets wait to be polled")
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
            transport.poll = partial(_poll, transport, self._eio.ping_interval + self._eio.ping_timeout)
            return await handler(socket_id, environ)

        return prepared

    def _guard(self, handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """The library's handler of messages; one that is not Socket.IO ends the connection."""

        async def guarded(socket_id: str, data: str | bytes) -> None:
            transport = self._eio.sockets.get(socket_id)
            if transport is None or transport.closed:
                return
            try:
                _check_attachments(data)
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
    while len(packets) < SLICE and not queue.empty():
        packet = queue.get_nowait()
        queue.task_done()
        if packet is None:
            queue.put_nowait(None)
            break
        packets.append(packet)
    return packets


def _find_missing(eio: Any) -> list[str]:
    """The names that this module needs and the library does not have; warns, because then nothing is checked."""
    socket = AsyncSocket(eio, "")
    missing = [f"AsyncServer.{name}" for name in _SERVER_NAMES if not hasattr(eio, name)]
    missing += [f"AsyncSocket.{name}" for name in _SOCKET_NAMES if not hasattr(socket, name)]
    handlers = getattr(eio, "handlers", ())
    missing += [f"the handler of {name}" for name in ("connect", "message") if name not in handlers]
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
        raise _unreadable("the payload is not UTF-8") from None
    texts = text.split(_SEPARATOR, MAX_PACKETS)
    if len(texts) > MAX_PACKETS:
        raise _unreadable(f"the payload has more than {MAX_PACKETS} packets")
    return texts


def _read(text: str) -> Packet:
    """Reads one packet of a client. Raises ApiError."""
    try:
        packet = Packet(encoded_packet=text)
    except (ValueError, RecursionError):
        raise _unreadable("a packet is not one of Engine.IO") from None
    if packet.packet_type not in _FROM_CLIENTS:
        raise _unreadable(f"clients do not send packets of type {packet.packet_type}")
    return packet


def _check_frame(text: str | None) -> None:
    """Raises ApiError for a text frame that cannot be read. Binary ones belong to events."""
    if text is not None:
        _read(text)


def _check_attachments(data: str | bytes) -> None:
    """Raises ValueError for an event that announces too many binary packets: all are kept until the last one."""
    found = _ATTACHMENTS.match(data) if isinstance(data, str) else None
    if found and int(found[1]) > MAX_ATTACHMENTS:
        raise ValueError("too many attachments")


def _unreadable(reason: str) -> ApiError:
    return ApiError("INVALID_REQUEST", f"Invalid request: {reason}", reason=reason)


def _giving(body: bytes) -> Receive:
    """Has the library receive this body."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _refuse(scope: Message, send: Send, error: ApiError) -> None:
    headers = [(b"content-type", b"application/json")]
    origin = next((value for name, value in scope["headers"] if name == b"origin"), None)
    if origin is not None:
        # As the library answers to any origin.
        headers += [(b"access-control-allow-origin", origin), (b"access-control-allow-credentials", b"true")]
    body = orjson.dumps(error.body)
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
