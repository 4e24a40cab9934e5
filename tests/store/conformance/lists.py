"""Lists and counts."""

import asyncio
import itertools
import random
import uuid

from server.clock import TestClock
from server.domain.sessions import Session, fall_due, heartbeat
from server.domain.timeouts import PartialTimeoutConfig
from server.store.base import Counts, Position, Store
from tests.store.conformance.common import UNKNOWN, OnStore
from tests.unit.samples import MINUTE, T0, session


class Lists(OnStore):
    async def test_every_page_of_sessions_against_a_model(self, store: Store, clock: TestClock) -> None:
        choose = random.Random(11)
        agents, users = [str(uuid.UUID(int=n)) for n in (1, 2)], [str(uuid.UUID(int=n)) for n in (3, 4)]
        stored: list[Session] = []
        for n in range(24):
            timeout = PartialTimeoutConfig(timeout_minutes=choose.choice([5.0, 30.0]))
            new = session(T0 + n // 3, timeout, agent_id=choose.choice(agents), user_id=choose.choice(users))
            await store.create_session(new)
            stored.append(new)
        clock.set_ms(T0 + 4 * MINUTE)
        for n in (3, 4):
            stored[n] = (await store.apply(stored[n].id, heartbeat)).session
        stored.sort(key=lambda one: (one.created_at_ms, one.id))
        instants = (T0, T0 + 5 * MINUTE + 4, T0 + 60 * MINUTE)
        for now, agent_id, user_id in itertools.product(instants, [None, *agents, UNKNOWN], [None, *users]):
            active = [one for one in stored if one.expires_at_ms > now]
            model = [one for one in active if agent_id in (None, one.agent_id) and user_id in (None, one.user_id)]
            for limit in (1, 2, 5, 23, 24, 25):
                met: list[Session] = []
                while True:
                    after = Position(met[-1].created_at_ms, met[-1].id) if met else None
                    page = await store.list_sessions(now, limit=limit, after=after, agent_id=agent_id, user_id=user_id)
                    assert page.total == len(model)
                    assert page.sessions == model[len(met) : len(met) + limit]
                    met += page.sessions
                    assert page.has_more == (len(met) < len(model))
                    if not page.has_more:
                        break
                assert met == model

    async def test_a_page_of_sessions_goes_on_behind_one_that_is_gone(self, store: Store) -> None:
        stored = [await self.added(store, T0 + n) for n in range(3)]
        await store.delete_session(stored[1].id)
        page = await store.list_sessions(T0, limit=5, after=Position(stored[1].created_at_ms, stored[1].id))
        assert (page.sessions, page.has_more, page.total) == ([stored[2]], False, 2)

    async def test_a_page_of_large_sessions_stops_early(self, store: Store) -> None:
        metadata = '{"a":"' + "x" * 10_000 + '"}'
        stored = [session(T0 + n, metadata=metadata) for n in range(100)]
        await asyncio.gather(*map(store.create_session, stored))
        first = await store.list_sessions(T0, limit=100)
        assert first.has_more
        assert first.total == 100
        assert 55 <= len(first.sessions) <= 65
        last = first.sessions[-1]
        second = await store.list_sessions(T0, limit=100, after=Position(last.created_at_ms, last.id))
        assert not second.has_more
        assert first.sessions + second.sessions == stored

    async def test_a_session_whose_expiry_is_in_the_log_is_not_active_even_if_the_clock_goes_back(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        clock.set_ms(one.expires_at_ms)
        await store.apply(one.id, fall_due)
        assert (await store.list_sessions(T0, limit=5)).total == 0
        assert await store.counts(T0) == Counts(0, 1, 0, 0)

    async def test_counts(self, store: Store) -> None:
        assert await store.counts(T0) == Counts(0, 0, 0, 0)
        await self.added(store)
        await self.added(store, T0, PartialTimeoutConfig(timeout_minutes=20.0))
        await self.added(store, T0, PartialTimeoutConfig(timeout_minutes=20.0, warning_threshold_minutes=15.5))
        at = {
            0: Counts(3, 0, 0, 0),
            4.5: Counts(3, 0, 1, 0),
            15: Counts(3, 0, 2, 0),
            20: Counts(1, 2, 0, 0),
            25: Counts(1, 2, 1, 0),
            30: Counts(0, 3, 0, 0),
        }
        for minutes, expected in at.items():
            assert await store.counts(T0 + round(minutes * MINUTE)) == expected, minutes
        assert await store.counts(T0 + 20 * MINUTE - 1) == Counts(3, 0, 2, 0)
        assert await store.counts(T0 + 25 * MINUTE - 1) == Counts(1, 2, 0, 0)
