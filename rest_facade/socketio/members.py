"""The members of a session over Socket.IO, and the events they are sent."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from eliza.sessions.v1.log_pb2 import LogEntry, ReplyAborted, ReplyChunk
from rest_facade.shapes import events
from rest_facade.shapes.credentials import Metadata

FAN_OUT: Final = 50
"""How many members of a session are sent something before the loop serves others."""


class Outlet(Protocol):
    """Queues events for sockets."""

    async def emit_to_all(self, socket_ids: Sequence[str], name: str, payload: events.Payload) -> None:
        """Queues an event for some sockets; those that are gone are ignored."""

    def is_full(self, socket_id: str) -> bool:
        """Whether too many events wait for a socket, so that it should catch up from the server's store."""

    async def wait_until_flushed(self, socket_id: str) -> None:
        """Waits until nothing waits for a socket, or it is gone."""


@dataclass(slots=True, eq=False)
class Member:
    """A socket in a session.

    `sequence` is that of the last entry it was sent. While `catching_up` runs, it gets no live events.
    `metadata` is that of its calls. `draft` is the reply whose pieces it was sent last.
    """

    socket_id: str
    room: events.FollowedSession
    sequence: int
    metadata: Metadata
    catching_up: asyncio.Task[None] | None = None
    draft: events.Draft = field(default_factory=events.Draft)


Members: TypeAlias = Mapping[str, Member]
"""The members of one session, by socket."""


class FanOut:
    """Sends members what happens in their session, each entry once and in order."""

    def __init__(self, outlet: Outlet, catch_up: Callable[[str, Member], None]) -> None:
        """`catch_up` makes a member with a full socket read the server's store."""
        self._outlet = outlet
        self._catch_up = catch_up

    async def tell_entry(self, members: Members, entry: LogEntry) -> None:
        """Sends an entry to the live members, and lets those catch up whose sockets are full."""
        for some in _slices(members):
            live = []
            for member in some:
                if member.catching_up:
                    continue
                if self._outlet.is_full(member.socket_id):
                    self._catch_up(entry.session_id, member)
                else:
                    live.append(member)
            await self.send_entry(live, entry)

    async def tell_chunk(self, members: Members, chunk: ReplyChunk) -> None:
        """Sends a piece of a reply to the live members."""
        for some in _slices(members):
            await self.send_chunk([member for member in some if self._is_live(member)], chunk)

    async def tell_abort(self, members: Members, abort: ReplyAborted) -> None:
        """Says that the pieces of a reply are void: to all who have some, and to the live members."""
        for some in _slices(members):
            affected = [one for one in some if one.draft.take_abort(abort) or self._is_live(one)]
            await self.send_abort(affected, abort)

    async def tell_deletion(self, members: Members, session_id: str) -> None:
        """Says that the session was deleted."""
        for some in _slices(members):
            await self.send_deletion(some, session_id)

    async def abandon_drafts(self, members: Members) -> None:
        """Says that pieces are void, because the facade cannot hear how their reply goes on."""
        for member in list(members.values()):
            if abort := member.draft.abandon():
                await self.send_abort([member], abort)

    async def send_entry(self, members: Sequence[Member], entry: LogEntry) -> None:
        """Sends an entry to the members who do not have it. Those with the same name for the session share
        one.
        """
        alike: dict[tuple[str, str], list[Member]] = {}
        for member in members:
            if entry.sequence > member.sequence:
                member.sequence = entry.sequence
                member.draft.take_entry(entry)
                alike.setdefault((member.room.room_id, member.room.agent_name), []).append(member)
        for some in alike.values():
            for name, payload in events.entry_events(entry, some[0].room):
                await self._emit(some, name, payload)

    async def send_chunk(self, members: Sequence[Member], chunk: ReplyChunk) -> None:
        for member in members:
            member.draft.take_chunk(chunk)
        if members:
            channel_id = members[0].room.session.channel_id
            await self._emit(members, "messageStreamChunk", events.stream_chunk(chunk, channel_id))

    async def send_abort(self, members: Sequence[Member], abort: ReplyAborted) -> None:
        """Says that the pieces of a reply are void."""
        await self._emit(members, "messageStreamAborted", events.stream_aborted(abort))

    async def send_deletion(self, members: Sequence[Member], session_id: str) -> None:
        await self._emit(members, "sessionDeleted", events.session_deleted(session_id))

    def _is_live(self, member: Member) -> bool:
        return not member.catching_up and not self._outlet.is_full(member.socket_id)

    async def _emit(self, members: Sequence[Member], name: str, payload: events.Payload) -> None:
        if members:
            await self._outlet.emit_to_all([member.socket_id for member in members], name, payload)


def _slices(members: Members) -> Iterator[list[Member]]:
    """Yields the members FAN_OUT at a time, without those who have left meanwhile."""
    present = list(members.values())
    for start in range(0, len(present), FAN_OUT):
        some = present[start : start + FAN_OUT]
        yield [member for member in some if members.get(member.socket_id) is member]
