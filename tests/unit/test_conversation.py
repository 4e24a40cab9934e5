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

from eliza.sessions.v1.message_pb2 import Message
from eliza.sessions.v1.message_service_pb2 import ConverseResponse, SendMessageRequest, SendMessageResponse
from rest_facade.routes import sse
from rest_facade.shapes.errors import ApiError
from rest_facade.upstream.conversation import Conversation

SENT = SendMessageResponse(message=Message(session_id="s", message_id="m"))
IDS = {"sessionId": "s", "messageId": "m"}


class Call:
    """A call of Converse that stores the message, and then fails."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code
        self._parts = [ConverseResponse(user_message=SENT)]

    async def read(self) -> ConverseResponse:
        if self._parts:
            return self._parts.pop()
        raise AioRpcError(self._code, Metadata(), Metadata(), details="Deadline Exceeded")

    def cancel(self) -> None: ...


class Backend:
    """A way to a server that does so; it follows nothing, as when the facade stops."""

    def __init__(self, code: grpc.StatusCode = grpc.StatusCode.DEADLINE_EXCEEDED) -> None:
        self._code = code

    def converse(self, request: Any) -> Call:
        return Call(self._code)

    def iterate(self, items: Any) -> Iterator[Any]:
        return iter(())


async def opened(backend: Any) -> Conversation:
    talk = Conversation(backend, SendMessageRequest())
    await talk.open()
    return talk


async def test_a_deadline_of_the_calls_own_names_the_message() -> None:
    talk = await opened(Backend())
    with pytest.raises(ApiError) as raised:
        await talk.reply()
    assert (raised.value.row.reason, raised.value.details) == ("AGENT_REPLY_TIMEOUT", IDS)


async def test_another_failure_of_the_call_stays_what_it_is() -> None:
    talk = await opened(Backend(grpc.StatusCode.UNAVAILABLE))
    with pytest.raises(AioRpcError):
        await talk.reply()


def test_a_stream_that_the_stop_ends_says_that_the_message_is_kept() -> None:
    backend: Any = Backend()
    talk = asyncio.run(opened(backend))
    *_, last = sse.conversation(backend, talk, SENT)
    name, data = last.decode().strip().split("\n")
    assert name == "event: error"
    error = json.loads(data.removeprefix("data: "))
    assert (error["code"], error["details"]) == ("AGENT_REPLY_TIMEOUT", IDS)
