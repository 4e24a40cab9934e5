"""What may be registered as an agent."""

import math

import pytest
from hypothesis import given

from server.domain.agents import Agent, AgentKind, check_agent
from server.domain.errors import DomainError, InvalidFieldError, InvalidTimeoutConfigError, MissingFieldsError
from server.domain.timeouts import NOTHING_NAMED, PartialTimeoutConfig, resolve
from tests.unit.samples import AGENT, POLICY, T0, partials


def agent(name: str = "helper", timeout: PartialTimeoutConfig = NOTHING_NAMED) -> Agent:
    return Agent(AGENT, name, AgentKind.ECHO, T0, T0, timeout)


@pytest.mark.parametrize("name", ["a", "x" * 100, "\U0001f600" * 100, "Frau Müller", "助手", " "])
def test_names(name: str) -> None:
    check_agent(agent(name), POLICY)


@pytest.mark.parametrize("name", ["x" * 101, "a\nb", "a\0b", "\x7f", "\u202e", "\ud800"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        check_agent(agent(name), POLICY)
    assert caught.value.details["field"] == "name"
    assert "100" in caught.value.details["reason"]


def test_a_name_is_required() -> None:
    with pytest.raises(MissingFieldsError) as caught:
        check_agent(agent(""), POLICY)
    assert caught.value.details == {"missingFields": "name"}


@pytest.mark.parametrize(
    "timeout",
    [
        PartialTimeoutConfig(),
        PartialTimeoutConfig(timeout_minutes=5.0),
        PartialTimeoutConfig(timeout_minutes=1440.0),
        PartialTimeoutConfig(auto_renew=False),
        PartialTimeoutConfig(max_duration_minutes=2880.0),
        PartialTimeoutConfig(max_duration_minutes=5.0),
        PartialTimeoutConfig(timeout_minutes=60.0, max_duration_minutes=60.0),
        PartialTimeoutConfig(warning_threshold_minutes=1.0),
    ],
)
def test_settings(timeout: PartialTimeoutConfig) -> None:
    check_agent(agent(timeout=timeout), POLICY)


@pytest.mark.parametrize(
    ("field", "timeout"),
    [
        ("timeout_minutes", PartialTimeoutConfig(timeout_minutes=4.99)),
        ("timeout_minutes", PartialTimeoutConfig(timeout_minutes=1440.01)),
        ("timeout_minutes", PartialTimeoutConfig(timeout_minutes=math.inf)),
        ("timeout_minutes", PartialTimeoutConfig(timeout_minutes=math.nan)),
        ("max_duration_minutes", PartialTimeoutConfig(max_duration_minutes=2880.01)),
        ("max_duration_minutes", PartialTimeoutConfig(timeout_minutes=60.0, max_duration_minutes=59.0)),
        ("max_duration_minutes", PartialTimeoutConfig(max_duration_minutes=4.0)),
        ("max_duration_minutes", PartialTimeoutConfig(max_duration_minutes=math.nan)),
        ("warning_threshold_minutes", PartialTimeoutConfig(warning_threshold_minutes=0.99)),
        ("warning_threshold_minutes", PartialTimeoutConfig(warning_threshold_minutes=math.inf)),
        ("warning_threshold_minutes", PartialTimeoutConfig(warning_threshold_minutes=math.nan)),
    ],
)
def test_settings_out_of_range_are_errors_not_clamped(field: str, timeout: PartialTimeoutConfig) -> None:
    with pytest.raises(InvalidTimeoutConfigError) as caught:
        check_agent(agent(timeout=timeout), POLICY)
    assert caught.value.details["field"] == field


@given(partials())
def test_a_timeout_that_passes_is_what_a_session_gets(timeout: PartialTimeoutConfig) -> None:
    try:
        check_agent(agent(timeout=timeout), POLICY)
    except DomainError:
        return
    given = resolve(POLICY, NOTHING_NAMED, timeout)
    for field in ("timeout_minutes", "auto_renew", "warning_threshold_minutes"):
        asked = getattr(timeout, field)
        assert asked is None or getattr(given, field) == asked
    # A duration that is shorter than the service's own timeout, which the agent leaves in force, gives way to it.
    asked = timeout.max_duration_minutes
    assert asked is None or given.max_duration_minutes == max(asked, given.timeout_minutes)
