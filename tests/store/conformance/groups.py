"""Many writes at a time."""

import asyncio
import random
import weakref
from functools import partial

import pytest

from server.domain.access import EVERYTHING
from server.domain.errors import DomainError, InvalidContentError, InvalidFieldError, SessionNotFoundError
from server.domain.sessions import Outcome, Session, heartbeat
from server.store.contract import Store
from tests.store.conformance.common import (
    MANY,
    UNKNOWN,
    Misbehaved,
    OnStore,
    break_a_constraint,
    contents,
    history,
    misbehave,
    refuse,
    say,
    without_collector,
)
from tests.unit.samples import T0, logged, put, session


class Groups(OnStore):
    async def test_writes_on_one_session_happen_in_order_of_arrival(self, store: Store, one: Session) -> None:
        results = await self.together(
            store, (store.apply(one.id, say(f"{n}"), scope=EVERYTHING) for n in range(MANY))
        )
        assert [result.entry.sequence for result in results] == list(range(1, MANY + 1))
        assert [result.session.renewal_count for result in results] == list(range(1, MANY + 1))
        assert contents(entry for result in results for entry in logged(result)) == [
            f"{n}" for n in range(MANY)
        ]
        assert await history(store, one) == [entry for result in results for entry in logged(result)]
        assert await store.get_session(one.id, scope=EVERYTHING) == results[-1].session

    async def test_writes_on_many_sessions_keep_the_order_of_each(self, store: Store) -> None:
        many = [await self.added(store) for _ in range(20)]
        order = random.Random(7).choices(many, k=MANY)
        results = await self.together(
            store, (store.apply(target.id, say(f"{n}"), scope=EVERYTHING) for n, target in enumerate(order))
        )
        for target in many:
            own = [
                (n, result)
                for n, (chosen, result) in enumerate(zip(order, results, strict=True))
                if chosen is target
            ]
            assert [result.entry.sequence for _, result in own] == list(range(1, len(own) + 1))
            assert contents(await history(store, target)) == [f"{n}" for n, _ in own]
            assert await store.get_session(target.id, scope=EVERYTHING) == (
                own[-1][1].session if own else target
            )

    async def test_one_that_raises_does_not_disturb_the_others(self, store: Store, one: Session) -> None:
        other = await self.added(store)
        rules = [say("0"), refuse, say("1"), misbehave, say("2"), break_a_constraint, say("3"), say("")]
        results = await self.together(
            store,
            [store.apply(target.id, rule, scope=EVERYTHING) for rule in rules for target in (one, other)]
            + [store.apply(UNKNOWN, say(), scope=EVERYTHING)],
        )
        *results, unknown = results
        assert isinstance(unknown, SessionNotFoundError)
        for target, own in ((one, results[::2]), (other, results[1::2])):
            good = [own[n] for n in (0, 2, 4, 6)]
            assert [result.entry.sequence for result in good] == [1, 2, 3, 4]
            assert [type(own[n]) for n in (1, 3, 7)] == [InvalidFieldError, Misbehaved, InvalidContentError]
            assert isinstance(own[5], Exception)
            assert contents(await history(store, target)) == ["0", "1", "2", "3"]
            assert await store.get_session(target.id, scope=EVERYTHING) == own[6].session

    async def test_what_the_database_refuses_is_not_written_at_all(self, store: Store, one: Session) -> None:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - what it is, is the back end's
            await store.apply(one.id, break_a_constraint, scope=EVERYTHING)
        assert not isinstance(caught.value, DomainError)
        assert await store.get_session(one.id, scope=EVERYTHING) == one
        assert (await store.list_messages(one, limit=5)).messages == []
        assert contents(logged(await store.apply(one.id, say("good"), scope=EVERYTHING))) == ["good"]

    async def test_text_that_cannot_be_stored_fails_alone(self, store: Store, one: Session) -> None:
        results = await self.together(
            store,
            [store.apply(one.id, rule, scope=EVERYTHING) for rule in (say("0"), say("\ud800"), say("1"))],
        )
        assert isinstance(results[1], Exception)
        assert contents(await history(store, one)) == ["0", "1"]
        assert [results[n].entry.sequence for n in (0, 2)] == [1, 2]

    async def test_a_delete_among_writes_ends_those_behind_it(self, store: Store, one: Session) -> None:
        other = await self.added(store)
        await store.apply(one.id, say("before"), scope=EVERYTHING)
        results = await self.together(
            store,
            [
                store.apply(one.id, say("a"), scope=EVERYTHING),
                store.apply(other.id, say("x"), scope=EVERYTHING),
                store.delete_session(one.id, scope=EVERYTHING),
                store.apply(one.id, say("b"), scope=EVERYTHING),
                store.delete_session(one.id, scope=EVERYTHING),
                store.apply(other.id, say("y"), scope=EVERYTHING),
            ],
        )
        assert results[0].entry.sequence == 2
        assert results[2] is None
        assert [type(results[n]) for n in (3, 4)] == [SessionNotFoundError, SessionNotFoundError]
        with pytest.raises(SessionNotFoundError):
            await store.get_session(one.id, scope=EVERYTHING)
        assert (await store.list_messages(one, limit=5)).messages == []
        assert contents(await history(store, other)) == ["x", "y"]

    async def test_a_session_lives_its_life_within_one_moment(self, store: Store) -> None:
        new, stays = session(), session()
        results = await self.together(
            store,
            [
                store.apply(new.id, say("too early"), scope=EVERYTHING),
                put(store, new),
                store.apply(new.id, say("a"), scope=EVERYTHING),
                store.delete_session(new.id, scope=EVERYTHING),
                put(store, stays),
                store.apply(stays.id, say("b"), scope=EVERYTHING),
                store.apply(stays.id, heartbeat, scope=EVERYTHING),
            ],
        )
        assert isinstance(results[0], SessionNotFoundError)
        assert (results[1], results[3], results[4]) == (Outcome(new), None, Outcome(stays))
        with pytest.raises(SessionNotFoundError):
            await store.get_session(new.id, scope=EVERYTHING)
        assert await store.get_session(stays.id, scope=EVERYTHING) == results[6].session
        assert contents(await history(store, stays)) == ["b"]

    async def test_creates_at_the_same_time_are_all_made(self, store: Store) -> None:
        new = [session(T0 + n) for n in range(300)]
        assert await self.together(store, map(partial(put, store), new)) == list(map(Outcome, new))
        assert (await store.list_sessions(T0, limit=1000, scope=EVERYTHING)).sessions == new

    async def test_cancelled_calls_leave_no_trace_of_half_a_write(self, store: Store, one: Session) -> None:
        async with self.held(store):
            tasks = [
                asyncio.ensure_future(store.apply(one.id, say(f"{n}"), scope=EVERYTHING)) for n in range(MANY)
            ]
            await asyncio.sleep(0)
            for task in tasks[::3]:
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        kept = [result.entry for result in results if isinstance(result, Outcome)]
        assert len(kept) >= MANY - len(tasks[::3])
        log = await history(store, one)
        assert [entry.sequence for entry in log] == list(range(1, len(log) + 1))
        assert len(set(contents(log))) == len(log)
        assert [entry for entry in log if entry in kept] == kept
        assert (await store.get_session(one.id, scope=EVERYTHING)).last_sequence == len(log)

    @pytest.mark.parametrize("kind", [InvalidContentError, Misbehaved])
    async def test_an_error_that_nobody_waits_for_is_kept_by_nobody(
        self, store: Store, one: Session, kind: type[Exception]
    ) -> None:
        loop = asyncio.get_running_loop()
        asked: list[asyncio.Future[Outcome]] = []
        left: list[weakref.ref[Exception]] = []

        def give_up_and_raise(_session: Session, _now_ms: int) -> Outcome:
            loop.call_soon_threadsafe(asked[0].cancel)
            error = kind("nobody hears this")
            left.append(weakref.ref(error))
            raise error

        with without_collector():
            asked.append(asyncio.ensure_future(store.apply(one.id, give_up_and_raise, scope=EVERYTHING)))
            await asyncio.wait(asked)
            assert asked[0].cancelled()
            await store.apply(one.id, heartbeat, scope=EVERYTHING)
            # Its cancellation has the frames of the call.
            asked.clear()
            assert [error() for error in left] == [None] * len(left)
