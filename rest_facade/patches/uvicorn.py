"""uvicorn 0.54's WebSockets without its server. It has no public class of one connection.

This fixes, without a known upstream issue: answers to pings pile up for a client that reads nothing; each
piece of a message is kept by itself, however small; a handshake refused with a body is logged as an error. It
adds how many bytes are held, and whether reading is paused.
"""

import asyncio
from typing import Any, Final

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame

PRIVATE_NAMES: Final = (
    "close_sent",
    "conn.reader.buffer",
    "conn.data_to_send",
    "frames",
    "handle_cont",
    "handle_ping",
    "handle_pong",
    "handshake_complete",
    "queue",
    "read_paused",
    "send_receive_event_to_app",
    "shutdown",
    "writable",
)
"""Names of a WebSocket that this package uses."""

MESSAGE_BYTES: Final = 512
"""How many bytes a message takes beside its content until the app has taken it."""


def make_state(headers: list[tuple[bytes, bytes]]) -> ServerState:
    """The state that WebSockets share. Handshakes are answered with these headers."""
    state = ServerState()
    state.default_headers = headers
    return state


def missing_names(config: uvicorn.Config, state: ServerState) -> list[str]:
    """The names that the installed version does not have. For a loop that runs."""
    websocket = WebSocket(config=config, server_state=state, app_state={}, _loop=asyncio.get_running_loop())
    return [name for name in PRIVATE_NAMES if not _has(websocket, name)]


class WebSocket(WebSocketsSansIOProtocol):
    """One WebSocket."""

    _queued_bytes = 0

    def on_idle_frame(self, size: int) -> None:
        """Notes a frame that completes no message, and its size in bytes."""

    def handle_ping(self) -> None:
        """Answers a ping, unless the client does not read: the answers would pile up."""
        self.on_idle_frame(0)
        if self.writable.is_set() and not self.transport.is_closing():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def handle_pong(self, event: Frame) -> None:
        self.on_idle_frame(0)
        super().handle_pong(event)

    def handle_cont(self, event: Frame) -> None:
        """A piece of a message came.

        All are kept in one buffer: many small ones would take far more than their bytes.
        """
        if not isinstance(self.frames[0], bytearray):
            self.frames = [bytearray(self.frames[0])]  # type: ignore[list-item] # it is joined or decoded, as bytes are
        self.frames[0] += event.data
        if event.fin:
            self.send_receive_event_to_app()
        else:
            self.on_idle_frame(len(event.data))

    def send_receive_event_to_app(self) -> None:
        """Takes a message that is complete. After the app's goodbye uvicorn drops it."""
        if not self.close_sent:
            self._queued_bytes += MESSAGE_BYTES + self.partial_bytes()
        super().send_receive_event_to_app()

    async def receive(self) -> Any:
        """Returns the next message for the app."""
        message = await super().receive()
        if self.queue.empty():
            self._queued_bytes = 0
        return message

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            # The handshake has its answer, whose want would be logged.
            self.handshake_complete = True

    def partial_bytes(self) -> int:
        """How much is held of a message that has not come as a whole."""
        return len(self.conn.reader.buffer) + sum(map(len, self.frames))

    @property
    def is_in_message(self) -> bool:
        """Whether a message or frame has begun that has not come as a whole."""
        return bool(self.frames) or len(self.conn.reader.buffer) > 0

    def queued_bytes(self) -> int:
        """How much is held of messages that the app has yet to take."""
        return self._queued_bytes

    @property
    def is_read_paused(self) -> bool:
        """Whether reading is paused until the app takes the messages before."""
        return self.read_paused


def _has(owner: Any, path: str) -> bool:
    for name in path.split("."):
        if not hasattr(owner, name):
            return False
        owner = getattr(owner, name)
    return True
