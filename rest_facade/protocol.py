"""HTTP/1.1 as uvicorn speaks it, with this API's error body for requests that cannot be read, and a bound on their heads."""

from collections.abc import Sequence
from typing import Final

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from rest_facade.errors import ApiError

MAX_HEAD_BYTES: Final = 65_536
"""How long the request line and the headers of a request may be together; the parser itself would read on for ever."""


class HttpProtocol(HttpToolsProtocol):
    """One connection of a client."""

    _cycles: Sequence[RequestResponseCycle] = ()
    _head_bytes = 0
    _in_head = False

    def on_message_begin(self) -> None:
        """A request starts."""
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """The head of a request has been read."""
        self._in_head = False
        super().on_headers_complete()
        self._cycles = [cycle for cycle in (*self._cycles, self.cycle) if cycle and not cycle.response_complete]

    def data_received(self, data: bytes) -> None:
        """Bytes came in."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response("The request line and headers are too long.")

    def send_400_response(self, msg: str) -> None:
        """Answers a request that cannot be read, and closes the connection."""
        reason = msg.rstrip(".")
        body = orjson.dumps(ApiError("INVALID_REQUEST", f"Invalid request: {reason}", reason=reason).body)
        head = (
            f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            "access-control-allow-origin: *\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
        # Requests before it on the same connection that are not answered yet must not write to what is closed.
        self.pipeline.clear()
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()
