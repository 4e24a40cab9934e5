"""Follows the logs of sessions as they grow. A watch is woken for new entries and reads them from the store.

It keeps no entries, so that a slow watch costs no memory and loses nothing.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from server.domain.access import Scope
from server.domain.errors import (
    DomainError,
    InvalidFieldError,
    OverloadedError,
    SessionExpiredError,
    SessionNotFoundError,
    UnavailableError,
)
from server.domain.log import Entry, Expiry, Piece
from server.domain.sessions import Outcome, Session, require_live
from server.lifecycle.backpressure import Backpressure, Unbounded
from server.lifecycle.shown import Shown
from server.lifecycle.watches import Watched, Watches
from server.store.contract import Store

PAGE_ENTRIES: Final = 100
SMALL_BYTES: Final = 64 * 1024
"""How many entries are read at a time, and how much text. A larger entry is read alone, if there is room."""

MAX_JOINED: Final = 10_000
"""How many sessions one watch may follow."""


@dataclass(frozen=True, slots=True)
class End:
    """The end of a watched session: because of `error`, or without one after its expiry."""

    session_id: str
    error: DomainError | None = None


@dataclass(frozen=True, slots=True)
class Deleted:
    """A session was deleted; its End follows."""

    session_id: str


Item: TypeAlias = tuple[Session, Entry | Piece] | Deleted | End
"""An item of a watch. Its session is as it was at the join."""


@dataclass(slots=True)
class _Place:
    """Where a watch stands in a session: after which entry, and before which piece."""

    session: Session
    sequence: int
    watched: Watched
    piece: int
    has_ended: bool = False
    """Whether the expiry went out, so that only the end follows."""
    shown: Shown = field(default_factory=Shown)

    def take(self, up_to: int) -> list[Piece]:
        """Takes the pieces of attempts that began when the log ended at a sequence or before."""
        taken, self.piece = self.watched.pieces.take(self.piece, up_to)
        return [told for piece in taken for told in self.shown.take_piece(piece)]


class Watch:
    """Follows any number of sessions, for one reader. To be closed after use."""

    def __init__(
        self, store: Store, watches: Watches, backpressure: Backpressure | None = None, *, scope: Scope
    ) -> None:
        """Follows sessions of the scope. Waits before it reads something large while `backpressure` is
        full.
        """
        self._store = store
        self._scope = scope
        self._watches = watches
        self._backpressure: Backpressure = backpressure or Unbounded()
        self._places: dict[str, _Place] = {}
        # By session: whether its log may have grown, or there are pieces alone.
        self._woken: dict[str, bool] = {}
        # Woken sessions whose next entry is large, while there is no room.
        self._held_back: dict[str, bool] = {}
        self._deleted: set[str] = set()
        self._wake = asyncio.Event()
        watches.register(self)

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
        watched = self._watches.add(session_id, self)
        try:
            session = await self._store.get_session(session_id, scope=self._scope)
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

    def skip_to(self, session_id: str, sequence: int) -> None:
        """Tells no entry of a session up to a sequence: the reader knows them."""
        if place := self._places.get(session_id):
            place.sequence = max(place.sequence, sequence)

    def leave(self, session_id: str) -> bool:
        """Stops following a session. Returns whether it was followed."""
        self._watches.remove(session_id, self)
        self._deleted.discard(session_id)
        return self._places.pop(session_id, None) is not None

    def close(self) -> None:
        """Stops following all sessions."""
        self._watches.unregister(self)
        self._backpressure.forget(self.wake_up)
        self.hand_over()
        for session_id in list(self._places):
            self.leave(session_id)

    async def next(self, wait_s: float) -> list[Item]:
        """Returns the next items in order; none where nothing comes for `wait_s`.

        A large item keeps its room until `hand_over`. Raises UnavailableError when the service stops.
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
        """Gives up the room of the last items: their sender counts them from now on."""
        self._backpressure.release(self)

    @property
    def is_ending(self) -> bool:
        """Whether the service stops, and the watch ends with it."""
        return self._watches.closed

    @property
    def is_woken(self) -> bool:
        """Whether a session may have something new, which has not been looked for."""
        return bool(self._woken)

    def wake(self, session_id: str, *, has_grown: bool = True) -> None:
        """Says that a session has something new, in its log or in pieces alone."""
        self._woken[session_id] = self._woken.get(session_id) or has_grown
        self._wake.set()

    def wake_up(self) -> None:
        """Has the watch look again: at whether the service stops, or there is room."""
        self._wake.set()

    def mark_deleted(self, session_id: str) -> None:
        """Says that a session was deleted, which is not the same as taken by the purge."""
        self._deleted.add(session_id)

    async def _read(self) -> list[Item]:
        """Returns the items of one woken session; none when no session has any."""
        if not self._backpressure.is_full:
            self._woken |= self._held_back
            self._held_back.clear()
        while self._woken:
            session_id = next(iter(self._woken))
            has_grown = self._woken.pop(session_id)
            if session_id in self._held_back:
                continue
            try:
                if (place := self._places.get(session_id)) and (
                    items := await self._read_session(place, has_grown)
                ):
                    return items
            except BaseException:
                # A reader that is cancelled comes again, and got no item.
                self.wake(session_id)
                raise
        self._wake.clear()
        if self._held_back:
            self._backpressure.when_free(self.wake_up)
        if self._watches.closed:
            raise UnavailableError("The service is stopping")
        return []

    async def _read_session(self, place: _Place, has_grown: bool) -> list[Item]:
        session = place.session
        if session.id in self._deleted:
            return await self._gone(place)
        if not has_grown or (place.sequence >= place.watched.announced and not place.has_ended):
            return [(session, piece) for piece in place.take(place.sequence)]
        if self._backpressure.is_full and place.sequence + 1 in place.watched.large:
            self._held_back[session.id] = True
            return []
        entries = await self._store.list_entries(
            session.id,
            scope=self._scope,
            after_sequence=place.sequence,
            limit=PAGE_ENTRIES,
            most_bytes=SMALL_BYTES,
        )
        if entries and entries[0].sequence > place.sequence + 1:
            return await self._gone(place)
        announced = [entry for entry in entries if entry.sequence <= place.watched.announced]
        if entries and not announced:
            # Their announcement wakes the watch again.
            return []
        # One that is large is alone.
        if entries and (large_bytes := _large_bytes(entries[0])):
            place.watched.large.add(entries[0].sequence)
            if self._backpressure.is_full:
                self._held_back[session.id] = True
                return []
            self._backpressure.reserve(self, large_bytes)
        items: list[Item] = []
        for entry in announced:
            # A piece comes after all entries that the log had when its attempt began, and before the next
            # entry.
            items.extend((session, piece) for piece in place.take(entry.sequence - 1))
            items.extend((session, abort) for abort in place.shown.take_entry(entry))
            items.append((session, entry))
            place.watched.end_reply(entry)
            place.sequence = entry.sequence
        items.extend((session, piece) for piece in place.take(place.sequence))
        if not items:
            return await self._end(place)
        place.has_ended = bool(announced) and isinstance(announced[-1].event, Expiry)
        if (place.sequence < place.watched.announced or place.has_ended) and not self._watches.closed:
            self.wake(session.id)
        return items

    async def _end(self, place: _Place) -> list[Item]:
        """Returns the end of a session without further entries: it has expired, or it is gone."""
        try:
            session = await self._store.get_session(place.session.id, scope=self._scope)
        except SessionNotFoundError:
            return await self._gone(place)
        if not session.expiry_logged:
            return []
        if place.sequence < session.last_sequence:
            if not await self._store.list_entries(
                session.id, scope=self._scope, after_sequence=place.sequence, limit=1
            ):
                return await self._gone(place)
            # It came since we looked, and will be announced.
            return []
        self.leave(session.id)
        return [End(session.id)]

    async def _gone(self, place: _Place) -> list[Item]:
        """Returns the end of a session that was deleted or is being purged. No log is better than one with a
        gap.
        """
        session_id = place.session.id
        if session_id not in self._deleted:
            # A reader may see a deletion before its listeners hear of it. The writer answers this call after
            # them.
            with suppress(DomainError):
                await self._store.apply(session_id, _look, scope=self._scope)
        if self._store.is_shared and not place.session.expiry_logged and not place.has_ended:
            # Another server may have deleted it. The purge takes no session before its expiry was told.
            self._deleted.add(session_id)
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
