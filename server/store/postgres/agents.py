"""The agents in PostgreSQL."""

from typing import Any, Final

import orjson

from server.domain.access import Scope
from server.domain.agents import Agent, require_owned
from server.domain.errors import AgentAlreadyExistsError, AgentNotFoundError
from server.domain.quotas import TENANT_AGENTS, require_room
from server.store.contract import AgentChange, Agents
from server.store.pages import FIRST
from server.store.postgres import rows
from server.store.postgres.lanes import Lanes
from server.store.postgres.place import Link
from server.store.postgres.reading import Reading
from server.store.values import Position

_AGENT: Final = ", ".join(rows.AGENT)
_GET: Final = f"SELECT {_AGENT} FROM agents WHERE id = %s::uuid"
_LOCK: Final = f"{_GET} FOR UPDATE"
_VALUES: Final = rows.item_values(rows.AGENT)
_INSERT: Final = (
    f"INSERT INTO agents ({_AGENT}) SELECT {_VALUES} FROM (SELECT %s::jsonb AS item) AS new "
    "ON CONFLICT (id) DO NOTHING"
)
_UPDATE: Final = (
    f"UPDATE agents SET ({_AGENT}) = ROW({_VALUES}) FROM (SELECT %s::jsonb AS item) AS new "
    "WHERE agents.id = (item ->> 0)::uuid"
)
_DELETE: Final = "DELETE FROM agents WHERE id = %s::uuid"
_SEED: Final = "INSERT INTO seeded_agents (id) VALUES (%s::uuid) ON CONFLICT DO NOTHING"
# Who registers agents in a tenant with a quota waits for the one before.
_LOCK_TENANT: Final = (
    "INSERT INTO session_counts (state, agent_id, user_id, tenant, lane, sessions) "
    "VALUES ('agents', '', '', %s, 0, 0) ON CONFLICT (state, agent_id, user_id, tenant, lane) "
    "DO UPDATE SET sessions = session_counts.sessions"
)
_OF_TENANT: Final = "SELECT 1 FROM agents WHERE tenant = %s LIMIT %s"
_BEHIND: Final = "(created_at_ms, id) > (%(created_at_ms)s, %(id)s::uuid)"
_LIST: Final = f"SELECT {_AGENT} FROM agents WHERE {_BEHIND} ORDER BY created_at_ms, id LIMIT %(rows)s"
# Its own, and those of all tenants.
_LIST_OF_TENANT: Final = (
    f"SELECT {_AGENT} FROM (SELECT DISTINCT unnest(ARRAY['', %(tenant)s]::text[]) AS wanted) AS tenants, "
    f"LATERAL (SELECT {_AGENT} FROM agents WHERE tenant = wanted AND {_BEHIND} "
    "ORDER BY created_at_ms, id LIMIT %(rows)s) AS found ORDER BY created_at_ms, id LIMIT %(rows)s"
)
STATEMENTS: Final = {
    "get_agent": _GET,
    "list_agents": _LIST,
    "list_agents_of_tenant": _LIST_OF_TENANT,
    "count_agents": _OF_TENANT,
}
"""All of them by name, for the tests of their plans."""


class PostgresAgents(Reading, Agents):
    """See Agents."""

    _lanes: Lanes

    async def create_agent(self, agent: Agent, *, most: int = 0) -> None:
        async def work(link: Link, now_ms: int) -> None:
            if most:
                await link.execute(_LOCK_TENANT, [agent.tenant])
            if not await _insert(agent, link):
                raise AgentAlreadyExistsError(agent.id)
            if most:
                there = await (await link.execute(_OF_TENANT, [agent.tenant, most + 1])).fetchall()
                require_room(TENANT_AGENTS, most, len(there))

        await self._lanes.first.run(work)

    async def seed_agent(self, agent: Agent) -> None:
        async def work(link: Link, now_ms: int) -> None:
            if (await link.execute(_SEED, [agent.id])).rowcount:
                await _insert(agent, link)

        await self._lanes.first.run(work)

    async def update_agent(self, agent_id: str, change: AgentChange, *, scope: Scope) -> Agent:
        async def work(link: Link, now_ms: int) -> Agent:
            found = await _locked(agent_id, link, scope)
            agent = change(found, now_ms)
            await link.execute(_UPDATE, [_item(agent)])
            return agent

        return await self._lanes.first.run(work)

    async def delete_agent(self, agent_id: str, *, scope: Scope) -> None:
        async def work(link: Link, now_ms: int) -> None:
            await _locked(agent_id, link, scope)
            await link.execute(_DELETE, [agent_id])

        await self._lanes.first.run(work)

    async def get_agent(self, agent_id: str, *, scope: Scope) -> Agent:
        found = await self._read(_GET, [agent_id if rows.is_uuid(agent_id) else rows.NO_ID])
        return _in_scope(agent_id, found, scope)

    async def list_agents(self, *, scope: Scope, limit: int, after: Position | None = None) -> list[Agent]:
        start = after or FIRST
        # A place comes from a client's token.
        start_id = start.id if rows.is_uuid(start.id) else rows.NO_ID
        values = {"created_at_ms": start.created_at_ms, "id": start_id, "rows": limit}
        if scope.agent_id is not None:
            found = await self._read(_GET, [scope.agent_id])
        elif scope.tenant is None:
            found = await self._read(_LIST, values)
        else:
            found = await self._read(_LIST_OF_TENANT, {**values, "tenant": scope.tenant})
        agents = [agent for agent in map(rows.agent_of, found) if scope.has_agent(agent)]
        return [one for one in agents if (one.created_at_ms, one.id) > (start.created_at_ms, start.id)]


async def _insert(agent: Agent, link: Link) -> bool:
    """Adds an agent; tells whether its id was free. Raises psycopg.Error."""
    return bool((await link.execute(_INSERT, [_item(agent)])).rowcount)


async def _locked(agent_id: str, link: Link, scope: Scope) -> Agent:
    """An agent that is about to be changed. Raises AgentNotFoundError, PermissionDeniedError."""
    known = agent_id if rows.is_uuid(agent_id) else rows.NO_ID
    agent = _in_scope(agent_id, await (await link.execute(_LOCK, [known])).fetchall(), scope)
    require_owned(scope, agent)
    return agent


def _in_scope(agent_id: str, found: list[rows.Row], scope: Scope) -> Agent:
    """An agent. Raises AgentNotFoundError, also for one that is out of the scope."""
    agent = rows.agent_of(found[0]) if found else None
    if agent is None or agent.id != agent_id or not scope.has_agent(agent):
        raise AgentNotFoundError(agent_id)
    return agent


def _item(agent: Agent) -> Any:
    return orjson.dumps(rows.agent_row(agent)).decode()
