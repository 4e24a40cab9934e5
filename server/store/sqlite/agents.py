"""The agents in the SQLite file."""

import sqlite3
from typing import Final

from server.domain.access import Scope
from server.domain.agents import Agent, require_owned
from server.domain.errors import AgentAlreadyExistsError, AgentNotFoundError
from server.domain.quotas import TENANT_AGENTS, require_room
from server.store import rows
from server.store.contract import AgentChange, Agents
from server.store.pages import FIRST
from server.store.sqlite.reading import Reading
from server.store.sqlite.writer import SqliteWriter, no_sessions
from server.store.values import Position

_AGENT: Final = ", ".join(rows.AGENT)
_GET_AGENT: Final = f"SELECT {_AGENT} FROM agents WHERE id = ?"
_AGENTS_OF_TENANT: Final = "SELECT 1 FROM agents WHERE tenant = ? LIMIT ?"
_LIST_AGENTS: Final = (
    f"SELECT {_AGENT} FROM agents WHERE (created_at_ms, id) > (?, ?) ORDER BY created_at_ms, id LIMIT ?"
)
_LIST_OF_TENANT: Final = (
    f"SELECT {_AGENT} FROM agents WHERE tenant = ? AND (created_at_ms, id) > (?, ?) "
    "ORDER BY created_at_ms, id LIMIT ?"
)


class SqliteAgents(Reading, Agents):
    """See Agents."""

    _writer: SqliteWriter

    async def create_agent(self, agent: Agent, *, most: int = 0) -> None:
        def work(connection: sqlite3.Connection, now_ms: int) -> None:
            if not _insert_agent(agent, connection):
                raise AgentAlreadyExistsError(agent.id)
            if most:
                there = connection.execute(_AGENTS_OF_TENANT, (agent.tenant, most + 1)).fetchall()
                require_room(TENANT_AGENTS, most, len(there))

        await self._writer.run(work, changed=no_sessions)

    async def seed_agent(self, agent: Agent) -> None:
        def work(connection: sqlite3.Connection, now_ms: int) -> None:
            if connection.execute(
                "INSERT INTO seeded_agents VALUES (?) ON CONFLICT DO NOTHING", (agent.id,)
            ).rowcount:
                _insert_agent(agent, connection)

        await self._writer.run(work, changed=no_sessions)

    async def update_agent(self, agent_id: str, change: AgentChange, *, scope: Scope) -> Agent:
        def work(connection: sqlite3.Connection, now_ms: int) -> Agent:
            found = _agent(agent_id, connection, scope)
            require_owned(scope, found)
            agent = change(found, now_ms)
            row = rows.agent_row(agent)
            connection.execute(
                f"UPDATE agents SET ({_AGENT}) = ({_marks(row)}) WHERE id = ?", (*row, agent_id)
            )
            return agent

        return await self._writer.run(work, changed=no_sessions)

    async def delete_agent(self, agent_id: str, *, scope: Scope) -> None:
        def work(connection: sqlite3.Connection, now_ms: int) -> None:
            require_owned(scope, _agent(agent_id, connection, scope))
            connection.execute("DELETE FROM agents WHERE id = ?", (agent_id,))

        await self._writer.run(work, changed=no_sessions)

    async def get_agent(self, agent_id: str, *, scope: Scope) -> Agent:
        return self._read(lambda connection: _agent(agent_id, connection, scope))

    async def list_agents(self, *, scope: Scope, limit: int, after: Position | None = None) -> list[Agent]:
        start = after or FIRST
        place = start.created_at_ms, start.id, limit

        def read(connection: sqlite3.Connection) -> list[Agent]:
            if scope.agent_id is not None:
                found = connection.execute(_GET_AGENT, (scope.agent_id,)).fetchall()
            elif scope.tenant is None:
                found = connection.execute(_LIST_AGENTS, place).fetchall()
            else:
                # Its own, and those of all tenants.
                found = [
                    row
                    for tenant in {"", scope.tenant}
                    for row in connection.execute(_LIST_OF_TENANT, (tenant, *place))
                ]
            agents = [agent for agent in map(rows.agent_of, found) if scope.has_agent(agent)]
            behind = [one for one in agents if (one.created_at_ms, one.id) > place[:2]]
            return sorted(behind, key=lambda one: (one.created_at_ms, one.id))[:limit]

        return self._read(read)


def _insert_agent(agent: Agent, connection: sqlite3.Connection) -> bool:
    """Adds an agent; tells whether its id was free."""
    row = rows.agent_row(agent)
    statement = f"INSERT INTO agents ({_AGENT}) VALUES ({_marks(row)}) ON CONFLICT (id) DO NOTHING"
    return bool(connection.execute(statement, row).rowcount)


def _agent(agent_id: str, connection: sqlite3.Connection, scope: Scope) -> Agent:
    """An agent. Raises AgentNotFoundError, also for one that is out of the scope."""
    found = connection.execute(_GET_AGENT, (agent_id,)).fetchall()
    agent = rows.agent_of(found[0]) if found else None
    if agent is None or not scope.has_agent(agent):
        raise AgentNotFoundError(agent_id)
    return agent


def _marks(row: rows.Row) -> str:
    return ", ".join("?" * len(row))
