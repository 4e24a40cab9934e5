"""The life of a session, line by line of the contract."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eliza.sessions.times import iso
from server.domain.agents import Agent, AgentKind
from server.domain.errors import (
    InvalidContentError,
    InvalidMetadataError,
    InvalidTimeoutConfigError,
    OverloadedError,
    SessionExpiredError,
    SessionRenewalError,
)
from server.domain.log import Event, ExpirationWarning, Expiry, Renewal, TimeoutChange
from server.domain.messages import AgentMessage, Draft, Reply, UserMessage
from server.domain.sessions import (
    Outcome,
    Rule,
    Session,
    create,
    due_at_ms,
    fall_due,
    heartbeat,
    is_expired,
    is_near_expiration,
    renew,
    send_message,
    time_remaining_ms,
    update_timeout,
)
from server.domain.timeouts import NOTHING_NAMED, PartialTimeoutConfig
from tests.unit.samples import MINUTE, POLICY, T0, answering, logged, session

BY_HAND = PartialTimeoutConfig(auto_renew=False)
say = partial(send_message, message_id="m", draft=Draft("hello"))
answer = answering(Reply(Draft("hi"), "hm", ("WAVE",)), "r")


def patch(**change: float | bool) -> Rule:
    return partial(update_timeout, change=PartialTimeoutConfig(**change), policy=POLICY)


ON_LIVE_SESSIONS = [say, answer, heartbeat, renew, patch(timeout_minutes=10.0)]
LIVE_IDS = ["message", "reply", "heartbeat", "renew", "patch"]


def after(start: Session, *steps: tuple[int, Rule]) -> Session:
    """The session after rules, each at an instant after T0."""
    for offset, rule in steps:
        start = rule(start, T0 + offset).session
    return start


class TestCreate:
    @pytest.mark.parametrize(("minutes", "kept_ms"), [(None, None), (0.0, 0), (1.5, 90_000)])
    def test_a_session_is_kept_as_long_as_its_agent_says_at_that_time(
        self, minutes: float | None, kept_ms: int | None
    ) -> None:
        agent = Agent("a", "sample", AgentKind.ECHO, T0, T0, retention_minutes=minutes)
        ids = {"session_id": "s", "channel_id": "c", "agent_id": "a", "user_id": "u"}
        made = create(agent, T0, **ids, metadata="{}", policy=POLICY)
        assert made.retention_ms == kept_ms
        assert fall_due(made, made.expires_at_ms).session.retention_ms == kept_ms

    def test_a_new_session_has_the_default_timeout(self) -> None:
        new = session()
        assert (new.created_at_ms, new.last_activity_ms, new.renewed_at_ms) == (T0, T0, T0)
        assert new.expires_at_ms == T0 + 30 * MINUTE
        assert (new.renewal_count, new.warning_logged, new.expiry_logged, new.last_sequence) == (
            0,
            False,
            False,
            0,
        )
        assert new.end_ms == T0 + 720 * MINUTE

    def test_the_expiry_is_never_later_than_the_maximum_duration(self) -> None:
        new = session(timeout=PartialTimeoutConfig(timeout_minutes=100.0, max_duration_minutes=1.0))
        assert new.timeout.max_duration_minutes == 100
        assert new.expires_at_ms == new.end_ms == T0 + 100 * MINUTE

    def test_fractions_of_a_minute_count(self) -> None:
        assert session(timeout=PartialTimeoutConfig(timeout_minutes=5.5)).expires_at_ms == T0 + 330_000

    def test_too_large_metadata_is_refused(self) -> None:
        with pytest.raises(InvalidMetadataError):
            session(metadata='{"a":"' + "x" * 10_240 + '"}')

    def test_a_setting_that_is_no_number_is_refused(self) -> None:
        with pytest.raises(InvalidTimeoutConfigError) as caught:
            session(timeout=PartialTimeoutConfig(warning_threshold_minutes=float("nan")))
        assert caught.value.details["field"] == "warning_threshold_minutes"


class TestExpiry:
    @pytest.mark.parametrize("rule", ON_LIVE_SESSIONS, ids=LIVE_IDS)
    def test_a_session_is_expired_from_the_instant_of_its_expiry(self, rule: Rule) -> None:
        new = session()
        assert rule(new, new.expires_at_ms - 1).session.last_sequence == 1
        with pytest.raises(SessionExpiredError) as caught:
            rule(new, new.expires_at_ms)
        assert caught.value.details == {"sessionId": new.id, "expiresAt": iso(new.expires_at_ms)}

    @pytest.mark.parametrize("rule", ON_LIVE_SESSIONS, ids=LIVE_IDS)
    def test_an_expiry_in_the_log_holds_when_the_clock_goes_back(self, rule: Rule) -> None:
        gone = fall_due(session(), T0 + 30 * MINUTE).session
        with pytest.raises(SessionExpiredError):
            rule(gone, T0)
        assert is_expired(gone, T0)
        assert time_remaining_ms(gone, T0) == 0
        assert not is_near_expiration(gone, T0 + 29 * MINUTE)

    @pytest.mark.parametrize(
        "rule",
        [
            partial(send_message, message_id="m", draft=Draft("")),
            partial(send_message, message_id="m", draft=InvalidContentError("cannot be read")),
            partial(send_message, message_id="m", draft=Draft("x"), max_open=0),
            partial(send_message, message_id="m", draft=Draft("x", '{"a":"' + "x" * 10_240 + '"}')),
            patch(timeout_minutes=float("nan")),
            patch(timeout_minutes=1.0),
        ],
    )
    def test_whether_it_is_live_is_checked_before_whether_the_body_is_valid(self, rule: Rule) -> None:
        with pytest.raises(SessionExpiredError):
            rule(session(), T0 + 30 * MINUTE)

    def test_what_cannot_be_read_is_raised_and_a_full_session_takes_no_more(self) -> None:
        with pytest.raises(InvalidMetadataError, match="cannot be read"):
            send_message(session(), T0, "m", InvalidMetadataError("cannot be read", 1))
        full = send_message(session(), T0, "m", Draft("x"), max_open=1).session
        with pytest.raises(OverloadedError):
            send_message(full, T0, "m", Draft("x"), max_open=1)
        with pytest.raises(InvalidContentError):
            send_message(full, T0, "m", Draft(""), max_open=1)

    @pytest.mark.parametrize(
        ("offset", "remaining", "near"),
        [(0, 1_800_000, False), (1_499_999, 300_001, False), (1_500_000, 300_000, True)],
    )
    def test_the_remaining_time_says_whether_the_expiration_is_near(
        self, offset: int, remaining: int, near: bool
    ) -> None:
        assert time_remaining_ms(session(), T0 + offset) == remaining
        assert is_near_expiration(session(), T0 + offset) is near

    def test_at_the_expiry_nothing_remains_and_it_is_not_near(self) -> None:
        assert is_near_expiration(session(), T0 + 1_799_999)
        for late in (0, 1, 10**9):
            assert time_remaining_ms(session(), T0 + 1_800_000 + late) == 0
            assert not is_near_expiration(session(), T0 + 1_800_000 + late)


class TestActivity:
    @pytest.mark.parametrize(("rule", "kind"), [(say, UserMessage), (heartbeat, Renewal)])
    def test_it_renews(self, rule: Rule, kind: type[Event]) -> None:
        warned = fall_due(session(), T0 + 25 * MINUTE).session
        assert warned.warning_logged
        outcome = rule(warned, T0 + 26 * MINUTE)
        new = outcome.session
        assert (new.last_activity_ms, new.renewed_at_ms) == (T0 + 26 * MINUTE, T0 + 26 * MINUTE)
        assert (new.expires_at_ms, new.renewal_count, new.warning_logged) == (T0 + 56 * MINUTE, 1, False)
        entry = outcome.entry
        assert (type(entry.event), entry.sequence, entry.at_ms) == (kind, 2, T0 + 26 * MINUTE)
        assert (entry.expires_at_ms, entry.renewal_count, entry.was_renewed) == (T0 + 56 * MINUTE, 1, True)
        assert entry.is_near_expiration is False

    @pytest.mark.parametrize("rule", [say, heartbeat])
    def test_without_auto_renewal_it_only_sets_the_last_activity(self, rule: Rule) -> None:
        start = session(timeout=BY_HAND)
        new = rule(start, T0 + MINUTE).session
        assert new.last_activity_ms == T0 + MINUTE
        assert (new.expires_at_ms, new.renewal_count, new.renewed_at_ms) == (start.expires_at_ms, 0, T0)

    def test_a_heartbeat_that_renews_nothing_makes_no_entry(self) -> None:
        outcome = heartbeat(session(timeout=BY_HAND), T0 + MINUTE)
        assert outcome.entry is None
        assert outcome.session.last_sequence == 0

    def test_a_message_without_auto_renewal_says_that_it_did_not_renew(self) -> None:
        entry = say(session(timeout=BY_HAND), T0 + 26 * MINUTE).entry
        assert (entry.was_renewed, entry.is_near_expiration, entry.renewal_count) == (False, True, 0)

    @pytest.mark.parametrize("rule", [say, heartbeat])
    def test_the_renewal_ends_at_the_maximum_duration_and_still_counts(self, rule: Rule) -> None:
        start = session(timeout=PartialTimeoutConfig(30.0, True, 40.0))
        first = rule(start, T0 + 29 * MINUTE).session
        assert (first.expires_at_ms, first.renewal_count) == (T0 + 40 * MINUTE, 1)
        second = rule(first, T0 + 40 * MINUTE - 1)
        assert (second.session.expires_at_ms, second.session.renewal_count) == (T0 + 40 * MINUTE, 2)
        assert second.entry.was_renewed

    def test_the_message_is_kept_as_it_came(self) -> None:
        draft = Draft(" \u2028😀", '{"a": 1}', "[1]")
        entry = send_message(session(), T0, "m1", draft).entry
        kept = entry.message
        assert kept is not None
        assert (kept.id, kept.content, kept.metadata, kept.attachments) == (
            "m1",
            " \u2028😀",
            '{"a": 1}',
            "[1]",
        )
        assert isinstance(kept, UserMessage)

    @pytest.mark.parametrize(
        ("draft", "error"),
        [
            (Draft(""), InvalidContentError),
            (Draft("x", '{"a":"' + "x" * 10_240 + '"}'), InvalidMetadataError),
        ],
    )
    def test_a_draft_beyond_the_bounds_is_refused(self, draft: Draft, error: type[Exception]) -> None:
        with pytest.raises(error):
            send_message(session(), T0, "m", draft)
        with pytest.raises(error):
            answering(Reply(draft))(session(), T0)


class TestReply:
    def test_it_is_stored_and_renews_nothing(self) -> None:
        start = session()
        outcome = answer(start, T0 + MINUTE)
        assert outcome.session == start._replace(
            last_sequence=1, last_entry_ms=T0 + MINUTE, stored_bytes=len("hi" + "{}")
        )
        entry = outcome.entry
        kept = entry.message
        assert kept is not None
        assert (type(entry.event), entry.was_renewed) == (AgentMessage, False)
        assert (kept.id, kept.content, kept.thought, kept.actions) == ("r", "hi", "hm", ("WAVE",))


class TestRenewByHand:
    @pytest.mark.parametrize("auto_renew", [True, False])
    def test_it_renews_whatever_auto_renew_says(self, auto_renew: bool) -> None:
        warned = fall_due(
            session(timeout=PartialTimeoutConfig(auto_renew=auto_renew)), T0 + 29 * MINUTE
        ).session
        outcome = renew(warned, T0 + 29 * MINUTE)
        new = outcome.session
        assert (new.expires_at_ms, new.renewal_count, new.renewed_at_ms, new.warning_logged) == (
            T0 + 59 * MINUTE,
            1,
            T0 + 29 * MINUTE,
            False,
        )
        assert [(type(entry.event), entry.was_renewed) for entry in logged(outcome)] == [(Renewal, True)]

    def test_at_the_maximum_duration_there_is_nothing_to_gain(self) -> None:
        start = session(timeout=PartialTimeoutConfig(30.0, False, 40.0))
        last = renew(start, T0 + 10 * MINUTE).session
        assert last.expires_at_ms == last.end_ms
        with pytest.raises(SessionRenewalError) as caught:
            renew(last, T0 + 10 * MINUTE)
        details = dict(caught.value.details)
        assert details.pop("reason")
        assert details == {
            "sessionId": start.id,
            "maxDurationMinutes": "40",
            "createdAt": "2026-01-31T09:05:00.000Z",
        }

    def test_one_ms_to_gain_is_enough(self) -> None:
        start = session(timeout=PartialTimeoutConfig(30.0, False, 40.0))
        nearly = renew(start, T0 + 10 * MINUTE - 1).session
        assert nearly.expires_at_ms == nearly.end_ms - 1
        assert renew(nearly, T0 + 20 * MINUTE).session.expires_at_ms == nearly.end_ms


class TestUpdateTimeout:
    def test_it_changes_only_what_it_names(self) -> None:
        start = session(timeout=PartialTimeoutConfig(20.0, False, 100.0, 7.0))
        assert patch(timeout_minutes=25.0)(start, T0).session.timeout == start.timeout._replace(
            timeout_minutes=25.0
        )
        assert patch(auto_renew=True)(start, T0).session.timeout == start.timeout._replace(auto_renew=True)
        assert patch(max_duration_minutes=99.0)(start, T0).session.timeout == start.timeout._replace(
            max_duration_minutes=99.0
        )
        assert patch(warning_threshold_minutes=3.0)(start, T0).session.timeout == start.timeout._replace(
            warning_threshold_minutes=3.0
        )

    def test_with_auto_renewal_it_counts_from_the_last_activity(self) -> None:
        active = after(session(timeout=BY_HAND), (10 * MINUTE, heartbeat))
        assert patch(auto_renew=True)(active, T0 + 12 * MINUTE).session.expires_at_ms == T0 + 40 * MINUTE

    def test_without_it_counts_from_the_creation_or_the_last_renewal(self) -> None:
        active = after(session(timeout=BY_HAND), (10 * MINUTE, say))
        assert patch(timeout_minutes=20.0)(active, T0 + 12 * MINUTE).session.expires_at_ms == T0 + 20 * MINUTE
        renewed = after(active, (15 * MINUTE, renew), (16 * MINUTE, heartbeat))
        assert (
            patch(timeout_minutes=20.0)(renewed, T0 + 17 * MINUTE).session.expires_at_ms == T0 + 35 * MINUTE
        )

    def test_a_change_is_no_activity_and_no_renewal(self) -> None:
        outcome = patch(timeout_minutes=60.0)(session(), T0 + 10 * MINUTE)
        new = outcome.session
        assert (new.last_activity_ms, new.renewed_at_ms, new.renewal_count) == (T0, T0, 0)
        entry = outcome.entry
        assert (type(entry.event), entry.was_renewed, entry.expires_at_ms) == (
            TimeoutChange,
            False,
            T0 + 60 * MINUTE,
        )

    def test_the_maximum_duration_caps_the_result(self) -> None:
        assert patch(timeout_minutes=1000.0)(session(), T0).session.expires_at_ms == T0 + 720 * MINUTE
        assert (
            patch(max_duration_minutes=30.0)(
                after(session(), (MINUTE, say)), T0 + 2 * MINUTE
            ).session.expires_at_ms
            == T0 + 30 * MINUTE
        )

    def test_where_the_result_is_past_the_session_is_expired_from_then_on(self) -> None:
        outcome = patch(timeout_minutes=5.0)(session(), T0 + 20 * MINUTE)
        assert outcome.session.expires_at_ms == T0 + 5 * MINUTE
        assert is_expired(outcome.session, T0 + 20 * MINUTE)
        assert isinstance(fall_due(outcome.session, T0 + 20 * MINUTE).entry.event, Expiry)

    def test_a_change_that_names_nothing_does_nothing(self) -> None:
        start = session()
        assert update_timeout(start, T0 + MINUTE, NOTHING_NAMED, POLICY) == Outcome(start)

    @pytest.mark.parametrize(
        "minutes", [4.999, 1440.001, 0.0, -1.0, float("inf"), float("-inf"), float("nan")]
    )
    def test_a_timeout_out_of_range_is_an_error(self, minutes: float) -> None:
        with pytest.raises(InvalidTimeoutConfigError) as caught:
            patch(timeout_minutes=minutes)(session(), T0)
        assert caught.value.details["field"] == "timeout_minutes"

    @pytest.mark.parametrize("minutes", [5.0, 1440.0])
    def test_the_bounds_are_in_the_range(self, minutes: float) -> None:
        assert patch(timeout_minutes=minutes)(session(), T0).session.timeout.timeout_minutes == minutes


class TestFallDue:
    def test_the_warning_falls_due_and_then_the_expiry(self) -> None:
        start = session()
        assert due_at_ms(start) == T0 + 25 * MINUTE
        assert fall_due(start, T0 + 25 * MINUTE - 1) == Outcome(start)
        warning = fall_due(start, T0 + 25 * MINUTE)
        assert [(type(entry.event), entry.is_near_expiration) for entry in logged(warning)] == [
            (ExpirationWarning, True)
        ]
        warned = warning.session
        assert due_at_ms(warned) == T0 + 30 * MINUTE
        assert fall_due(warned, T0 + 30 * MINUTE - 1) == Outcome(warned)
        expiry = fall_due(warned, T0 + 30 * MINUTE)
        assert [type(entry.event) for entry in logged(expiry)] == [Expiry]
        assert due_at_ms(expiry.session) is None
        assert fall_due(expiry.session, T0 + 10**12) == Outcome(expiry.session)

    def test_a_warning_is_skipped_when_the_session_has_meanwhile_expired(self) -> None:
        outcome = fall_due(session(), T0 + 31 * MINUTE)
        assert [type(entry.event) for entry in logged(outcome)] == [Expiry]
        assert due_at_ms(outcome.session) is None

    @pytest.mark.parametrize("rule", [say, heartbeat, renew], ids=["message", "heartbeat", "renew"])
    def test_a_renewal_re_arms_the_warning(self, rule: Rule) -> None:
        renewed = after(session(), (25 * MINUTE, fall_due), (26 * MINUTE, rule))
        assert due_at_ms(renewed) == T0 + 51 * MINUTE
        assert [type(entry.event) for entry in logged(fall_due(renewed, T0 + 51 * MINUTE))] == [
            ExpirationWarning
        ]

    @pytest.mark.parametrize(
        "rule", [answer, patch(warning_threshold_minutes=6.0), patch(timeout_minutes=29.0)]
    )
    def test_without_a_renewal_there_is_no_second_warning(self, rule: Rule) -> None:
        warned = after(session(), (25 * MINUTE, fall_due), (26 * MINUTE, rule))
        assert warned.warning_logged
        assert due_at_ms(warned) == warned.expires_at_ms

    def test_a_change_that_takes_the_session_out_of_its_warning_re_arms_it(self) -> None:
        later = after(session(), (25 * MINUTE, fall_due), (26 * MINUTE, patch(timeout_minutes=60.0)))
        assert due_at_ms(later) == T0 + 55 * MINUTE

    def test_a_threshold_longer_than_the_life_warns_at_once(self) -> None:
        start = session(timeout=PartialTimeoutConfig(warning_threshold_minutes=1000.0))
        assert [type(entry.event) for entry in logged(fall_due(start, T0))] == [ExpirationWarning]


class TestSequenceAndTime:
    @given(
        st.lists(
            st.tuples(
                st.integers(-5000, 5000),
                st.sampled_from(
                    [say, answer, heartbeat, renew, patch(warning_threshold_minutes=2.0), fall_due]
                ),
            ),
            max_size=40,
        )
    )
    def test_sequences_have_no_gaps_and_times_increase_whatever_the_clock_does(
        self, steps: list[tuple[int, Callable]]
    ) -> None:
        now, start, log = T0, session(), []
        for jump, rule in steps:
            now += jump
            outcome = rule(start, now)
            log.extend(logged(outcome))
            start = outcome.session
        assert [entry.sequence for entry in log] == list(range(1, len(log) + 1))
        assert start.last_sequence == len(log)
        assert all(later.at_ms > earlier.at_ms for earlier, later in pairwise(log))
        assert {entry.session_id for entry in log} <= {start.id}

    def test_a_clock_that_stands_still_gives_the_next_ms(self) -> None:
        start, times = session(), []
        for _ in range(5):
            outcome = say(start, T0)
            start = outcome.session
            times.append(outcome.entry.at_ms)
        assert times == [T0, T0 + 1, T0 + 2, T0 + 3, T0 + 4]
        assert say(start, T0 + 3).entry.at_ms == T0 + 5
        assert say(start, T0 + 100).entry.at_ms == T0 + 100

    def test_activity_never_goes_back(self) -> None:
        new = after(
            session(), (10 * MINUTE, say), (5 * MINUTE, say), (5 * MINUTE, heartbeat), (5 * MINUTE, renew)
        )
        assert (new.last_activity_ms, new.renewed_at_ms, new.expires_at_ms) == (
            T0 + 10 * MINUTE,
            T0 + 10 * MINUTE,
            T0 + 40 * MINUTE,
        )
