"""Where timeout settings come from, and how they are bounded."""

import math
from dataclasses import astuple, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.errors import InvalidTimeoutConfigError
from server.domain.timeouts import (
    NOTHING_NAMED,
    PartialTimeoutConfig,
    TimeoutConfig,
    TimeoutPolicy,
    apply_change,
    check_numbers,
    check_timeout_range,
    minutes_ms,
    resolve,
)
from tests.unit.samples import POLICY, partials

NAN = math.nan
FIELDS = ("timeout_minutes", "auto_renew", "max_duration_minutes", "warning_threshold_minutes")
NUMBERS = ("timeout_minutes", "max_duration_minutes", "warning_threshold_minutes")
IN_RANGE = {
    "timeout_minutes": 20.0,
    "auto_renew": False,
    "max_duration_minutes": 300.0,
    "warning_threshold_minutes": 9.0,
}
OTHERS = {
    "timeout_minutes": 40.0,
    "auto_renew": True,
    "max_duration_minutes": 400.0,
    "warning_threshold_minutes": 11.0,
}
DEFAULTS = {
    "timeout_minutes": 30.0,
    "auto_renew": True,
    "max_duration_minutes": 720.0,
    "warning_threshold_minutes": 5.0,
}


def only(field: str, value: float | bool) -> PartialTimeoutConfig:
    return PartialTimeoutConfig(**{field: value})


class TestResolve:
    @pytest.mark.parametrize("field", FIELDS)
    def test_the_request_comes_before_the_agent_and_the_agent_before_the_environment(
        self, field: str
    ) -> None:
        request, agent = only(field, IN_RANGE[field]), only(field, OTHERS[field])
        assert getattr(resolve(POLICY, request, agent), field) == IN_RANGE[field]
        assert getattr(resolve(POLICY, NOTHING_NAMED, agent), field) == OTHERS[field]
        assert getattr(resolve(POLICY, NOTHING_NAMED, NOTHING_NAMED), field) == DEFAULTS[field]

    def test_precedence_applies_to_each_field_by_itself(self) -> None:
        request, agent = PartialTimeoutConfig(timeout_minutes=20.0), PartialTimeoutConfig(40.0, False)
        assert resolve(POLICY, request, agent) == TimeoutConfig(20.0, False, 720.0, 5.0)

    def test_what_says_false_says_something(self) -> None:
        assert (
            resolve(
                POLICY, PartialTimeoutConfig(auto_renew=False), PartialTimeoutConfig(auto_renew=True)
            ).auto_renew
            is False
        )
        assert (
            resolve(
                POLICY, PartialTimeoutConfig(auto_renew=True), PartialTimeoutConfig(auto_renew=False)
            ).auto_renew
            is True
        )

    @pytest.mark.parametrize(
        ("field", "asked", "given"),
        [
            ("timeout_minutes", 4.999, 5.0),
            ("timeout_minutes", 5.0, 5.0),
            ("timeout_minutes", 1440.0, 1440.0),
            ("timeout_minutes", 1440.001, 1440.0),
            ("timeout_minutes", 0.0, 5.0),
            ("timeout_minutes", -3.0, 5.0),
            ("timeout_minutes", math.inf, 1440.0),
            ("timeout_minutes", -math.inf, 5.0),
            ("max_duration_minutes", 29.0, 30.0),
            ("max_duration_minutes", 30.0, 30.0),
            ("max_duration_minutes", 2880.0, 2880.0),
            ("max_duration_minutes", 2881.0, 2880.0),
            ("max_duration_minutes", math.inf, 2880.0),
            ("max_duration_minutes", -math.inf, 30.0),
            ("warning_threshold_minutes", 0.5, 1.0),
            ("warning_threshold_minutes", 1.0, 1.0),
            ("warning_threshold_minutes", 5000.0, 5000.0),
            ("warning_threshold_minutes", -math.inf, 1.0),
        ],
    )
    def test_a_number_out_of_range_is_clamped(self, field: str, asked: float, given: float) -> None:
        assert getattr(resolve(POLICY, only(field, asked), NOTHING_NAMED), field) == given
        assert getattr(resolve(POLICY, NOTHING_NAMED, only(field, asked)), field) == given

    def test_an_infinite_threshold_becomes_a_number_that_json_can_write(self) -> None:
        assert math.isfinite(
            resolve(
                POLICY, only("warning_threshold_minutes", math.inf), NOTHING_NAMED
            ).warning_threshold_minutes
        )

    def test_the_environments_own_defaults_are_clamped_too(self) -> None:
        policy = TimeoutPolicy(TimeoutConfig(1.0, True, 60.0, 60.0), 5.0, 60.0)
        assert resolve(policy, NOTHING_NAMED, NOTHING_NAMED) == TimeoutConfig(5.0, True, 60.0, 60.0)
        policy = TimeoutPolicy(TimeoutConfig(10080.0, True, 20160.0, 5.0), 5.0, 60.0)
        assert resolve(policy, NOTHING_NAMED, NOTHING_NAMED) == TimeoutConfig(60.0, True, 120.0, 5.0)

    @pytest.mark.parametrize("field", NUMBERS)
    def test_nan_is_not_a_number(self, field: str) -> None:
        with pytest.raises(InvalidTimeoutConfigError) as caught:
            resolve(POLICY, only(field, NAN), NOTHING_NAMED)
        assert caught.value.details["field"] == field
        assert caught.value.details["value"] == "nan"

    @given(partials(), partials())
    def test_whatever_is_asked_the_result_is_in_range(
        self, request: PartialTimeoutConfig, agent: PartialTimeoutConfig
    ) -> None:
        given = resolve(POLICY, request, agent)
        assert 5 <= given.timeout_minutes <= 1440
        assert given.timeout_minutes <= given.max_duration_minutes <= 2880
        assert 1 <= given.warning_threshold_minutes < math.inf
        assert isinstance(given.auto_renew, bool)

    @given(partials(), partials())
    def test_what_is_in_range_is_taken_as_it_is(
        self, request: PartialTimeoutConfig, agent: PartialTimeoutConfig
    ) -> None:
        given = resolve(POLICY, request, agent)
        for field in FIELDS:
            layers = (getattr(request, field), getattr(agent, field), DEFAULTS[field])
            asked = next(value for value in layers if value is not None)
            low = {
                "timeout_minutes": 5,
                "max_duration_minutes": given.timeout_minutes,
                "warning_threshold_minutes": 1,
            }.get(field, 0)
            high = {
                "timeout_minutes": 1440,
                "max_duration_minutes": 2880,
                "warning_threshold_minutes": 1e6,
            }.get(field, 1)
            assert getattr(given, field) == min(max(asked, low), high)


class TestChanged:
    START = TimeoutConfig(20.0, False, 100.0, 7.0)

    @given(partials(st.floats(5, 1440)))
    def test_only_what_is_named_changes(self, change: PartialTimeoutConfig) -> None:
        after = apply_change(POLICY, self.START, change)
        for field in FIELDS:
            if getattr(change, field) is None:
                assert getattr(after, field) == getattr(self.START, field)
        if change.timeout_minutes is not None:
            assert after.timeout_minutes == change.timeout_minutes
        if change.auto_renew is not None:
            assert after.auto_renew is change.auto_renew

    def test_nothing_named_changes_nothing_even_out_of_the_range_of_today(self) -> None:
        old = TimeoutConfig(2.0, True, 1.0, 0.5)
        assert apply_change(POLICY, old, NOTHING_NAMED) == old
        assert apply_change(POLICY, old, PartialTimeoutConfig(auto_renew=False)) == old._replace(
            auto_renew=False
        )

    @pytest.mark.parametrize(
        "minutes", [math.nextafter(5, 0), math.nextafter(1440, 2000), 0.0, -1.0, math.inf, -math.inf, NAN]
    )
    def test_a_timeout_out_of_range_is_an_error(self, minutes: float) -> None:
        with pytest.raises(InvalidTimeoutConfigError) as caught:
            apply_change(POLICY, self.START, only("timeout_minutes", minutes))
        assert caught.value.details["field"] == "timeout_minutes"

    @pytest.mark.parametrize(
        ("field", "asked", "given"),
        [
            ("max_duration_minutes", 19.0, 20.0),
            ("max_duration_minutes", 20.0, 20.0),
            ("max_duration_minutes", 2880.0, 2880.0),
            ("max_duration_minutes", math.inf, 2880.0),
            ("warning_threshold_minutes", 0.0, 1.0),
            ("warning_threshold_minutes", 60.0, 60.0),
        ],
    )
    def test_the_other_numbers_are_clamped(self, field: str, asked: float, given: float) -> None:
        assert apply_change(POLICY, self.START, only(field, asked)) == self.START._replace(**{field: given})

    def test_the_maximum_duration_is_measured_by_the_new_timeout(self) -> None:
        after = apply_change(
            POLICY, self.START, PartialTimeoutConfig(timeout_minutes=50.0, max_duration_minutes=30.0)
        )
        assert (after.timeout_minutes, after.max_duration_minutes) == (50.0, 50.0)

    @pytest.mark.parametrize("field", NUMBERS)
    def test_nan_is_not_a_number(self, field: str) -> None:
        with pytest.raises(InvalidTimeoutConfigError) as caught:
            apply_change(POLICY, self.START, only(field, NAN))
        assert caught.value.details["field"] == field


class TestChecks:
    @given(partials())
    def test_everything_but_nan_is_a_number(self, config: PartialTimeoutConfig) -> None:
        check_numbers(config)
        for field in NUMBERS:
            with pytest.raises(InvalidTimeoutConfigError):
                check_numbers(replace(config, **{field: NAN}))

    @given(partials())
    def test_a_timeout_out_of_its_range_is_refused(self, config: PartialTimeoutConfig) -> None:
        minutes = config.timeout_minutes
        if minutes is None or 5 <= minutes <= 1440:
            check_timeout_range(POLICY, config)
        else:
            with pytest.raises(InvalidTimeoutConfigError, match="5 and 1440"):
                check_timeout_range(POLICY, config)


@given(st.integers(0, 10**9))
def test_minutes_are_exact_to_the_ms(ms: int) -> None:
    assert minutes_ms(ms / 60_000) == ms


def test_the_fields_are_those_of_the_contract() -> None:
    assert astuple(PartialTimeoutConfig()) == (None,) * 4
    assert tuple(PartialTimeoutConfig.__dataclass_fields__) == FIELDS == TimeoutConfig._fields
