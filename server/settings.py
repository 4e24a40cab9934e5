"""Every setting, once: its variable, default, bounds and meaning. docs/settings.md is made from it."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from server.access.access_settings import AccessSettings
from server.access.limits import Rate, read_rate
from server.domain.access import RateKind
from server.domain.deliveries import MAX_OPEN_DELIVERIES, RetryPolicy
from server.domain.quotas import Quotas
from server.domain.timeouts import MAX_RETENTION_MINUTES, TimeoutConfig, TimeoutPolicy
from server.setting_types import (
    Address,
    AgentHosts,
    AgentSecrets,
    AuthToken,
    GrpcAddress,
    Hosts,
    JwtKeys,
    LogFormat,
    LogLevel,
    Minutes,
    Networks,
    OneProcess,
    Origins,
    RateText,
    Seconds,
)
from server.shared_settings import SharedStoreSettings


class Settings(SharedStoreSettings):
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
        le=MAX_RETENTION_MINUTES,
        description="How long the service keeps an expired session and answers 410, before it purges the "
        "record. An agent may have a retention of its own.",
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
        description="Where the store is: `sqlite:///PATH` (`sqlite:////PATH` from the root), or "
        "`postgresql://USER:PASSWORD@HOST/DATABASE`, which several servers may share.",
    )
    grpc_address: GrpcAddress = Field(
        "127.0.0.1:50051",
        description="Where the gRPC server listens: `HOST:PORT`, where port 0 picks a free one, or "
        "`unix:/PATH`, a socket that only its owner may use.",
    )
    rest_address: Address = Field(
        "127.0.0.1:3000", description="Where the REST facade listens. Port 0 picks a free one."
    )
    metrics_address: Address | None = Field(
        None,
        description="Where this process answers `GET /metrics` of Prometheus, without a credential: choose "
        "an address that only Prometheus reaches. Without one nothing is measured.",
    )
    console: bool = Field(
        True,
        description="`on` or `off`: the operator's console at `/console`, and the figures of the last hour "
        "that it shows. An open service that others can reach has none.",
    )
    traces: bool = Field(
        False,
        description="Whether this process traces requests, calls and attempts by OpenTelemetry, whose "
        "`OTEL_` variables say where spans go. It needs the extra `otel`.",
    )
    grpc_tls_certificate: str | None = Field(
        None,
        description="PEM file of the certificate that gRPC shows, with its chain. The port then takes TLS "
        "alone, 1.2 or later. A changed file is used from the next connection on.",
    )
    grpc_tls_key: str | None = Field(None, description="PEM file of its private key, without a password.")
    grpc_tls_client_ca: str | None = Field(
        None,
        description="PEM file of authorities. Each gRPC client, a probe too, then needs a certificate of "
        "theirs.",
    )
    rest_tls_certificate: str | None = Field(
        None,
        description="PEM file of the certificate that REST shows, with its chain. The port then takes TLS "
        "alone (https, wss), 1.2 or later. A changed file is used from the next connection on.",
    )
    rest_tls_key: str | None = Field(None, description="PEM file of its private key, without a password.")
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
        description="Lets the service listen where others can reach it, although it is open.",
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
        description="gRPC calls under way at a time; the service refuses one more at once. As all bounds "
        "of calls, streams and rates it is that of each server, where several share a store.",
    )
    max_streams: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="gRPC streams (watches, conversations, workers, calls that wait for a reply) open at a "
        "time. REST uses one for each event stream, for each request that waits for a reply, and for the "
        "sockets of each caller.",
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
    max_user_sessions: int = Field(
        0,
        ge=0,
        le=1_000_000_000,
        description="Live sessions that a user may have; the service refuses one more. 0: any number.",
    )
    max_session_entries: int = Field(
        0,
        ge=0,
        le=1_000_000_000,
        description="Entries of a session's log from which on the service takes no further message of its "
        "user. 0: any number.",
    )
    max_session_bytes: int = Field(
        0,
        ge=0,
        le=1_000_000_000_000,
        description="Bytes of content, metadata and attachments that the messages of a session may have; the "
        "service refuses a user's message that would exceed it. 0: any number.",
    )
    max_tenant_agents: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Agents that a tenant may have; the service refuses one more. 0: any number.",
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
        100, ge=1, le=10000, description="Deliveries of one agent under way at a time, at each server."
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
    eliza_server_auth_token: AuthToken | None = Field(
        None,
        description="One key of a backend, of at least 16 characters, with every session of the tenant ''. "
        "Clients send it as `X-API-KEY` or `Authorization: Bearer`. It is no administrator's. Set but empty, "
        "it stops the start.",
    )
    keys_file: str | None = Field(
        None,
        description="A TOML file of keys, made by `eliza-sessions keys add`. The service reads it again when "
        "it changes.",
    )
    access_token_keys_file: str | None = Field(
        None,
        description="A file of one or two keys that sign session access tokens, as lines `ID SECRET`, the "
        "secret at least 32 bytes in hexadecimal or base64. The first signs, both are good. Without it there "
        "is a fresh one in each process.",
    )
    access_token_seconds: int = Field(
        900, ge=1, le=900, description="How long a session access token is good, at most."
    )
    jwt_keys: JwtKeys | None = Field(
        None,
        description="The keys of JSON web tokens, a JWKS: a file, or an https URL. With it `JWT_ISSUER` and "
        "`JWT_AUDIENCE` must be set.",
    )
    jwt_issuer: str = Field("", description="The `iss` that JSON web tokens must have.")
    jwt_audience: str = Field("", description="The `aud` that JSON web tokens must have.")
    jwt_user_claim: str = Field(
        "sub",
        description="The claim that names the user. What is no UUID becomes one: "
        "`uuid5(uuid5(NAMESPACE_URL, JWT_ISSUER), claim)`.",
    )
    jwt_tenant_claim: str = Field(
        "", description="The claim that names the tenant. Without it all tokens are of the tenant ''."
    )
    users_may_change: bool = Field(
        False,
        description="Whether users may change the timeout settings of their sessions and delete them.",
    )
    users_may_read_transcripts: bool = Field(
        False,
        description="Whether users may read the transcripts of their sessions, also of expired ones until "
        "the purge.",
    )
    rate_create: RateText = Field(
        "",
        description="How many sessions and access tokens a caller may create: `10/minute`, in `second`, "
        "`minute` or `hour`. Each server counts by itself.",
    )
    rate_send: RateText = Field("", description="How many messages and renewals a caller may send.")
    rate_read: RateText = Field("", description="How many reads a caller may make.")
    rate_watch: RateText = Field("", description="How many streams a caller may open.")
    rate_admin: RateText = Field("", description="How many calls of administration a caller may make.")

    @property
    def access(self) -> AccessSettings:
        """Where credentials come from."""
        return AccessSettings(
            Path(self.keys_file) if self.keys_file else None,
            self.eliza_server_auth_token,
            Path(self.access_token_keys_file) if self.access_token_keys_file else None,
            self.jwt_keys,
            self.jwt_issuer,
            self.jwt_audience,
            self.jwt_user_claim,
            self.jwt_tenant_claim,
            self.users_may_change,
        )

    @property
    def is_protected(self) -> bool:
        """Whether a call needs a credential: there is a source of them."""
        return any((self.keys_file, self.eliza_server_auth_token is not None, self.jwt_keys))

    @property
    def rates(self) -> dict[RateKind, Rate | None]:
        """The rate of each kind of calls; None where it has no limit."""
        return {kind: read_rate(getattr(self, f"rate_{kind}")) for kind in RateKind}

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
    def quotas(self) -> Quotas:
        """How much users, sessions and tenants may have."""
        return Quotas(
            self.max_user_sessions, self.max_session_entries, self.max_session_bytes, self.max_tenant_agents
        )

    @property
    def max_writes(self) -> int:
        """How many writes may wait for the disk: those of all calls, and ten times as many of workers."""
        return 10 * self.max_calls

    @property
    def drain_seconds(self) -> float:
        """How long a shutdown waits for calls in flight: its grace less what closing may take."""
        return self.shutdown_grace_seconds - self.closing_seconds

    @property
    def closing_seconds(self) -> float:
        """How long closing may take after that: a tenth of the grace, at most 1 s."""
        return min(1.0, self.shutdown_grace_seconds / 10)

    @property
    def retry_policy(self) -> RetryPolicy:
        """How often deliveries are attempted, and their backoff."""
        return RetryPolicy(
            self.delivery_attempts,
            first_backoff_ms=round(self.delivery_backoff_seconds * 1000),
            longest_backoff_ms=round(self.delivery_max_backoff_seconds * 1000),
        )
