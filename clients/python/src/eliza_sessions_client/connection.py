"""How to reach the service: the address, TLS, and what gRPC repeats by itself."""

import json
import os
from pathlib import Path
from typing import Any, Final, TypedDict

import grpc

from eliza_sessions_client._api import (
    agent_service_pb2_grpc,
    message_service_pb2_grpc,
    session_service_pb2_grpc,
    user_data_service_pb2_grpc,
)
from eliza_sessions_client.credentials import Credentials, Token

ADDRESS: Final = "127.0.0.1:50051"
"""Where a service listens that was given no other address."""

_REPEATABLE: Final = {
    "SessionService": (
        *("CreateSession", "GetSession", "ListSessions", "SendHeartbeat", "GetServiceStatus"),
        "CreateAccessToken",
    ),
    "MessageService": ("SendMessage", "ListMessages"),
    "AgentService": ("ListAgents",),
    "UserDataService": ("ListUserSessions",),
}
"""The calls that gRPC may repeat by itself, because twice is the same as once: those that read, and those
that have a request id. The others depend on an etag, or find another state the second time: see `retries`.
"""

_RETRY_POLICY: Final = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}

SERVICE_CONFIG: Final = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    {"service": f"eliza.sessions.v1.{service}", "method": method}
                    for service, methods in _REPEATABLE.items()
                    for method in methods
                ],
                "retryPolicy": _RETRY_POLICY,
            }
        ]
    }
)
"""gRPC repeats what a broken connection took, soon, and as the service's pushback says. What the service
refuses with a time to wait, and a service that stays away, are up to `retries`.
"""

_OPTIONS: Final = (
    ("grpc.service_config", SERVICE_CONFIG),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5000),
    # Notices a connection that died without a word, also while nothing but a stream is open.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A message and its reply may both have attachments.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)


class ConnectionOptions(TypedDict, total=False):
    """What clients and workers take besides the address.

    `key` goes out as `x-api-key`. `token`, or what a function returns for it, goes out as a Bearer token.
    `on_behalf_of` is the UUID of the user for whom a service calls. Without TLS whoever is on the way reads
    them.

    `tls=True` uses TLS with the certificates that the system trusts. `ca_file` names those to trust instead.
    `client_certificate` names the files of a certificate and its key. `server_name` is the name that the
    service's certificate must have, where it is not the address's. Each of the three last implies TLS.
    """

    key: str | None
    token: Token | None
    on_behalf_of: str | None
    tls: bool
    ca_file: str | os.PathLike[str] | None
    client_certificate: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None
    server_name: str | None


def credentials(options: ConnectionOptions) -> Credentials:
    """The credentials among the options."""
    return Credentials(options.get("key"), options.get("token"), options.get("on_behalf_of"))


def channel_credentials(options: ConnectionOptions) -> grpc.ChannelCredentials | None:
    """TLS, as the options ask for it; None: no TLS. Raises OSError where a file cannot be read."""
    ca_file, pair = options.get("ca_file"), options.get("client_certificate")
    if not (options.get("tls") or ca_file or pair or options.get("server_name")):
        return None
    authorities = Path(ca_file).read_bytes() if ca_file else None
    certificate, key = (Path(pair[0]).read_bytes(), Path(pair[1]).read_bytes()) if pair else (None, None)
    return grpc.ssl_channel_credentials(authorities, key, certificate)


def channel_options(options: ConnectionOptions) -> tuple[tuple[str, str | int], ...]:
    """The options of a gRPC channel."""
    name = options.get("server_name")
    return (*_OPTIONS, *((("grpc.ssl_target_name_override", name),) if name else ()))


def open_channel(address: str, options: ConnectionOptions) -> grpc.Channel:
    """Opens a channel, which connects when it is needed."""
    tls, wanted = channel_credentials(options), channel_options(options)
    return grpc.secure_channel(address, tls, wanted) if tls else grpc.insecure_channel(address, wanted)


def open_async_channel(address: str, options: ConnectionOptions) -> grpc.aio.Channel:
    """The same for an event loop."""
    tls, wanted = channel_credentials(options), channel_options(options)
    if tls:
        return grpc.aio.secure_channel(address, tls, wanted)
    return grpc.aio.insecure_channel(address, wanted)


def stubs(channel: Any) -> dict[str, Any]:
    """The stubs of a channel, by the names of their services."""
    return {
        "SessionService": session_service_pb2_grpc.SessionServiceStub(channel),
        "MessageService": message_service_pb2_grpc.MessageServiceStub(channel),
        "AgentService": agent_service_pb2_grpc.AgentServiceStub(channel),
        "UserDataService": user_data_service_pb2_grpc.UserDataServiceStub(channel),
    }
