"""The one upstream stream of all sockets with the same credential.

It watches each session once, however many sockets follow it.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import grpc.aio
import structlog

from eliza.sessions.errors import error_info
from eliza.sessions.v1 import errors_pb2
from eliza.sessions.v1.json_form_pb2 import JSON_FORM_TEXT
from eliza.sessions.v1.session_service_pb2 import WatchSessionsRequest, WatchSessionsResponse
from rest_facade.patches.grpcio import write
from rest_facade.shapes.credentials import Metadata
from rest_facade.shapes.errors import ApiError, out_of_reach, unforeseen
from rest_facade.socketio.members import FanOut, Member
from rest_facade.upstream.backend import Backend, read
from rest_facade.upstream.following import RECONNECT_SECONDS, refusal, stream_error

MAX_PAUSE_SECONDS: Final = 5.0
"""How long to wait before a stream is asked for again that the server has refused several times."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class WatchedSession:
    """A session that is watched upstream.

    `joined` ends with the session and its agent's name, or with the reason why it cannot be joined.
    `sequence` is that of the last entry that came.
    """

    joined: asyncio.Future[WatchSessionsResponse.Joined]
    sequence: int | None = None
    expired: bool = False
    members: dict[str, Member] = field(default_factory=dict)

    def fail(self, fault: ApiError) -> bool:
        """Ends a join that has no answer. Returns whether there was one."""
        if self.joined.done():
            return False
        self.joined.set_exception(fault)
        # Retrieved here, because asyncio logs an exception that nobody retrieves.
        self.joined.exception()
        return True


class SharedWatch:
    """Watches sessions over one stream, which it opens at the first join, and again when it breaks."""

    def __init__(
        self,
        backend: Backend,
        fan_out: FanOut,
        metadata: Metadata,
        on_joined: Callable[[str], None],
        on_refused: Callable[[], None],
    ) -> None:
        """`on_joined` gets the id of a session whenever the server has joined it.

        `on_refused` is called when the credential in `metadata` is not good, or no longer.
        """
        self.sessions: dict[str, WatchedSession] = {}
        self._backend = backend
        self._fan_out = fan_out
        self._metadata = metadata
        self._on_joined = on_joined
        self._on_refused = on_refused
        self._running: asyncio.Task[None] | None = None
        self._changes: asyncio.Queue[WatchSessionsRequest] = asyncio.Queue()

    def close(self) -> None:
        """Closes the stream."""
        if self._running:
            self._running.cancel()

    async def _run(self) -> None:
        """Keeps the stream open until cancelled, or until its credential is refused."""
        pause_s = RECONNECT_SECONDS
        while True:
            call = self._backend.watch(self._metadata)
            writer = asyncio.create_task(self._write(call))
            writer.add_done_callback(_ignore_failure)
            fault: ApiError | None = None
            try:
                while response := await read(call):
                    pause_s = RECONNECT_SECONDS
                    await self._dispatch(response)
            except grpc.aio.AioRpcError as error:
                _log.info("the upstream stream broke", status=error.code().name)
                if error_info(error) is not None and error.code() is not grpc.StatusCode.UNAVAILABLE:
                    fault = stream_error(error)
            finally:
                writer.cancel()
                call.cancel()
            for watched in list(self.sessions.values()):
                await self._fan_out.abandon_drafts(watched.members)
            if fault is not None:
                self._fail_joins(fault)
                if fault.http_status == HTTPStatus.UNAUTHORIZED:
                    self._on_refused()
                    return
                pause_s = min(2 * pause_s, MAX_PAUSE_SECONDS)
            await asyncio.sleep(pause_s if fault is None else pause_s * random.uniform(0.5, 1))

    async def join(self, session_id: str) -> WatchedSession:
        """Watches a session, if it is not watched yet. Raises ApiError."""
        watched = self.sessions.get(session_id)
        if watched is None:
            watched = self.sessions[session_id] = WatchedSession(asyncio.get_running_loop().create_future())
            self._changes.put_nowait(_join(session_id, None))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
            self._running.add_done_callback(_log_failure)
        try:
            async with asyncio.timeout(self._backend.deadline_seconds):
                await asyncio.shield(watched.joined)
        except TimeoutError:
            raise out_of_reach() from None
        return watched

    def leave(self, session_id: str) -> None:
        """Ends the watch of a session. Its join must be answered: the next one would take that answer."""
        del self.sessions[session_id]
        leave = WatchSessionsRequest.Leave(session_id=session_id)
        self._changes.put_nowait(WatchSessionsRequest(leave=leave))

    async def _write(
        self, call: grpc.aio.StreamStreamCall[WatchSessionsRequest, WatchSessionsResponse]
    ) -> None:
        """Joins all sessions on a new stream, each behind its last entry; then sends the changes."""
        while not self._changes.empty():
            self._changes.get_nowait()
        for session_id, watched in list(self.sessions.items()):
            await write(call, _join(session_id, watched.sequence))
        while True:
            await write(call, await self._changes.get())

    async def _dispatch(self, response: WatchSessionsResponse) -> None:
        match response.WhichOneof("event"):
            case "joined":
                joined = response.joined
                if watched := self.sessions.get(joined.session.session_id):
                    watched.sequence = joined.after_sequence
                    if not watched.joined.done():
                        watched.joined.set_result(joined)
                    self._on_joined(joined.session.session_id)
            case "entry":
                entry = response.entry
                if watched := self.sessions.get(entry.session_id):
                    watched.sequence, watched.expired = entry.sequence, entry.HasField("expiry")
                    await self._fan_out.tell_entry(watched.members, entry)
            case "chunk":
                if watched := self.sessions.get(response.chunk.session_id):
                    await self._fan_out.tell_chunk(watched.members, response.chunk)
            case "aborted":
                if watched := self.sessions.get(response.aborted.session_id):
                    await self._fan_out.tell_abort(watched.members, response.aborted)
            case "deleted":
                await self._delete(response.deleted.session_id)
            case "end":
                self._end(response.end)

    async def _delete(self, session_id: str) -> None:
        """Drops a deleted session. Its members hear of that as their last event."""
        if watched := self.sessions.pop(session_id, None):
            for member in watched.members.values():
                if member.catching_up:
                    member.catching_up.cancel()
            await self._fan_out.tell_deletion(watched.members, session_id)

    def _end(self, end: WatchSessionsResponse.End) -> None:
        """Drops a session that expired or is gone. The answer to a leave is ignored: a join may follow it."""
        watched = self.sessions.get(end.session_id)
        if watched is None or (end.reason == errors_pb2.ERROR_REASON_UNSPECIFIED and not watched.expired):
            return
        del self.sessions[end.session_id]
        if not watched.joined.done():
            watched.fail(refusal(end))

    def _fail_joins(self, fault: ApiError) -> None:
        """Drops the sessions whose joins have no answer, because the server gives no stream."""
        for session_id, watched in list(self.sessions.items()):
            if watched.fail(fault):
                del self.sessions[session_id]


def _log_failure(running: asyncio.Task[None]) -> None:
    """Logs why a stream is open no longer, where nobody has closed it. The next join opens it again."""
    if not running.cancelled() and (error := running.exception()):
        unforeseen(error)


def _ignore_failure(writer: asyncio.Task[None]) -> None:
    """Retrieves the failure of a write: the reader meets its cause."""
    if not writer.cancelled():
        writer.exception()


def _join(session_id: str, after_sequence: int | None) -> WatchSessionsRequest:
    join = WatchSessionsRequest.Join(
        session_id=session_id, after_sequence=after_sequence, json_form=JSON_FORM_TEXT
    )
    return WatchSessionsRequest(join=join)
