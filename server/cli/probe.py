"""`eliza-sessions probe`: asks a gRPC server for its health, like grpc_health_probe (flags,
exit statuses).
"""

import re
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Any, Final, NoReturn

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.addresses import split_address
from server.cli.server_option import DIRECT, server_option, tls_options

INVALID_ARGUMENTS: Final = 1
CONNECTION_FAILURE: Final = 2
RPC_FAILURE: Final = 3
UNHEALTHY: Final = 4

_TRUTHS = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class _Duration(click.ParamType[float]):
    """A duration in the form of Go, above zero: 1s, 250ms, 1m30s."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", str(value))
        seconds = sum(float(amount) * _UNITS[unit] for amount, unit in parts)
        if "".join(map("".join, parts)) != str(value) or seconds <= 0:
            self.fail(f"{value!r} is no duration like 1s or 250ms", param, ctx)
        return float(seconds)


class _GoFlags(click.Command):
    """Takes flags like Go programs: with one dash or two, and switches with a value (-tls=false).

    A bad flag ends the command with status 1.
    """

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object
    ) -> click.Context:
        flags = [option for option in self.params if getattr(option, "is_flag", False)]
        switches = {name.lstrip("-") for flag in flags for name in flag.opts}
        try:
            args = [one for arg in args for one in _to_click(arg, switches)]
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            error.show()
            sys.exit(INVALID_ARGUMENTS)


def _to_click(arg: str, switches: set[str]) -> list[str]:
    found = re.fullmatch(r"--?([a-z][a-z-]*)(?:=(.*))?", arg, re.DOTALL)
    if not found:
        return [arg]
    name, value = found[1], found[2]
    if name in switches and value is not None:
        on = _TRUTHS.get(value.lower())
        if on is None:
            raise click.UsageError(f"-{name} takes true or false, not {value!r}")
        value = None
        if not on:
            return []
    dashes = "-" if len(name) == 1 else "--"
    return [f"{dashes}{name}" if value is None else f"{dashes}{name}={value}"]


def _fail(status: int, message: str) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(status)


@click.command(cls=_GoFlags)
@server_option("The server.", "--addr")
@click.option(
    "--service", default="", metavar="NAME", help="The service by its full name.  [the whole server]"
)
@click.option(
    "--connect-timeout",
    type=_Duration(),
    default="1s",
    show_default=True,
    help="How long connecting may take.",
)
@click.option(
    "--rpc-timeout", type=_Duration(), default="1s", show_default=True, help="How long the answer may take."
)
@click.option("--rpc-header", multiple=True, metavar="NAME: VALUE", help="A header to send; may be repeated.")
@click.option("--user-agent", default="eliza-sessions probe", help="The user agent to name.")
@tls_options()
@click.option("--tls-no-verify", is_flag=True, help="Do not verify the server's certificate. For tests only.")
@click.option("--gzip", is_flag=True, help="Compress what is sent.")
@click.option("--verbose", "-v", is_flag=True, help="Say how long each step took.")
@click.version_option(package_name="eliza-sessions", prog_name="eliza-sessions")
def probe(
    server: str,
    service: str,
    connect_timeout: float,
    rpc_timeout: float,
    rpc_header: tuple[str, ...],
    user_agent: str,
    tls: bool,
    tls_ca_cert: Path | None,
    tls_client_cert: Path | None,
    tls_client_key: Path | None,
    tls_no_verify: bool,
    tls_server_name: str | None,
    gzip: bool,
    verbose: bool,
) -> None:
    """Ask a gRPC server for its health, as grpc_health_probe does.

    Exit status: 0 serving, 1 invalid arguments, 2 connection failed or timed out, 3 the call failed or timed
    out, 4 not serving.
    """
    if not tls and (tls_ca_cert or tls_client_cert or tls_client_key or tls_server_name or tls_no_verify):
        _fail(INVALID_ARGUMENTS, "the -tls-… flags need -tls")
    if bool(tls_client_cert) != bool(tls_client_key):
        _fail(INVALID_ARGUMENTS, "-tls-client-cert and -tls-client-key go together")
    if tls_no_verify and (tls_ca_cert or tls_server_name):
        _fail(
            INVALID_ARGUMENTS,
            "-tls-no-verify excludes -tls-ca-cert and -tls-server-name: they say what to verify",
        )
    if not all(":" in header for header in rpc_header):
        _fail(INVALID_ARGUMENTS, "-rpc-header takes NAME: VALUE")
    parts = [header.partition(":") for header in rpc_header]
    headers = [(name.strip().lower(), value.strip()) for name, _, value in parts]
    options: list[tuple[str, str | int]] = [("grpc.primary_user_agent", user_agent), *DIRECT]
    compression = grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression
    if tls:
        roots = _read(tls_ca_cert)
        if roots:
            _check_certificates(tls_ca_cert, roots)
        if tls_no_verify:
            roots, tls_server_name = _certificate_of(server, connect_timeout)
        if tls_server_name:
            options.append(("grpc.ssl_target_name_override", tls_server_name))
        credentials = grpc.ssl_channel_credentials(roots, _read(tls_client_key), _read(tls_client_cert))
        channel = grpc.secure_channel(server, credentials, options, compression)
    else:
        channel = grpc.insecure_channel(server, options, compression)
    with channel:
        started = time.monotonic()
        ready = grpc.channel_ready_future(channel)
        try:
            ready.result(timeout=connect_timeout)
        except grpc.FutureTimeoutError:
            ready.cancel()
            _fail(CONNECTION_FAILURE, f"failed to connect to {server} within {connect_timeout:g}s")
        connected = time.monotonic()
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=rpc_timeout, metadata=headers)
        except grpc.RpcError as error:
            _fail(RPC_FAILURE, f"health check failed: {error.code().name} {error.details()}")
        if verbose:
            answered = time.monotonic() - connected
            click.echo(f"connected in {connected - started:.3f}s, answered in {answered:.3f}s", err=True)
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        _fail(UNHEALTHY, f"service unhealthy (responded with {status})")
    click.echo(f"status: {status}")


def _read(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError as error:
        _fail(INVALID_ARGUMENTS, f"{path} cannot be read: {error.strerror}")


def _check_certificates(path: Path | None, pem: bytes) -> None:
    try:
        ssl.create_default_context(cadata=pem.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError, ValueError):
        _fail(INVALID_ARGUMENTS, f"{path} holds no certificate")


def _certificate_of(addr: str, timeout_s: float) -> tuple[bytes, str]:
    """The certificate that a server shows, and a name in it.

    The probe trusts it, because gRPC always verifies.
    """
    try:
        pem = ssl.get_server_certificate(split_address(addr), timeout=timeout_s)
        context = ssl.create_default_context(cadata=pem)
        context.check_hostname = False
        # The context trusts this certificate alone, by whomever it is signed.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        with (
            socket.create_connection(split_address(addr), timeout_s) as plain,
            context.wrap_socket(plain) as secured,
        ):
            certificate: Any = secured.getpeercert() or {}
    except (OSError, ValueError) as error:
        _fail(CONNECTION_FAILURE, f"failed to connect to {addr}: {error}")
    names = [name for kind, name in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    return pem.encode(), names[0] if names else ""
