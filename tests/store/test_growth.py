"""No operation of the store costs more the more the store holds, and each statement uses the
intended index.
"""

from pathlib import Path

import pytest

from eliza.sessions.v1 import (
    admin_service_pb2,
    agent_service_pb2,
    message_service_pb2,
    session_service_pb2,
    user_data_service_pb2,
)
from server.store import rows
from server.store.contract import Store
from server.store.sqlite.check import problems
from server.store.sqlite.group import UPDATE_SESSIONS
from server.store.sqlite.items import with_rows
from tests.store import plans
from tests.store.growth import MAY_GROW, OPERATIONS, WORLDS, count_steps, has_grown, make_world, measure
from tests.support.inside_sqlite import read_connections, write_connection

SMALL = 1000


def grown(name: str, small: dict[str, int], large: dict[str, int]) -> dict[str, tuple[int, int]]:
    """The operations that take more steps in a large world than they may, with both numbers."""
    return {
        one: (small[one], large[one]) for one in OPERATIONS if has_grown(one, name, small[one], large[one])
    }


@pytest.mark.parametrize("name", WORLDS)
async def test_no_operation_takes_more_steps_the_more_there_is(name: str) -> None:
    assert grown(name, await measure(name, SMALL), await measure(name, 3 * SMALL)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
async def test_no_operation_takes_more_steps_where_there_is_very_much(name: str) -> None:
    assert grown(name, await measure(name, SMALL), await measure(name, 100 * SMALL)) == {}


def test_every_public_operation_is_called() -> None:
    called = {name.split(",")[0].split()[0] for name in OPERATIONS if not name.startswith("rpc ")}
    assert called == Store.__abstractmethods__ - {"add_listener", "close"}
    assert {operation for operation, _ in MAY_GROW} <= set(OPERATIONS)


def test_every_call_of_the_api_is_made() -> None:
    calls = {
        method.name
        for module in (
            session_service_pb2,
            message_service_pb2,
            agent_service_pb2,
            user_data_service_pb2,
            admin_service_pb2,
        )
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if not (method.client_streaming or method.server_streaming)
    }
    # A reply is an `apply_delivery`. Streams read by `list_entries` and `find_answer`.
    others = {"Reply"}
    assert {name.removeprefix("rpc ") for name in OPERATIONS if name.startswith("rpc ")} == calls - others


@pytest.mark.parametrize("name", WORLDS)
async def test_a_world_is_a_store_as_the_service_leaves_it(name: str, tmp_path: Path) -> None:
    async with make_world(tmp_path, name, 20) as world:
        assert list(problems(read_connections(world.store)[0])) == []


async def test_every_statement_uses_the_intended_index(tmp_path: Path) -> None:
    explained: dict[str, list[str]] = {}
    for name in ("messages", "expired"):
        with plans.explaining() as met:
            async with make_world(tmp_path, name, 5) as world:
                met.clear()
                world.store._note_unreadable(world.one.id)
                await count_steps(world)
        explained |= met
    bad = {
        statement: steps
        for statement, plan in explained.items()
        if (steps := plans.bad_steps(statement, plan))
    }
    assert bad == {}, "a new search belongs into tests/store/plans.py, with the reason why it is bounded"
    missing = [
        place
        for place, pattern in plans.statements_in_source().items()
        if not any(map(pattern.search, explained))
    ]
    assert missing == [], "no operation of tests/store/growth.py has executed these statements"


async def test_a_message_leaves_the_indexes_of_lists_and_deadlines_alone(tmp_path: Path) -> None:
    async with make_world(tmp_path, "messages", 1) as world:
        connection = write_connection(world.store)
        columns = len(rows.SESSION_CHANGING) + 1
        statement = with_rows(UPDATE_SESSIONS, 2, columns)
        program = connection.execute(f"EXPLAIN {statement}", [None] * 2 * columns).fetchall()
        written = {step[3] for step in program if step[1] == "OpenWrite"}
        names = {
            name
            for name, page in connection.execute("SELECT name, rootpage FROM sqlite_master")
            if page in written
        }
    assert names == {"sessions", "sessions_expired", "sessions_kept"}


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM sessions WHERE renewal_count = ?1",
        "SELECT * FROM log WHERE session_id = ?1",
        "SELECT * FROM sessions WHERE expires_at_ms < ?1 ORDER BY id",
        "SELECT sequence FROM deliveries WHERE session_id = ?1 AND state = 'leased' ORDER BY attempts",
        "SELECT count(*) FROM agents WHERE ?1",
    ],
)
async def test_a_plan_that_is_bad_is_seen(tmp_path: Path, statement: str) -> None:
    with plans.explaining() as explained:
        async with make_world(tmp_path, "agents", 1) as world:
            read_connections(world.store)[0].execute(statement, (1,))
    assert plans.bad_steps(statement, explained[statement]) != []
