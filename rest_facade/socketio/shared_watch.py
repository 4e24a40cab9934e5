"""The one upstream stream of a facade: it watches each session once, however many sockets follow it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc.aio
import structlog

from eliza.sessions.v1 import errors_pb2
from eliza.sessions.v1.json_form_pb2 import JSON_FORM_TEXT
from eliza.sessions.v1.session_pb2 import Session
from eliza.sessions.v1.session_service_pb2 import WatchSessionsRequest, WatchSessionsResponse
from rest_facade.shapes.errors import out_of_reach
from rest_facade.socketio.members import FanOut, Member
from rest_facade.upstream.backend import Backend, read
from rest_facade.upstream.following import RECONNECT_SECONDS, refusal

_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class WatchedSession:
    """A session that is watched upstream.

    `joined` ends with the session, or with the reason why it cannot be joined. `sequence` is that of the last
    entry that came.
    """

    joined: asyncio.Future[Session]
    sequence: int | None = None
    expired: bool = False
    members: dict[str, Member] = field(default_factory=dict)


class SharedWatch:
    """Watches sessions over one stream, which it opens again when it breaks."""

    def __init__(self, backend: Backend, fan_out: FanOut, on_joined: Callable[[str], None]) -> None:
        """`on_joined` gets the id of a session whenever the server has joined it."""
        self.sessions: dict[str, WatchedSession] = {}
        self._backend = backend
        self._fan_out = fan_out
        self._on_joined = on_joined
        self._changes: asyncio.Queue[WatchSessionsRequest] = asyncio.Queue()

    async def run(self) -> None:
        """Keeps the stream open until cancelled."""
        while True:
            call = self._backend.watch()
            writer = asyncio.create_task(self._write(call))
            try:
                while response := await read(call):
                    await self._dispatch(response)
            except grpc.aio.AioRpcError as error:
                _log.info("the upstream stream broke", status=error.code().name)
            finally:
                writer.cancel()
                call.cancel()
            for watched in list(self.sessions.values()):
                await self._fan_out.abandon_drafts(watched.members)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def join(self, session_id: str) -> WatchedSession:
        """Watches a session, if it is not watched yet. Raises ApiError."""
        watched = self.sessions.get(session_id)
        if watched is None:
            watched = self.sessions[session_id] = WatchedSession(asyncio.get_running_loop().create_future())
            self._changes.put_nowait(_join(session_id, None))
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
            await call.write(_join(session_id, watched.sequence))
        while True:
            await call.write(await self._changes.get())

    async def _dispatch(self, response: WatchSessionsResponse) -> None:
        match response.WhichOneof("event"):
            case "joined":
                joined = response.joined
                if watched := self.sessions.get(joined.session.session_id):
                    watched.sequence = joined.after_sequence
                    if not watched.joined.done():
                        watched.joined.set_result(joined.session)
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
            watched.joined.set_exception(refusal(end))
            # Retrieved here, because asyncio logs an exception that nobody retrieves.
            watched.joined.exception()


def _join(session_id: str, after_sequence: int | None) -> WatchSessionsRequest:
    join = WatchSessionsRequest.Join(
        session_id=session_id, after_sequence=after_sequence, json_form=JSON_FORM_TEXT
    )
    return WatchSessionsRequest(join=join)
