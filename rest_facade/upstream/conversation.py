"""A message whose sender waits for the reply."""

import asyncio
from collections.abc import AsyncIterator

import grpc.aio

from eliza.sessions.errors import error_info, forget_frames
from eliza.sessions.v1.message_pb2 import Message
from eliza.sessions.v1.message_service_pb2 import (
    ConverseRequest,
    ConverseResponse,
    SendMessageRequest,
    SendMessageResponse,
)
from rest_facade.shapes.errors import ApiError
from rest_facade.upstream.backend import Backend, read

HEARTBEAT_SECONDS = 15


class Conversation:
    """Sends a message, then yields the chunks of the reply and the reply. To be closed after use.

    All may raise grpc.aio.AioRpcError; from the second step on the message is stored.
    """

    def __init__(self, backend: Backend, message: SendMessageRequest) -> None:
        self._sent: Message | None = None
        self._call = backend.converse(ConverseRequest(message=message))

    async def open(self) -> SendMessageResponse:
        """Waits until the message is stored."""
        first = await self._read()
        if first is None:
            raise EOFError("the server ended the conversation before it began")
        self._sent = first.user_message.message
        return first.user_message

    async def reply(self) -> Message:
        """Waits for the reply, and then no longer."""
        try:
            while part := await self._read():
                if part.HasField("reply"):
                    return part.reply
        finally:
            self.close()
        raise EOFError("the server ended the conversation without a reply")

    async def __aiter__(self) -> AsyncIterator[ConverseResponse | None]:
        """What comes after the message was stored; None where nothing has for a while."""
        while True:
            reading = asyncio.create_task(self._read())
            try:
                while not (await asyncio.wait([reading], timeout=HEARTBEAT_SECONDS))[0]:
                    yield None
            finally:
                reading.cancel()
            part = reading.result()
            if part is None:
                return
            yield part

    async def _read(self) -> ConverseResponse | None:
        try:
            return await read(self._call)
        except grpc.aio.AioRpcError as error:
            if self._sent is None or error.code() != grpc.StatusCode.DEADLINE_EXCEEDED or error_info(error):
                raise
            # The call's own deadline, because the message was long in being stored.
            forget_frames(error)
            raise self.timeout() from None

    def timeout(self) -> ApiError:
        """That the reply is waited for no longer, and the message is kept."""
        assert self._sent is not None
        ids = {"sessionId": self._sent.session_id, "messageId": self._sent.message_id}
        return ApiError(
            "AGENT_REPLY_TIMEOUT", "The agent has not replied in time; the message is kept", **ids
        )

    def close(self) -> None:
        """Waits no longer. A message that was stored stays, and gets its reply."""
        self._call.cancel()
