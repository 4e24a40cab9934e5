"""The way of a user's message to the session's agent, and of the reply into the log."""

import asyncio
import itertools
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

import structlog

from server.agents.kinds import CONNECTORS
from server.domain.errors import AgentNotFoundError, AgentReplyError, DomainError
from server.domain.events import Chunk, Entry
from server.domain.ids import new_id
from server.domain.messages import Message
from server.domain.sessions import Session, store_reply
from server.store.base import Commit, Store

log = structlog.get_logger()

Progress: TypeAlias = Chunk | Entry | DomainError
"""A piece of a reply; and at the end the reply as it was stored, or why there is none."""


class Delivery:
    """Gets replies in the background: one message of a session at a time, in order; sessions do not wait for each other."""

    def __init__(self, store: Store, on_chunk: Callable[[Chunk], None]) -> None:
        """`on_chunk` is told every piece of every reply."""
        self._store = store
        self._on_chunk = on_chunk
        self._last: dict[str, asyncio.Task[None]] = {}
        self._followers: dict[str, Callable[[Progress], None]] = {}

    def committed(self, commit: Commit) -> None:
        """Hands the messages of users that a commit has stored to their agents, each behind the session's earlier ones."""
        for outcome in commit.outcomes:
            for entry in outcome.entries:
                if entry.message and not entry.message.is_agent:
                    previous = self._last.get(entry.session_id)
                    task = asyncio.create_task(self._deliver(previous, outcome.session, entry.sequence, entry.message))
                    self._last[entry.session_id] = task
                    task.add_done_callback(partial(self._forget, entry.session_id))

    @contextmanager
    def following(self, message_id: str) -> Iterator[asyncio.Queue[Progress]]:
        """The progress of the reply to a message of the user, from before it is stored."""
        progress: asyncio.Queue[Progress] = asyncio.Queue()
        self._followers[message_id] = progress.put_nowait
        try:
            yield progress
        finally:
            del self._followers[message_id]

    async def drain(self) -> None:
        """Waits until every message handed over has its reply stored or has failed."""
        while self._last:
            await asyncio.wait(list(self._last.values()))

    def _forget(self, session_id: str, task: asyncio.Task[None]) -> None:
        if self._last.get(session_id) is task:
            del self._last[session_id]

    async def _deliver(self, previous: asyncio.Task[None] | None, session: Session, sequence: int, message: Message) -> None:
        if previous is not None:
            await asyncio.wait([previous])
        reply_id, count = new_id(), itertools.count()

        def emit(text: str) -> None:
            chunk = Chunk(session.id, session.agent_id, reply_id, text, next(count), sequence)
            self._on_chunk(chunk)
            self._tell(message, chunk)

        try:
            agent = await self._store.get_agent(session.agent_id)
            reply = await CONNECTORS[agent.kind].reply(agent, session, message, emit)
            outcome = await self._store.apply(session.id, partial(store_reply, message_id=reply_id, reply=reply))
            self._tell(message, outcome.entries[0])
        except AgentNotFoundError:
            self._tell(message, AgentReplyError(session.id, message.id, "the agent has been removed"))
        except DomainError as error:
            log.info("no reply", session_id=session.id, message_id=message.id, reason=error.reason)
            self._tell(message, error)
        except Exception:
            error_id = uuid.uuid4().hex
            log.exception("a reply failed", error_id=error_id, session_id=session.id, message_id=message.id)
            self._tell(message, AgentReplyError(session.id, message.id, f"internal error {error_id}"))

    def _tell(self, message: Message, progress: Progress) -> None:
        if follower := self._followers.get(message.id):
            follower(progress)
