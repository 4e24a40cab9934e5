"""WebSockets as uvicorn 0.54 speaks them, apart from its server: it has no public class of one connection.

Mended: who sends pings and reads nothing would have the answers pile up, of which no upstream issue is known. Asked for: how much
of a message is held, and whether reading is paused.
"""

import asyncio
from typing import Any, Final

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

PRIVATE_NAMES: Final = ("conn.reader.buffer", "conn.data_to_send", "frames", "read_paused", "writable", "handle_ping", "shutdown")
"""Names of a WebSocket that this package uses."""


def make_state(headers: list[tuple[bytes, bytes]]) -> ServerState:
    """What WebSockets share. Handshakes are answered with these headers."""
    state = ServerState()
    state.default_headers = headers
    return state


def missing_names(config: uvicorn.Config, state: ServerState) -> list[str]:
    """The names that the installed version does not have. For a loop that runs."""
    websocket = WebSocket(config=config, server_state=state, app_state={}, _loop=asyncio.get_running_loop())
    return [name for name in PRIVATE_NAMES if not _has(websocket, name)]


class WebSocket(WebSocketsSansIOProtocol):
    """One WebSocket."""

    def handle_ping(self) -> None:
        """A ping came. Who does not read gets no answers to its pings, which would pile up."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def held_bytes(self) -> int:
        """How much is held of a message that has not come as a whole."""
        return len(self.conn.reader.buffer) + sum(map(len, self.frames))

    @property
    def is_read_paused(self) -> bool:
        """Whether nothing is read, because the app has yet to take what was."""
        return self.read_paused


def _has(owner: Any, path: str) -> bool:
    for name in path.split("."):
        if not hasattr(owner, name):
            return False
        owner = getattr(owner, name)
    return True
