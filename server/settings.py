"""Every setting, once: its variable, default, bounds and meaning. The README's table is checked against this."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.agents.allowed import read_host_rules, read_secret_rules
from server.domain.deliveries import MAX_OPEN_DELIVERIES, RetryPolicy
from server.domain.timeouts import TimeoutConfig, TimeoutPolicy
from server.store.contract import MAX_WRITES

_PASSWORD: Final = re.compile(r"(://[^/@:]*:)[^/@]*@")


class SettingsError(Exception):
    """The environment cannot be used; the text has a line for each variable that is wrong."""


def _address(text: str) -> str:
    split_address(text)
    return text


def _agent_hosts(text: str) -> str:
    read_host_rules(split_list(text))
    return text


def _agent_secrets(text: str) -> str:
    read_secret_rules(split_list(text))
    return text


def split_address(text: str) -> tuple[str, int]:
    """The host and the port of `HOST:PORT` or `[IPv6]:PORT`; no host means all addresses. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535 or (":" in host) != host.startswith("["):
        raise ValueError("HOST:PORT with a port from 0 to 65535")
    return host.strip("[]") or "0.0.0.0", int(port)


def join_address(host: str, port: int) -> str:
    """`HOST:PORT`, or `[IPv6]:PORT`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "json"]
_WORDS = {*get_args(LogLevel), *get_args(LogFormat)}


def _word(value: Any) -> Any:
    """A word in any case, as other programs take it; `warn` is what many call `warning`."""
    word = str(value).lower()
    if word == "warn":
        return "warning"
    return word if word in _WORDS else value


def _one_process(value: object) -> int:
    """Several processes on one address would share a Socket.IO client's requests out among them; each knows only its own clients."""
    if str(value).strip() != "1":
        raise ValueError(
            "1; for more, run several `eliza-sessions rest`, each with a REST_ADDRESS of its own, behind a balancer with sticky routing"
        )
    return 1


_DOMAIN: Final = r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]"
_HOST: Final = re.compile(rf"\*|{_DOMAIN}", re.IGNORECASE)
_ORIGIN: Final = re.compile(rf"\*|[a-z][a-z0-9+.-]*://({_DOMAIN})(:[0-9]+)?", re.IGNORECASE)


def _origins(text: str) -> str:
    if all(map(_ORIGIN.fullmatch, split_list(text))):
        return text
    raise ValueError("a list of origins such as https://app.example.com, https://*.example.com or *, separated by commas, without a path")


def _hosts(text: str) -> str:
    if all(map(_HOST.fullmatch, split_list(text))):
        return text
    raise ValueError("a list of hosts such as api.example.com, *.example.com or *, separated by commas, without a port")


def read_networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Reads addresses and networks separated by commas. Raises ValueError."""
    networks = []
    for part in split_list(text):
        try:
            networks.append(ip_network(part))
        except ValueError as error:
            raise ValueError(f"addresses or networks, separated by commas; {error}") from None
    return tuple(networks)


def _networks(text: str) -> str:
    read_networks(text)
    return text


Address = Annotated[str, AfterValidator(_address)]
AgentHosts = Annotated[str, AfterValidator(_agent_hosts)]
AgentSecrets = Annotated[str, AfterValidator(_agent_secrets)]
OneProcess = Annotated[int, BeforeValidator(_one_process)]
Minutes = Annotated[float, Field(allow_inf_nan=False)]


class Settings(BaseSettings):
    """The environment of the service. Field names in capitals are the variables; an empty variable counts as unset."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", hide_input_in_errors=True)

    session_default_timeout_minutes: Minutes = Field(30, ge=1, le=10080, description="Inactivity timeout of a session that asks for none.")
    session_min_timeout_minutes: Minutes = Field(5, ge=1, le=60, description="Least `timeoutMinutes`.")
    session_max_timeout_minutes: Minutes = Field(1440, ge=60, le=10080, description="Greatest `timeoutMinutes`.")
    session_max_duration_minutes: Minutes = Field(720, ge=60, le=20160, description="Default `maxDurationMinutes`.")
    session_warning_threshold_minutes: Minutes = Field(5, ge=1, le=60, description="Default `warningThresholdMinutes`.")
    session_cleanup_interval_minutes: Minutes = Field(
        5, ge=1, le=60, description="How often expired records past their retention are purged."
    )
    session_retention_minutes: Minutes = Field(
        1440, ge=0, le=525600, description="How long the record of an expired session is kept, answering 410, before it is purged."
    )
    request_id_retention_minutes: Minutes = Field(
        1440, ge=1, le=525600, description="How long a request id (`Idempotency-Key`) is remembered with its answer."
    )
    clear_sessions_on_shutdown: bool = Field(False, description="Drop every session on an orderly shutdown.")
    database_url: str = Field(
        "sqlite:///eliza-sessions.db", description="Where the store is: `sqlite:///PATH` (`sqlite:////PATH` from the root)."
    )
    grpc_address: Address = Field("127.0.0.1:50051", description="Where the gRPC server listens. Port 0 picks a free one.")
    rest_address: Address = Field("127.0.0.1:3000", description="Where the REST facade listens. Port 0 picks a free one.")
    rest_allowed_origins: Annotated[str, AfterValidator(_origins)] = Field(
        "",
        description="Origins whose web pages may use REST and Socket.IO, separated by commas: `https://app.example.com`,"
        " `https://*.example.com`, or `*`. Without it: on a loopback address, pages of this machine; elsewhere `*`.",
    )
    rest_allowed_hosts: Annotated[str, AfterValidator(_hosts)] = Field(
        "",
        description="Hosts, without ports, that requests may be for beside those of this machine (`localhost`, `*.localhost`,"
        " loopback addresses), separated by commas: `api.example.com`, `*.example.com`, or `*`. Without it: on a loopback"
        " address, no others; elsewhere `*`.",
    )
    allow_open: bool = Field(False, description="Lets the service listen where others can reach it, though it asks nobody who they are.")
    rest_workers: OneProcess = Field(
        1,
        description="1, and no more: run several `eliza-sessions rest` instead, each with a `REST_ADDRESS` of its own, behind a balancer"
        " with sticky routing.",
    )
    rest_deadline_seconds: float = Field(
        30, ge=0.1, le=600, allow_inf_nan=False, description="How long a REST request waits for the server before it answers 504."
    )
    reply_deadline_seconds: float = Field(
        120, ge=0.1, le=3600, allow_inf_nan=False, description="How long whoever waits for an agent's reply waits at most."
    )
    stream_heartbeat_seconds: float = Field(
        15, ge=0.1, le=600, allow_inf_nan=False, description="How long an event stream is silent before it says that it is alive."
    )
    max_calls: int = Field(1000, ge=1, le=1_000_000, description="gRPC calls that may be under way at a time; one more is refused at once.")
    max_streams: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="gRPC streams (watches, conversations, workers) that may be open at a time; REST has one, and one per event stream.",
    )
    max_connection_streams: int = Field(
        200,
        ge=100,
        le=1_000_000,
        description="gRPC calls and streams that one connection may have open; its client holds back more. Half as many again of a method"
        " may wait before they are looked at: where that takes long, a lower bound answers sooner.",
    )
    max_writes: int = Field(MAX_WRITES, ge=1, le=1_000_000, description="Writes that may wait for the disk.")
    max_open_deliveries: int = Field(
        MAX_OPEN_DELIVERIES, ge=1, le=1_000_000, description="Messages of one session that may wait for its agent; one more is refused."
    )
    rest_max_requests: int = Field(
        768, ge=1, le=1_000_000, description="REST requests that may wait for their answers, in each process of the facade."
    )
    rest_keep_alive_seconds: int = Field(
        75,
        ge=1,
        le=86400,
        description="How long an idle REST connection is kept: longer than clients, or the balancer in front, keep theirs.",
    )
    trusted_proxies: Annotated[str, AfterValidator(_networks)] = Field(
        "",
        description="Addresses and networks, separated by commas, of the proxies in front of REST: the last other address in"
        " `X-Forwarded-For` is their client's. They and loopback may have any number of connections, each other client 1000.",
    )
    shutdown_grace_seconds: float = Field(
        10,
        ge=0,
        le=600,
        allow_inf_nan=False,
        description="How long a shutdown may take, with what is in flight and closing; REST has the first half of it.",
    )
    delivery_lease_seconds: float = Field(
        120, ge=0.1, le=3600, allow_inf_nan=False, description="How long a delivery may be silent at a worker before it is given again."
    )
    delivery_attempts: int = Field(5, ge=1, le=100, description="How often a message is given to its agent before it has failed for good.")
    delivery_backoff_seconds: float = Field(
        1,
        ge=0.01,
        le=600,
        allow_inf_nan=False,
        description="How long a delivery rests after a failed attempt; twice that after the next.",
    )
    delivery_max_backoff_seconds: float = Field(
        60, ge=0.01, le=3600, allow_inf_nan=False, description="How long it rests at most, unless the agent asks for more."
    )
    agent_concurrency: int = Field(100, ge=1, le=10000, description="Deliveries of one agent that are under way at a time.")
    agent_allowed_hosts: AgentHosts = Field(
        "",
        description="Hosts of agents, separated by commas, that may have private, loopback or link-local addresses: `HOST:PORT`,"
        " or `HOST` for all its ports but this service's own.",
    )
    agent_secrets: AgentSecrets = Field(
        "AGENT_SECRET_*,/run/secrets/*,OPENAI_API_KEY@api.openai.com",
        description="Environment variables and files, as patterns separated by commas, that agents may have their secrets in. A secret"
        " that is sent, as an API key is, needs the host: `NAME@HOST`, `file:/PATH@*.example.com:8443`.",
    )
    agents_file: str | None = Field(None, description="A TOML file of agents to register at the start; it wins over what is stored.")
    log_level: Annotated[LogLevel, BeforeValidator(_word)] = Field("info", description="The least level that is logged.")
    slow_call_seconds: float = Field(
        1, ge=0, le=600, allow_inf_nan=False, description="A gRPC call that takes as long as this is logged as slow."
    )
    log_format: Annotated[LogFormat, BeforeValidator(_word)] = Field("console", description="How a line of the log looks.")
    test_clock: bool = Field(False, description="Puts the service's time into the hands of clients. For tests only.")
    eliza_server_auth_token: None = Field(
        None, description="Authentication is not built yet: the service refuses to start while this is set, rather than stand open."
    )

    @property
    def timeout_policy(self) -> TimeoutPolicy:
        """The defaults and bounds of timeout settings."""
        defaults = TimeoutConfig(
            self.session_default_timeout_minutes, True, self.session_max_duration_minutes, self.session_warning_threshold_minutes
        )
        return TimeoutPolicy(defaults, self.session_min_timeout_minutes, self.session_max_timeout_minutes)

    @property
    def drain_seconds(self) -> float:
        """How long a shutdown waits for what is in flight: its grace, but for a tenth (at most a second) that closing may take."""
        return self.shutdown_grace_seconds - min(1.0, self.shutdown_grace_seconds / 10)

    @property
    def retry_policy(self) -> RetryPolicy:
        """How often deliveries are attempted, and how long they rest in between."""
        first_ms, longest_ms = round(self.delivery_backoff_seconds * 1000), round(self.delivery_max_backoff_seconds * 1000)
        return RetryPolicy(self.delivery_attempts, first_ms, longest_ms)


def changed_settings(settings: Settings) -> dict[str, Any]:
    """The variables whose values differ from their defaults, passwords in addresses masked: what a start logs."""
    fields = Settings.model_fields.items()
    found = {name.upper(): value for name, field in fields if (value := getattr(settings, name)) != field.default}
    return {name: _PASSWORD.sub(r"\1***@", value) if isinstance(value, str) else value for name, value in found.items()}


def unknown_variables(environment: Iterable[str]) -> dict[str, str]:
    """The variables that look like settings of a session and are none, each with the setting that it may mean, or none."""
    known = [name.upper() for name in Settings.model_fields]
    unknown = (name for name in sorted(environment) if name.upper().startswith("SESSION_") and name.upper() not in known)
    return {name: next(iter(get_close_matches(name.upper(), known, 1)), "") for name in unknown}


def split_list(text: str) -> list[str]:
    """The parts of a setting that is a list, separated by commas."""
    return [part for part in map(str.strip, text.split(",")) if part]


def load_settings(**overrides: Any) -> Settings:
    """Reads the environment, with what the command line says laid over it (None: nothing). Raises SettingsError.

    Contract: "A value that is no number or out of bounds stops the start with a line that names the variable, its value and the bounds".
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise SettingsError("\n".join(_line(problem) for problem in error.errors())) from None


def bounds(name: str) -> str:
    """The bounds of a setting, as people read them; empty where there are none."""
    field = Settings.model_fields[name]
    limits = {type(limit).__name__: limit for limit in field.metadata}
    if "Ge" in limits:
        return f"{limits['Ge'].ge:g} to {limits['Le'].le:g}"
    if field.annotation is bool:
        return "true or false"
    return " or ".join(choice for choice in getattr(field.annotation, "__args__", ()) if isinstance(choice, str))


def _line(problem: Any) -> str:
    name = str(problem["loc"][0])
    if name == "eliza_server_auth_token":
        return "ELIZA_SERVER_AUTH_TOKEN is set, but this version cannot protect its API yet: unset it, or protect the ports by other means"
    if problem["type"] == "value_error":
        return f"{name.upper()} is {problem['input']!r}: it must be {problem['ctx']['error']}"
    kinds: dict[Any, str] = {int: "a whole number from ", float: "a number from "}
    wanted = kinds.get(Settings.model_fields[name].annotation, "") + bounds(name)
    return f"{name.upper()} is {problem['input']!r}: it must be {wanted}"
