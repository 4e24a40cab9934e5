"""HTTP/1.1 on one connection: bytes become requests.

Bounds on heads, on the time that clients take, and on idle connections.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import httptools

from eliza.sessions.errors import truncate
from rest_facade.front_door import canned
from rest_facade.front_door.canned import refusal_of
from rest_facade.front_door.connections import HEAD_SECONDS, Entry
from rest_facade.front_door.door import Door
from rest_facade.front_door.exchange import Exchange, base_environ
from rest_facade.front_door.input import SlicedInput
from rest_facade.front_door.line import Line
from rest_facade.front_door.pipeline import Pipeline
from rest_facade.front_door.upgrade import head_without_offer, is_handshake
from rest_facade.front_door.websockets import WebSockets
from rest_facade.shapes.errors import ApiError

MAX_HEAD_BYTES: Final = 65_536
"""How long the request line, headers and trailers of a request may be together, and what lies between two
parts of its body; the parser itself would read on for ever.
"""

MAX_HEADERS: Final = 200
"""How many header fields a request may have: each step that looks at them takes as long as there are of them.
"""

PIPELINED_BYTES: Final = 2048
"""How many bytes a request takes that waits for the answer to another one on its connection."""

LAST_SECONDS: Final = 0.2
"""How long an idle connection is read yet when the facade ends: what its client has asked meanwhile is
refused, not dropped.
"""


def _new_parser(protocol: "HttpProtocol") -> httptools.HttpRequestParser:
    """A parser that reads past what comes behind a request that asks for a close."""
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


class HttpProtocol(SlicedInput, Line):
    """One connection of a client."""

    _reading: Exchange
    """The request whose head or body is being read, or was last."""

    _head_bytes = 0
    _in_head = False
    _in_other = False
    """Whether what comes in now began with another request."""

    _has_body_come = False
    """Whether what comes in now has a part of a body."""

    _framing_bytes = 0
    """How many bytes came since the last part of a body, in pieces without any."""

    _held_bytes = 0
    """How many bytes were noted last as held here."""

    _is_of_proxy = False
    """Whether a trusted proxy is at the other end, whose requests are those of many clients."""

    _head_s: float | None = None
    """Since when the head of a request is waited for; None: for none, or only as long as a connection may be
    idle.
    """

    _idle_s: float | None = None
    """Since when the connection is idle."""

    def __init__(self, door: Door, websockets: WebSockets) -> None:
        super().__init__(door.connections)
        self.turns = door.connections.turns
        self._door = door
        self._websockets = websockets
        self._pipeline = Pipeline(door, self)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # it is one that reads and writes
        """A client has connected. Beyond the bounds it is told so at its first request, or not at all."""
        self.transport = transport
        self._parser = _new_parser(self)
        self.environ = base_environ(
            transport.get_extra_info("peername") or ("", 0), transport.get_extra_info("sockname") or ("", 0)
        )
        self._head_s = self._loop.time()
        self._is_of_proxy = self._connections.is_trusted(self.environ["REMOTE_ADDR"])
        match self._connections.add(self, self.environ["REMOTE_ADDR"]):
            case Entry.REFUSED:
                self._pipeline.is_last = True
            case Entry.CLOSED:
                transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, and with it all who would have been answered on it."""
        self._connections.remove(self)
        self.drop_input()
        self._pipeline.abandon()
        self.resume_writing()
        # It has this protocol, too.
        del self._parser
        self.__dict__.pop("_reading", None)

    def data_received(self, data: bytes) -> None:
        """Bytes came in."""
        self.take_in(data)

    # What the input calls.

    def may_parse(self) -> bool:
        """Whether no request waits for the answer to another one: what comes behind that is not parsed before
        its turn.
        """
        return not self.waiting_requests

    @property
    def waiting_requests(self) -> int:
        """How many requests wait for the answer to another one."""
        return self._pipeline.waiting_requests

    def note_held(self) -> None:
        """Notes how much is held here. Where that is too much, the connection ends."""
        held_bytes = self._pipeline.body_bytes + self.unparsed_bytes + PIPELINED_BYTES * self.waiting_requests
        if held_bytes == self._held_bytes:
            return
        is_more, self._held_bytes = held_bytes > self._held_bytes, held_bytes
        if not self._connections.hold(self, held_bytes) and is_more and not self.transport.is_closing():
            self._pipeline.end_with(canned.OVERLOADED, self.__dict__.get("_reading"))

    def parse(self, data: bytes) -> None:
        """Parses a slice of what came in."""
        self._in_other = self._has_body_come = False
        self._idle_s = None
        if not self._feed(data):
            # Nobody may send a frame of a WebSocket before its handshake has been answered.
            self.drop_input()
            return
        if self._in_head and not self._in_other:
            self._head_bytes += len(data)
        elif self._began_s is not None:
            # Lengths of chunks, and trailers, of which the parser may keep one as it comes.
            self._framing_bytes = 0 if self._has_body_come else self._framing_bytes + len(data)
        if max(self._head_bytes, self._framing_bytes) > MAX_HEAD_BYTES:
            self._refuse_unreadable("The request line, headers and trailers are too long")
        if not self._is_busy() and self._idle_s is None and self._head_s is None:
            # Nothing that begins a request: it should follow soon.
            self._head_s = self._loop.time()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A request starts."""
        self._reading = Exchange(self._door, self)
        self._in_head = True
        self._head_bytes = 0
        if self._head_s is None:
            self._head_s = self._loop.time()

    def on_url(self, url: bytes) -> None:
        """Takes a part of the target."""
        self._reading.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header field of a request.

        Drops a name with `_`, because an environ could not tell it from the one with `-`, and a trailer.
        """
        if not self._in_head:
            self._head_bytes += len(name) + len(value)
        elif len(self._reading.headers) == MAX_HEADERS:
            self._refuse_unreadable(f"It has more than {MAX_HEADERS} header fields")
        elif b"_" not in name:
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self._reading.expects_leave = True
            self._reading.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head of a request has been read."""
        self._in_head = False
        self._head_s = None
        self._began_s = self._came_s = self._loop.time()
        self._framing_bytes = 0
        if not self._attribute(
            [value for name, value in self._reading.headers if name == b"x-forwarded-for"]
        ):
            self._pipeline.is_last = True
        if self._parser.should_upgrade():
            # The parser stops here: `_feed` goes on.
            return
        # Whatever it did not stop at is no offer, and nobody behind may take it for one.
        self._reading.headers[:] = [header for header in self._reading.headers if header[0] != b"upgrade"]
        self._reading.take_head(self._parser)
        if not self.transport.is_closing():
            self._pipeline.add(self._reading)

    def on_body(self, body: bytes) -> None:
        """A part of a request's body has been read."""
        self._came_s = self._loop.time()
        self._has_body_come = True
        if not self.transport.is_closing():
            self._pipeline.add_body(self._reading, body)

    def on_message_complete(self) -> None:
        """A request has been read as a whole."""
        if self._parser.should_upgrade():
            # This says only that the parser stops.
            return
        self._in_other = True
        self._began_s = None
        self._pipeline.complete(self._reading)

    # What exchanges and connections call.

    def go_on(self) -> None:
        """Goes on behind an answer."""
        self._pipeline.go_on()

    def note_answer(self) -> None:
        """One more request has been read and answered: what came behind it may be parsed."""
        if self._pipeline.is_empty:
            if self._head_s is None:
                self._idle_s = self._loop.time()
            # An idle connection of a proxy is nobody's.
            self._attribute([])
        self.note_held()
        self.parse_soon()

    def shutdown(self) -> None:
        """The facade ends: the request under way has its answer yet, and whatever is being sent on an idle
        connection a refusal.
        """
        if not self._pipeline.is_empty:
            return
        self._pipeline.is_last = True
        # In two steps, so that the loop reads in between however late it is.
        self._loop.call_later(LAST_SECONDS / 2, self._loop.call_later, LAST_SECONDS / 2, self._close_idle)

    def _close_idle(self) -> None:
        if self._pipeline.is_empty:
            self.transport.close()

    def _is_busy(self) -> bool:
        """Whether a request is read or has no answer yet."""
        return self._began_s is not None or not self._pipeline.is_empty

    def _is_late(self, now_s: float) -> bool:
        if self._pipeline.lingers_too_long(now_s) or (
            self._idle_s is not None and now_s - self._idle_s > self._door.keep_alive_seconds
        ):
            self.transport.close()
        if self.is_reading_paused or (self._head_s is not None and self._is_busy()):
            # It is we who do not read, or have not answered.
            self._came_s = now_s
            self._head_s = None if self._head_s is None else now_s
        return super()._is_late(now_s) or (self._head_s is not None and now_s - self._head_s > HEAD_SECONDS)

    def _attribute(self, forwarded: Sequence[bytes]) -> bool:
        """Has the connection count for the client of its request.

        Returns whether that one may have one more.
        """
        return not self._is_of_proxy or self._connections.attribute(
            self, self.environ["REMOTE_ADDR"], forwarded
        )

    def _feed(self, data: bytes) -> bool:
        """Parses bytes that came in. Returns whether the connection is still one of HTTP.

        At an offer to upgrade the parser stops, and would take what follows for the next request. So an offer
        that is not taken is ignored (RFC 9110, 7.8): a new parser reads the same head without it, and then
        the body.
        """
        try:
            while True:
                try:
                    self._parser.feed_data(data)
                except httptools.HttpParserUpgrade as upgrade:
                    data = data[upgrade.args[0] :]
                else:
                    return True
                if self._parser.get_method() == b"CONNECT":
                    self._refuse_unreadable("CONNECT is not served")
                    return True
                # Nothing may come before a handshake on the connection that still waits for an answer.
                is_free = (
                    self._pipeline.is_empty and not self._pipeline.is_last and not self.transport.is_closing()
                )
                if is_free and is_handshake(self._parser, self._reading.headers):
                    return not self._open_websocket()
                data = head_without_offer(self._parser, self._reading.target, self._reading.headers) + data
                self._parser = _new_parser(self)
        except httptools.HttpParserError:
            self._refuse_unreadable("Invalid HTTP request received")
            return True

    def _open_websocket(self) -> bool:
        """Hands the connection on, if a handshake is for the path of WebSockets, and its page may open it.

        Returns whether it has done so. Raises HttpParserError when its target has no path.
        """
        exchange = self._reading
        exchange.take_head(self._parser)
        try:
            self._door.origins.check(exchange.headers)
            if not exchange.is_asgi:
                raise ApiError(
                    "PATH_NOT_FOUND", "There is no WebSocket on this path", path=truncate(exchange.path)
                )
        except ApiError as error:
            self._pipeline.end_with(refusal_of(error), exchange)
            return False
        del self._parser, self._reading
        self._connections.replace(
            self, self._websockets.open(self.transport, exchange.raw_path, exchange.query, exchange.headers)
        )
        return True

    def _refuse_unreadable(self, reason: str) -> None:
        """Answers a request that cannot be read, and closes the connection."""
        if not self.transport.is_closing():
            error = ApiError("INVALID_REQUEST", f"Invalid request: {reason}", reason=reason)
            self._pipeline.end_with(refusal_of(error), self.__dict__.get("_reading"))
