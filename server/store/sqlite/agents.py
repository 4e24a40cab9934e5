"""The agents in the SQLite file."""

import sqlite3
from typing import Final

from server.domain.agents import Agent
from server.domain.errors import AgentAlreadyExistsError, AgentNotFoundError
from server.store.contract import AgentChange, Agents
from server.store.pages import FIRST
from server.store.sqlite import rows
from server.store.sqlite.reading import Reading
from server.store.sqlite.writer import SqliteWriter
from server.store.values import Position

_AGENT: Final = ", ".join(rows.AGENT)
_GET_AGENT: Final = f"SELECT {_AGENT} FROM agents WHERE id = ?"


class SqliteAgents(Reading, Agents):
    """See Agents."""

    _writer: SqliteWriter

    async def create_agent(self, agent: Agent) -> None:
        def work(connection: sqlite3.Connection, now_ms: int) -> None:
            if not _insert_agent(agent, connection):
                raise AgentAlreadyExistsError(agent.id)

        await self._writer.run(work)

    async def seed_agent(self, agent: Agent) -> None:
        def work(connection: sqlite3.Connection, now_ms: int) -> None:
            if connection.execute(
                "INSERT INTO seeded_agents VALUES (?) ON CONFLICT DO NOTHING", (agent.id,)
            ).rowcount:
                _insert_agent(agent, connection)

        await self._writer.run(work)

    async def update_agent(self, agent_id: str, change: AgentChange) -> Agent:
        def work(connection: sqlite3.Connection, now_ms: int) -> Agent:
            agent = change(_agent(agent_id, connection), now_ms)
            row = rows.agent_row(agent)
            connection.execute(
                f"UPDATE agents SET ({_AGENT}) = ({_marks(row)}) WHERE id = ?", (*row, agent_id)
            )
            return agent

        return await self._writer.run(work)

    async def delete_agent(self, agent_id: str) -> None:
        def work(connection: sqlite3.Connection, now_ms: int) -> None:
            if not connection.execute("DELETE FROM agents WHERE id = ?", (agent_id,)).rowcount:
                raise AgentNotFoundError(agent_id)

        await self._writer.run(work)

    async def get_agent(self, agent_id: str) -> Agent:
        return self._read(lambda connection: _agent(agent_id, connection))

    async def list_agents(self, *, limit: int, after: Position | None = None) -> list[Agent]:
        start = after or FIRST
        statement = (
            f"SELECT {_AGENT} FROM agents WHERE (created_at_ms, id) > (?, ?) ORDER BY "
            "created_at_ms, id LIMIT ?"
        )
        values = start.created_at_ms, start.id, limit
        return self._read(lambda connection: list(map(rows.agent_of, connection.execute(statement, values))))


def _insert_agent(agent: Agent, connection: sqlite3.Connection) -> bool:
    """Adds an agent; tells whether its id was free."""
    row = rows.agent_row(agent)
    statement = f"INSERT INTO agents ({_AGENT}) VALUES ({_marks(row)}) ON CONFLICT (id) DO NOTHING"
    return bool(connection.execute(statement, row).rowcount)


def _agent(agent_id: str, connection: sqlite3.Connection) -> Agent:
    found = connection.execute(_GET_AGENT, (agent_id,)).fetchall()
    if not found:
        raise AgentNotFoundError(agent_id)
    return rows.agent_of(found[0])


def _marks(row: rows.Row) -> str:
    return ", ".join("?" * len(row))
