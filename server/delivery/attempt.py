"""One attempt at a reply: the agent is asked, and the pieces that it sends ahead are told."""

import asyncio
import uuid
from collections.abc import Callable

from eliza.sessions.limits import MAX_REPLY_CODE_POINTS
from server.agents.connector import History, NoReplyError, Slot, Work
from server.domain.agent_text import TextJoiner
from server.domain.errors import DomainError, InvalidContentError
from server.domain.log import Abort, Chunk, Piece
from server.domain.messages import Message, Reply
from server.domain.sessions import Session
from server.store.contract import Store


class Attempt:
    """An attempt at the reply to a leased delivery."""

    def __init__(
        self, work: Work, lease_s: float, on_piece: Callable[[Piece], None], is_heard: Callable[[str], bool]
    ) -> None:
        """`on_piece` is told the first piece of the reply, further ones while somebody hears of that session
        by `is_heard`, and where they are void.
        """
        self.work = work
        self._lease_s = lease_s
        self._on_piece = on_piece
        self._is_heard = is_heard
        self._lease_end_s = 0.0
        self._asking: asyncio.Task[Reply] | None = None
        # How many pieces came, and how long they are together; none is told any more once it is over.
        self._pieces = 0
        self._code_points = 0
        self._is_over = False

    @property
    def lease_left_s(self) -> float:
        """How long the agent still has for the reply, or for its next piece, in seconds."""
        return max(0.0, self._lease_end_s - asyncio.get_running_loop().time())

    async def ask(self, slot: Slot) -> Reply | None:
        """Asks the agent for its reply, until the lease ends. None: the delivery was closed meanwhile.

        :raises NoReplyError: there is no reply
        :raises DomainError: the reply cannot be stored, or the store cannot be read
        """
        loop = asyncio.get_running_loop()
        self._lease_end_s = loop.time() + self._lease_s
        self._asking = asking = asyncio.create_task(self._reply(slot))
        try:
            while not asking.done() and (left_s := self._lease_end_s - loop.time()) > 0:
                await asyncio.wait([asking], timeout=left_s)
            if not asking.done():
                raise NoReplyError(f"the agent did not reply within {self._lease_s:g} seconds", final=False)
            return None if asking.cancelled() else asking.result()
        except (NoReplyError, DomainError):
            raise
        except Exception as error:
            error_id = uuid.uuid4().hex
            raise NoReplyError(f"internal error {error_id}", final=True, error_id=error_id) from error
        finally:
            if not asking.done():
                asking.cancel()
                await asyncio.wait([asking])
            if not asking.cancelled():
                # Looked at, lest Python complain that nobody did.
                asking.exception()
            # An error that the task raised here has this frame, which must not have the task.
            self._asking = None
            del asking

    def close(self, reply: Message | None) -> None:
        """Ends the attempt: a commit has closed the delivery, with a reply or without one."""
        if reply and reply.id == self.work.reply_id:
            self._is_over = True
        else:
            # The reply came from elsewhere, under another id than the pieces.
            self.take_back()
        if self._asking:
            self._asking.cancel()

    def take_back(self) -> None:
        """Tells that the pieces are void, if there are any, unless the attempt is over."""
        if self._pieces and not self._is_over:
            work = self.work
            sequence, number, after = work.entry.sequence, work.delivery.attempts, work.session.last_sequence
            self._on_piece(Abort(work.session.id, work.agent.id, work.reply_id, sequence, number, after))
        self._is_over = True

    def end(self) -> None:
        """Tells no more pieces: the session has ended, which says that they are void."""
        self._is_over = True

    async def _reply(self, slot: Slot) -> Reply:
        """Asks for the reply. Cleans its pieces on their way out, and joins surrogate halves across them."""
        joiner = TextJoiner()
        reply = await slot.reply(self.work, lambda piece: self._emit(joiner.add(piece)))
        self._emit(joiner.flush())
        return reply

    def _emit(self, text: str) -> bool:
        """Tells a piece; returns whether further ones are told to anybody.

        Raises InvalidContentError when the pieces grow longer than a reply may be.
        """
        work = self.work
        is_heard = not self._is_over and self._is_heard(work.session.id)
        if not text:
            return is_heard
        self._code_points += len(text)
        if self._code_points > MAX_REPLY_CODE_POINTS:
            raise InvalidContentError(f"a reply must have at most {MAX_REPLY_CODE_POINTS} characters")
        if self._is_over:
            return False
        if work.agent.settings is None:
            # An agent with a timeout of its own gets no more than that by talking.
            self._lease_end_s = asyncio.get_running_loop().time() + self._lease_s
        index = self._pieces
        self._pieces += 1
        if is_heard or not index:
            sequence, number, after = work.entry.sequence, work.delivery.attempts, work.session.last_sequence
            self._on_piece(
                Chunk(work.session.id, work.agent.id, work.reply_id, text, index, sequence, number, after)
            )
        return is_heard


async def read_history(store: Store, session: Session, before_sequence: int, limit: int) -> History:
    """At most `limit` messages before a sequence, the oldest first, each reply behind what it answers."""
    if not limit:
        return History([])
    found = await store.list_history(session, before_sequence=before_sequence, limit=limit)
    if not found or len(found) == limit:
        return History(found)
    there_are = await store.count_history(session, before_sequence=before_sequence, limit=limit)
    return History(found, max(0, there_are - len(found)))
