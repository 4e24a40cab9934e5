"""Following one session's log upstream, over restarts of the server."""

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Final, TypeAlias

import grpc.aio

from eliza.sessions.errors import error_info
from eliza.sessions.v1 import errors_pb2
from eliza.sessions.v1.json_form_pb2 import JSON_FORM_TEXT
from eliza.sessions.v1.log_pb2 import LogEntry, ReplyAborted, ReplyChunk, SessionDeleted
from eliza.sessions.v1.message_service_pb2 import NoReply
from eliza.sessions.v1.session_pb2 import Session
from eliza.sessions.v1.session_service_pb2 import WatchSessionsRequest, WatchSessionsResponse
from rest_facade.patches.grpcio import write
from rest_facade.shapes.credentials import Metadata
from rest_facade.shapes.errors import ApiError, from_row, from_rpc, out_of_reach
from rest_facade.shapes.events import Draft
from rest_facade.upstream.backend import Backend, read

_Call: TypeAlias = grpc.aio.StreamStreamCall[WatchSessionsRequest, WatchSessionsResponse]

Happening: TypeAlias = LogEntry | ReplyChunk | ReplyAborted | SessionDeleted
"""What happens in a session that is followed."""

REMOVED_AGENT_NAME: Final = "Agent"

RECONNECT_SECONDS = 0.2

_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
"""With which a join is tried again. INTERNAL: the call ended without a status of the server's."""


class Follower:
    """Yields what happens in a session after a sequence, each entry once and in order.

    To be closed after use.
    """

    def __init__(
        self, backend: Backend, session_id: str, after_sequence: int | None, metadata: Metadata
    ) -> None:
        """`after_sequence` None: from now on."""
        self._backend = backend
        self._metadata = metadata
        self._session_id = session_id
        self._after_sequence = after_sequence
        self._call: _Call | None = None
        self._draft = Draft()
        self._is_broken = False
        self.session = Session()
        self.agent_name = REMOVED_AGENT_NAME

    @property
    def sequence(self) -> int:
        """The sequence of the last entry that was given out, or of the one to start after."""
        return self._after_sequence or 0

    @property
    def is_open(self) -> bool:
        """Whether it has been opened, and not closed since."""
        return self._call is not None

    async def open(self) -> Session:
        """Joins the session; returns it as it stands. Waits a while for a server that is away.

        Raises ApiError: what the server has against it, or that it stayed away.
        """
        try:
            async with asyncio.timeout(self._backend.deadline_seconds):
                return await self._join()
        except TimeoutError:
            raise out_of_reach() from None

    def __aiter__(self) -> AsyncIterator[Happening | None]:
        """What happens, until the session ends; None where nothing has for a while, or while the server is
        away.

        Raises ApiError or grpc.aio.AioRpcError: the credential is no longer good, or the stream has failed.
        """
        return self

    async def __anext__(self) -> Happening | None:
        # No generator, whose frame would keep what it gave out last.
        if self._is_broken:
            await asyncio.sleep(RECONNECT_SECONDS)
            try:
                await self._join()
            except ApiError as error:
                if error.http_status == HTTPStatus.UNAUTHORIZED:
                    raise
                # Expired or deleted in the meantime: the client hears it when it asks again.
                raise StopAsyncIteration from None
            self._is_broken = False
        try:
            while response := await self._backend.answers.read(self._read):
                match response.WhichOneof("event"):
                    case "entry":
                        self._after_sequence = response.entry.sequence
                        self._draft.take_entry(response.entry)
                        return response.entry
                    case "chunk":
                        self._draft.take_chunk(response.chunk)
                        return response.chunk
                    case "aborted":
                        self._draft.take_abort(response.aborted)
                        return response.aborted
                    case "deleted":
                        return response.deleted
                    case "heartbeat":
                        return None
                    case "end":
                        raise StopAsyncIteration
        except grpc.aio.AioRpcError as error:
            # The server cancels a stream that is not read for long, because its client is slow but reads.
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise
        self._is_broken = True
        return self._draft.abandon()

    async def _read(self) -> WatchSessionsResponse | None:
        assert self._call is not None
        return await read(self._call)

    def close(self) -> None:
        """Follows no longer."""
        if self._call:
            self._call.cancel()
            self._call = None

    async def _join(self) -> Session:
        """Opens a stream and joins; tries again while the server is away.

        Raises ApiError when the server refuses.
        """
        while True:
            self.close()
            self._call = self._backend.watch(self._metadata)
            join = WatchSessionsRequest.Join(
                session_id=self._session_id, after_sequence=self._after_sequence, json_form=JSON_FORM_TEXT
            )
            try:
                await write(self._call, WatchSessionsRequest(join=join))
                if response := await read(self._call):
                    break
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                if self._call.done() and (fault := await failure_of(self._call)).code() not in _AGAIN:
                    raise stream_error(fault) from error
            await asyncio.sleep(RECONNECT_SECONDS)
        if response.HasField("end"):
            raise refusal(response.end)
        self.session, self._after_sequence = response.joined.session, response.joined.after_sequence
        self.agent_name = agent_name(response.joined)
        return self.session


def agent_name(joined: WatchSessionsResponse.Joined) -> str:
    """What people call the agent of a session."""
    return joined.agent_name or REMOVED_AGENT_NAME


async def failure_of(call: _Call) -> grpc.aio.AioRpcError:
    """The status with which a call has ended, as an error."""
    return grpc.aio.AioRpcError(
        await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
    )


def stream_error(error: grpc.aio.AioRpcError) -> ApiError:
    """The error for a stream that the server does not give."""
    if error_info(error) is not None:
        return from_rpc(error)
    reason = "OVERLOADED" if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED else "UNAVAILABLE"
    return ApiError(reason, "The session service cannot stream now", retryAfterSeconds=1)


def refusal(end: WatchSessionsResponse.End | NoReply) -> ApiError:
    """The error that an `end`, or a message without reply, tells about."""
    return from_row(
        errors_pb2.ErrorReason.Name(end.reason).removeprefix("ERROR_REASON_"), end.message, end.details
    )
