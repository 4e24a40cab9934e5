"""Following sessions' logs as they grow. A watch is woken when there is something new and reads it from the store, from where it stands.

So a watch keeps no entries: one that is slow costs no memory and loses nothing, and there is no seam between the stored and the live. Only
the pieces of replies under way, which the store does not have, are kept, once for all who watch the session; where there are too many, the
oldest are let go. However many watch a session, they are woken some at a time, and others are served in between.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Final, Protocol, TypeAlias

from server.domain.errors import (
    DomainError,
    InvalidFieldError,
    OverloadedError,
    SessionExpiredError,
    SessionNotFoundError,
    UnavailableError,
)
from server.domain.log import Abort, Chunk, Entry, Piece
from server.domain.sessions import Outcome, Session, require_live
from server.store.contract import Commit, Store

PAGE_ENTRIES: Final = 100
SMALL_BYTES: Final = 64 * 1024
"""How many entries are read at a time, and how much text: a larger entry is read by itself, and only where there is room for it."""

WAITING_CHUNKS: Final = 1000
WAITING_CODE_POINTS: Final = 200_000
"""How many pieces of a session's replies are kept, and how much text: twice what a reply may have."""

PIECES_APART: Final = 8
"""How many pieces may wait for the fastest of a session's watches before the chunks after them are put together."""

WAKES_PER_TURN: Final = 20
"""How many watches are woken in a turn of the loop: what these then do takes a few milliseconds."""

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


class Room(Protocol):
    """Whether what is told may be large: where much waits for slow clients already, it may not."""

    @property
    def is_full(self) -> bool:
        """Whether nothing large should be read now."""

    def reserve(self, owner: object, size_bytes: int) -> None:
        """Takes room for what an owner has read, and has not begun to send."""

    def release(self, owner: object) -> None:
        """Takes none for it any more."""

    def when_free(self, wake: Callable[[], None]) -> None:
        """Calls this once there is room again, as it may seem."""

    def forget(self, wake: Callable[[], None]) -> None:
        """Does not call it."""


class Unbounded:
    """A Room that is never full."""

    is_full = False

    def reserve(self, owner: object, size_bytes: int) -> None:
        """Needs none."""

    def release(self, owner: object) -> None:
        """Has none."""

    def when_free(self, wake: Callable[[], None]) -> None:
        """Is never used."""

    def forget(self, wake: Callable[[], None]) -> None:
        """Has nothing to forget."""


class Pieces:
    """The latest pieces of a session's replies. Each has a number; a watch keeps that of the next one it is to be told.

    Where PIECES_APART wait for everyone who watches, more chunks are put together with the last of them.
    """

    def __init__(self) -> None:
        self._kept: deque[Piece] = deque()
        self._first = 0
        self._code_points = 0
        # Aborts that had to go, with their numbers: a slow watch may have been told what they void.
        self._lost_aborts: deque[tuple[int, Piece]] = deque(maxlen=WAITING_CHUNKS)
        # How many have come since anyone took some; and the texts of the last chunk, while it grows.
        self._untaken = 0
        self._texts: list[str] = []

    def join(self) -> int:
        """The number of the piece that comes next."""
        self._seal()
        self._untaken = 0
        return self._first + len(self._kept)

    def add(self, piece: Piece) -> None:
        """Keeps a piece; lets the oldest go where there are too many."""
        if isinstance(piece, Chunk):
            self._code_points += len(piece.text)
            last = self._kept[-1] if self._untaken >= PIECES_APART else None
            if isinstance(last, Chunk) and last.message_id == piece.message_id:
                self._texts = self._texts or [last.text]
                self._texts.append(piece.text)
                return
        self._seal()
        self._kept.append(piece)
        self._untaken += 1
        while len(self._kept) > WAITING_CHUNKS or (self._code_points > WAITING_CODE_POINTS and len(self._kept) > 1):
            oldest = self._kept.popleft()
            if isinstance(oldest, Chunk):
                self._code_points -= len(oldest.text)
            else:
                self._lost_aborts.append((self._first, oldest))
            self._first += 1

    def take(self, number: int, up_to: int) -> tuple[list[Piece], int]:
        """The pieces from a number on of attempts that began when the log ended at a sequence or before, and the number to go on from.

        Where an abort is among them, so are none of the chunks that it voids; and one abort is enough, because nothing of what a second one
        voids has been told.
        """
        end = self._first + len(self._kept)
        if number >= end:
            return [], number
        self._seal()
        self._untaken = 0
        first = max(number, self._first)
        lost = ((at, abort) for at, abort in self._lost_aborts if at >= number)
        kept = enumerate(islice(self._kept, first - self._first, None), first)
        found: list[Piece] = []
        for at, piece in chain(lost, kept):
            if piece.after > up_to:
                end = at
                break
            found.append(piece)
        void = {piece.message_id for piece in found if isinstance(piece, Abort)}
        told: list[Piece] = []
        is_aborted = False
        for piece in found:
            if not isinstance(piece, Abort):
                if piece.message_id not in void:
                    told.append(piece)
            elif not is_aborted:
                is_aborted = True
                told.append(piece)
        return told, end

    def _seal(self) -> None:
        """Lets the last chunk grow no more."""
        if self._texts:
            last = self._kept.pop()
            assert isinstance(last, Chunk)
            self._kept.append(replace(last, text="".join(self._texts)))
            self._texts = []


@dataclass(slots=True)
class _Place:
    """Where a watch stands in a session: after which entry, and before which piece."""

    session: Session
    sequence: int
    watched: "_Watched"
    piece: int

    def take(self, up_to: int) -> list[Piece]:
        """Takes the pieces of attempts that began when the log ended at a sequence or before."""
        told, self.piece = self.watched.pieces.take(self.piece, up_to)
        return told


@dataclass(slots=True)
class _Watched:
    """A session that is watched, and by whom.

    `announced`: the last sequence that its watches may tell. The store may show an entry before what comes ahead of it is
    known here: that the pieces of an earlier attempt are void.
    """

    watches: "set[Watch]" = field(default_factory=set)
    pieces: Pieces = field(default_factory=Pieces)
    announced: int = 0
    large: set[int] = field(default_factory=set)
    """The sequences of the large entries that were met, so that not each watch reads one to find out."""


@dataclass(slots=True)
class _Round:
    """The watches of a session that have yet to be woken. `begun`: some were; `again`: there is news since."""

    watches: "list[Watch]"
    begun: bool = False
    again: bool = False


class Signals:
    """Wakes the watches of the sessions that have something new."""

    def __init__(self) -> None:
        self._watched: dict[str, _Watched] = {}
        self._open: set[Watch] = set()
        self._rounds: OrderedDict[str, _Round] = OrderedDict()
        self.closed = False

    def on_commit(self, commit: Commit) -> None:
        """Wakes the watches of the sessions whose logs a commit has grown, or that it has removed."""
        for outcome in commit.outcomes:
            session = outcome.session
            if outcome.entry and (watched := self._watched.get(session.id)):
                watched.announced = max(watched.announced, session.last_sequence)
                self._wake(session.id)
        for session_id in commit.deleted:
            if watched := self._watched.get(session_id):
                for watch in watched.watches:
                    watch.mark_deleted(session_id)
                self._wake(session_id)

    def piece(self, piece: Piece) -> None:
        """Keeps a piece of a reply under way for the watches of its session."""
        if watched := self._watched.get(piece.session_id):
            watched.pieces.add(piece)
            self._wake(piece.session_id)

    def close(self) -> None:
        """Ends all watches with UnavailableError, once they have told what is new: the service stops."""
        self.closed = True
        while self._rounds:
            session_id, current = self._rounds.popitem()
            for watch in current.watches:
                watch.wake(session_id)
        for watch in self._open:
            watch.wake_up()

    def register(self, watch: "Watch") -> None:
        """Counts a watch among those that `close` ends."""
        self._open.add(watch)

    def unregister(self, watch: "Watch") -> None:
        """Counts it no longer."""
        self._open.discard(watch)

    def add(self, session_id: str, watch: "Watch") -> _Watched:
        """Has a watch woken for a session; returns what all its watches share."""
        watched = self._watched.setdefault(session_id, _Watched())
        watched.watches.add(watch)
        return watched

    def remove(self, session_id: str, watch: "Watch") -> None:
        """Has a watch woken no longer for a session."""
        if watched := self._watched.get(session_id):
            watched.watches.discard(watch)
            if not watched.watches:
                del self._watched[session_id]

    def _wake(self, session_id: str) -> None:
        """Has the watches of a session woken. It costs next to nothing when they are about to be anyway."""
        if current := self._rounds.get(session_id):
            current.again = current.begun
        elif watched := self._watched.get(session_id):
            if not self._rounds:
                asyncio.get_running_loop().call_soon(self._wake_some)
            self._rounds[session_id] = _Round(list(watched.watches))

    def _wake_some(self) -> None:
        """Wakes as many as one turn of the loop is for: one of each session after the other, so that none waits for a large one."""
        for _ in range(WAKES_PER_TURN):
            if not self._rounds:
                return
            session_id, current = self._rounds.popitem(last=False)
            current.begun = True
            current.watches.pop().wake(session_id)
            if not current.watches and current.again and (watched := self._watched.get(session_id)):
                current = _Round(list(watched.watches))
            if current.watches:
                self._rounds[session_id] = current
        if self._rounds:
            asyncio.get_running_loop().call_soon(self._wake_some)


class Watch:
    """Follows any number of sessions, for one reader. To be closed after use."""

    def __init__(self, store: Store, signals: Signals, room: Room | None = None) -> None:
        """Waits before it reads something large while `room` is full."""
        self._store = store
        self._signals = signals
        self._room: Room = room or Unbounded()
        self._places: dict[str, _Place] = {}
        self._woken: dict[str, None] = {}
        # Woken, but what comes next is large, and there was no room.
        self._held_back: dict[str, None] = {}
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
        watched = self._signals.add(session_id, self)
        try:
            session = await self._store.get_session(session_id)
            start = session.last_sequence if after_sequence is None else after_sequence
            if session.expiry_logged and start >= session.last_sequence:
                raise SessionExpiredError(session.id, session.expires_at_ms)
            if not 0 <= start <= session.last_sequence:
                raise InvalidFieldError("after_sequence", start, "is not a sequence of the session's log")
        except BaseException:
            if session_id not in self._places:
                self.leave(session_id)
            raise
        watched.announced = max(watched.announced, session.last_sequence)
        self._places[session_id] = _Place(session, start, watched, watched.pieces.join())
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
        self._room.forget(self.wake_up)
        self.hand_over()
        for session_id in list(self._places):
            self.leave(session_id)

    async def next(self, wait_s: float) -> list[Item]:
        """What there is to tell next, in order; empty when nothing came for `wait_s`. Raises UnavailableError when the service stops.

        What is large has its room reserved until `hand_over`.
        """
        self.hand_over()
        try:
            async with asyncio.timeout(wait_s):
                while not (items := await self._read()):
                    await self._wake.wait()
        except TimeoutError:
            return []
        return items

    def hand_over(self) -> None:
        """Says that what it has told is counted by who sends it from now on."""
        self._room.release(self)

    def wake(self, session_id: str) -> None:
        """Says that a session has something new."""
        self._woken[session_id] = None
        self._wake.set()

    def wake_up(self) -> None:
        """Has the watch look again: at whether the service stops, or there is room."""
        self._wake.set()

    def mark_deleted(self, session_id: str) -> None:
        """Says that a session was deleted, which is not the same as taken by the purge."""
        self._deleted.add(session_id)

    async def _read(self) -> list[Item]:
        """What one of the woken sessions has to tell; empty when none has anything."""
        if not self._room.is_full:
            self._woken |= self._held_back
            self._held_back.clear()
        while self._woken:
            session_id = next(iter(self._woken))
            del self._woken[session_id]
            if session_id in self._held_back:
                continue
            try:
                if (place := self._places.get(session_id)) and (items := await self._read_session(place)):
                    return items
            except BaseException:
                # A reader that is cancelled comes again, and has been told nothing.
                self.wake(session_id)
                raise
        self._wake.clear()
        if self._held_back:
            self._room.when_free(self.wake_up)
        if self._signals.closed:
            raise UnavailableError("The service is stopping")
        return []

    async def _read_session(self, place: _Place) -> list[Item]:
        session = place.session
        if session.id in self._deleted:
            return await self._gone(place)
        if self._room.is_full and place.sequence + 1 in place.watched.large:
            self._held_back[session.id] = None
            return []
        entries = await self._store.list_entries(session.id, after_sequence=place.sequence, limit=PAGE_ENTRIES, most_bytes=SMALL_BYTES)
        if entries and entries[0].sequence > place.sequence + 1:
            return await self._gone(place)
        announced = [entry for entry in entries if entry.sequence <= place.watched.announced]
        if entries and not announced:
            # Their announcement wakes the watch again.
            return []
        # One that is large is alone.
        if entries and (large_bytes := _large_bytes(entries[0])):
            place.watched.large.add(entries[0].sequence)
            if self._room.is_full:
                self._held_back[session.id] = None
                return []
            self._room.reserve(self, large_bytes)
        items: list[Item] = []
        for entry in announced:
            # A piece comes after all that the log had when its attempt began, and before what the log has next.
            items.extend((session, piece) for piece in place.take(entry.sequence - 1))
            items.append((session, entry))
            place.sequence = entry.sequence
        items.extend((session, piece) for piece in place.take(place.sequence))
        if not items:
            return await self._end(place)
        if not self._signals.closed:
            # There may be more; if not, the next look finds out whether this was the end.
            self.wake(session.id)
        return items

    async def _end(self, place: _Place) -> list[Item]:
        """The end of a session that has nothing more to tell: it has expired, or it is gone."""
        try:
            session = await self._store.get_session(place.session.id)
        except SessionNotFoundError:
            return await self._gone(place)
        if not session.expiry_logged:
            return []
        if place.sequence < session.last_sequence:
            if not await self._store.list_entries(session.id, after_sequence=place.sequence, limit=1):
                return await self._gone(place)
            # It came since we looked, and will be announced.
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


def _large_bytes(entry: Entry) -> int:
    """How large an entry is that is more than is read at a time; only attachments are."""
    size = len(entry.message.attachments or "") if entry.message else 0
    return size if size > SMALL_BYTES else 0


def _look(session: Session, now_ms: int) -> Outcome:
    """A rule that changes nothing. Raises SessionExpiredError."""
    require_live(session, now_ms)
    return Outcome(session)
