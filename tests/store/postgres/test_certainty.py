"""Who is told that something is stored can rely on it, whoever stops or asks again meanwhile."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from server.domain.access import EVERYTHING
from server.domain.idempotency import RequestKey
from server.store.postgres.store import PostgresStore
from tests.store.conformance.common import contents, history, say
from tests.store.postgres.opened import Cluster, lose_standby, open_store, until_waiting
from tests.support.inside_postgres import announcer_of, first_lane, listener_of, read_lanes, task_of
from tests.support.waiting import eventually
from tests.unit.samples import put, session

pytestmark = pytest.mark.postgres


async def test_who_gives_up_closing_cancels_no_write(database: str) -> None:
    """The driver would cancel a COMMIT, and the server then reports it as done."""
    store, reader = await open_store(database), await open_store(database)
    one = session()
    await put(store, one)
    async with await psycopg.AsyncConnection.connect(database) as outsider:
        await outsider.execute("SELECT 1 FROM sessions WHERE id = %s FOR UPDATE", [one.id])
        writing = asyncio.create_task(store.apply(one.id, say("kept"), scope=EVERYTHING))
        await until_waiting(database)
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        await outsider.rollback()
    assert (await writing).entry.sequence == 1
    assert contents(await history(reader, one)) == ["kept"]
    await eventually(lambda: task_of(first_lane(store)).done())
    for part in (*read_lanes(store), listener_of(store), announcer_of(store)):
        await part.close()
    await reader.close()


class TestStandbyIsAway:
    @pytest.fixture
    async def stores(self, database: str, cluster: Cluster) -> AsyncIterator[list[PostgresStore]]:
        self.server = cluster.server
        self.name = database.rsplit("/", 1)[1]
        self.server.execute(f"ALTER DATABASE {self.name} SET synchronous_commit = 'on'")
        stores = [await open_store(database, answer_s=60.0, wait_s=60.0) for _ in range(2)]
        yield stores
        self.let_go()
        for store in stores:
            await store.close()

    def let_go(self) -> None:
        self.server.execute("ALTER SYSTEM RESET synchronous_standby_names")
        self.server.execute("SELECT pg_reload_conf()")

    def waiting(self) -> set[int]:
        found = self.server.execute(
            f"SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = '{self.name}'"
        )
        return {int(str(pid)) for (pid,) in found}

    async def test_who_asks_again_elsewhere_is_not_told_of_what_no_standby_has(
        self, stores: list[PostgresStore]
    ) -> None:
        """Its first commit was cancelled while it waited for the standby, and everybody sees it since."""
        one = session()
        await put(stores[0], one)
        request = RequestKey(f"session:{one.id}", "r", "c")
        await lose_standby(self.server, self.name)
        first = asyncio.create_task(stores[0].apply(one.id, say("hi"), request, scope=EVERYTHING))
        (cancelled,) = await eventually(self.waiting)
        self.server.execute(f"SELECT pg_cancel_backend({cancelled})")
        # The first server finds out by a transaction of its own, which waits in its turn.
        await eventually(lambda: self.waiting() - {cancelled})
        before = self.waiting()
        second = asyncio.create_task(stores[1].apply(one.id, say("hi"), request, scope=EVERYTHING))
        await eventually(lambda: self.waiting() - before or second.done())
        assert not second.done()
        assert not first.done()
        self.let_go()
        assert (await second).replayed
        assert (await first).entry == (await second).entry
        assert contents(await history(stores[1], one)) == ["hi"]
