"""The options of the commands that call a gRPC server: where it is, TLS, and a key."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import grpc

from eliza.sessions.call_metadata import API_KEY_KEY
from server.addresses import join_address, split_address

DEFAULT_SERVER: Final = "127.0.0.1:50051"
SCHEMES: Final = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")
"""The schemes of the names that gRPC resolves itself."""
DIRECT: Final = [("grpc.enable_http_proxy", 0)]
"""Options of a channel that ignores the web proxy of the environment."""


def server_option(
    meaning: str, *more_names: str, **changes: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option --server, the same in every command that calls a gRPC server."""
    attributes: dict[str, Any] = {
        "default": DEFAULT_SERVER,
        "envvar": "GRPC_ADDRESS",
        "show_default": True,
        "show_envvar": True,
        "callback": read_server,
        "metavar": "HOST:PORT|unix:/PATH",
        "help": meaning,
    }
    return click.option("--server", *more_names, "server", **(attributes | changes))


def read_server(context: click.Context, option: click.Parameter, text: str) -> str:
    """A server's address for gRPC to dial.

    Takes HOST:PORT, :PORT (localhost), and gRPC's names with a scheme.
    """
    try:
        return reachable(f"localhost{text}" if text.startswith(":") else text)
    except ValueError as error:
        if text.startswith(SCHEMES):
            return text
        raise click.BadParameter(f"{text!r}: it must be {error}", context, option) from error


def reachable(address: str) -> str:
    """The address for clients on this machine: loopback where the server listens on all addresses."""
    host, port = split_address(address)
    return join_address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)


_FILE: Final = click.Path(path_type=Path)

TLS_OPTIONS: Final[tuple[tuple[str, str, Any, str], ...]] = (
    ("--tls", "SERVER_TLS", None, "Use TLS."),
    (
        "--tls-ca-cert",
        "SERVER_TLS_CA_CERT",
        _FILE,
        "File of the certificates to trust.  [those of the system]",
    ),
    (
        "--tls-client-cert",
        "SERVER_TLS_CLIENT_CERT",
        _FILE,
        "File of the client's certificate; needs --tls-client-key.",
    ),
    ("--tls-client-key", "SERVER_TLS_CLIENT_KEY", _FILE, "File of the client's private key."),
    (
        "--tls-server-name",
        "SERVER_TLS_SERVER_NAME",
        str,
        "The name to verify the server's certificate against.",
    ),
)
"""The options of TLS: name, variable, type (None: a switch) and meaning. `probe` has the same."""

KEY_FILE: Final = "SERVER_KEY_FILE"
KEY: Final = "ELIZA_API_KEY"
"""The variables of the file of a key, and of the key itself."""


_RECONNECT: Final = [
    # A server that comes back is found within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class Target(NamedTuple):
    """How a server is called."""

    address: str
    credentials: grpc.ChannelCredentials | None
    options: Sequence[tuple[str, str | int]]
    key: str = ""

    def open_channel(self) -> grpc.Channel:
        """A channel whose calls have the key."""
        options = [*DIRECT, *_RECONNECT, *self.options]
        if self.credentials:
            channel = grpc.secure_channel(self.address, self.credentials, options)
        else:
            channel = grpc.insecure_channel(self.address, options)
        return grpc.intercept_channel(channel, _KeySender(self.key)) if self.key else channel


def tls_options(**changes: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options of TLS, the same in every command that calls a gRPC server."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for name, variable, kind, meaning in reversed(TLS_OPTIONS):
            shape: dict[str, Any] = {"is_flag": True} if kind is None else {"type": kind}
            attributes = {"envvar": variable, "show_envvar": True, "help": meaning} | shape | changes
            command = click.option(name, **attributes)(command)
        return command

    return add


def read_credentials(
    given: Mapping[str, Any],
) -> tuple[grpc.ChannelCredentials | None, list[tuple[str, str]]]:
    """The credentials and the options of a channel for the values of the options of TLS.

    Raises UsageError where they do not go together, BadParameter for a file that cannot be read.
    """
    names = {name.lstrip("-").replace("-", "_"): name for name, *_ in TLS_OPTIONS}
    if not given.get("tls"):
        if others := [name for key, name in names.items() if given.get(key)]:
            raise click.UsageError(f"{others[0]} needs --tls")
        return None, []
    if bool(given.get("tls_client_cert")) != bool(given.get("tls_client_key")):
        raise click.UsageError("--tls-client-cert and --tls-client-key go together")
    roots, key, chain = (
        _read_file(names[name], given.get(name))
        for name in ("tls_ca_cert", "tls_client_key", "tls_client_cert")
    )
    server_name = given.get("tls_server_name")
    options = [("grpc.ssl_target_name_override", server_name)] if server_name else []
    return grpc.ssl_channel_credentials(roots, key, chain), options


def read_key(given: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """The key to send, of a file or of the environment; empty where there is none."""
    content = _read_file("--key-file", given.get("key_file"))
    key = (content.decode("ascii", "replace") if content else environment.get(KEY, "")).strip()
    if content is not None and not key:
        raise click.BadParameter("the file is empty", param_hint="--key-file")
    if not (key.isascii() and key.isprintable()):
        # The key itself is not named.
        raise click.UsageError("the key has characters that no key has")
    return key


def _read_file(option: str, path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError as error:
        raise click.BadParameter(f"{path} cannot be read: {error.strerror}", param_hint=option) from error


class _CallDetails(NamedTuple):
    """What gRPC's interceptors pass on, which it has no public class for."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _KeySender(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Sends a key with each call."""

    def __init__(self, key: str) -> None:
        self._pair = (API_KEY_KEY, key)

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(self._with_key(client_call_details), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(self._with_key(client_call_details), request)

    def _with_key(self, details: Any) -> Any:
        return _CallDetails(
            details.method,
            details.timeout,
            [*(details.metadata or ()), self._pair],
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )
