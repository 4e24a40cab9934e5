"""A message whose sender waits for the reply: for the whole of it, or for its pieces, too."""

import asyncio
from collections.abc import AsyncIterator

import grpc.aio

from eliza.sessions.call_metadata import MESSAGE_ID_KEY
from eliza.sessions.errors import error_info, forget_frames
from eliza.sessions.v1.message_pb2 import Message
from eliza.sessions.v1.message_service_pb2 import (
    ConverseRequest,
    ConverseResponse,
    SendMessageRequest,
    SendMessageResponse,
)
from rest_facade.shapes.credentials import Metadata
from rest_facade.shapes.errors import ApiError
from rest_facade.upstream.backend import Backend, read
from rest_facade.upstream.following import refusal

_WITHOUT_ANSWER = (
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
)


class AwaitedReply:
    """Sends a message in a call that waits for the reply. To be closed after use.

    Both steps may raise grpc.aio.AioRpcError; after the first one the message is stored, or refused.
    """

    def __init__(self, backend: Backend, message: SendMessageRequest, metadata: Metadata) -> None:
        self._session_id = message.session_id.lower()
        self._message_id = ""
        self._call = backend.send_and_wait(message, metadata)
        self._reading: asyncio.Task[SendMessageResponse] | None = None

    async def open(self) -> None:
        """Waits until the message is stored, or refused."""
        self._reading = asyncio.create_task(self._read())
        # They come as soon as the message is stored.
        metadata = await self._call.initial_metadata()
        self._message_id = str(metadata.get(MESSAGE_ID_KEY, ""))

    async def answer(self) -> SendMessageResponse:
        """The stored message with its reply.

        Raises ApiError: there is no reply, or none yet. Raises CancelledError: the call was cancelled before
        its message was stored.
        """
        assert self._reading is not None
        try:
            answer = await self._reading
        except asyncio.CancelledError:
            if not self._message_id:
                raise
            # The facade stops, but the message is stored: it must not be sent again.
            raise _timeout(self._session_id, self._message_id) from None
        except grpc.aio.AioRpcError as error:
            if not self._message_id or not _has_no_answer(error):
                raise
            raise _timeout(self._session_id, self._message_id) from None
        if answer.HasField("failure"):
            raise refusal(answer.failure)
        if not answer.HasField("reply"):
            raise _timeout(answer.message.session_id, answer.message.message_id)
        return answer

    def close(self) -> None:
        """Waits no longer. A message that was stored stays, and gets its reply."""
        self._call.cancel()
        if self._reading and self._reading.done() and not self._reading.cancelled():
            # Looked at, lest Python complain that nobody did.
            self._reading.exception()
        self._reading = None

    async def _read(self) -> SendMessageResponse:
        answer = await read(self._call)
        if answer is None:
            raise EOFError("the server ended a call without an answer")
        return answer


class Conversation:
    """Sends a message, then yields the chunks of the reply and the reply. To be closed after use.

    All may raise grpc.aio.AioRpcError; from the second step on the message is stored.
    """

    def __init__(self, backend: Backend, message: SendMessageRequest, metadata: Metadata) -> None:
        self._sent: Message | None = None
        self._heartbeat_s = backend.heartbeat_seconds
        self._call = backend.converse(ConverseRequest(message=message), metadata)

    async def open(self) -> SendMessageResponse:
        """Waits until the message is stored."""
        first = await self._read()
        if first is None:
            raise EOFError("the server ended the conversation before it began")
        self._sent = first.user_message.message
        return first.user_message

    async def __aiter__(self) -> AsyncIterator[ConverseResponse | None]:
        """What comes after the message was stored; None where nothing has for a while."""
        while True:
            reading = asyncio.create_task(self._read())
            try:
                while not (await asyncio.wait([reading], timeout=self._heartbeat_s))[0]:
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
            if self._sent is None or not _has_no_answer(error):
                raise
            forget_frames(error)
            raise self.timeout() from None

    def timeout(self) -> ApiError:
        """That the reply is waited for no longer, and the message is kept."""
        assert self._sent is not None
        return _timeout(self._sent.session_id, self._sent.message_id)

    def close(self) -> None:
        """Waits no longer. A message that was stored stays, and gets its reply."""
        self._call.cancel()


def _has_no_answer(error: grpc.aio.AioRpcError) -> bool:
    """Whether a call ended without an answer of the service: its time was over, or its connection broke."""
    return error.code() in _WITHOUT_ANSWER and error_info(error) is None


def _timeout(session_id: str, message_id: str) -> ApiError:
    message = "The agent has not replied in time; the message is kept"
    return ApiError("AGENT_REPLY_TIMEOUT", message, sessionId=session_id, messageId=message_id)
