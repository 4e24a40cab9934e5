"""A channel within the process: how its calls end, and that nothing of them is counted any longer."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc.aio import EOF, AioRpcError

from eliza.sessions.errors import error_info
from server.domain.errors import SessionNotFoundError
from server.rpc.in_process_channel import InProcessChannel
from server.rpc.pipeline import CallPipeline
from server.rpc.services import Services
from tests.support.counts import counted

METHOD = "/eliza.sessions.v1.SessionService/"


UNARY = ("answer", "encode", "refuse", "wait", "greet")


class Servicer:
    """Methods that do what their names say. `open` counts those that have begun and not ended."""

    def __init__(self) -> None:
        self.open = 0

    async def answer(self, request: str, caller: Any) -> str:
        return f"{request}!"

    async def encode(self, request: str, caller: Any) -> bytes:
        return request.encode()

    async def refuse(self, request: str, caller: Any) -> str:
        raise SessionNotFoundError(request)

    async def wait(self, request: str, caller: Any) -> str:
        self.open += 1
        try:
            return await asyncio.get_running_loop().create_future()
        finally:
            self.open -= 1

    async def greet(self, request: str, caller: Any) -> str:
        await caller.send_initial_metadata((("greeting", request),))
        return await self.wait(request, caller)

    async def tell(self, request: str, caller: Any) -> AsyncIterator[str]:
        self.open += 1
        try:
            yield "first"
            yield await asyncio.get_running_loop().create_future()
        finally:
            self.open -= 1

    async def echo(self, requests: AsyncIterator[str], caller: Any) -> AsyncIterator[str]:
        async for request in requests:
            yield f"{request}!"


@pytest.fixture
def servicer() -> Servicer:
    return Servicer()


@pytest.fixture
def pipeline() -> CallPipeline:
    return CallPipeline(lambda: None, max_calls=10, max_streams=10, slow_call_s=60)


@pytest.fixture
def channel(servicer: Servicer, pipeline: CallPipeline) -> InProcessChannel:
    services = Services()
    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    handlers = {name: unary(getattr(servicer, name)) for name in UNARY}
    handlers |= {"tell": stream(servicer.tell), "echo": grpc.stream_stream_rpc_method_handler(servicer.echo)}
    services.add_registered_method_handlers("eliza.sessions.v1.SessionService", handlers)
    return InProcessChannel(services, pipeline)


async def test_an_answer_comes_as_it_is_or_is_read_where_it_is_encoded(channel: InProcessChannel) -> None:
    assert await channel.unary_unary(f"{METHOD}answer")("hi", timeout=5) == "hi!"
    assert await channel.unary_unary(f"{METHOD}encode", response_deserializer=bytes.decode)("hi") == "hi"


async def test_a_refusal_has_the_reason_in_its_trailers(channel: InProcessChannel) -> None:
    with pytest.raises(AioRpcError) as raised:
        await channel.unary_unary(f"{METHOD}refuse")("s", timeout=5)
    info = error_info(raised.value)
    assert info is not None
    assert (raised.value.code(), info.reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")


async def test_a_deadline_ends_the_handler_and_not_the_task(
    channel: InProcessChannel, servicer: Servicer, pipeline: CallPipeline
) -> None:
    with pytest.raises(AioRpcError) as raised:
        await channel.unary_unary(f"{METHOD}wait")("hi", timeout=0.01)
    task = asyncio.current_task()
    assert task is not None
    assert (raised.value.code(), task.cancelling()) == (grpc.StatusCode.DEADLINE_EXCEEDED, 0)
    assert (servicer.open, counted(pipeline)[0]) == (0, 0)


async def test_a_task_that_is_cancelled_ends_the_handler(
    channel: InProcessChannel, servicer: Servicer, pipeline: CallPipeline
) -> None:
    async def call() -> None:
        await channel.unary_unary(f"{METHOD}wait")("hi", timeout=60)

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    assert servicer.open == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (servicer.open, counted(pipeline)[0]) == (0, 0)


async def test_a_call_made_as_a_stream_has_its_initial_metadata_before_its_answer(
    channel: InProcessChannel, servicer: Servicer, pipeline: CallPipeline
) -> None:
    call = channel.unary_stream(f"{METHOD}greet")("hello", timeout=60)
    reading = asyncio.create_task(call.read())
    assert list(await call.initial_metadata()) == [("greeting", "hello")]
    assert (servicer.open, reading.done()) == (1, False)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert (servicer.open, counted(pipeline)[0]) == (0, 0)


async def test_a_call_made_as_a_stream_has_one_answer_or_a_refusal(channel: InProcessChannel) -> None:
    call = channel.unary_stream(f"{METHOD}answer")("hi", timeout=5)
    assert [await call.read(), await call.read()] == ["hi!", EOF]
    assert list(await call.initial_metadata()) == []
    refused = channel.unary_stream(f"{METHOD}refuse")("s", timeout=5)
    with pytest.raises(AioRpcError) as raised:
        await refused.read()
    info = error_info(raised.value)
    assert info is not None
    assert info.reason == "SESSION_NOT_FOUND"


async def test_a_method_that_nobody_serves_is_unimplemented(channel: InProcessChannel) -> None:
    with pytest.raises(AioRpcError) as raised:
        await channel.unary_unary(f"{METHOD}nothing")("hi", timeout=5)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("is_read", [True, False])
async def test_a_stream_that_is_left_counts_no_longer(
    channel: InProcessChannel, servicer: Servicer, pipeline: CallPipeline, is_read: bool
) -> None:
    call = channel.unary_stream(f"{METHOD}tell")("hi")
    done = asyncio.Event()
    call.add_done_callback(lambda _: done.set())
    assert await call.read() == "first"
    assert (servicer.open, counted(pipeline)[1]) == (1, 1)
    reading = asyncio.create_task(call.read()) if is_read else None
    await asyncio.sleep(0)
    assert call.cancel()
    async with asyncio.timeout(30):
        await done.wait()
        if reading:
            with pytest.raises(asyncio.CancelledError):
                await reading
        while servicer.open:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
    assert counted(pipeline)[1] == 0
    assert (call.cancelled(), await call.code()) == (True, grpc.StatusCode.CANCELLED)


async def test_a_streams_deadline_is_told_to_its_reader(
    channel: InProcessChannel, servicer: Servicer, pipeline: CallPipeline
) -> None:
    call = channel.unary_stream(f"{METHOD}tell")("hi", timeout=0.01)
    assert await call.read() == "first"
    with pytest.raises(AioRpcError) as raised:
        await call.read()
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (servicer.open, counted(pipeline)[1]) == (0, 0)


async def test_requests_of_a_stream_are_answered_in_order_until_no_more_come(
    channel: InProcessChannel,
) -> None:
    call = channel.stream_stream(f"{METHOD}echo")()
    for request in ("a", "b"):
        await call.write(request)
    await call.done_writing()
    assert [await call.read(), await call.read(), await call.read()] == ["a!", "b!", EOF]
    with pytest.raises(asyncio.InvalidStateError):
        await call.write("c")
