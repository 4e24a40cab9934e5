"""HTTP/1.1 as uvicorn speaks it, with this API's error body for requests that cannot be read, a bound on their heads, and refusals that
cost next to nothing while there is more to do than can be done.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from rest_facade.admission import OVERLOADED, STOPPING, Places
from rest_facade.errors import ApiError

MAX_HEAD_BYTES: Final = 65_536
"""How long the request line and the headers of a request may be together; the parser itself would read on for ever."""

MAX_DISCARDED_BYTES: Final = 16 * 1024 * 1024
"""How much of the body of a refused request is read past: as much as a request may have."""

LAST_SECONDS: Final = 0.2
"""How long an idle connection is read yet when the facade ends: what its client has asked meanwhile is refused, not dropped."""

WAKE_SECONDS: Final = 0.02
WAKE_COUNT: Final = 100
"""How often connections that rest are read again, and how many of them."""

_HEADS: Final = {
    one: STATUS_LINE[one.status] + b"".join(b"%b: %b\r\n" % header for header in one.headers) for one in (OVERLOADED, STOPPING)
}


class Resting:
    """The connections whose request was just refused. They are not read for a moment, and only so many of them are read again in a second:
    however many ask again at once, refusing them takes no more than a fraction of the time, and the rest is for those that have places.
    """

    def __init__(self) -> None:
        self._connections: deque[HttpProtocol] = deque()

    def add(self, connection: "HttpProtocol") -> None:
        """Has a connection rest."""
        connection.rests = True
        connection.flow.pause_reading()
        if not self._connections:
            self._wake_later()
        self._connections.append(connection)

    def _wake_later(self) -> None:
        asyncio.get_running_loop().call_later(WAKE_SECONDS, self._wake)

    def _wake(self) -> None:
        for _ in range(min(WAKE_COUNT, len(self._connections))):
            self._connections.popleft().wake()
        if self._connections:
            self._wake_later()


class HttpProtocol(HttpToolsProtocol):
    """One connection of a client."""

    _cycles: Sequence[RequestResponseCycle] = ()
    _head_bytes = 0
    _in_head = False
    _in_other = False
    """Whether what comes in now began with another request."""

    _refusing = False
    """Whether the request that is read now is refused, and `_refused` whether that was told."""

    _refused = False
    _discarded_bytes = 0
    _is_last = False
    """Whether the facade ends, and this connection with the next answer."""

    rests = False
    """Whether its request was just refused, and it is not read for a moment."""

    def __init__(self, places: Places, resting: Resting, **arguments: Any) -> None:
        """Both are shared by all connections; `arguments` are uvicorn's."""
        super().__init__(**arguments)
        self._places = places
        self._resting = resting

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, and with it all who would have been answered on it."""
        super().connection_lost(exc)
        self._forget()

    def shutdown(self) -> None:
        """The facade ends."""
        if self.cycle is None or self.cycle.response_complete:
            self._is_last = True
            self.wake()
            self.loop.call_later(LAST_SECONDS, self.transport.close)
        else:
            super().shutdown()

    def wake(self) -> None:
        """Is read again."""
        self.rests = False
        # It may have been closed by our end.
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def on_message_begin(self) -> None:
        """A request starts."""
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """The head of a request has been read."""
        self._in_head = False
        if self.transport.is_closing() or self._to_be_refused():
            self._refusing, self._refused, self._discarded_bytes = True, False, 0
            return
        super().on_headers_complete()
        self._cycles = [cycle for cycle in (*self._cycles, self.cycle) if cycle and not cycle.response_complete]

    def on_body(self, body: bytes) -> None:
        """A part of a request's body has been read."""
        if self._refusing:
            self._discarded_bytes += len(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has been read as a whole."""
        self._in_other = True
        if not self._refusing:
            super().on_message_complete()
            return
        self._refuse()
        self._refusing = False
        if not self.transport.is_closing():
            self.on_response_complete()
            self._resting.add(self)

    def data_received(self, data: bytes) -> None:
        """Bytes came in."""
        self._in_other = False
        super().data_received(data)
        if self._refusing:
            # The rest of its body is not waited for, but read past: a client that is still sending could not read the answer.
            self._refuse()
            if self._discarded_bytes > MAX_DISCARDED_BYTES:
                self.transport.close()
        if self._in_head and not self._in_other:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response("The request line and headers are too long.")

    def _to_be_refused(self) -> bool:
        """Whether all places are taken. A request behind another one, which has to be answered first, is left to `Admission`.

        So is one whose path has to be decoded first.
        """
        return self._is_last or (
            self._places.are_full
            and (self.cycle is None or self.cycle.response_complete)
            and b"%" not in self.url
            and self._places.needed(self.url.partition(b"?")[0].decode("latin-1"))
            and not self.parser.should_upgrade()
        )

    def _refuse(self) -> None:
        """Tells that the request is refused, once."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        # Who has sent more behind a request that was refused, or does not read the answers, gets no third one.
        close = self._is_last or self.rests or self.flow.write_paused
        # HTTP/1.0 would have to be told that a connection stays; who waits for `100 Continue` may keep the body and go on with the next.
        close = close or not self.parser.should_keep_alive() or self.parser.get_http_version() == "1.0" or self.expect_100_continue
        end = b"connection: close\r\n\r\n" if close else b"\r\n"
        refusal = STOPPING if self._is_last else OVERLOADED
        self.transport.write(_HEADS[refusal] + end + (b"" if self.parser.get_method() == b"HEAD" else refusal.body))
        if close:
            self.transport.close()

    def _forget(self) -> None:
        """Has those who would answer the requests so far know that nobody listens."""
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()

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
        self._forget()
