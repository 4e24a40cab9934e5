"""The counts of sessions in their table: each lane adds to rows of its own, and their sum counts.

A user's counts have one row for all lanes. Locks are taken in one order: sessions, the quotas of users,
counts. Each of these goes by its key.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson
from psycopg import AsyncCursor

from server.domain.access import Scope
from server.store.counts import EXPIRED, LIVE, CountKey
from server.store.postgres import rows
from server.store.postgres.place import Link

SHARED_LANE: Final = 0
"""The lane of the rows that all lanes change."""
QUOTA: Final = "quota"
"""The state of the row whose lock holds a user's quota. It is there for only as long as it is locked."""

_KEY: Final = ", ".join(rows.COUNT[:-1])
_SAME: Final = (
    "state = item ->> 0 AND agent_id = item ->> 1 AND user_id = item ->> 2 AND tenant = item ->> 3 "
    f"AND lane = {SHARED_LANE}"
)
_VALUES: Final = rows.item_values(rows.SET_COUNT, ["agent_id", "user_id"])
_CHANGE: Final = (
    f"INSERT INTO session_counts ({', '.join(rows.SET_COUNT)}) SELECT {_VALUES} "
    f"FROM jsonb_array_elements(%s::jsonb) AS item ON CONFLICT ({_KEY}, lane) DO UPDATE SET "
    "sessions = session_counts.sessions + excluded.sessions"
)
# Their locks are held by whoever has changed them.
_REMOVE_EMPTY: Final = (
    f"DELETE FROM session_counts USING jsonb_array_elements(%s::jsonb) AS item WHERE {_SAME} AND sessions = 0"
)
_READ: Final = (
    f"SELECT {rows.of('session_counts', rows.COUNT)} FROM jsonb_array_elements(%s::jsonb) AS item "
    f"JOIN session_counts ON {_SAME}"
)
AGENTS_LOOKED_AT: Final = 100
"""Of how many agents a look finds the rows that add up to 0."""
# From agent to agent by the index, past the rows of their users.
_NEXT_AGENT: Final = (
    "SELECT agent_id FROM session_counts WHERE state = %(state)s AND agent_id > {} ORDER BY agent_id LIMIT 1"
)
_WALK: Final = (
    f"WITH RECURSIVE walk AS ((SELECT agent_id, 1 AS number FROM ({_NEXT_AGENT.format('%(after)s')}) "
    f"AS first) UNION ALL SELECT ({_NEXT_AGENT.format('walk.agent_id')}), number + 1 FROM walk "
    f"WHERE agent_id IS NOT NULL AND number < {AGENTS_LOOKED_AT}) "
    "SELECT agent_id FROM walk WHERE agent_id IS NOT NULL ORDER BY agent_id"
)
_OF_AGENTS: Final = "state = %(state)s AND agent_id = ANY(%(agents)s::text[]) AND user_id = ''"
# Rows whose latest values add up to 0 go together, while nobody can change them: the sum stays as it is,
# whatever others add meanwhile. What others have locked is passed over, so that this waits for nobody.
_REMOVE_IDLE: Final = (
    f"WITH idle AS (SELECT agent_id, tenant FROM session_counts WHERE {_OF_AGENTS} "
    "GROUP BY agent_id, tenant HAVING sum(sessions) = 0), "
    "held AS MATERIALIZED (SELECT session_counts.agent_id, session_counts.tenant, lane, sessions "
    "FROM idle JOIN session_counts USING (agent_id, tenant) "
    "WHERE state = %(state)s AND user_id = '' FOR UPDATE OF session_counts SKIP LOCKED), "
    "still_idle AS (SELECT agent_id, tenant FROM held GROUP BY agent_id, tenant HAVING sum(sessions) = 0) "
    "DELETE FROM session_counts USING held JOIN still_idle USING (agent_id, tenant) "
    "WHERE session_counts.state = %(state)s AND session_counts.agent_id = held.agent_id "
    "AND session_counts.user_id = '' AND session_counts.tenant = held.tenant "
    "AND session_counts.lane = held.lane"
)
_SUM: Final = (
    "SELECT tenant, sum(sessions)::bigint FROM session_counts "
    "WHERE state = %s AND agent_id = %s AND user_id = %s{} GROUP BY tenant HAVING sum(sessions) <> 0"
)
_SUM_OF_TENANT: Final = _SUM.format(" AND tenant = %s")
_SUM_OF_ALL: Final = _SUM.format("")

STATEMENTS: Final = {
    "change_counts": _CHANGE,
    "remove_empty_counts": _REMOVE_EMPTY,
    "read_counts": _READ,
    "walk_counts": _WALK,
    "remove_idle_counts": _REMOVE_IDLE,
    "sum_counts": _SUM_OF_TENANT,
    "sum_all_counts": _SUM_OF_ALL,
}
"""All of them by name, for the tests of their plans."""


async def lock_quotas(link: Link, wanted: Iterable[CountKey]) -> AsyncCursor[tuple[Any, ...]] | None:
    """Locks the quotas of users, within a pipeline and before any count is changed, and reads their counts as
    rows of COUNT. Raises psycopg.Error.
    """
    keys = sorted(wanted)
    if not keys:
        return None
    # A row that nobody else changes: whoever has it may wait for any count.
    await link.execute(_CHANGE, [orjson.dumps([(*_quota(key), SHARED_LANE, 0) for key in keys]).decode()])
    # By a statement behind the lock, which sees what whoever had it has written.
    return await link.execute(_READ, [orjson.dumps(keys).decode()])


async def change_counts(
    link: Link, changes: Mapping[CountKey, int], lane: int, quotas: Iterable[CountKey] = ()
) -> None:
    """Adds to the counts of sessions, within a pipeline, in the order of their keys; `quotas` were locked.

    Raises psycopg.Error.
    """
    items = sorted(
        (*key, SHARED_LANE if key[2] else lane, change) for key, change in changes.items() if change
    )
    if items:
        await link.execute(_CHANGE, [orjson.dumps(items).decode()])
    emptied = {item[:4] for item in items if item[-1] < 0 and item[-2] == SHARED_LANE}
    if emptied := emptied | set(map(_quota, quotas)):
        await link.execute(_REMOVE_EMPTY, [orjson.dumps(sorted(emptied)).decode()])


class IdleCounts:
    """Removes the rows of agents that add up to 0: each lane leaves its own, also those of removed agents."""

    def __init__(self) -> None:
        # The agent after which the next look begins, by state.
        self._after: dict[str, str] = {}

    async def remove(self, link: Link) -> None:
        """Looks at the next agents, in a transaction that has changed nothing else. Raises psycopg.Error."""
        for state in (LIVE, EXPIRED):
            agents = await self._next(link, state)
            if agents:
                await link.execute(_REMOVE_IDLE, {"state": state, "agents": agents})

    async def _next(self, link: Link, state: str) -> list[str]:
        after = self._after.get(state, "")
        found = await (await link.execute(_WALK, {"state": state, "after": after})).fetchall()
        agents = [str(agent_id) for (agent_id,) in found]
        # From the first one on again behind the last one.
        self._after[state] = agents[-1] if len(agents) == AGENTS_LOOKED_AT else ""
        return agents


def _quota(key: CountKey) -> CountKey:
    """The row whose lock holds the quota of a count."""
    return QUOTA, *key[1:]


def sum_of(state: str, scope: Scope) -> tuple[str, tuple[Any, ...]]:
    """The statement that tells how many sessions of a scope are in a state, by tenant; and its parameters."""
    key = state, scope.agent_id or "", scope.user_id or ""
    return (_SUM_OF_ALL, key) if scope.tenant is None else (_SUM_OF_TENANT, (*key, scope.tenant))
