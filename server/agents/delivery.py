"""The way of a user's message to the session's agent, and of the reply into the log."""

import asyncio
from functools import partial

import structlog

from server.agents.kinds import CONNECTORS
from server.domain.errors import AgentNotFoundError, SessionExpiredError, SessionNotFoundError
from server.domain.ids import new_id
from server.domain.messages import Message
from server.domain.sessions import Session, store_reply
from server.store.base import Store

log = structlog.get_logger()


class Delivery:
    """Gets replies in the background: one message of a session at a time, in order; sessions do not wait for each other."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last: dict[str, asyncio.Task[None]] = {}

    def deliver(self, session: Session, message: Message) -> None:
        """Hands a stored message of the user to the session's agent, behind the session's earlier ones. Returns at once."""
        task = asyncio.create_task(self._deliver(self._last.get(session.id), session, message))
        self._last[session.id] = task
        task.add_done_callback(partial(self._forget, session.id))

    async def drain(self) -> None:
        """Waits until every message handed over has its reply stored or has failed."""
        while self._last:
            await asyncio.wait(list(self._last.values()))

    def _forget(self, session_id: str, task: asyncio.Task[None]) -> None:
        if self._last.get(session_id) is task:
            del self._last[session_id]

    async def _deliver(self, previous: asyncio.Task[None] | None, session: Session, message: Message) -> None:
        if previous is not None:
            await asyncio.wait([previous])
        try:
            agent = await self._store.get_agent(session.agent_id)
            reply = await CONNECTORS[agent.kind].reply(agent, session, message)
            await self._store.apply(session.id, partial(store_reply, message_id=new_id(), reply=reply))
        except (AgentNotFoundError, SessionExpiredError, SessionNotFoundError) as error:
            log.info("no reply", session_id=session.id, message_id=message.id, reason=error.reason)
        except Exception:
            log.exception("a reply failed", session_id=session.id, message_id=message.id)
