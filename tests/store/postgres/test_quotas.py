"""Quotas and counts where several servers write at once: exact, and no deadlock."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from server.domain.access import EVERYTHING
from server.domain.errors import QuotaExceededError
from server.domain.ids import new_id
from server.domain.quotas import UserQuota
from server.store.postgres.check import problems
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
        left = link.execute(
            "SELECT * FROM session_counts WHERE sessions = 0 AND state <> 'agents'"
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
