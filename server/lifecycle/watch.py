"""Following sessions' logs as they grow. A watch is woken when there is something new and reads it from the store, from where it stands.

So a watch keeps no entries: one that is slow costs no memory and loses nothing, and there is no seam between the stored and the live. Only
the pieces of replies under way, which the store does not have, are kept for it; where too many wait, the oldest are let go.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from server.domain.errors import (
    DomainError,
    InvalidFieldError,
    OverloadedError,
    SessionExpiredError,
    SessionNotFoundError,
    UnavailableError,
)
from server.domain.events import Abort, Chunk, Entry, Piece
from server.domain.sessions import Outcome, Session, require_live
from server.store.base import Commit, Store

PAGE_ENTRIES: Final = 100
WAITING_CHUNKS: Final = 1000

MAX_JOINED: Final = 10_000
"""How many sessions one watch may follow."""


@dataclass(frozen=True, slots=True)
class End:
    """A session is watched no longer: because of `error`, or without one because its expiry came just before."""

    session_id: str
    error: DomainError | None = None


@dataclass(frozen=True, slots=True)
class Deleted:
    """A session was deleted; its End follows."""

    session_id: str


Item: TypeAlias = tuple[Session, Entry | Piece] | Deleted | End
"""Something that a watch has to tell; the session with it is as it was when it was joined."""


@dataclass(slots=True)
class _Place:
    """Where a watch stands in a session."""

    session: Session
    sequence: int
    chunks: deque[Chunk] = field(default_factory=lambda: deque(maxlen=WAITING_CHUNKS))
    abort: Abort | None = None

    def keep(self, piece: Piece) -> None:
        """Keeps a piece until the reader comes for it.

        An abort takes away the chunks that it voids. One is enough: while it waits, no chunk after it has been told.
        """
        if isinstance(piece, Abort):
            self.chunks = deque((chunk for chunk in self.chunks if chunk.message_id != piece.message_id), WAITING_CHUNKS)
            self.abort = self.abort or piece
        else:
            self.chunks.append(piece)

    def take(self, up_to: int) -> Iterator[Piece]:
        """Takes out the pieces of replies to messages up to a sequence."""
        if self.abort and self.abort.answers <= up_to:
            yield self.abort
            self.abort = None
        while self.chunks and self.chunks[0].answers <= up_to:
            yield self.chunks.popleft()


class Signals:
    """Wakes the watches of the sessions that have something new."""

    def __init__(self) -> None:
        self._watches: dict[str, set[Watch]] = {}
        self._open: set[Watch] = set()
        self.closed = False

    def committed(self, commit: Commit) -> None:
        """Wakes the watches of the sessions whose logs a commit has grown, or that it has removed."""
        for outcome in commit.outcomes:
            if outcome.entries:
                for watch in self._watches.get(outcome.session.id, ()):
                    watch.wake(outcome.session.id)
        for session_id in commit.deleted:
            for watch in self._watches.get(session_id, ()):
                watch.mark_deleted(session_id)

    def piece(self, piece: Piece) -> None:
        """Hands a piece of a reply under way to the watches of its session."""
        for watch in self._watches.get(piece.session_id, ()):
            watch.keep(piece)

    def close(self) -> None:
        """Ends all watches with UnavailableError: the service stops."""
        self.closed = True
        for watch in self._open:
            watch.wake_up()

    def register(self, watch: "Watch") -> None:
        """Counts a watch among those that `close` ends."""
        self._open.add(watch)

    def unregister(self, watch: "Watch") -> None:
        """Counts it no longer."""
        self._open.discard(watch)

    def add(self, session_id: str, watch: "Watch") -> None:
        """Has a watch woken for a session."""
        self._watches.setdefault(session_id, set()).add(watch)

    def remove(self, session_id: str, watch: "Watch") -> None:
        """Has a watch woken no longer for a session."""
        watches = self._watches.get(session_id, set())
        watches.discard(watch)
        if not watches:
            self._watches.pop(session_id, None)


class Watch:
    """Follows any number of sessions, for one reader. To be closed after use."""

    def __init__(self, store: Store, signals: Signals) -> None:
        self._store = store
        self._signals = signals
        self._places: dict[str, _Place] = {}
        self._woken: dict[str, None] = {}
        self._deleted: set[str] = set()
        self._wake = asyncio.Event()
        signals.register(self)

    async def join(self, session_id: str, after_sequence: int | None) -> Session:
        """Follows a session from the entry after a sequence, or from now on; returns it as it stands.

        :raises SessionNotFoundError: there is no such session
        :raises SessionExpiredError: it has expired, and nothing of its log lies behind the sequence
        :raises InvalidFieldError: its log has no such sequence
        :raises OverloadedError: the watch follows MAX_JOINED others already
        """
        if len(self._places) >= MAX_JOINED and session_id not in self._places:
            raise OverloadedError(f"one stream follows at most {MAX_JOINED} sessions")
        # From before the session is read, so that no deletion after the reading is missed.
        self._signals.add(session_id, self)
        try:
            session = await self._store.get_session(session_id)
            start = session.last_sequence if after_sequence is None else after_sequence
            if session.expired and start >= session.last_sequence:
                raise SessionExpiredError(session.id, session.expires_at_ms)
            if not 0 <= start <= session.last_sequence:
                raise InvalidFieldError("after_sequence", start, "is not a sequence of the session's log")
        except BaseException:
            if session_id not in self._places:
                self.leave(session_id)
            raise
        self._places[session_id] = _Place(session, start)
        self.wake(session_id)
        return session

    def leave(self, session_id: str) -> bool:
        """Follows a session no longer; tells whether it did."""
        self._signals.remove(session_id, self)
        self._deleted.discard(session_id)
        return self._places.pop(session_id, None) is not None

    def close(self) -> None:
        """Follows nothing any longer."""
        self._signals.unregister(self)
        for session_id in list(self._places):
            self.leave(session_id)

    async def next(self, wait_s: float) -> list[Item]:
        """What there is to tell next, in order; empty when nothing came for `wait_s`. Raises UnavailableError when the service stops."""
        try:
            async with asyncio.timeout(wait_s):
                while not (items := await self._read()):
                    await self._wake.wait()
        except TimeoutError:
            return []
        return items

    def wake(self, session_id: str) -> None:
        """Says that a session has something new."""
        self._woken[session_id] = None
        self._wake.set()

    def wake_up(self) -> None:
        """Has the watch look at whether the service stops."""
        self._wake.set()

    def mark_deleted(self, session_id: str) -> None:
        """Says that a session was deleted, which is not the same as taken by the purge."""
        self._deleted.add(session_id)
        self.wake(session_id)

    def keep(self, piece: Piece) -> None:
        """Keeps a piece of a reply until the reader comes for it."""
        if place := self._places.get(piece.session_id):
            place.keep(piece)
            self.wake(piece.session_id)

    async def _read(self) -> list[Item]:
        """What one of the woken sessions has to tell; empty when none has anything."""
        while self._woken:
            if self._signals.closed:
                break
            session_id = next(iter(self._woken))
            del self._woken[session_id]
            try:
                if (place := self._places.get(session_id)) and (items := await self._read_session(place)):
                    return items
            except BaseException:
                # A reader that is cancelled comes again, and has been told nothing.
                self.wake(session_id)
                raise
        self._wake.clear()
        if self._signals.closed:
            raise UnavailableError("The service is stopping")
        return []

    async def _read_session(self, place: _Place) -> list[Item]:
        session = place.session
        if session.id in self._deleted:
            return await self._gone(place)
        entries = await self._store.list_entries(session.id, after_sequence=place.sequence, limit=PAGE_ENTRIES)
        if entries and entries[0].sequence > place.sequence + 1:
            return await self._gone(place)
        items: list[Item] = []
        for entry in entries:
            # A piece comes after the message that it answers and before what the log has next.
            items.extend((session, piece) for piece in place.take(entry.sequence - 1))
            items.append((session, entry))
            place.sequence = entry.sequence
        items.extend((session, piece) for piece in place.take(place.sequence))
        if not items:
            return await self._end(place)
        # There may be more; if not, the next look finds out whether this was the end.
        self.wake(session.id)
        return items

    async def _end(self, place: _Place) -> list[Item]:
        """The end of a session that has nothing more to tell: it has expired, or it is gone."""
        try:
            session = await self._store.get_session(place.session.id)
        except SessionNotFoundError:
            return await self._gone(place)
        if not session.expired:
            return []
        if place.sequence < session.last_sequence:
            if not await self._store.list_entries(session.id, after_sequence=place.sequence, limit=1):
                return await self._gone(place)
            # It came since we looked.
            self.wake(session.id)
            return []
        self.leave(session.id)
        return [End(session.id)]

    async def _gone(self, place: _Place) -> list[Item]:
        """The end of a session that was deleted, or whose log the purge has begun to take: better no log than one with a gap."""
        session_id = place.session.id
        if session_id not in self._deleted:
            # A reader may see a deletion before it is told; the writer answers after it has told of all that it did before.
            with suppress(DomainError):
                await self._store.apply(session_id, _look)
        deleted: list[Item] = [Deleted(session_id)] if session_id in self._deleted else []
        self.leave(session_id)
        return [*deleted, End(session_id, SessionNotFoundError(session_id))]


def _look(session: Session, now_ms: int) -> Outcome:
    """A rule that changes nothing. Raises SessionExpiredError."""
    require_live(session, now_ms)
    return Outcome(session)
