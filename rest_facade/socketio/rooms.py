"""Who follows which session over Socket.IO.

One upstream stream serves the process, and each session is watched on it once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

import grpc.aio
import structlog

from eliza.sessions.v1 import errors_pb2
from eliza.sessions.v1.json_form_pb2 import JSON_FORM_TEXT
from eliza.sessions.v1.log_pb2 import LogEntry, ReplyAborted, ReplyChunk, SessionDeleted
from eliza.sessions.v1.session_pb2 import Session
from eliza.sessions.v1.session_service_pb2 import WatchSessionsRequest, WatchSessionsResponse
from rest_facade.shapes import events
from rest_facade.shapes.errors import ApiError, from_row
from rest_facade.upstream.backend import Backend, read
from rest_facade.upstream.following import RECONNECT_SECONDS, Follower

FAN_OUT: Final = 50
"""How many members of a session are told something before the loop serves others."""

_log = structlog.get_logger(__name__)


Welcome: TypeAlias = Callable[[Session], Awaitable[None]]
"""Tells a socket that it has joined."""


class Outlet(Protocol):
    """Where the events of sockets go."""

    async def emit_to_all(self, socket_ids: Sequence[str], name: str, payload: events.Payload) -> None:
        """Queues an event for some sockets; those that are gone are ignored."""

    def is_full(self, socket_id: str) -> bool:
        """Whether so many events wait for a socket that it should be served from the server's store, at its
        own pace.
        """

    async def flushed(self, socket_id: str) -> None:
        """Waits until nothing waits for a socket, or it is gone."""


@dataclass(slots=True, eq=False)
class _Member:
    """A socket in a room. `sequence` is that of the last entry it was sent; while `catching_up` runs, what is
    live is not sent to it.

    `draft` is the reply whose pieces it was sent last.
    """

    socket_id: str
    room: events.FollowedSession
    sequence: int
    catching_up: asyncio.Task[None] | None = None
    draft: events.Draft = field(default_factory=events.Draft)


@dataclass(slots=True, eq=False)
class _Watched:
    """A session that is watched upstream, and where it stands.

    `joined` ends with the session, or with why it cannot be joined.
    """

    joined: asyncio.Future[Session]
    sequence: int | None = None
    expired: bool = False
    members: dict[str, _Member] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Join:
    """A socket that is joining a session. It is `over` once the socket has gone, or left, meanwhile."""

    socket_id: str
    is_over: bool = False


class Rooms:
    """Joins sockets to sessions and sends them what happens there, each entry once and in order, over
    restarts of the server.
    """

    def __init__(self, backend: Backend, outlet: Outlet) -> None:
        self._backend = backend
        self._outlet = outlet
        self._watched: dict[str, _Watched] = {}
        # By session: those that are joining it, which need its watch; they have no place among its members
        # yet.
        self._joins: dict[str, set[_Join]] = {}
        # By socket and session: who is catching up, in a room or with what a session that has ended left
        # behind.
        self._replays: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._changes: asyncio.Queue[WatchSessionsRequest] = asyncio.Queue()

    async def run(self) -> None:
        """Keeps the upstream stream open until cancelled."""
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
            await self._abandon_drafts()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def join(
        self, socket_id: str, session_id: str, room_id: str, after: int | None, welcome: Welcome
    ) -> None:
        """Joins a socket to a session, which it calls `room_id`; from behind the sequence `after`, or from
        now on.

        `welcome` is awaited before the first event. Raises ApiError when the session cannot be joined. A
        socket that goes or leaves meanwhile is no member in the end.
        """
        self._drop(socket_id, session_id)
        join = _Join(socket_id)
        self._joins.setdefault(session_id, set()).add(join)
        try:
            if after is None:
                await self._join_now(join, session_id, room_id, welcome)
            else:
                await self._join_after(join, session_id, room_id, after, welcome)
        finally:
            self._joins[session_id].discard(join)
            if not self._joins[session_id]:
                del self._joins[session_id]
            self._end_unused_watch(session_id)

    async def _join_now(self, join: _Join, session_id: str, room_id: str, welcome: Welcome) -> None:
        session = (await self._watch(session_id)).joined.result()
        room = await self._room(session, room_id)
        await welcome(session)
        # Asked for again, because it may have ended in the meantime.
        watched = await self._watch(session_id)
        if not join.is_over:
            watched.members[join.socket_id] = _Member(join.socket_id, room, watched.sequence or 0)

    async def _join_after(
        self, join: _Join, session_id: str, room_id: str, after: int, welcome: Welcome
    ) -> None:
        follower = Follower(self._backend, session_id, after)
        try:
            session = await follower.open()
            member = _Member(join.socket_id, await self._room(session, room_id), after)
            await welcome(session)
        except BaseException:
            follower.close()
            raise
        if join.is_over:
            follower.close()
            return
        replay = self._start_catching_up(session_id, member, follower)
        try:
            watched = await self._watch(session_id)
        except ApiError as error:
            if error.row.reason not in ("SESSION_EXPIRED", "SESSION_NOT_FOUND"):
                replay.cancel()
                raise
            # What it left behind is all there is.
            _log.debug("replayed only", session_id=session_id, reason=error.row.reason)
        except BaseException:
            replay.cancel()
            raise
        else:
            if join.is_over:
                replay.cancel()
                return
            watched.members[join.socket_id] = member
            if self._is_level(session_id, member) and member.catching_up:
                member.catching_up.cancel()
                member.catching_up = None

    def leave(self, socket_id: str, session_id: str) -> None:
        """Has a socket follow a session no longer."""
        self._drop(socket_id, session_id)
        self._end_unused_watch(session_id)

    def forget(self, socket_id: str) -> None:
        """Has a socket that is gone follow nothing."""
        joining = [
            session_id
            for session_id, joins in self._joins.items()
            if any(join.socket_id == socket_id for join in joins)
        ]
        joined = [session_id for session_id, watched in self._watched.items() if socket_id in watched.members]
        replayed = [session_id for follower_id, session_id in self._replays if follower_id == socket_id]
        for session_id in {*joining, *joined, *replayed}:
            self.leave(socket_id, session_id)

    def _drop(self, socket_id: str, session_id: str) -> None:
        """Takes a socket out of a session, and ends its joins, and what it is catching up with there."""
        for join in self._joins.get(session_id, ()):
            if join.socket_id == socket_id:
                join.is_over = True
        if watched := self._watched.get(session_id):
            watched.members.pop(socket_id, None)
        if replay := self._replays.get((socket_id, session_id)):
            replay.cancel()

    def _drop_member(self, session_id: str, member: _Member) -> None:
        """Takes a member out of a session, if it is the one that is in there for its socket."""
        watched = self._watched.get(session_id)
        if watched and watched.members.get(member.socket_id) is member:
            del watched.members[member.socket_id]
            self._end_unused_watch(session_id)

    def _end_unused_watch(self, session_id: str) -> None:
        """Watches a session no longer, if nobody is in it or about to be.

        Only once the server has answered: its answer would be taken for that to the next join.
        """
        watched = self._watched.get(session_id)
        if watched and watched.joined.done() and not watched.members and session_id not in self._joins:
            del self._watched[session_id]
            self._changes.put_nowait(
                WatchSessionsRequest(leave=WatchSessionsRequest.Leave(session_id=session_id))
            )

    def _start_catching_up(self, session_id: str, member: _Member, follower: Follower) -> asyncio.Task[None]:
        """Starts sending a member what it has missed."""
        replay = member.catching_up = asyncio.create_task(self._catch_up(session_id, member, follower))
        key = (member.socket_id, session_id)
        self._replays[key] = replay

        def end(_: object) -> None:
            # A task that is cancelled before it has begun closes nothing by itself.
            follower.close()
            if self._replays.get(key) is replay:
                del self._replays[key]

        replay.add_done_callback(end)
        return replay

    async def _watch(self, session_id: str) -> _Watched:
        """Watches a session upstream, if it is not watched yet. Raises ApiError."""
        watched = self._watched.get(session_id)
        if watched is None:
            watched = self._watched[session_id] = _Watched(asyncio.get_running_loop().create_future())
            self._changes.put_nowait(_join(session_id, None))
        try:
            async with asyncio.timeout(self._backend.deadline_seconds):
                await asyncio.shield(watched.joined)
        except TimeoutError:
            raise ApiError(
                "UNAVAILABLE", "The session service is out of reach", retryAfterSeconds=1
            ) from None
        return watched

    async def _room(self, session: Session, room_id: str) -> events.FollowedSession:
        return events.FollowedSession(session, await self._backend.agent_name(session.agent_id), room_id)

    async def _write(
        self, call: grpc.aio.StreamStreamCall[WatchSessionsRequest, WatchSessionsResponse]
    ) -> None:
        """Joins anew what was joined before the stream broke, each from where it stands; then whatever
        changes.
        """
        while not self._changes.empty():
            self._changes.get_nowait()
        for session_id, watched in list(self._watched.items()):
            await call.write(_join(session_id, watched.sequence))
        while True:
            await call.write(await self._changes.get())

    async def _dispatch(self, response: WatchSessionsResponse) -> None:
        match response.WhichOneof("event"):
            case "joined":
                joined = response.joined
                if watched := self._watched.get(joined.session.session_id):
                    watched.sequence = joined.after_sequence
                    if not watched.joined.done():
                        watched.joined.set_result(joined.session)
                    self._end_unused_watch(joined.session.session_id)
            case "entry":
                await self._entry(response.entry)
            case "chunk":
                await self._chunk(response.chunk)
            case "aborted":
                await self._abort(response.aborted)
            case "deleted":
                await self._delete(response.deleted.session_id)
            case "end":
                self._end(response.end)

    async def _entry(self, entry: LogEntry) -> None:
        watched = self._watched.get(entry.session_id)
        if watched is None:
            return
        watched.sequence, watched.expired = entry.sequence, entry.HasField("expiry")
        for members in _slices(watched):
            live = []
            for member in members:
                if member.catching_up:
                    continue
                if self._outlet.is_full(member.socket_id):
                    follower = Follower(self._backend, entry.session_id, member.sequence)
                    self._start_catching_up(entry.session_id, member, follower)
                else:
                    live.append(member)
            await self._send(live, entry)

    async def _chunk(self, chunk: ReplyChunk) -> None:
        if watched := self._watched.get(chunk.session_id):
            for members in _slices(watched):
                await self._send_chunk([member for member in members if self._is_live(member)], chunk)

    async def _abort(self, abort: ReplyAborted) -> None:
        """Tells those who were sent pieces that they are void, also where they are catching up now; and those
        who may come by.
        """
        if watched := self._watched.get(abort.session_id):
            for members in _slices(watched):
                await self._send_abort(
                    [member for member in members if member.draft.take_abort(abort) or self._is_live(member)],
                    abort,
                )

    def _is_live(self, member: _Member) -> bool:
        """Whether a member is sent what happens now."""
        return not member.catching_up and not self._outlet.is_full(member.socket_id)

    async def _abandon_drafts(self) -> None:
        """Tells the members that the pieces they have are void: what comes of them while the stream is broken
        is not heard.
        """
        for watched in list(self._watched.values()):
            for member in list(watched.members.values()):
                if abort := member.draft.abandon():
                    await self._send_abort([member], abort)

    async def _delete(self, session_id: str) -> None:
        """Tells the members that their session was deleted, as the last they hear of it; they are out of the
        room then.
        """
        watched = self._watched.pop(session_id, None)
        if watched is None:
            return
        for member in watched.members.values():
            if member.catching_up:
                member.catching_up.cancel()
        for members in _slices(watched):
            await self._tell(members, "sessionDeleted", events.session_deleted(session_id))

    def _end(self, end: WatchSessionsResponse.End) -> None:
        """A session expired or is gone. That one was left is no news: another join may be on its way."""
        watched = self._watched.get(end.session_id)
        if watched is None or (end.reason == errors_pb2.ERROR_REASON_UNSPECIFIED and not watched.expired):
            return
        del self._watched[end.session_id]
        if not watched.joined.done():
            reason = errors_pb2.ErrorReason.Name(end.reason).removeprefix("ERROR_REASON_")
            watched.joined.set_exception(from_row(reason, end.message, end.details))
            # Looked at, lest asyncio logs it where nobody waits for it any more.
            watched.joined.exception()

    async def _send(self, members: Sequence[_Member], entry: LogEntry) -> None:
        """Sends an entry to those who do not have it; once made for all who call the session the same."""
        alike: dict[tuple[str, str], list[_Member]] = {}
        for member in members:
            if entry.sequence > member.sequence:
                member.sequence = entry.sequence
                member.draft.take_entry(entry)
                alike.setdefault((member.room.room_id, member.room.agent_name), []).append(member)
        for some in alike.values():
            for name, payload in events.entry_events(entry, some[0].room):
                await self._tell(some, name, payload)

    async def _send_chunk(self, members: Sequence[_Member], chunk: ReplyChunk) -> None:
        for member in members:
            member.draft.take_chunk(chunk)
        if members:
            await self._tell(
                members, "messageStreamChunk", events.stream_chunk(chunk, members[0].room.session.channel_id)
            )

    async def _send_abort(self, members: Sequence[_Member], abort: ReplyAborted) -> None:
        await self._tell(members, "messageStreamAborted", events.stream_aborted(abort))

    async def _tell(self, members: Sequence[_Member], name: str, payload: events.Payload) -> None:
        if members:
            await self._outlet.emit_to_all([member.socket_id for member in members], name, payload)

    async def _catch_up(self, session_id: str, member: _Member, follower: Follower) -> None:
        """Sends a member what it has missed, at its own pace, until it stands where the session does."""
        with closing(follower):
            try:
                while not follower.is_open:
                    await self._outlet.flushed(member.socket_id)
                    await self._reopen(follower)
                async for item in follower:
                    if isinstance(item, LogEntry):
                        await self._send([member], item)
                    elif isinstance(item, ReplyChunk):
                        await self._send_chunk([member], item)
                    elif isinstance(item, ReplyAborted):
                        member.draft.take_abort(item)
                        await self._send_abort([member], item)
                    elif isinstance(item, SessionDeleted):
                        self._drop_member(session_id, member)
                        await self._tell([member], "sessionDeleted", events.session_deleted(session_id))
                        return
                    if self._outlet.is_full(member.socket_id):
                        await self._outlet.flushed(member.socket_id)
                    if self._is_level(session_id, member):
                        # Live from here on: nothing may be awaited between the look and this.
                        member.catching_up = None
                        return
            except (ApiError, grpc.aio.AioRpcError) as error:
                # Expired or deleted: there is nothing more to come.
                _log.info("a socket stopped following", session_id=session_id, cause=str(error))
                if not isinstance(error, ApiError) or error.row.reason != "SESSION_NOT_FOUND":
                    # That it was deleted, the stream of all has yet to tell to whoever is in the room.
                    self._drop_member(session_id, member)

    def _is_level(self, session_id: str, member: _Member) -> bool:
        """Whether a member stands where its session does."""
        watched = self._watched.get(session_id)
        return watched is not None and watched.sequence is not None and member.sequence >= watched.sequence

    @staticmethod
    async def _reopen(follower: Follower) -> None:
        """Opens a follower, or leaves it closed when the server is away. Raises ApiError."""
        try:
            await follower.open()
        except ApiError as error:
            follower.close()
            if error.row.reason != "UNAVAILABLE":
                raise


def _slices(watched: _Watched) -> Iterator[list[_Member]]:
    """The members of a session, some at a time; those who have left meanwhile are left out."""
    members = list(watched.members.values())
    for start in range(0, len(members), FAN_OUT):
        yield [
            member
            for member in members[start : start + FAN_OUT]
            if watched.members.get(member.socket_id) is member
        ]


def _join(session_id: str, after_sequence: int | None) -> WatchSessionsRequest:
    join = WatchSessionsRequest.Join(
        session_id=session_id, after_sequence=after_sequence, json_form=JSON_FORM_TEXT
    )
    return WatchSessionsRequest(join=join)
