"""Who waits for the reply to which message. The commit that stores the reply hands it over: nothing is read
for such a wait, and no pieces are kept.
"""

import asyncio
from collections import deque
from collections.abc import Set
from typing import Final, TypeAlias

from server.domain.errors import DomainError, SessionExpiredError, SessionNotFoundError
from server.domain.log import Entry, Expiry
from server.domain.messages import UserMessage
from server.domain.sessions import Session
from server.store.values import Commit

TOLD_PER_TURN: Final = 20
"""How many waits are told in a turn of the loop: what their callers then do takes a few milliseconds."""

Answer: TypeAlias = tuple[Session, Entry] | DomainError
"""What ends a wait: the reply, or the final failure; or the error that says how the session has ended."""


class ReplyWaits:
    """The waits for replies, by session."""

    def __init__(self) -> None:
        # A wait stands under its message's id, and under its sequence once the message is stored.
        self._sessions: dict[str, dict[str | int, set[ReplyWait]]] = {}
        self._due: deque[tuple[ReplyWait, Answer | None]] = deque()
        self._is_closed = False

    @property
    def session_ids(self) -> Set[str]:
        """The sessions in which somebody waits for a reply."""
        return self._sessions.keys()

    def join(self, session_id: str, message_id: str) -> "ReplyWait":
        """Waits for the reply to a message that is not stored yet."""
        wait = ReplyWait(self, session_id, message_id)
        if self._is_closed:
            wait.end(None)
        return wait

    def on_commit(self, commit: Commit) -> None:
        """Ends the waits that a commit has answered, or whose session it has ended."""
        if not self._sessions:
            return
        for outcome in commit.outcomes:
            entry = outcome.entry
            waits = self._sessions.get(entry.session_id) if entry else None
            if entry is None or waits is None:
                continue
            match entry.event:
                case UserMessage(id=message_id):
                    for wait in tuple(waits.get(message_id, ())):
                        wait.follow(entry.sequence)
                case Expiry():
                    self._end_all(waits, SessionExpiredError(entry.session_id, entry.expires_at_ms))
                case _ if entry.answers:
                    self._end(waits.get(entry.answers, set()), (outcome.session, entry))
        for session in commit.deleted:
            self._end_all(self._sessions.get(session.id, {}), SessionNotFoundError(session.id))

    def awaited(self, session_id: str) -> list[int]:
        """The sequences of a session's messages whose replies somebody waits for."""
        return [key for key in self._sessions.get(session_id, {}) if isinstance(key, int)]

    def settle(self, session_id: str, sequence: int, answer: Answer) -> None:
        """Ends the waits for the reply to a message: another server has stored what ends them."""
        self._end(self._sessions.get(session_id, {}).get(sequence, set()), answer)

    def close(self) -> None:
        """Ends all waits, once they have been told of the replies that are there: the service stops."""
        self._is_closed = True
        for waits in self._sessions.values():
            self._end_all(waits, None)

    def add(self, wait: "ReplyWait") -> None:
        """Has a wait told of its message."""
        self._sessions.setdefault(wait.session_id, {}).setdefault(wait.key, set()).add(wait)

    def remove(self, wait: "ReplyWait") -> None:
        """Tells a wait nothing any more."""
        waits = self._sessions[wait.session_id]
        waits[wait.key].discard(wait)
        if not waits[wait.key]:
            del waits[wait.key]
        if not waits:
            del self._sessions[wait.session_id]

    def _end_all(self, waits: "dict[str | int, set[ReplyWait]]", answer: Answer | None) -> None:
        for same in waits.values():
            self._end(same, answer)

    def _end(self, waits: "set[ReplyWait]", answer: Answer | None) -> None:
        if waits and not self._due:
            asyncio.get_running_loop().call_soon(self._tell_some)
        self._due.extend((wait, answer) for wait in waits)

    def _tell_some(self) -> None:
        for _ in range(min(len(self._due), TOLD_PER_TURN)):
            wait, answer = self._due.popleft()
            wait.end(answer)
        if self._due:
            asyncio.get_running_loop().call_soon(self._tell_some)


class ReplyWait:
    """One caller's wait for the reply to a message. To be closed after use."""

    def __init__(self, waits: ReplyWaits, session_id: str, message_id: str) -> None:
        self._waits = waits
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Answer | None] = self._loop.create_future()
        self.session_id = session_id
        self.key: str | int = message_id
        waits.add(self)

    def follow(self, sequence: int) -> None:
        """Waits for the reply to the message with this sequence from now on."""
        self._waits.remove(self)
        self.key = sequence
        self._waits.add(self)

    def end(self, answer: Answer | None) -> None:
        """Ends the wait, if it goes on."""
        if not self._answer.done():
            self._answer.set_result(answer)

    async def answer(self, wait_s: float) -> Answer | None:
        """What ends the wait; None where nothing did for `wait_s`, or the service stops."""
        timer = self._loop.call_later(wait_s, self.end, None)
        try:
            return await self._answer
        finally:
            timer.cancel()

    def close(self) -> None:
        """Waits no longer."""
        self._waits.remove(self)
