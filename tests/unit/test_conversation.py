"""Whoever waits for a reply is told which message is stored, also where the wait ends for a reason of our
own.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from eliza.sessions.call_metadata import MESSAGE_ID_KEY
from eliza.sessions.v1.errors_pb2 import ERROR_REASON_SESSION_EXPIRED
from eliza.sessions.v1.message_pb2 import Message
from eliza.sessions.v1.message_service_pb2 import (
    ConverseResponse,
    NoReply,
    ReplyPending,
    SendMessageRequest,
    SendMessageResponse,
)
from rest_facade.routes import sse
from rest_facade.shapes.errors import ApiError
from rest_facade.upstream.conversation import AwaitedReply, Conversation

STORED = Message(session_id="s", message_id="m")
SENT = SendMessageResponse(message=STORED)
IDS = {"sessionId": "s", "messageId": "m"}


class Call:
    """A call that stores the message, tells some parts, and then fails, or never ends."""

    def __init__(self, code: grpc.StatusCode | None, *parts: Any, is_stored: bool = True) -> None:
        self._code = code
        self._parts = list(parts)
        self._metadata = Metadata((MESSAGE_ID_KEY, "m")) if is_stored else Metadata()

    async def initial_metadata(self) -> Metadata:
        return self._metadata

    async def read(self) -> Any:
        if self._parts:
            return self._parts.pop(0)
        if self._code is None:
            await asyncio.Event().wait()
        raise AioRpcError(self._code, Metadata(), Metadata(), details="Deadline Exceeded")

    def cancel(self) -> None: ...


class Backend:
    """A way to a server that does so; it follows nothing, as when the facade stops."""

    heartbeat_seconds = 15

    def __init__(self, call: Call) -> None:
        self._call = call

    def converse(self, request: Any, metadata: Any) -> Call:
        return self._call

    def send_and_wait(self, request: Any, metadata: Any) -> Call:
        return self._call

    def iterate(self, items: Any) -> Iterator[Any]:
        return iter(())


async def opened(call: Call) -> AwaitedReply:
    backend: Any = Backend(call)
    waiting = AwaitedReply(backend, SendMessageRequest(session_id="S"), ())
    await waiting.open()
    return waiting


async def conversation(backend: Any) -> Conversation:
    talk = Conversation(backend, SendMessageRequest(), ())
    await talk.open()
    return talk


async def test_a_deadline_of_the_calls_own_names_the_message() -> None:
    waiting = await opened(Call(grpc.StatusCode.DEADLINE_EXCEEDED))
    with pytest.raises(ApiError) as raised:
        await waiting.answer()
    assert (raised.value.row.reason, raised.value.details) == ("AGENT_REPLY_TIMEOUT", IDS)


async def test_a_stop_of_the_facade_names_the_message() -> None:
    waiting = await opened(Call(None))
    answer = asyncio.create_task(waiting.answer())
    await asyncio.sleep(0)
    answer.cancel()
    with pytest.raises(ApiError) as raised:
        await answer
    assert (raised.value.row.reason, raised.value.details) == ("AGENT_REPLY_TIMEOUT", IDS)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
async def test_a_call_that_has_stored_nothing_fails_as_it_does(code: grpc.StatusCode) -> None:
    waiting = await opened(Call(code, is_stored=False))
    with pytest.raises(AioRpcError):
        await waiting.answer()


async def test_another_failure_of_the_call_stays_what_it_is() -> None:
    waiting = await opened(Call(grpc.StatusCode.INTERNAL))
    with pytest.raises(AioRpcError):
        await waiting.answer()


async def test_a_connection_that_breaks_leaves_the_message_named() -> None:
    waiting = await opened(Call(grpc.StatusCode.UNAVAILABLE))
    with pytest.raises(ApiError) as raised:
        await waiting.answer()
    assert (raised.value.row.reason, raised.value.details) == ("AGENT_REPLY_TIMEOUT", IDS)


@pytest.mark.parametrize(
    ("answer", "reason", "details"),
    [
        ({"pending": ReplyPending()}, "AGENT_REPLY_TIMEOUT", IDS),
        # What a server of an earlier version answers.
        ({}, "AGENT_REPLY_TIMEOUT", IDS),
        (
            {"failure": NoReply(reason=ERROR_REASON_SESSION_EXPIRED, details={"sessionId": "s"})},
            "SESSION_EXPIRED",
            {"sessionId": "s"},
        ),
    ],
)
async def test_an_answer_without_a_reply_is_an_error(
    answer: dict[str, Any], reason: str, details: dict[str, str]
) -> None:
    waiting = await opened(Call(None, SendMessageResponse(message=STORED, **answer)))
    with pytest.raises(ApiError) as raised:
        await waiting.answer()
    assert (raised.value.row.reason, raised.value.details) == (reason, details)


def test_a_stream_that_the_stop_ends_says_that_the_message_is_kept() -> None:
    backend: Any = Backend(Call(None, ConverseResponse(user_message=SENT)))
    talk = asyncio.run(conversation(backend))
    *_, last = sse.conversation(backend, talk, SENT)
    name, data = last.decode().strip().split("\n")
    assert name == "event: error"
    error = json.loads(data.removeprefix("data: "))
    assert (error["code"], error["details"]) == ("AGENT_REPLY_TIMEOUT", IDS)
