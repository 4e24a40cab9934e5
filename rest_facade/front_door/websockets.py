"""WebSockets, in place of the HTTP connections on which they were asked for."""

import asyncio
from collections.abc import Iterable
from typing import Any

import structlog
import uvicorn

from rest_facade.front_door.asgi import App
from rest_facade.front_door.connections import Connection, Connections
from rest_facade.front_door.origins import ALWAYS
from rest_facade.patches import uvicorn as patched

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
        """Those in which WebSockets are served."""
        return self._state.tasks

    def open(self, transport: asyncio.Transport, path: bytes, query: bytes, headers: Iterable[tuple[bytes, bytes]]) -> "WebSocketProtocol":
        """Goes on with a connection on which a handshake has been read."""
        protocol = WebSocketProtocol(self._connections, config=self._config, server_state=self._state, app_state={})
        protocol.connection_made(transport)
        target = path + (b"?" + query if query else b"")
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        protocol.data_received(b"GET %b HTTP/1.1\r\n%b\r\n" % (target, lines))
        transport.set_protocol(protocol)
        return protocol


class WebSocketProtocol(Connection, patched.WebSocket):
    """One WebSocket."""

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        """`connections` are shared by all; `arguments` are uvicorn's."""
        super().__init__(**arguments)
        self._connections = connections

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        super().connection_lost(exc)
        self._connections.remove(self)

    def shutdown(self) -> None:
        """Says goodbye: the facade ends."""
        patched.WebSocket.shutdown(self)

    def pause_writing(self) -> None:
        """More waits to be sent than should."""
        super().pause_writing()
        self._connections.lag(self)

    def resume_writing(self) -> None:
        """Little waits to be sent again."""
        super().resume_writing()
        self._connections.catch_up(self)

    def data_received(self, data: bytes) -> None:
        """Bytes came in."""
        self._came_s = self.loop.time()
        super().data_received(data)
        held_bytes = self.held_bytes()
        if not held_bytes:
            self._began_s = None
        elif self._began_s is None:
            self._began_s = self._came_s
        if not self._connections.hold(self, held_bytes):
            self.abort()

    def _is_late(self, now_s: float) -> bool:
        if self.is_read_paused:
            self._came_s = now_s
        return super()._is_late(now_s)
