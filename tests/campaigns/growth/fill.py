"""Stores of any size, made inside PostgreSQL: one statement a table, and the indexes afterwards.

A tenth of the sessions is live. Ids are ordered by time, as the service's are. Each session has ten messages
and a request, each user eighty sessions. Whatever the size, there are twenty agents and three tenants, and as
many sessions are overdue or wait for a reply: these are of the traffic, not of what is stored.
"""

import hashlib
import uuid
from typing import Any, Final

import psycopg

from server.store.postgres.check import COUNTED
from server.store.postgres.place import Place
from server.store.postgres.schema import prepare

MESSAGES: Final = 10
"""Of each session: five of the user, each with its reply."""
SESSIONS_OF_USER: Final = 80
AGENTS: Final = 20
TENANTS: Final = 3
DUE: Final = 150
OPEN: Final = 100
"""How many live sessions are overdue, the newest; how many have an open delivery, and how many one that
failed.
"""
AGENT: Final = str(uuid.UUID(hashlib.md5(b"agent0").hexdigest()))
"""The agent of all that is open, and of every second live session."""
HOUR_MS: Final = 3_600_000
STEP_MS: Final = 10
"""Between the creation of two sessions."""

_ID: Final = (
    "(lpad(to_hex({time}), 12, '0') || '7000' || '8000' || substr(md5('{kind}' || {number}), 1, 12))::uuid"
)
SESSION_ID: Final = _ID.format(time=f"%(begin)s + n * {STEP_MS}", kind="s", number="n")
_AGENT: Final = f"md5('agent' || n %% {AGENTS})::uuid"
_USER: Final = f"md5('user' || n / {SESSIONS_OF_USER})::uuid"
_IS_LIVE: Final = "n %% 10 = 0"
# Spread over all of the sessions.
_IS_DUE: Final = f"{_IS_LIVE} AND n > %(due_after)s"
_OPEN: Final = "(n %% %(open_each)s = 0)::integer"
_FAILED: Final = "(n %% %(open_each)s = 20)::integer"
# Sessions of an agent with a retention of its own.
_IS_KEPT: Final = "n %% 10 = 1"
_CREATED: Final = f"%(begin)s + n * {STEP_MS}"
_EXPIRES: Final = (
    f"CASE WHEN {_IS_DUE} THEN %(now)s - {HOUR_MS} + n / 1000 "
    f"WHEN {_IS_LIVE} THEN %(now)s + {24 * HOUR_MS} + n ELSE {_CREATED} + {HOUR_MS} END"
)
_STATES: Final = (
    f"CASE WHEN m = {MESSAGES - 1} AND {_OPEN} = 1 THEN 'pending' "
    f"WHEN m = {MESSAGES - 1} AND {_FAILED} = 1 THEN 'failed' ELSE 'answered' END"
)
_STATEMENTS: Final = {
    "agents": "INSERT INTO agents (id, name, kind, created_at_ms, updated_at_ms, tenant) SELECT "
    f"md5('agent' || n)::uuid, 'agent ' || n, 'stream', n, n, '' FROM generate_series(0, {AGENTS - 1}) AS n",
    "sessions": (
        f"INSERT INTO sessions SELECT {SESSION_ID}, md5('c' || n)::uuid, {_AGENT}, {_USER}, "
        f"'t' || (n / {SESSIONS_OF_USER}) %% {TENANTS}, '{{}}', 60, true, 1440, 5, {_CREATED}, {_CREATED}, "
        f"{_CREATED}, {_EXPIRES}, 0, true, NOT ({_IS_LIVE}), {MESSAGES} - {_OPEN} - {_FAILED}, "
        f"{_CREATED} + {MESSAGES}, {_OPEN}, {MESSAGES * 32}, {_FAILED}, "
        f"CASE WHEN {_IS_KEPT} THEN {HOUR_MS} END, CASE WHEN {_IS_LIVE} THEN {_EXPIRES} END, "
        f"CASE WHEN NOT ({_IS_LIVE} OR {_IS_KEPT}) THEN {_EXPIRES} END, "
        f"CASE WHEN {_IS_KEPT} THEN {_EXPIRES} + {HOUR_MS} END FROM generate_series(1, %(sessions)s) AS n"
    ),
    "log": (
        "INSERT INTO log (session_id, sequence, at_ms, kind, expires_at_ms, renewal_count, was_renewed, "
        "is_near_expiration, size, message_id, is_agent, content, metadata, answers) "
        f"SELECT {SESSION_ID}, m, {_CREATED} + m, 'message', {_EXPIRES}, 0, true, false, 32, "
        "md5(n || '-' || m)::uuid::text, m %% 2 = 0, 'What a message says, about ' || m, '{}', "
        "CASE WHEN m %% 2 = 0 THEN m - 1 END "
        f"FROM generate_series(1, %(sessions)s) AS n, generate_series(1, {MESSAGES}) AS m "
        # An open or failed message has no reply.
        f"WHERE NOT (m = {MESSAGES} AND {_OPEN} + {_FAILED} > 0)"
    ),
    "deliveries": (
        "INSERT INTO deliveries (session_id, sequence, agent_id, state, attempts, due_at_ms, "
        f"lost_connections, head_due_ms) SELECT {SESSION_ID}, m, {_AGENT}, {_STATES}, 1, "
        f"CASE WHEN {_STATES} = 'pending' THEN {_CREATED} END, 0, "
        f"CASE WHEN {_STATES} = 'pending' THEN {_CREATED} END "
        f"FROM generate_series(1, %(sessions)s) AS n, generate_series(1, {MESSAGES}, 2) AS m"
    ),
    "requests": (
        "INSERT INTO requests (scope, id, fingerprint, answer, created_at_ms, session_id) "
        f"SELECT 'session:' || {SESSION_ID}, 'r' || n, 'f', '1', {_CREATED}, {SESSION_ID} "
        "FROM generate_series(1, %(sessions)s) AS n"
    ),
    "session_counts": (
        "INSERT INTO session_counts (state, agent_id, user_id, tenant, lane, sessions) "
        f"SELECT state, agent_id, user_id, tenant, 0, count(*) FROM ({COUNTED}) AS counted "
        "GROUP BY state, agent_id, user_id, tenant"
    ),
}


def fill(url: str, sessions: int, now_ms: int) -> None:
    """Makes a store with so many sessions, from an empty database. Raises psycopg.Error, StoreOpenError."""
    prepare(Place(url))
    values = {
        "sessions": sessions,
        "now": now_ms,
        "begin": now_ms - 48 * HOUR_MS - sessions * STEP_MS,
        "due_after": sessions - min(DUE, sessions // 25) * 10,
        # A multiple of twenty: of live sessions of the first agent.
        "open_each": max(sessions // OPEN // 20, 2) * 20,
    }
    with psycopg.connect(url, autocommit=True) as link:
        link.execute("SET maintenance_work_mem = '256MB'")
        for table, statement in _STATEMENTS.items():
            _load(link, table, statement, values)
        link.execute("VACUUM ANALYZE")
        link.execute("CHECKPOINT")


def _load(link: "psycopg.Connection[Any]", table: str, statement: str, values: dict[str, int]) -> None:
    """Fills a table without its indexes, and makes these then: a third of the time."""
    indexes = link.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = %s AND indexname NOT LIKE '%%_pkey'",
        [table],
    ).fetchall()
    for name, _ in indexes:
        link.execute(f"DROP INDEX {name}".encode())
    # Its parameters are put into it: they stand in places where a server could not tell their types.
    psycopg.ClientCursor(link).execute(statement.encode(), values)
    for _, definition in indexes:
        link.execute(definition.encode())
