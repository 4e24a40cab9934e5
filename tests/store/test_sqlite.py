"""SqliteStore keeps the contract of Store; and what its writer thread does beyond that."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.errors import (
    InvalidContentError,
    InvalidFieldError,
    OverloadedError,
    ResourceExhaustedError,
    SessionNotFoundError,
    UnavailableError,
)
from server.domain.idempotency import RequestKey
from server.domain.sessions import Outcome, Session, fall_due
from server.store import rows
from server.store.contract import Store
from server.store.sqlite import file as sqlite_file
from server.store.sqlite import writer
from server.store.sqlite.store import SqliteStore
from server.store.sqlite.writer import GROUP_SIZE
from server.store.values import Counts
from tests.store.conformance import StoreConformance
from tests.store.conformance.common import (
    Misbehaved,
    agent,
    break_a_constraint,
    contents,
    expire,
    history,
    misbehave,
    refuse,
    respond,
    say,
    take,
)
from tests.support.inside_sqlite import cached_sessions, path_of, write_connection
from tests.unit.samples import MINUTE, T0, logged, put, session


@asynccontextmanager
async def writer_held(store: Store) -> AsyncIterator[None]:
    """The writer thread waits in a rule, so that what is called for in the block queues and
    makes one group.
    """
    waits, goes_on = threading.Event(), threading.Event()

    def wait(start: Session, now_ms: int) -> Outcome:
        waits.set()
        goes_on.wait()
        return Outcome(start)

    blocker = session()
    await put(store, blocker)
    holding = asyncio.ensure_future(store.apply(blocker.id, wait, scope=EVERYTHING))
    try:
        await asyncio.to_thread(waits.wait)
        deleting = asyncio.ensure_future(store.delete_session(blocker.id, scope=EVERYTHING))
        await asyncio.sleep(0)
        yield
    finally:
        goes_on.set()
    await asyncio.gather(holding, deleting)


def stored(store: SqliteStore, ids: Iterable[str]) -> dict[str, Session]:
    """What the file has of sessions."""
    statement = f"SELECT {', '.join(rows.SESSION)} FROM sessions WHERE id = ?"
    with closing(sqlite_file.connect(path_of(store), read_only=True)) as connection:
        found = [row for one in ids for row in connection.execute(statement, (one,))]
    return {one.id: one for one in map(rows.session_of, found)}


def batches(statements: list[str]) -> int:
    """How many batches were written, by the statements that SQLite tells of."""
    return statements.count("COMMIT")


def loads_sessions(statement: str) -> bool:
    return statement.startswith("SELECT id, channel_id")


async def test_a_write_beyond_the_bound_is_refused_and_those_that_waited_are_made(tmp_path: Path) -> None:
    clock, one = TestClock(), session()
    clock.set_ms(T0)
    store = await SqliteStore.open(tmp_path / "store.db", clock, max_writes=3)
    try:
        await put(store, one)
        async with writer_held(store):
            # One of the three that may wait is the holder's.
            waiting = [
                asyncio.ensure_future(store.apply(one.id, say(content), scope=EVERYTHING))
                for content in ("a", "b")
            ]
            await asyncio.sleep(0)
            with pytest.raises(OverloadedError):
                await store.apply(one.id, say("beyond"), scope=EVERYTHING)
        await asyncio.gather(*waiting)
        assert contents(await history(store, one)) == ["a", "b"]
    finally:
        await store.close()


class TestSqliteStore(StoreConformance):
    async def open(self, directory: Path, clock: TestClock) -> Store:
        return await SqliteStore.open(directory / "store.db", clock)

    held = staticmethod(writer_held)

    async def close(self, store: SqliteStore) -> None:
        await super().close(store)
        assert cached_sessions(store) == stored(store, cached_sessions(store))

    async def test_a_call_that_is_cancelled_before_its_turn_writes_nothing(
        self, store: Store, one: Session
    ) -> None:
        async with self.held(store):
            tasks = [
                asyncio.ensure_future(store.apply(one.id, say(f"{n}"), scope=EVERYTHING)) for n in range(10)
            ]
            new = session()
            creating = asyncio.ensure_future(put(store, new))
            clearing = asyncio.ensure_future(store.clear_sessions())
            await asyncio.sleep(0)
            for task in (*tasks[::2], creating, clearing):
                task.cancel()
            await asyncio.sleep(0)
        results = await asyncio.gather(*tasks, creating, clearing, return_exceptions=True)
        assert [isinstance(result, asyncio.CancelledError) for result in results] == [True, False] * 5 + [
            True,
            True,
        ]
        log = await history(store, one)
        assert contents(log) == ["1", "3", "5", "7", "9"]
        assert [entry.sequence for entry in log] == [1, 2, 3, 4, 5]
        assert (await store.counts(scope=EVERYTHING)).active == 1

    async def test_a_call_that_is_cancelled_while_its_group_fails_is_told_as_it_is_stored(
        self, store: Store, one: Session
    ) -> None:
        told: list[Outcome] = []
        store.add_listener(lambda commit: told.extend(commit.outcomes))
        loop, begun, goes_on, cancelled = (
            asyncio.get_running_loop(),
            threading.Event(),
            threading.Event(),
            threading.Event(),
        )

        def slow(start: Session, now_ms: int) -> Outcome:
            begun.set()
            goes_on.wait()
            return say("slow")(start, now_ms)

        def cancel() -> None:
            victim.cancel()
            # The future itself is cancelled in the turn of the loop that comes.
            loop.call_soon(cancelled.set)

        def culprit(start: Session, now_ms: int) -> Outcome:
            if not cancelled.is_set():
                loop.call_soon_threadsafe(cancel)
                cancelled.wait()
            raise RuntimeError("culprit")

        first = asyncio.ensure_future(store.apply(one.id, slow, scope=EVERYTHING))
        await asyncio.to_thread(begun.wait)
        victim = asyncio.ensure_future(store.apply(one.id, say("victim"), scope=EVERYTHING))
        last = asyncio.ensure_future(store.apply(one.id, culprit, scope=EVERYTHING))
        await asyncio.sleep(0)
        goes_on.set()
        results = await asyncio.gather(first, victim, last, return_exceptions=True)
        assert isinstance(results[1], asyncio.CancelledError)
        assert isinstance(results[2], RuntimeError)
        log = await history(store, one)
        assert [entry.sequence for outcome in told for entry in logged(outcome)] == [
            entry.sequence for entry in log
        ]

    async def test_a_call_that_is_cancelled_during_its_turn_is_carried_out_wholly(
        self, store: Store, one: Session
    ) -> None:
        begun, goes_on = threading.Event(), threading.Event()

        def slow(start: Session, now_ms: int) -> Outcome:
            begun.set()
            goes_on.wait()
            return say("slow")(start, now_ms)

        task = asyncio.ensure_future(store.apply(one.id, slow, scope=EVERYTHING))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await store.apply(one.id, say("next"), scope=EVERYTHING)).entry.sequence == 2
        assert contents(await history(store, one)) == ["slow", "next"]

    async def test_what_queues_is_committed_together(self, store: SqliteStore, one: Session) -> None:
        statements: list[str] = []
        async with self.held(store):
            write_connection(store).set_trace_callback(statements.append)
            tasks = [
                asyncio.ensure_future(store.apply(one.id, say(f"{n}"), scope=EVERYTHING))
                for n in range(GROUP_SIZE - 1)
            ]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        write_connection(store).set_trace_callback(None)
        assert batches(statements) == 2, "the group that was held up, and the one that queued meanwhile"

    async def test_only_the_culprit_of_a_group_pays(self, store: SqliteStore, one: Session) -> None:
        statements: list[str] = []
        async with self.held(store):
            write_connection(store).set_trace_callback(statements.append)
            rules = [say("0"), misbehave, say("1")]
            tasks = [asyncio.ensure_future(store.apply(one.id, rule, scope=EVERYTHING)) for rule in rules]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        write_connection(store).set_trace_callback(None)
        assert contents(await history(store, one)) == ["0", "1"]
        assert batches(statements) == 4, "what held them up, its removal, and each that is innocent"

    async def test_a_rule_that_refuses_does_not_break_up_its_group(
        self, store: SqliteStore, one: Session
    ) -> None:
        statements: list[str] = []
        async with self.held(store):
            write_connection(store).set_trace_callback(statements.append)
            tasks = [
                asyncio.ensure_future(store.apply(one.id, rule, scope=EVERYTHING))
                for rule in (say("0"), say(""), say("1"))
            ]
            await asyncio.sleep(0)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        write_connection(store).set_trace_callback(None)
        assert isinstance(results[1], InvalidContentError)
        assert contents(await history(store, one)) == ["0", "1"]
        assert batches(statements) == 2

    async def test_what_the_writer_keeps_of_sessions_is_what_is_stored(
        self, store: SqliteStore, clock: TestClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(writer, "MAX_RECENT", 3)
        many = [await self.added(store) for _ in range(5)]
        kept = cached_sessions(store)
        assert list(kept) == [one.id for one in many[2:]]

        first, *_, before_last, last = many
        steps: list[Callable[[], Awaitable[object]]] = [
            lambda: store.apply(first.id, say(), scope=EVERYTHING),
            lambda: store.apply_delivery(first.id, 1, take, scope=EVERYTHING),
            lambda: self.together(
                store,
                [
                    store.apply(last.id, say(), scope=EVERYTHING),
                    store.apply(last.id, misbehave, scope=EVERYTHING),
                ],
            ),
            lambda: store.apply_delivery(first.id, 1, respond(), scope=EVERYTHING),
            lambda: store.apply(last.id, refuse, scope=EVERYTHING),
            lambda: store.delete_session(last.id, scope=EVERYTHING),
            lambda: store.apply_due(expire, first.expires_at_ms, 1),
            lambda: store.apply(before_last.id, expire, scope=EVERYTHING),
            lambda: store.purge(first.expires_at_ms, 100),
            lambda: put(store, session()),
            store.clear_sessions,
        ]
        for step in steps:
            with suppress(Misbehaved, InvalidFieldError):
                await step()
            assert kept == stored(store, kept)
        with pytest.raises(SessionNotFoundError):
            await store.apply(first.id, say(), scope=EVERYTHING)

    async def test_work_that_changes_no_session_leaves_those_that_are_kept(
        self, store: SqliteStore, one: Session
    ) -> None:
        new = agent(9)
        works: list[Callable[[], Awaitable[object]]] = [
            store.check_writable,
            lambda: store.forget_requests(T0, 10),
            lambda: store.create_agent(new),
            lambda: store.update_agent(new.id, lambda found, now_ms: found, scope=EVERYTHING),
            lambda: store.delete_agent(new.id, scope=EVERYTHING),
        ]
        due = await self.added(store)
        for work in works:
            await work()
            assert cached_sessions(store) == {one.id: one, due.id: due}
        # Both are due, and the rule changes neither.
        assert await store.apply_due(lambda found, now_ms: Outcome(found), one.expires_at_ms, 1) == 1
        assert len(cached_sessions(store)) == 1
        await store.purge(T0, 10)
        assert cached_sessions(store) == {}

    async def test_a_session_is_not_loaded_again_for_the_next_group_but_after_an_error(
        self, store: SqliteStore, one: Session
    ) -> None:
        statements: list[str] = []
        write_connection(store).set_trace_callback(statements.append)
        await store.apply(one.id, say(), scope=EVERYTHING)
        assert (batches(statements), [*filter(loads_sessions, statements)]) == (1, [])
        with pytest.raises(sqlite3.IntegrityError):
            await store.apply(one.id, break_a_constraint, scope=EVERYTHING)
        await store.apply(one.id, say(), scope=EVERYTHING)
        write_connection(store).set_trace_callback(None)
        assert len([*filter(loads_sessions, statements)]) == 1

    async def test_a_step_of_the_purge_costs_the_same_however_many_have_expired(
        self, store: SqliteStore, clock: TestClock
    ) -> None:
        steps: list[int] = []

        def count() -> int:
            steps[-1] += 1
            return 0

        for number in (100, 900):
            many = [session() for _ in range(number)]
            await asyncio.gather(*(put(store, one, RequestKey("user", one.id, "content")) for one in many))
            clock.set_ms(many[0].expires_at_ms)
            await asyncio.gather(*(store.apply(one.id, fall_due, scope=EVERYTHING) for one in many))
            steps.append(0)
            write_connection(store).set_progress_handler(count, 100)
            assert await store.purge(clock.now_ms(), 50) == 50
            write_connection(store).set_progress_handler(None, 0)
            clock.set_ms(T0)
        assert steps[1] < 2 * steps[0]

    async def test_a_full_database_refuses_writes_and_keeps_the_others(
        self, store: SqliteStore, one: Session
    ) -> None:
        await store.apply(one.id, say("before"), scope=EVERYTHING)
        pages = write_connection(store).execute("PRAGMA page_count").fetchone()[0]
        write_connection(store).execute(f"PRAGMA max_page_count = {pages + 20}")
        acknowledged, refused = ["before"], []
        while len(refused) < 20:
            content = f"{len(acknowledged)} " + "x" * 3000
            (result,) = await self.together(store, [store.apply(one.id, say(content), scope=EVERYTHING)])
            if isinstance(result, Outcome):
                acknowledged.append(content)
            else:
                refused.append(type(result))
        assert set(refused) == {ResourceExhaustedError}
        assert contents(await history(store, one)) == acknowledged
        write_connection(store).execute(f"PRAGMA max_page_count = {2**30}")
        await store.apply(one.id, say("after"), scope=EVERYTHING)
        log = await history(store, one)
        assert contents(log) == [*acknowledged, "after"]
        assert [entry.sequence for entry in log] == list(range(1, len(log) + 1))

    async def test_sessions_whose_rows_cannot_be_read_back_are_counted(
        self, store: SqliteStore, one: Session
    ) -> None:
        other = await self.added(store)
        await store.purge(0, 1)
        for broken in (one, other):
            write_connection(store).execute(
                "UPDATE sessions SET metadata = '{\"a' WHERE id = ?", (broken.id,)
            )
        # They are counted when a read meets them: to look for them would cost more the more sessions there
        # are.
        assert await store.counts(scope=EVERYTHING) == Counts(2, 0, 0, 0)
        await store.get_session(one.id, scope=EVERYTHING)
        assert await store.counts(scope=EVERYTHING) == Counts(2, 0, 0, 1)
        await store.list_sessions(T0, limit=10, scope=EVERYTHING)
        assert await store.counts(scope=EVERYTHING) == Counts(2, 0, 0, 2)
        await store.delete_session(one.id, scope=EVERYTHING)
        write_connection(store).execute("UPDATE sessions SET metadata = '{}' WHERE id = ?", (other.id,))
        assert await store.counts(scope=EVERYTHING) == Counts(1, 0, 0, 0)

    @pytest.mark.parametrize("metadata", ['{"a', "[]", "null", ""])
    async def test_a_row_that_cannot_be_read_back_does_not_keep_the_others_from_being_listed(
        self, store: SqliteStore, one: Session, metadata: str
    ) -> None:
        other = await self.added(store)
        await store.purge(0, 1)
        write_connection(store).execute("UPDATE sessions SET metadata = ? WHERE id = ?", (metadata, one.id))
        assert [
            found.id for found in (await store.list_sessions(T0, limit=10, scope=EVERYTHING)).sessions
        ] == [other.id]
        assert (await store.counts(scope=EVERYTHING)).invalid == 1

    async def test_a_delivery_that_cannot_be_read_back_holds_up_no_other(
        self, store: SqliteStore, one: Session
    ) -> None:
        other = await self.added(store)
        for target in (one, other):
            await store.apply(target.id, say(), scope=EVERYTHING)
        write_connection(store).execute(
            "UPDATE deliveries SET last_failure = '{' WHERE session_id = ?", (one.id,)
        )
        assert [found.session.id for found in await store.lease_due(one.agent_id, T0, 1)] == [other.id]


class TestSomeoneElseHoldsTheLock:
    async def test_writes_are_unavailable_and_reads_go_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_S", 0.05)
        store = await SqliteStore.open(tmp_path / "store.db", TestClock())
        one = session()
        await put(store, one)
        outsider = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
        outsider.execute("BEGIN IMMEDIATE")
        for call in (
            store.apply(one.id, fall_due, scope=EVERYTHING),
            put(store, session()),
            store.check_writable(),
            store.purge(T0 + MINUTE, 5),
        ):
            with pytest.raises(UnavailableError):
                await call
        assert await store.get_session(one.id, scope=EVERYTHING) == one
        assert (await store.counts(scope=EVERYTHING)).active == 1
        outsider.execute("ROLLBACK")
        outsider.close()
        await store.check_writable()
        await store.close()
