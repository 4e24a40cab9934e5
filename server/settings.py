"""Every setting, once: its variable, default, bounds and meaning. docs/settings.md is made from it."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Final

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.domain.deliveries import MAX_OPEN_DELIVERIES, RetryPolicy
from server.domain.timeouts import TimeoutConfig, TimeoutPolicy
from server.setting_types import (
    Address,
    AgentHosts,
    AgentSecrets,
    Hosts,
    LogFormat,
    LogLevel,
    Minutes,
    Networks,
    OneProcess,
    Origins,
    Seconds,
)

_PASSWORD: Final = re.compile(r"(://[^/@:]*:)[^/@]*@")


class SettingsError(Exception):
    """Some variables are wrong. The text has a line for each."""


class Settings(BaseSettings):
    """The environment of the service.

    A variable is a field's name in capitals; an empty one counts as unset.
    """

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", hide_input_in_errors=True)

    session_default_timeout_minutes: Minutes = Field(
        30, ge=1, le=10080, description="Inactivity timeout of a session that asks for none."
    )
    session_min_timeout_minutes: Minutes = Field(5, ge=1, le=60, description="Least `timeoutMinutes`.")
    session_max_timeout_minutes: Minutes = Field(
        1440, ge=60, le=10080, description="Greatest `timeoutMinutes`."
    )
    session_max_duration_minutes: Minutes = Field(
        720, ge=60, le=20160, description="Default `maxDurationMinutes`."
    )
    session_warning_threshold_minutes: Minutes = Field(
        5, ge=1, le=60, description="Default `warningThresholdMinutes`."
    )
    session_cleanup_interval_minutes: Minutes = Field(
        5, ge=1, le=60, description="How often the service purges expired sessions past their retention."
    )
    session_retention_minutes: Minutes = Field(
        1440,
        ge=0,
        le=525600,
        description="How long the service keeps an expired session and answers 410, before it purges the "
        "record.",
    )
    request_id_retention_minutes: Minutes = Field(
        1440,
        ge=1,
        le=525600,
        description="How long the service keeps a request id (`Idempotency-Key`) with its answer.",
    )
    clear_sessions_on_shutdown: bool = Field(
        False, description="Whether an orderly shutdown removes all sessions."
    )
    database_url: str = Field(
        "sqlite:///eliza-sessions.db",
        description="Where the store is: `sqlite:///PATH` (`sqlite:////PATH` from the root).",
    )
    grpc_address: Address = Field(
        "127.0.0.1:50051", description="Where the gRPC server listens. Port 0 picks a free one."
    )
    rest_address: Address = Field(
        "127.0.0.1:3000", description="Where the REST facade listens. Port 0 picks a free one."
    )
    rest_allowed_origins: Origins = Field(
        "",
        description="Origins whose web pages may use REST and Socket.IO, separated by commas: "
        "`https://app.example.com`, `https://*.example.com`, or `*`. Without it: on a loopback address, "
        "pages of this machine; elsewhere `*`.",
    )
    rest_allowed_hosts: Hosts = Field(
        "",
        description="Hosts, without ports, that requests may be for beside those of this machine "
        "(`localhost`, `*.localhost`, loopback addresses), separated by commas: `api.example.com`, "
        "`*.example.com`, or `*`. Without it: on a loopback address, no others; elsewhere `*`.",
    )
    allow_open: bool = Field(
        False,
        description="Lets the service listen where others can reach it, although it has no authentication.",
    )
    facade_key_file: str = Field(
        "",
        description="The file that holds the key of `eliza-sessions rest`, read at its start. By its key the "
        "server believes the facade which addresses its clients have.",
    )
    rest_workers: OneProcess = Field(
        1,
        description="1, and no more. Run several `eliza-sessions rest` instead, each with a `REST_ADDRESS` "
        "of its own, behind a balancer with sticky routing.",
    )
    rest_deadline_seconds: Seconds = Field(
        30, ge=0.1, le=600, description="How long a REST request waits for the server before it answers 504."
    )
    reply_deadline_seconds: Seconds = Field(
        120, ge=0.1, le=3600, description="How long a call waits for an agent's reply at most."
    )
    stream_heartbeat_seconds: Seconds = Field(
        15, ge=0.1, le=600, description="How long an event stream is silent before it sends a sign of life."
    )
    max_calls: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        description="gRPC calls under way at a time; the service refuses one more at once.",
    )
    max_streams: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="gRPC streams (watches, conversations, workers, calls that wait for a reply) open at a "
        "time. REST uses one, and one for each event stream and each request that waits for a reply.",
    )
    max_connection_streams: int = Field(
        200,
        ge=100,
        le=1_000_000,
        description="Calls and streams per gRPC connection; the client holds back more. 1.5 times as many "
        "calls of one method may queue. Lower it where answers come too late under load.",
    )
    max_open_deliveries: int = Field(
        MAX_OPEN_DELIVERIES,
        ge=1,
        le=1_000_000,
        description="Messages of one session that may wait for its agent; the service refuses one more.",
    )
    rest_max_requests: int = Field(
        768,
        ge=1,
        le=1_000_000,
        description="REST requests that may wait for their answers, in each REST process.",
    )
    rest_keep_alive_seconds: int = Field(
        75,
        ge=1,
        le=86400,
        description="How long the service keeps an idle REST connection. Set it above the time of the "
        "clients, or of the balancer in front.",
    )
    trusted_proxies: Networks = Field(
        "",
        description="Addresses and networks of the proxies in front of REST, separated by commas. The last "
        "other address in `X-Forwarded-For` is their client's. They and loopback may have any number of "
        "connections, each other client 1000.",
    )
    shutdown_grace_seconds: Seconds = Field(
        10,
        ge=0,
        le=600,
        description="How long a shutdown may take, with the calls in flight and the closing. REST has the "
        "first half of it.",
    )
    delivery_lease_seconds: Seconds = Field(
        120,
        ge=0.1,
        le=3600,
        description="How long a worker may be silent about a delivery before the service delivers it again.",
    )
    delivery_attempts: int = Field(
        5, ge=1, le=100, description="How often the service delivers a message before it fails for good."
    )
    delivery_backoff_seconds: Seconds = Field(
        1,
        ge=0.01,
        le=600,
        description="How long a delivery rests after a failed attempt. The rest doubles after each further "
        "one.",
    )
    delivery_max_backoff_seconds: Seconds = Field(
        60, ge=0.01, le=3600, description="How long a delivery rests at most, unless the agent asks for more."
    )
    agent_concurrency: int = Field(
        100, ge=1, le=10000, description="Deliveries of one agent under way at a time."
    )
    agent_allowed_hosts: AgentHosts = Field(
        "",
        description="Hosts where agents may have private, loopback or link-local addresses, separated by "
        "commas: `HOST:PORT`, or `HOST` for all its ports but this service's own.",
    )
    agent_secrets: AgentSecrets = Field(
        "AGENT_SECRET_*,/run/secrets/*,OPENAI_API_KEY@api.openai.com",
        description="Environment variables and files where agents may have their secrets, as patterns "
        "separated by commas. A secret that is sent, such as an API key, needs the host: `NAME@HOST`, "
        "`file:/PATH@*.example.com:8443`.",
    )
    agents_file: str | None = Field(
        None, description="A TOML file of agents to register at the start; it wins over what is stored."
    )
    log_level: LogLevel = Field("info", description="The lowest level that the log has.")
    slow_call_seconds: Seconds = Field(
        1, ge=0, le=600, description="From how long on the log names a gRPC call as slow."
    )
    log_format: LogFormat = Field("console", description="The form of the log's lines.")
    test_clock: bool = Field(False, description="Lets clients set the service's time. For tests only.")
    eliza_server_auth_token: None = Field(
        None,
        description="Authentication is not built yet. The service refuses to start while this is set, "
        "instead of standing open.",
    )

    @property
    def timeout_policy(self) -> TimeoutPolicy:
        """The defaults and bounds of timeout settings."""
        defaults = TimeoutConfig(
            self.session_default_timeout_minutes,
            True,
            self.session_max_duration_minutes,
            self.session_warning_threshold_minutes,
        )
        return TimeoutPolicy(defaults, self.session_min_timeout_minutes, self.session_max_timeout_minutes)

    @property
    def max_writes(self) -> int:
        """How many writes may wait for the disk: those of all calls, and ten times as many of workers."""
        return 10 * self.max_calls

    @property
    def drain_seconds(self) -> float:
        """How long a shutdown waits for calls in flight: its grace less a tenth, at most 1 s, for closing."""
        return self.shutdown_grace_seconds - min(1.0, self.shutdown_grace_seconds / 10)

    @property
    def retry_policy(self) -> RetryPolicy:
        """How often deliveries are attempted, and their backoff."""
        return RetryPolicy(
            self.delivery_attempts,
            first_backoff_ms=round(self.delivery_backoff_seconds * 1000),
            longest_backoff_ms=round(self.delivery_max_backoff_seconds * 1000),
        )


def changed_settings(settings: Settings) -> dict[str, Any]:
    """The variables that are not at their defaults, for the log. Masks passwords in addresses."""
    changed = {}
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if value != field.default:
            changed[name.upper()] = _mask_password(value)
    return changed


GONE: Final = {"MAX_WRITES": "MAX_CALLS"}
"""Settings of earlier versions, each with the one that it is derived from now."""


def unknown_variables(environment: Iterable[str]) -> dict[str, str]:
    """Returns variables that look like settings and are none, each with the setting it may mean, or ''."""
    known = [name.upper() for name in Settings.model_fields]
    similar = (name for name in sorted(environment) if name.upper().startswith("SESSION_"))
    unknown = [name for name in similar if name.upper() not in known]
    meant = {name: next(iter(get_close_matches(name.upper(), known, 1)), "") for name in unknown}
    return meant | {name: GONE[name.upper()] for name in sorted(environment) if name.upper() in GONE}


def load_settings(**overrides: Any) -> Settings:
    """Reads the environment. `overrides`, of the command line, win where they are not None.

    Raises SettingsError, with a line for each wrong variable: its name, its value and its bounds.
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise SettingsError("\n".join(_describe(problem) for problem in error.errors())) from None


def bounds(name: str) -> str:
    """The bounds of a setting, for people; empty where there are none."""
    field = Settings.model_fields[name]
    limits = {type(limit).__name__: limit for limit in field.metadata}
    if "Ge" in limits:
        return f"{limits['Ge'].ge:g} to {limits['Le'].le:g}"
    if field.annotation is bool:
        return "true or false"
    choices = getattr(field.annotation, "__args__", ())
    return " or ".join(choice for choice in choices if isinstance(choice, str))


def _mask_password(value: Any) -> Any:
    return _PASSWORD.sub(r"\1***@", value) if isinstance(value, str) else value


def _describe(problem: Any) -> str:
    name = str(problem["loc"][0])
    if name == "eliza_server_auth_token":
        return (
            "ELIZA_SERVER_AUTH_TOKEN is set, but this version cannot protect its API yet: unset it, or "
            "protect the ports by other means"
        )
    if problem["type"] == "value_error":
        return f"{name.upper()} is {problem['input']!r}: it must be {problem['ctx']['error']}"
    kinds: dict[Any, str] = {int: "a whole number from ", float: "a number from "}
    wanted = kinds.get(Settings.model_fields[name].annotation, "") + bounds(name)
    return f"{name.upper()} is {problem['input']!r}: it must be {wanted}"
