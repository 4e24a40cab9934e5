"""The timeout settings of a session: where they come from, their bounds, and how a change applies."""

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from server.domain.errors import InvalidTimeoutConfigError

_T = TypeVar("_T")

MINUTE_MS = 60_000
MIN_WARNING_THRESHOLD_MINUTES = 1.0
MAX_WARNING_THRESHOLD_MINUTES = 1_000_000.0
"""Longer than any life. The API names no upper bound, and JSON cannot write infinity."""

MAX_RETENTION_MINUTES = 525_600.0
"""How long an expired session may be kept: a year."""


class TimeoutConfig(NamedTuple):
    """The settings of a session. Minutes may be fractions."""

    timeout_minutes: float
    auto_renew: bool
    max_duration_minutes: float
    warning_threshold_minutes: float


@dataclass(frozen=True, slots=True)
class PartialTimeoutConfig:
    """Some of the settings, as a request or an agent names them; None where it says nothing."""

    timeout_minutes: float | None = None
    auto_renew: bool | None = None
    max_duration_minutes: float | None = None
    warning_threshold_minutes: float | None = None


NOTHING_NAMED = PartialTimeoutConfig()


@dataclass(frozen=True, slots=True)
class TimeoutPolicy:
    """The service's own defaults, and the bounds of timeout_minutes; the environment sets both."""

    defaults: TimeoutConfig
    min_timeout_minutes: float
    max_timeout_minutes: float

    @property
    def max_duration_minutes(self) -> float:
        """The greatest max_duration_minutes: twice the greatest timeout."""
        return 2 * self.max_timeout_minutes


def resolve(
    policy: TimeoutPolicy,
    request: PartialTimeoutConfig,
    agent: PartialTimeoutConfig,
) -> TimeoutConfig:
    """The settings of a new session, clamped: the request's, else the agent's, else the defaults.

    Raises InvalidTimeoutConfigError for NaN.
    """
    check_numbers(request)
    return _clamp(policy, _overlay(_overlay(policy.defaults, agent), request))


def apply_change(policy: TimeoutPolicy, config: TimeoutConfig, change: PartialTimeoutConfig) -> TimeoutConfig:
    """The settings after a PATCH: the fields that `change` names, and the present values of the others.

    A timeout out of range is an error. The other numbers are clamped where `change` names them. Others stay,
    even where the new timeout is longer than the whole life. Raises InvalidTimeoutConfigError.
    """
    check_numbers(change)
    check_timeout_range(policy, change)
    result = _overlay(config, change)
    if change.max_duration_minutes is not None:
        result = result._replace(max_duration_minutes=_clamp_duration(policy, result))
    if change.warning_threshold_minutes is not None:
        result = result._replace(warning_threshold_minutes=_clamp_warning(result))
    return result


def check_numbers(config: PartialTimeoutConfig) -> None:
    """Raises InvalidTimeoutConfigError for a field that is NaN. Infinity is a number, out of any range."""
    for field in ("timeout_minutes", "max_duration_minutes", "warning_threshold_minutes"):
        value = getattr(config, field)
        if value is not None and math.isnan(value):
            raise InvalidTimeoutConfigError(field, value, "is not a number")


def check_timeout_range(policy: TimeoutPolicy, config: PartialTimeoutConfig) -> None:
    """Raises InvalidTimeoutConfigError when timeout_minutes is named and out of its range."""
    minutes, low, high = config.timeout_minutes, policy.min_timeout_minutes, policy.max_timeout_minutes
    if minutes is not None and not low <= minutes <= high:
        raise InvalidTimeoutConfigError("timeout_minutes", minutes, f"must be between {low:g} and {high:g}")


def minutes_ms(minutes: float) -> int:
    """Minutes as ms, rounded to the nearest."""
    return round(minutes * MINUTE_MS)


def _overlay(base: TimeoutConfig, layer: PartialTimeoutConfig) -> TimeoutConfig:
    return TimeoutConfig(
        _either(layer.timeout_minutes, base.timeout_minutes),
        _either(layer.auto_renew, base.auto_renew),
        _either(layer.max_duration_minutes, base.max_duration_minutes),
        _either(layer.warning_threshold_minutes, base.warning_threshold_minutes),
    )


def _either(named: _T | None, other: _T) -> _T:
    return other if named is None else named


def _clamp(policy: TimeoutPolicy, config: TimeoutConfig) -> TimeoutConfig:
    timeout = min(max(config.timeout_minutes, policy.min_timeout_minutes), policy.max_timeout_minutes)
    config = config._replace(timeout_minutes=timeout)
    return config._replace(
        max_duration_minutes=_clamp_duration(policy, config),
        warning_threshold_minutes=_clamp_warning(config),
    )


def _clamp_duration(policy: TimeoutPolicy, config: TimeoutConfig) -> float:
    return min(max(config.max_duration_minutes, config.timeout_minutes), policy.max_duration_minutes)


def _clamp_warning(config: TimeoutConfig) -> float:
    warning = max(config.warning_threshold_minutes, MIN_WARNING_THRESHOLD_MINUTES)
    return min(warning, MAX_WARNING_THRESHOLD_MINUTES)
