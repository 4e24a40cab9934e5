"""HTTP/1.1 as uvicorn speaks it, with this API's error body for requests that cannot be read, a bound on their heads, and refusals that
cost next to nothing while there is more to do than can be done.
"""

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from eliza.sessions.v1.errors import cut
from rest_facade.admission import OVERLOADED, STOPPING, Places, Refusal, come_back, is_followed, refusal_of
from rest_facade.answers import SMALL_BYTES
from rest_facade.bridge import Message, Receive, Send
from rest_facade.connections import CLIENT, HEAD_SECONDS, Connection, Connections, Entry
from rest_facade.errors import RETRY_AFTER_SECONDS, ApiError
from rest_facade.origins import ALWAYS, Headers, Origins
from rest_facade.sockets import PATH

MAX_HEAD_BYTES: Final = 65_536
"""How long the request line, headers and trailers of a request may be together, and what lies between two parts of its
body; the parser itself would read on for ever.
"""

MAX_DISCARDED_BYTES: Final = 16 * 1024 * 1024
"""How much of the body of a refused request is read past: as much as a request may have."""

LAST_SECONDS: Final = 0.2
"""How long an idle connection is read yet when the facade ends: what its client has asked meanwhile is refused, not dropped."""

REFUSED_PER_SECOND: Final = 2000
TICK_SECONDS: Final = 0.02
"""How many requests are refused at most, and how often as many more may be as the time that has passed allows."""

MOST_TICKS: Final = 10
"""How many ticks are made up for after a long turn of the loop."""

PATIENT_SHARE: Final = 4
"""Of so many that are refused one did not wait as it was told, so that nobody waits for ever."""

_TICK_COUNT: Final = int(REFUSED_PER_SECOND * TICK_SECONDS)


def _lines(headers: Headers) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)


def _head(refusal: Refusal) -> bytes:
    """The head of an answer, but for its last lines."""
    return STATUS_LINE[refusal.status] + _lines([*ALWAYS, *refusal.headers])


_HEADS: Final = {refusal: _head(refusal) for refusal in (OVERLOADED, STOPPING)}


class Refusals:
    """The requests that are to be refused. At once, as long as there are few; but only so many in a second: however many clients ask again
    at once, refusing them takes no more than a fraction of the time, and the rest is for those that have places.

    Who waited as it was told comes before those that did not, but for one in PATIENT_SHARE; otherwise it is in order.
    """

    def __init__(self) -> None:
        self._patient: deque[HttpProtocol] = deque()
        self._impatient: deque[HttpProtocol] = deque()
        self._left = _TICK_COUNT
        self._refused = 0
        self._ticking = False

    def add(self, connection: "HttpProtocol", refused_s: float) -> None:
        """Has the request that is now read on a connection refused, whose last refusal was at such an instant of the loop."""
        patient = asyncio.get_running_loop().time() - refused_s >= RETRY_AFTER_SECONDS
        (self._patient if patient else self._impatient).append(connection)
        self._refuse()

    def _refuse(self) -> None:
        while self._left and (self._patient or self._impatient):
            is_turn_of_impatient = self._refused % PATIENT_SHARE == PATIENT_SHARE - 1
            waiting = (self._impatient or self._patient) if is_turn_of_impatient else (self._patient or self._impatient)
            # Those that have gone meanwhile cost nothing.
            told = waiting.popleft().refuse()
            self._left -= told
            self._refused += told
        if not self._ticking and self._left < _TICK_COUNT:
            self._ticking = True
            loop = asyncio.get_running_loop()
            loop.call_later(TICK_SECONDS, self._tick, loop.time())

    def _tick(self, since_s: float) -> None:
        self._ticking = False
        # A turn of the loop may be longer than a tick.
        passed_s = asyncio.get_running_loop().time() - since_s
        self._left = _TICK_COUNT * min(max(1, int(passed_s / TICK_SECONDS)), MOST_TICKS)
        self._refuse()


@dataclass(slots=True)
class _Refused:
    """A request that is refused. `is_stream`: it is for a stream of events, and its client comes back by itself.

    `cors` is what the head of its answer says to browsers. The rest says what its answer is like, whether its client has
    been told, whether it is read as a whole, and how much of it was discarded.
    """

    cors: bytes
    closes: bool
    has_body: bool
    is_stream: bool
    is_told: bool = False
    is_read: bool = False
    discarded_bytes: int = 0


def _new_parser(protocol: HttpToolsProtocol) -> httptools.HttpRequestParser:
    """A parser as uvicorn makes one: it reads past what comes behind a request that asks for a close."""
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def _paced(connection: "HttpProtocol", connections: Connections, cycle: RequestResponseCycle, app: Any) -> Any:
    """An app that goes on with a response when its client has read most of what there is of it. What is large goes out in pieces.

    uvicorn has it wait before a write instead: the next part would be made, and held, by then.
    """

    async def run(scope: Any, receive: Receive, send: Send) -> None:
        async def write(message: Message) -> None:
            body = message.pop("body", b"")
            if len(body) > SMALL_BYTES:
                connections.begin_part(connection, body)
                try:
                    while connection.part_left > SMALL_BYTES and not cycle.disconnected:
                        start = len(body) - connection.part_left
                        connection.part_left -= SMALL_BYTES
                        await send({**message, "body": body[start : start + SMALL_BYTES], "more_body": True})
                        if cycle.flow.write_paused and not cycle.disconnected:
                            await cycle.flow.drain()
                    body = body[len(body) - connection.part_left :]
                finally:
                    connections.end_part(connection)
            await send({**message, "body": body})
            if message.get("more_body") and cycle.flow.write_paused and not cycle.disconnected:
                await cycle.flow.drain()

        await app(scope, receive, write)

    return run


def _without_chunks(cycle: RequestResponseCycle, app: Any) -> Any:
    """An app whose answers end with the connection where they have no length: HTTP/1.0 knows no chunks."""

    async def run(scope: Any, receive: Receive, send: Send) -> None:
        has_length = True

        async def write(message: Message) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                has_length = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
            if not has_length:
                # What comes is as long as uvicorn expects.
                cycle.chunked_encoding = False
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, write)

    return run


class HttpProtocol(Connection, HttpToolsProtocol):
    """One connection of a client."""

    _cycles: Sequence[RequestResponseCycle] = ()
    _head_bytes = 0
    _in_head = False
    _in_other = False
    """Whether what comes in now began with another request."""

    _has_body_come = False
    """Whether what comes in now has a part of a body."""

    _refused: _Refused | None = None
    """The request that is refused, until it is read and its client told."""

    _refused_s = -math.inf
    """When the last one was, by the loop's clock."""

    _is_last = False
    """Whether this connection is closed with the next refusal: because its client asks on, or because the facade ends."""

    _is_ending = False

    _head_s: float | None = None
    """Since when the head of a request is waited for; None: for none, or only as long as a connection may be idle."""

    _is_of_proxy = False
    """Whether a trusted proxy is at the other end, whose requests are those of many clients."""

    _framing_bytes = 0
    """How many bytes came since the last part of a body, in pieces without any."""

    _held_bytes = 0
    """How many bytes of bodies are kept here until they have their answers."""

    def __init__(self, origins: Origins, places: Places, refusals: Refusals, connections: Connections, **arguments: Any) -> None:
        """The first four are shared by all connections; `arguments` are uvicorn's."""
        super().__init__(**arguments)
        self._origins = origins
        self._places = places
        self._refusals = refusals
        self._connections = connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """A client has connected. Beyond the bounds it is told so at its first request, or not at all."""
        super().connection_made(transport)
        self._head_s = self.loop.time()
        peer = self.client[0] if self.client else ""
        self._is_of_proxy = self._connections.is_trusted(peer)
        match self._connections.add(self, peer):
            case Entry.REFUSED:
                self._is_last = True
            case Entry.CLOSED:
                transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, and with it all who would have been answered on it."""
        super().connection_lost(exc)
        self._connections.remove(self)
        self._forget()

    def pause_writing(self) -> None:
        """More waits to be sent than should."""
        super().pause_writing()
        self._connections.lag(self)

    def resume_writing(self) -> None:
        """Little waits to be sent again."""
        super().resume_writing()
        self._connections.catch_up(self)

    def on_response_complete(self) -> None:
        """A request has been answered."""
        super().on_response_complete()
        self._held_bytes = 0
        self._connections.hold(self, 0)
        if not self.pipeline:
            # An idle connection of a proxy is nobody's.
            self._attribute([])

    def shutdown(self) -> None:
        """The facade ends."""
        if self.cycle is None or self.cycle.response_complete:
            self._is_ending = self._is_last = True
            self.refuse()
            # In two steps, so that the loop reads in between however late it is.
            self.loop.call_later(LAST_SECONDS / 2, self.loop.call_later, LAST_SECONDS / 2, self.transport.close)
        else:
            super().shutdown()

    def on_message_begin(self) -> None:
        """A request starts."""
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0
        if self._head_s is None:
            self._head_s = self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header field of a request.

        Drops a name with `_`, because an environ could not tell it from the one with `-`, and a trailer.
        """
        if not self._in_head:
            self._head_bytes += len(name) + len(value)
        elif b"_" not in name:
            super().on_header(name, value)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        app = _paced(self, self._connections, cycle, app)
        is_old = cycle.scope["http_version"] < "1.1"
        super()._start_asgi_task(cycle, _without_chunks(cycle, app) if is_old else app)

    def on_headers_complete(self) -> None:
        """The head of a request has been read."""
        self._in_head = False
        self._head_s = None
        self._began_s = self._came_s = self.loop.time()
        self._framing_bytes = 0
        if not self._attribute([value for name, value in self.headers if name == b"x-forwarded-for"]):
            self._is_last = True
        if self.parser.should_upgrade():
            # The parser stops here: `_feed` goes on.
            return
        self.scope["state"][CLIENT] = self._connections.client(self)
        # Whatever it did not stop at is no offer, and nobody behind may take it for one.
        self.headers[:] = [header for header in self.headers if header[0] != b"upgrade"]
        if self._refused:
            # Who does not wait for the answer to a request that is refused gets but one more.
            self.refuse()
            self._is_last = True
        if self.transport.is_closing() or self._to_be_refused():
            method, path = self.parser.get_method(), self.url.partition(b"?")[0]
            is_stream = is_followed(method.decode(), path.decode("latin-1"), self.headers)
            # HTTP/1.0 would have to be told that a connection stays; who waits for `100 Continue` may keep the body and go on.
            closes = is_stream or not self.parser.should_keep_alive() or self.parser.get_http_version() == "1.0" or self.expect_100_continue
            cors = _lines(self._origins.cors(self.headers))
            self._refused = _Refused(cors, closes, has_body=method != b"HEAD", is_stream=is_stream)
            return
        super().on_headers_complete()
        self._cycles = [cycle for cycle in (*self._cycles, self.cycle) if cycle and not cycle.response_complete]

    def on_body(self, body: bytes) -> None:
        """A part of a request's body has been read."""
        self._came_s = self.loop.time()
        self._has_body_come = True
        if self._refused:
            self._refused.discarded_bytes += len(body)
            return
        if not self.cycle.response_complete and not self.transport.is_closing():
            self._held_bytes += len(body)
            if not self._connections.hold(self, self._held_bytes):
                self._end_with(OVERLOADED)
                return
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has been read as a whole."""
        if self.parser.should_upgrade():
            # This says only that the parser stops.
            return
        self._in_other = True
        self._began_s = None
        if self._refused:
            self._refused.is_read = True
            self._forget_refused()
        else:
            super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Bytes came in."""
        self._in_other = self._has_body_come = False
        before = self._refused
        self._unset_keepalive_if_required()
        if not self._feed(data):
            return
        if self._refused and self._refused is not before and not self.transport.is_closing():
            if self._is_ending:
                self.refuse()
            else:
                self._refusals.add(self, self._refused_s)
        if self._refused and self._refused.discarded_bytes > MAX_DISCARDED_BYTES:
            self.refuse()
            self.transport.close()
        if self._in_head and not self._in_other:
            self._head_bytes += len(data)
        elif self._began_s is not None:
            # Lengths of chunks, and trailers, of which the parser may keep one as it comes.
            self._framing_bytes = 0 if self._has_body_come else self._framing_bytes + len(data)
        if max(self._head_bytes, self._framing_bytes) > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The request line, headers and trailers are too long.")
        if not self._is_busy() and self.timeout_keep_alive_task is None and self._head_s is None:
            # Nothing that begins a request: it should follow soon.
            self._head_s = self.loop.time()

    def refuse(self) -> bool:
        """Tells the client whose request is refused, if there is one. The rest of its body is not waited for, but read past.

        Returns whether there is one.
        """
        if self._refused is None or self._refused.is_told or self.transport.is_closing():
            return False
        self._refused.is_told = True
        self._refused_s = self.loop.time()
        # Who does not read the answers gets no other one.
        close = self._refused.closes or self._is_last or self.flow.write_paused
        end = b"connection: close\r\n\r\n" if close else b"\r\n"
        if self._refused.is_stream:
            refusal = come_back()
            head = _head(refusal)
        else:
            refusal = STOPPING if self._is_ending else OVERLOADED
            head = _HEADS[refusal]
        self.transport.write(head + self._refused.cors + end + (refusal.body if self._refused.has_body else b""))
        if close:
            self.transport.close()
        self._forget_refused()
        return True

    def _is_busy(self) -> bool:
        """Whether a request is read or has no answer yet."""
        is_answered = self.cycle is None or self.cycle.response_complete
        return self._began_s is not None or self._refused is not None or not is_answered

    def _is_late(self, now_s: float) -> bool:
        if self.flow.read_paused or (self._head_s is not None and self._is_busy()):
            # It is we who do not read, or have not answered.
            self._came_s = now_s
            self._head_s = None if self._head_s is None else now_s
        return super()._is_late(now_s) or (self._head_s is not None and now_s - self._head_s > HEAD_SECONDS)

    def _attribute(self, forwarded: Sequence[bytes]) -> bool:
        """Has the connection count for the client of its request. Returns whether that one may have one more."""
        if not self._is_of_proxy or self.client is None:
            return True
        return self._connections.attribute(self, self.client[0], forwarded)

    def _feed(self, data: bytes) -> bool:
        """Parses bytes that came in. Returns whether the connection is still one of HTTP.

        At an offer to upgrade the parser stops, and would take what follows for the next request. So an offer that is not
        taken is ignored (RFC 9110, 7.8): a new parser reads the same head without it, and then the body.
        """
        try:
            while True:
                try:
                    self.parser.feed_data(data)
                except httptools.HttpParserUpgrade as upgrade:
                    data = data[upgrade.args[0] :]
                else:
                    return True
                if self.parser.get_method() == b"CONNECT":
                    self.send_400_response("CONNECT is not served.")
                    return True
                if self._is_handshake():
                    self._open_websocket()
                    return False
                data = self._head_without_offer() + data
                self.parser = _new_parser(self)
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")
            return True

    def _is_handshake(self) -> bool:
        """Whether the head that has been read begins a WebSocket that can be had now (RFC 6455, 4.1).

        Nothing may come before it on the connection that still waits for an answer.
        """
        names = {name for name, _ in self.headers}
        return (
            self.parser.get_method() == b"GET"
            and self.parser.get_http_version() == "1.1"
            and [value.strip().lower() for name, value in self.headers if name == b"upgrade"] == [b"websocket"]
            and b"sec-websocket-key" in names
            and b"transfer-encoding" not in names
            and all(value == b"0" for name, value in self.headers if name == b"content-length")
            and not self._refused
            and not self._is_last
            and not self.transport.is_closing()
            and (self.cycle is None or self.cycle.response_complete)
        )

    def _open_websocket(self) -> None:
        """Hands the connection on, if a handshake is for Socket.IO's path, and its page may open it.

        Raises HttpParserError when its target has no path.
        """
        try:
            self._origins.check(self.headers)
        except ApiError as error:
            self._close_with(refusal_of(error))
            return
        target = httptools.parse_url(self.url)
        path = unquote((target.path or b"/").decode("latin-1"))
        if f"{path}/".startswith(f"{PATH}/"):
            self.scope["method"] = "GET"
            # A target may name the host, too.
            self.url = target.path + (b"?" + target.query if target.query else b"")
            self.handle_websocket_upgrade()
            protocol = self.transport.get_protocol()
            assert isinstance(protocol, WebSocketProtocol)
            self._connections.replace(self, protocol)
        else:
            self._close_with(refusal_of(ApiError("PATH_NOT_FOUND", "There is no WebSocket on this path", path=cut(path))))

    def _head_without_offer(self) -> bytes:
        """The head that has been read, without the option `upgrade` that makes an offer of it."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                options = value.split(b",")
                value = b",".join(option for option in options if option.strip().lower() != b"upgrade")
            lines.append(name + b": " + value)
        return b"\r\n".join((*lines, b"\r\n"))

    def _forget_refused(self) -> None:
        """Goes on to the next request, if the client has been told and the refused one is read."""
        if self._refused and self._refused.is_told and self._refused.is_read:
            self._refused = None
            if not self.transport.is_closing():
                self.on_response_complete()

    def _to_be_refused(self) -> bool:
        """Whether all places are taken. A request behind another one, which has to be answered first, is left to `Admission`.

        So is one whose path has to be decoded first.
        """
        return self._is_last or (
            self._places.are_full
            and (self.cycle is None or self.cycle.response_complete)
            and b"%" not in self.url
            and self._places.needed(self.url.partition(b"?")[0].decode("latin-1"))
        )

    def _forget(self) -> None:
        """Has those who would answer the requests so far know that nobody listens."""
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()

    def send_400_response(self, msg: str) -> None:
        """Answers a request that cannot be read, and closes the connection."""
        if self._refused:
            # What cannot be read is the rest of a request that has its answer, or comes behind one.
            self.refuse()
            self.transport.close()
            return
        reason = msg.rstrip(".")
        self._end_with(refusal_of(ApiError("INVALID_REQUEST", f"Invalid request: {reason}", reason=reason)))

    def _end_with(self, refusal: Refusal) -> None:
        """Answers a request with a refusal, if its answer has not begun, and closes the connection."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self._close_with(refusal)
        else:
            self.transport.close()
        # Requests before it on the same connection that are not answered yet must not write to what is closed.
        self.pipeline.clear()
        self._forget()

    def _close_with(self, refusal: Refusal) -> None:
        """Answers a request with a refusal, and closes the connection."""
        head = _head(refusal) + _lines(self._origins.cors(self.headers))
        self.transport.write(head + b"connection: close\r\n\r\n" + refusal.body)
        self.transport.close()


class WebSocketProtocol(Connection, WebSocketsSansIOProtocol):
    """One WebSocket, in place of the HttpProtocol on which it was asked for."""

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        """`connections` are shared by all; `arguments` are uvicorn's."""
        super().__init__(**arguments)
        self._connections = connections

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        super().connection_lost(exc)
        self._connections.remove(self)

    def pause_writing(self) -> None:
        """More waits to be sent than should."""
        super().pause_writing()
        self._connections.lag(self)

    def resume_writing(self) -> None:
        """Little waits to be sent again."""
        super().resume_writing()
        self._connections.catch_up(self)

    def handle_ping(self) -> None:
        """A ping came. Who does not read gets no answers to its pings, which would pile up."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def data_received(self, data: bytes) -> None:
        """Bytes came in."""
        self._came_s = self.loop.time()
        super().data_received(data)
        held_bytes = len(self.conn.reader.buffer) + sum(map(len, self.frames))
        if not held_bytes:
            self._began_s = None
        elif self._began_s is None:
            self._began_s = self._came_s
        if not self._connections.hold(self, held_bytes):
            self.abort()

    def _is_late(self, now_s: float) -> bool:
        if self.read_paused:
            self._came_s = now_s
        return super()._is_late(now_s)
