"""Which socket follows which session over Socket.IO: joins, leaves, and how a socket catches up.

The sockets of one `Rooms` have the same credential.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TypeAlias

import grpc.aio
import structlog

from eliza.sessions.v1.log_pb2 import LogEntry, ReplyAborted, ReplyChunk, SessionDeleted
from eliza.sessions.v1.session_pb2 import Session
from rest_facade.shapes import events
from rest_facade.shapes.credentials import Metadata
from rest_facade.shapes.errors import ApiError
from rest_facade.socketio.members import FanOut, Member, Outlet
from rest_facade.socketio.shared_watch import SharedWatch
from rest_facade.upstream.backend import Backend
from rest_facade.upstream.following import Follower, Happening, agent_name

_log = structlog.get_logger(__name__)

Welcome: TypeAlias = Callable[[Session], Awaitable[None]]
"""Tells a socket that it has joined."""


@dataclass(slots=True, eq=False)
class _Join:
    """A socket that is joining a session. It is `over` once the socket has gone or left meanwhile."""

    socket_id: str
    metadata: Metadata
    is_over: bool = False


class Rooms:
    """Joins sockets to sessions and sends them each entry once and in order, over restarts of the server."""

    def __init__(
        self,
        backend: Backend,
        outlet: Outlet,
        credential: Metadata,
        on_refused: Callable[[], None],
    ) -> None:
        """`credential` is the metadata of the stream for all sockets.

        `on_refused` is called when the server ends the stream because the credential is not good."""
        self._backend = backend
        self._outlet = outlet
        self._fan_out = FanOut(outlet, self._let_catch_up)
        self._watch = SharedWatch(backend, self._fan_out, credential, self._end_unused_watch, on_refused)
        # By session: the joins under way. They need its watch, and are not among its members yet.
        self._joins: dict[str, set[_Join]] = {}
        # By socket and session: the members that catch up, also in sessions that have ended.
        self._replays: dict[tuple[str, str], asyncio.Task[None]] = {}

    def close(self) -> None:
        """Closes the upstream stream."""
        self._watch.close()

    @property
    def is_idle(self) -> bool:
        """Whether no session is watched, and no socket joins or catches up."""
        return not (self._watch.sessions or self._joins or self._replays)

    async def join(
        self,
        socket_id: str,
        session_id: str,
        room_id: str,
        after: int | None,
        welcome: Welcome,
        metadata: Metadata,
    ) -> None:
        """Joins a socket to a session behind the sequence `after`, or from now on; `room_id` is the client's
        name for it. `metadata` goes with the calls for the socket alone.

        `welcome` is awaited before the first event. A socket that goes or leaves meanwhile does not become a
        member. Raises ApiError when the session cannot be joined.
        """
        self._drop(socket_id, session_id)
        join = _Join(socket_id, metadata)
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
        joined = (await self._watch.join(session_id)).joined.result()
        room = events.FollowedSession(joined.session, agent_name(joined), room_id)
        await welcome(joined.session)
        # Joined again, because the session may have ended meanwhile.
        watched = await self._watch.join(session_id)
        if not join.is_over:
            watched.members[join.socket_id] = Member(
                join.socket_id, room, watched.sequence or 0, join.metadata
            )

    async def _join_after(
        self, join: _Join, session_id: str, room_id: str, after: int, welcome: Welcome
    ) -> None:
        follower = Follower(self._backend, session_id, after, join.metadata)
        try:
            session = await follower.open()
            room = events.FollowedSession(session, follower.agent_name, room_id)
            member = Member(join.socket_id, room, after, join.metadata)
            await welcome(session)
        except BaseException:
            follower.close()
            raise
        if join.is_over:
            follower.close()
            return
        replay = self._start_catching_up(session_id, member, follower)
        try:
            watched = await self._watch.join(session_id)
        except ApiError as error:
            if error.row.reason not in ("SESSION_EXPIRED", "SESSION_NOT_FOUND"):
                replay.cancel()
                raise
            # The session has ended: the replay brings all that it left.
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
        """Takes a socket out of a session."""
        self._drop(socket_id, session_id)
        self._end_unused_watch(session_id)

    def forget(self, socket_id: str) -> None:
        """Takes a socket that is gone out of all sessions."""
        joining = [
            session_id
            for session_id, joins in self._joins.items()
            if any(join.socket_id == socket_id for join in joins)
        ]
        joined = [
            session_id for session_id, watched in self._watch.sessions.items() if socket_id in watched.members
        ]
        replayed = [session_id for follower_id, session_id in self._replays if follower_id == socket_id]
        for session_id in {*joining, *joined, *replayed}:
            self.leave(socket_id, session_id)

    def _drop(self, socket_id: str, session_id: str) -> None:
        """Takes a socket out of a session, and ends its joins and its replay there."""
        for join in self._joins.get(session_id, ()):
            if join.socket_id == socket_id:
                join.is_over = True
        if watched := self._watch.sessions.get(session_id):
            watched.members.pop(socket_id, None)
        if replay := self._replays.get((socket_id, session_id)):
            replay.cancel()

    def _drop_member(self, session_id: str, member: Member) -> None:
        """Takes a member out of a session, unless its socket has joined anew since."""
        watched = self._watch.sessions.get(session_id)
        if watched and watched.members.get(member.socket_id) is member:
            del watched.members[member.socket_id]
            self._end_unused_watch(session_id)

    def _end_unused_watch(self, session_id: str) -> None:
        """Ends the watch of a session without members and joins, once the server has answered its join."""
        watched = self._watch.sessions.get(session_id)
        if watched and watched.joined.done() and not watched.members and session_id not in self._joins:
            self._watch.leave(session_id)

    def _let_catch_up(self, session_id: str, member: Member) -> None:
        """Lets a member with a full socket read the server's store at its own pace."""
        follower = Follower(self._backend, session_id, member.sequence, member.metadata)
        self._start_catching_up(session_id, member, follower)

    def _start_catching_up(self, session_id: str, member: Member, follower: Follower) -> asyncio.Task[None]:
        """Starts to send a member the entries that it missed."""
        replay = member.catching_up = asyncio.create_task(self._catch_up(session_id, member, follower))
        key = (member.socket_id, session_id)
        self._replays[key] = replay

        def end(_: object) -> None:
            # A task that is cancelled before it begins does not close its follower.
            follower.close()
            if self._replays.get(key) is replay:
                del self._replays[key]

        replay.add_done_callback(end)
        return replay

    async def _catch_up(self, session_id: str, member: Member, follower: Follower) -> None:
        """Sends a member the entries that it missed, at its own pace, until it has the session's last one."""
        with closing(follower):
            try:
                while not follower.is_open:
                    await self._outlet.wait_until_flushed(member.socket_id)
                    await _reopen(follower)
                async for item in follower:
                    if isinstance(item, SessionDeleted):
                        self._drop_member(session_id, member)
                        await self._fan_out.send_deletion([member], session_id)
                        return
                    await self._send(member, item)
                    if self._outlet.is_full(member.socket_id):
                        await self._outlet.wait_until_flushed(member.socket_id)
                    if self._is_level(session_id, member):
                        # It is live from here on. Nothing may be awaited between the check and this.
                        member.catching_up = None
                        return
            except (ApiError, grpc.aio.AioRpcError) as error:
                # The session has expired or is deleted: nothing more comes.
                _log.info("a socket stopped following", session_id=session_id, cause=str(error))
                if not isinstance(error, ApiError) or error.row.reason != "SESSION_NOT_FOUND":
                    # The member stays: the shared stream will report the deletion to it.
                    self._drop_member(session_id, member)

    async def _send(self, member: Member, item: Happening | None) -> None:
        """Sends a member what happens in its session; None is nothing."""
        match item:
            case LogEntry():
                await self._fan_out.send_entry([member], item)
            case ReplyChunk():
                await self._fan_out.send_chunk([member], item)
            case ReplyAborted():
                member.draft.take_abort(item)
                await self._fan_out.send_abort([member], item)

    def _is_level(self, session_id: str, member: Member) -> bool:
        """Whether a member has the last entry of its session."""
        watched = self._watch.sessions.get(session_id)
        return watched is not None and watched.sequence is not None and member.sequence >= watched.sequence


async def _reopen(follower: Follower) -> None:
    """Opens a follower, or leaves it closed when the server is away. Raises ApiError."""
    try:
        await follower.open()
    except ApiError as error:
        follower.close()
        if error.row.reason != "UNAVAILABLE":
            raise
