"""Several servers on one store: each effect once, in order, and each hears of the others."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Callable
from functools import partial

import psycopg
import pytest

from server.domain.access import EVERYTHING
from server.domain.deliveries import DeliveryState
from server.domain.errors import DomainError, QuotaExceededError
from server.domain.idempotency import RequestKey
from server.domain.log import Abort, Chunk
from server.domain.quotas import UserQuota
from server.domain.replies import lease
from server.domain.sessions import Outcome, Session, fall_due
from server.lifecycle.purge import Purge
from server.store.hints import Hint
from server.store.postgres.check import problems
from server.store.postgres.clock import DatabaseTestTime, DatabaseTime
from server.store.postgres.place import Place
from server.store.postgres.store import PostgresStore
from server.store.values import StoreOpenError
from tests.store.conformance.common import RETRIES, agent, contents, expire, history, respond, say
from tests.store.postgres.opened import open_store, until_listening
from tests.support.waiting import eventually
from tests.unit.samples import AGENT, T0, USER, put, session

pytestmark = pytest.mark.postgres

claim = partial(lease, lease_ms=60_000, policy=RETRIES)
FAR_MS = 2**62


@pytest.fixture
async def stores(database: str) -> AsyncIterator[list[PostgresStore]]:
    stores = [await open_store(database) for _ in range(3)]
    for store in stores:
        await store.check_writable()
        await until_listening(store)
    yield stores
    for store in stores:
        await store.close()
    with Place(database).connect_now("check") as link:
        assert list(problems(link)) == []


def heard(store: PostgresStore) -> list[Hint]:
    told: list[Hint] = []
    store.add_hint_listener(told.append)
    return told


async def test_one_session_that_all_write_to_has_one_order(stores: list[PostgresStore]) -> None:
    one = session()
    await put(stores[0], one)
    results = await asyncio.gather(
        *(store.apply(one.id, say(f"{n}"), scope=EVERYTHING) for n in range(200) for store in stores)
    )
    assert sorted(result.entry.sequence for result in results) == list(range(1, 601))
    for store in stores:
        log = await history(store, one)
        assert [entry.sequence for entry in log] == list(range(1, 601))
        # What one server was given first is first.
        mine = [result.entry for n, result in enumerate(results) if stores[n % 3] is store]
        assert [entry.sequence for entry in mine] == sorted(entry.sequence for entry in mine)


async def test_groups_of_the_same_sessions_wait_for_each_other_and_end(stores: list[PostgresStore]) -> None:
    choose = random.Random(5)
    many = [session() for _ in range(10)]
    await asyncio.gather(*(put(stores[0], one) for one in many))
    calls = [
        store.apply(choose.choice(many).id, say(f"{n}"), scope=EVERYTHING)
        for n in range(200)
        for store in stores
    ]
    results = await asyncio.gather(*calls)
    assert all(isinstance(result, Outcome) for result in results)
    assert sum([len(await history(stores[1], one)) for one in many]) == 600


async def test_the_same_request_at_all_servers_has_one_effect(stores: list[PostgresStore]) -> None:
    one = session()
    await put(stores[0], one)
    for n in range(20):
        request = RequestKey(f"session:{one.id}", f"send {n}", "content")
        sent = await asyncio.gather(
            *(store.apply(one.id, say(f"{n}"), request, scope=EVERYTHING) for store in stores)
        )
        assert sorted(result.replayed for result in sent) == [False, True, True]
        assert len({result.entry for result in sent}) == 1
        create = RequestKey(f"user:{USER}", f"create {n}", "content")
        made = await asyncio.gather(*(put(store, session(), create) for store in stores))
        assert sorted(result.replayed for result in made) == [False, True, True]
        assert len({result.session.id for result in made}) == 1
    assert (await stores[2].counts(scope=EVERYTHING)).active == 21


async def test_a_quota_holds_at_all_servers_together(stores: list[PostgresStore]) -> None:
    quota = UserQuota(USER, "", 5)

    async def made(store: PostgresStore) -> bool:
        new = session()
        try:
            await store.create_session(AGENT, lambda _, __: new, scope=EVERYTHING, of=quota)
        except QuotaExceededError:
            return False
        return True

    results = await asyncio.gather(*(made(store) for _ in range(20) for store in stores))
    assert sum(results) == 5
    assert (await stores[0].counts(scope=EVERYTHING)).active == 5


async def test_counts_are_those_of_all_servers(stores: list[PostgresStore]) -> None:
    many = [session() for _ in range(30)]
    await asyncio.gather(*(put(stores[n % 3], one) for n, one in enumerate(many)))
    for n, one in enumerate(many[:20]):
        store = stores[(n + 1) % 3]
        if n % 2:
            await store.delete_session(one.id, scope=EVERYTHING)
        else:
            await store.apply(one.id, expire, scope=EVERYTHING)
    for store in stores:
        counts = await store.counts(scope=EVERYTHING)
        assert (counts.active, counts.expired) == (10, 10)
        assert (await store.list_sessions(T0, scope=EVERYTHING, limit=99)).total == 10


class TestLeases:
    async def sent(self, stores: list[PostgresStore], count: int, messages: int = 1) -> list[Session]:
        many = [session() for _ in range(count)]
        await asyncio.gather(*(put(stores[0], one) for one in many))
        for n in range(messages):
            await asyncio.gather(*(stores[0].apply(one.id, say(f"{n}"), scope=EVERYTHING) for one in many))
        return many

    async def test_each_delivery_is_leased_by_one_server_and_in_order(
        self, stores: list[PostgresStore]
    ) -> None:
        many = await self.sent(stores, 60, 3)
        given: dict[str, list[int]] = {one.id: [] for one in many}
        shares = [0, 0, 0]

        async def serve(number: int) -> None:
            store, held = stores[number], set[str]()
            while await store.next_delivery_ms(AGENT, held) is not None:
                found = await store.lease_due(AGENT, FAR_MS, 7, held, claim)
                held |= {one.session.id for one in found}
                for one in found:
                    given[one.session.id].append(one.delivery.sequence)
                    shares[number] += 1
                    await store.apply_delivery(
                        one.session.id, one.delivery.sequence, respond(), scope=EVERYTHING
                    )
                    held.discard(one.session.id)

        await asyncio.gather(*map(serve, range(3)))
        while any(len(sequences) < 3 for sequences in given.values()):
            await asyncio.gather(*map(serve, range(3)))
        # Each once: replies stand between the messages or behind them.
        assert all(sequences == sorted(set(sequences)) for sequences in given.values())
        assert sum(shares) == 180
        assert await stores[0].count_open() == {}
        for one in many:
            assert len(await history(stores[0], one)) == 6

    async def test_what_a_server_holds_is_not_given_to_another(self, stores: list[PostgresStore]) -> None:
        (one,) = await self.sent(stores, 1)
        (mine,) = await stores[0].lease_due(AGENT, FAR_MS, 9, (), claim)
        assert mine.delivery.state is DeliveryState.LEASED
        for other in stores[1:]:
            assert await other.lease_due(AGENT, FAR_MS, 9, (), claim) == []
            assert await other.lease_due(AGENT, FAR_MS, 9) == []
            assert await other.next_delivery_ms(AGENT) is None
        # The server itself has lost it, where it says that it does not have it in hand.
        assert await stores[0].next_delivery_ms(AGENT, [one.id]) is None
        assert await stores[0].next_delivery_ms(AGENT) == 0
        (again,) = await stores[0].lease_due(AGENT, 0, 9, (), claim)
        assert again.delivery.attempts == 2

    async def test_the_leases_of_a_server_that_has_ended_are_free_at_once(
        self, stores: list[PostgresStore]
    ) -> None:
        await self.sent(stores, 3)
        assert len(await stores[0].lease_due(AGENT, FAR_MS, 9, (), claim)) == 3
        await stores[0].close()
        assert await stores[1].next_delivery_ms(AGENT) == 0
        assert len(await stores[1].lease_due(AGENT, 0, 9, (), claim)) == 3

    async def test_the_leases_of_a_server_that_is_dead_come_back(
        self, stores: list[PostgresStore], database: str
    ) -> None:
        await self.sent(stores, 3)
        assert len(await stores[0].lease_due(AGENT, FAR_MS, 9, (), claim)) == 3
        with psycopg.connect(database, autocommit=True) as link:
            # It has not been heard of for longer than it may.
            link.execute("UPDATE replicas SET alive_until_ms = 0 WHERE id = %s", [stores[0].replica_id])
        await stores[1].check_writable()
        assert len(await stores[2].lease_due(AGENT, 0, 9, (), claim)) == 3
        # It comes back, and what it has for an answer is taken: one reply for each message.
        await stores[0].check_writable()
        found = await stores[0].list_sessions(T0, scope=EVERYTHING, limit=9)
        for one in found.sessions:
            await stores[0].apply_delivery(one.id, 1, respond("late"), scope=EVERYTHING)
            with pytest.raises(DomainError):
                await stores[2].apply_delivery(one.id, 1, respond("twice"), scope=EVERYTHING)


async def test_each_deadline_is_met_once(stores: list[PostgresStore]) -> None:
    many = [session(T0 + n) for n in range(600)]
    await asyncio.gather(*(put(stores[0], one) for one in many))
    due_ms = many[-1].expires_at_ms
    taken: list[str] = []

    def rule(start: Session, now_ms: int) -> Outcome:
        outcome = fall_due(start, max(now_ms, due_ms))
        if outcome.entry:
            taken.append(start.id)
        return outcome

    async def work(store: PostgresStore) -> None:
        while await store.apply_due(rule, due_ms, 50):
            continue

    await asyncio.gather(*map(work, stores))
    while await stores[0].next_due_ms() is not None:
        await asyncio.gather(*map(work, stores))
    assert sorted(taken) == sorted(one.id for one in many)
    assert (await stores[0].counts(scope=EVERYTHING)).expired == 600


class TestHints:
    async def test_what_one_has_written_the_others_hear_of(self, stores: list[PostgresStore]) -> None:
        told = [heard(store) for store in stores]
        one = session()
        await put(stores[0], one)
        await stores[0].apply(one.id, say("a"), scope=EVERYTHING)
        await self.until(told[1], lambda hint: hint.grown.get(one.id) == 1)
        await self.until(told[2], lambda hint: one.agent_id in hint.due)
        await stores[0].delete_session(one.id, scope=EVERYTHING)
        await self.until(told[1], lambda hint: one.id in hint.deleted)
        assert not any(hint.grown or hint.deleted for hint in told[0])

    async def test_a_changed_agent_is_told_of(self, stores: list[PostgresStore]) -> None:
        told = heard(stores[1])
        await stores[0].create_agent(agent())
        await stores[0].delete_agent(agent().id, scope=EVERYTHING)
        await self.until(told, lambda hint: agent().id in hint.agents)

    async def test_pieces_tell_of_which_server_they_are_and_whether_it_is_dead(
        self, stores: list[PostgresStore], database: str
    ) -> None:
        told = heard(stores[1])
        stores[0].announce_piece(Chunk("s", "a", "m1", "text", 0, 1, 1, 1))
        await eventually(lambda: any(hint.pieces for hint in told))
        (sender,) = {hint.sender for hint in told if hint.pieces}
        assert sender == stores[0].replica_id
        lapsed, gone = str(uuid.uuid4()), str(uuid.uuid4())
        with psycopg.connect(database, autocommit=True) as link:
            link.execute(
                "INSERT INTO replicas (id, slot, schema_version, alive_until_ms, seen_clock) "
                "SELECT %s, 99, schema_version, 0, 0 FROM replicas LIMIT 1",
                [lapsed],
            )
        assert set(await stores[1].find_dead([sender, lapsed, gone])) == {lapsed, gone}

    async def test_pieces_arrive_in_their_order_however_long(self, stores: list[PostgresStore]) -> None:
        told = heard(stores[1])
        text = "é\U0001f600\n" * 10_000
        pieces = [Chunk("s", "a", "m1", text, 0, 1, 1, 1), Abort("s", "a", "m1", 1, 1, 1)]
        pieces += [Chunk("s", "a", f"m{n}", f"{n}", 0, 1, 1, 1) for n in range(2, 200)]
        for piece in pieces:
            stores[0].announce_piece(piece)
        await eventually(lambda: len([piece for hint in told for piece in hint.pieces]) == len(pieces))
        assert [piece for hint in told for piece in hint.pieces] == pieces

    async def test_chunks_of_one_reply_are_joined_on_their_way(self, stores: list[PostgresStore]) -> None:
        told = heard(stores[1])
        for n in range(50):
            stores[0].announce_piece(Chunk("s", "a", "m", f"{n},", n, 1, 1, 1))
        await eventually(lambda: any(hint.pieces for hint in told))
        (joined,) = [piece for hint in told for piece in hint.pieces]
        assert joined == Chunk("s", "a", "m", "".join(f"{n}," for n in range(50)), 0, 1, 1, 1)

    async def test_pieces_are_told_before_the_reply_that_they_are_of(
        self, stores: list[PostgresStore]
    ) -> None:
        told, one = heard(stores[1]), session()
        await put(stores[0], one)
        await stores[0].apply(one.id, say(), scope=EVERYTHING)
        await self.until(told, lambda hint: hint.grown.get(one.id) == 1)
        stores[0].announce_piece(Chunk(one.id, AGENT, "m", "text", 0, 1, 1, 1))
        await stores[0].apply_delivery(one.id, 1, respond(), scope=EVERYTHING)
        await self.until(told, lambda hint: hint.grown.get(one.id) == 2)
        order = ["pieces" if hint.pieces else "grown" for hint in told if hint.pieces or one.id in hint.grown]
        assert order == ["grown", "pieces", "grown"]

    async def test_who_was_cut_off_is_told_to_look_at_everything(
        self, stores: list[PostgresStore], database: str
    ) -> None:
        told = heard(stores[1])
        with psycopg.connect(database, autocommit=True) as link:
            link.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name LIKE '%listens' AND datname = current_database()"
            )
        await self.until(told, lambda hint: hint.all)
        one = session()
        await put(stores[0], one)
        await stores[0].apply(one.id, say(), scope=EVERYTHING)
        await self.until(told, lambda hint: hint.grown.get(one.id) == 1)

    async def test_they_can_be_turned_off(self, database: str) -> None:
        store = await open_store(database, announces=False)
        await put(store, session())
        with psycopg.connect(database) as link:
            found = link.execute(
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND "
                "(application_name LIKE '%listens' OR application_name LIKE '%announcements')"
            ).fetchall()
        await store.close()
        assert found == []

    async def until(self, told: list[Hint], condition: Callable[[Hint], object]) -> None:
        await eventually(lambda: any(map(condition, told)), lambda: told)


async def test_what_has_grown_is_found_without_any_hint(stores: list[PostgresStore]) -> None:
    grown, same, gone = session(), session(), session()
    for one in (grown, same, gone):
        await put(stores[0], one)
        await stores[0].apply(one.id, say(), scope=EVERYTHING)
    await stores[0].apply(grown.id, say(), scope=EVERYTHING)
    await stores[0].delete_session(gone.id, scope=EVERYTHING)
    found = await stores[1].find_grown({one.id: 1 for one in (grown, same, gone)})
    assert found == {grown.id: 2, gone.id: None}
    assert await stores[1].find_grown({}) == {}


class TestTime:
    async def test_a_clock_that_is_set_is_that_of_all_servers(self, database: str) -> None:
        clocks = [DatabaseTestTime() for _ in range(2)]
        stores = [await PostgresStore.open(Place(database), clock) for clock in clocks]
        try:
            assert clocks[0].now_ms() == clocks[1].now_ms()
            for now_ms in (T0, T0 + 5, T0 - 5):
                await stores[0].set_clock(now_ms)
                assert [clock.now_ms() for clock in clocks] == [now_ms] * 2
                seen: list[int] = []
                one = session(now_ms)
                await put(stores[1], one)
                await stores[1].apply(
                    one.id,
                    lambda start, at_ms, seen=seen: seen.append(at_ms) or Outcome(start),
                    scope=EVERYTHING,
                )
                assert seen == [now_ms]
        finally:
            for store in stores:
                await store.close()

    async def test_servers_of_one_store_go_by_one_kind_of_clock(self, database: str) -> None:
        """One that has a test clock would stop the time of all others, and one without would end it."""
        for mine, others in ((DatabaseTestTime, DatabaseTime), (DatabaseTime, DatabaseTestTime)):
            store = await PostgresStore.open(Place(database), mine())
            with pytest.raises(StoreOpenError, match="TEST_CLOCK"):
                await PostgresStore.open(Place(database), others())
            second = await PostgresStore.open(Place(database), mine())
            await second.close()
            await store.close()

    async def test_servers_go_by_the_databases_time(self, database: str) -> None:
        time = DatabaseTime()
        time.learn(5)
        store = await PostgresStore.open(Place(database), time)
        with psycopg.connect(database) as link:
            ((now_ms,),) = link.execute("SELECT extract(epoch FROM clock_timestamp()) * 1000").fetchall()
        assert abs(time.now_ms() - float(now_ms)) < 1000
        await store.close()


async def test_replies_of_all_are_in_one_history(stores: list[PostgresStore]) -> None:
    one = session()
    await put(stores[0], one)
    await stores[0].apply(one.id, say("q"), scope=EVERYTHING)
    await stores[1].apply_delivery(one.id, 1, respond("a"), scope=EVERYTHING)
    assert contents(await history(stores[2], one)) == ["q", "a"]


async def test_the_tokens_of_transactions_do_not_pile_up(stores: list[PostgresStore], database: str) -> None:
    """Also where no client has sent a request id for them to go with."""
    with psycopg.connect(database, autocommit=True) as link:
        old = "('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid"
        link.execute(f"INSERT INTO commits SELECT {old}, true FROM generate_series(1, 5000) AS n".encode())
        purge = Purge(
            stores[0],
            DatabaseTime(),
            retention_minutes=60,
            request_retention_minutes=60,
            interval_minutes=60,
        )
        await purge.run_due()
        first = "token < '0000ffff-0000-7000-8000-000000000000'"
        assert link.execute(f"SELECT count(*) FROM commits WHERE {first}".encode()).fetchall() == [(0,)]
