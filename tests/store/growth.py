"""`python -m tests.store.growth`: the steps of SQLite that each operation of the store takes, in small worlds
and in large ones.

A world has much of one thing: sessions, say, or messages of one session. Steps are those of SQLite's virtual
machine, on all connections of the store, so that the machine's speed and its other work make no difference.
"""

import argparse
import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest.mock import AsyncMock, Mock

from eliza.sessions.v1 import (
    admin_service_pb2,
    agent_pb2,
    agent_service_pb2,
    message_service_pb2,
    session_service_pb2,
    timeout_pb2,
    user_data_service_pb2,
)
from server.access.session_tokens import SessionTokens
from server.agents.stream import StreamWorkers
from server.clock import TestClock
from server.delivery.statuses import AgentStatuses
from server.domain.access import EVERYTHING, Scope
from server.domain.deliveries import OPEN_STATES, DeliveryState
from server.domain.errors import SessionNotFoundError
from server.domain.idempotency import RequestKey
from server.domain.messages import Draft, Reply
from server.domain.quotas import UserQuota
from server.domain.replies import lease
from server.domain.sessions import Outcome, Session, heartbeat
from server.lifecycle.watches import Watches
from server.rpc.admin_service import AdminService
from server.rpc.agent_service import AgentService
from server.rpc.call import Call
from server.rpc.encoding import Entries
from server.rpc.message_service import MessageService
from server.rpc.parts import Parts, looks_at
from server.rpc.session_service import SessionService
from server.rpc.user_data_service import UserDataService
from server.rpc.watch_streams import WatchStreams
from server.settings import Settings
from server.store.gauges import read_store_gauges
from server.store.sqlite.check import COUNTED
from server.store.sqlite.store import SqliteStore
from server.store.values import SessionFilter
from server.telemetry.recorder import Recorder
from tests.store.conformance.common import (
    RETRIES,
    again,
    agent,
    answer,
    expire,
    give_up,
    respond,
    say,
    take,
)
from tests.support.inside_sqlite import read_connections, write_connection
from tests.unit.samples import AGENT, MINUTE, POLICY, T0, USER, put, session

NOW_MS: Final = T0 + 60 * MINUTE
"""When the operations are called. Sessions from T0 have expired by then."""

_ID: Final = "printf('%08x-0000-4000-8000-{}', n)"


@dataclass
class World:
    """A store that is full of something, and a session in it that the operations are called on."""

    store: SqliteStore
    clock: TestClock
    one: Session
    other: Session
    sent: int = 0
    """The sequence of the message that was sent to `one` last."""


def connections(store: SqliteStore) -> list[sqlite3.Connection]:
    """All connections of a store."""
    return [*read_connections(store), write_connection(store)]


def _clone(connection: sqlite3.Connection, table: str, count: int, where: str, **changes: str) -> None:
    """Adds copies of a row, numbered `n` from 1, with other values in some columns."""
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    connection.execute(
        f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count}) "
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT "
        f"{', '.join(changes.get(column, column) for column in columns)} "
        f"FROM numbers CROSS JOIN {table} WHERE {where}"
    )


async def _add_sessions(world: World, count: int, model: Session) -> None:
    connection = write_connection(world.store)
    changes = {
        "id": _ID.format("00000000000a"),
        "channel_id": _ID.format("00000000000b"),
        "created_at_ms": "created_at_ms - n",
    }
    _clone(connection, "sessions", count, f"id = '{model.id}'", **changes)
    _clone(connection, "log", count, f"session_id = '{model.id}'", session_id=_ID.format("00000000000a"))


async def add_live(world: World, count: int) -> None:
    await _add_sessions(world, count, world.other)


async def add_due(world: World, count: int) -> None:
    model = session(T0)
    await put(world.store, model)
    await _add_sessions(world, count, model)


async def add_expired(world: World, count: int) -> None:
    model = session(T0)
    await put(world.store, model)
    await world.store.apply(model.id, expire, scope=EVERYTHING)
    await _add_sessions(world, count, model)


async def _add_entries(world: World, count: int) -> None:
    """Repeats what is in the log of `one`, with its deliveries."""
    connection, where = write_connection(world.store), f"session_id = '{world.one.id}'"
    last = (await world.store.get_session(world.one.id, scope=EVERYTHING)).last_sequence
    further = f"sequence + {last} * n"
    failure = f"json_set(failure, '$.message_sequence', failure ->> 'message_sequence' + {last} * n)"
    changes = {"at_ms": f"at_ms + {last} * n", "message_id": "message_id || '-' || n", "failure": failure}
    _clone(connection, "log", count, where, sequence=further, answers=f"answers + {last} * n", **changes)
    _clone(connection, "deliveries", count, where, sequence=further)
    total = last * (count + 1)
    connection.execute(
        f"UPDATE sessions SET last_sequence = {total}, last_entry_ms = last_entry_ms + {total - last}, "
        f"open_deliveries = open_deliveries * {count + 1}, "
        f"failed_deliveries = failed_deliveries * {count + 1} WHERE id = '{world.one.id}'"
    )


async def add_messages(world: World, count: int) -> None:
    await world.store.apply(world.one.id, say(), scope=EVERYTHING)
    await world.store.apply(world.one.id, answer(Reply(Draft("r"))), scope=EVERYTHING)
    await _add_entries(world, count)


async def add_failures(world: World, count: int) -> None:
    await world.store.apply(world.one.id, say(), scope=EVERYTHING)
    await world.store.apply_delivery(world.one.id, 1, give_up, scope=EVERYTHING)
    await _add_entries(world, count)


async def add_unanswered(world: World, count: int) -> None:
    await world.store.apply(world.one.id, say(), scope=EVERYTHING)
    await _add_entries(world, count)


async def add_due_deliveries(world: World, count: int) -> None:
    """Sessions of the agent, each with a message that may be given."""
    # Before all others, so that what comes behind the rows of `one` is the same in every world.
    model = session(NOW_MS, session_id=f"{0:08x}-0000-4000-8000-00000000000a")
    await put(world.store, model)
    await world.store.apply(model.id, say(), scope=EVERYTHING)
    await _add_sessions(world, count, model)
    connection, new_id = write_connection(world.store), _ID.format("00000000000a")
    _clone(connection, "deliveries", count, f"session_id = '{model.id}'", session_id=new_id)


async def add_resting(world: World, count: int) -> None:
    """The same, but they rest after a failed attempt, for much longer than the operations look."""
    await add_due_deliveries(world, count)
    connection = write_connection(world.store)
    for statement in (
        f"UPDATE deliveries SET attempts = 1, due_at_ms = {NOW_MS + 10 * MINUTE}",
        f"UPDATE sessions SET head_due_ms = {NOW_MS + 10 * MINUTE} WHERE head_due_ms IS NOT NULL",
    ):
        connection.execute(statement)


async def add_renewals(world: World, count: int) -> None:
    await world.store.apply(world.one.id, heartbeat, scope=EVERYTHING)
    await _add_entries(world, count)


async def add_requests(world: World, count: int) -> None:
    scope = f"session:{world.one.id}"
    await world.store.apply(world.one.id, say(), RequestKey(scope, "model", "content"), scope=EVERYTHING)
    _clone(write_connection(world.store), "requests", count, "id = 'model'", id="'model ' || n")


async def add_agents(world: World, count: int) -> None:
    await world.store.create_agent(agent(2))
    changes = {"id": _ID.format("00000000000c"), "created_at_ms": "created_at_ms + n"}
    _clone(write_connection(world.store), "agents", count, f"id = '{agent(2).id}'", **changes)


WORLDS: Final[dict[str, Callable[[World, int], Awaitable[None]]]] = {
    "sessions": add_live,
    "expired": add_expired,
    "due": add_due,
    "agents": add_agents,
    "messages": add_messages,
    "failures": add_failures,
    "unanswered": add_unanswered,
    "due deliveries": add_due_deliveries,
    "resting": add_resting,
    "renewals": add_renewals,
    "requests": add_requests,
}
"""What there is much of: sessions that live, have expired, or have yet to be told so; agents; and the rest in
one session.
"""


async def _look_for_nobodys(world: World) -> None:
    with suppress(SessionNotFoundError):
        await world.store.get_session(_ID.format("0000000000ff"), scope=EVERYTHING)


async def _send(world: World) -> None:
    """With a new request id."""
    outcome = await world.store.apply(
        world.one.id, say(), RequestKey("growth", f"after {world.sent}", "content"), scope=EVERYTHING
    )
    world.sent = outcome.session.last_sequence


async def _fail(world: World) -> None:
    await _send(world)
    await world.store.apply_delivery(world.one.id, world.sent, take, scope=EVERYTHING)
    await world.store.apply_delivery(world.one.id, world.sent, give_up, scope=EVERYTHING)


async def _search(world: World, **wanted: Any) -> None:
    await world.store.search_sessions(NOW_MS, SessionFilter(**wanted), scope=EVERYTHING, limit=50)


def _sessions_rpc(world: World) -> SessionService:
    class Health:
        is_serving = True

    streams = WatchStreams(world.store, world.clock, Watches(), Entries(), 1)
    tokens = SessionTokens(world.clock.now_ms)
    return SessionService(
        world.store,
        world.clock,
        POLICY,
        Health(),  # type: ignore[arg-type]
        streams,
        tokens=tokens,
        token_seconds=900,
    )


def _agents_rpc(world: World) -> AgentService:
    # What checks agents and delivers to them asks the store nothing here.
    return AgentService(world.store, world.clock, AsyncMock(check=Mock(), workers=Mock()), Mock(), 1)


def _admin_rpc(world: World) -> AdminService:
    statuses = AgentStatuses()
    dispatcher: Any = Mock(statuses=statuses, in_hand=Mock(return_value={}))
    health: Any = Mock(is_serving=True)
    watched: Any = Mock(trouble="", lag_ms=Mock(return_value=0))
    authentication: Any = Mock(list_troubles=Mock(return_value=[]))
    looks = looks_at(world.store, health, watched, watched, authentication, statuses, {})
    recorder = Recorder()
    recorder.add_probe(partial(read_store_gauges, world.store))
    return AdminService(
        world.store,
        world.clock,
        Settings(max_open_deliveries=10**6),
        dispatcher=dispatcher,
        workers=StreamWorkers(),
        parts=Parts(looks, world.clock.now_ms),
        recorder=recorder,
        started_at_ms=NOW_MS,
    )


async def _redeliver(world: World) -> None:
    """Has a message delivered anew that has failed, and is looked for."""
    await _fail(world)
    failed = await world.store.list_deliveries(world.one, limit=1, state=frozenset([DeliveryState.FAILED]))
    await _admin_rpc(world).RedeliverMessage(
        admin_service_pb2.RedeliverMessageRequest(
            session_id=world.one.id, message_id=failed.deliveries[0].message_id
        ),
        Call(None),
    )


def _messages_rpc(world: World) -> MessageService:
    return MessageService(world.store, world.clock, Mock(), Entries(), 1, 10**9)


def _new_agent() -> agent_pb2.Agent:
    return agent_pb2.Agent(agent_id=agent(6).id, name="x", kind=agent_pb2.AGENT_KIND_ECHO)


_CLAIM: Final = partial(lease, lease_ms=5000, policy=RETRIES)
"""As the dispatcher leases."""

OPERATIONS: Final[dict[str, Callable[[World], Awaitable[Any]]]] = {
    "get_session": lambda w: w.store.get_session(w.one.id, scope=EVERYTHING),
    "find_channel": lambda w: w.store.find_channel(w.one.channel_id, scope=EVERYTHING),
    "list_sessions": lambda w: w.store.list_sessions(NOW_MS, limit=100, scope=EVERYTHING),
    "list_sessions of an agent": lambda w: w.store.list_sessions(
        NOW_MS, limit=100, agent_id=AGENT, scope=EVERYTHING
    ),
    "list_sessions of a user": lambda w: w.store.list_sessions(
        NOW_MS, limit=100, user_id=USER, scope=EVERYTHING
    ),
    "list_sessions of both": lambda w: w.store.list_sessions(
        NOW_MS, limit=100, agent_id=AGENT, user_id=USER, scope=EVERYTHING
    ),
    "list_sessions of a tenant": lambda w: w.store.list_sessions(NOW_MS, limit=100, scope=Scope("")),
    "list_sessions of a tenant's user": lambda w: w.store.list_sessions(
        NOW_MS, limit=100, scope=Scope("", USER)
    ),
    "list_sessions of another tenant": lambda w: w.store.list_sessions(
        NOW_MS, limit=100, user_id=USER, scope=Scope("other")
    ),
    "list_user_sessions": lambda w: w.store.list_user_sessions(USER, scope=EVERYTHING, limit=100),
    "get_session, nobody's": _look_for_nobodys,
    "get_session in a scope": lambda w: w.store.get_session(w.one.id, scope=Scope("", USER)),
    "find_channel in a scope": lambda w: w.store.find_channel(w.one.channel_id, scope=Scope("", USER)),
    "list_entries in a scope": lambda w: w.store.list_entries(
        w.one.id, after_sequence=50, limit=100, scope=Scope("", USER)
    ),
    "find_answer in a scope": lambda w: w.store.find_answer(w.one.id, 1, scope=Scope("", USER)),
    "counts of a user": lambda w: w.store.counts(scope=Scope("", USER)),
    "list_agents of a tenant": lambda w: w.store.list_agents(limit=100, scope=Scope("other")),
    "list_messages": lambda w: w.store.list_messages(w.one, limit=50),
    "list_messages after": lambda w: w.store.list_messages(w.one, limit=50, after_ms=NOW_MS + 50),
    "list_entries": lambda w: w.store.list_entries(w.one.id, after_sequence=50, limit=100, scope=EVERYTHING),
    "list_history before the last": lambda w: w.store.list_history(w.one, before_sequence=10**9, limit=20),
    "list_history before the first": lambda w: w.store.list_history(w.one, before_sequence=1, limit=20),
    "count_history": lambda w: w.store.count_history(w.one, before_sequence=10**9, limit=20),
    "find_answer": lambda w: w.store.find_answer(w.one.id, 1, scope=EVERYTHING),
    "find_answer where none is": lambda w: w.store.find_answer(w.one.id, 10**9, scope=EVERYTHING),
    "lease_due, read only": lambda w: w.store.lease_due(AGENT, NOW_MS + 1, 20, [w.other.id]),
    "lease_due, where none is": lambda w: w.store.lease_due(USER, NOW_MS, 20),
    "lease_due, written": lambda w: w.store.lease_due(AGENT, NOW_MS + 1, 1, [], _CLAIM),
    "next_delivery_ms": lambda w: w.store.next_delivery_ms(AGENT, [w.one.id, w.other.id]),
    "count_open": lambda w: w.store.count_open(),
    "oldest_open_ms": lambda w: w.store.oldest_open_ms(),
    "measure": lambda w: w.store.measure(),
    "describe": lambda w: w.store.describe(),
    "counts": lambda w: w.store.counts(scope=EVERYTHING),
    "apply_due": lambda w: w.store.apply_due(lambda start, now_ms: Outcome(start), NOW_MS, 256),
    "next_due_ms": lambda w: w.store.next_due_ms(),
    "get_agent": lambda w: w.store.get_agent(AGENT, scope=EVERYTHING),
    "list_agents": lambda w: w.store.list_agents(limit=100, scope=EVERYTHING),
    "rpc ListSessions": lambda w: _sessions_rpc(w).ListSessions(
        session_service_pb2.ListSessionsRequest(), Call(None)
    ),
    "rpc GetServiceStatus": lambda w: _sessions_rpc(w).GetServiceStatus(
        session_service_pb2.GetServiceStatusRequest(), Call(None)
    ),
    "rpc GetSession": lambda w: _sessions_rpc(w).GetSession(
        session_service_pb2.GetSessionRequest(session_id=w.one.id), Call(None)
    ),
    "rpc CreateSession": lambda w: _sessions_rpc(w).CreateSession(
        session_service_pb2.CreateSessionRequest(agent_id=AGENT, user_id=USER, request_id="growth"),
        Call(None),
    ),
    "rpc CreateAccessToken": lambda w: _sessions_rpc(w).CreateAccessToken(
        session_service_pb2.CreateAccessTokenRequest(session_id=w.one.id), Call(None)
    ),
    "rpc ListUserSessions": lambda w: UserDataService(w.store, w.clock).ListUserSessions(
        user_data_service_pb2.ListUserSessionsRequest(user_id=USER), Call(None)
    ),
    "rpc SendHeartbeat": lambda w: _sessions_rpc(w).SendHeartbeat(
        session_service_pb2.SendHeartbeatRequest(session_id=w.one.id), Call(None)
    ),
    "rpc RenewSession": lambda w: _sessions_rpc(w).RenewSession(
        session_service_pb2.RenewSessionRequest(session_id=w.one.id), Call(None)
    ),
    "rpc UpdateTimeout": lambda w: _sessions_rpc(w).UpdateTimeout(
        session_service_pb2.UpdateTimeoutRequest(
            session_id=w.one.id, timeout_config=timeout_pb2.TimeoutConfig(auto_renew=True)
        ),
        Call(None),
    ),
    "rpc SendMessage": lambda w: _messages_rpc(w).SendMessage(
        message_service_pb2.SendMessageRequest(session_id=w.one.id, content="x", request_id="growth"),
        Call(None),
    ),
    "rpc ListMessages": lambda w: _messages_rpc(w).ListMessages(
        message_service_pb2.ListMessagesRequest(session_id=w.one.id), Call(None)
    ),
    "rpc CreateAgent": lambda w: _agents_rpc(w).CreateAgent(
        agent_service_pb2.CreateAgentRequest(agent=_new_agent()), Call(None)
    ),
    "rpc GetAgent": lambda w: _agents_rpc(w).GetAgent(
        agent_service_pb2.GetAgentRequest(agent_id=AGENT), Call(None)
    ),
    "rpc UpdateAgent": lambda w: _agents_rpc(w).UpdateAgent(
        agent_service_pb2.UpdateAgentRequest(agent=_new_agent()), Call(None)
    ),
    "rpc DeleteAgent": lambda w: _agents_rpc(w).DeleteAgent(
        agent_service_pb2.DeleteAgentRequest(agent_id=agent(6).id), Call(None)
    ),
    "rpc ListAgents": lambda w: _agents_rpc(w).ListAgents(agent_service_pb2.ListAgentsRequest(), Call(None)),
    "rpc GetOverview": lambda w: _admin_rpc(w).GetOverview(
        admin_service_pb2.GetOverviewRequest(), Call(None)
    ),
    "rpc GetSystem": lambda w: _admin_rpc(w).GetSystem(admin_service_pb2.GetSystemRequest(), Call(None)),
    "rpc SearchSessions": lambda w: _admin_rpc(w).SearchSessions(
        admin_service_pb2.SearchSessionsRequest(), Call(None)
    ),
    "rpc ListDeliveries": lambda w: _admin_rpc(w).ListDeliveries(
        admin_service_pb2.ListDeliveriesRequest(session_id=w.one.id), Call(None)
    ),
    "rpc GetAgentActivity": lambda w: _admin_rpc(w).GetAgentActivity(
        admin_service_pb2.GetAgentActivityRequest(agent_id=AGENT), Call(None)
    ),
    "rpc RedeliverMessage": _redeliver,
    "create_session": lambda w: put(w.store, session(NOW_MS), RequestKey("growth", "create", "content")),
    "create_session with a quota": lambda w: w.store.create_session(
        AGENT, lambda of, now_ms: session(NOW_MS), scope=EVERYTHING, of=UserQuota(USER, "", 10**9)
    ),
    "apply, a message": _send,
    "apply, again": lambda w: w.store.apply(
        w.one.id, say(), RequestKey("growth", "after 0", "content"), scope=EVERYTHING
    ),
    "apply, a heartbeat": lambda w: w.store.apply(w.one.id, heartbeat, scope=EVERYTHING),
    "apply_delivery, a lease": lambda w: w.store.apply_delivery(w.one.id, w.sent, take, scope=EVERYTHING),
    "apply_delivery, a reply": lambda w: w.store.apply_delivery(
        w.one.id, w.sent, respond(), scope=EVERYTHING
    ),
    "apply_delivery, a failure": _fail,
    "apply_delivery, anew": lambda w: w.store.apply_delivery(w.one.id, w.sent, again, scope=EVERYTHING),
    "search_sessions": lambda w: _search(w),
    "search_sessions, live": lambda w: _search(w, is_expired=False),
    "search_sessions, expired": lambda w: _search(w, is_expired=True),
    "search_sessions of an agent": lambda w: _search(w, agent_id=AGENT),
    "search_sessions of a user": lambda w: _search(w, user_id=USER),
    "search_sessions of both": lambda w: _search(w, agent_id=AGENT, user_id=USER),
    "search_sessions created long ago": lambda w: _search(w, created_before_ms=T0 - 10**9),
    "search_sessions by an id": lambda w: _search(w, id_prefix=f"{1:08x}-0000-4000-8000-00000000000a"),
    "search_sessions by the beginning of many ids": lambda w: _search(w, id_prefix="0000"),
    "list_deliveries": lambda w: w.store.list_deliveries(w.one, limit=50, state=frozenset(DeliveryState)),
    "list_deliveries that are open": lambda w: w.store.list_deliveries(
        w.one, limit=50, state=frozenset(OPEN_STATES)
    ),
    "list_deliveries that have failed": lambda w: w.store.list_deliveries(
        w.one, limit=50, state=frozenset([DeliveryState.FAILED])
    ),
    "list_deliveries that are answered": lambda w: w.store.list_deliveries(
        w.one, limit=50, state=frozenset([DeliveryState.ANSWERED])
    ),
    "list_agent_deliveries": lambda w: w.store.list_agent_deliveries(
        AGENT, scope=EVERYTHING, limit=50, failed=False
    ),
    "list_agent_deliveries that have failed": lambda w: w.store.list_agent_deliveries(
        AGENT, scope=EVERYTHING, limit=50, failed=True
    ),
    "list_agent_deliveries that have failed, of a tenant": lambda w: w.store.list_agent_deliveries(
        AGENT, scope=Scope(""), limit=50, failed=True
    ),
    "find_message": lambda w: w.store.find_message(w.one, "nobody's"),
    "describe_queue": lambda w: w.store.describe_queue(AGENT, scope=EVERYTHING),
    "describe_queue of a tenant": lambda w: w.store.describe_queue(AGENT, scope=Scope("")),
    "last_runs": lambda w: w.store.last_runs(),
    "seed_agent": lambda w: w.store.seed_agent(agent(3)),
    "create_agent": lambda w: w.store.create_agent(agent(4)),
    "create_agent with a quota": lambda w: w.store.create_agent(agent(7, tenant="own"), most=3),
    "update_agent": lambda w: w.store.update_agent(AGENT, lambda stored, now_ms: stored, scope=EVERYTHING),
    "delete_agent": lambda w: w.store.delete_agent(agent(4).id, scope=EVERYTHING),
    "check_writable": lambda w: w.store.check_writable(),
    "forget_requests": lambda w: w.store.forget_requests(NOW_MS, 500),
    "purge": lambda w: w.store.purge(NOW_MS, 500),
    "shrink": lambda w: w.store.shrink(),
    "apply, an expiry": lambda w: w.store.apply(w.one.id, expire, scope=EVERYTHING),
    "delete_session": lambda w: w.store.delete_session(w.one.id, scope=EVERYTHING),
    "rpc DeleteSession": lambda w: _sessions_rpc(w).DeleteSession(
        session_service_pb2.DeleteSessionRequest(session_id=w.other.id), Call(None)
    ),
    "erase_user": lambda w: w.store.erase_user(USER, scope=EVERYTHING, limit=100),
    "erase_user in a scope": lambda w: w.store.erase_user(USER, scope=Scope(""), limit=100),
    "finish_erasure": lambda w: w.store.finish_erasure(),
    "clear_sessions": lambda w: w.store.clear_sessions(),
}
"""A call of each operation, in an order in which they can be carried out one after the other."""

MAY_GROW: Final = {
    ("clear_sessions", ""): "it removes everything",
    ("delete_session", ""): "it removes 256 rows of the session at most; the purge takes the rest",
    ("rpc DeleteSession", ""): "as delete_session",
    ("count_open", "resting"): "it reads all sessions with open deliveries, once at the start, off the loop",
    ("count_open", "due deliveries"): "as above",
    ("oldest_open_ms", "resting"): "as above, and the first message of each",
    ("oldest_open_ms", "due deliveries"): "as above",
    (
        "apply, an expiry",
        "unanswered",
    ): "the open deliveries of a session end with it; MAX_OPEN_DELIVERIES bounds them",
    ("forget_requests", ""): "as the purge",
    ("erase_user", ""): "as the purge; it counts what it removes",
    ("erase_user in a scope", ""): "as above",
    ("purge", ""): "a step removes as many rows as it can in 5 ms, and its limit at most",
}
"""Operations whose steps may grow, in one world or (empty) in all of them, and why."""


@asynccontextmanager
async def make_world(directory: Path, name: str, count: int) -> AsyncIterator[World]:
    """Opens a new store that has so much of something."""
    clock = TestClock()
    clock.set_ms(NOW_MS)
    store = await SqliteStore.open(directory / f"{name}-{count}.db", clock)
    try:
        one, other = session(NOW_MS), session(NOW_MS)
        await store.create_agent(replace(agent(5), id=AGENT))
        for new in (one, other):
            await put(store, new)
        world = World(store, clock, one, other)
        await WORLDS[name](world, count)
        connection = write_connection(store)
        connection.execute("DELETE FROM session_counts")
        connection.execute(
            f"INSERT INTO session_counts SELECT state, agent_id, user_id, tenant, count(*) "
            f"FROM ({COUNTED}) GROUP BY state, agent_id, user_id, tenant"
        )
        # After work that may change any session, the writer reads them anew.
        await store.purge(0, 1)
        yield world
    finally:
        await store.close()


async def count_steps(world: World) -> dict[str, int]:
    """Calls every operation once; returns how many steps each took."""
    taken: dict[str, int] = {}

    def count(name: str) -> int:
        taken[name] += 1
        return 0

    for name, operation in OPERATIONS.items():
        taken[name] = 0
        for connection in connections(world.store):
            connection.set_progress_handler(partial(count, name), 1)
        await operation(world)
    return taken


async def measure(name: str, count: int) -> dict[str, int]:
    """The steps of every operation in a world of its own."""
    with tempfile.TemporaryDirectory() as directory:
        async with make_world(Path(directory), name, count) as world:
            return await count_steps(world)


def has_grown(operation: str, world: str, small: int, large: int) -> bool:
    """Whether an operation takes more steps in the large world than it may."""
    is_known = (operation, world) in MAY_GROW or (operation, "") in MAY_GROW
    return large > 1.1 * small and not is_known


async def _print_table(small: int, large: int, worlds: list[str]) -> int:
    """Prints the steps in the large world, or those in both where there are more; returns how many operations
    have grown.
    """
    found = {name: (await measure(name, small), await measure(name, large)) for name in worlds}
    print(
        f"Steps where there are {large:,}; where they are more than 1.1 times those of {small:,}, both. "
        "(grows): see MAY_GROW.\n"
    )
    print("| operation | " + " | ".join(worlds) + " |")
    print("| --- |" + " ---: |" * len(worlds))
    grown = 0
    for operation in OPERATIONS:
        cells = []
        for name in worlds:
            before, after = found[name][0][operation], found[name][1][operation]
            cell = f"{after:,}"
            if after > 1.1 * before:
                is_wrong = has_grown(operation, name, before, after)
                grown += is_wrong
                cell = f"{before:,} → {after:,} ({'GROWS' if is_wrong else 'grows'})"
            cells.append(cell)
        print(f"| {operation} | " + " | ".join(cells) + " |")
    return grown


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.store.growth", description=__doc__)
    parser.add_argument(
        "--small", type=int, default=1000, help="how much there is of each thing in the small worlds"
    )
    parser.add_argument("--large", type=int, default=100_000, help="and in the large ones")
    parser.add_argument(
        "--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS), help="of what there is much"
    )
    wanted = parser.parse_args()
    grown = asyncio.run(_print_table(wanted.small, wanted.large, wanted.worlds))
    if grown:
        raise SystemExit(f"{grown} operations take more steps the more there is")


if __name__ == "__main__":
    main()
