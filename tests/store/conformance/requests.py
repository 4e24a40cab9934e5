"""Requests that may be repeated."""

import pytest

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.errors import (
    EtagMismatchError,
    InvalidContentError,
    RequestIdReusedError,
    SessionNotFoundError,
)
from server.domain.idempotency import RequestKey, request_key
from server.domain.sessions import Outcome, Session, etag
from server.store.contract import Store
from server.store.values import Commit
from tests.store.conformance.common import (
    MANY,
    OnStore,
    again,
    contents,
    give_up,
    history,
    knows,
    respond,
    say,
    take,
)
from tests.unit.samples import MINUTE, T0, put, session


class Requests(OnStore):
    @staticmethod
    def asked(request_id: str = "r", content: str = "c", scope: str = "s") -> RequestKey:
        made = request_key(scope, request_id, content)
        assert made is not None
        return made

    async def test_a_message_that_is_sent_again_is_the_first_one(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        first = await store.apply(one.id, say("hi"), self.asked(), scope=EVERYTHING)
        clock.set_ms(T0 + MINUTE)
        commits: list[Commit] = []
        store.add_listener(commits.append)
        again = await store.apply(one.id, say("hi"), self.asked(), scope=EVERYTHING)
        assert (first.replayed, again.replayed) == (False, True)
        assert again.entry == first.entry
        assert not any(commit.outcomes for commit in commits)
        assert await store.get_session(one.id, scope=EVERYTHING) == first.session

    async def test_of_the_same_request_at_the_same_time_one_has_its_effect(
        self, store: Store, one: Session
    ) -> None:
        results = await self.together(
            store, [store.apply(one.id, say("hi"), self.asked(), scope=EVERYTHING) for _ in range(MANY)]
        )
        assert sorted(result.replayed for result in results) == [False] + [True] * (MANY - 1)
        assert len({result.entry for result in results}) == 1
        assert contents(await history(store, one)) == ["hi"]

    async def test_a_request_id_with_other_content_is_refused(self, store: Store, one: Session) -> None:
        await store.apply(one.id, say("hi"), self.asked(), scope=EVERYTHING)
        for call in (
            store.apply(one.id, say("ho"), self.asked(content="d"), scope=EVERYTHING),
            put(store, session(), self.asked(content="d")),
        ):
            with pytest.raises(RequestIdReusedError):
                await call
        assert contents(await history(store, one)) == ["hi"]

    async def test_request_ids_are_of_their_scope(self, store: Store, one: Session) -> None:
        for scope in ("s", "t"):
            assert not await knows(store, self.asked(scope=scope))
            assert not (
                await store.apply(
                    one.id, say(scope), self.asked(scope=scope, content=scope), scope=EVERYTHING
                )
            ).replayed
            assert await knows(store, self.asked(scope=scope))
        assert contents(await history(store, one)) == ["s", "t"]

    async def test_what_a_rule_refuses_is_not_remembered(self, store: Store, one: Session) -> None:
        with pytest.raises(InvalidContentError):
            await store.apply(one.id, say(""), self.asked(), scope=EVERYTHING)
        assert not (
            await store.apply(one.id, say("hi"), self.asked(content="other"), scope=EVERYTHING)
        ).replayed

    async def test_a_message_is_the_first_one_also_once_the_session_has_expired(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        first = await store.apply(one.id, say("hi"), self.asked(), scope=EVERYTHING)
        clock.set_ms(first.session.expires_at_ms)
        assert (await store.apply(one.id, say("hi"), self.asked(), scope=EVERYTHING)).entry == first.entry

    async def test_a_session_that_is_created_again_is_as_it_was_created(
        self, store: Store, clock: TestClock
    ) -> None:
        new = session(metadata='{"a":1}')
        results = await self.together(
            store, [put(store, session(metadata="{}") if n else new, self.asked()) for n in range(5)]
        )
        assert [(result.session, result.replayed) for result in results] == [(new, n > 0) for n in range(5)]
        await store.apply(new.id, say(), scope=EVERYTHING)
        assert await put(store, session(), self.asked()) == Outcome(new, replayed=True)

    async def test_what_a_deleted_session_left_is_forgotten(self, store: Store, one: Session) -> None:
        gone, other = session(), session()
        create, other_create, message = self.asked("create"), self.asked("other"), self.asked("message")
        await put(store, gone, create)
        await put(store, other, other_create)
        await store.apply(gone.id, say("hi"), message, scope=EVERYTHING)
        await store.apply(one.id, say("hi"), self.asked("of one"), scope=EVERYTHING)
        await store.delete_session(gone.id, scope=EVERYTHING)
        assert [
            await knows(store, asked) for asked in (create, message, other_create, self.asked("of one"))
        ] == [False, False, True, True]
        # The key is free, for other content too.
        anew = session()
        assert await put(store, anew, self.asked("create", "other content")) == Outcome(anew)
        assert await put(store, session(), self.asked("create", "other content")) == Outcome(
            anew, replayed=True
        )

    async def test_a_refused_deletion_forgets_nothing(self, store: Store) -> None:
        kept = session()
        await put(store, kept, self.asked())
        with pytest.raises(EtagMismatchError):
            await store.delete_session(kept.id, '"other"', scope=EVERYTHING)
        assert await put(store, session(), self.asked()) == Outcome(kept, replayed=True)

    async def test_a_key_is_free_at_once_behind_a_deletion(self, store: Store) -> None:
        """Also where creating, deleting and creating anew meet in one group of writes."""
        for is_stored in (False, True):
            first, second, third = session(), session(), session()
            asked = self.asked(f"create {is_stored}")
            before = [
                put(store, first, asked),
                store.apply(first.id, say("hi"), self.asked(f"message {is_stored}"), scope=EVERYTHING),
            ]
            after = [
                store.delete_session(first.id, scope=EVERYTHING),
                put(store, second, asked),
                put(store, session(), asked),
                store.delete_session(second.id, scope=EVERYTHING),
                put(store, third, asked),
            ]
            if is_stored:
                await self.together(store, before)
                results = await self.together(store, after)
            else:
                results = (await self.together(store, [*before, *after]))[2:]
            assert results == [None, Outcome(second), Outcome(second, replayed=True), None, Outcome(third)]
            assert await put(store, session(), asked) == Outcome(third, replayed=True)
            assert not await knows(store, self.asked(f"message {is_stored}"))
            for gone in (first, second):
                with pytest.raises(SessionNotFoundError):
                    await store.get_session(gone.id, scope=EVERYTHING)

    async def test_what_cleared_sessions_left_is_forgotten(self, store: Store) -> None:
        await put(store, session(), self.asked())
        await store.clear_sessions()
        anew = session()
        assert await put(store, anew, self.asked()) == Outcome(anew)

    async def test_requests_are_forgotten_in_steps(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        for n in range(5):
            clock.set_ms(T0 + n)
            await store.apply(one.id, say(f"{n}"), self.asked(f"{n}"), scope=EVERYTHING)
        assert [await store.forget_requests(T0 + 2, 2) for _ in range(3)] == [2, 1, 0]
        replayed = [
            (await store.apply(one.id, say("x"), self.asked(f"{n}"), scope=EVERYTHING)).replayed
            for n in range(5)
        ]
        assert replayed == [False, False, False, True, True]

    async def test_a_session_is_deleted_in_the_state_that_is_named(self, store: Store, one: Session) -> None:
        with pytest.raises(EtagMismatchError):
            await store.delete_session(one.id, '"other"', scope=EVERYTHING)
        before = etag(await store.get_session(one.id, scope=EVERYTHING))
        await store.apply(one.id, say(), scope=EVERYTHING)
        with pytest.raises(EtagMismatchError):
            await store.delete_session(one.id, before, scope=EVERYTHING)
        await store.delete_session(
            one.id, f'"other", {etag(await store.get_session(one.id, scope=EVERYTHING))}', scope=EVERYTHING
        )

    async def test_the_answer_to_a_message_is_its_reply_or_failure(self, store: Store, one: Session) -> None:
        for content in ("a", "b", "c"):
            await store.apply(one.id, say(content), scope=EVERYTHING)
        answered = await store.apply_delivery(one.id, 2, respond("re b"), scope=EVERYTHING)
        await store.apply_delivery(one.id, 1, take, scope=EVERYTHING)
        failed = await store.apply_delivery(one.id, 1, give_up, scope=EVERYTHING)
        assert [await store.find_answer(one.id, sequence, scope=EVERYTHING) for sequence in (1, 2, 3, 9)] == [
            failed.entry,
            answered.entry,
            None,
            None,
        ]
        late = await store.apply_delivery(one.id, 1, respond("late"), scope=EVERYTHING)
        assert await store.find_answer(one.id, 1, scope=EVERYTHING) == late.entry

    async def test_a_message_that_is_delivered_anew_has_no_answer_until_the_next_one(
        self, store: Store, one: Session
    ) -> None:
        await store.apply(one.id, say("a"), scope=EVERYTHING)
        for _ in range(2):
            failed = await store.apply_delivery(one.id, 1, give_up, scope=EVERYTHING)
            assert await store.find_answer(one.id, 1, scope=EVERYTHING) == failed.entry
            await store.apply_delivery(one.id, 1, again, scope=EVERYTHING)
            assert await store.find_answer(one.id, 1, scope=EVERYTHING) is None
        answered = await store.apply_delivery(one.id, 1, respond("at last"), scope=EVERYTHING)
        assert await store.find_answer(one.id, 1, scope=EVERYTHING) == answered.entry
