"""Expiry and the purge."""

from contextlib import suppress

import pytest

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.errors import SessionNotFoundError
from server.domain.idempotency import RequestKey
from server.domain.messages import Draft, Reply
from server.domain.sessions import Outcome, Session, fall_due, heartbeat
from server.domain.timeouts import PartialTimeoutConfig
from server.store.contract import PUT_OFF_MS, Store
from server.store.values import Counts
from tests.store.conformance.common import (
    OnStore,
    agent,
    answer,
    first_open,
    history,
    knows,
    misbehave,
    patch,
    say,
)
from tests.unit.samples import MINUTE, T0, put, session


class Purge(OnStore):
    async def test_what_is_due_is_taken_the_longest_due_first(self, store: Store, clock: TestClock) -> None:
        taken: list[str] = []

        def take_due(start: Session, now_ms: int) -> Outcome:
            taken.append(start.id)
            return fall_due(start, now_ms)

        async def due(now_ms: int, limit: int = 5) -> list[str]:
            clock.set_ms(now_ms)
            taken.clear()
            assert await store.apply_due(take_due, now_ms, limit) == len(taken)
            return list(taken)

        assert await store.next_due_ms() is None
        assert await due(T0) == []
        late, soon, middle = [
            await self.added(store, T0, PartialTimeoutConfig(timeout_minutes=minutes))
            for minutes in (40.0, 20.0, 30.0)
        ]
        assert await store.next_due_ms() == T0 + 15 * MINUTE
        assert await due(T0 + 15 * MINUTE - 1) == []
        assert await due(T0 + 15 * MINUTE) == [soon.id]
        assert (await store.get_session(soon.id, scope=EVERYTHING)).warning_logged
        assert await due(T0 + 15 * MINUTE) == []
        assert await store.next_due_ms() == T0 + 20 * MINUTE
        await store.apply(soon.id, heartbeat, scope=EVERYTHING)
        # The stored deadline may lag behind, but never comes after the true one.
        assert (await store.next_due_ms() or 0) <= T0 + 25 * MINUTE
        await due(T0 + 25 * MINUTE)
        assert {*await due(T0 + 90 * MINUTE, 2)} == {middle.id, soon.id}
        assert await due(T0 + 90 * MINUTE) == [late.id]
        assert all(
            [
                (await store.get_session(one.id, scope=EVERYTHING)).expiry_logged
                for one in (late, soon, middle)
            ]
        )
        assert await due(T0 + 10**9) == []
        assert await store.next_due_ms() is None

    async def test_a_deadline_that_comes_nearer_is_kept(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        await store.apply(one.id, patch(timeout_minutes=10.0), scope=EVERYTHING)
        assert await store.next_due_ms() == T0 + 5 * MINUTE
        clock.set_ms(T0 + 10 * MINUTE)
        assert await store.apply_due(fall_due, clock.now_ms(), 5) == 1
        assert (await store.get_session(one.id, scope=EVERYTHING)).expiry_logged

    async def test_what_cannot_be_dealt_with_is_put_off_and_holds_up_nobody(
        self, store: Store, clock: TestClock
    ) -> None:
        bad, *good = [await self.added(store, T0 + n) for n in range(4)]
        told: list[Outcome] = []
        store.add_listener(lambda commit: told.extend(commit.outcomes))
        clock.set_ms(good[-1].expires_at_ms)

        def fail_one(start: Session, now_ms: int) -> Outcome:
            return misbehave(start, now_ms) if start.id == bad.id else fall_due(start, now_ms)

        assert await store.apply_due(fail_one, clock.now_ms(), 10) == 4
        assert [
            (await store.get_session(one.id, scope=EVERYTHING)).expiry_logged for one in (bad, *good)
        ] == [
            False,
            True,
            True,
            True,
        ]
        assert {outcome.session.id for outcome in told} == {one.id for one in good}
        assert await store.apply_due(fail_one, clock.now_ms(), 10) == 0
        assert await store.next_due_ms() == clock.now_ms() + PUT_OFF_MS
        clock.set_ms(clock.now_ms() + PUT_OFF_MS)
        assert await store.apply_due(fall_due, clock.now_ms(), 10) == 1
        assert (await store.get_session(bad.id, scope=EVERYTHING)).expiry_logged

    @pytest.mark.parametrize("limit", [1, 2, 3, 5, 7, 100])
    async def test_a_purge_removes_what_is_old_in_bounded_steps(
        self, store: Store, clock: TestClock, limit: int
    ) -> None:
        old, older, live = (
            await self.added(store, T0 + 1),
            await self.added(store),
            await self.added(store, T0 + 2),
        )
        for target, count in ((old, 4), (older, 3), (live, 2)):
            for _ in range(count):
                await store.apply(target.id, patch(warning_threshold_minutes=2.0), scope=EVERYTHING)
                await store.apply(target.id, answer(Reply(Draft("r"))), scope=EVERYTHING)
        clock.set_ms(old.expires_at_ms)
        for target in (old, older):
            await store.apply(target.id, fall_due, scope=EVERYTHING)
        removed, steps = 0, 0
        while step := await store.purge(old.expires_at_ms, limit):
            assert 1 <= step <= limit
            removed += step
            steps += 1
            for target, count in ((old, 4), (older, 3)):
                messages = await history(store, target)
                try:
                    assert (await store.get_session(target.id, scope=EVERYTHING)).id == target.id
                    assert len(messages) <= count
                except SessionNotFoundError:
                    assert messages == []
        # Two entries and a delivery for each round; each session and the entry of its expiry.
        assert removed == 4 * 3 + 3 * 3 + 2 * 2
        assert steps >= removed / limit
        for target in (old, older):
            with pytest.raises(SessionNotFoundError):
                await store.get_session(target.id, scope=EVERYTHING)
        assert len(await history(store, live)) == 2
        assert await store.counts(scope=EVERYTHING) == Counts(1, 0, 0, 0)
        assert await store.purge(old.expires_at_ms, limit) == 0

    @pytest.mark.parametrize("limit", [1, 2, 3, 100])
    async def test_purge_takes_the_requests_of_what_it_removes_and_no_others(
        self, store: Store, clock: TestClock, limit: int
    ) -> None:
        old, live = session(), session(T0 + MINUTE)
        for one in (old, live):
            await put(store, one, RequestKey("user", f"create {one.id}", "content"))
            for n in range(2):
                await store.apply(
                    one.id,
                    answer(Reply(Draft("r"))),
                    RequestKey(one.id, f"message {n}", "content"),
                    scope=EVERYTHING,
                )
        clock.set_ms(old.expires_at_ms)
        await store.apply(old.id, fall_due, scope=EVERYTHING)
        removed = 0
        while step := await store.purge(old.expires_at_ms, limit):
            assert 1 <= step <= limit
            removed += step
        # Three requests, two entries with their deliveries, the entry of its expiry, and the session.
        assert removed == 9
        for one, is_known in ((old, False), (live, True)):
            assert await knows(store, RequestKey("user", f"create {one.id}", "content")) is is_known
            assert [await knows(store, RequestKey(one.id, f"message {n}", "content")) for n in range(2)] == [
                is_known
            ] * 2
        anew = session(clock.now_ms())
        assert await put(store, anew, RequestKey("user", f"create {old.id}", "content")) == Outcome(anew)

    async def test_purge_takes_what_expired_at_that_instant_or_before(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        clock.set_ms(one.expires_at_ms)
        expired = (await store.apply(one.id, fall_due, scope=EVERYTHING)).session
        assert await store.purge(one.expires_at_ms - 1, 100) == 0
        assert await store.get_session(one.id, scope=EVERYTHING) == expired
        # The session and the entry of its expiry.
        assert await store.purge(one.expires_at_ms, 100) == 2

    async def test_purge_leaves_a_session_whose_expiry_nobody_has_been_told(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        """A clock that jumps may bring the purge before the expiry.

        Contract: "Warnings and expiries happen when they fall due".
        """
        await store.apply(one.id, say(), scope=EVERYTHING)
        clock.set_ms(one.expires_at_ms + 10**9)
        assert await store.purge(clock.now_ms(), 100) == 0
        assert await first_open(store, one)
        await store.apply(one.id, fall_due, scope=EVERYTHING)
        assert await store.purge(clock.now_ms(), 100) > 0
        with pytest.raises(SessionNotFoundError):
            await store.get_session(one.id, scope=EVERYTHING)

    async def test_a_retention_of_its_own_goes_before_that_of_the_service(
        self, store: Store, clock: TestClock
    ) -> None:
        own = {"none": None, "at once": 0, "shorter": 5 * MINUTE, "longer": 60 * MINUTE}
        made = {name: session()._replace(retention_ms=retention_ms) for name, retention_ms in own.items()}
        for one in made.values():
            await put(store, one)
            assert await store.get_session(one.id, scope=EVERYTHING) == one
            await store.apply(one.id, say(), scope=EVERYTHING)
        end_ms = (await store.get_session(made["none"].id, scope=EVERYTHING)).expires_at_ms
        clock.set_ms(end_ms)
        for one in made.values():
            expired = await store.apply(one.id, fall_due, scope=EVERYTHING)
            assert expired.session.retention_ms == one.retention_ms

        async def left(after_ms: int) -> list[str]:
            while await store.purge(end_ms + after_ms, 3, retention_ms=10 * MINUTE):
                continue
            found = []
            for name, one in made.items():
                with suppress(SessionNotFoundError):
                    await store.get_session(one.id, scope=EVERYTHING)
                    found.append(name)
            return found

        assert await left(-1) == ["none", "at once", "shorter", "longer"]
        assert await left(0) == ["none", "shorter", "longer"]
        assert await left(5 * MINUTE - 1) == ["none", "shorter", "longer"]
        assert await left(5 * MINUTE) == ["none", "longer"]
        assert await left(10 * MINUTE - 1) == ["none", "longer"]
        assert await left(10 * MINUTE) == ["longer"]
        assert await store.counts(scope=EVERYTHING) == Counts(0, 1, 0, 0)
        assert await left(60 * MINUTE - 1) == ["longer"]
        assert await left(60 * MINUTE) == []
        assert await store.counts(scope=EVERYTHING) == Counts(0, 0, 0, 0)

    @pytest.mark.parametrize("limit", [1, 3, 100])
    async def test_a_step_with_both_kinds_keeps_to_its_limit(
        self, store: Store, clock: TestClock, limit: int
    ) -> None:
        for retention_ms in (None, 0, None, MINUTE):
            await put(store, session()._replace(retention_ms=retention_ms))
        clock.set_ms(T0 + 30 * MINUTE)
        assert await store.apply_due(fall_due, clock.now_ms(), 10) == 4
        removed = 0
        while step := await store.purge(clock.now_ms() + MINUTE, limit):
            assert 1 <= step <= limit
            removed += step
        # Each session, and the entry of its expiry.
        assert removed == 8

    async def test_clearing_sessions_keeps_agents(self, store: Store, one: Session) -> None:
        await store.create_agent(agent())
        await store.apply(one.id, say(), scope=EVERYTHING)
        await self.added(store)
        assert (await store.describe()).sessions == 2
        await store.clear_sessions()
        assert (await store.describe()).sessions == 0
        assert await store.counts(scope=EVERYTHING) == Counts(0, 0, 0, 0)
        assert await store.next_due_ms() is None
        assert (await store.list_messages(one, limit=5)).messages == []
        with pytest.raises(SessionNotFoundError):
            await store.apply(one.id, say(), scope=EVERYTHING)
        assert await store.list_agents(limit=5, scope=EVERYTHING) == [agent()]
        await put(store, one)
        assert (await store.apply(one.id, say(), scope=EVERYTHING)).entry.sequence == 1
