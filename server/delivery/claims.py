"""Claims what is due of one agent, and leaves it alone for a while where it cannot be asked."""

import asyncio
import random
from collections.abc import Collection
from functools import partial

from server.agents.connector import AgentUnavailableError, Connector
from server.delivery.turn import Means
from server.domain.agents import Agent
from server.domain.log import message_of
from server.domain.replies import lease
from server.store.values import OpenDelivery


class Claims:
    """See the module."""

    def __init__(self, agent_id: str, means: Means) -> None:
        self._agent_id = agent_id
        self._means = means
        # How often in a row the agent could not be asked, and until when, in the loop's time, it is left
        # alone.
        self._unavailable = 0
        self._rest_end_s = 0.0

    @property
    def rest_left_s(self) -> float:
        """How long the agent is still left alone, in seconds; not above 0: it is not."""
        return self._rest_end_s - asyncio.get_running_loop().time()

    def end_rest(self) -> None:
        """Leaves the agent alone no longer."""
        self._rest_end_s = 0.0

    async def take(
        self,
        agent: Agent | None,
        connector: Connector | None,
        due_ms: int,
        limit: int,
        held: Collection[str],
    ) -> list[OpenDelivery]:
        """Claims what is due, but of sessions that are held, and writes the leases down where the agent is
        outside this process.

        Raises AgentUnavailableError, having seen to it that the agent is left alone for a while.
        """
        store, rule = self._means.store, None
        if agent and connector and not connector.is_inside:
            next_ms = await store.next_delivery_ms(self._agent_id, held)
            if next_ms is None or next_ms > due_ms:
                return []
            try:
                await connector.check_ready(agent)
            except AgentUnavailableError as error:
                await self._leave_alone(due_ms, held, error)
                raise
            rule = partial(
                lease, lease_ms=round(self._means.lease_seconds(agent) * 1000), policy=self._means.policy
            )
        self._unavailable = 0
        self._means.statuses.note_available(self._agent_id)
        found = await store.lease_due(self._agent_id, due_ms, limit, held, rule)
        self._means.is_troubled = False
        return found

    async def _leave_alone(self, due_ms: int, held: Collection[str], cause: AgentUnavailableError) -> None:
        """Gives the agent nothing for a while: it cannot even be asked, which is the operator's to mend.

        Nothing is written down, and no attempt used up. A restart tries again at once.
        """
        self._unavailable += 1
        rest_s = self._means.policy.backoff_ms(self._unavailable, random.random()) / 1000
        self._rest_end_s = asyncio.get_running_loop().time() + rest_s
        for head in await self._means.store.lease_due(self._agent_id, due_ms, 1, held):
            message_id, now_ms = message_of(head.entry).id, self._means.clock.now_ms()
            self._means.statuses.note_unavailable(self._agent_id, head.session.id, message_id, now_ms, cause)
