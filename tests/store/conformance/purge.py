"""Deadlines and the purge."""

import pytest

from server.clock import TestClock
from server.domain.errors import SessionNotFoundError
from server.domain.idempotency import RequestKey
from server.domain.messages import Draft, Reply
from server.domain.sessions import Outcome, Session, fall_due, heartbeat
from server.domain.timeouts import PartialTimeoutConfig
from server.store.contract import Counts, Store
from tests.store.conformance.common import OnStore, agent, answer, history, knows, patch, say
from tests.unit.samples import MINUTE, T0, put, session


class Purge(OnStore):
    async def test_due(self, store: Store, clock: TestClock) -> None:
        assert await store.next_due_ms() is None
        assert await store.due(T0 + 10**12, 5) == []
        late, soon, middle = [await self.added(store, T0, PartialTimeoutConfig(timeout_minutes=minutes)) for minutes in (40.0, 20.0, 30.0)]
        assert await store.next_due_ms() == T0 + 15 * MINUTE
        assert await store.due(T0 + 15 * MINUTE - 1, 5) == []
        assert await store.due(T0 + 15 * MINUTE, 5) == [soon.id]
        assert await store.due(T0 + 90 * MINUTE, 5) == [soon.id, middle.id, late.id]
        assert await store.due(T0 + 90 * MINUTE, 2) == [soon.id, middle.id]
        clock.set_ms(T0 + 15 * MINUTE)
        await store.apply(soon.id, fall_due)
        assert await store.due(T0 + 20 * MINUTE - 1, 5) == []
        assert await store.next_due_ms() == T0 + 20 * MINUTE
        await store.apply(soon.id, heartbeat)
        assert await store.next_due_ms() == T0 + 25 * MINUTE
        clock.set_ms(T0 + 90 * MINUTE)
        for one in (soon, middle, late):
            await store.apply(one.id, fall_due)
        assert await store.next_due_ms() is None
        assert await store.due(T0 + 10**12, 5) == []

    @pytest.mark.parametrize("limit", [1, 2, 3, 5, 7, 100])
    async def test_purge_in_steps(self, store: Store, clock: TestClock, limit: int) -> None:
        old, older, live = await self.added(store, T0 + 1), await self.added(store), await self.added(store, T0 + 2)
        for target, count in ((old, 4), (older, 3), (live, 2)):
            for _ in range(count):
                await store.apply(target.id, patch(warning_threshold_minutes=2.0))
                await store.apply(target.id, answer(Reply(Draft("r"))))
        clock.set_ms(old.expires_at_ms)
        for target in (old, older):
            await store.apply(target.id, fall_due)
        removed, steps = 0, 0
        while step := await store.purge(old.expires_at_ms, limit):
            assert 1 <= step <= limit
            removed += step
            steps += 1
            for target, count in ((old, 4), (older, 3)):
                messages = await history(store, target)
                try:
                    assert (await store.get_session(target.id)).id == target.id
                    assert len(messages) <= count
                except SessionNotFoundError:
                    assert messages == []
        # Two entries and a delivery for each round; each session and the entry of its expiry.
        assert removed == 4 * 3 + 3 * 3 + 2 * 2
        assert steps >= removed / limit
        for target in (old, older):
            with pytest.raises(SessionNotFoundError):
                await store.get_session(target.id)
        assert len(await history(store, live)) == 2
        assert await store.counts() == Counts(1, 0, 0, 0)
        assert await store.purge(old.expires_at_ms, limit) == 0

    @pytest.mark.parametrize("limit", [1, 2, 3, 100])
    async def test_purge_takes_the_requests_of_what_it_removes_and_no_others(self, store: Store, clock: TestClock, limit: int) -> None:
        old, live = session(), session(T0 + MINUTE)
        for one in (old, live):
            await put(store, one, RequestKey("user", f"create {one.id}", "content"))
            for n in range(2):
                await store.apply(one.id, answer(Reply(Draft("r"))), RequestKey(one.id, f"message {n}", "content"))
        clock.set_ms(old.expires_at_ms)
        await store.apply(old.id, fall_due)
        removed = 0
        while step := await store.purge(old.expires_at_ms, limit):
            assert 1 <= step <= limit
            removed += step
        # Three requests, two entries with their deliveries, the entry of its expiry, and the session.
        assert removed == 9
        for one, is_known in ((old, False), (live, True)):
            assert await knows(store, RequestKey("user", f"create {one.id}", "content")) is is_known
            assert [await knows(store, RequestKey(one.id, f"message {n}", "content")) for n in range(2)] == [is_known] * 2
        anew = session(clock.now_ms())
        assert await put(store, anew, RequestKey("user", f"create {old.id}", "content")) == Outcome(anew)

    async def test_purge_takes_what_expired_at_that_instant_or_before(self, store: Store, one: Session, clock: TestClock) -> None:
        clock.set_ms(one.expires_at_ms)
        expired = (await store.apply(one.id, fall_due)).session
        assert await store.purge(one.expires_at_ms - 1, 100) == 0
        assert await store.get_session(one.id) == expired
        # The session and the entry of its expiry.
        assert await store.purge(one.expires_at_ms, 100) == 2

    async def test_purge_leaves_a_session_whose_expiry_nobody_has_been_told(self, store: Store, one: Session, clock: TestClock) -> None:
        """A clock that jumps may bring the purge before the expiry. Contract: "Warnings and expiries happen when they fall due"."""
        await store.apply(one.id, say())
        clock.set_ms(one.expires_at_ms + 10**9)
        assert await store.purge(clock.now_ms(), 100) == 0
        assert [left.session_id for left in await store.list_open()] == [one.id]
        await store.apply(one.id, fall_due)
        assert await store.purge(clock.now_ms(), 100) > 0
        with pytest.raises(SessionNotFoundError):
            await store.get_session(one.id)

    async def test_clear_sessions(self, store: Store, one: Session) -> None:
        await store.create_agent(agent())
        await store.apply(one.id, say())
        await self.added(store)
        assert (await store.describe()).sessions == 2
        await store.clear_sessions()
        assert (await store.describe()).sessions == 0
        assert await store.counts() == Counts(0, 0, 0, 0)
        assert await store.next_due_ms() is None
        assert (await store.list_messages(one, limit=5)).messages == []
        with pytest.raises(SessionNotFoundError):
            await store.apply(one.id, say())
        assert await store.list_agents(limit=5) == [agent()]
        await put(store, one)
        assert (await store.apply(one.id, say())).entry.sequence == 1
