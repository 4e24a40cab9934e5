"""The look for agents that other servers have removed: every few seconds, whatever is announced meanwhile."""

import asyncio

from server.delivery.changed_agents import ChangedAgents
from server.domain.agents import Agent
from server.domain.errors import AgentNotFoundError
from server.store.hints import Hint
from tests.support.waiting import eventually


class Agents:
    """A store that has lost all of its agents."""

    async def get_agent(self, agent_id: str, **scope: object) -> Agent:
        raise AgentNotFoundError(agent_id)


class Workers:
    """Workers of one agent; keeps whose removal they were told of."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def connected_agents(self) -> list[str]:
        return ["connected"]

    def apply_change(self, agent_id: str, agent: Agent | None) -> None:
        if agent is None:
            self.told.append(agent_id)


async def test_announcements_of_other_agents_do_not_keep_it_from_looking_at_all() -> None:
    """A removal whose announcement was lost is found, however many others come."""
    workers = Workers()
    changed = ChangedAgents(Agents(), workers, look_s=0.05)  # type: ignore[arg-type]
    running = asyncio.create_task(changed.run())

    async def hint() -> None:
        while True:
            changed.on_hint(Hint(agents=["other"]))
            await asyncio.sleep(0.001)

    hinting = asyncio.create_task(hint())
    try:
        await eventually(lambda: workers.told.count("connected") >= 3)
        assert "other" in workers.told
    finally:
        for task in (running, hinting):
            task.cancel()
        await asyncio.gather(running, hinting, return_exceptions=True)
