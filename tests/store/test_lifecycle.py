"""What happens by itself, on a store: deadlines and the purge."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.errors import SessionNotFoundError
from server.domain.sessions import Session
from server.domain.timeouts import PartialTimeoutConfig
from server.lifecycle.expiry import BATCH, ExpiryScheduler
from server.lifecycle.health import HealthMonitor
from server.lifecycle.purge import STEP_ROWS, Purge
from server.store.sqlite.store import SqliteStore
from server.store.values import Counts
from tests.store.conformance.common import say
from tests.support.waiting import PATIENCE_SECONDS
from tests.unit.samples import MINUTE, T0, put, session


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


async def many(store: SqliteStore, count: int, minutes: float = 30.0) -> list[Session]:
    new = [session(T0, PartialTimeoutConfig(timeout_minutes=minutes)) for _ in range(count)]
    await asyncio.gather(*map(partial(put, store), new))
    return new


class TestDeadlines:
    async def test_more_than_a_batch_falls_due_at_once(self, store: SqliteStore, clock: TestClock) -> None:
        new = await many(store, 2 * BATCH + 10)
        clock.set_ms(T0 + 25 * MINUTE)
        await ExpiryScheduler(store, clock).run_due()
        assert all([(await store.get_session(one.id, scope=EVERYTHING)).warning_logged for one in new])
        assert await store.next_due_ms() == T0 + 30 * MINUTE
        clock.set_ms(T0 + 30 * MINUTE)
        await ExpiryScheduler(store, clock).run_due()
        assert all([(await store.get_session(one.id, scope=EVERYTHING)).expiry_logged for one in new])
        assert await store.next_due_ms() is None

    async def test_what_is_not_due_is_left_alone(self, store: SqliteStore, clock: TestClock) -> None:
        (one,) = await many(store, 1)
        clock.set_ms(T0 + 25 * MINUTE - 1)
        await ExpiryScheduler(store, clock).run_due()
        assert await store.get_session(one.id, scope=EVERYTHING) == one

    async def test_it_sees_a_deadline_that_comes_nearer_while_it_waits(
        self, store: SqliteStore, clock: TestClock
    ) -> None:
        (one,) = await many(store, 1)
        running = asyncio.ensure_future(ExpiryScheduler(store, clock).run())
        await asyncio.sleep(0)
        clock.set_ms(T0 + 30 * MINUTE)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (await store.get_session(one.id, scope=EVERYTHING)).expiry_logged:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    async def test_a_session_that_is_deleted_meanwhile_is_passed_over(
        self, store: SqliteStore, clock: TestClock
    ) -> None:
        new = await many(store, 20)
        clock.set_ms(T0 + 30 * MINUTE)
        await asyncio.gather(
            ExpiryScheduler(store, clock).run_due(),
            *(store.delete_session(one.id, scope=EVERYTHING) for one in new[::2]),
        )
        assert await store.counts(scope=EVERYTHING) == Counts(0, 10, 0, 0)
        assert await store.next_due_ms() is None

    async def test_a_clock_that_is_set_back_meanwhile_delays_nothing(
        self, store: SqliteStore, clock: TestClock
    ) -> None:
        """What was due happens, rather than be asked for again and again.

        Contract: "expired from the instant".
        """
        (one,) = await many(store, 1)

        class SetBack(TestClock):
            """Tells a later time than the store's own clock, which has been set back to T0."""

            def now_ms(self) -> int:
                return T0 + 30 * MINUTE

        async with asyncio.timeout(PATIENCE_SECONDS):
            await ExpiryScheduler(store, SetBack()).run_due()
        assert (await store.get_session(one.id, scope=EVERYTHING)).expiry_logged

    async def test_a_session_that_cannot_be_written_does_not_hold_up_the_others(
        self, store: SqliteStore, clock: TestClock, tmp_path: Path
    ) -> None:
        """Contract: "Warnings and expiries happen when they fall due"."""
        bad, *good = await many(store, 5, 30.0)
        (later,) = await many(store, 1, 60.0)
        outsider = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
        outsider.execute(
            "INSERT INTO log (session_id, sequence, at_ms, kind, expires_at_ms, renewal_count, was_renewed, "
            "is_near_expiration) "
            "VALUES (?, 1, 0, 'warning', 0, 0, 0, 0)",
            (bad.id,),
        )
        outsider.close()
        running = asyncio.ensure_future(ExpiryScheduler(store, clock).run())
        async with asyncio.timeout(PATIENCE_SECONDS):
            for now_ms, sessions in ((T0 + 30 * MINUTE, good), (T0 + 60 * MINUTE, [later])):
                clock.set_ms(now_ms)
                for one in sessions:
                    while not (await store.get_session(one.id, scope=EVERYTHING)).expiry_logged:
                        assert not running.done(), "no deadline is ever looked at again"
                        await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class TestPurge:
    async def test_it_removes_what_is_past_its_retention_in_steps(
        self, store: SqliteStore, clock: TestClock
    ) -> None:
        old, kept = (await many(store, 1))[0], (await many(store, 1, 31.0))[0]
        for target in (old, kept):
            await asyncio.gather(
                *(store.apply(target.id, say(), scope=EVERYTHING) for _ in range(STEP_ROWS + 7))
            )
        purge = Purge(store, clock, retention_minutes=10, request_retention_minutes=10, interval_minutes=5)
        clock.set_ms(T0 + 40 * MINUTE - 1)
        await ExpiryScheduler(store, clock).run_due()
        await purge.run_due()
        assert (await store.get_session(old.id, scope=EVERYTHING)).id == old.id
        clock.set_ms(T0 + 40 * MINUTE)
        await purge.run_due()
        with pytest.raises(SessionNotFoundError):
            await store.get_session(old.id, scope=EVERYTHING)
        # Its messages and its expiry.
        assert (await store.get_session(kept.id, scope=EVERYTHING)).last_sequence == STEP_ROWS + 7 + 1
        assert (await store.list_messages(old, limit=1)).messages == []


class TestAnErrorThatNobodyForesaw:
    """Background work outlives it."""

    async def test_the_purge_goes_on(self, store: SqliteStore, clock: TestClock, tmp_path: Path) -> None:
        await many(store, 1)
        clock.set_ms(T0 + 60 * MINUTE)
        await ExpiryScheduler(store, clock).run_due()
        outsider = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
        outsider.execute("ALTER TABLE log RENAME TO elsewhere")
        purge = Purge(
            store, clock, retention_minutes=10, request_retention_minutes=10, interval_minutes=0.0001
        )
        with pytest.raises(sqlite3.OperationalError):
            await purge.run_due()
        running = asyncio.ensure_future(purge.run())
        await asyncio.sleep(0)
        outsider.execute("ALTER TABLE elsewhere RENAME TO log")
        outsider.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await store.counts(scope=EVERYTHING) != Counts(0, 0, 0, 0):
                assert not running.done()
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    async def test_health_goes_on(self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
        async def wrong() -> None:
            raise RuntimeError("wrong")

        told: list[bool] = []
        monitor = HealthMonitor(store, told.append)
        assert await monitor.check()
        with monkeypatch.context() as patch:
            patch.setattr(store, "check_writable", wrong)
            assert not await monitor.check()
            assert not monitor.is_serving
        assert await monitor.check()
        assert monitor.is_serving
        assert told == [True, False, True]
