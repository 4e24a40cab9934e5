"""Looks for agents that other servers have changed or removed, so that workers here learn of it: at once
where they announce it, and every few seconds all the same.
"""

from contextlib import suppress

from server.agents.stream import StreamWorkers
from server.domain.access import EVERYTHING
from server.domain.agents import Agent
from server.domain.errors import AgentNotFoundError
from server.lifecycle.looks import LOOK_SECONDS, Looks
from server.store.contract import Store
from server.store.hints import Hint


class ChangedAgents:
    """See the module."""

    def __init__(self, store: Store, workers: StreamWorkers, look_s: float = LOOK_SECONDS) -> None:
        self._store = store
        self._workers = workers
        self._changed: set[str] = set()
        self._looks = Looks("what other servers have made of agents", self._look, look_s)

    def on_hint(self, hint: Hint) -> None:
        """Takes note of agents that another server has changed or removed."""
        self._changed.update(hint.agents)
        if hint.agents or hint.all:
            self._looks.wake(is_all=hint.all)

    async def look(self) -> None:
        """Looks at each agent that has workers here. Raises the store's errors."""
        for agent_id in self._workers.connected_agents():
            await self._apply(agent_id)

    async def run(self) -> None:
        """Looks until cancelled."""
        await self._looks.run()

    async def _look(self, is_all: bool) -> None:
        changed, self._changed = self._changed, set()
        if is_all:
            await self.look()
            return
        for agent_id in changed:
            await self._apply(agent_id)

    async def _apply(self, agent_id: str) -> None:
        agent: Agent | None = None
        with suppress(AgentNotFoundError):
            agent = await self._store.get_agent(agent_id, scope=EVERYTHING)
        self._workers.apply_change(agent_id, agent)
