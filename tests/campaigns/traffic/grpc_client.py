"""The client over gRPC."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import grpc

from eliza.sessions import values
from eliza.sessions.errors import error_info
from eliza.sessions.v1 import (
    log_pb2,
    message_service_pb2,
    message_service_pb2_grpc,
    session_pb2,
    session_service_pb2,
    session_service_pb2_grpc,
    timeout_pb2,
)
from tests.campaigns.traffic.clients import CALL_SECONDS, AgainError, RefusedError, Sent
from tests.support.service import ECHO, USER

T = TypeVar("T")

_CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]

_REASONS = {
    grpc.StatusCode.UNAVAILABLE: "dropped",
    grpc.StatusCode.CANCELLED: "cancelled",
    grpc.StatusCode.DEADLINE_EXCEEDED: "late",
}


def _judged(error: grpc.aio.AioRpcError) -> AgainError | RefusedError:
    detail = error.details() or ""
    info = error_info(error)
    if info is not None:
        again = info.reason in ("UNAVAILABLE", "OVERLOADED", "AGENT_REPLY_TIMEOUT", "DEADLINE_EXCEEDED")
        return AgainError(info.reason, detail) if again else RefusedError(info.reason, detail)
    if error.code() == grpc.StatusCode.UNAVAILABLE and (
        "failed to connect" in detail.lower() or "refused" in detail.lower()
    ):
        return AgainError("refused", detail)
    if error.code() in _REASONS:
        return AgainError(_REASONS[error.code()], detail)
    return RefusedError(error.code().name, detail)


class GrpcClient:
    """The stubs, on a channel of its own."""

    kind = "gRPC"

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address, _CHANNEL)
        self.sessions = session_service_pb2_grpc.SessionServiceStub(self.channel)
        self.messages = message_service_pb2_grpc.MessageServiceStub(self.channel)

    async def call(self, method: Callable[..., Awaitable[T]], request: object) -> T:
        """Makes a call. Raises AgainError, RefusedError."""
        try:
            return await method(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise _judged(error) from None

    async def create(
        self, request_id: str, mark: str, minutes: float | None = None, agent_id: str = ECHO
    ) -> str:
        """Creates a session with this mark in its metadata; returns its id."""
        config = timeout_pb2.TimeoutConfig(timeout_minutes=minutes)
        request = session_service_pb2.CreateSessionRequest(
            agent_id=agent_id, user_id=USER, request_id=request_id, timeout_config=config
        )
        request.metadata.CopyFrom(values.struct({"mark": mark}))
        return (await self.call(self.sessions.CreateSession, request)).session.session_id

    async def send(self, session_id: str, request_id: str, content: str, *, wait: bool = False) -> Sent:
        request = message_service_pb2.SendMessageRequest(
            session_id=session_id, content=content, request_id=request_id
        )
        if not wait:
            answer = await self.call(self.messages.SendMessage, request)
            return Sent(answer.message.message_id, answer.replayed)
        sent, reply = None, None
        try:
            async for part in self.messages.Converse(
                message_service_pb2.ConverseRequest(message=request), timeout=CALL_SECONDS
            ):
                if part.HasField("user_message"):
                    sent = part.user_message
                elif part.HasField("reply"):
                    reply = part.reply
        except grpc.aio.AioRpcError as error:
            raise _judged(error) from None
        if sent is None or reply is None:
            raise AgainError("unfinished")
        return Sent(sent.message.message_id, sent.replayed, reply.message_id)

    async def get(self, session_id: str) -> session_pb2.Session:
        """Reads a session."""
        return (
            await self.call(
                self.sessions.GetSession, session_service_pb2.GetSessionRequest(session_id=session_id)
            )
        ).session

    async def list_page(self, page_token: str) -> session_service_pb2.ListSessionsResponse:
        """Reads a page of the live sessions."""
        request = session_service_pb2.ListSessionsRequest(page_size=1000, page_token=page_token)
        return await self.call(self.sessions.ListSessions, request)

    async def renew(self, session_id: str, etag: str) -> tuple[int, str]:
        """Renews a session in this state; returns the sequence of its entry, and the new state's tag."""
        request = session_service_pb2.RenewSessionRequest(session_id=session_id, etag=etag)
        session = (await self.call(self.sessions.RenewSession, request)).session
        return session.last_sequence, session.etag

    async def patch(self, session_id: str, etag: str, minutes: int) -> tuple[int, str]:
        """Changes the timeout of a session in this state."""
        config = timeout_pb2.TimeoutConfig(timeout_minutes=minutes)
        request = session_service_pb2.UpdateTimeoutRequest(
            session_id=session_id, etag=etag, timeout_config=config
        )
        session = (await self.call(self.sessions.UpdateTimeout, request)).session
        return session.last_sequence, session.etag

    async def heartbeat(self, session_id: str) -> None:
        """Keeps a session alive."""
        await self.call(
            self.sessions.SendHeartbeat, session_service_pb2.SendHeartbeatRequest(session_id=session_id)
        )

    async def delete(self, session_id: str) -> None:
        """Deletes a session."""
        await self.call(
            self.sessions.DeleteSession, session_service_pb2.DeleteSessionRequest(session_id=session_id)
        )

    async def watch(self, session_id: str, after: int) -> AsyncIterator[log_pb2.LogEntry]:
        """The entries of a session's log behind a sequence, as they come."""
        request = session_service_pb2.WatchSessionRequest(session_id=session_id, after_sequence=after)
        call = self.sessions.WatchSession(request)
        try:
            async for response in call:
                if response.HasField("entry"):
                    yield response.entry
        except grpc.aio.AioRpcError as error:
            raise _judged(error) from None
        finally:
            call.cancel()

    async def close(self) -> None:
        await self.channel.close()
