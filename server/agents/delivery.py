"""The way of a user's message to the session's agent, and of the reply into the log."""

import asyncio
import uuid
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import structlog

from server.agents.kinds import CONNECTORS
from server.domain.errors import AgentNotFoundError, AgentReplyError, DomainError
from server.domain.events import Chunk, Entry
from server.domain.ids import new_id
from server.domain.messages import Message
from server.domain.sessions import Session, store_reply
from server.store.base import Store

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

    def deliver(self, session: Session, sequence: int, message: Message, follow: Callable[[Progress], None] | None = None) -> None:
        """Hands a stored message of the user to the session's agent, behind the session's earlier ones. Returns at once.

        `sequence` is the message's; `follow` is told the progress of the reply to it.
        """
        task = asyncio.create_task(self._deliver(self._last.get(session.id), session, sequence, message, follow))
        self._last[session.id] = task
        task.add_done_callback(partial(self._forget, session.id))

    async def drain(self) -> None:
        """Waits until every message handed over has its reply stored or has failed."""
        while self._last:
            await asyncio.wait(list(self._last.values()))

    def _forget(self, session_id: str, task: asyncio.Task[None]) -> None:
        if self._last.get(session_id) is task:
            del self._last[session_id]

    async def _deliver(
        self,
        previous: asyncio.Task[None] | None,
        session: Session,
        sequence: int,
        message: Message,
        follow: Callable[[Progress], None] | None,
    ) -> None:
        if previous is not None:
            await asyncio.wait([previous])
        reply_id, count = new_id(), 0

        def emit(text: str) -> None:
            nonlocal count
            chunk = Chunk(session.id, session.agent_id, reply_id, text, count, sequence)
            count += 1
            self._on_chunk(chunk)
            if follow:
                follow(chunk)

        progress: Progress
        try:
            agent = await self._store.get_agent(session.agent_id)
            reply = await CONNECTORS[agent.kind].reply(agent, session, message, emit)
            progress = (await self._store.apply(session.id, partial(store_reply, message_id=reply_id, reply=reply))).entries[0]
        except AgentNotFoundError:
            progress = AgentReplyError(session.id, message.id, "the agent has been removed")
        except DomainError as error:
            log.info("no reply", session_id=session.id, message_id=message.id, reason=error.reason)
            progress = error
        except Exception:
            error_id = uuid.uuid4().hex
            log.exception("a reply failed", error_id=error_id, session_id=session.id, message_id=message.id)
            progress = AgentReplyError(session.id, message.id, f"internal error {error_id}")
        if follow:
            follow(progress)
