"""Quotas and counts where several servers write at once: exact, and no deadlock."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
import pytest

from server.domain.access import EVERYTHING
from server.domain.errors import QuotaExceededError
from server.domain.ids import new_id
from server.domain.quotas import UserQuota
from server.store.postgres.check import problems
from server.store.postgres.counts import SHARED_LANE
from server.store.postgres.place import Place
from server.store.postgres.store import PostgresStore
from tests.store.conformance.common import agent, expire
from tests.store.postgres.opened import Cluster, open_store
from tests.unit.samples import AGENT, T0, session

pytestmark = pytest.mark.postgres

QUOTA = 20


@pytest.fixture
async def stores(cluster: Cluster, database: str) -> AsyncIterator[list[PostgresStore]]:
    """Servers with two lanes each. In the end no transaction has met another one in a circle."""
    stores = [await open_store(database, lanes=2) for _ in range(3)]
    yield stores
    for store in stores:
        await store.close()
    with Place(database).connect_now("check") as link:
        assert list(problems(link)) == []
        # A lane's own row may be 0 for as long as those of the others are not.
        left = link.execute(
            f"SELECT * FROM session_counts WHERE sessions = 0 AND state <> 'agents' AND lane = {SHARED_LANE}"
        ).fetchall()
        assert left == []
    name = database.rsplit("/", 1)[1]
    found = cluster.server.execute(f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{name}'")
    assert found == [(0,)]


async def create(store: PostgresStore, user_id: str, of: UserQuota | None) -> str | None:
    """Makes a session; None where the quota does not allow it."""
    new = session()._replace(user_id=user_id, agent_id=AGENT)
    try:
        await store.create_session(AGENT, lambda _, __: new, scope=EVERYTHING, of=of)
    except QuotaExceededError:
        return None
    return new.id


async def test_groups_that_create_and_end_sessions_of_each_others_users_wait_in_no_circle(
    stores: list[PostgresStore],
) -> None:
    """One holds the quota of a user, and changes the counts of another whose quota somebody else holds."""
    users = [new_id() for _ in range(4)]
    live: dict[str, list[str]] = {user: [] for user in users}

    async def work(number: int) -> None:
        chosen = random.Random(number)
        store = stores[number % len(stores)]
        for _ in range(40):
            user = chosen.choice(users)
            # Tenants without a quota have none to lock.
            made = await create(store, user, UserQuota(user, "", QUOTA) if chosen.random() < 0.8 else None)
            if made:
                live[user].append(made)
            other = live[chosen.choice(users)]
            if other and chosen.random() < 0.8:
                gone = other.pop(chosen.randrange(len(other)))
                if chosen.random() < 0.5:
                    await store.delete_session(gone, scope=EVERYTHING)
                else:
                    await store.apply(gone, expire, scope=EVERYTHING)

    await asyncio.gather(*map(work, range(30)))
    assert (await stores[0].counts(scope=EVERYTHING)).active == sum(map(len, live.values()))


async def test_a_quota_is_exact_while_sessions_come_and_go_at_all_servers(
    stores: list[PostgresStore],
) -> None:
    user = new_id()
    quota = UserQuota(user, "", QUOTA)
    live: set[str] = set()
    most = 0

    async def work(number: int) -> None:
        nonlocal most
        chosen, store = random.Random(number), stores[number % len(stores)]
        for _ in range(30):
            if made := await create(store, user, quota):
                live.add(made)
                most = max(most, (await store.list_user_sessions(user, scope=EVERYTHING, limit=1)).total)
            if live and chosen.random() < 0.5:
                await store.delete_session(live.pop(), scope=EVERYTHING)

    await asyncio.gather(*map(work, range(30)))
    assert most <= QUOTA
    # It is used up wholly, and not by one more.
    while made := await create(stores[1], user, quota):
        live.add(made)
    assert len(live) == QUOTA
    for store in stores:
        assert await create(store, user, quota) is None


async def test_a_tenants_agents_are_counted_at_all_servers_together(stores: list[PostgresStore]) -> None:
    async def register(number: int) -> bool:
        new = replace(agent(), id=new_id(), tenant="t", created_at_ms=T0 + number)
        try:
            await stores[number % len(stores)].create_agent(new, most=7)
        except QuotaExceededError:
            return False
        return True

    assert sum(await asyncio.gather(*map(register, range(40)))) == 7


async def purge(store: PostgresStore) -> None:
    """All that has expired."""
    while await store.purge(2 * T0, 1000):
        continue


def rows_of_agents(url: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as link:
        return link.execute("SELECT * FROM session_counts WHERE agent_id <> '' ORDER BY 1, 2, 5").fetchall()


async def test_the_purge_leaves_no_counts_of_an_agent_without_sessions(
    stores: list[PostgresStore], database: str
) -> None:
    """What one server has counted another one takes off, in rows of its own."""
    for number in range(12):
        gone = await create(stores[0], new_id(), None)
        assert gone
        if number % 2:
            await stores[1].apply(gone, expire, scope=EVERYTHING)
        else:
            await stores[1].delete_session(gone, scope=EVERYTHING)
    kept = session()._replace(agent_id=new_id(), tenant="t")
    await stores[0].create_session(kept.agent_id, lambda _, __: kept, scope=EVERYTHING)
    assert {row[1] for row in rows_of_agents(database)} == {AGENT, kept.agent_id}
    await purge(stores[2])
    left = rows_of_agents(database)
    assert {(*row[:4], row[-1]) for row in left} == {
        ("live", kept.agent_id, "", "t", 1),
        ("live", kept.agent_id, kept.user_id, "t", 1),
    }
    assert await create(stores[1], new_id(), None)
    assert (await stores[2].counts(scope=EVERYTHING)).active == 2


async def test_the_counts_of_many_agents_are_removed_bit_by_bit(
    stores: list[PostgresStore], database: str
) -> None:
    with psycopg.connect(database) as link:
        link.execute(
            "INSERT INTO session_counts SELECT 'expired', md5(n::text), '', '', 10 + lane, 1 - 2 * lane "
            "FROM generate_series(1, 250) AS n, generate_series(0, 1) AS lane"
        )
    left = []
    for _ in range(4):
        await purge(stores[0])
        left.append(len(rows_of_agents(database)))
    assert left == [300, 100, 0, 0]


async def test_the_purge_waits_for_no_lane_and_counts_what_comes_meanwhile(
    stores: list[PostgresStore], database: str
) -> None:
    """A lane holds one of the rows: none of those that it is added up with may go."""
    with psycopg.connect(database) as link:
        key = "'live', '0a', '', ''"
        link.execute(f"INSERT INTO session_counts VALUES ({key}, 10, 3), ({key}, 11, -3)".encode())
        link.commit()
        link.execute("UPDATE session_counts SET sessions = sessions + 2 WHERE lane = 11")
        await purge(stores[0])
        link.rollback()
        assert [row[-2:] for row in rows_of_agents(database)] == [(10, 3), (11, -3)]
        # A lane that adds a row of its own stands in nobody's way.
        link.execute(f"INSERT INTO session_counts VALUES ({key}, 12, 1)".encode())
        await purge(stores[0])
        link.commit()
        assert [row[-2:] for row in rows_of_agents(database)] == [(12, 1)]
        link.execute("DELETE FROM session_counts WHERE agent_id = '0a'")


async def test_counts_are_exact_while_the_purge_removes_rows(
    stores: list[PostgresStore], database: str
) -> None:
    """The count of the only agent is 0 again and again, in the rows of six lanes."""
    is_over = False

    async def use(number: int) -> None:
        store = stores[number % len(stores)]
        for _ in range(40):
            made = await create(store, new_id(), None)
            assert made
            await stores[(number + 1) % len(stores)].delete_session(made, scope=EVERYTHING)

    async def clean(store: PostgresStore) -> None:
        while not is_over:
            await purge(store)

    cleaning = [asyncio.create_task(clean(store)) for store in stores]
    await asyncio.gather(*map(use, range(4)))
    is_over = True
    await asyncio.gather(*cleaning)
    await purge(stores[0])
    assert rows_of_agents(database) == []
