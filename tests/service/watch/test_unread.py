"""gRPC's clients that do not read what they asked for."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import pytest

from eliza.sessions.v1 import message_service_pb2 as messages_pb
from eliza.sessions.v1 import session_service_pb2 as sessions_pb
from server.patches import grpcio
from server.rpc import sending
from server.rpc.interceptor import WireHandlers
from server.rpc.pipeline import CallPipeline
from tests.support.counts import counted
from tests.support.waiting import PATIENCE_SECONDS, eventually

BIG = "x" * 1_000_000
WATCH = "/eliza.sessions.v1.SessionService/WatchSession"
WATCH_MANY = "/eliza.sessions.v1.SessionService/WatchSessions"
CONVERSE = "/eliza.sessions.v1.MessageService/Converse"
SEND = "/eliza.sessions.v1.MessageService/SendMessage"


class Service:
    """Streams that never end, and answers of a MB.

    `open` is how many streams' generators have not been closed.
    """

    def __init__(self) -> None:
        self.open = 0
        self.sent = 0

    def add_to(self, server: grpc.aio.Server, wire: WireHandlers) -> None:
        watched = sessions_pb.WatchSessionResponse()
        watched.deleted.session_id = BIG
        watched_many = sessions_pb.WatchSessionsResponse()
        watched_many.end.message = BIG
        reply = messages_pb.ConverseResponse()
        reply.reply.content = BIG
        sent = messages_pb.SendMessageResponse()
        sent.message.content = BIG
        one, many, call = (
            grpc.unary_stream_rpc_method_handler,
            grpc.stream_stream_rpc_method_handler,
            grpc.unary_unary_rpc_method_handler,
        )
        sessions = {
            "WatchSession": one(
                self._stream(watched),
                sessions_pb.WatchSessionRequest.FromString,
                sessions_pb.WatchSessionResponse.SerializeToString,
            ),
            "WatchSessions": many(
                self._stream(watched_many),
                sessions_pb.WatchSessionsRequest.FromString,
                sessions_pb.WatchSessionsResponse.SerializeToString,
            ),
        }
        messages = {
            "Converse": one(
                self._stream(reply),
                messages_pb.ConverseRequest.FromString,
                messages_pb.ConverseResponse.SerializeToString,
            ),
            "SendMessage": call(
                self._answer(sent),
                messages_pb.SendMessageRequest.FromString,
                messages_pb.SendMessageResponse.SerializeToString,
            ),
        }
        for name, handlers in (("SessionService", sessions), ("MessageService", messages)):
            name = f"eliza.sessions.v1.{name}"
            wrapped = {method: wire.wrap(f"/{name}/{method}", one) for method, one in handlers.items()}
            server.add_registered_method_handlers(name, wrapped)

    def _stream(self, response: Any) -> Any:
        async def stream(_request: Any, _context: Any) -> AsyncIterator[Any]:
            self.open += 1
            try:
                while True:
                    self.sent += 1
                    yield response
            finally:
                self.open -= 1

        return stream

    def _answer(self, response: Any) -> Any:
        async def answer(_request: Any, _context: Any) -> Any:
            return response

        return answer


class Running:
    """A server with the pipeline before that service."""

    async def __aenter__(self) -> "Running":
        self.service = Service()
        self.pipeline = CallPipeline(lambda: None, max_calls=1000, max_streams=1000, slow_call_s=1000)
        self.sending = sending.Sending()
        self._server = grpcio.build_server()
        self.service.add_to(self._server, WireHandlers(self.pipeline, self.sending))
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        # A reader that grants no more than it must.
        self.channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", [("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        await self._server.stop(0)

    @property
    def unread_bytes(self) -> int:
        """How many bytes wait to be sent."""
        return self.sending._bytes

    def call(self, path: str) -> Any:
        if path == WATCH_MANY:
            return self.channel.stream_stream(path)()
        return self.channel.unary_stream(path)(b"")


async def read_all(call: Any) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await call.read() is not grpc.aio.EOF:
            pass


@pytest.mark.parametrize("path", [WATCH, WATCH_MANY, CONVERSE])
async def test_a_stream_that_is_not_read_ends(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(sending, "WRITE_SECONDS", 0.3)
    async with Running() as running:
        call = running.call(path)
        await eventually(lambda: running.service.sent)
        await eventually(lambda: running.service.open == 0)
        assert (counted(running.pipeline), running.unread_bytes) == ((0, 0), 0)
        # Not as if it had come to its end.
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await read_all(call)
        assert failure.value.code() == grpc.StatusCode.CANCELLED


async def test_a_stream_that_is_read_slowly_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "WRITE_SECONDS", 1)
    async with Running() as running:
        call = running.call(WATCH)
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() - began < 3:
            assert await call.read() is not grpc.aio.EOF
            await asyncio.sleep(0.05)
        assert running.service.open == 1
        call.cancel()
        await eventually(lambda: running.service.open == 0)


async def test_streams_that_are_not_read_keep_no_more_than_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "MAX_UNREAD_BYTES", 3_500_000)
    monkeypatch.setattr(sending, "LATE_SECONDS", 0)
    async with Running() as running:
        calls = [running.call(WATCH) for _ in range(10)]
        await eventually(lambda: running.service.sent >= 10)
        await eventually(lambda: running.service.open <= 3)
        assert running.unread_bytes <= 3_500_000
        for call in calls:
            call.cancel()
        await eventually(lambda: running.service.open == 0)
        assert running.unread_bytes == 0


async def test_those_that_wait_for_room_are_woken_one_after_the_other_calls_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = sending.Sending()
    waiting.reserve("full", sending.MAX_UNREAD_BYTES)
    woken: list[str] = []

    def wake(name: str) -> None:
        woken.append(name)
        # It takes all there is.
        waiting.reserve(name, sending.MAX_UNREAD_BYTES)

    stream = partial(wake, "stream")
    waiting.when_free(stream)
    waiting.when_free(partial(wake, "never"))
    call = asyncio.create_task(waiting.free())
    await asyncio.sleep(0)
    assert (woken, call.done()) == ([], False)
    waiting.release("full")
    await asyncio.wait_for(call, PATIENCE_SECONDS)
    await eventually(lambda: woken == ["stream"])
    waiting.release("stream")
    waiting.forget(stream)
    await eventually(lambda: woken == ["stream", "never"])


async def test_an_answer_that_is_not_read_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that opens its window no further than the answer's beginning: a stream to it, which is not
    read.
    """
    monkeypatch.setattr(sending, "WRITE_SECONDS", 0.3)
    async with Running() as running:
        # The same call as a stream: gRPC reads the one message of a unary call by itself.
        calls = [running.channel.unary_stream(SEND)(b"") for _ in range(3)]
        await eventually(lambda: running.sending._waiting)
        await eventually(lambda: not running.sending._waiting)
        for call in calls:
            call.cancel()
