"""Lists of the sessions of all tenants: as cheap as one needs who has very many."""

import asyncio
import random
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.sessions import Session
from server.store.sqlite.ranges import in_order
from server.store.sqlite.store import SqliteStore
from server.store.values import SessionFilter
from tests.support.inside_sqlite import read_connections
from tests.unit.samples import T0, USER, put, session

TENANTS = 60
NEWEST = 25

Call = Callable[[SqliteStore], Awaitable[Any]]

CALLS: dict[str, tuple[bool, Call]] = {
    "search": (True, lambda s: s.search_sessions(T0, SessionFilter(), scope=EVERYTHING, limit=NEWEST)),
    "list": (False, lambda s: s.list_sessions(T0, scope=EVERYTHING, limit=NEWEST)),
    "of a user": (True, lambda s: s.list_user_sessions(USER, scope=EVERYTHING, limit=NEWEST)),
}
"""Each with whether the newest come first."""


@pytest.mark.parametrize("name", CALLS)
async def test_a_statement_is_compiled_once_for_all_tenants(tmp_path: Path, name: str) -> None:
    clock = TestClock()
    clock.set_ms(T0)
    store = await SqliteStore.open(tmp_path / "store.db", clock)
    made: list[Session] = [
        session(T0 + number)._replace(tenant=f"tenant {number % TENANTS}") for number in range(3 * TENANTS)
    ]
    await asyncio.gather(*map(partial(put, store), made))
    compiled = 0

    def count(action: int, *_: object) -> int:
        nonlocal compiled
        compiled += action == sqlite3.SQLITE_SELECT
        return sqlite3.SQLITE_OK

    for connection in read_connections(store):
        connection.set_authorizer(count)
    newest_first, call = CALLS[name]
    page = await call(store)
    expected = sorted(made, key=lambda one: one.created_at_ms, reverse=newest_first)[:NEWEST]
    assert [one.id for one in page.sessions] == [one.id for one in expected]
    assert compiled < TENANTS / 3
    await store.close()


@pytest.mark.parametrize("newest_first", [True, False])
def test_ranges_of_any_length_are_one_list(newest_first: bool) -> None:
    choose = random.Random(3)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE sessions (tenant, created_at_ms, id)")
        sizes = [choose.choice([0, 1, 5, 21, 22, 85, 200]) for _ in range(20)]
        stored = [
            (str(tenant), choose.randrange(99), f"{tenant} {number}")
            for tenant, size in enumerate(sizes)
            for number in range(size)
        ]
        connection.executemany("INSERT INTO sessions VALUES (?, ?, ?)", stored)
        sign, order = ("<", "DESC") if newest_first else (">", "ASC")
        statement = (
            "SELECT created_at_ms, id FROM sessions WHERE tenant = :tenant AND (created_at_ms, id) "
            f"{sign} (:created_at_ms, :id) ORDER BY created_at_ms {order}, id {order}"
        )
        start = {"created_at_ms": 100 if newest_first else -1, "id": ""}
        ranges = [(statement, {**start, "tenant": str(tenant)}) for tenant in range(len(sizes))]
        with in_order(connection, ranges, itemgetter(0, 1), newest_first=newest_first) as found:
            assert list(found) == sorted([one[1:] for one in stored], reverse=newest_first)
        # One that is left halfway leaves no transaction behind.
        with in_order(connection, ranges, itemgetter(0, 1), newest_first=newest_first) as found:
            next(found)
        assert not connection.in_transaction
        assert sum(sizes) > 500
