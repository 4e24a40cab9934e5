"""WebSockets, in place of the HTTP connections on which they were asked for."""

import asyncio
import math
from typing import Any, Final

import structlog
import uvicorn

from eliza.sessions.errors import truncate
from rest_facade.front_door.connections import Connection, Connections
from rest_facade.front_door.exchange import Exchange
from rest_facade.front_door.input import SlicedInput
from rest_facade.front_door.origins import ALWAYS
from rest_facade.patches import uvicorn as patched
from rest_facade.shapes.asgi import App
from rest_facade.shapes.credentials import ADDRESS
from rest_facade.shapes.errors import ApiError

MAX_IDLE_FRAMES: Final = 100
"""How many frames without a message (pings, pongs, small pieces) a WebSocket may send in IDLE_FRAMES_SECONDS.

Each costs as much as a request that is refused, and its sender six bytes.
"""

IDLE_FRAMES_SECONDS: Final = 10.0

PIECE_BYTES: Final = 1024
"""From which size on a piece of a message is no such frame."""

_log = structlog.get_logger(__name__)


class WebSockets:
    """The WebSockets of an ASGI app."""

    def __init__(self, app: App, connections: Connections, max_message_bytes: int) -> None:
        self._connections = connections
        self._state = patched.make_state(list(ALWAYS))
        self._config = uvicorn.Config(
            app,
            interface="asgi3",
            ws_max_size=max_message_bytes,
            # A few bytes could unpack to many messages of the greatest size.
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
        )
        if missing := patched.missing_names(self._config, self._state):
            _log.warning("uvicorn lacks names that are needed: WebSockets cannot be served", missing=missing)

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """The tasks that serve WebSockets."""
        return self._state.tasks

    def check(self, exchange: Exchange) -> None:
        """Raises ApiError for a handshake of a page that is not allowed, or for another path."""
        exchange.door.origins.check(exchange.headers)
        if not exchange.is_asgi:
            raise ApiError(
                "PATH_NOT_FOUND", "There is no WebSocket on this path", path=truncate(exchange.path)
            )

    def open(self, transport: asyncio.Transport, exchange: Exchange) -> "WebSocketProtocol":
        """Goes on with a connection on which a handshake has been read."""
        protocol = WebSocketProtocol(
            self._connections,
            config=self._config,
            server_state=self._state,
            app_state={ADDRESS: exchange.address},
        )
        protocol.connection_made(transport)
        target = exchange.raw_path + (b"?" + exchange.query if exchange.query else b"")
        lines = b"".join(b"%b: %b\r\n" % header for header in exchange.headers)
        protocol.parse(b"GET %b HTTP/1.1\r\n%b\r\n" % (target, lines))
        transport.set_protocol(protocol)
        return protocol


class WebSocketProtocol(SlicedInput, Connection, patched.WebSocket):
    """One WebSocket."""

    idle_frames = 0
    """How many frames without a message have come since `_idle_since_s`."""

    _idle_since_s = -math.inf

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        """`connections` are shared by all; `arguments` are uvicorn's."""
        super().__init__(**arguments)
        self._connections = connections
        self.turns = connections.turns
        self._came_s = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._connections.remove(self)
        self.drop_input()

    def shutdown(self) -> None:
        """Says goodbye, because the facade stops."""
        patched.WebSocket.shutdown(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._connections.lag(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._connections.catch_up(self)

    def data_received(self, data: bytes) -> None:
        self._came_s = self.loop.time()
        self.take_in(data)

    async def receive(self) -> Any:
        """Returns the next message for the app."""
        message = await super().receive()
        self._go_on()
        self.note_held()
        return message

    async def send(self, message: Any) -> None:
        """Sends a message of the app.

        After the app's goodbye nobody calls `receive`, and the client's goodbye is read here.
        """
        await super().send(message)
        self._go_on()

    def _go_on(self) -> None:
        """Parses further bytes once the app has taken the messages before them."""
        if self.is_reading_paused and not self.transport.is_closing():
            # uvicorn has resumed reading, which would add to the bytes that wait.
            self.transport.pause_reading()
        self.parse_soon()

    def parse(self, data: bytes) -> None:
        super().data_received(data)

    def may_parse(self) -> bool:
        """Whether the handshake has its answer and the app has taken all messages.

        Frames that come earlier wait: an answer to them would be sent before that of the handshake.
        """
        return self.handshake_complete and not self.is_read_paused

    def note_held(self) -> None:
        """Notes how much is held here. Where that is too much, the connection ends."""
        if not self.is_in_message:
            self._began_s = None
        elif self._began_s is None:
            self._began_s = self._came_s
        if not self._connections.hold(self, self.unparsed_bytes + self.partial_bytes() + self.queued_bytes()):
            self.abort()

    def on_idle_frame(self, size: int) -> None:
        """Counts a frame that brings no message. One too many ends the connection."""
        if size >= PIECE_BYTES:
            return
        now_s = self.loop.time()
        if now_s - self._idle_since_s > IDLE_FRAMES_SECONDS:
            self._idle_since_s, self.idle_frames = now_s, 0
        self.idle_frames += 1
        if self.idle_frames > MAX_IDLE_FRAMES:
            self.abort()

    def _is_late(self, now_s: float) -> bool:
        if self.is_read_paused or self.is_reading_paused:
            self._came_s = now_s
        return super()._is_late(now_s)
