"""HTTP/1.1 on one connection: bytes become requests, within bounds on heads, time and idle connections."""

import asyncio
from collections.abc import Sequence
from typing import Final

import httptools

from rest_facade.front_door import canned
from rest_facade.front_door.canned import refusal_of
from rest_facade.front_door.connections import HEAD_SECONDS, Entry
from rest_facade.front_door.door import Door
from rest_facade.front_door.exchange import Exchange
from rest_facade.front_door.framing import Framing
from rest_facade.front_door.input import SlicedInput
from rest_facade.front_door.pipeline import Pipeline
from rest_facade.front_door.upgrade import head_without_offer, is_handshake
from rest_facade.front_door.websockets import WebSockets
from rest_facade.front_door.writable_connection import WritableConnection
from rest_facade.front_door.wsgi_environ import connection_environ
from rest_facade.shapes.errors import ApiError

MAX_HEADERS: Final = 200
"""How many header fields a request may have. Each step that reads them takes time per field."""

PIPELINED_BYTES: Final = 2048
"""How many bytes a request takes that waits for the answer to another one on its connection."""

LAST_SECONDS: Final = 0.2
"""How long a stopping facade still reads an idle connection, to refuse a request instead of dropping it."""


def _new_parser(protocol: "HttpProtocol") -> httptools.HttpRequestParser:
    """Returns a parser that reads on behind a request that asks for a close."""
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


class HttpProtocol(SlicedInput, WritableConnection):
    """One connection of a client."""

    _reading: Exchange
    """The request whose head or body is being read, or was last."""

    _held_bytes = 0
    """How many bytes were last noted as held here."""

    _is_of_proxy = False
    """Whether the peer is a trusted proxy, whose requests come from many clients."""

    _head_s: float | None = None
    """When the wait for a head began. None: no head is due, or only within the bound on idle connections."""

    _idle_s: float | None = None
    """When the connection became idle."""

    def __init__(self, door: Door, websockets: WebSockets) -> None:
        super().__init__(door.connections)
        self.turns = door.connections.turns
        self._door = door
        self._websockets = websockets
        self._pipeline = Pipeline(door, self)
        self._framing = Framing()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # it is one that reads and writes
        """Counts the connection. Beyond the bounds its first request is refused, or it is closed at once."""
        self.transport = transport
        self._parser = _new_parser(self)
        self.environ = connection_environ(
            transport.get_extra_info("peername") or ("", 0),
            transport.get_extra_info("sockname") or ("", 0),
            is_tls=transport.get_extra_info("ssl_object") is not None,
        )
        self._head_s = self._loop.time()
        self._is_of_proxy = self._connections.is_trusted(self.environ["REMOTE_ADDR"])
        self._address = self._connections.find_address(self.environ["REMOTE_ADDR"], [])
        match self._connections.add(self, self.environ["REMOTE_ADDR"]):
            case Entry.REFUSED:
                self._pipeline.is_last = True
            case Entry.CLOSED:
                transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.remove(self)
        self.drop_input()
        self.resume_writing()
        self._drop_parts()

    def _drop_parts(self) -> None:
        """Drops the parts that lead back to this protocol, so that it is freed at once."""
        self._pipeline.leave_connection()
        del self._parser
        self.__dict__.pop("_reading", None)

    data_received = SlicedInput.take_in

    # The input calls these.

    def may_parse(self) -> bool:
        """Whether no request waits for the answer to another one; otherwise the next bytes stay unparsed."""
        return not self.waiting_requests

    @property
    def waiting_requests(self) -> int:
        """How many requests wait for the answer to another one."""
        return self._pipeline.waiting_requests

    def note_held(self) -> None:
        """Notes how many bytes are held here. The connection ends where that is too much."""
        held_bytes = self._pipeline.body_bytes + self.unparsed_bytes + PIPELINED_BYTES * self.waiting_requests
        if held_bytes == self._held_bytes:
            return
        is_more, self._held_bytes = held_bytes > self._held_bytes, held_bytes
        if not self._connections.hold(self, held_bytes) and is_more and not self.transport.is_closing():
            self._pipeline.end_with(canned.OVERLOADED, self.__dict__.get("_reading"))

    def parse(self, data: bytes) -> None:
        self._framing.begin_slice()
        self._idle_s = None
        if not self._feed(data):
            return
        self._framing.end_slice(len(data), is_in_body=self._began_s is not None)
        if self._framing.is_too_long:
            self._refuse_unreadable("The request line, headers and trailers are too long")
        if not self._is_busy() and self._idle_s is None and self._head_s is None:
            # These bytes began no request: one is due soon.
            self._head_s = self._loop.time()

    # The parser calls these.

    def on_message_begin(self) -> None:
        self._reading = Exchange(self._door, self)
        self._framing.begin_head()
        if self._head_s is None:
            self._head_s = self._loop.time()

    def on_url(self, url: bytes) -> None:
        self._reading.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header field of a request.

        Drops trailers. Refuses names with `_`, which an environ could not tell from those with `-`.
        """
        if not self._framing.is_in_head:
            self._framing.add_trailer(len(name) + len(value))
        elif len(self._reading.headers) == MAX_HEADERS:
            self._refuse_unreadable(f"It has more than {MAX_HEADERS} header fields")
        elif b"_" in name:
            self._refuse_unreadable("The name of a header field has an underscore")
        else:
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self._reading.expects_leave = True
            self._reading.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._framing.end_head()
        self._head_s = None
        self._began_s = self._came_s = self._loop.time()
        forwarded = [value for name, value in self._reading.headers if name == b"x-forwarded-for"]
        self._pipeline.is_last |= not self._attribute(forwarded)
        self._reading.address = self._address
        if self._is_of_proxy:
            self._reading.address = self._connections.find_address(self.environ["REMOTE_ADDR"], forwarded)
        if self._parser.should_upgrade():
            # The parser stops here: `_feed` goes on.
            return
        # The parser saw no offer in these, and the app may not see one either.
        self._reading.headers[:] = [header for header in self._reading.headers if header[0] != b"upgrade"]
        self._reading.take_head(self._parser)
        if not self.transport.is_closing():
            self._pipeline.add(self._reading)

    def on_body(self, body: bytes) -> None:
        self._came_s = self._loop.time()
        self._framing.note_body()
        if not self.transport.is_closing():
            self._pipeline.add_body(self._reading, body)

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            # This says only that the parser stops.
            return
        self._framing.end_request()
        self._began_s = None
        self._pipeline.complete(self._reading)

    # Exchanges and connections call these.

    def go_on(self) -> None:
        self._pipeline.go_on()

    def note_answer(self) -> None:
        """Goes on parsing behind a request that has been read and answered."""
        if self._pipeline.is_empty:
            if self._head_s is None:
                self._idle_s = self._loop.time()
            # An idle connection of a proxy counts for no client.
            self._attribute([])
        self.note_held()
        self.parse_soon()

    def shutdown(self) -> None:
        """Ends an idle connection soon; one with a request under way ends with its answer."""
        if not self._pipeline.is_empty:
            return
        self._pipeline.is_last = True
        # In two steps, so that the loop reads in between however late it is.
        self._loop.call_later(LAST_SECONDS / 2, self._loop.call_later, LAST_SECONDS / 2, self._close_idle)

    def _close_idle(self) -> None:
        if self._pipeline.is_empty:
            self.transport.close()

    def _is_busy(self) -> bool:
        """Whether a request is being read or has no answer."""
        return self._began_s is not None or not self._pipeline.is_empty

    def _is_late(self, now_s: float) -> bool:
        if self._pipeline.lingers_too_long(now_s) or (
            self._idle_s is not None and now_s - self._idle_s > self._door.keep_alive_seconds
        ):
            self.transport.close()
        if self.is_reading_paused or (self._head_s is not None and self._is_busy()):
            # We do not read, or have not answered: the client is not to blame.
            self._came_s = now_s
            self._head_s = None if self._head_s is None else now_s
        return super()._is_late(now_s) or (self._head_s is not None and now_s - self._head_s > HEAD_SECONDS)

    def _attribute(self, forwarded: Sequence[bytes]) -> bool:
        """Counts the connection for the client of its request. Returns whether that client may have it."""
        return not self._is_of_proxy or self._connections.attribute(
            self, self.environ["REMOTE_ADDR"], forwarded
        )

    def _feed(self, data: bytes) -> bool:
        """Parses received bytes. Returns whether the connection still speaks HTTP.

        At an offer to upgrade the parser stops, and would read the rest as the next request. An offer that is
        not taken is ignored (RFC 9110, 7.8): a new parser reads the head without it, and then the body.
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
                # Not while a request before it still waits for its answer.
                is_first = self._pipeline.is_empty and not self._pipeline.is_last and not self.is_closing()
                if is_first and is_handshake(self._parser, self._reading.headers):
                    return not self._open_websocket(data)
                data = head_without_offer(self._parser, self._reading.target, self._reading.headers) + data
                self._parser = _new_parser(self)
        except httptools.HttpParserError:
            self._refuse_unreadable("Invalid HTTP request received")
            return True

    def _open_websocket(self, frames: bytes) -> bool:
        """Hands the connection on, if a handshake has the path of WebSockets and an allowed origin.

        `frames` are bytes behind the handshake. Returns whether it has done so.
        Raises HttpParserError when its target has no path.
        """
        exchange = self._reading
        exchange.take_head(self._parser)
        try:
            self._websockets.check(exchange)
        except ApiError as error:
            self._pipeline.end_with(refusal_of(error), exchange)
            return False
        self._drop_parts()
        websocket = self._websockets.open(self.transport, exchange)
        self._connections.replace(self, websocket)
        websocket.take_over(self, frames)
        return True

    def _refuse_unreadable(self, reason: str) -> None:
        """Answers a request that cannot be read, and closes the connection."""
        if not self.transport.is_closing():
            error = ApiError("INVALID_REQUEST", f"Invalid request: {reason}", reason=reason)
            self._pipeline.end_with(refusal_of(error), self.__dict__.get("_reading"))
