"""A look for what is due begins at the front of the queue, and misses nothing for long."""

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import psycopg
import pytest

from server.domain.access import EVERYTHING
from server.domain.ids import new_id
from server.domain.replies import lease
from server.store.postgres import deliveries, front
from server.store.postgres.deliveries import STATEMENTS
from server.store.postgres.store import PostgresStore
from server.store.values import OpenDelivery
from tests.store.conformance.common import RETRIES, respond, say, stumble
from tests.store.postgres.opened import RowClock, open_store
from tests.support.inside_postgres import fronts_of
from tests.support.waiting import until
from tests.unit.samples import AGENT, T0, put, session

pytestmark = pytest.mark.postgres

FAR_MS = 2**53
LONG_MS = 60_000
claim = partial(lease, lease_ms=LONG_MS, policy=RETRIES)


@pytest.fixture
async def store(database: str) -> AsyncIterator[PostgresStore]:
    store = await open_store(database)
    # Nobody waits for that long in a test: a look is a full one where the test says so.
    await store.lease_due(AGENT, FAR_MS, 1, rule=claim)
    await store.next_delivery_ms(AGENT)
    yield store
    await store.close()


@pytest.fixture(autouse=True)
def no_full_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "FULL_LOOK_SECONDS", 3600.0)


@pytest.fixture
def clock(database: str) -> Iterator[RowClock]:
    clock = RowClock(database)
    clock.set_ms(T0)
    yield clock
    clock.close()


async def sent(store: PostgresStore) -> str:
    one = session()
    await put(store, one)
    await store.apply(one.id, say(), scope=EVERYTHING)
    return one.id


async def leased(store: PostgresStore) -> list[str]:
    return [one.session.id for one in await store.lease_due(AGENT, FAR_MS, 10, rule=claim)]


async def answer(store: PostgresStore, one: OpenDelivery) -> None:
    await store.apply_delivery(one.session.id, one.delivery.sequence, respond(), scope=EVERYTHING)


def counted(link: "psycopg.Connection[Any]") -> int:
    """How many entries of the index of what is due have been read, as far as the server has counted them."""
    link.execute("SELECT pg_stat_force_next_flush()")
    link.commit()
    ((count,),) = link.execute(
        "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'deliveries_due'"
    ).fetchall()
    link.rollback()
    return int(count)


def entries_read(link: "psycopg.Connection[Any]", from_ms: int) -> int:
    """How many entries of its index a claim of one delivery reads, which is one at least."""
    before = counted(link)
    link.execute(
        STATEMENTS["claim"].encode(),
        {"agent": AGENT, "held": [], "from": from_ms, "due": FAR_MS, "rows": 1},
    )
    link.rollback()
    return until(lambda: counted(link) - before, "the count of what was read")


async def test_what_was_delivered_costs_the_next_claim_nothing_while_vacuum_is_held_up(
    store: PostgresStore, database: str, clock: RowClock
) -> None:
    with psycopg.connect(database) as outsider, psycopg.connect(database) as link:
        outsider.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        outsider.execute("SELECT count(*) FROM deliveries")
        for step in range(100):
            clock.set_ms(T0 + step * 1000)
            await sent(store)
            for one in await store.lease_due(AGENT, FAR_MS, 1, rule=claim):
                await answer(store, one)
        await sent(store)
        await leased(store)
        await sent(store)
        assert entries_read(link, 1) >= 100
        assert entries_read(link, fronts_of(store)[AGENT].begins_ms) < 10


@pytest.mark.parametrize("is_leased", [True, False])
async def test_what_rests_longest_hides_nothing_that_comes_due_before(
    store: PostgresStore, clock: RowClock, is_leased: bool
) -> None:
    rests = await sent(store)
    assert await leased(store) == [rests]
    await store.apply_delivery(rests, 1, partial(stumble, backoff_ms=LONG_MS), scope=EVERYTHING)
    # They look, and find what rests.
    assert await store.lease_due(AGENT, T0, 10, rule=claim if is_leased else None) == []
    assert await store.next_delivery_ms(AGENT) == T0 + LONG_MS
    new = await sent(store)
    assert await store.next_delivery_ms(AGENT) == T0
    found = await store.lease_due(AGENT, T0, 10, rule=claim if is_leased else None)
    assert [one.session.id for one in found] == [new]


async def test_what_a_dead_server_had_is_given_at_once(
    store: PostgresStore, database: str, clock: RowClock
) -> None:
    other = await open_store(database)
    one = await sent(store)
    assert await leased(other) == [one]
    clock.set_ms(T0 + LONG_MS)
    assert await leased(store) == []
    later = await sent(store)
    await other.close()
    assert await store.next_delivery_ms(AGENT) == 0
    assert await leased(store) == [one, later]


async def test_what_is_stored_late_is_found_by_a_full_look(
    store: PostgresStore, database: str, clock: RowClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.set_ms(T0 + LONG_MS)
    await sent(store)
    for one in await store.lease_due(AGENT, FAR_MS, 1, rule=claim):
        await answer(store, one)
    clock.set_ms(T0)
    late = await sent(store)
    assert await leased(store) == []
    monkeypatch.setattr(front, "FULL_LOOK_SECONDS", 0.0)
    assert await store.next_delivery_ms(AGENT) == T0
    assert await leased(store) == [late]


async def test_what_a_full_look_has_found_is_claimed_by_one_that_is_not(
    store: PostgresStore, database: str, clock: RowClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.set_ms(T0 + LONG_MS)
    await sent(store)
    for one in await store.lease_due(AGENT, FAR_MS, 1, rule=claim):
        await answer(store, one)
    clock.set_ms(T0)
    late = await sent(store)
    with monkeypatch.context() as full:
        full.setattr(front, "FULL_LOOK_SECONDS", 0.0)
        assert await store.next_delivery_ms(AGENT) == T0
    assert await leased(store) == [late]


async def test_agents_that_were_removed_leave_no_front_for_ever(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "MOST_FRONTS", 3)
    for _ in range(5):
        await store.next_delivery_ms(new_id())
        # An agent that is in use stays.
        known = fronts_of(store)[AGENT]
        await store.lease_due(AGENT, FAR_MS, 1, rule=claim)
        assert fronts_of(store)[AGENT] is known
        assert len(fronts_of(store)) <= 3
