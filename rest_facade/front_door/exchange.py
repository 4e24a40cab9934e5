"""One request and its answer: the WSGI environ, the view that runs, and the bytes that are written."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from http import HTTPStatus
from typing import Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes

import httptools
from structlog.contextvars import bind_contextvars

from eliza.sessions.call_metadata import REQUEST_ID_KEY, take_request_id
from eliza.sessions.errors import forget_frames
from rest_facade.front_door import canned
from rest_facade.front_door.answers import SMALL_BYTES
from rest_facade.front_door.asgi import serve_asgi
from rest_facade.front_door.canned import CannedResponse
from rest_facade.front_door.door import Door
from rest_facade.front_door.greenlets import await_
from rest_facade.front_door.observer import CLIENT_GONE, ROUTE, RequestSpan
from rest_facade.front_door.writable_connection import WritableConnection
from rest_facade.front_door.wsgi_environ import make_environ
from rest_facade.shapes import errors, event_stream
from rest_facade.shapes.credentials import Metadata, add_trace, read_headers
from rest_facade.shapes.response import WITHOUT_BODY, CutShortError

_Write: TypeAlias = Callable[[bytes], object]

_REQUEST_ID: Final = REQUEST_ID_KEY.encode()

STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


class Exchange:
    """A request on a connection.

    It is read; then it is begun, once all before it have been answered; then run, or refused.
    """

    method = path = ""
    raw_path = query = b""
    is_old = False
    """Whether it is one of HTTP/1.0."""

    closes = False
    """Whether the connection ends with the answer."""

    address: Metadata = ()
    """The address of its client, as metadata of calls."""

    expects_leave = False
    """Whether its client waits for `100 Continue` before it sends the body."""

    is_asgi = False
    """Whether it is for the ASGI app."""

    is_exempt = False
    """Whether it takes no place of another request."""

    is_too_large = False

    begun_s = 0.0
    """When its head was read, by the observer's clock."""

    route = ""
    """The route that it came to, where the app tells."""

    span: RequestSpan | None = None
    """Its span, where it is traced."""

    is_begun = is_read = is_handed_over = is_gone = False
    is_started = is_answered = False
    """Whether the answer has begun, and is complete."""

    _status = 0
    _fields: Sequence[tuple[str, str]] = ()
    """The head of the answer, as the view gave it."""

    _is_counted = False
    _task: asyncio.Task[Any] | None = None

    def __init__(self, door: Door, connection: WritableConnection) -> None:
        self.door = door
        self.connection = connection
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: bytes | bytearray = b""

    def take_head(self, parser: httptools.HttpRequestParser) -> None:
        """The head has been read. Raises HttpParserInvalidURLError for a target without a path."""
        self.begun_s = self.door.observer.begin()
        url = httptools.parse_url(self.target)
        if url.path is None:
            raise httptools.HttpParserInvalidURLError("the target has no path")
        self.raw_path, self.query = url.path, url.query or b""
        # WSGI wants the path's bytes, whatever they are, as latin-1.
        self.path = (unquote_to_bytes(self.raw_path) if b"%" in self.raw_path else self.raw_path).decode(
            "latin-1"
        )
        self.is_asgi = f"{self.path}/".startswith(f"{self.door.asgi_path}/")
        self.is_exempt = self.is_asgi or self.path.rstrip("/") in self.door.exempt_paths
        self.method = parser.get_method().decode("ascii")
        self.is_old = parser.get_http_version() < "1.1"
        self.closes = self.is_old or not parser.should_keep_alive()
        self.expects_leave = self.expects_leave and not self.is_old
        if self.door.observer.is_tracing and not self.is_asgi:
            scheme, path = self.connection.environ["wsgi.url_scheme"], self.raw_path.decode("latin-1")
            self.span = self.door.observer.start_span(
                self.method, scheme, path, self.headers, self.request_id
            )

    @property
    def metadata(self) -> Metadata:
        """Its credentials, the address of its client, and its trace, as metadata of calls."""
        metadata = read_headers(self.headers, self.address)
        return metadata if self.span is None else add_trace(metadata, self.span.metadata)

    @cached_property
    def request_id(self) -> str:
        """The name of this request in the logs, which its answer has, too."""
        return take_request_id(value.decode("latin-1") for name, value in self.headers if name == _REQUEST_ID)

    def add_body(self, part: bytes) -> None:
        if self.body:
            # Most have but one part, which need not be copied.
            self.body = bytearray(self.body) if isinstance(self.body, bytes) else self.body
            self.body += part
        else:
            self.body = part

    def hand_over(self) -> None:
        """Starts the work on it, or queues it."""
        self.is_handed_over = True
        if self.is_asgi:
            self._task = self.door.spawn(serve_asgi(self.door.asgi, self))
        elif self.is_exempt:
            self.door.admission.add_exempt(self)
        else:
            self.door.admission.add(self)

    async def run(self, on_wait: Callable[[], None]) -> None:
        """Runs its view. Calls `on_wait` before that first waits."""

        def keep_task() -> None:
            task = asyncio.current_task()
            assert task is not None
            self._task = self.door.keep(task)
            on_wait()

        self._is_counted = not self.is_exempt
        if not self.is_gone:
            await self.door.greenlets.run(self._respond, keep_task, self.release)

    def release(self) -> None:
        """Counts no longer as one that is worked on: it has its answer, or only waits for somebody else."""
        if self._is_counted:
            self._is_counted = False
            self.door.admission.end()

    def refuse(self) -> None:
        """Answers that the service has too much to do."""
        self.answer(canned.STOPPING if self.door.is_stopping else canned.OVERLOADED)

    def abandon(self) -> None:
        """Cancels the view, because the connection is gone."""
        self.is_gone = True
        # One that has not begun its answer may still get one, unless its client is gone.
        if not self.is_answered and (self.is_started or (self.is_begun and self.connection.is_closing())):
            _note_end(self, self._status if self.is_started else CLIENT_GONE)
        self.door.admission.remove(self)
        if self._task and not self.is_asgi:
            self._task.cancel()

    def answer(self, response: CannedResponse) -> None:
        """Answers without a view. A follower of events gets the invitation to come back instead of a 503."""
        accept = b",".join(value for name, value in self.headers if name == b"accept").decode("latin-1")
        if response.status == 503 and event_stream.is_followed(self.method, self.path, accept):
            response = canned.come_back()
        self.is_handed_over = True
        # A client that waits for `100 Continue` may send its body or not. The next bytes could be either.
        self.closes = self.closes or response.ends or (self.expects_leave and not self.is_read)
        self.write_whole(response.status, response.lines, response.body)

    def write_whole(self, status: int, lines: bytes, body: bytes) -> None:
        """Writes a whole answer; `lines` include its length."""
        head = self._head(status, lines)
        self.connection.write(head if self.method == "HEAD" else head + body)
        self._end()

    def _head(self, status: int, lines: bytes) -> bytes:
        self.closes = self.closes or self.door.is_stopping
        cors = b"".join([b"%b: %b\r\n" % line for line in self.door.origins.cors(self.headers)])
        end = b"connection: close\r\n\r\n" if self.closes else b"\r\n"
        self._status = status
        name = b"%b: %b\r\n" % (_REQUEST_ID, self.request_id.encode())
        head = STATUS_LINES[status] + self.door.lines() + name + cors + lines + end
        self.is_started = True
        self.release()
        return head

    def _end(self) -> None:
        self.is_answered = True
        _note_end(self, self._status)
        self._task = None
        self.connection.go_on()

    def _respond(self) -> None:
        """Runs the app and writes its answer. Runs in a greenlet, with a context of its own."""
        bind_contextvars(request_id=self.request_id)
        try:
            self._run_app()
        except (CutShortError, asyncio.CancelledError) as error:
            forget_frames(error)
            self.connection.close()
        except Exception as error:  # noqa: BLE001 - the client hears an id, the log has the cause
            fault = errors.unforeseen(error)
            forget_frames(error)
            if self.is_started:
                self.connection.close()
            else:
                self.answer(canned.refusal_of(fault))
        finally:
            self.release()

    def _run_app(self) -> None:
        environ = make_environ(self)
        chunks = self.door.app(environ, self._start_response)
        try:
            self.route = environ.get(ROUTE, "")
            del environ
            if not self.is_gone:
                self._write(chunks)
        finally:
            if hasattr(chunks, "close"):
                chunks.close()

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], _exc_info: object = None, /
    ) -> "_Write":
        self._status, self._fields = int(status[:3]), headers
        return _refuse_write

    def _write(self, chunks: Iterable[bytes]) -> None:
        """Writes an answer: at once, where its length is known."""
        length, fields = None, []
        for name, value in self._fields:
            match name.lower():
                case "connection":
                    self.closes = self.closes or value.lower() == "close"
                    continue
                case "content-length":
                    length = int(value)
            fields.append((name, value))
        if length is None and not isinstance(chunks, list):
            if not self.is_old:
                fields.append(("transfer-encoding", "chunked"))
            # The head does not wait for the first piece, so that a client sees its stream open.
            self.connection.write(self._head(self._status, _lines(fields)))
            if self.method == "HEAD" or _write_pieces(self, chunks):
                self._end()
            return
        body = b"".join(chunks)
        if length is None and self._status not in WITHOUT_BODY:
            length = len(body)
            fields.append(("content-length", str(length)))
        if self.method != "HEAD" and len(body) != (length or 0):
            raise ValueError("a response is not as long as it says")
        lines = _lines(fields)
        if len(body) <= SMALL_BYTES or self.method == "HEAD":
            self.write_whole(self._status, lines, body)
        else:
            self.connection.write(self._head(self._status, lines))
            _write_part(self, body)
            self._end()


def _write_pieces(exchange: Exchange, pieces: Iterable[bytes]) -> bool:
    """Writes a body piece by piece, each when the client has read most of those before it. Returns whether
    the client is still there.

    HTTP/1.0 knows no chunks: there the end of the connection is the end of the answer.
    """
    connection, is_old = exchange.connection, exchange.is_old
    for piece in pieces:
        if exchange.is_gone:
            return False
        if len(piece) > SMALL_BYTES:
            connection.write(b"" if is_old else b"%x\r\n" % len(piece))
            _write_part(exchange, piece)
            connection.write(b"" if is_old else b"\r\n")
        elif piece:
            connection.write(piece if is_old else b"%x\r\n%b\r\n" % (len(piece), piece))
            if connection.is_write_paused:
                await_(connection.when_drained())
        # Not kept while the next one is made, or waited for.
        del piece
    if not is_old:
        connection.write(b"0\r\n\r\n")
    return True


def _write_part(exchange: Exchange, part: bytes) -> None:
    """Writes a large part in pieces, each when the client has read most of those before it."""
    connection, connections = exchange.connection, exchange.door.connections
    connections.begin_part(connection, part)
    try:
        for start in range(0, len(part), SMALL_BYTES):
            connection.part_left = max(0, len(part) - start - SMALL_BYTES)
            connection.write(part[start : start + SMALL_BYTES])
            if connection.is_write_paused:
                await_(connection.when_drained())
            if exchange.is_gone:
                return
    finally:
        connections.end_part(connection)


def _note_end(exchange: Exchange, status: int) -> None:
    """Tells the observer that a request is over."""
    door = exchange.door
    route = door.asgi_path if exchange.is_asgi else exchange.route
    door.observer.end_request(exchange.method, route, status, exchange.begun_s)
    if exchange.span:
        exchange.span.end(route, status)


def _lines(headers: list[tuple[str, str]]) -> bytes:
    """Makes the lines of a head. Raises ValueError where a name or value would begin another line."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers])
    if text.count("\n") != len(headers) or text.count("\r") != len(headers) or "\0" in text:
        raise ValueError("a header of the response holds a line break")
    return text.encode("latin-1")


def _refuse_write(_data: bytes) -> object:
    raise NotImplementedError("write() is not offered: return an iterable")
