"""Agents: what a session can be held with."""

from dataclasses import dataclass
from enum import StrEnum

from server.domain.errors import InvalidFieldError, InvalidTimeoutConfigError, MissingFieldsError
from server.domain.timeouts import (
    MAX_WARNING_THRESHOLD_MINUTES,
    MIN_WARNING_THRESHOLD_MINUTES,
    NOTHING_NAMED,
    PartialTimeoutConfig,
    TimeoutPolicy,
    check_numbers,
    check_timeout_range,
)

MAX_NAME_CODE_POINTS = 100
ECHO_ID = "00000000-0000-4000-8000-0000000000ec"
"""The id of the built-in agent, which the first start of an empty store registers."""


class AgentKind(StrEnum):
    """How an agent is reached."""

    ECHO = "echo"
    """Built in: answers every message with its own text."""


@dataclass(frozen=True, slots=True)
class Agent:
    """A registered agent. `id` is a UUID in lower case, times are ms since the epoch."""

    id: str
    name: str
    kind: AgentKind
    created_at_ms: int
    updated_at_ms: int
    timeout: PartialTimeoutConfig = NOTHING_NAMED


def check_agent(agent: Agent, policy: TimeoutPolicy) -> None:
    """Raises MissingFieldsError, InvalidFieldError or InvalidTimeoutConfigError for an agent that cannot be registered.

    Here a number out of range is an error, not clamped: whoever registers an agent is there to mend it.
    """
    if not agent.name:
        raise MissingFieldsError(["name"])
    if len(agent.name) > MAX_NAME_CODE_POINTS or not agent.name.isprintable():
        raise InvalidFieldError("name", agent.name, f"must have 1 to {MAX_NAME_CODE_POINTS} printable characters")
    check_numbers(agent.timeout)
    check_timeout_range(policy, agent.timeout)
    duration, warning = agent.timeout.max_duration_minutes, agent.timeout.warning_threshold_minutes
    least, most = agent.timeout.timeout_minutes or policy.min_timeout_minutes, policy.max_duration_minutes
    if duration is not None and not least <= duration <= most:
        raise InvalidTimeoutConfigError("max_duration_minutes", duration, f"must be between {least:g} and {most:g}")
    least, most = MIN_WARNING_THRESHOLD_MINUTES, MAX_WARNING_THRESHOLD_MINUTES
    if warning is not None and not least <= warning <= most:
        raise InvalidTimeoutConfigError("warning_threshold_minutes", warning, f"must be between {least:g} and {most:g}")
