"""Deliveries: how often and when, and what becomes of one, whoever answers."""

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.domain.deliveries import (
    MAX_LOST_CONNECTIONS,
    OPEN_STATES,
    AttemptFailure,
    Delivery,
    DeliveryState,
    RetryPolicy,
    parse_delivery_id,
)
from server.domain.errors import (
    DeliveryAnsweredError,
    DeliveryNotFoundError,
    DeliveryNotLeasedError,
    DomainError,
    InvalidContentError,
    InvalidMetadataError,
    OverloadedError,
    SessionExpiredError,
)
from server.domain.log import Entry, ReplyFailure
from server.domain.messages import AgentMessage, Draft, Reply, check_reply
from server.domain.replies import DeliveryRule, answer, fail, lease, put_off, redeliver
from server.domain.sessions import Session, fall_due, send_message
from tests.unit.samples import AGENT, MINUTE, T0, USER, logged, session

POLICY = RetryPolicy(3, 1000, 60_000)
SID = "0f0e0d0c-0b0a-4908-8706-050403020100"
HELLO = Reply(Draft("hello"))
GRIN = "\U0001f600"

take = partial(lease, lease_ms=5000, message_id="m", policy=POLICY)
give_up = partial(fail, message_id="m", reason="broken", final=True, backoff_ms=700, policy=POLICY)
stumble = partial(give_up, final=False)
lose = partial(stumble, connection_lost=True)
spare = partial(stumble, charged=False)


def respond(reply: Reply = HELLO, reply_id: str = "r", agent_id: str | None = None) -> DeliveryRule:
    return partial(answer, reply_id=reply_id, reply=reply, agent_id=agent_id)


def asked(
    state: DeliveryState = DeliveryState.PENDING, attempts: int = 0, due_at_ms: int | None = None
) -> tuple[Session, Delivery]:
    """A session whose user has said something, and the delivery of that."""
    outcome = send_message(session(), T0, "m", Draft("hi"))
    made = outcome.delivery
    return outcome.session, made._replace(state=state, attempts=attempts, due_at_ms=due_at_ms)


class TestBackoff:
    def test_it_doubles_up_to_the_longest(self) -> None:
        assert [POLICY.backoff_ms(attempts, 0) for attempts in range(1, 9)] == [
            1000,
            2000,
            4000,
            8000,
            16_000,
            32_000,
            60_000,
            60_000,
        ]
        assert [POLICY.backoff_ms(attempts, 1) for attempts in (1, 2, 7)] == [500, 1000, 30_000]

    @given(st.integers(1, 10_000), st.integers(10, 600_000), st.integers(10, 3_600_000), st.floats(0, 1))
    @example(10_000, 600_000, 3_600_000, 0.5)
    def test_jitter_takes_up_to_a_half_off(
        self, attempts: int, first_ms: int, longest_ms: int, jitter: float
    ) -> None:
        policy = RetryPolicy(5, first_ms, longest_ms)
        whole, rests = min(first_ms * 2 ** (attempts - 1), longest_ms), policy.backoff_ms(attempts, jitter)
        assert whole / 2 - 0.5 <= rests <= whole
        assert policy.backoff_ms(attempts, 0) == whole
        assert policy.backoff_ms(attempts + 1, jitter) >= rests >= policy.backoff_ms(attempts, 1)


class TestIds:
    @given(st.uuids(), st.integers(1, 10**18 - 1))
    def test_an_id_leads_back_to_session_and_sequence(self, session_id: object, sequence: int) -> None:
        made = Delivery(str(session_id), sequence, DeliveryState.PENDING, 0, T0)
        assert parse_delivery_id(made.id) == parse_delivery_id(made.id.upper()) == (str(session_id), sequence)

    @pytest.mark.parametrize(
        "text",
        [
            *(
                "",
                "x",
                SID,
                f"{SID}-",
                f"{SID}-0",
                f"{SID}-01",
                f"{SID}--1",
                f"{SID}-+1",
                f"{SID}-1.0",
                f"{SID}-x",
                f"{SID}_1",
                "-1",
            ),
            *(
                f"{SID}-1\n",
                f" {SID}-1",
                f"{SID}-1\0",
                f"{SID}-\u0661",
                f"{SID}-1-1",
                f"{{{SID}}}-1",
                f"{SID.replace('-', '')}-1",
            ),
            *(
                f"{SID}-{10**18}",
                f"{SID}-{2**63}",
                f"{SID}-" + "9" * 100_000,
                f"x{SID[1:]}-1",
                "\u0130" * 36 + "-1",
            ),
        ],
        ids=lambda text: ascii(text[:50]),
    )
    def test_what_is_no_id_is_of_no_delivery(self, text: str) -> None:
        with pytest.raises(DeliveryNotFoundError) as caught:
            parse_delivery_id(text)
        assert caught.value.details == {"deliveryId": text}

    @given(st.text())
    def test_any_text_is_an_id_or_is_not(self, text: str) -> None:
        with pytest.raises(DeliveryNotFoundError):
            parse_delivery_id(text)


class TestReplies:
    @pytest.mark.parametrize(
        "reply",
        [
            Reply(Draft("x")),
            Reply(Draft("x" * 100_000)),
            Reply(Draft(GRIN * 100_000)),
            Reply(Draft("x"), thought=""),
            Reply(Draft("x"), thought=GRIN * 100_000),
            Reply(Draft("x"), thought="a\0b"),
            Reply(Draft("x"), actions=(GRIN * 1000,) * 100),
            Reply(Draft("x", '{"k":"' + "x" * 10_232 + '"}', "[" + " " * (2 * 1024 * 1024 - 2) + "]")),
        ],
        ids=range(8),
    )
    def test_a_reply_within_the_bounds_is_accepted(self, reply: Reply) -> None:
        check_reply(reply)

    @pytest.mark.parametrize(
        ("reply", "named"),
        [
            (Reply(Draft("")), "content"),
            (Reply(Draft("x" * 100_001)), "content"),
            (Reply(Draft(GRIN * 100_001)), "content"),
            (Reply(Draft("a\0b")), "content"),
            (Reply(Draft("a\ud800")), "content"),
            (Reply(Draft("x"), thought="x" * 100_001), "thought"),
            (Reply(Draft("x"), actions=("x",) * 101), "actions"),
            (Reply(Draft("x"), actions=("x", "x" * 1001)), "actions"),
            (Reply(Draft("x", attachments="[" + " " * (2 * 1024 * 1024 - 1) + "]")), "attachments"),
        ],
        ids=range(9),
    )
    def test_a_reply_beyond_the_bounds_is_refused(self, reply: Reply, named: str) -> None:
        with pytest.raises(InvalidContentError) as caught:
            check_reply(reply)
        assert named in caught.value.details["reason"]

    def test_it_is_stored_cleaned(self) -> None:
        """For whatever kind of agent: each of them comes by this rule."""
        start, leased = asked(DeliveryState.LEASED, 1, T0 + 5000)
        reply = Reply(
            Draft("a\ud83e\0\udd16\ud83e", '{"k":"\\u0000"}', "[1]"),
            thought="\0b\udd16",
            actions=("\ud83eC", "D"),
        )
        message = respond(reply)(start, leased, T0).entry.message
        assert message is not None
        assert (message.content, message.thought, message.actions) == (
            "a🤖\ufffd",
            "b\ufffd",
            ("\ufffdC", "D"),
        )
        assert (message.metadata, message.attachments) == ('{"k":"\\u0000"}', "[1]")

    @pytest.mark.parametrize("content", ["\0", "\0\0", ""])
    def test_what_is_empty_once_it_is_cleaned_is_no_reply(self, content: str) -> None:
        start, leased = asked(DeliveryState.LEASED, 1, T0 + 5000)
        with pytest.raises(InvalidContentError, match="1 to 100000"):
            respond(Reply(Draft(content)))(start, leased, T0)

    def test_metadata_has_the_bounds_of_any(self) -> None:
        with pytest.raises(InvalidMetadataError):
            check_reply(Reply(Draft("x", '{"k":"' + "x" * 10_233 + '"}')))

    @pytest.mark.parametrize(
        "reply",
        [
            Reply(Draft("")),
            Reply(Draft("x"), "x" * 100_001),
            Reply(Draft("x", '{"k":"' + "x" * 10_233 + '"}')),
        ],
    )
    def test_a_refused_reply_leaves_the_delivery_unchanged(self, reply: Reply) -> None:
        """A rule that raises has no outcome, so that the agent may answer again."""
        start, leased = asked(DeliveryState.LEASED, 1, T0 + 5000)
        with pytest.raises((InvalidContentError, InvalidMetadataError)):
            respond(reply)(start, leased, T0)
        assert respond()(start, leased, T0).delivery.state is DeliveryState.ANSWERED


class TestRules:
    def test_a_lease_is_an_attempt_and_has_an_end(self) -> None:
        start, pending = asked()
        outcome = take(start, pending, T0 + 9)
        assert outcome.session is start
        assert outcome.entry is None
        assert outcome.delivery == Delivery(start.id, 1, DeliveryState.LEASED, 1, T0 + 5009)

    def test_a_lease_that_is_still_there_is_void(self) -> None:
        start, leased = asked(DeliveryState.LEASED, 1, T0 + 10**9)
        assert take(start, leased, T0).delivery == Delivery(start.id, 1, DeliveryState.LEASED, 2, T0 + 5000)

    @pytest.mark.parametrize("attempts", [3, 4, 100])
    def test_a_lease_that_would_be_one_too_many_fails_it(self, attempts: int) -> None:
        start, leased = asked(DeliveryState.LEASED, attempts, T0)
        outcome = take(start, leased, T0)
        reason = "the agent was asked and never heard of again"
        kept = AttemptFailure(T0, attempts, reason)
        assert outcome.delivery == Delivery(start.id, 1, DeliveryState.FAILED, attempts, None, 0, kept)
        failure = ReplyFailure("m", 1, reason, attempts)
        assert [(entry.sequence, entry.event) for entry in logged(outcome)] == [(2, failure)]

    def test_a_failure_rests_or_is_final(self) -> None:
        for attempts in (1, 2):
            start, leased = asked(DeliveryState.LEASED, attempts, T0)
            outcome = stumble(start, leased, T0 + 3)
            assert (outcome.session, outcome.entry) == (start, None)
            failure = AttemptFailure(T0 + 3, attempts, "broken")
            assert outcome.delivery == Delivery(
                start.id, 1, DeliveryState.PENDING, attempts, T0 + 703, 0, failure
            )
        for attempts, rule in ((1, give_up), (3, stumble), (4, stumble)):
            start, leased = asked(DeliveryState.LEASED, attempts, T0)
            outcome = rule(start, leased, T0 + 3)
            failure = AttemptFailure(T0 + 3, attempts, "broken")
            assert outcome.delivery == Delivery(start.id, 1, DeliveryState.FAILED, attempts, None, 0, failure)
            assert outcome.entry.event == ReplyFailure("m", 1, "broken", attempts)
            assert outcome.entry.message is None

    @pytest.mark.parametrize("attempts", [1, 3])
    def test_a_lost_connection_is_not_charged(self, attempts: int) -> None:
        start, leased = asked(DeliveryState.LEASED, attempts, T0)
        outcome = lose(start, leased, T0 + 3)
        failure = AttemptFailure(T0 + 3, attempts, "broken")
        assert outcome.delivery == Delivery(
            start.id, 1, DeliveryState.PENDING, attempts - 1, T0 + 703, 1, failure
        )
        assert outcome.entry is None

    def test_lost_connections_beyond_the_bound_are_charged(self) -> None:
        start, delivery = asked(due_at_ms=T0)
        for lost in range(1, MAX_LOST_CONNECTIONS + POLICY.max_attempts + 1):
            delivery = take(start, delivery, T0).delivery
            assert delivery.attempts == max(1, lost - MAX_LOST_CONNECTIONS)
            delivery = lose(start, delivery, T0).delivery
            assert delivery.lost_connections == min(lost, MAX_LOST_CONNECTIONS)
            assert (delivery.state is DeliveryState.FAILED) == (
                lost == MAX_LOST_CONNECTIONS + POLICY.max_attempts
            )

    def test_the_operators_fault_is_never_charged(self) -> None:
        start, delivery = asked(due_at_ms=T0)
        for _ in range(100):
            delivery = take(start, delivery, T0).delivery
            assert (delivery.state, delivery.attempts) == (DeliveryState.LEASED, 1)
            delivery = spare(start, delivery, T0).delivery
            assert (delivery.state, delivery.attempts, delivery.lost_connections) == (
                DeliveryState.PENDING,
                0,
                0,
            )

    def test_what_the_provider_said_is_kept_and_not_in_the_log(self) -> None:
        start, leased = asked(DeliveryState.LEASED, 1, T0)
        outcome = give_up(start, leased, T0 + 3, detail="the quota of key k is used up (127.0.0.1:9)")
        assert outcome.delivery.last_failure == AttemptFailure(
            T0 + 3, 1, "broken", "the quota of key k is used up (127.0.0.1:9)"
        )
        assert outcome.entry.event == ReplyFailure("m", 1, "broken", 1)

    def test_what_is_put_off_rests_and_gives_its_lease_back(self) -> None:
        start, made = asked()
        rest = partial(put_off, rest_ms=700)
        rests = rest(start, made, T0 + 5).delivery
        assert rests == made._replace(due_at_ms=T0 + 705)
        leased = take(start, rests, T0 + 9).delivery
        assert rest(start, leased, T0 + 10).delivery == rests._replace(due_at_ms=T0 + 710)
        # Also where the expiry is not in the log yet, which nobody has heard of.
        assert rest(start, made, start.expires_at_ms).delivery.due_at_ms == start.expires_at_ms + 700
        with pytest.raises(SessionExpiredError):
            rest(fall_due(start, start.expires_at_ms).session, made, start.expires_at_ms)
        with pytest.raises(DeliveryNotLeasedError):
            rest(start, made._replace(state=DeliveryState.ANSWERED, due_at_ms=None), T0)

    def test_a_failure_without_an_attempt_names_the_reply_of_the_last_one(self) -> None:
        start, made = asked()
        failed = partial(fail, message_id="m", reason="gone", backoff_ms=700, policy=POLICY)
        first = take(start, made, T0).delivery
        rests = failed(start, first, T0, final=False, last_reply_id="r1").delivery
        assert rests.last_failure.reply_id == "r1"
        assert failed(start, rests, T0, final=True).entry.event.reply_message_id == "r1"
        # Of a second attempt that was never heard of nobody knows what its reply would have been.
        second = take(start, rests, T0).delivery
        assert failed(start, second, T0, final=True).entry.event.reply_message_id == ""

    def test_what_has_failed_is_delivered_anew_as_if_it_were_new(self) -> None:
        start, made = asked()
        first = take(start, made, T0).delivery
        lost = lose(start, first, T0).delivery
        failed = give_up(start, take(start, lost, T0).delivery, T0 + 1, last_reply_id="r1")
        assert (failed.session.open_deliveries, failed.session.failed_deliveries) == (0, 1)
        outcome = redeliver(failed.session, failed.delivery, T0 + 9)
        known = AttemptFailure(T0 + 1, 1, "broken")
        assert outcome.delivery == Delivery(start.id, 1, DeliveryState.PENDING, 0, T0 + 9, 0, known)
        assert (outcome.entry, outcome.opened) == (None, 1)
        assert outcome.session == failed.session._replace(open_deliveries=1, failed_deliveries=0)
        # The reply of an attempt that was never heard of is not that of the first round.
        again = outcome.delivery._replace(state=DeliveryState.LEASED, attempts=1)
        gone = partial(fail, message_id="m", reason="gone", final=True, backoff_ms=0, policy=POLICY)
        assert gone(outcome.session, again, T0).entry.event.reply_message_id == ""

    @pytest.mark.parametrize("state", OPEN_STATES)
    def test_what_is_open_is_not_delivered_anew(self, state: DeliveryState) -> None:
        start, delivery = asked(state, 1, T0 + 5000)
        outcome = redeliver(start, delivery, T0 + 9)
        assert (outcome.session, outcome.delivery, outcome.entry, outcome.opened) == (start, None, None, 0)

    def test_what_may_not_be_delivered_anew(self) -> None:
        start, delivery = asked(DeliveryState.FAILED, 3)
        with pytest.raises(OverloadedError):
            redeliver(start, delivery, T0, max_open=1)
        with pytest.raises(DeliveryAnsweredError):
            redeliver(start, delivery._replace(state=DeliveryState.ANSWERED), T0)

    def test_what_never_was_leased_may_fail_for_good(self) -> None:
        """An agent that has been removed."""
        assert give_up(*asked(), T0).delivery.state is DeliveryState.FAILED

    def test_an_answer_is_a_message_of_the_agent_that_renews_nothing(self) -> None:
        start, leased = asked(DeliveryState.LEASED, 1, T0 + 5000)
        draft = Draft("hello", '{"k":1}', '[{"url":"x"}]')
        outcome = respond(Reply(draft, "hm", ("WAVE",)))(start, leased, T0 + MINUTE)
        entry = outcome.entry
        assert (entry.sequence, entry.at_ms, entry.was_renewed) == (2, T0 + MINUTE, False)
        assert entry.message == AgentMessage(
            "r", "hello", '{"k":1}', '[{"url":"x"}]', "hm", ("WAVE",), answers=1
        )
        assert outcome.session == start._replace(
            last_sequence=2,
            last_entry_ms=T0 + MINUTE,
            open_deliveries=0,
            stored_bytes=start.stored_bytes + len(draft.content + draft.metadata + draft.attachments),
        )
        assert outcome.delivery == Delivery(start.id, 1, DeliveryState.ANSWERED, 1, None)

    @pytest.mark.parametrize(
        ("state", "attempts", "due_at_ms"),
        [
            (DeliveryState.PENDING, 0, T0),
            (DeliveryState.PENDING, 1, T0 + 700),
            (DeliveryState.LEASED, 1, T0 - 1),
            (DeliveryState.LEASED, 2, T0 + 5000),
            (DeliveryState.FAILED, 3, None),
        ],
    )
    def test_a_reply_is_accepted_as_long_as_none_is_stored(
        self, state: DeliveryState, attempts: int, due_at_ms: int | None
    ) -> None:
        start, delivery = asked(state, attempts, due_at_ms)
        outcome = respond()(start, delivery, T0)
        assert [entry.answers for entry in logged(outcome)] == [1]
        answered = outcome.delivery
        assert (answered.state, answered.attempts, answered.due_at_ms) == (
            DeliveryState.ANSWERED,
            attempts,
            None,
        )
        for reply in (HELLO, Reply(Draft("another")), Reply(Draft(""))):
            with pytest.raises(DeliveryAnsweredError) as caught:
                respond(reply)(outcome.session, answered, T0)
            assert caught.value.details == {"deliveryId": delivery.id}

    @pytest.mark.parametrize("state", [DeliveryState.ANSWERED, DeliveryState.FAILED])
    @pytest.mark.parametrize("rule", [take, stumble, give_up])
    def test_a_closed_one_is_neither_leased_nor_failed(
        self, state: DeliveryState, rule: DeliveryRule
    ) -> None:
        start, delivery = asked(state, 1)
        with pytest.raises(DeliveryNotLeasedError) as caught:
            rule(start, delivery, T0)
        assert caught.value.details == {"deliveryId": delivery.id}

    @pytest.mark.parametrize("state", DeliveryState)
    @pytest.mark.parametrize(
        "rule",
        [take, stumble, give_up, respond(), redeliver],
        ids=["lease", "fail", "fail for good", "answer", "again"],
    )
    def test_an_expired_session_gets_nothing_any_more(self, state: DeliveryState, rule: DeliveryRule) -> None:
        start, delivery = asked(state, 1)
        ended = fall_due(start, start.expires_at_ms).session
        for one, now_ms in ((start, start.expires_at_ms), (ended, T0)):
            with pytest.raises(SessionExpiredError):
                rule(one, delivery, now_ms)

    @pytest.mark.parametrize("state", DeliveryState)
    def test_another_agents_delivery_does_not_exist(self, state: DeliveryState) -> None:
        """Whatever has become of it, and of its session."""
        start, delivery = asked(state, 1)
        for now_ms in (T0, start.expires_at_ms):
            with pytest.raises(DeliveryNotFoundError) as caught:
                respond(agent_id=USER)(start, delivery, now_ms)
            assert caught.value.details == {"deliveryId": delivery.id}

    def test_its_own_agents_worker_may_answer(self) -> None:
        assert (
            respond(agent_id=AGENT)(*asked(DeliveryState.LEASED, 1), T0).delivery.state
            is DeliveryState.ANSWERED
        )


RULES = {
    "lease": take,
    "answer": respond(),
    "bad answer": respond(Reply(Draft(""))),
    "fail": stumble,
    "fail for good": give_up,
    "lose": lose,
    "spare": spare,
    "again": redeliver,
}


@given(st.lists(st.sampled_from([*RULES, "expire"]) | st.just("lose"), max_size=14), st.integers(1, 4))
def test_any_sequence_of_steps_does_what_the_model_says(steps: list[str], most: int) -> None:
    """Against a model in a few words: where it stands, how often it was given out, and whether the session
    lives.
    """
    policy = replace(POLICY, max_attempts=most)
    start, delivery = asked(due_at_ms=T0)
    state, attempts, lost, live, anew = "pending", 0, 0, True, 0
    now, log, closed_by = start, [], []
    for at_ms, step in enumerate(steps, T0 + 1):
        if step == "expire":
            now, live = fall_due(now, now.expires_at_ms).session, False
            continue
        before = state
        is_open = state in ("pending", "leased")
        knows_policy = "answer" not in step and step != "again"
        rule = partial(RULES[step], policy=policy) if knows_policy else RULES[step]
        match step:
            case _ if not live:
                error: type[DomainError] | None = SessionExpiredError
            case "answer" | "bad answer" | "again" if state == "answered":
                error = DeliveryAnsweredError
            case "again" if is_open:
                error = None
            case "again":
                error, state, attempts, lost, anew = None, "pending", 0, 0, anew + 1
            case "bad answer":
                error = InvalidContentError
            case "answer":
                error, state = None, "answered"
            case _ if not is_open:
                error = DeliveryNotLeasedError
            case "lease" if attempts < most:
                error, state, attempts = None, "leased", attempts + 1
            case "lose" if lost < MAX_LOST_CONNECTIONS:
                error, state, attempts, lost = None, "pending", max(attempts - 1, 0), lost + 1
            case "spare":
                error, state, attempts = None, "pending", max(attempts - 1, 0)
            case "fail" | "lose" if attempts < most:
                error, state = None, "pending"
            case _:
                error, state = None, "failed"
        if error:
            with pytest.raises(error):
                rule(now, delivery, at_ms)
            continue
        outcome = rule(now, delivery, at_ms)
        delivery = outcome.delivery or delivery
        now, log = outcome.session, [*log, *logged(outcome)]
        closed_by += [type(entry.event) for entry in logged(outcome)]
        assert (delivery.state, delivery.attempts, delivery.lost_connections) == (state, attempts, lost)
        assert (delivery.due_at_ms is None) == (delivery.state not in OPEN_STATES)
        assert bool(outcome.entry) == (state in ("answered", "failed") and state != before)
        counted = (now.open_deliveries, now.failed_deliveries)
        assert counted == (int(state in ("pending", "leased")), int(state == "failed"))
    # One failure at most, and one more each time that it is delivered anew; one reply at most, and nothing
    # behind it.
    assert AgentMessage not in closed_by[:-1]
    assert closed_by.count(ReplyFailure) <= anew + 1
    assert attempts <= most
    assert all(replied(entry) == 1 for entry in log)
    assert (now.renewal_count, now.expires_at_ms, now.last_activity_ms) == (
        start.renewal_count,
        start.expires_at_ms,
        start.last_activity_ms,
    )


def replied(entry: Entry) -> int | None:
    """The sequence of the message that an entry closes."""
    return entry.answers
