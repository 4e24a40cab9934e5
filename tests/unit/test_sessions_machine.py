"""Whole lives of sessions: any order of operations, any movement of the clock, against the contract in
another hand.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server.domain.errors import DomainError
from server.domain.log import Entry, Event, ExpirationWarning, Expiry, Renewal, TimeoutChange
from server.domain.messages import AgentMessage, Draft, Reply, UserMessage
from server.domain.sessions import (
    Rule,
    Session,
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
from server.domain.timeouts import PartialTimeoutConfig
from tests.unit.samples import MINUTE, MINUTES, POLICY, T0, answering, logged, partials, session

NAN = float("nan")


class RefusedError(Exception):
    """The model says no; the text is the reason."""


@dataclass
class Model:
    """The contract's chapter on the life cycle, with times in ms since the creation."""

    timeout: float
    auto: bool
    life: float
    threshold: float
    activity: int = 0
    renewal: int = 0
    expires: int = 0
    renewals: int = 0
    armed: bool = True
    over: bool = False

    def __post_init__(self) -> None:
        self.expires = min(round(self.timeout * MINUTE), self.end)

    @property
    def end(self) -> int:
        return round(self.life * MINUTE)

    @property
    def warns(self) -> int:
        return self.expires - round(self.threshold * MINUTE)

    def live(self, now: int) -> None:
        if self.over or now >= self.expires:
            raise RefusedError("SESSION_EXPIRED")

    def _count_on(self, start: int) -> None:
        self.expires = min(start + round(self.timeout * MINUTE), self.end)

    def _renew(self, now: int) -> None:
        self.activity = self.renewal = max(now, self.activity)
        self._count_on(self.renewal)
        self.renewals += 1
        self.armed = True

    def active(self, now: int) -> bool:
        self.live(now)
        self.activity = max(now, self.activity)
        if self.auto:
            self._renew(now)
        return self.auto

    def by_hand(self, now: int) -> None:
        self.live(now)
        if self.expires == self.end:
            raise RefusedError("SESSION_RENEWAL_FAILED")
        self._renew(now)

    def patch(self, now: int, change: PartialTimeoutConfig) -> bool:
        self.live(now)
        numbers = (change.timeout_minutes, change.max_duration_minutes, change.warning_threshold_minutes)
        if any(number is not None and number != number for number in numbers):
            raise RefusedError("INVALID_TIMEOUT_CONFIG")
        if change.timeout_minutes is not None:
            if not 5 <= change.timeout_minutes <= 1440:
                raise RefusedError("INVALID_TIMEOUT_CONFIG")
            self.timeout = change.timeout_minutes
        if change.auto_renew is not None:
            self.auto = change.auto_renew
        if change.max_duration_minutes is not None:
            self.life = sorted((self.timeout, change.max_duration_minutes, 2880.0))[1]
        if change.warning_threshold_minutes is not None:
            self.threshold = max(1.0, min(change.warning_threshold_minutes, 1_000_000.0))
        if change == PartialTimeoutConfig():
            return False
        self._count_on(self.activity if self.auto else self.renewal)
        self.armed = self.armed or now < self.warns
        return True

    def time_passes(self, now: int) -> type[Event] | None:
        if self.over:
            return None
        if now >= self.expires:
            self.over = True
            return Expiry
        if self.armed and now >= self.warns:
            self.armed = False
            return ExpirationWarning
        return None


class Life(RuleBasedStateMachine):
    @initialize(request=partials(), agent=partials())
    def is_created(self, request: PartialTimeoutConfig, agent: PartialTimeoutConfig) -> None:
        self.now = T0
        self.log: list[Entry] = []
        self.session = session(T0, request, agent=agent)
        given = self.session.timeout
        assert 5 <= given.timeout_minutes <= 1440
        assert given.timeout_minutes <= given.max_duration_minutes <= 2880
        assert given.warning_threshold_minutes >= 1
        self.model = Model(
            given.timeout_minutes,
            given.auto_renew,
            given.max_duration_minutes,
            given.warning_threshold_minutes,
        )

    @rule(ms=st.integers(0, 20) | st.integers(0, 60 * MINUTE) | st.integers(0, 1500 * MINUTE))
    def time_goes_on(self, ms: int) -> None:
        self.now += ms

    @rule(ms=st.integers(1, 5000))
    def clock_is_set_back(self, ms: int) -> None:
        self.now -= ms

    @rule(offset=st.sampled_from([-1, 0, 0, 1]))
    def time_goes_on_to_the_next_deadline(self, offset: int) -> None:
        due = due_at_ms(self.session)
        if due is not None:
            self.now = max(self.now, due + offset)

    @rule(offset=st.sampled_from([-1, 0, 1]))
    def time_goes_on_to_the_expiry(self, offset: int) -> None:
        self.now = max(self.now, self.session.expires_at_ms + offset)

    @rule()
    def user_writes(self) -> None:
        def expected(now: int) -> type[Event]:
            self.model.active(now)
            return UserMessage

        self._do(partial(send_message, message_id="m", draft=Draft("hello")), expected)

    @rule()
    def agent_answers(self) -> None:
        def expected(now: int) -> type[Event]:
            self.model.live(now)
            return AgentMessage

        self._do(answering(Reply(Draft("hi")), "r"), expected)

    @rule()
    def client_keeps_alive(self) -> None:
        self._do(heartbeat, lambda now: Renewal if self.model.active(now) else None)

    @rule()
    def client_renews(self) -> None:
        def expected(now: int) -> type[Event]:
            self.model.by_hand(now)
            return Renewal

        self._do(renew, expected)

    @rule(change=partials() | partials(st.floats(5, 100)) | partials(MINUTES | st.just(NAN)))
    def client_changes_the_timeout(self, change: PartialTimeoutConfig) -> None:
        before = self.session.timeout
        self._do(
            partial(update_timeout, change=change, policy=POLICY),
            lambda now: TimeoutChange if self.model.patch(now, change) else None,
        )
        for field in ("timeout_minutes", "auto_renew", "max_duration_minutes", "warning_threshold_minutes"):
            if getattr(change, field) is None:
                assert getattr(self.session.timeout, field) == getattr(before, field), field

    @rule()
    def deadline_is_looked_at(self) -> None:
        due = due_at_ms(self.session)
        self._do(fall_due, self.model.time_passes)
        assert (due is not None and due <= self.now) == (self.made > 0)
        due = due_at_ms(self.session)
        assert due is None or due > self.now

    def _do(self, operation: Rule, expected: Callable[[int], type[Event] | None]) -> None:
        """Carries the operation out here and in the model: both refuse it, or both make the same of it."""
        before, was_expired, model_before = self.session, is_expired(self.session, self.now), copy(self.model)
        self.made = 0
        try:
            kind = expected(self.now - T0)
            refusal = None
        except RefusedError as error:
            kind, refusal, self.model = None, str(error), model_before
        try:
            outcome = operation(before, self.now)
        except DomainError as error:
            given = error.reason
        else:
            given = None
        assert given == refusal
        if refusal is not None:
            return
        assert not was_expired or operation is fall_due, "something was done to an expired session"
        assert [type(entry.event) for entry in logged(outcome)] == ([] if kind is None else [kind])
        after = outcome.session
        assert after.renewal_count - before.renewal_count in (0, 1)
        assert after.last_activity_ms >= before.last_activity_ms
        assert (after.id, after.created_at_ms, after.metadata) == (
            before.id,
            before.created_at_ms,
            before.metadata,
        )
        for entry in logged(outcome):
            assert (entry.expires_at_ms, entry.renewal_count) == (after.expires_at_ms, after.renewal_count)
            assert entry.was_renewed == (after.renewal_count > before.renewal_count)
            assert entry.is_near_expiration == is_near_expiration(after, self.now)
            assert (entry.message is not None) == isinstance(entry.event, UserMessage | AgentMessage)
        self.made = len(logged(outcome))
        self.log.extend(logged(outcome))
        self.session = after

    @invariant()
    def the_session_stands_as_the_contract_says(self) -> None:
        s, m = self.session, self.model
        assert (s.timeout.timeout_minutes, s.timeout.auto_renew) == (m.timeout, m.auto)
        assert (s.timeout.max_duration_minutes, s.timeout.warning_threshold_minutes) == (m.life, m.threshold)
        assert (s.last_activity_ms - T0, s.renewed_at_ms - T0, s.expires_at_ms - T0) == (
            m.activity,
            m.renewal,
            m.expires,
        )
        assert (s.renewal_count, s.warning_logged, s.expiry_logged) == (m.renewals, not m.armed, m.over)

    @invariant()
    def bounds_hold(self) -> None:
        s: Session = self.session
        assert s.created_at_ms <= s.renewed_at_ms <= s.last_activity_ms
        assert s.expires_at_ms <= s.end_ms == T0 + round(s.timeout.max_duration_minutes * MINUTE)
        assert s.warn_at_ms < s.expires_at_ms
        assert time_remaining_ms(s, self.now) == (
            0 if is_expired(s, self.now) else s.expires_at_ms - self.now
        )

    @invariant()
    def the_log_is_whole(self) -> None:
        assert [entry.sequence for entry in self.log] == list(range(1, self.session.last_sequence + 1))
        assert all(later.at_ms > earlier.at_ms for earlier, later in pairwise(self.log))
        assert all(entry.at_ms >= T0 for entry in self.log)
        expiries = [entry for entry in self.log if isinstance(entry.event, Expiry)]
        assert expiries == (self.log[-1:] if self.session.expiry_logged else [])

    @invariant()
    def one_warning_for_each_renewal_or_crossing(self) -> None:
        armed = True
        for entry in self.log:
            if entry.was_renewed or (isinstance(entry.event, TimeoutChange) and not entry.is_near_expiration):
                armed = True
            elif isinstance(entry.event, ExpirationWarning):
                assert armed
                armed = False


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
