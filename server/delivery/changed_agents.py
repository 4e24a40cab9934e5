"""Looks for agents that other servers have changed or removed, so that workers here learn of it: at once
where they announce it, and every few seconds all the same.
"""

import asyncio
import uuid
from contextlib import suppress
from typing import Final

import structlog

from server.agents.stream import StreamWorkers
from server.domain.access import EVERYTHING
from server.domain.agents import Agent
from server.domain.errors import STORE_TROUBLE, AgentNotFoundError
from server.store.contract import Store
from server.store.hints import Hint

LOOK_SECONDS: Final = 5.0
"""How long a worker stays at most with an agent that was removed and not announced."""

log = structlog.get_logger()


class ChangedAgents:
    """See the module."""

    def __init__(self, store: Store, workers: StreamWorkers, look_s: float = LOOK_SECONDS) -> None:
        self._store = store
        self._workers = workers
        self._look_s = look_s
        self._changed: set[str] = set()
        self._is_all = False
        self._woken = asyncio.Event()

    def on_hint(self, hint: Hint) -> None:
        """Takes note of agents that another server has changed or removed."""
        self._changed.update(hint.agents)
        self._is_all = self._is_all or hint.all
        if hint.agents or hint.all:
            self._woken.set()

    async def look(self) -> None:
        """Looks at each agent that has workers here. Raises the store's errors."""
        for agent_id in self._workers.connected_agents():
            await self._apply(agent_id)

    async def run(self) -> None:
        """Looks until cancelled."""
        loop = asyncio.get_running_loop()
        next_s = loop.time() + self._look_s
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_s):
                    await self._woken.wait()
            # However often it is woken: an announcement that was lost is nobody's who wakes it.
            is_all = self._is_all or loop.time() >= next_s
            if is_all:
                next_s = loop.time() + self._look_s
            self._is_all = False
            self._woken.clear()
            changed, self._changed = self._changed, set()
            try:
                for agent_id in changed:
                    await self._apply(agent_id)
                if is_all:
                    await self.look()
            except STORE_TROUBLE as error:
                self._is_all = True
                log.info("what other servers have made of agents is looked for later", cause=str(error))
            except Exception:
                self._is_all = True
                log.exception("agents cannot be looked at again", error_id=uuid.uuid4().hex)

    async def _apply(self, agent_id: str) -> None:
        agent: Agent | None = None
        with suppress(AgentNotFoundError):
            agent = await self._store.get_agent(agent_id, scope=EVERYTHING)
        self._workers.apply_change(agent_id, agent)
