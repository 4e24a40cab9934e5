"""Which watches follow which session. Wakes them when it has something new, a few in each turn."""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Final, Protocol

from server.domain.log import Abort, Chunk, Entry, Piece
from server.lifecycle.pieces import Pieces
from server.lifecycle.reply_waits import ReplyWaits
from server.lifecycle.shown import abort_of
from server.store.values import Commit

WAKES_PER_TURN: Final = 20
"""How many watches are woken in a turn of the loop: their work takes a few milliseconds."""


class Wakeable(Protocol):
    """A watch, as far as it is woken."""

    def wake(self, session_id: str, *, has_grown: bool = True) -> None:
        """Says that a session has something new, in its log or in pieces alone."""

    def wake_up(self) -> None:
        """Has it look at whether the service stops."""

    def mark_deleted(self, session_id: str) -> None:
        """Says that a session was deleted, which is not the same as taken by the purge."""


@dataclass(slots=True)
class Watched:
    """A session that is watched, and by whom.

    `announced`: the last sequence that its watches may tell. The store may show an entry before what comes
    ahead of it is known here: that the pieces of an earlier attempt are void.
    """

    watches: set[Wakeable] = field(default_factory=set)
    pieces: Pieces = field(default_factory=Pieces)
    announced: int = 0
    large: set[int] = field(default_factory=set)
    """The sequences of the large entries that were met, so that not each watch reads one to find out."""
    elsewhere: tuple[str, Abort] | None = None
    """The server that the last piece is of, where it is another one, and what voids its attempt."""

    def end_reply(self, entry: Entry) -> None:
        """Takes note of an entry: the end of a reply has nothing void any more, whoever dies."""
        if self.elsewhere is None:
            return
        _, abort = self.elsewhere
        # An end before the attempt began is that of a message which was then delivered anew.
        if entry.answers == abort.answers and entry.sequence > abort.after:
            self.elsewhere = None


@dataclass(slots=True)
class _Round:
    """The watches of a session that have yet to be woken. `has_grown`: its log has grown, not only pieces
    came.

    `begun`: some were woken. `again`: something came since, and whether in the log.
    """

    watches: list[Wakeable]
    has_grown: bool
    begun: bool = False
    again: bool | None = None


class Watches:
    """Wakes the watches of the sessions that have something new."""

    def __init__(self) -> None:
        self._watched: dict[str, Watched] = {}
        self._open: set[Wakeable] = set()
        self._rounds: OrderedDict[str, _Round] = OrderedDict()
        self.reply_waits = ReplyWaits()
        self.closed = False

    @property
    def session_ids(self) -> Set[str]:
        """The sessions that are watched."""
        return self._watched.keys()

    def on_commit(self, commit: Commit) -> None:
        """Notes how far a commit has grown logs, and what it has deleted; ends the waits for its replies."""
        self.reply_waits.on_commit(commit)
        for outcome in commit.outcomes:
            session = outcome.session
            if outcome.entry and (watched := self._watched.get(session.id)):
                watched.announced = max(watched.announced, session.last_sequence)
                self.changed((session.id,))
        for session in commit.deleted:
            for watch in watched.watches if (watched := self._watched.get(session.id)) else ():
                watch.mark_deleted(session.id)
            self.changed((session.id,))

    def changed(self, session_ids: Iterable[str]) -> None:
        """Wakes the watches of sessions whose logs have grown, or that are gone: the one way in which what is
        stored wakes a watch.
        """
        for session_id in session_ids:
            self._wake(session_id)

    def known_sequences(self) -> Mapping[str, int]:
        """The sessions that are watched, each with the last sequence that is known of it."""
        return {session_id: watched.announced for session_id, watched in self._watched.items()}

    def note_grown(self, session_id: str, sequence: int) -> None:
        """Takes note of how far another server has grown a log."""
        if (watched := self._watched.get(session_id)) and watched.announced < sequence:
            watched.announced = sequence
            self.changed((session_id,))

    def note_deleted(self, session_id: str) -> None:
        """Takes note of a session that another server has deleted."""
        if watched := self._watched.get(session_id):
            for watch in watched.watches:
                watch.mark_deleted(session_id)
            self.changed((session_id,))

    def piece(self, piece: Piece, server_id: str = "") -> None:
        """Keeps a piece of a reply under way for the watches of its session.

        `server_id`: the other server that it is of, if it is of one.
        """
        if watched := self._watched.get(piece.session_id):
            if isinstance(piece, Chunk):
                watched.elsewhere = (server_id, abort_of(piece)) if server_id else None
            elif watched.elsewhere and watched.elsewhere[1].message_id == piece.message_id:
                watched.elsewhere = None
            watched.pieces.add(piece)
            self._wake(piece.session_id, has_grown=False)

    def piece_servers(self) -> Set[str]:
        """The other servers of whose attempts pieces were kept last."""
        return {watched.elsewhere[0] for watched in self._watched.values() if watched.elsewhere}

    def void_pieces(self, server_ids: Collection[str]) -> None:
        """Voids the pieces of attempts of other servers, which run no more."""
        for watched in list(self._watched.values()):
            if watched.elsewhere and watched.elsewhere[0] in server_ids:
                self.piece(watched.elsewhere[1])

    def close(self) -> None:
        """Ends all watches with UnavailableError, once they have told what is new, and all waits for replies:
        the service stops.
        """
        self.closed = True
        self.reply_waits.close()
        while self._rounds:
            session_id, current = self._rounds.popitem()
            for watch in current.watches:
                watch.wake(session_id)
        for watch in self._open:
            watch.wake_up()

    def register(self, watch: Wakeable) -> None:
        """Adds a watch to those that `close` ends."""
        self._open.add(watch)

    def unregister(self, watch: Wakeable) -> None:
        """Removes it from them."""
        self._open.discard(watch)

    def add(self, session_id: str, watch: Wakeable) -> Watched:
        """Adds a watch to a session. Returns the state that all its watches share."""
        watched = self._watched.setdefault(session_id, Watched())
        watched.watches.add(watch)
        return watched

    def remove(self, session_id: str, watch: Wakeable) -> None:
        """Removes a watch from a session."""
        if watched := self._watched.get(session_id):
            watched.watches.discard(watch)
            if not watched.watches:
                del self._watched[session_id]

    def _wake(self, session_id: str, *, has_grown: bool = True) -> None:
        """Has the watches of a session woken. It costs next to nothing when they are about to be anyway."""
        current = self._rounds.get(session_id)
        if current and current.begun:
            current.again = current.again or has_grown
        elif current:
            current.has_grown = current.has_grown or has_grown
        elif watched := self._watched.get(session_id):
            if not self._rounds:
                asyncio.get_running_loop().call_soon(self._wake_some)
            self._rounds[session_id] = _Round(list(watched.watches), has_grown)

    def _wake_some(self) -> None:
        """Wakes some watches, one of each session in turn, so that none waits for a session with many."""
        for _ in range(WAKES_PER_TURN):
            if not self._rounds:
                return
            session_id, current = self._rounds.popitem(last=False)
            current.begun = True
            current.watches.pop().wake(session_id, has_grown=current.has_grown)
            if (
                not current.watches
                and current.again is not None
                and (watched := self._watched.get(session_id))
            ):
                current = _Round(list(watched.watches), current.again)
            if current.watches:
                self._rounds[session_id] = current
        if self._rounds:
            asyncio.get_running_loop().call_soon(self._wake_some)
