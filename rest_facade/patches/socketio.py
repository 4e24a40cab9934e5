"""The private names of python-engineio 4.15 and python-socketio 5.18 that the facade uses.

No public interface bounds or counts what these replace:

- An answer to a poll holds all packets that wait, though the library's own client reads 16 of them
  (https://github.com/miguelgrinberg/python-engineio/issues/142).
- The task of a ping outlives its connection by the time-out.
- A client whose event is handled counts as gone when a ping has no answer, though none is read meanwhile.
- Nobody learns how much waits for a client.
- Each request makes a class, which stays until the garbage collector runs.
- Nothing can be sent right behind the answer to a client that connects.
"""

import asyncio
import time
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import socketio
from engineio import exceptions
from engineio.async_socket import AsyncSocket
from engineio.packet import Packet

from rest_facade.shapes.asgi import Receive, Send

PRIVATE_NAMES: Final = (
    *(
        f"AsyncServer.eio.{name}"
        for name in (
            "handlers",
            "sockets",
            "on",
            "ping_interval",
            "ping_timeout",
            "log_message_keys",
            "_async",
        )
    ),
    *(
        f"AsyncSocket.{name}"
        for name in (
            "poll",
            "receive",
            "close",
            "queue",
            "sid",
            "closed",
            "connected",
            "upgraded",
            "upgrading",
        )
    ),
    *(f"AsyncSocket.{name}" for name in ("server", "schedule_ping", "_send_ping", "last_ping")),
    "AsyncSocket.check_ping_timeout",
    *(f"AsyncServer.manager.{name}" for name in ("eio_sid_from_sid", "sid_from_eio_sid", "is_connected")),
    "AsyncServer._handle_connect",
)
"""Names of a Socket.IO server and of Engine.IO's connections that this package uses."""

_HANDLERS: Final = ("connect", "disconnect", "message")
"""The events for which Socket.IO has its handlers at Engine.IO."""

_NAMESPACE: Final = "/"


def missing_names(io: socketio.AsyncServer) -> list[str]:
    """The names that the installed version does not have."""
    roots = {"AsyncServer": io, "AsyncSocket": AsyncSocket(io.eio, "")}
    missing = [name for name in PRIVATE_NAMES if not _has(roots, name)]
    handlers = getattr(io.eio, "handlers", ())
    return missing + [f"the handler of {event}" for event in _HANDLERS if event not in handlers]


class _AllKeys(set[str]):
    """Every key is in it."""

    def __contains__(self, key: object) -> bool:
        return True


def silence_refusals(io: socketio.AsyncServer) -> None:
    """Has Engine.IO log no refusal as an error, which it does once for each kind: it takes all for logged."""
    io.eio.log_message_keys = _AllKeys()


class _Body:
    """The body of a request, as a WSGI server offers it."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def read(self, length: int | None = None) -> bytes:
        """Returns its first bytes."""
        return self._content[:length]


async def _translate_request(scope: Mapping[str, Any], receive: Receive, send: Send) -> dict[str, Any]:
    """Returns the parts of a request that Engine.IO reads, with a complete body; none where its client has
    gone.
    """
    event = await receive()
    if event["type"] not in ("http.request", "websocket.connect"):
        return {}
    query = scope["query_string"].decode("latin-1")
    environ = {
        "wsgi.input": _Body(event.get("body", b"")),
        "wsgi.url_scheme": "http",
        "REQUEST_METHOD": scope.get("method", "GET"),
        "PATH_INFO": scope["path"],
        "QUERY_STRING": query,
        "RAW_URI": f"{scope['path']}?{query}",
        "asgi.receive": receive,
        "asgi.send": send,
        "asgi.scope": scope,
    }
    for header, value in scope["headers"]:
        name = header.decode("latin-1").upper().replace("-", "_")
        name = name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"
        text = value.decode("latin-1")
        environ[name] = f"{environ[name]},{text}" if name in environ else text
    return environ


def translate_without_class(io: socketio.AsyncServer) -> None:
    """Has Engine.IO read requests by a function that makes no class for each."""
    io.eio._async = {**io.eio._async, "translate_request": _translate_request}


def find_transport(io: socketio.AsyncServer, socket_id: str) -> Any:
    """The connection of a socket; None when it is gone."""
    return io.eio.sockets.get(io.manager.eio_sid_from_sid(socket_id, _NAMESPACE))


def is_connected(io: socketio.AsyncServer, socket_id: str) -> bool:
    """Whether a socket is connected to Socket.IO."""
    return bool(io.manager.is_connected(socket_id, _NAMESPACE))


def count_waiting(transport: Any) -> int:
    """How many packets wait to be sent on a connection."""
    return int(transport.queue.qsize())


async def wait_until_sent(transport: Any) -> None:
    """Waits until nothing waits to be sent on a connection."""
    await transport.queue.join()


def end_poll(transport: Any) -> None:
    """Has the poll that is open on a connection, or the next one, end behind all that waits."""
    transport.queue.put_nowait(None)


def wrap_handler(
    io: socketio.AsyncServer, event: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    """Has Engine.IO call something around Socket.IO's handler of an event."""
    io.eio.on(event, wrap(io.eio.handlers[event]))


class Server(socketio.AsyncServer):  # type: ignore[misc] # the library has no types
    """A Socket.IO server that calls a function once a client has been told that it is connected."""

    def __init__(self, on_connected: Callable[[str], Awaitable[None]], **options: Any) -> None:
        """`on_connected` gets the id of the socket; `options` are the library's."""
        super().__init__(**options)
        self._on_connected = on_connected

    async def _handle_connect(self, eio_sid: str, namespace: str | None, data: Any) -> None:
        was_connected = self.manager.sid_from_eio_sid(eio_sid, _NAMESPACE) is not None
        await super()._handle_connect(eio_sid, namespace, data)
        socket_id = self.manager.sid_from_eio_sid(eio_sid, _NAMESPACE)
        if socket_id is not None and not was_connected:
            await self._on_connected(socket_id)


class Pings:
    """The tasks in which connections are sent their next pings, and who need not answer one yet.

    The tasks are kept, so that they end with the connections.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # By connection: how many packets are being handled.
        self._handled: Counter[str] = Counter()

    def end(self, transport_id: str) -> None:
        """Sends a connection that is gone no more pings."""
        if task := self._tasks.pop(transport_id, None):
            task.cancel()

    def schedule(self, transport: Any) -> None:
        """Schedules the next ping of a connection, as the library does."""
        if transport.last_ping:
            transport.last_ping = None
            task = self._tasks[transport.sid] = asyncio.ensure_future(transport._send_ping())
            task.add_done_callback(partial(self._forget, transport.sid))

    @contextmanager
    def hold(self, transport: Any) -> Iterator[None]:
        """Takes a client for alive while it waits for us: its answer to a ping is read behind that."""
        self._handled[transport.sid] += 1
        try:
            yield
        finally:
            self._handled[transport.sid] -= 1
            if not self._handled[transport.sid]:
                del self._handled[transport.sid]
            if transport.last_ping:
                transport.last_ping = time.time()

    async def check(self, transport: Any) -> bool:
        """Ends a connection that has not answered a ping in time; returns whether it is alive."""
        if transport.sid in self._handled and not transport.closed:
            return True
        return bool(await AsyncSocket.check_ping_timeout(transport))

    def _forget(self, transport_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(transport_id) is task:
            del self._tasks[transport_id]


def bound(transport: Any, pings: Pings, most_packets: int, most_chars: int) -> None:
    """Bounds the answers to a connection's polls, and keeps its pings."""
    # Weakly, so that it ends when the library drops it.
    weak = weakref.proxy(transport)
    seconds = transport.server.ping_interval + transport.server.ping_timeout
    transport.poll = partial(_poll, weak, seconds, most_packets, most_chars)
    transport.schedule_ping = partial(pings.schedule, weak)
    transport.check_ping_timeout = partial(pings.check, weak)


async def _poll(transport: Any, seconds: float, most_packets: int, most_chars: int) -> list[Packet]:
    """Takes the packets that wait for a client, within bounds; none when it is to end.

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
    chars = _count_chars(packets)
    while len(packets) < most_packets and chars < most_chars and not queue.empty():
        packet = queue.get_nowait()
        queue.task_done()
        if packet is None:
            queue.put_nowait(None)
            break
        packets.append(packet)
        chars += _count_chars([packet])
    return packets


def _count_chars(packets: Iterable[Packet]) -> int:
    """Returns about how long packets are: those without text are small."""
    return sum(len(packet.data) for packet in packets if isinstance(packet.data, str))


def _has(roots: dict[str, Any], path: str) -> bool:
    root, *names = path.split(".")
    owner = roots[root]
    for name in names:
        if not hasattr(owner, name):
            return False
        owner = getattr(owner, name)
    return True
