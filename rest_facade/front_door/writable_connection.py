"""A connection as the writers of answers see it."""

import asyncio
from typing import Any

from rest_facade.front_door.connections import Connection, Connections


class WritableConnection(Connection, asyncio.Protocol):
    """A connection on which bytes are sent."""

    environ: dict[str, Any]
    """The part of the WSGI environ that all its requests share."""

    is_write_paused = False
    """Whether more waits to be sent than should."""

    _drained: asyncio.Future[None] | None = None

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._loop = asyncio.get_running_loop()

    def write(self, data: bytes) -> None:
        """Sends bytes, unless the connection is closed."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def when_drained(self) -> asyncio.Future[None]:
        """Returns a future that ends when the client has read most of the sent bytes, or has gone."""
        self._drained = self._loop.create_future()
        return self._drained

    def is_closing(self) -> bool:
        return self.transport.is_closing()

    def close(self) -> None:
        """Ends the connection when all written bytes have been sent."""
        self.transport.close()

    def counted_client(self) -> str | None:
        """Returns the client that the connection counts for now."""
        return self._connections.client(self)

    def go_on(self) -> None:
        """Goes on behind an answer."""
        raise NotImplementedError

    def note_answer(self) -> None:
        """Notes that one more request has been read and answered."""
        raise NotImplementedError

    def pause_writing(self) -> None:
        """Notes that too much waits to be sent."""
        self.is_write_paused = True
        self._connections.lag(self)

    def resume_writing(self) -> None:
        """Notes that little waits to be sent again."""
        self.is_write_paused = False
        self._connections.catch_up(self)
        if self._drained:
            if not self._drained.done():
                self._drained.set_result(None)
            self._drained = None
