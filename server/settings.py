"""Every setting, once: its variable, default, bounds and meaning. docs/settings.md is made from it, and from
the parts that it inherits.
"""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from server.caller_settings import CallerSettings
from server.delivery_settings import DeliverySettings
from server.domain.deliveries import MAX_OPEN_DELIVERIES
from server.domain.quotas import Quotas
from server.domain.timeouts import MAX_RETENTION_MINUTES, TimeoutConfig, TimeoutPolicy
from server.setting_types import (
    Address,
    GrpcAddress,
    Hosts,
    LogFormat,
    LogLevel,
    Minutes,
    Networks,
    OneProcess,
    Origins,
    Seconds,
)
from server.shared_settings import SharedStoreSettings


class Settings(DeliverySettings, CallerSettings, SharedStoreSettings):
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
    log_level: LogLevel = Field("info", description="The lowest level that the log has.")
    slow_call_seconds: Seconds = Field(
        1, ge=0, le=600, description="From how long on the log names a gRPC call as slow."
    )
    log_format: LogFormat = Field("console", description="The form of the log's lines.")
    test_clock: bool = Field(False, description="Lets clients set the service's time. For tests only.")

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
