"""The timeout settings of a session: where they come from, how they are bounded, and how a change lays over them."""

import math
from dataclasses import dataclass, replace

from server.domain.errors import InvalidTimeoutConfigError

MINUTE_MS = 60_000
MIN_WARNING_THRESHOLD_MINUTES = 1.0
MAX_WARNING_THRESHOLD_MINUTES = 1_000_000.0
"""Longer than any life: the contract names no upper bound, and infinity cannot be written as JSON."""


@dataclass(frozen=True, slots=True)
class TimeoutConfig:
    """The settings in force for a session. Minutes may be fractions."""

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
    """What the environment says: the defaults (SESSION_DEFAULT_…, SESSION_MAX_DURATION_…, SESSION_WARNING_…) and the bounds (SESSION_MIN_…,
    SESSION_MAX_…) of timeout_minutes.
    """

    defaults: TimeoutConfig
    min_timeout_minutes: float
    max_timeout_minutes: float

    @property
    def max_duration_minutes(self) -> float:
        """The greatest max_duration_minutes: twice the greatest timeout."""
        return 2 * self.max_timeout_minutes


def resolve(policy: TimeoutPolicy, request: PartialTimeoutConfig, agent: PartialTimeoutConfig) -> TimeoutConfig:
    """The settings of a new session, each clamped to its range.

    Contract: "the session's request, then the agent's settings, then the environment's defaults"; "a create with a
    `timeoutConfig` field that is out of range is clamped". Raises InvalidTimeoutConfigError for NaN.
    """
    check_numbers(request)
    return _clamp(policy, _overlay(_overlay(policy.defaults, agent), request))


def apply_change(policy: TimeoutPolicy, config: TimeoutConfig, change: PartialTimeoutConfig) -> TimeoutConfig:
    """The settings after a PATCH: the fields that `change` names, and the present values of the others.

    A timeout out of range is an error; the other numbers are clamped when they are named, and left alone when they are not,
    even where the new timeout is longer than the whole life. Raises InvalidTimeoutConfigError.
    """
    check_numbers(change)
    check_timeout_range(policy, change)
    named = _overlay(config, change)
    return TimeoutConfig(
        named.timeout_minutes,
        named.auto_renew,
        config.max_duration_minutes if change.max_duration_minutes is None else _clamp_duration(policy, named),
        config.warning_threshold_minutes if change.warning_threshold_minutes is None else _clamp_warning(named),
    )


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
    """A span of minutes in ms, rounded to the nearest."""
    return round(minutes * MINUTE_MS)


def _overlay(base: TimeoutConfig, layer: PartialTimeoutConfig) -> TimeoutConfig:
    return TimeoutConfig(
        base.timeout_minutes if layer.timeout_minutes is None else layer.timeout_minutes,
        base.auto_renew if layer.auto_renew is None else layer.auto_renew,
        base.max_duration_minutes if layer.max_duration_minutes is None else layer.max_duration_minutes,
        base.warning_threshold_minutes if layer.warning_threshold_minutes is None else layer.warning_threshold_minutes,
    )


def _clamp(policy: TimeoutPolicy, config: TimeoutConfig) -> TimeoutConfig:
    timeout = min(max(config.timeout_minutes, policy.min_timeout_minutes), policy.max_timeout_minutes)
    config = replace(config, timeout_minutes=timeout)
    return replace(config, max_duration_minutes=_clamp_duration(policy, config), warning_threshold_minutes=_clamp_warning(config))


def _clamp_duration(policy: TimeoutPolicy, config: TimeoutConfig) -> float:
    return min(max(config.max_duration_minutes, config.timeout_minutes), policy.max_duration_minutes)


def _clamp_warning(config: TimeoutConfig) -> float:
    return min(max(config.warning_threshold_minutes, MIN_WARNING_THRESHOLD_MINUTES), MAX_WARNING_THRESHOLD_MINUTES)
