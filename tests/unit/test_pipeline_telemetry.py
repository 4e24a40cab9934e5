"""What the pipeline tells of calls: each once, with the status that its caller sees."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from server.domain.errors import SessionNotFoundError
from server.rpc.failures import CallFailed
from server.rpc.pipeline import CallPipeline, Waiting, read_gauges
from server.telemetry.telemetry import Telemetry

METHOD = "/eliza.sessions.v1.SessionService/GetSession"


class Recorder(Telemetry):
    """Keeps the ends of calls and the refusals."""

    is_on = True

    def __init__(self) -> None:
        self.ended: list[tuple[str, str]] = []
        self.refused: list[str] = []

    def end_call(self, method: str, status: str, begun_s: float) -> None:
        self.ended.append((method, status))

    def count_refusal(self, reason: str) -> None:
        self.refused.append(reason)


class Caller:
    """A caller of this process, without a deadline."""

    def time_remaining(self) -> float | None:
        return None

    def peer(self) -> str:
        return ""

    def invocation_metadata(self) -> Any:
        return ()


@pytest.fixture
def told() -> Recorder:
    return Recorder()


@pytest.fixture
async def pipeline(told: Recorder) -> CallPipeline:
    return CallPipeline(lambda: None, max_calls=1, max_streams=10, slow_call_s=60, telemetry=told)


async def forever(*_: Any) -> Any:
    await asyncio.Event().wait()


async def fail(*_: Any) -> Any:
    raise SessionNotFoundError("s")


async def break_down(*_: Any) -> Any:
    raise ZeroDivisionError


async def answer(*_: Any) -> Any:
    return "answer"


async def wait_on(*_: Any) -> Any:
    return Waiting(answer)


@pytest.mark.parametrize(
    ("behaviour", "status", "refused"),
    [
        (answer, "OK", []),
        (wait_on, "OK", []),
        (fail, "NOT_FOUND", ["SESSION_NOT_FOUND"]),
        (break_down, "INTERNAL", ["INTERNAL"]),
    ],
)
async def test_a_call_ends_once_with_its_status(
    pipeline: CallPipeline, told: Recorder, behaviour: Any, status: str, refused: list[str]
) -> None:
    await pipeline.answer(METHOD, behaviour, lambda raw: raw, "request", Caller())
    assert told.ended == [(METHOD, status)]
    assert told.refused == refused


async def test_a_call_that_is_cancelled_and_one_that_is_refused(
    pipeline: CallPipeline, told: Recorder
) -> None:
    call = asyncio.create_task(pipeline.answer(METHOD, forever, lambda raw: raw, "request", Caller()))
    await asyncio.sleep(0)
    assert [one.value for one in await read_gauges(pipeline)] == [1, 0, 0]
    await pipeline.answer(METHOD, answer, lambda raw: raw, "request", Caller())
    assert told.ended == [(METHOD, "RESOURCE_EXHAUSTED")]
    assert told.refused == ["OVERLOADED"]
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert told.ended[1:] == [(METHOD, "CANCELLED")]
    assert [one.value for one in await read_gauges(pipeline)] == [0, 0, 0]


async def two(*_: Any) -> AsyncGenerator[Any, None]:
    yield 1
    yield 2


async def one_and_fail(*_: Any) -> AsyncGenerator[Any, None]:
    yield 1
    raise SessionNotFoundError("s")


async def test_a_stream_ends_with_ok_at_its_end(pipeline: CallPipeline, told: Recorder) -> None:
    async with aclosing(pipeline.stream(METHOD, two, lambda raw: raw, "request", Caller())) as answers:
        assert await anext(answers) == 1
        assert told.ended == []
        assert [one.value for one in await read_gauges(pipeline)] == [0, 1, 0]
        assert [one async for one in answers] == [2]
    assert told.ended == [(METHOD, "OK")]


async def test_a_stream_that_is_closed_was_cancelled(pipeline: CallPipeline, told: Recorder) -> None:
    async with aclosing(pipeline.stream(METHOD, two, lambda raw: raw, "request", Caller())) as answers:
        await anext(answers)
    assert told.ended == [(METHOD, "CANCELLED")]
    assert told.refused == []


async def test_a_stream_that_fails_has_its_status(pipeline: CallPipeline, told: Recorder) -> None:
    answers = pipeline.stream(METHOD, one_and_fail, lambda raw: raw, "request", Caller())
    assert await anext(answers) == 1
    with pytest.raises(CallFailed):
        await anext(answers)
    assert told.ended == [(METHOD, "NOT_FOUND")]
    assert told.refused == ["SESSION_NOT_FOUND"]
