"""Lists and counts."""

import asyncio
import itertools
import random
import uuid
from functools import partial

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.sessions import Session, fall_due, heartbeat
from server.domain.timeouts import PartialTimeoutConfig
from server.store.contract import MAX_PASSED, Store
from server.store.values import Counts, Position, SessionPage
from tests.store.conformance.common import UNKNOWN, OnStore, expire
from tests.unit.samples import MINUTE, T0, put, session


class Lists(OnStore):
    async def test_every_page_of_sessions_is_that_of_a_model(self, store: Store, clock: TestClock) -> None:
        choose = random.Random(11)
        agents, users = [str(uuid.UUID(int=n)) for n in (1, 2)], [str(uuid.UUID(int=n)) for n in (3, 4)]
        stored: list[Session] = []
        for n in range(24):
            timeout = PartialTimeoutConfig(timeout_minutes=choose.choice([5.0, 30.0]))
            new = session(T0 + n // 3, timeout, agent_id=choose.choice(agents), user_id=choose.choice(users))
            await put(store, new)
            stored.append(new)
        clock.set_ms(T0 + 4 * MINUTE)
        for n in (3, 4):
            stored[n] = (await store.apply(stored[n].id, heartbeat, scope=EVERYTHING)).session
        stored.sort(key=lambda one: (one.created_at_ms, one.id))
        instants = (T0, T0 + 5 * MINUTE + 4, T0 + 60 * MINUTE)
        for now, agent_id, user_id in itertools.product(instants, [None, *agents, UNKNOWN], [None, *users]):
            matching = [
                one for one in stored if agent_id in (None, one.agent_id) and user_id in (None, one.user_id)
            ]
            model = [one for one in matching if one.expires_at_ms > now]
            for limit in (1, 2, 5, 23, 24, 25):
                met: list[Session] = []
                after = None
                while True:
                    page = await store.list_sessions(
                        now, limit=limit, after=after, agent_id=agent_id, user_id=user_id, scope=EVERYTHING
                    )
                    # Nobody has written yet which have expired.
                    assert page.total == len(matching)
                    assert page.sessions == model[len(met) : len(met) + limit]
                    met += page.sessions
                    assert bool(page.next) == (len(met) < len(model))
                    if not page.next:
                        break
                    after = page.next
                assert met == model

    async def test_a_page_of_sessions_goes_on_behind_one_that_is_gone(self, store: Store) -> None:
        stored = [await self.added(store, T0 + n) for n in range(3)]
        await store.delete_session(stored[1].id, scope=EVERYTHING)
        page = await store.list_sessions(
            T0, limit=5, after=Position(stored[1].created_at_ms, stored[1].id), scope=EVERYTHING
        )
        assert page == SessionPage([stored[2]], None, 2)

    async def test_a_page_of_large_sessions_stops_early(self, store: Store) -> None:
        metadata = '{"a":"' + "x" * 10_000 + '"}'
        stored = [session(T0 + n, metadata=metadata) for n in range(100)]
        await asyncio.gather(*map(partial(put, store), stored))
        first = await store.list_sessions(T0, limit=100, scope=EVERYTHING)
        assert first.total == 100
        assert 55 <= len(first.sessions) <= 65
        second = await store.list_sessions(T0, limit=100, after=first.next, scope=EVERYTHING)
        assert second.next is None
        assert first.sessions + second.sessions == stored

    async def test_a_session_whose_expiry_is_in_the_log_is_not_active_even_if_the_clock_goes_back(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        clock.set_ms(one.expires_at_ms)
        await store.apply(one.id, fall_due, scope=EVERYTHING)
        assert (await store.list_sessions(T0, limit=5, scope=EVERYTHING)).total == 0
        assert await store.counts(scope=EVERYTHING) == Counts(0, 1, 0, 0)

    async def test_a_page_passes_only_so_many_that_have_expired_and_do_not_say_so(
        self, store: Store, clock: TestClock
    ) -> None:
        over = [session(T0 + n) for n in range(MAX_PASSED + 5)]
        await asyncio.gather(*map(partial(put, store), over))
        now_ms = over[-1].expires_at_ms
        live = [await self.added(store, now_ms + n) for n in range(2)]
        first = await store.list_sessions(now_ms, limit=1, scope=EVERYTHING)
        assert first == SessionPage(
            [], Position(over[MAX_PASSED - 1].created_at_ms, over[MAX_PASSED - 1].id), len(over) + 2
        )
        second = await store.list_sessions(now_ms, limit=1, after=first.next, scope=EVERYTHING)
        assert second.sessions == [live[0]]
        assert (await store.list_sessions(now_ms, limit=1, after=second.next, scope=EVERYTHING)).sessions == [
            live[1]
        ]
        clock.set_ms(now_ms)
        await asyncio.gather(*(store.apply(one.id, fall_due, scope=EVERYTHING) for one in over))
        assert await store.list_sessions(now_ms, limit=2, scope=EVERYTHING) == SessionPage(live, None, 2)

    async def test_counts_follow_each_session(self, store: Store, clock: TestClock) -> None:
        assert await store.counts(scope=EVERYTHING) == Counts(0, 0, 0, 0)
        first = await self.added(store)
        second = await self.added(store, T0, PartialTimeoutConfig(timeout_minutes=20.0))
        third = await self.added(
            store, T0, PartialTimeoutConfig(timeout_minutes=20.0, warning_threshold_minutes=15.5)
        )
        assert await store.counts(scope=EVERYTHING) == Counts(3, 0, 0, 0)
        steps = [
            (4.5, third, fall_due, Counts(3, 0, 1, 0)),
            (15, second, fall_due, Counts(3, 0, 2, 0)),
            (16, third, heartbeat, Counts(3, 0, 1, 0)),
            (17, first, heartbeat, Counts(3, 0, 1, 0)),
            (20, second, fall_due, Counts(2, 1, 0, 0)),
            (45, third, fall_due, Counts(1, 2, 0, 0)),
            (46, first, fall_due, Counts(1, 2, 1, 0)),
            (47, first, fall_due, Counts(0, 3, 0, 0)),
        ]
        for minutes, one, rule, expected in steps:
            clock.set_ms(T0 + round(minutes * MINUTE))
            await store.apply(one.id, rule, scope=EVERYTHING)
            assert await store.counts(scope=EVERYTHING) == expected, minutes
        await store.delete_session(first.id, scope=EVERYTHING)
        assert await store.counts(scope=EVERYTHING) == Counts(0, 2, 0, 0)

    async def test_counts_where_much_happens_in_one_commit(self, store: Store, clock: TestClock) -> None:
        mine = [await self.added(store, agent_id=UNKNOWN) for _ in range(4)]
        kept, gone = session(agent_id=UNKNOWN), session(agent_id=UNKNOWN)
        clock.set_ms(mine[0].expires_at_ms - 1)
        calls = [
            put(store, kept),
            put(store, gone),
            store.delete_session(gone.id, scope=EVERYTHING),
            store.apply(mine[0].id, fall_due, scope=EVERYTHING),
            store.apply(mine[0].id, heartbeat, scope=EVERYTHING),
            store.apply(mine[1].id, fall_due, scope=EVERYTHING),
            store.delete_session(mine[1].id, scope=EVERYTHING),
            store.apply(mine[2].id, fall_due, scope=EVERYTHING),
            store.apply(mine[3].id, expire, scope=EVERYTHING),
        ]
        assert [result for result in await self.together(store, calls) if isinstance(result, Exception)] == []
        assert await store.counts(scope=EVERYTHING) == Counts(3, 1, 1, 0)
        assert (await store.list_sessions(T0, limit=1, agent_id=UNKNOWN, scope=EVERYTHING)).total == 3
        assert (await store.list_sessions(T0, limit=1, user_id=UNKNOWN, scope=EVERYTHING)).total == 0
        clock.set_ms(clock.now_ms() + 10**9)
        while await store.purge(clock.now_ms(), 1):
            continue
        assert await store.counts(scope=EVERYTHING) == Counts(3, 0, 1, 0)
        await store.clear_sessions()
        assert await store.counts(scope=EVERYTHING) == Counts(0, 0, 0, 0)
        assert (await store.list_sessions(T0, limit=1, agent_id=UNKNOWN, scope=EVERYTHING)).total == 0
