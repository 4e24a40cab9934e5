"""What an operator asks: searches, deliveries, queues; and messages that are delivered anew."""

import asyncio
import itertools
import random
import uuid
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from server.clock import TestClock
from server.domain.access import EVERYTHING, Scope
from server.domain.deliveries import AttemptFailure, Delivery, DeliveryState
from server.domain.errors import (
    DeliveryAnsweredError,
    DeliveryNotFoundError,
    OverloadedError,
    SessionExpiredError,
    SessionNotFoundError,
)
from server.domain.log import message_of
from server.domain.replies import redeliver
from server.domain.sessions import Session, fall_due
from server.domain.timeouts import PartialTimeoutConfig
from server.store.contract import Store
from server.store.inspection import MAX_LOOKED_AT
from server.store.values import (
    AgentQueue,
    DeliveryPage,
    FoundDelivery,
    Place,
    Runs,
    SearchPage,
    SessionFilter,
)
from tests.store.conformance.common import (
    FAR_MS,
    UNKNOWN,
    OnStore,
    again,
    delivery,
    expire,
    first_open,
    give_up,
    respond,
    say,
    stumble,
    take,
)
from tests.unit.samples import AGENT, MINUTE, T0, USER, put, session

ANY = frozenset(DeliveryState)
FAILED = frozenset([DeliveryState.FAILED])
OPEN = frozenset([DeliveryState.PENDING, DeliveryState.LEASED])
ANSWERED = frozenset([DeliveryState.ANSWERED])
OTHER_USER = "22222222-2222-4222-8222-222222222222"
OTHER_AGENT = "00000000-0000-4000-8000-0000000000bb"


async def search(
    store: Store, wanted: SessionFilter, *, limit: int = 5, now_ms: int = T0, scope: Scope = EVERYTHING
) -> tuple[list[str], int]:
    """The ids of all sessions that a search finds, page by page; and of how many pages."""
    found: list[str] = []
    before, pages = None, 0
    while True:
        page = await store.search_sessions(now_ms, wanted, scope=scope, limit=limit, before=before)
        assert len(page.sessions) <= limit
        found += [one.id for one in page.sessions]
        pages, before = pages + 1, page.next
        if before is None:
            return found, pages


Call = Callable[[Place | None], Awaitable[DeliveryPage]]


async def all_of(call: Call) -> list[FoundDelivery]:
    """All that a list of deliveries has, page by page."""
    found: list[FoundDelivery] = []
    after = None
    while True:
        page = await call(after)
        found += page.deliveries
        after = page.next
        if after is None:
            return found


class Inspection(OnStore):
    async def test_every_page_of_a_search_is_that_of_a_model(self, store: Store, clock: TestClock) -> None:
        choose = random.Random(12)
        agents, users = [AGENT, OTHER_AGENT], [USER, OTHER_USER]
        stored: list[Session] = []
        for n in range(30):
            timeout = PartialTimeoutConfig(timeout_minutes=choose.choice([5.0, 30.0]))
            new = session(T0 + n // 3, timeout, agent_id=choose.choice(agents), user_id=choose.choice(users))
            new = new._replace(tenant=choose.choice(["", "a"]))
            await put(store, new)
            stored.append(new)
        clock.set_ms(T0 + 6 * MINUTE)
        for n, one in enumerate(stored):
            if one.timeout.timeout_minutes == 5.0:
                stored[n] = (await store.apply(one.id, fall_due, scope=EVERYTHING)).session
        await store.delete_session(stored.pop(7).id, scope=EVERYTHING)
        stored.sort(key=lambda one: (one.created_at_ms, one.id), reverse=True)
        filters = itertools.product(
            [None, *users],
            [None, *agents, UNKNOWN],
            [None, True, False],
            [(-FAR_MS, FAR_MS), (T0 + 2, T0 + 7), (T0 + 5, T0 + 5)],
            ["", stored[3].id[0], stored[4].id, UNKNOWN],
            [EVERYTHING, Scope("a"), Scope("", USER), Scope("b")],
        )
        for user_id, agent_id, is_expired, (start, end), prefix, scope in filters:
            wanted = SessionFilter(user_id, agent_id, is_expired, start, end, prefix)
            model = [
                one.id
                for one in stored
                if user_id in (None, one.user_id)
                and agent_id in (None, one.agent_id)
                and is_expired in (None, one.expiry_logged)
                and start <= one.created_at_ms < end
                and one.id.startswith(prefix)
                and scope.has(one)
            ]
            assert (await search(store, wanted, now_ms=clock.now_ms(), scope=scope))[0] == model
        for limit in (1, 2, 28, 29, 30):
            found, _ = await search(store, SessionFilter(), limit=limit, now_ms=clock.now_ms())
            assert found == [one.id for one in stored]

    async def test_a_session_is_found_as_it_is_now(self, store: Store, one: Session) -> None:
        now = (await store.apply(one.id, say(), scope=EVERYTHING)).session
        page = await store.search_sessions(T0, SessionFilter(), scope=EVERYTHING, limit=1)
        assert page == SearchPage([now], None)

    async def test_an_overdue_session_is_not_live_and_not_expired_before_that_is_written(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        now_ms = one.expires_at_ms

        async def states() -> list[bool]:
            searched = [
                await search(store, SessionFilter(is_expired=is_expired), now_ms=now_ms)
                for is_expired in (None, False, True)
            ]
            return [found == [one.id] for found, _ in searched]

        assert await states() == [True, False, False]
        clock.set_ms(now_ms)
        await store.apply(one.id, fall_due, scope=EVERYTHING)
        assert await states() == [True, False, True]

    async def test_a_page_of_large_sessions_is_short(self, store: Store) -> None:
        metadata = '{"a":"' + "x" * 10_000 + '"}'
        stored = [session(T0 + n, metadata=metadata) for n in range(100)]
        await asyncio.gather(*map(partial(put, store), stored))
        found, pages = await search(store, SessionFilter(), limit=100)
        assert (found, pages) == ([one.id for one in reversed(stored)], 2)

    async def test_a_page_looks_only_at_so_many_that_are_overdue(self, store: Store) -> None:
        over = [session(T0 + n) for n in range(MAX_LOOKED_AT + 5)]
        live = await self.added(store, T0 - 1, PartialTimeoutConfig(timeout_minutes=600.0))
        await asyncio.gather(*map(partial(put, store), over))
        wanted, now_ms = SessionFilter(is_expired=False), over[-1].expires_at_ms
        first = await store.search_sessions(now_ms, wanted, scope=EVERYTHING, limit=3)
        assert first.sessions == []
        assert first.next
        assert await search(store, wanted, now_ms=now_ms) == ([live.id], 2)

    async def test_ids_that_very_many_begin_with(self, store: Store) -> None:
        many = [
            session(T0 + n, session_id=f"ab{n:06x}-0000-4000-8000-000000000000")
            for n in range(MAX_LOOKED_AT + 5)
        ]
        others = [session(T0 + n, session_id=f"cd{n:06x}-0000-4000-8000-000000000000") for n in range(5)]
        await asyncio.gather(*map(partial(put, store), [*many, *others]))
        newest_first = [one.id for one in reversed(many)]
        for prefix, expected in (
            ("ab", newest_first),
            ("ab0000", newest_first[-256:]),
            ("cd", [one.id for one in reversed(others)]),
            (many[9].id, [many[9].id]),
            ("ac", []),
            ("f", []),
        ):
            found, _ = await search(store, SessionFilter(id_prefix=prefix), limit=400)
            assert found == expected, prefix

    async def test_the_deliveries_of_a_session(self, store: Store, one: Session, clock: TestClock) -> None:
        other = await self.added(store)
        await store.apply(other.id, say(), scope=EVERYTHING)
        ids = [str(uuid.uuid4()) for _ in range(6)]
        for n, message_id in enumerate(ids):
            clock.set_ms(T0 + n)
            await store.apply(one.id, say(message_id=message_id), scope=EVERYTHING)
        for sequence, rules in ((1, (take, respond())), (2, (give_up,)), (3, (take, stumble)), (5, (take,))):
            for rule in rules:
                await store.apply_delivery(one.id, sequence, rule, scope=EVERYTHING)
        now = await store.get_session(one.id, scope=EVERYTHING)
        model = [
            FoundDelivery(await delivery(store, one, n + 1), ids[n], T0 + n, now.expires_at_ms)
            for n in reversed(range(6))
        ]
        for state, limit in itertools.product([ANY, FAILED, OPEN, ANSWERED], [1, 2, 6, 7]):
            found = await all_of(
                lambda after, state=state, limit=limit: store.list_deliveries(
                    now, limit=limit, state=state, after=after
                )
            )
            assert found == [found for found in model if found.delivery.state in state]
        await store.apply(one.id, expire, scope=EVERYTHING)
        ended = await store.get_session(one.id, scope=EVERYTHING)
        page = await store.list_deliveries(ended, limit=9, state=FAILED)
        assert [found.delivery.sequence for found in page.deliveries] == [6, 5, 4, 3, 2]
        assert {found.session_end_ms for found in page.deliveries} == {0}
        await store.delete_session(one.id, scope=EVERYTHING)
        assert await store.list_deliveries(ended, limit=9, state=ANY) == DeliveryPage([], None)

    async def test_a_page_of_deliveries_passes_only_so_many(self, store: Store, one: Session) -> None:
        await store.apply(one.id, say(), scope=EVERYTHING)
        await store.apply_delivery(one.id, 1, respond(), scope=EVERYTHING)
        await asyncio.gather(
            *(store.apply(one.id, say(), scope=EVERYTHING) for _ in range(MAX_LOOKED_AT + 3))
        )
        now = await store.get_session(one.id, scope=EVERYTHING)
        found = await all_of(lambda after: store.list_deliveries(now, limit=5, state=ANSWERED, after=after))
        assert [one.delivery.sequence for one in found] == [1]

    async def test_what_an_agent_has_open(self, store: Store, clock: TestClock) -> None:
        targets = []
        for n, tenant in enumerate(("", "a", "", "b")):
            target = session(T0)._replace(tenant=tenant)
            await put(store, target)
            targets.append(target)
            for _ in range(3):
                clock.set_ms(T0 + 10 * n)
                await store.apply(target.id, say(), scope=EVERYTHING)
        other = await self.added(store, agent_id=OTHER_AGENT)
        await store.apply(other.id, say(), scope=EVERYTHING)
        clock.set_ms(T0 + 100)
        # Its turn comes after those that have not been tried yet.
        await store.apply_delivery(targets[0].id, 1, stumble, scope=EVERYTHING)
        await store.apply_delivery(targets[1].id, 1, respond(), scope=EVERYTHING)
        order = [(2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (3, 3), (1, 2), (1, 3), (0, 1), (0, 2), (0, 3)]
        for scope, limit in itertools.product([EVERYTHING, Scope(""), Scope("b"), Scope("x")], [1, 2, 4, 20]):
            found = await all_of(
                lambda after, scope=scope, limit=limit: store.list_agent_deliveries(
                    AGENT, scope=scope, limit=limit, failed=False, after=after
                )
            )
            assert [(one.delivery.session_id, one.delivery.sequence) for one in found] == [
                (targets[n].id, sequence) for n, sequence in order if scope.has(targets[n])
            ]
        assert await store.describe_queue(AGENT, scope=EVERYTHING) == AgentQueue(11, T0, 0)
        assert await store.describe_queue(AGENT, scope=Scope("a")) == AgentQueue(2, T0 + 11, 0)
        assert await store.describe_queue(UNKNOWN, scope=EVERYTHING) == AgentQueue(0, None, 0)

    async def test_what_has_failed_of_an_agent(self, store: Store) -> None:
        targets = []
        for n, tenant in enumerate(("", "a", "", "b")):
            target = session(T0 + n)._replace(tenant=tenant)
            await put(store, target)
            targets.append(target)
            for sequence in (1, 2, 3):
                await store.apply(target.id, say(), scope=EVERYTHING)
                if sequence != 2:
                    last = (await store.get_session(target.id, scope=EVERYTHING)).last_sequence
                    await store.apply_delivery(target.id, last, give_up, scope=EVERYTHING)
        # The second message is the third entry, and waits.
        order = [(3, 1), (3, 4), (1, 1), (1, 4), (2, 1), (2, 4), (0, 1), (0, 4)]

        async def failed(scope: Scope, limit: int) -> list[tuple[str, int]]:
            found = await all_of(
                lambda after: store.list_agent_deliveries(
                    AGENT, scope=scope, limit=limit, failed=True, after=after
                )
            )
            return [(one.delivery.session_id, one.delivery.sequence) for one in found]

        for scope, limit in itertools.product([EVERYTHING, Scope(""), Scope("a"), Scope("x")], [1, 2, 3, 20]):
            expected = [(targets[n].id, sequence) for n, sequence in order if scope.has(targets[n])]
            assert await failed(scope, limit) == expected
        assert (await store.describe_queue(AGENT, scope=EVERYTHING)).failed == 8
        assert (await store.describe_queue(AGENT, scope=Scope(""))).failed == 4
        await store.apply(targets[3].id, expire, scope=EVERYTHING)
        await store.delete_session(targets[1].id, scope=EVERYTHING)
        await store.apply_delivery(targets[2].id, 1, respond(), scope=EVERYTHING)
        await store.apply_delivery(targets[2].id, 4, again, scope=EVERYTHING)
        assert await failed(EVERYTHING, 9) == [(targets[0].id, 1), (targets[0].id, 4)]
        assert (await store.describe_queue(AGENT, scope=EVERYTHING)).failed == 2

    async def test_a_message_is_found_by_its_id_among_the_latest_entries(
        self, store: Store, one: Session
    ) -> None:
        outcome = await store.apply(one.id, say(), scope=EVERYTHING)
        message_id = message_of(outcome.entry).id
        other = await self.added(store)
        assert await store.find_message(outcome.session, message_id) == 1
        for unknown in (UNKNOWN, "", "\0", f"{message_id}\0"):
            assert await store.find_message(outcome.session, unknown) is None
        assert await store.find_message(other, message_id) is None
        await asyncio.gather(
            *(store.apply(one.id, say(), scope=EVERYTHING) for _ in range(MAX_LOOKED_AT - 1))
        )
        full = await store.get_session(one.id, scope=EVERYTHING)
        assert await store.find_message(full, message_id) == 1
        beyond = (await store.apply(one.id, say(), scope=EVERYTHING)).session
        assert await store.find_message(beyond, message_id) is None
        await store.delete_session(one.id, scope=EVERYTHING)
        assert await store.find_message(full, message_id) is None

    async def test_nobody_knows_of_runs_at_first(self, store: Store) -> None:
        assert await store.last_runs() == Runs(None, None)

    async def test_a_failed_message_is_delivered_anew_before_later_ones(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        for _ in range(3):
            await store.apply(one.id, say(), scope=EVERYTHING)
        lose = partial(stumble, connection_lost=True)
        for rule in (take, lose, take, give_up):
            await store.apply_delivery(one.id, 1, rule, scope=EVERYTHING)
        failed = await delivery(store, one, 1)
        assert (failed.state, failed.attempts, failed.lost_connections) == (DeliveryState.FAILED, 1, 1)
        before = await store.get_session(one.id, scope=EVERYTHING)
        assert (before.open_deliveries, before.failed_deliveries) == (2, 1)
        assert (await first_open(store, one)).delivery.sequence == 2
        clock.set_ms(T0 + 7)
        outcome = await store.apply_delivery(one.id, 1, again, scope=EVERYTHING)
        known = AttemptFailure(T0, 1, "broken", reply_id="")
        anew = Delivery(one.id, 1, DeliveryState.PENDING, 0, T0 + 7, 0, known)
        assert (outcome.delivery, outcome.entry, outcome.opened) == (anew, None, 1)
        assert await delivery(store, one, 1) == anew
        after = await store.get_session(one.id, scope=EVERYTHING)
        assert after == before._replace(open_deliveries=3, failed_deliveries=0)
        assert (await first_open(store, one)).delivery == anew
        assert await store.next_delivery_ms(one.agent_id) == T0 + 7
        assert await store.count_open() == {one.agent_id: 3}
        # Whoever asks again finds it open, and changes nothing.
        repeated = await store.apply_delivery(one.id, 1, again, scope=EVERYTHING)
        assert (repeated.session, repeated.delivery, repeated.opened) == (after, None, 0)
        await store.apply_delivery(one.id, 1, respond(), scope=EVERYTHING)
        assert (await store.find_answer(one.id, 1, scope=EVERYTHING)).message
        with pytest.raises(DeliveryAnsweredError):
            await store.apply_delivery(one.id, 1, again, scope=EVERYTHING)

    async def test_a_message_that_fails_again_can_be_delivered_once_more(
        self, store: Store, one: Session
    ) -> None:
        await store.apply(one.id, say(), scope=EVERYTHING)
        for _ in range(3):
            await store.apply_delivery(one.id, 1, give_up, scope=EVERYTHING)
            assert (await store.get_session(one.id, scope=EVERYTHING)).failed_deliveries == 1
            await store.apply_delivery(one.id, 1, again, scope=EVERYTHING)
            assert (await store.get_session(one.id, scope=EVERYTHING)).failed_deliveries == 0
        log = await store.list_entries(one.id, after_sequence=0, limit=9, scope=EVERYTHING)
        assert [entry.answers for entry in log] == [None, 1, 1, 1]

    async def test_what_cannot_be_delivered_anew(self, store: Store, one: Session, clock: TestClock) -> None:
        await store.apply(one.id, say(), scope=EVERYTHING)
        await store.apply_delivery(one.id, 1, give_up, scope=EVERYTHING)
        await store.apply(one.id, say(), scope=EVERYTHING)
        with pytest.raises(OverloadedError):
            await store.apply_delivery(one.id, 1, partial(redeliver, max_open=1), scope=EVERYTHING)
        with pytest.raises(DeliveryNotFoundError):
            await store.apply_delivery(one.id, 2, again, scope=EVERYTHING)
        for scope in (Scope("other"), Scope(None, OTHER_USER)):
            with pytest.raises(SessionNotFoundError):
                await store.apply_delivery(one.id, 1, again, scope=scope)
        assert (await delivery(store, one, 1)).state is DeliveryState.FAILED
        clock.set_ms((await store.get_session(one.id, scope=EVERYTHING)).expires_at_ms)
        with pytest.raises(SessionExpiredError):
            await store.apply_delivery(one.id, 1, again, scope=EVERYTHING)

    async def test_a_message_that_fails_and_is_delivered_anew_within_one_group(
        self, store: Store, one: Session
    ) -> None:
        await store.apply(one.id, say(), scope=EVERYTHING)
        results = await self.together(
            store,
            [
                store.apply_delivery(one.id, 1, give_up, scope=EVERYTHING),
                store.apply(one.id, say(), scope=EVERYTHING),
                store.apply_delivery(one.id, 1, again, scope=EVERYTHING),
                store.apply_delivery(one.id, 1, again, scope=EVERYTHING),
            ],
        )
        assert [result.opened for result in results] == [-1, 1, 1, 0]
        assert (await first_open(store, one)).delivery.sequence == 1
        now = await store.get_session(one.id, scope=EVERYTHING)
        assert (now.open_deliveries, now.failed_deliveries) == (2, 0)
