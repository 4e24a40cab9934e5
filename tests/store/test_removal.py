"""Sessions that are removed: they are gone at once for everyone, and what they leave goes in steps that cost
the same whatever there is.
"""

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.errors import SessionNotFoundError
from server.domain.idempotency import RequestKey
from server.domain.sessions import Outcome, Session, fall_due
from server.lifecycle.purge import Purge
from server.store.sqlite import removal as sqlite_removal
from server.store.sqlite import writer as sqlite_writer
from server.store.sqlite.check import problems, summary
from server.store.sqlite.store import SqliteStore
from server.store.values import Counts
from tests.store.conformance.common import contents, first_open, history, knows, respond, say
from tests.support.inside_sqlite import write_connection
from tests.support.waiting import PATIENCE_SECONDS
from tests.unit.samples import AGENT, T0, USER, put, session

TABLES = ("sessions", "log", "deliveries", "requests", "removed_sessions")


@pytest.fixture
def clock() -> TestClock:
    clock = TestClock()
    clock.set_ms(T0)
    return clock


@pytest.fixture
async def store(tmp_path: Path, clock: TestClock) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "store.db", clock)
    yield store
    await store.close()


@pytest.fixture
def _nothing_goes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every session leaves all that it has, as one does that has much."""
    monkeypatch.setattr(sqlite_writer, "DELETED_ROWS", 0)


def rows(path: Path) -> dict[str, int]:
    """How many rows each table has, besides those that have none."""
    with closing(sqlite3.connect(path)) as connection:
        counts = {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES
        }
    return {table: count for table, count in counts.items() if count}


async def add(store: SqliteStore, messages: int = 0) -> Session:
    """Adds a session with messages, each with a request id."""
    one = session()
    await put(store, one, RequestKey(f"user:{USER}", f"create {one.id}", "content"))
    calls = (
        store.apply(one.id, say(f"{n}"), RequestKey(f"session:{one.id}", f"{n}", "content"), scope=EVERYTHING)
        for n in range(messages)
    )
    await asyncio.gather(*calls)
    return one


async def expire(store: SqliteStore, clock: TestClock, many: list[Session]) -> None:
    clock.set_ms(max(one.expires_at_ms for one in many))
    await asyncio.gather(*(store.apply(one.id, fall_due, scope=EVERYTHING) for one in many))


async def steps(store: SqliteStore, call: Callable[[], Awaitable[object]]) -> int:
    """How many instructions of SQLite's machine the writer carries out for a call."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    write_connection(store).set_progress_handler(tick, 1)
    await call()
    write_connection(store).set_progress_handler(None, 0)
    return count


def clocked(monotonic_s: float = 0.0, thread_s: float = 0.0) -> SimpleNamespace:
    """In place of `time`: clocks that move on whenever somebody looks at them."""
    monotonic, thread = itertools.count(), itertools.count()
    return SimpleNamespace(
        monotonic=lambda: next(monotonic) * monotonic_s, thread_time=lambda: next(thread) * thread_s
    )


class TestADeletedSession:
    @pytest.mark.usefixtures("_nothing_goes_together")
    async def test_it_is_gone_for_everyone_while_its_rows_are_there(
        self, store: SqliteStore, tmp_path: Path
    ) -> None:
        gone, other = await add(store, 3), await add(store, 1)
        await store.apply_delivery(gone.id, 1, respond("re"), scope=EVERYTHING)
        await store.delete_session(gone.id, scope=EVERYTHING)
        assert rows(tmp_path / "store.db") == {
            "sessions": 1,
            "log": 5,
            "deliveries": 4,
            "requests": 6,
            "removed_sessions": 1,
        }
        for call in (
            store.get_session(gone.id, scope=EVERYTHING),
            store.find_channel(gone.channel_id, scope=EVERYTHING),
            store.delete_session(gone.id, scope=EVERYTHING),
            store.apply(gone.id, say(), RequestKey(f"session:{gone.id}", "0", "content"), scope=EVERYTHING),
            store.apply_delivery(gone.id, 2, respond(), scope=EVERYTHING),
        ):
            with pytest.raises(SessionNotFoundError):
                await call
        for filters in ({}, {"agent_id": AGENT}, {"user_id": USER}):
            page = await store.list_sessions(T0, limit=10, **filters, scope=EVERYTHING)
            assert ([one.id for one in page.sessions], page.total) == ([other.id], 1)
        assert await store.counts(scope=EVERYTHING) == Counts(1, 0, 0, 0)
        assert (await store.describe()).sessions == 1
        for after_ms in (None, -1):
            assert (await store.list_messages(gone, limit=9, after_ms=after_ms)).messages == []
        assert await store.list_entries(gone.id, after_sequence=0, limit=9, scope=EVERYTHING) == []
        assert await store.list_history(gone, before_sequence=9, limit=9) == []
        assert await store.find_answer(gone.id, 1, scope=EVERYTHING) is None
        assert await first_open(store, gone) is None
        assert await first_open(store, other)
        assert await store.count_open() == {
            AGENT: (await store.get_session(other.id, scope=EVERYTHING)).open_deliveries
        }
        assert not await knows(store, RequestKey(f"user:{USER}", f"create {gone.id}", "content"))
        assert not await knows(store, RequestKey(f"session:{gone.id}", "0", "content"))

    @pytest.mark.usefixtures("_nothing_goes_together")
    async def test_its_request_ids_are_free_and_the_purge_leaves_who_has_taken_them(
        self, store: SqliteStore, tmp_path: Path
    ) -> None:
        gone, anew = await add(store, 3), session()
        asked = RequestKey(f"user:{USER}", f"create {gone.id}", "other content")
        await store.delete_session(gone.id, scope=EVERYTHING)
        assert await put(store, anew, asked) == Outcome(anew)
        await store.apply(anew.id, say("hi"), scope=EVERYTHING)
        while await store.purge(0, 2):
            pass
        assert rows(tmp_path / "store.db") == {"sessions": 1, "log": 1, "deliveries": 1, "requests": 1}
        assert await put(store, session(), asked) == Outcome(anew, replayed=True)
        assert contents(await history(store, anew)) == ["hi"]

    @pytest.mark.usefixtures("_nothing_goes_together")
    async def test_what_it_leaves_is_no_error_and_outlives_the_process(
        self, store: SqliteStore, tmp_path: Path, clock: TestClock
    ) -> None:
        gone = await add(store, 3)
        await store.apply_delivery(gone.id, 1, respond("re"), scope=EVERYTHING)
        await store.delete_session(gone.id, scope=EVERYTHING)
        await store.close()
        store = await SqliteStore.open(tmp_path / "store.db", clock)
        while True:
            with closing(sqlite3.connect(tmp_path / "store.db")) as connection:
                assert list(problems(connection)) == []
                assert summary(connection) == "0 sessions, 0 entries, 0 deliveries, 0 requests"
            if not await store.purge(0, 1):
                break
        assert rows(tmp_path / "store.db") == {}
        await store.close()

    async def test_deleting_it_costs_the_same_however_much_it_has(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite_removal, "time", clocked())
        small, large = await add(store, 300), await add(store, 3000)
        costs = [
            await steps(store, lambda one=one: store.delete_session(one.id, scope=EVERYTHING))
            for one in (small, large)
        ]
        assert costs[1] < 1.5 * costs[0]

    async def test_the_purge_takes_what_it_leaves_without_waiting_for_its_interval(
        self, store: SqliteStore, tmp_path: Path, clock: TestClock
    ) -> None:
        purge = Purge(
            store, clock, retention_minutes=10, request_retention_minutes=10, interval_minutes=10**6
        )
        store.add_listener(purge.on_commit)
        running = asyncio.create_task(purge.run())
        for _ in range(2):
            one = await add(store, 1000)
            await store.delete_session(one.id, scope=EVERYTHING)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while rows(tmp_path / "store.db"):
                    assert not running.done()
                    await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class TestAStepOfThePurge:
    async def test_all_of_them_together_cost_in_proportion(
        self, store: SqliteStore, clock: TestClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite_removal, "time", clocked())

        async def purge() -> None:
            while await store.purge(clock.now_ms(), 50):
                pass

        costs = []
        for number in (200, 800):
            clock.set_ms(T0)
            await expire(store, clock, await asyncio.gather(*(add(store, 1) for _ in range(number))))
            costs.append(await steps(store, purge))
        assert costs[1] < 1.2 * 4 * costs[0]

    async def test_it_does_not_look_at_sessions_whose_expiry_is_yet_to_be_written(
        self, store: SqliteStore, clock: TestClock
    ) -> None:
        """At a start there may be very many of them."""
        costs = []
        for overdue in (10, 1000):
            await asyncio.gather(*(add(store) for _ in range(overdue)))
            costs.append(await steps(store, lambda: store.purge(T0 + 10**12, 50)))
        assert costs[1] < 1.5 * costs[0]

    async def test_it_ends_when_it_has_had_its_time_and_others_write_between(
        self, store: SqliteStore, clock: TestClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each look at the clock, one before and one behind each piece, finds a millisecond gone by."""
        old, live = await add(store, 2000), await add(store)
        await expire(store, clock, [old])
        monkeypatch.setattr(sqlite_removal, "time", clocked(0.001, 0.0015))
        # The first piece has 64, as those have that took neither long nor short.
        assert await store.purge(clock.now_ms(), 10**6) == 5 * 64
        purging = asyncio.create_task(self._purge_all(store, clock.now_ms()))
        clock.set_ms(T0)
        await store.apply(live.id, say("between"), scope=EVERYTHING)
        assert not purging.done()
        await purging

    @staticmethod
    async def _purge_all(store: SqliteStore, by_ms: int) -> None:
        while await store.purge(by_ms, 10**6):
            pass

    @pytest.mark.parametrize(("row_s", "rows"), [(0.001, 2), (0.00001, 128), (1, 1)])
    async def test_its_pieces_are_small_where_rows_take_long(
        self, monkeypatch: pytest.MonkeyPatch, row_s: float, rows: int
    ) -> None:
        taken: list[int] = []
        clock = SimpleNamespace(monotonic=lambda: 0.0, thread_time=lambda: sum(taken) * row_s)
        monkeypatch.setattr(sqlite_removal, "time", clock)

        def take(count: int) -> int:
            taken.append(count)
            return count

        assert sqlite_removal.Pieces().take(10_000, take) == 10_000
        assert taken[-2] == rows

    async def test_requests_are_forgotten_in_steps_too(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await add(store, 1000)
        monkeypatch.setattr(sqlite_removal, "time", clocked(1))
        assert await store.forget_requests(T0, 10**6) == 64


class TestClearing:
    async def test_it_costs_the_same_however_much_there_is(self, store: SqliteStore, tmp_path: Path) -> None:
        costs = []
        for number in (5, 100):
            many = await asyncio.gather(*(add(store, 20) for _ in range(number)))
            await store.delete_session(many[0].id, scope=EVERYTHING)
            costs.append(await steps(store, store.clear_sessions))
            assert rows(tmp_path / "store.db") == {}
        assert costs[1] < 1.5 * costs[0]
