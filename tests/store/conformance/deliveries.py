"""Deliveries."""

import asyncio
from collections.abc import Awaitable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.deliveries import AttemptFailure, Delivery, DeliveryState
from server.domain.errors import (
    DeliveryAnsweredError,
    DeliveryNotFoundError,
    DeliveryNotLeasedError,
    DomainError,
    InvalidContentError,
    SessionExpiredError,
    SessionNotFoundError,
)
from server.domain.log import ReplyFailure
from server.domain.messages import AgentMessage, UserMessage
from server.domain.replies import DeliveryRule, lease
from server.domain.sessions import Outcome, Session, fall_due, heartbeat
from server.store.contract import PAGE_BYTES, PUT_OFF_MS, Store
from server.store.values import Commit, OpenDelivery
from tests.store.conformance.common import (
    FAR_MS,
    MANY,
    RETRIES,
    UNKNOWN,
    Misbehaved,
    OnStore,
    again,
    break_a_constraint,
    contents,
    delivery,
    expire,
    first_open,
    give_up,
    history,
    mishandle,
    on_one_store,
    respond,
    say,
    stumble,
    take,
)
from tests.unit.samples import T0, logged, put


class Deliveries(OnStore):
    async def test_a_message_of_the_user_makes_a_delivery(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        clock.set_ms(T0 + 3)
        outcome = await store.apply(one.id, say("hi"), scope=EVERYTHING)
        made = Delivery(one.id, 1, DeliveryState.PENDING, 0, T0 + 3)
        assert outcome.delivery == made
        assert await store.lease_due(one.agent_id, T0 + 3, 9) == [
            OpenDelivery(outcome.session, outcome.entry, made)
        ]
        assert await store.count_open() == {one.agent_id: 1}
        assert await store.oldest_open_ms() == T0 + 3
        await store.apply(one.id, heartbeat, scope=EVERYTHING)
        with pytest.raises(DeliveryNotFoundError) as caught:
            await delivery(store, one, 2)
        assert caught.value.details == {"deliveryId": f"{one.id}-2"}

    @pytest.mark.parametrize(("end", "left"), [(respond(), ""), (give_up, "of a call")])
    async def test_a_delivery_keeps_its_trace_until_it_is_answered(
        self, store: Store, one: Session, end: DeliveryRule, left: str
    ) -> None:
        await store.apply(one.id, partial(say(), trace="of a call"), scope=EVERYTHING)
        for rule in (take, stumble, take):
            changed = await store.apply_delivery(one.id, 1, rule, scope=EVERYTHING)
            assert changed.delivery.trace == (await delivery(store, one, 1)).trace == "of a call"
        assert (await first_open(store, one)).delivery.trace == "of a call"
        ended = await store.apply_delivery(one.id, 1, end, scope=EVERYTHING)
        assert ended.delivery.trace == (await delivery(store, one, 1)).trace == left

    async def test_deliveries_that_are_not_there(self, store: Store, one: Session) -> None:
        other = await self.added(store)
        await store.apply(one.id, say(), scope=EVERYTHING)
        await store.apply_delivery(one.id, 1, respond(), scope=EVERYTHING)
        for sequence in (-1, 0, 2, 3, 10**17):
            with pytest.raises(DeliveryNotFoundError) as caught:
                await store.apply_delivery(one.id, sequence, respond(), scope=EVERYTHING)
            assert caught.value.details == {"deliveryId": f"{one.id}-{sequence}"}
        with pytest.raises(DeliveryNotFoundError):
            await store.apply_delivery(other.id, 1, respond(), scope=EVERYTHING)
        with pytest.raises(SessionNotFoundError) as caught:
            await store.apply_delivery(UNKNOWN, 1, respond(), scope=EVERYTHING)
        assert caught.value.details == {"sessionId": UNKNOWN}
        for agent_id in (one.agent_id, UNKNOWN, "", "nonsense"):
            assert await store.lease_due(agent_id, FAR_MS, 9) == []
            assert await store.next_delivery_ms(agent_id) is None
        assert await store.count_open() == {}

    async def test_apply_delivery_hands_the_rule_all_it_needs_and_persists_the_outcome(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        sent = await store.apply(one.id, say(), scope=EVERYTHING)
        model, made = sent.session, sent.delivery
        log = [sent.entry]
        lose = partial(stumble, connection_lost=True, detail="it hung up: \U0001f600")
        for ms, rule in enumerate((take, stumble, take, lose, take, take, give_up, respond()), start=1):
            clock.set_ms(T0 + ms)
            expected = rule(model, made, T0 + ms)
            assert await store.apply_delivery(one.id, 1, rule, scope=EVERYTHING) == expected
            model, made = expected.session, expected.delivery
            log += logged(expected)
            assert await delivery(store, one, 1) == made
            assert await store.get_session(one.id, scope=EVERYTHING) == model
            assert await store.list_entries(one.id, after_sequence=0, limit=9, scope=EVERYTHING) == log
            found = await first_open(store, one)
            assert (found and (found.session, found.delivery)) == ((model, made) if made.due_at_ms else None)
        assert [type(entry.event) for entry in log] == [UserMessage, ReplyFailure, AgentMessage]

    @pytest.mark.parametrize("rule", [respond(""), mishandle], ids=["refused", "misbehaving"])
    async def test_a_rule_of_a_delivery_that_raises_writes_nothing(
        self, store: Store, one: Session, rule: DeliveryRule
    ) -> None:
        sent = await store.apply(one.id, say(), scope=EVERYTHING)
        with pytest.raises((InvalidContentError, Misbehaved)):
            await store.apply_delivery(one.id, 1, rule, scope=EVERYTHING)
        assert await first_open(store, one) == OpenDelivery(sent.session, sent.entry, sent.delivery)

    async def test_a_session_is_served_in_order_whatever_is_answered_in_between(
        self, store: Store, one: Session
    ) -> None:
        await asyncio.gather(*(store.apply(one.id, say(f"{n}"), scope=EVERYTHING) for n in range(5)))
        await store.apply_delivery(one.id, 3, respond(), scope=EVERYTHING)
        met = []
        while due := await store.lease_due(one.agent_id, T0, 9):
            met += [found.delivery.sequence for found in due]
            assert await store.next_delivery_ms(one.agent_id) == T0
            await store.apply_delivery(
                one.id, met[-1], give_up if met[-1] == 2 else respond(), scope=EVERYTHING
            )
        assert met == [1, 2, 4, 5]
        assert await store.count_open() == {}

    async def test_what_is_due_of_an_agent_is_the_first_of_each_session_the_longest_due_first(
        self, store: Store, clock: TestClock
    ) -> None:
        fresh, leased, resting, second, done = many = [await self.added(store) for _ in range(5)]
        other = await self.added(store, agent_id=UNKNOWN)
        await store.apply(other.id, say(), scope=EVERYTHING)
        for n, one in enumerate(many):
            clock.set_ms(T0 + n)
            for content in ("a", "b"):
                await store.apply(one.id, say(content), scope=EVERYTHING)
        await store.apply_delivery(leased.id, 1, take, scope=EVERYTHING)
        for rule in (take, stumble):
            await store.apply_delivery(resting.id, 1, rule, scope=EVERYTHING)
        clock.set_ms(T0 + 50)
        await store.apply_delivery(second.id, 1, respond(), scope=EVERYTHING)
        for sequence in (1, 2):
            await store.apply_delivery(done.id, sequence, respond(), scope=EVERYTHING)
        assert await store.count_open() == {fresh.agent_id: 7, UNKNOWN: 1}

        async def due(due_ms: int, *held: Session) -> list[tuple[str, int]]:
            found = await store.lease_due(fresh.agent_id, due_ms, 9, [one.id for one in held])
            return [(one.session.id, one.delivery.sequence) for one in found]

        # A lease is void where nobody holds it. What became the first waits since then.
        now = [(leased.id, 1), (fresh.id, 1), (second.id, 2)]
        for due_ms, count in ((T0 - 1, 1), (T0, 2), (T0 + 49, 2), (T0 + 50, 3), (T0 + 703, 3)):
            assert await due(due_ms) == now[:count]
        assert await due(T0 + 704) == await due(FAR_MS) == [*now, (resting.id, 1)]
        assert await due(FAR_MS, leased, second) == [(fresh.id, 1), (resting.id, 1)]
        assert await store.lease_due(UNKNOWN, T0, 9, [other.id]) == []
        assert [one.session.id for one in await store.lease_due(fresh.agent_id, FAR_MS, 2)] == [
            leased.id,
            fresh.id,
        ]
        for held, next_ms in (
            ((), 0),
            (many[1:2], T0),
            ((leased, fresh), T0 + 50),
            ([*many[:2], second], T0 + 704),
        ):
            assert await store.next_delivery_ms(fresh.agent_id, [one.id for one in held]) == next_ms
        assert await store.next_delivery_ms(fresh.agent_id, [one.id for one in many]) is None

    async def test_sessions_whose_first_deliveries_are_due_at_once_take_turns(self, store: Store) -> None:
        flooded, other = await self.added(store), await self.added(store)
        for n in range(5):
            await store.apply(flooded.id, say(f"{n}"), scope=EVERYTHING)
        await store.apply(other.id, say(), scope=EVERYTHING)
        (first, _) = await store.lease_due(flooded.agent_id, T0, 2)
        await store.apply_delivery(first.session.id, 1, respond(), scope=EVERYTHING)
        (second,) = await store.lease_due(flooded.agent_id, T0, 1)
        assert {first.session.id, second.session.id} == {flooded.id, other.id}

    async def test_what_is_claimed_by_a_rule_is_leased_and_told_of(
        self, store: Store, clock: TestClock
    ) -> None:
        fresh, used_up, gone = many = [await self.added(store) for _ in range(3)]
        for one in many:
            await store.apply(one.id, say(), scope=EVERYTHING)
        for rule in (take, stumble, take, stumble, take):
            await store.apply_delivery(used_up.id, 1, rule, scope=EVERYTHING)
        clock.set_ms(T0 + 9)
        told: list[Outcome] = []
        store.add_listener(lambda commit: told.extend(commit.outcomes))
        claim = partial(lease, lease_ms=5000, policy=RETRIES)
        found = await store.lease_due(fresh.agent_id, T0 + 9, 9, [gone.id], claim)
        by_session = {one.session.id: one for one in found}
        assert by_session.keys() == {fresh.id, used_up.id}
        assert by_session[fresh.id].delivery == Delivery(fresh.id, 1, DeliveryState.LEASED, 1, T0 + 5009)
        assert await delivery(store, fresh, 1) == by_session[fresh.id].delivery
        assert by_session[used_up.id].delivery.state is DeliveryState.FAILED
        assert {outcome.delivery for outcome in told} - {None} == {one.delivery for one in found}
        assert (await store.get_session(used_up.id, scope=EVERYTHING)).open_deliveries == 0
        assert await store.lease_due(fresh.agent_id, T0 + 9, 9, list(by_session), claim) != []
        assert await store.count_open() == {fresh.agent_id: 2}

    async def test_what_a_lease_finds_expired_is_put_off(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        await store.apply(one.id, say(), scope=EVERYTHING)
        now_ms = (await store.get_session(one.id, scope=EVERYTHING)).expires_at_ms
        clock.set_ms(now_ms)
        claim = partial(lease, lease_ms=5000, policy=RETRIES)
        assert await store.lease_due(one.agent_id, now_ms, 9, (), claim) == []
        assert await store.next_delivery_ms(one.agent_id) == now_ms + PUT_OFF_MS
        assert (await delivery(store, one, 1)).attempts == 0
        await store.apply(one.id, fall_due, scope=EVERYTHING)
        assert await store.next_delivery_ms(one.agent_id) is None

    async def test_what_is_due_is_read_up_to_a_bound_of_text(self, store: Store) -> None:
        many = [await self.added(store) for _ in range(4)]
        for one in many:
            await store.apply(one.id, say("x", attachments=f'["{"x" * 349_000}"]'), scope=EVERYTHING)
        found = await store.lease_due(many[0].agent_id, T0, 9)
        assert len(found) == PAGE_BYTES // 349_000

    async def test_of_answers_at_the_same_time_one_is_stored(self, store: Store, one: Session) -> None:
        await store.apply(one.id, say(), scope=EVERYTHING)
        results = await self.together(
            store, [store.apply_delivery(one.id, 1, respond(f"{n}"), scope=EVERYTHING) for n in range(MANY)]
        )
        stored = [result for result in results if isinstance(result, Outcome)]
        assert stored == results[:1]
        assert {type(result) for result in results[1:]} == {DeliveryAnsweredError}
        assert contents(await history(store, one)) == ["hello", "0"]
        assert await store.get_session(one.id, scope=EVERYTHING) == stored[0].session
        assert (await delivery(store, one, 1)).state is DeliveryState.ANSWERED

    async def test_a_delivery_lives_its_life_within_one_moment(self, store: Store, one: Session) -> None:
        other = await self.added(store)
        results = await self.together(
            store,
            [
                store.apply_delivery(one.id, 1, take, scope=EVERYTHING),
                store.apply(one.id, say("a"), scope=EVERYTHING),
                store.apply(other.id, say("x"), scope=EVERYTHING),
                *(
                    store.apply_delivery(one.id, 1, rule, scope=EVERYTHING)
                    for rule in (take, stumble, take, respond("b"), respond("c"), stumble)
                ),
                store.apply(one.id, say("d"), scope=EVERYTHING),
                *(
                    store.apply_delivery(one.id, 3, rule, scope=EVERYTHING)
                    for rule in (take, give_up, take, respond("e"))
                ),
                store.apply_delivery(other.id, 2, take, scope=EVERYTHING),
            ],
        )
        wrong = {n: type(result) for n, result in enumerate(results) if not isinstance(result, Outcome)}
        assert wrong == {
            0: DeliveryNotFoundError,
            7: DeliveryAnsweredError,
            8: DeliveryNotLeasedError,
            12: DeliveryNotLeasedError,
            14: DeliveryNotFoundError,
        }
        assert contents(await history(store, one)) == ["a", "b", "d", "e"]
        assert [await delivery(store, one, sequence) for sequence in (1, 3)] == [
            Delivery(one.id, 1, DeliveryState.ANSWERED, 2, None, 0, AttemptFailure(T0, 1, "broken")),
            Delivery(one.id, 3, DeliveryState.ANSWERED, 1, None, 0, AttemptFailure(T0, 1, "broken")),
        ]
        assert await first_open(store, other)
        assert await store.count_open() == {one.agent_id: 1}

    async def test_one_that_misbehaves_does_not_disturb_the_deliveries_of_its_group(
        self, store: Store, one: Session
    ) -> None:
        await store.apply(one.id, say(), scope=EVERYTHING)
        results = await self.together(
            store,
            [
                store.apply_delivery(one.id, 1, take, scope=EVERYTHING),
                store.apply_delivery(one.id, 1, mishandle, scope=EVERYTHING),
                store.apply(one.id, break_a_constraint, scope=EVERYTHING),
                store.apply_delivery(one.id, 1, respond(), scope=EVERYTHING),
            ],
        )
        assert [isinstance(result, Outcome) for result in results] == [True, False, False, True]
        assert await delivery(store, one, 1) == Delivery(one.id, 1, DeliveryState.ANSWERED, 1, None)

    async def test_the_expiry_of_a_session_closes_its_open_deliveries(
        self, store: Store, one: Session
    ) -> None:
        other = await self.added(store)
        for n in range(4):
            await store.apply(one.id, say(f"{n}"), scope=EVERYTHING)
        await store.apply(other.id, say(), scope=EVERYTHING)
        for sequence, rules in ((1, (respond(),)), (2, (take,)), (3, (take, stumble))):
            for rule in rules:
                await store.apply_delivery(one.id, sequence, rule, scope=EVERYTHING)
        await store.apply(one.id, expire, scope=EVERYTHING)
        assert await first_open(store, one) is None
        assert await first_open(store, other)
        assert await store.count_open() == {one.agent_id: 1}
        states = [await delivery(store, one, sequence) for sequence in (1, 2, 3, 4)]
        assert [(found.state, found.attempts, found.due_at_ms) for found in states] == [
            (DeliveryState.ANSWERED, 0, None),
            (DeliveryState.FAILED, 1, None),
            (DeliveryState.FAILED, 1, None),
            (DeliveryState.FAILED, 0, None),
        ]
        for rule in (take, stumble, give_up, respond()):
            with pytest.raises(SessionExpiredError):
                await store.apply_delivery(one.id, 2, rule, scope=EVERYTHING)

    async def test_an_expiry_closes_what_was_made_or_given_out_before_it(
        self, store: Store, one: Session
    ) -> None:
        """All in one group: what is made or given out before the expiry is closed by it, and nothing comes
        after.
        """
        await store.apply(one.id, say("a"), scope=EVERYTHING)
        await store.apply(one.id, say("b"), scope=EVERYTHING)
        seen: list[Delivery] = []

        def look(start: Session, found: Delivery, now_ms: int) -> Outcome:
            seen.append(found)
            return Outcome(start)

        results = await self.together(
            store,
            [
                store.apply_delivery(one.id, 1, take, scope=EVERYTHING),
                store.apply(one.id, say("c"), scope=EVERYTHING),
                store.apply_delivery(one.id, 3, take, scope=EVERYTHING),
                store.apply(one.id, expire, scope=EVERYTHING),
                *(
                    store.apply_delivery(one.id, 1, rule, scope=EVERYTHING)
                    for rule in (take, stumble, respond(), look)
                ),
                *(store.apply_delivery(one.id, sequence, look, scope=EVERYTHING) for sequence in (2, 3)),
            ],
        )
        assert [type(result) for result in results[4:7]] == [SessionExpiredError] * 3
        closed = [
            Delivery(one.id, 1, DeliveryState.FAILED, 1, None),
            Delivery(one.id, 2, DeliveryState.FAILED, 0, None),
            Delivery(one.id, 3, DeliveryState.FAILED, 1, None),
        ]
        assert seen == closed
        assert [await delivery(store, one, sequence) for sequence in (1, 2, 3)] == closed
        assert await store.count_open() == {}
        assert contents(await history(store, one)) == ["a", "b", "c"]

    async def test_deliveries_go_with_their_session(self, store: Store, one: Session) -> None:
        await store.apply(one.id, say(), scope=EVERYTHING)
        results = await self.together(
            store,
            [
                store.apply(one.id, say(), scope=EVERYTHING),
                store.apply_delivery(one.id, 1, take, scope=EVERYTHING),
                store.delete_session(one.id, scope=EVERYTHING),
                store.apply_delivery(one.id, 1, respond(), scope=EVERYTHING),
            ],
        )
        assert isinstance(results[3], SessionNotFoundError)
        await put(store, one)
        for sequence in (1, 2):
            with pytest.raises(DeliveryNotFoundError):
                await delivery(store, one, sequence)
        assert await store.count_open() == {}

    async def test_the_purge_and_a_clearing_take_deliveries_along(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        live = await self.added(store, T0 + 1)
        for target in (one, live):
            await store.apply(target.id, say(), scope=EVERYTHING)
        clock.set_ms((await store.get_session(one.id, scope=EVERYTHING)).expires_at_ms)
        await store.apply(one.id, fall_due, scope=EVERYTHING)
        # The delivery, the message, the expiry and the session.
        assert await store.purge(clock.now_ms(), 100) == 4
        assert await first_open(store, one) is None
        assert await first_open(store, live)
        await store.clear_sessions()
        assert await store.count_open() == {}
        for target in (one, live):
            await put(store, target)
            with pytest.raises(DeliveryNotFoundError):
                await delivery(store, target, 1)

    async def test_listeners_are_told_what_became_of_a_delivery_before_its_caller(
        self, store: Store, one: Session
    ) -> None:
        sent, told = await store.apply(one.id, say(), scope=EVERYTHING), []

        def listen(commit: Commit) -> None:
            told.extend(commit.outcomes)

        store.add_listener(listen)
        for rule in (take, respond()):
            outcome = await store.apply_delivery(one.id, 1, rule, scope=EVERYTHING)
            assert told.pop() is outcome
        with pytest.raises(DeliveryAnsweredError):
            await store.apply_delivery(one.id, 1, respond(), scope=EVERYTHING)
        assert told == []
        assert sent.delivery

    @given(
        st.lists(
            st.lists(
                st.tuples(
                    st.integers(0, 1),
                    st.integers(1, 5),
                    st.sampled_from(
                        ["say", "lease", "answer", "fail", "give up", "again", "expire", "delete"]
                    ),
                ),
                min_size=1,
                max_size=12,
            ),
            max_size=4,
        )
    )
    @on_one_store
    async def test_groups_of_whatever_happens_to_deliveries_against_a_model(
        self, store: Store, groups: list[list[tuple[int, int, str]]]
    ) -> None:
        """The model carries out one after the other what the store may carry out together."""
        targets = [await self.added(store) for _ in range(2)]
        sessions: dict[str, Session] = {one.id: one for one in targets}
        made: dict[tuple[str, int], Delivery] = {}
        rules = {"lease": take, "answer": respond("r", "r"), "fail": stumble, "give up": give_up}
        rules["again"] = again

        def expected(session_id: str, sequence: int, name: str) -> Outcome | type[Exception] | None:
            if session_id not in sessions:
                return SessionNotFoundError
            start = sessions[session_id]
            try:
                match name:
                    case "delete":
                        del sessions[session_id]
                        return None
                    case "say":
                        outcome = say(message_id="m")(start, T0)
                    case "expire":
                        outcome = expire(start, T0)
                        for key, found in made.items():
                            if key[0] == session_id and found.due_at_ms is not None:
                                made[key] = found._replace(state=DeliveryState.FAILED, due_at_ms=None)
                    case _ if (session_id, sequence) not in made:
                        return DeliveryNotFoundError
                    case _:
                        outcome = rules[name](start, made[session_id, sequence], T0)
            except DomainError as error:
                return type(error)
            sessions[session_id] = outcome.session
            if one := outcome.delivery:
                made[one.session_id, one.sequence] = one
            return outcome

        def call(session_id: str, sequence: int, name: str) -> Awaitable[object]:
            match name:
                case "delete":
                    return store.delete_session(session_id, scope=EVERYTHING)
                case "say" | "expire":
                    return store.apply(
                        session_id, say(message_id="m") if name == "say" else expire, scope=EVERYTHING
                    )
                case _:
                    return store.apply_delivery(session_id, sequence, rules[name], scope=EVERYTHING)

        for group in groups:
            steps = [(targets[number].id, sequence, name) for number, sequence, name in group]
            model = [expected(*step) for step in steps]
            results = await self.together(store, [call(*step) for step in steps])
            assert [type(result) if isinstance(result, Exception) else result for result in results] == model
            still = {key: found for key, found in made.items() if key[0] in sessions}
            for (session_id, sequence), found in still.items():
                assert await delivery(store, sessions[session_id], sequence) == found
            for one in targets:
                left = [
                    found
                    for (session_id, _), found in still.items()
                    if session_id == one.id and found.due_at_ms is not None
                ]
                first = await first_open(store, one)
                assert (first and first.delivery) == min(left, key=lambda found: found.sequence, default=None)
                failed = [
                    found
                    for (session_id, _), found in still.items()
                    if session_id == one.id and found.state is DeliveryState.FAILED
                ]
                if one.id in sessions:
                    now = await store.get_session(one.id, scope=EVERYTHING)
                    assert now.open_deliveries == len(left)
                    assert now.failed_deliveries == (0 if now.expiry_logged else len(failed))
        for one in targets:
            if one.id in sessions:
                await store.delete_session(one.id, scope=EVERYTHING)
