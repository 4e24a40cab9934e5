"""Agents: their kinds, how the service reaches each kind, and the bounds of its settings."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from server.domain.access import Scope
from server.domain.errors import (
    InvalidFieldError,
    InvalidTimeoutConfigError,
    MissingFieldsError,
    PermissionDeniedError,
)
from server.domain.timeouts import (
    MAX_RETENTION_MINUTES,
    MAX_WARNING_THRESHOLD_MINUTES,
    MIN_WARNING_THRESHOLD_MINUTES,
    NOTHING_NAMED,
    PartialTimeoutConfig,
    TimeoutPolicy,
    check_numbers,
    check_timeout_range,
)

MAX_NAME_CODE_POINTS: Final = 100
MAX_URL_CODE_POINTS: Final = 2000
MAX_PROMPT_CODE_POINTS: Final = 32_768
MAX_TIMEOUT_SECONDS: Final = 3600.0
MAX_HISTORY_MESSAGES: Final = 100
MAX_HISTORY_CHARACTERS: Final = 1_000_000
ECHO_ID: Final = "00000000-0000-4000-8000-0000000000ec"
"""The id of the built-in agent. The first start of an empty store registers it."""


_NAME: Final = f"must have 1 to {MAX_NAME_CODE_POINTS} printable characters"


class AgentKind(StrEnum):
    """How the service reaches an agent."""

    ECHO = "echo"
    """Built in: it answers every message with its own text."""
    STREAM = "stream"
    """Workers that connect by AgentService.Connect."""
    WEBHOOK = "webhook"
    """An HTTP endpoint. The service posts each message to it."""
    OPENAI = "openai"
    """An OpenAI-compatible chat completions endpoint."""


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Where a webhook is. `secret` says where its signing secret is: `env:NAME` or `file:/PATH`."""

    url: str
    secret: str
    timeout_seconds: float = 60.0
    history_messages: int = 0


@dataclass(frozen=True, slots=True)
class OpenAiSettings:
    """Where a chat completions endpoint is, and how the service asks it.

    `api_key` says where the key is: `env:NAME` or `file:/PATH`, empty for none. `history_messages` and
    `history_characters` (code points) bound what it sees of the conversation. The endpoint chooses what is
    None.
    """

    model: str
    base_url: str = "https://api.openai.com/v1"
    api_key: str = ""
    system_prompt: str = ""
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    history_messages: int = 20
    history_characters: int = 20_000
    timeout_seconds: float = 120.0


AgentSettings: TypeAlias = WebhookSettings | OpenAiSettings | None

SETTINGS: Final[dict[AgentKind, type[WebhookSettings] | type[OpenAiSettings]]] = {
    AgentKind.WEBHOOK: WebhookSettings,
    AgentKind.OPENAI: OpenAiSettings,
}
"""The class of the settings, for each kind that has some."""


@dataclass(frozen=True, slots=True)
class Agent:
    """A registered agent.

    `id` is a UUID in lower case, times are ms since the epoch, `settings` are those of its kind. An agent
    without a tenant belongs to all of them. `retention_minutes`: how long its sessions are kept once they
    have expired; None: as long as the service's setting says.
    """

    id: str
    name: str
    kind: AgentKind
    created_at_ms: int
    updated_at_ms: int
    timeout: PartialTimeoutConfig = NOTHING_NAMED
    settings: AgentSettings = None
    tenant: str = ""
    retention_minutes: float | None = None


def require_owned(scope: Scope, agent: Agent) -> None:
    """Raises PermissionDeniedError for an agent that a scope sees, and may not change."""
    if not scope.owns_agent(agent):
        raise PermissionDeniedError("The agent belongs to all tenants")


def check_agent(agent: Agent, policy: TimeoutPolicy) -> None:
    """Checks an agent before it is registered.

    Raises MissingFieldsError, InvalidFieldError or InvalidTimeoutConfigError.

    A number out of range is an error here, and not clamped: an operator registers agents, and can correct it.
    """
    if not agent.name:
        raise MissingFieldsError(["name"])
    if len(agent.name) > MAX_NAME_CODE_POINTS or not agent.name.isprintable():
        raise InvalidFieldError("name", agent.name, _NAME)
    _check_timeout(agent.timeout, policy)
    _check_range("retention_minutes", agent.retention_minutes, 0, MAX_RETENTION_MINUTES)
    wanted = SETTINGS.get(agent.kind)
    if wanted and not isinstance(agent.settings, wanted):
        raise MissingFieldsError([str(agent.kind)])
    match agent.settings:
        case None:
            return
        case settings if wanted is None:
            other = next(kind for kind, cls in SETTINGS.items() if isinstance(settings, cls))
            why = f"does not belong to the kind {agent.kind}"
            raise InvalidFieldError(other, f"of an agent of the kind {agent.kind}", why)
        case WebhookSettings():
            _check_webhook(agent.settings)
        case OpenAiSettings():
            _check_openai(agent.settings)


def _check_timeout(timeout: PartialTimeoutConfig, policy: TimeoutPolicy) -> None:
    check_numbers(timeout)
    check_timeout_range(policy, timeout)
    duration, warning = timeout.max_duration_minutes, timeout.warning_threshold_minutes
    least, most = timeout.timeout_minutes or policy.min_timeout_minutes, policy.max_duration_minutes
    if duration is not None and not least <= duration <= most:
        why = f"must be between {least:g} and {most:g}"
        raise InvalidTimeoutConfigError("max_duration_minutes", duration, why)
    least, most = MIN_WARNING_THRESHOLD_MINUTES, MAX_WARNING_THRESHOLD_MINUTES
    if warning is not None and not least <= warning <= most:
        why = f"must be between {least:g} and {most:g}"
        raise InvalidTimeoutConfigError("warning_threshold_minutes", warning, why)


def _check_webhook(settings: WebhookSettings) -> None:
    if missing := [f"webhook.{field}" for field in ("url", "secret") if not getattr(settings, field)]:
        raise MissingFieldsError(missing)
    _check_url("webhook.url", settings.url)
    _check_reference("webhook.secret", settings.secret)
    _check_range("webhook.timeout_seconds", settings.timeout_seconds, 1, MAX_TIMEOUT_SECONDS)
    _check_range("webhook.history_messages", settings.history_messages, 0, MAX_HISTORY_MESSAGES)


def _check_openai(settings: OpenAiSettings) -> None:
    if not settings.model:
        raise MissingFieldsError(["openai.model"])
    if len(settings.model) > MAX_NAME_CODE_POINTS or not settings.model.isprintable():
        raise InvalidFieldError("openai.model", settings.model, _NAME)
    _check_url("openai.base_url", settings.base_url)
    if settings.api_key:
        _check_reference("openai.api_key", settings.api_key)
    if len(settings.system_prompt) > MAX_PROMPT_CODE_POINTS:
        why = f"must have at most {MAX_PROMPT_CODE_POINTS} characters"
        raise InvalidFieldError("openai.system_prompt", settings.system_prompt, why)
    _check_range("openai.temperature", settings.temperature, 0, 2)
    _check_range("openai.top_p", settings.top_p, 0, 1)
    _check_range("openai.max_tokens", settings.max_tokens, 1, 2**31 - 1)
    _check_range("openai.history_messages", settings.history_messages, 1, MAX_HISTORY_MESSAGES)
    _check_range("openai.history_characters", settings.history_characters, 1, MAX_HISTORY_CHARACTERS)
    _check_range("openai.timeout_seconds", settings.timeout_seconds, 1, MAX_TIMEOUT_SECONDS)


def _check_url(field: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        raise InvalidFieldError(field, url, "is not a URL") from None
    printable = url.isascii() and url.isprintable() and " " not in url and len(url) <= MAX_URL_CODE_POINTS
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_fits or not printable:
        why = f"must be an http or https URL of at most {MAX_URL_CODE_POINTS} ASCII characters"
        raise InvalidFieldError(field, url, why)
    if parts.username is not None or parts.fragment:
        # The error does not show the URL: it may hold a password.
        raise InvalidFieldError(field, "", "must have neither a user nor a fragment")


def _check_reference(field: str, reference: str) -> None:
    kind, _, name = reference.partition(":")
    fits = 0 < len(name) <= MAX_URL_CODE_POINTS and name.isprintable()
    if kind not in ("env", "file") or not fits or (kind == "file" and not name.startswith("/")):
        # The error does not show the value: it may be the secret itself.
        why = "must be env:NAME or file:/PATH, which says where the secret is, not the secret itself"
        raise InvalidFieldError(field, "", why)


def _check_range(field: str, value: float | None, least: float, most: float) -> None:
    # This form of the comparison refuses NaN too.
    if value is not None and not least <= value <= most:
        raise InvalidFieldError(field, value, f"must be between {least:g} and {most:g}")
