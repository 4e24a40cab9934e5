"""Looks for what other servers have written that share the store: at once where they announce it, and every
few seconds all the same.
"""

import asyncio
from itertools import islice
from typing import Final

from server.domain.access import EVERYTHING
from server.domain.errors import SessionExpiredError, SessionNotFoundError
from server.lifecycle.looks import LOOK_SECONDS, Looks
from server.lifecycle.watches import Watches
from server.store.contract import Store
from server.store.hints import Hint

SESSIONS_PER_READ: Final = 500
WAITS_PER_READ: Final = 64
"""Of how many sessions and messages it is read together what has become of them."""


class OtherServers:
    """See the module. Announcements are hints: with none of them everything comes by the look."""

    def __init__(self, store: Store, watches: Watches, look_s: float = LOOK_SECONDS) -> None:
        self._store = store
        self._watches = watches
        self._looks = Looks("what other servers have written", self._look, look_s)
        # Sessions in which somebody waits for a reply, and which have grown elsewhere.
        self._answered: set[str] = set()

    def on_hint(self, hint: Hint) -> None:
        """Takes note of what another server has done."""
        waiting = self._watches.reply_waits.session_ids
        for session_id, sequence in hint.grown.items():
            self._watches.note_grown(session_id, sequence)
            if session_id in waiting:
                self._answered.add(session_id)
        for session_id in hint.deleted:
            self._watches.note_deleted(session_id)
            if session_id in waiting:
                self._answered.add(session_id)
        for piece in hint.pieces:
            self._watches.piece(piece, hint.sender)
        if hint.all or self._answered:
            self._looks.wake(is_all=hint.all)

    async def look(self) -> None:
        """Looks at everything that somebody waits for. Raises the store's errors."""
        watched = iter(self._watches.known_sequences().items())
        while some := dict(islice(watched, SESSIONS_PER_READ)):
            for session_id, sequence in (await self._store.find_grown(some)).items():
                if sequence is None:
                    self._watches.note_deleted(session_id)
                else:
                    self._watches.note_grown(session_id, sequence)
        if servers := self._watches.piece_servers():
            self._watches.void_pieces(await self._store.find_dead(servers))
        await self._find_answers(set(self._watches.reply_waits.session_ids))

    async def run(self) -> None:
        """Looks until cancelled."""
        await self._looks.run()

    async def _look(self, is_all: bool) -> None:
        answered, self._answered = self._answered, set()
        if is_all:
            await self.look()
        else:
            await self._find_answers(answered)

    async def _find_answers(self, session_ids: set[str]) -> None:
        """Ends the waits whose replies other servers have stored, or whose session has ended."""
        awaited = ((one, number) for one in session_ids for number in self._watches.reply_waits.awaited(one))
        while some := list(islice(awaited, WAITS_PER_READ)):
            await asyncio.gather(*(self._find_answer(*one) for one in some))

    async def _find_answer(self, session_id: str, sequence: int) -> None:
        waits = self._watches.reply_waits
        entry = await self._store.find_answer(session_id, sequence, scope=EVERYTHING)
        try:
            session = await self._store.get_session(session_id, scope=EVERYTHING)
        except SessionNotFoundError as error:
            waits.settle(session_id, sequence, error)
            return
        if entry:
            waits.settle(session_id, sequence, (session, entry))
        elif session.expiry_logged:
            waits.settle(session_id, sequence, SessionExpiredError(session_id, session.expires_at_ms))
