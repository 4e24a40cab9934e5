"""Sessions, and the rules that change them."""

import asyncio
from functools import partial

import pytest

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.errors import DomainError, InvalidContentError, SessionExpiredError, SessionNotFoundError
from server.domain.log import ExpirationWarning, Expiry, Renewal, TimeoutChange
from server.domain.messages import AgentMessage, Draft, Reply, UserMessage
from server.domain.sessions import Outcome, Rule, Session, due_at_ms, fall_due, heartbeat, renew
from server.domain.timeouts import PartialTimeoutConfig, TimeoutConfig
from server.store.contract import Store
from server.store.values import Counts, MessagePage
from tests.store.conformance.common import (
    UNKNOWN,
    Misbehaved,
    OnStore,
    agent,
    answer,
    contents,
    history,
    misbehave,
    patch,
    say,
)
from tests.unit.samples import AGENT, MINUTE, T0, USER, logged, put, session


class Sessions(OnStore):
    async def test_a_session_is_read_as_it_was_created(self, store: Store) -> None:
        asked = PartialTimeoutConfig(7.25, False, 1000.125, 3.5)
        new = await self.added(store, T0, asked, metadata='{"a": [1, "\\u00e9"]}')
        assert await store.get_session(new.id, scope=EVERYTHING) == new

    async def test_every_field_of_a_session_is_kept(self, store: Store) -> None:
        timeout = TimeoutConfig(1.5, True, 2.5, 3.5)
        start = session()
        stored = Session(
            start.id, start.channel_id, AGENT, USER, '{"a":1}', timeout, 1, 2, 3, 4, 5, True, False, 7, 8, 9
        )
        await put(store, stored)
        assert await store.get_session(stored.id, scope=EVERYTHING) == stored
        changed = stored._replace(
            timeout=TimeoutConfig(9.5, False, 10.5, 11.5),
            last_activity_ms=12,
            renewed_at_ms=13,
            expires_at_ms=14,
        )
        changed = changed._replace(
            renewal_count=15,
            warning_logged=False,
            expiry_logged=True,
            last_sequence=16,
            last_entry_ms=17,
            open_deliveries=18,
        )
        await store.apply(stored.id, lambda _, now_ms: Outcome(changed), scope=EVERYTHING)
        assert await store.get_session(stored.id, scope=EVERYTHING) == changed

    async def test_a_session_that_is_not_there(self, store: Store, one: Session) -> None:
        for call in (
            partial(store.get_session, scope=EVERYTHING),
            partial(store.delete_session, scope=EVERYTHING),
            lambda unknown: store.apply(unknown, say(), scope=EVERYTHING),
        ):
            for unknown in (UNKNOWN, "", "nonsense", one.id.upper() + "x", one.channel_id):
                with pytest.raises(SessionNotFoundError) as caught:
                    await call(unknown)
                assert caught.value.details == {"sessionId": unknown}

    async def test_an_expired_session_is_read_like_a_live_one(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        clock.set_ms(one.expires_at_ms + 1)
        assert await store.get_session(one.id, scope=EVERYTHING) == one
        gone = (await store.apply(one.id, fall_due, scope=EVERYTHING)).session
        assert gone.expiry_logged
        assert await store.get_session(one.id, scope=EVERYTHING) == gone

    async def test_delete_removes_the_session_with_its_log(self, store: Store, one: Session) -> None:
        other = await self.added(store)
        await asyncio.gather(
            *(
                store.apply(target.id, say(f"{n}"), scope=EVERYTHING)
                for n in range(3)
                for target in (one, other)
            )
        )
        await store.delete_session(one.id, scope=EVERYTHING)
        with pytest.raises(SessionNotFoundError):
            await store.get_session(one.id, scope=EVERYTHING)
        with pytest.raises(SessionNotFoundError):
            await store.delete_session(one.id, scope=EVERYTHING)
        assert await store.list_messages(one, limit=10) == MessagePage([], False)
        assert contents(await history(store, other)) == ["0", "1", "2"]
        assert await store.counts(scope=EVERYTHING) == Counts(1, 0, 0, 0)
        assert await store.apply_due(lambda start, now_ms: Outcome(start), T0, 10) == 0

    async def test_delete_removes_an_expired_session_too(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        await store.apply(one.id, say(), scope=EVERYTHING)
        clock.set_ms(T0 + 60 * MINUTE)
        await store.apply(one.id, fall_due, scope=EVERYTHING)
        await store.delete_session(one.id, scope=EVERYTHING)
        assert await store.counts(scope=EVERYTHING) == Counts(0, 0, 0, 0)
        assert await store.purge(T0 + 10**10, 100) == 0

    async def test_apply_hands_the_rule_the_session_and_the_present_instant(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        seen = []

        def look(start: Session, now_ms: int) -> Outcome:
            seen.append((start, now_ms))
            return Outcome(start)

        assert await store.apply(one.id, look, scope=EVERYTHING) == Outcome(one)
        clock.set_ms(T0 + 5)
        await store.apply(one.id, look, scope=EVERYTHING)
        assert seen == [(one, T0), (one, T0 + 5)]

    async def test_apply_returns_and_persists_the_outcome(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        clock.set_ms(T0 + MINUTE)
        rule = say("hi", metadata='{"k":1}', attachments='[{"url":"x"}]', message_id="m1")
        outcome = await store.apply(one.id, rule, scope=EVERYTHING)
        assert outcome == rule(one, T0 + MINUTE)
        assert await store.get_session(one.id, scope=EVERYTHING) == outcome.session
        assert (await store.list_messages(one, limit=5)).messages == [outcome.entry]

    async def test_every_rule_writes_the_entries_that_it_returns(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        reply = Reply(Draft("b"), "hm", ("X", "Y"))
        steps = [
            heartbeat,
            say("a"),
            patch(max_duration_minutes=100.0),
            answer(reply),
            renew,
            patch(auto_renew=False),
        ]
        model, log = one, []
        for minute, rule in enumerate([*steps, heartbeat, fall_due, fall_due, fall_due], start=20):
            clock.set_ms(
                max(T0 + minute * MINUTE, due_at_ms(model) or 0) if rule is fall_due else T0 + minute * MINUTE
            )
            expected = rule(model, clock.now_ms())
            assert await store.apply(one.id, rule, scope=EVERYTHING) == expected
            model = expected.session
            log += logged(expected)
            assert await store.get_session(one.id, scope=EVERYTHING) == model
        kinds = [Renewal, UserMessage, TimeoutChange, AgentMessage, Renewal]
        assert [type(entry.event) for entry in log] == [*kinds, TimeoutChange, ExpirationWarning, Expiry]
        assert await history(store, one) == [entry for entry in log if entry.message]

    @pytest.mark.parametrize(
        ("rule", "error"),
        [(say(""), InvalidContentError), (patch(timeout_minutes=1.0), DomainError), (misbehave, Misbehaved)],
    )
    async def test_a_rule_that_raises_writes_nothing(
        self, store: Store, one: Session, rule: Rule, error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            await store.apply(one.id, rule, scope=EVERYTHING)
        assert await store.get_session(one.id, scope=EVERYTHING) == one
        assert await store.list_messages(one, limit=5) == MessagePage([], False)
        assert (await store.apply(one.id, say(), scope=EVERYTHING)).entry.sequence == 1

    async def test_the_error_of_a_rule_comes_as_it_was_raised(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        clock.set_ms(one.expires_at_ms)
        with pytest.raises(SessionExpiredError) as caught:
            await store.apply(one.id, say(), scope=EVERYTHING)
        assert caught.value.details["sessionId"] == one.id

    async def test_read_your_writes(self, store: Store, clock: TestClock) -> None:
        for n in range(30):
            new = await self.added(store, T0 + n)
            assert await store.get_session(new.id, scope=EVERYTHING) == new
            assert (await store.list_sessions(T0, limit=100, scope=EVERYTHING)).total == n + 1
            outcome = await store.apply(new.id, say(f"{n}"), scope=EVERYTHING)
            assert (await store.list_messages(new, limit=1)).messages == [outcome.entry]
            assert (await store.counts(scope=EVERYTHING)).active == n + 1
            assert await store.next_due_ms() is not None
        await store.create_agent(agent())
        assert await store.list_agents(limit=5, scope=EVERYTHING) == [agent()]
