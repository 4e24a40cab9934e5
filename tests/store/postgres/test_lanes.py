"""What a lane does where the database goes away: nothing is lost, nothing is done twice, and who is told that
it is done can rely on it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import pytest
from structlog.testing import capture_logs

from server.domain.access import EVERYTHING
from server.domain.errors import DomainError, OutcomeUnknownError, UnavailableError
from server.domain.idempotency import RequestKey
from server.domain.sessions import Outcome, Session
from server.store.postgres.link import KeptLink
from server.store.postgres.place import Place
from server.store.postgres.reads import ReadLane
from server.store.postgres.store import PostgresStore
from tests.store.conformance.common import contents, history, say
from tests.store.postgres.opened import Cluster, lose_standby, open_store, until_waiting
from tests.support.cutting_proxy import CuttingProxy, Verdict, let_pass
from tests.support.inside_postgres import first_lane, has_looked, link_of, queue_of
from tests.support.postgres import free_port
from tests.support.waiting import eventually
from tests.unit.samples import put, session

pytestmark = pytest.mark.postgres

FOLLOWS = {
    "before anything": (b"BEGIN", Verdict.CUT),
    "once it has begun": (b"BEGIN", Verdict.PASS_AND_CUT),
    "before what is written": (b"UPDATE sessions", Verdict.CUT),
    "after what is written": (b"COMMIT", Verdict.PASS_AND_CUT),
}


@pytest.fixture
async def proxy(cluster: Cluster) -> AsyncIterator[CuttingProxy]:
    async with CuttingProxy(cluster.server.port) as proxy:
        yield proxy


def through(database: str, cluster: Cluster, proxy: CuttingProxy) -> str:
    return database.replace(f":{cluster.server.port}/", f":{proxy.port}/")


@pytest.mark.parametrize("phase", FOLLOWS)
async def test_a_write_whose_connection_is_cut_is_done_once(
    database: str, cluster: Cluster, proxy: CuttingProxy, phase: str
) -> None:
    # Statements that are not prepared are on the wire as they are.
    store = await open_store(through(database, cluster, proxy), prepares=False)
    try:
        one = session()
        await put(store, one)
        trigger, verdict = FOLLOWS[phase]

        def cut_once(data: bytes, is_clients: bool) -> Verdict:
            if is_clients and trigger in data and b"INSERT INTO replicas" not in data:
                proxy.rule = let_pass
                return verdict
            return Verdict.PASS

        for number in range(1, 4):
            proxy.rule, before = cut_once, proxy.cuts
            outcome = await store.apply(one.id, say(f"{number}"), scope=EVERYTHING)
            assert proxy.cuts == before + 1
            assert outcome.entry.sequence == number
        assert contents(await history(store, one)) == ["1", "2", "3"]
    finally:
        await store.close()


async def test_a_write_whose_answer_is_cut_off_is_found_to_be_done(
    database: str, cluster: Cluster, proxy: CuttingProxy
) -> None:
    store = await open_store(through(database, cluster, proxy))
    told: list[Outcome] = []
    store.add_listener(lambda commit: told.extend(commit.outcomes))
    try:
        for number in range(20):
            one = session()
            proxy.rule = cut_answers(proxy, number % 3)
            outcomes = [await put(store, one), await store.apply(one.id, say(), scope=EVERYTHING)]
            proxy.rule = let_pass
            assert [entry.sequence for entry in await history(store, one)] == [1]
            assert told[-2:] == outcomes
        assert proxy.cuts >= 20
        assert (await store.counts(scope=EVERYTHING)).active == 20
    finally:
        await store.close()


def cut_answers(proxy: CuttingProxy, after: int):  # type: ignore[no-untyped-def]
    """Cuts instead of passing on an answer of the server, once some others have passed."""
    seen = 0

    def rule(data: bytes, is_clients: bool) -> Verdict:
        nonlocal seen
        seen += not is_clients
        if seen > after and not is_clients:
            proxy.rule = let_pass
            return Verdict.CUT
        return Verdict.PASS

    return rule


async def test_a_group_that_was_given_up_cannot_be_committed_any_more(database: str) -> None:
    """Its bytes may be under way still when it is settled that it is not done."""
    from server.store.postgres.place import Place
    from server.store.postgres.tokens import new_token, settle

    place, token = Place(database), new_token()
    late, settling = await place.connect("late"), await place.connect("settling")
    try:
        await late.execute("BEGIN")
        assert await settle(settling, token) is False
        with pytest.raises(Exception, match="commits_pkey"):
            await late.execute("INSERT INTO commits VALUES (%s, true)", [token])
        await late.execute("ROLLBACK")
        assert await settle(settling, token) is False
    finally:
        await late.close()
        await settling.close()


async def test_who_settles_waits_for_a_transaction_that_is_under_way(database: str) -> None:
    from server.store.postgres.place import Place
    from server.store.postgres.tokens import new_token, settle

    place = Place(database)
    first, settling = await place.connect("first"), await place.connect("settling")
    try:
        for is_committed in (True, False):
            token = new_token()
            await first.execute("BEGIN")
            await first.execute("INSERT INTO commits VALUES (%s, true)", [token])
            task = asyncio.create_task(settle(settling, token))
            await until_waiting(database)
            assert not task.done()
            await first.execute("COMMIT" if is_committed else "ROLLBACK")
            assert await task is is_committed
    finally:
        await first.close()
        await settling.close()


class TestDatabaseIsAway:
    """Each call waits by its own time, whoever is in its group."""

    @pytest.fixture
    async def store(self, database: str) -> AsyncIterator[PostgresStore]:
        store = await open_store(database)
        # It looks once it hears of others: a commit that no test means.
        await eventually(lambda: has_looked(store))
        yield store
        await store.close()

    async def test_a_write_does_not_wait_for_one_that_came_later(self, store: PostgresStore) -> None:
        one, lane = session(), first_lane(store)
        await put(store, one)
        with _away(link_of(lane)) as is_back:
            calls = [asyncio.ensure_future(store.apply(one.id, say(text), scope=EVERYTHING)) for text in "ab"]
            await asyncio.sleep(0)
            first, later = queue_of(lane)
            first.since_s, later.since_s = first.since_s - 60, later.since_s + 60
            with pytest.raises(UnavailableError):
                await calls[0]
            assert not calls[1].done()
            is_back()
            assert (await calls[1]).entry.sequence == 1
        assert contents(await history(store, one)) == ["b"]

    async def test_a_read_does_not_wait_for_one_that_came_later(self, database: str) -> None:
        lane = ReadLane(Place(database), 0)
        with _away(link_of(lane)) as is_back:
            calls = [asyncio.ensure_future(lane.read(f"SELECT {number}")) for number in range(2)]
            await asyncio.sleep(0)
            first, later = queue_of(lane)
            first.since_s, later.since_s = first.since_s - 60, later.since_s + 60
            with pytest.raises(UnavailableError):
                await calls[0]
            assert not calls[1].done()
            is_back()
            assert await calls[1] == [(1,)]
        await lane.close()


@contextmanager
def _away(link: KeptLink) -> Iterator[Callable[[], None]]:
    """A connection that is severed, and none leads to its database until the given function was called."""
    place = link.place

    def come_back() -> None:
        link.place = place

    link.place = Place(f"postgresql://eliza@127.0.0.1:{free_port()}/x")
    link.sever(is_expected=True)
    try:
        yield come_back
    finally:
        come_back()


class TestPacketsAreHeld:
    async def test_writes_end_in_time_and_go_on_later(
        self, database: str, cluster: Cluster, proxy: CuttingProxy
    ) -> None:
        """asyncio's own timeout would have psycopg ask the silent server to cancel, and wait for that."""
        store = await open_store(through(database, cluster, proxy), answer_s=0.5, wait_s=0.5)
        try:
            one = session()
            await put(store, one)
            proxy.hold()
            for call in (
                store.apply(one.id, say("held"), scope=EVERYTHING),
                store.get_session(one.id, scope=EVERYTHING),
            ):
                begun_s = asyncio.get_running_loop().time()
                with pytest.raises(UnavailableError):
                    await call
                # Half a second for an answer, and two to find out that nobody takes a connection either.
                assert asyncio.get_running_loop().time() - begun_s < 8
            proxy.release()
            assert (await store.apply(one.id, say("on"), scope=EVERYTHING)).entry.sequence == 1
            assert contents(await history(store, one)) == ["on"]
        finally:
            proxy.release()
            await store.close()


async def test_a_database_that_is_away_is_logged_once_however_many_calls_fail(
    database: str, cluster: Cluster, proxy: CuttingProxy
) -> None:
    store = await open_store(through(database, cluster, proxy), wait_s=0.05)
    try:
        one = session()
        await put(store, one)
        await store.get_session(one.id, scope=EVERYTHING)
        with capture_logs() as logs:
            proxy.rule = lambda *_: Verdict.CUT
            for _ in range(4):
                for call in (
                    store.apply(one.id, say(), scope=EVERYTHING),
                    store.get_session(one.id, scope=EVERYTHING),
                ):
                    with pytest.raises(UnavailableError):
                        await call
            lost = [(line["event"], line.get("purpose")) for line in logs]
            assert len(lost) == len(set(lost))
            assert ("a connection cannot be used", "writes") in lost
            proxy.rule = let_pass
            await store.apply(one.id, say(), scope=EVERYTHING)
        told = [line for line in logs if line.get("purpose") == "writes"]
        assert [line["event"] for line in told] == [
            "a connection cannot be used",
            "a connection can be used again",
        ]
        assert len({line["error_id"] for line in told}) == 1
    finally:
        proxy.rule = let_pass
        await store.close()


class TestStandbyIsAway:
    """The standby that each commit waits for is away: commits are stored, and nobody may be told so."""

    @pytest.fixture
    async def store(self, database: str, cluster: Cluster) -> AsyncIterator[PostgresStore]:
        self.server = cluster.server
        self.database = database.rsplit("/", 1)[1]
        self.server.execute(f"ALTER DATABASE {self.database} SET synchronous_commit = 'on'")
        store = await open_store(database, answer_s=1.0, wait_s=0.5)
        # It looks once it hears of others: a commit that no test means.
        await eventually(lambda: has_looked(store))
        yield store
        self.let_go()
        await store.close()

    def let_go(self) -> None:
        self.server.execute("ALTER SYSTEM RESET synchronous_standby_names")
        self.server.execute("SELECT pg_reload_conf()")

    def waiting(self) -> list[int]:
        found = self.server.execute(
            "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' "
            f"AND datname = '{self.database}' ORDER BY backend_start"
        )
        return [int(str(pid)) for (pid,) in found]

    async def sent(self, store: PostgresStore, one: Session) -> "asyncio.Task[Outcome]":
        request = RequestKey(f"session:{one.id}", "r", "c")
        return asyncio.create_task(store.apply(one.id, say("hi"), request, scope=EVERYTHING))

    @pytest.mark.parametrize("ends", ["pg_cancel_backend", "pg_terminate_backend"])
    async def test_a_commit_that_an_operator_ends_is_not_taken_for_one_that_lasts(
        self, store: PostgresStore, ends: str
    ) -> None:
        one = session()
        await put(store, one)
        await lose_standby(self.server, self.database)
        task = await self.sent(store, one)
        first = (await eventually(self.waiting))[0]
        self.server.execute(f"SELECT {ends}({first})")
        # It is found out by a transaction of its own, which waits for the standby like any other.
        await eventually(lambda: [pid for pid in self.waiting() if pid != first] or task.done())
        assert not task.done()
        self.let_go()
        outcome = await task
        assert outcome.entry.sequence == 1
        assert contents(await history(store, one)) == ["hi"]

    async def test_a_caller_who_gives_up_has_no_commit_cancelled(self, store: PostgresStore) -> None:
        """The driver would have the server cancel what its task waits for."""
        one = session()
        await put(store, one)
        await lose_standby(self.server, self.database)
        task = await self.sent(store, one)
        waiting = await eventually(self.waiting)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # Nothing else is under way on this database that the server could be asked to cancel.
        assert self.waiting() == waiting
        self.let_go()
        outcome = await (await self.sent(store, one))
        assert outcome.replayed
        assert contents(await history(store, one)) == ["hi"]

    async def test_a_commit_that_waits_is_in_doubt_and_the_same_request_finds_out(
        self, store: PostgresStore
    ) -> None:
        """No timeout of the server ends it."""
        one = session()
        await put(store, one)
        await lose_standby(self.server, self.database)
        with pytest.raises(OutcomeUnknownError):
            await (await self.sent(store, one))
        self.let_go()
        outcome = await (await self.sent(store, one))
        assert outcome.entry.sequence == 1
        assert outcome.replayed
        assert contents(await history(store, one)) == ["hi"]


async def test_a_server_that_restarts_is_waited_for(database: str, cluster: Cluster) -> None:
    store = await open_store(database)
    try:
        one = session()
        await put(store, one)
        cluster.server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
            f"'{database.rsplit('/', 1)[1]}'"
        )
        assert (await store.apply(one.id, say(), scope=EVERYTHING)).entry.sequence == 1
        assert len(await history(store, one)) == 1
    finally:
        await store.close()


async def test_a_session_that_somebody_holds_is_given_up_in_time(database: str) -> None:
    import psycopg

    store = await open_store(database)
    one = session()
    await put(store, one)
    async with await psycopg.AsyncConnection.connect(database) as outsider:
        await outsider.execute("SELECT 1 FROM sessions WHERE id = %s FOR UPDATE", [one.id])
        with pytest.raises(DomainError) as caught:
            await store.apply(one.id, say(), scope=EVERYTHING)
        assert isinstance(caught.value, UnavailableError)
        await outsider.rollback()
    assert (await store.apply(one.id, say(), scope=EVERYTHING)).entry.sequence == 1
    await store.close()
