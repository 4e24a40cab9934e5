"""Connections that do nothing, never finish or never read, on a facade of the test's own whose times are
short.
"""

import asyncio
import contextlib
import gc
import socket
import weakref
from collections.abc import Callable
from ipaddress import ip_network
from itertools import pairwise
from typing import Any

import pytest
from engineio.async_socket import AsyncSocket
from structlog.testing import capture_logs

from eliza.sessions import descriptors
from rest_facade.front_door import connections, protocol, websockets
from rest_facade.front_door.connections import MAX_PER_CLIENT, Connection, Connections, Entry
from rest_facade.front_door.input import SLICE_BYTES
from rest_facade.front_door.protocol import HttpProtocol
from rest_facade.front_door.websockets import WebSocketProtocol
from rest_facade.patches.uvicorn import MESSAGE_BYTES
from rest_facade.socketio import engine
from rest_facade.upstream.backend import Backend
from server.cli.common import raise_descriptor_limit
from tests.contract.facade_alone import HEALTH, Facade, rest, running, status
from tests.support.waiting import PATIENCE_SECONDS, eventually

SHORT_SECONDS = 0.3
GET = b"GET /api/messaging/sessions/00000000-0000-4000-8000-000000000404 HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /api/messaging/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HANDSHAKE = b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
    b"AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
WEBSOCKET = b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\n" + UPGRADE + b"\r\n"


def protocols_of(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[HttpProtocol]]:
    """The connections of clients that have sent something."""
    protocols: list[weakref.ref[HttpProtocol]] = []
    take = HttpProtocol.data_received

    def noted(self: HttpProtocol, data: bytes) -> None:
        take(self, data)
        protocols.append(weakref.ref(self))

    monkeypatch.setattr(HttpProtocol, "data_received", noted)
    return protocols


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "TICK_SECONDS", 0.02)
    for module, name in (
        (protocol, "HEAD_SECONDS"),
        (connections, "BODY_PAUSE_SECONDS"),
        (connections, "WRITE_SECONDS"),
        (engine, "CONNECT_SECONDS"),
    ):
        monkeypatch.setattr(module, name, SHORT_SECONDS)

    class ShortGoodbye(websockets.WebSocketProtocol):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self.close_timeout = SHORT_SECONDS

    monkeypatch.setattr(websockets, "WebSocketProtocol", ShortGoodbye)


ENDLESS = {
    "nothing": b"",
    "an empty line": b"\r\n",
    "half a request line": b"GET /api",
    "half a head": HEALTH[:-2],
    "half a body": POST + b"Content-Length: 1000\r\n\r\n{",
    "no body": POST + b"Content-Length: 1000\r\n\r\n",
    "half a chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    "half a trailer": POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Trailer: ",
    "half a body of a POST of polling": b"POST /socket.io/?EIO=4&transport=polling&sid=x "
    b"HTTP/1.1\r\nContent-Length: 1000\r\n\r\n4",
    "half a head behind an answer": HEALTH + b"GET /api",
    "an empty line behind an answer": HEALTH + b"\r\n",
    "half a WebSocket's head": WEBSOCKET[:-2],
    "half a frame": WEBSOCKET + b"\x81\xfe\x10\x00",
    "half a message": WEBSOCKET + b"\x01\x81\0\0\0\0" + b"4",
    "no `40` on a WebSocket": WEBSOCKET,
}


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("content", ENDLESS.values(), ids=ENDLESS)
async def test_what_does_not_go_on_ends(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    async with running(monkeypatch) as facade:
        reader, writer = await facade.connect(content)
        if content.startswith(HEALTH):
            # Not at once: what comes behind a request that has no answer yet has time until then.
            assert await status(reader) == 503
            writer.write(content.removeprefix(HEALTH))
        await rest(reader)
        assert not facade.shared.clients


@pytest.mark.usefixtures("short")
async def test_what_goes_on_slowly_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as facade:
        body = b"[" + b" " * 40 + b"]"
        reader, writer = await facade.connect(POST + b"Content-Length: %d\r\n\r\n" % len(body))
        began = asyncio.get_running_loop().time()
        for index in range(len(body)):
            writer.write(body[index : index + 1])
            await asyncio.sleep(SHORT_SECONDS / 15)
        assert asyncio.get_running_loop().time() - began > 2 * SHORT_SECONDS
        assert b"not a JSON object" in await reader.readuntil(b"}")


@pytest.mark.usefixtures("short")
async def test_an_idle_connection_stays_as_long_as_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as facade:
        reader, writer = await facade.connect(HEALTH)
        assert await status(reader) == 503
        reading = asyncio.create_task(rest(reader))
        done, _ = await asyncio.wait([reading], timeout=4 * SHORT_SECONDS)
        assert not done
        writer.close()
        await reading


@pytest.mark.parametrize("pieces", [1, 40], ids=["at once", "in pieces"])
@pytest.mark.parametrize("trailers", [b"X: " + b"y" * 200_000, b"X: y\r\n" * 40_000], ids=["long", "many"])
async def test_trailers_count_as_head(monkeypatch: pytest.MonkeyPatch, trailers: bytes, pieces: int) -> None:
    async with running(monkeypatch) as facade:
        reader, writer = await facade.connect(POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
        size = len(trailers) // pieces
        with contextlib.suppress(ConnectionError):
            for begin in range(0, len(trailers), size):
                writer.write(trailers[begin : begin + size])
                await writer.drain()
        answer = await rest(reader)
        assert answer.startswith(b"HTTP/1.1 400 "), answer[:200]
        assert b"trailers are too long" in answer


async def test_few_trailers_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as facade:
        body = b"2\r\n[]\r\n0\r\n" + b"X: y\r\n" * 1000 + b"\r\n"
        assert await facade.status(POST + b"Transfer-Encoding: chunked\r\n\r\n" + body) == 400
        # Many chunks have much between them.
        chunks = b"1\r\n \r\n" * 50_000 + body
        reader, _ = await facade.connect(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + HEALTH)
        assert await status(reader) == 400
        assert b"not a JSON object" in await reader.readuntil(b"}")


async def test_who_comes_beyond_the_bound_is_told_so_and_then_not_even_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(descriptors, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(connections, "MAX_REFUSED", 2)
    async with running(monkeypatch) as facade:
        served = [await facade.connect(HEALTH) for _ in range(3)]
        for reader, _ in served:
            assert await status(reader) == 503
            assert b"OVERLOADED" not in await reader.readuntil(b"}")
        refused = [await facade.connect() for _ in range(2)]
        await eventually(lambda: len(facade.shared.clients) == 5)
        dropped, _ = await facade.connect(HEALTH)
        assert await rest(dropped) == b""
        for (reader, writer), content in zip(refused, (HEALTH, WEBSOCKET), strict=True):
            writer.write(content)
            answer = await rest(reader)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1\r\n" in answer
            assert b"OVERLOADED" in answer
        # Who is served goes on being served, and whose place is free is taken.
        served[0][1].write(HEALTH)
        assert await status(served[0][0]) == 503
        served[1][1].close()
        await eventually(lambda: len(facade.shared.clients) == 2)
        reader, _ = await facade.connect(HEALTH)
        assert b"OVERLOADED" not in await reader.readuntil(b"}")


async def test_each_client_behind_a_trusted_proxy_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_PER_CLIENT", 2)
    monkeypatch.setattr(engine, "MAX_PER_CLIENT", 2)

    def websocket(client: str) -> bytes:
        return WEBSOCKET.replace(
            b"Host: localhost", b"Host: localhost\r\nX-Forwarded-For: 9.9.9.9, " + client.encode()
        )

    async with running(monkeypatch, trusted_proxies=(ip_network("127.0.0.0/8"),)) as facade:
        open_ones = [await facade.connect(websocket("203.0.113.1")) for _ in range(2)]
        for reader, _ in open_ones:
            assert await status(reader) == 101
        assert await facade.status(websocket("203.0.113.1")) == 503
        assert await facade.status(websocket("203.0.113.2")) == 101
        open_ones[0][1].close()
        await eventually(lambda: facade.shared.counts["203.0.113.1"] == 1)
        assert await facade.status(websocket("203.0.113.1")) == 101
        await eventually(lambda: facade.shared.counts["203.0.113.1"] == 1)
        # The same by polling, where sockets have no connections of their own.
        polling = HANDSHAKE.replace(b"Host: localhost", b"Host: localhost\r\nX-Forwarded-For: 203.0.113.3")
        assert [await facade.status(polling) for _ in range(3)] == [200, 200, 503]
        # A connection of the proxy counts for whose request it carries, and for nobody in between.
        health = HEALTH.replace(b"Host: localhost", b"Host: localhost\r\nX-Forwarded-For: 203.0.113.4")
        idle = [await facade.connect(health) for _ in range(3)]
        for reader, _ in idle:
            assert b"OVERLOADED" not in await reader.readuntil(b"}")


def test_each_client_has_a_bound_but_loopback_and_proxies() -> None:
    shared = Connections((ip_network("10.0.0.1"),), 1_000_000)
    for peer in ("127.0.0.1", "::1", "10.0.0.1", "::ffff:10.0.0.1", ""):
        assert {shared.add(Connection(), peer) for _ in range(2 * MAX_PER_CLIENT)} == {Entry.SERVED}
    one = [Connection() for _ in range(MAX_PER_CLIENT)]
    assert {shared.add(connection, "203.0.113.1") for connection in one} == {Entry.SERVED}
    assert shared.add(Connection(), "203.0.113.1") == Entry.REFUSED
    assert shared.add(Connection(), "203.0.113.2") == Entry.SERVED
    shared.remove(one[0])
    assert shared.add(Connection(), "203.0.113.1") == Entry.SERVED
    # A network of IPv6 is one client.
    assert {shared.add(Connection(), f"2001:db8::{n:x}") for n in range(MAX_PER_CLIENT)} == {Entry.SERVED}
    assert shared.add(Connection(), "2001:db8::ffff") == Entry.REFUSED


async def test_a_client_that_leaves_is_no_failed_request_and_nothing_is_left_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    protocols = protocols_of(monkeypatch)
    is_waiting = asyncio.Event()
    wait = Backend.wait

    def noted(self: Backend, answer: Any) -> Any:
        is_waiting.set()
        return wait(self, answer)

    monkeypatch.setattr(Backend, "wait", noted)
    # A server that takes connections and says nothing.
    with socket.create_server(("127.0.0.1", 0)) as silent, capture_logs() as logs:
        async with running(monkeypatch, f"127.0.0.1:{silent.getsockname()[1]}") as facade:
            gc.disable()
            try:
                _, writer = await facade.connect(GET)
                await is_waiting.wait()
                writer.close()
                await eventually(lambda: not any(one() for one in protocols))
            finally:
                gc.enable()
    assert [line for line in logs if line["event"] == "failed request"] == []


@pytest.mark.usefixtures("short")
async def test_nothing_is_left_of_handshakes_that_do_not_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    sockets: list[weakref.ref[Any]] = []
    create = AsyncSocket.__init__

    def noted(self: Any, *arguments: Any) -> None:
        create(self, *arguments)
        sockets.append(weakref.ref(self))

    async with running(monkeypatch) as facade:
        # The library's monitor looks at one after the other, for 20 s, beginning with this one.
        assert await facade.status(HANDSHAKE) == 200
        monkeypatch.setattr(AsyncSocket, "__init__", noted)
        # Before any garbage is collected.
        gc.disable()
        try:
            reader, writer = await facade.connect()
            for _ in range(50):
                writer.write(HANDSHAKE)
                await reader.readuntil(b"}")
            assert len(sockets) == 50
            writer.close()
            await eventually(lambda: not any(one() for one in sockets))
        finally:
            gc.enable()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(HEALTH, id="answered"),
        pytest.param(HEALTH + HEALTH[:9], id="left in a head"),
        pytest.param(POST + b"Content-Length: 9\r\n\r\n{", id="left in a body"),
        pytest.param(b"nothing of HTTP\r\n\r\n", id="unreadable"),
        pytest.param(WEBSOCKET, id="a WebSocket"),
    ],
)
async def test_a_closed_connection_is_freed_before_any_garbage_is_collected(
    monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    protocols = protocols_of(monkeypatch)
    async with running(monkeypatch) as facade:
        gc.disable()
        try:
            _, writer = await facade.connect(content)
            await eventually(lambda: bool(protocols))
            writer.close()
            await eventually(lambda: not any(one() for one in protocols))
        finally:
            gc.enable()


async def test_the_oldest_handshake_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_CONNECTING", 3)
    async with running(monkeypatch) as facade:

        async def ask(method: bytes, socket_id: bytes, body: bytes = b"") -> int:
            path = b"/socket.io/?EIO=4&transport=polling&sid=" + socket_id
            return await facade.status(
                b"%b %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b"
                % (method, path, len(body), body)
            )

        async def shake() -> bytes:
            reader, _ = await facade.connect(HANDSHAKE)
            return (await reader.readuntil(b'","')).rpartition(b'sid":"')[2][:-3]

        connected, oldest = await shake(), await shake()
        assert await ask(b"POST", connected, b"40") == 200
        others = [await shake() for _ in range(3)]
        await until_async(lambda: ask(b"POST", oldest, b"3"), 400)
        for one in (connected, *others):
            assert await ask(b"POST", one, b"40") == 200


async def test_bodies_that_are_held_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_HELD_BYTES", 1_000_000)
    monkeypatch.setattr(connections, "MAX_HELD_FOR_SMALL_BYTES", 1_100_000)
    async with running(monkeypatch) as facade:
        half = POST + b"Content-Length: 500000\r\n\r\n" + b" " * 400_000
        holding = [await facade.connect(half) for _ in range(2)]
        await eventually(lambda: facade.shared.held_bytes == 800_000)
        assert await facade.status(half) == 503
        await eventually(lambda: facade.shared.held_bytes == 800_000)
        # A small one has its place.
        assert await facade.status(POST + b"Content-Length: 2\r\n\r\n[]") == 400
        # Who takes long goes first.
        monkeypatch.setattr(connections, "BODY_PAUSE_SECONDS", 0)
        assert await facade.status(half + b" " * 99_998 + b"[]") == 400
        for reader, _ in holding:
            assert await rest(reader) == b""
        await eventually(lambda: facade.shared.held_bytes == 0)


async def test_a_websocket_that_only_sends_pings_holds_little_and_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(connections, "WRITE_SECONDS", 1)
    monkeypatch.setattr(websockets, "MAX_IDLE_FRAMES", 10**9)
    async with running(monkeypatch) as facade:
        reader, writer = await facade.connect(WEBSOCKET)
        assert await status(reader) == 101
        writer.transport.pause_reading()
        most = sent = 0
        pings = (b"\x89\xfd\0\0\0\0" + b"x" * 125) * 1000
        async with asyncio.timeout(PATIENCE_SECONDS):
            while facade.shared.clients:
                if writer.transport.get_write_buffer_size() < len(pings):
                    writer.write(pings)
                    sent += len(pings)
                await asyncio.sleep(0)
                most = max([most, *(one.unsent_bytes() for one in facade.shared.clients)])
        # The answers to what comes at once, and not to all that came in a second.
        assert most < 1_000_000 < sent


async def body(reader: asyncio.StreamReader) -> bytes:
    """The body of the next answer."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        head = await reader.readuntil(b"\r\n\r\n")
        return await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))


async def the_only_one(facade: Facade, kind: type) -> Any:
    """The only connection, which is of this kind."""
    await eventually(lambda: any(isinstance(one, kind) for one in facade.shared.clients))
    (connection,) = facade.shared.clients
    return connection


async def test_requests_behind_others_are_answered_in_turn_and_few_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count, most = 1000, 0
    async with running(monkeypatch) as facade:
        reader, writer = await facade.connect()
        connection = await the_only_one(facade, HttpProtocol)
        writer.write(
            b"".join(b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % number for number in range(count))
        )
        for number in range(count):
            assert b'"path":"/%d"' % number in await body(reader)
            most = max(most, connection.waiting_requests)
        assert 0 < most <= SLICE_BYTES // 30
        await eventually(lambda: facade.shared.held_bytes == 0)
        assert await facade.status() == 503


async def test_a_request_that_comes_in_parts_behind_another_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running(monkeypatch) as facade:
        reader, writer = await facade.connect()
        connection = await the_only_one(facade, HttpProtocol)
        connection.data_received(HEALTH + POST + b"Content-Length: 2\r\n\r\n")
        assert connection.waiting_requests == 1
        assert b"UNAVAILABLE" in await body(reader)
        writer.write(b"[]")
        assert b"not a JSON object" in await body(reader)


async def test_others_are_served_between_the_small_chunks_of_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rest_facade.front_door.input.PARSE_SECONDS", 0)
    async with running(monkeypatch) as facade:
        reader, writer = await facade.connect()
        connection = await the_only_one(facade, HttpProtocol)
        # As a single read brings them.
        chunks = POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n[\r\n" * 40_000
        connection.data_received(chunks)
        left = [connection.unparsed_bytes]
        while left[-1]:
            await asyncio.sleep(0)
            left.append(connection.unparsed_bytes)
        assert left[0] == len(chunks) - SLICE_BYTES
        assert max(before - after for before, after in pairwise(left)) <= SLICE_BYTES
        writer.write(b"0\r\n\r\n")
        assert await status(reader) == 400


async def test_a_request_of_many_headers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(count: int) -> bytes:
        return HEALTH[:-2] + b"a:\r\n" * (count - 1) + b"\r\n"

    async with running(monkeypatch) as facade:
        assert await facade.status(of(protocol.MAX_HEADERS)) == 503
        assert await facade.status(of(protocol.MAX_HEADERS + 1)) == 400


IDLE = {"pongs": b"\x8a\x80\0\0\0\0", "pings": b"\x89\x80\0\0\0\0", "pieces": b"\0\x80\0\0\0\0"}
BEGUN = b"\x01\x82\0\0\0\0" + b"40"


@pytest.mark.parametrize("frame", IDLE.values(), ids=IDLE)
async def test_a_websocket_that_sends_many_frames_without_a_message_ends(
    monkeypatch: pytest.MonkeyPatch, frame: bytes
) -> None:
    # Otherwise it ends all the same, because it does not connect to Socket.IO.
    monkeypatch.setattr(engine, "CONNECT_SECONDS", 600)
    async with running(monkeypatch) as facade:
        reader, writer = await facade.connect(WEBSOCKET)
        assert await status(reader) == 101
        connection = await the_only_one(facade, WebSocketProtocol)
        writer.write((BEGUN if frame == IDLE["pieces"] else b"") + frame * websockets.MAX_IDLE_FRAMES)
        await eventually(lambda: connection.idle_frames == websockets.MAX_IDLE_FRAMES)
        assert connection in facade.shared.clients
        writer.write(frame)
        await facade.shared.are_gone()


async def test_the_pieces_of_a_message_are_kept_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as facade:
        reader, writer = await facade.connect(WEBSOCKET)
        assert await status(reader) == 101
        connection = await the_only_one(facade, WebSocketProtocol)
        piece = b"\0\xfe\x04\0\0\0\0\0" + b" " * websockets.PIECE_BYTES
        writer.write(BEGUN + piece * 500)
        await eventually(lambda: connection.partial_bytes() == 2 + 500 * websockets.PIECE_BYTES)
        assert len(connection.frames) == 1
        # It is whole: a namespace that there is not.
        writer.write(b"\x80\x82\0\0\0\0/x")
        await eventually(lambda: not connection.frames)


async def test_few_messages_of_a_websocket_wait_for_those_before_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count, most = 20_000, 0
    async with running(monkeypatch) as facade:
        reader, writer = await facade.connect(WEBSOCKET)
        assert await status(reader) == 101
        connection = await the_only_one(facade, WebSocketProtocol)
        # Pongs of Engine.IO, which nobody answers, and then the end.
        writer.write(b"\x81\x81\0\0\0\x003")
        connection.data_received(b"\x81\x81\0\0\0\x003" * count)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while connection.unparsed_bytes or connection.queued_bytes():
                most = max(most, connection.queued_bytes())
                # What waits is parsed before more is read.
                assert not (connection.unparsed_bytes and connection.transport.is_reading())
                await asyncio.sleep(0)
        assert 0 < most <= (SLICE_BYTES // 7 + 1) * (MESSAGE_BYTES + 7)
        assert connection in facade.shared.clients
        # Nothing is noted of one that goes in the midst of its messages.
        connection.data_received(b"\x81\x81\0\0\0\x003" * count)
        assert facade.shared.held_bytes > 0
        connection.abort()
        await eventually(lambda: not facade.shared.clients and not connection.queued_bytes())
        assert facade.shared.held_bytes == 0


async def test_nothing_is_held_of_messages_after_the_goodbye_of_the_app(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # It has not said which namespace it wants.
    monkeypatch.setattr(engine, "CONNECT_SECONDS", 0.01)
    async with running(monkeypatch) as facade:
        await facade.connect(WEBSOCKET)
        connection = await the_only_one(facade, WebSocketProtocol)
        await eventually(lambda: connection.close_sent)
        connection.data_received(b"\x81\x81\0\0\0\x003" * 1000)
        await eventually(lambda: not connection.unparsed_bytes)
        assert connection.queued_bytes() == 0


async def test_nothing_is_noted_of_requests_whose_client_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as facade:
        await facade.connect()
        connection = await the_only_one(facade, HttpProtocol)
        connection.data_received(HEALTH * 1000)
        assert facade.shared.held_bytes > 0
        connection.abort()
        await facade.shared.are_gone()
        assert facade.shared.held_bytes == 0
        assert facade.shared.hold(connection, 1000)
        assert facade.shared.held_bytes == 0


def test_the_soft_limit_of_descriptors_becomes_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(1024, 20_000)]
    monkeypatch.setattr("resource.getrlimit", lambda _: limits[-1])
    monkeypatch.setattr("resource.setrlimit", lambda _, new: limits.append(new))
    assert descriptors.quarter_of_descriptors() == 256
    raise_descriptor_limit()
    raise_descriptor_limit()
    assert limits[1:] == [(20_000, 20_000)]
    assert descriptors.quarter_of_descriptors() == 5_000


async def until_async(ask: Callable[[], Any], wanted: object) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await ask() != wanted:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
