"""Following sessions' logs as they grow. A watch is woken when there is something new and reads it from the store, from where it stands.

So a watch keeps no entries: one that is slow costs no memory and loses nothing, and there is no seam between the stored and the live. Only
the chunks of replies under way, which the store does not have, are kept for it; where too many wait, the oldest are let go.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from server.domain.errors import DomainError, InvalidFieldError, SessionExpiredError, SessionNotFoundError, UnavailableError
from server.domain.events import Chunk, Entry
from server.domain.sessions import Session
from server.store.base import Commit, Store

PAGE_ENTRIES: Final = 100
WAITING_CHUNKS: Final = 1000


@dataclass(frozen=True, slots=True)
class End:
    """A session is watched no longer: because of `error`, or without one because its expiry came just before."""

    session_id: str
    error: DomainError | None = None


Item: TypeAlias = tuple[Session, Entry | Chunk] | End
"""Something that a watch has to tell; the session with it is as it was when it was joined."""


@dataclass(slots=True)
class _Place:
    """Where a watch stands in a session."""

    session: Session
    sequence: int
    chunks: deque[Chunk] = field(default_factory=lambda: deque(maxlen=WAITING_CHUNKS))


class Signals:
    """Wakes the watches of the sessions that have something new."""

    def __init__(self) -> None:
        self._watches: dict[str, set[Watch]] = {}
        self._open: set[Watch] = set()
        self.closed = False

    def committed(self, commit: Commit) -> None:
        """Wakes the watches of the sessions whose logs a commit has grown, or that it has removed."""
        changed = [outcome.session.id for outcome in commit.outcomes if outcome.entries]
        for session_id in (*changed, *commit.deleted):
            for watch in self._watches.get(session_id, ()):
                watch.wake(session_id)

    def chunk(self, chunk: Chunk) -> None:
        """Hands a piece of a reply under way to the watches of its session."""
        for watch in self._watches.get(chunk.session_id, ()):
            watch.take_chunk(chunk)

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
        self._wake = asyncio.Event()
        signals.register(self)

    async def join(self, session_id: str, after_sequence: int | None) -> Session:
        """Follows a session from the entry after a sequence, or from now on; returns it as it stands.

        :raises SessionNotFoundError: there is no such session
        :raises SessionExpiredError: it has expired, and nothing of its log lies behind the sequence
        :raises InvalidFieldError: its log has no such sequence
        """
        session = await self._store.get_session(session_id)
        start = session.last_sequence if after_sequence is None else after_sequence
        if session.expired and start >= session.last_sequence:
            raise SessionExpiredError(session.id, session.expires_at_ms)
        if not 0 <= start <= session.last_sequence:
            raise InvalidFieldError("after_sequence", start, "is not a sequence of the session's log")
        self._places[session_id] = _Place(session, start)
        self._signals.add(session_id, self)
        self.wake(session_id)
        return session

    def leave(self, session_id: str) -> bool:
        """Follows a session no longer; tells whether it did."""
        self._signals.remove(session_id, self)
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

    def take_chunk(self, chunk: Chunk) -> None:
        """Keeps a chunk until the reader comes for it."""
        if place := self._places.get(chunk.session_id):
            place.chunks.append(chunk)
            self.wake(chunk.session_id)

    async def _read(self) -> list[Item]:
        """What one of the woken sessions has to tell; empty when none has anything."""
        while self._woken:
            if self._signals.closed:
                break
            session_id = next(iter(self._woken))
            del self._woken[session_id]
            if (place := self._places.get(session_id)) and (items := await self._read_session(place)):
                return items
        self._wake.clear()
        if self._signals.closed:
            raise UnavailableError("The service is stopping")
        return []

    async def _read_session(self, place: _Place) -> list[Item]:
        session = place.session
        entries = await self._store.list_entries(session.id, after_sequence=place.sequence, limit=PAGE_ENTRIES)
        if entries and entries[0].sequence > place.sequence + 1:
            return self._purged(place)
        items: list[Item] = []
        for entry in entries:
            # A chunk comes after the message that it answers and before what the log has next.
            while place.chunks and place.chunks[0].answers < entry.sequence:
                items.append((session, place.chunks.popleft()))
            items.append((session, entry))
            place.sequence = entry.sequence
        while place.chunks and place.chunks[0].answers <= place.sequence:
            items.append((session, place.chunks.popleft()))
        if not items:
            return await self._end(place)
        # There may be more; if not, the next look finds out whether this was the end.
        self.wake(session.id)
        return items

    async def _end(self, place: _Place) -> list[Item]:
        """The end of a session that has nothing more to tell: it has expired, or it is gone."""
        try:
            session = await self._store.get_session(place.session.id)
        except SessionNotFoundError as error:
            self.leave(place.session.id)
            return [End(place.session.id, error)]
        if not session.expired:
            return []
        if place.sequence < session.last_sequence:
            if not await self._store.list_entries(session.id, after_sequence=place.sequence, limit=1):
                return self._purged(place)
            # It came since we looked.
            self.wake(session.id)
            return []
        self.leave(session.id)
        return [End(session.id)]

    def _purged(self, place: _Place) -> list[Item]:
        """The end of a session whose log the purge has begun to take, from its start: better no log than one with a gap."""
        self.leave(place.session.id)
        return [End(place.session.id, SessionNotFoundError(place.session.id))]
