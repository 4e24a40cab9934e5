"""HTTP on a connection, before a WSGI app of the test's own: how requests are read, views run, and answers
written.
"""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from rest_facade.front_door import connections, pipeline
from rest_facade.front_door.admission import Admission
from rest_facade.front_door.answers import SMALL_BYTES, Answers
from rest_facade.front_door.door import Door
from rest_facade.front_door.greenlets import await_, stop_counting
from rest_facade.front_door.origins import Origins
from rest_facade.front_door.protocol import HttpProtocol
from rest_facade.front_door.websockets import WebSockets
from rest_facade.shapes.response import CutShortError
from tests.contract.facade_alone import VisibleConnections
from tests.support.waiting import PATIENCE_SECONDS, eventually

HOST = b"Host: localhost\r\n"
CLOSE = HOST + b"Connection: close\r\n\r\n"

View = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Front:
    """A front door; `seen` are the requests that have come to a view."""

    def __init__(self, view: View, most: int = 100) -> None:
        self.seen: list[tuple[str, str, bytes]] = []
        self.answers = Answers()
        self.connections = VisibleConnections(sent=self.answers)

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            self.seen.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["wsgi.input"].read()))
            return view(environ, start_response)

        async def nothing(_scope: object, _receive: object, _send: object) -> None:
            raise AssertionError("nobody asks for it")

        self.door = Door(
            app=app,
            asgi=nothing,
            asgi_path="/socket.io",
            exempt_paths=frozenset(["/health"]),
            origins=Origins((), (), is_loopback=True),
            admission=Admission(most),
            connections=self.connections,
            max_body_bytes=100_000,
            keep_alive_seconds=60,
        )
        self._websockets = WebSockets(nothing, self.connections, 1000)
        self._writers: list[asyncio.StreamWriter] = []

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator["Front"]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: HttpProtocol(self.door, self._websockets), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self
            for writer in self._writers:
                writer.close()
            for writer in self._writers:
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
            await self.connections.are_gone()

    async def connect(self, content: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        writer.write(content)
        return reader, writer

    async def ask(self, content: bytes) -> bytes:
        """All that comes until the connection ends."""
        reader, _ = await self.connect(content)
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await reader.read()


def echo(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("X-Path", environ["PATH_INFO"])])
    return [environ["PATH_INFO"].encode("latin-1")]


async def test_an_answer_is_written_at_once_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []
    write = HttpProtocol.write
    monkeypatch.setattr(HttpProtocol, "write", lambda self, data: (writes.append(data), write(self, data)))
    async with Front(echo).listening() as front:
        answer = await front.ask(b"GET /a%2Fb HTTP/1.1\r\n" + CLOSE)
    assert writes == [answer]
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n/a/b")
    for line in (
        b"content-length: 4\r\n",
        b"connection: close\r\n",
        b"x-content-type-options: nosniff\r\n",
        b"vary: Origin\r\n",
        b"date: ",
    ):
        assert answer.count(line) == 1


async def test_what_a_view_awaits_is_cancelled_when_its_client_goes() -> None:
    begun, ended = asyncio.Event(), []

    async def wait() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            ended.append("awaitable")

    def view(_environ: dict[str, Any], _start_response: Any) -> Iterable[bytes]:
        try:
            await_(wait())
        finally:
            ended.append("view")
        return []

    async with Front(view).listening() as front:
        _, writer = await front.connect(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        await begun.wait()
        assert front.door.admission.taken == 1
        writer.close()
        await eventually(lambda: ended == ["awaitable", "view"])
        await eventually(lambda: not front.door.tasks)
        assert front.door.admission.taken == 0


async def test_a_request_whose_client_has_gone_before_its_turn_never_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rest_facade.front_door.admission.ACTIVE_REQUESTS", 1)
    let_go = asyncio.Event()

    def view(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        await_(let_go.wait())
        return echo(environ, start_response)

    async with Front(view).listening() as front:
        stays, _ = await front.connect(b"GET /stays HTTP/1.1\r\n" + CLOSE)
        await eventually(lambda: front.seen)
        _, goes = await front.connect(b"GET /goes HTTP/1.1\r\n" + CLOSE)
        await eventually(lambda: front.door.admission.taken == 2)
        goes.close()
        await eventually(lambda: front.door.admission.taken == 1)
        let_go.set()
        assert (await stays.read()).endswith(b"/stays")
        assert [path for _, path, _ in front.seen] == ["/stays"]


async def test_answers_come_in_the_order_of_the_requests_and_views_begin_in_it() -> None:
    let_go = asyncio.Event()

    def view(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/1":
            await_(let_go.wait())
        return echo(environ, start_response)

    requests = b"".join(
        b"POST /%d HTTP/1.1\r\nContent-Length: 1\r\n%b\r\nx" % (number, HOST) for number in range(1, 2000)
    )
    async with Front(view).listening() as front:
        reader, _ = await front.connect(requests + b"GET /last HTTP/1.1\r\n" + CLOSE)
        await eventually(lambda: front.seen)
        assert front.seen == [("POST", "/1", b"x")]
        let_go.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            answer = await reader.read()
    paths = [f"/{number}" for number in (*range(1, 2000), "last")]
    assert [line[8:].decode() for line in answer.split(b"\r\n") if line.startswith(b"X-Path: ")] == paths
    assert [path for _, path, _ in front.seen] == paths


async def test_a_request_behind_one_may_come_in_pieces() -> None:
    let_go = asyncio.Event()

    def view(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        await_(let_go.wait())
        return echo(environ, start_response)

    async with Front(view).listening() as front:
        post = b"POST /2 HTTP/1.1\r\nContent-Length: 100000\r\n" + CLOSE
        reader, writer = await front.connect(b"GET /1 HTTP/1.1\r\n" + HOST + b"\r\n" + post)
        await eventually(lambda: front.seen)
        writer.write(b"x" * 100_000)
        let_go.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            answer = await reader.read()
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert front.seen[1:] == [("POST", "/2", b"x" * 100_000)]


async def test_many_requests_behind_one_are_refused_without_a_view() -> None:
    let_go = asyncio.Event()

    def view(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        await_(let_go.wait())
        return echo(environ, start_response)

    async with Front(view).listening() as front:
        reader, _ = await front.connect(
            b"GET /1 HTTP/1.1\r\n" + HOST + b"\r\n" + b"GET http: HTTP/1.1\r\n" + HOST + b"\r\n"
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            # What cannot be read ends those before it, too: nobody could tell whose answer comes.
            assert (await reader.read()).count(b"HTTP/1.1 400 ") == 1
        await eventually(lambda: not front.door.tasks)
        foreign = b"GET /x HTTP/1.1\r\nOrigin: https://evil.example\r\n" + HOST + b"\r\n"
        reader, _ = await front.connect(
            b"GET /1 HTTP/1.1\r\n" + HOST + b"\r\n" + foreign * 3000 + b"GET /last HTTP/1.1\r\n" + CLOSE
        )
        let_go.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            answer = await reader.read()
    assert (answer.count(b"HTTP/1.1 403 "), answer.count(b"HTTP/1.1 200 ")) == (3000, 2)


def stream(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return (part for part in (b"one", b"", b"two"))


@pytest.mark.parametrize(
    ("request_line", "chunked", "body"),
    [
        (b"GET / HTTP/1.1", True, b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"),
        # It knows no chunks: the end of the connection is the end of the answer.
        (b"GET / HTTP/1.0", False, b"onetwo"),
        (b"HEAD / HTTP/1.1", True, b""),
    ],
)
async def test_a_stream_is_written_as_the_client_can_read_it(
    request_line: bytes, chunked: bool, body: bytes
) -> None:
    async with Front(stream).listening() as front:
        head, _, found = (await front.ask(request_line + b"\r\n" + CLOSE)).partition(b"\r\n\r\n")
    assert found == body
    assert (b"transfer-encoding: chunked" in head) == chunked
    assert b"content-length" not in head


LARGE = bytes(range(256)) * 60_000


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_what_is_large_goes_out_in_pieces_and_counts_once_for_all(
    monkeypatch: pytest.MonkeyPatch, is_streamed: bool
) -> None:
    monkeypatch.setattr(connections, "LATE_SECONDS", PATIENCE_SECONDS)

    def view(_environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return iter([b"", LARGE]) if is_streamed else [LARGE]

    async with Front(view).listening() as front:
        held = front.answers
        clients = []
        for _ in range(3):
            reader, writer = await front.connect(b"GET / HTTP/1.1\r\n" + CLOSE)
            writer.transport.pause_reading()
            clients.append((reader, writer))
        await eventually(
            lambda: (
                len(front.connections.lagging) == 3
                and all(one.part_left for one in front.connections.lagging)
            )
        )
        assert held.held_bytes == len(LARGE)
        assert all(one.unsent_bytes() - one.part_left < 4 * SMALL_BYTES for one in front.connections.lagging)
        # One goes, two read on.
        clients.pop()[1].transport.abort()
        for reader, writer in clients:
            writer.transport.resume_reading()
            async with asyncio.timeout(PATIENCE_SECONDS):
                answer = await reader.read()
            assert LARGE in answer
            assert answer.endswith(b"\r\n0\r\n\r\n" if is_streamed else LARGE)
        await front.connections.are_gone()
        assert held.held_bytes == 0


async def test_a_stream_goes_on_when_its_client_has_read_and_is_closed_however_it_ends() -> None:
    made = 0
    closed = asyncio.Event()

    def parts() -> Iterator[bytes]:
        nonlocal made
        try:
            while True:
                made += 1
                yield b"x" * 100_000
        finally:
            closed.set()

    def view(_environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return parts()

    async with Front(view).listening() as front:
        reader, writer = await front.connect(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        await eventually(lambda: front.connections.lagging)
        before = made
        # Nothing more is made for a client that does not read.
        for _ in range(50):
            await asyncio.sleep(0)
        assert made == before
        assert front.door.admission.taken == 0
        await reader.readexactly(5_000_000)
        await eventually(lambda: made > before)
        writer.transport.abort()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await closed.wait()
        await eventually(lambda: not front.door.tasks)


@pytest.mark.parametrize("error", [CutShortError(), ZeroDivisionError()], ids=repr)
async def test_a_stream_that_fails_has_no_end(error: Exception) -> None:
    def parts() -> Iterator[bytes]:
        yield b"one"
        raise error

    def view(_environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return parts()

    with capture_logs() as logs:
        async with Front(view).listening() as front:
            answer = await front.ask(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    assert answer.endswith(b"3\r\none\r\n")
    # Who cuts an answer short has said why.
    assert [entry["event"] for entry in logs] == (
        [] if isinstance(error, CutShortError) else ["unforeseen error"]
    )


def broken(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    match environ["PATH_INFO"]:
        case "/value":
            start_response("200 OK", [("X", "a\r\nSet-Cookie: b")])
        case "/name":
            start_response("200 OK", [("X: a\r\nY", "b")])
        case "/letter":
            start_response("200 OK", [("X", "€")])
        case "/long":
            start_response("200 OK", [("Content-Length", "1")])
        case "/short":
            start_response("200 OK", [("Content-Length", "100")])
        case "/error":
            raise LookupError
    return [b"secret"]


@pytest.mark.parametrize("path", ["value", "name", "letter", "long", "short", "error", "nothing"])
async def test_an_answer_that_cannot_be_written_is_a_500(path: str) -> None:
    with capture_logs() as logs:
        async with Front(broken).listening() as front:
            answer = await front.ask(b"GET /%b HTTP/1.1\r\n" % path.encode() + CLOSE)
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b'"code":"INTERNAL"' in answer
    assert b"secret" not in answer
    assert b"Set-Cookie" not in answer
    assert [entry["event"] for entry in logs] == ["unforeseen error"]


EXPECT = b"POST /x HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n" + HOST


async def test_leave_to_send_a_body_is_given_where_it_is_wanted() -> None:
    async with Front(echo).listening() as front:
        reader, writer = await front.connect(EXPECT + b"\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}GET /y HTTP/1.1\r\n" + CLOSE)
        assert (await reader.read()).count(b"HTTP/1.1 200 ") == 2
        assert front.seen == [("POST", "/x", b"{}"), ("GET", "/y", b"")]
        # What is refused needs no body: whether one comes cannot be known.
        for head in (EXPECT.replace(b": 2", b": 200000"), EXPECT + b"Origin: https://evil.example\r\n"):
            answer = await front.ask(head + b"\r\n")
            assert answer.split()[1] in (b"413", b"403")
            assert b"100 Continue" not in answer
            assert b"connection: close\r\n" in answer
        # HTTP/1.0 knows no such thing.
        assert (await front.ask(EXPECT.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n{}")).startswith(
            b"HTTP/1.1 200 "
        )


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_large_is_read_past_and_the_connection_closed(
    monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    monkeypatch.setattr("rest_facade.front_door.connections.TICK_SECONDS", 0.02)
    body = b"10000\r\n" + b"x" * 65_536 + b"\r\n" if chunked else b"x" * 65_536
    head = b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: %d\r\n" % (65_536 * 100)
    async with Front(echo).listening() as front:
        watching = asyncio.create_task(front.connections.watch())
        reader, writer = await front.connect(b"POST / HTTP/1.1\r\n" + HOST + head + b"\r\n")
        for _ in range(100):
            writer.write(body)
        writer.write(b"0\r\n\r\n" if chunked else b"")
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b'"maxBytes":100000' in answer
        # Who never ends is not read for ever.
        monkeypatch.setattr(pipeline, "LINGER_SECONDS", 0.1)
        with contextlib.suppress(ConnectionError):
            await front.ask(b"POST / HTTP/1.1\r\n" + HOST + head + b"\r\n" + 2 * body)
        assert front.seen == []
        watching.cancel()


async def test_a_view_that_only_waits_takes_nobodys_place() -> None:
    let_go = asyncio.Event()

    def view(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/waits":
            stop_counting()
            await_(let_go.wait())
        return echo(environ, start_response)

    async with Front(view, most=1).listening() as front:
        waits, _ = await front.connect(b"GET /waits HTTP/1.1\r\n" + CLOSE)
        await eventually(lambda: front.seen)
        assert (await front.ask(b"GET /x HTTP/1.1\r\n" + CLOSE)).startswith(b"HTTP/1.1 200 ")
        let_go.set()
        assert (await waits.read()).endswith(b"/waits")
        assert front.door.admission.taken == 0


async def test_nothing_is_kept_of_a_request_that_has_its_answer() -> None:
    bodies: list[weakref.ref[Any]] = []

    class Body(dict[str, Any]):
        pass

    def view(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        kept = Body(environ=environ)
        bodies.append(weakref.ref(kept))
        if environ["PATH_INFO"] == "/waits":
            await_(asyncio.sleep(0))
        return echo(environ, start_response)

    async with Front(view).listening() as front:
        gc.collect()
        gc.disable()
        try:
            for number, path in enumerate((b"/x", b"/waits")):
                _, writer = await front.connect(
                    b"POST %b HTTP/1.1\r\nContent-Length: 5\r\n%b\r\nhello" % (path, HOST)
                )
                await eventually(lambda number=number: len(bodies) > number and bodies[number]() is None)
                await eventually(lambda: not front.connections.held_bytes)
                writer.close()
        finally:
            gc.enable()


async def test_while_the_facade_ends_what_is_asked_on_an_idle_connection_is_refused() -> None:
    let_go = asyncio.Event()

    def view(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        await_(let_go.wait())
        return echo(environ, start_response)

    async with Front(view).listening() as front:
        idle, asking = await front.connect(b"")
        busy, _ = await front.connect(
            b"GET /busy HTTP/1.1\r\n" + HOST + b"\r\n" + b"GET /behind HTTP/1.1\r\n" + HOST + b"\r\n"
        )
        await eventually(lambda: front.seen and len(front.connections.clients) == 2)
        front.door.is_stopping = True
        front.connections.shut_down()
        asking.write(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        let_go.set()
        answer = await idle.read()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"The service is stopping" in answer
        answer = await busy.read()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close\r\n" in answer
        assert answer.endswith(b"/busy")
        await front.connections.wait_until_none()
