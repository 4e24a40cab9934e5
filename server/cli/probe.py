"""`eliza-sessions probe`: asks for the health of a gRPC server, with the flags and exit statuses of grpc_health_probe."""

import re
import sys
import time
from pathlib import Path
from typing import Final, NoReturn

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

INVALID_ARGUMENTS: Final = 1
CONNECTION_FAILURE: Final = 2
RPC_FAILURE: Final = 3
UNHEALTHY: Final = 4

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class _Duration(click.ParamType[float]):
    """A duration as Go writes it: 1s, 250ms, 1m30s."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", str(value))
        if "".join(map("".join, parts)) != str(value) or not parts:
            self.fail(f"{value!r} is no duration like 1s or 250ms", param, ctx)
        return float(sum(float(amount) * _UNITS[unit] for amount, unit in parts))


class _GoFlags(click.Command):
    """Takes flags with one dash as well as with two, as Go programs do, and ends with grpc_health_probe's status on bad ones."""

    def make_context(self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object) -> click.Context:
        args = [f"-{arg}" if re.match(r"-[a-z][a-z-]", arg) else arg for arg in args]
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            error.show()
            sys.exit(INVALID_ARGUMENTS)


def _fail(status: int, message: str) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(status)


@click.command(cls=_GoFlags)
@click.option("--addr", default="127.0.0.1:50051", show_default=True, metavar="HOST:PORT", help="The server.")
@click.option("--service", default="", metavar="NAME", help="The service by its full name.  [the whole server]")
@click.option("--connect-timeout", type=_Duration(), default="1s", show_default=True, help="How long connecting may take.")
@click.option("--rpc-timeout", type=_Duration(), default="1s", show_default=True, help="How long the answer may take.")
@click.option("--rpc-header", multiple=True, metavar="NAME: VALUE", help="A header to send; may be repeated.")
@click.option("--user-agent", default="eliza-sessions probe", help="The user agent to name.")
@click.option("--tls", is_flag=True, help="Use TLS.")
@click.option("--tls-ca-cert", type=click.Path(path_type=Path), help="File of the certificates to trust.  [those of the system]")
@click.option("--tls-client-cert", type=click.Path(path_type=Path), help="File of the client's certificate; needs --tls-client-key.")
@click.option("--tls-client-key", type=click.Path(path_type=Path), help="File of the client's private key.")
@click.option("--tls-server-name", help="The name to verify the server's certificate against.")
@click.option("--verbose", "-v", is_flag=True, help="Say how long each step took.")
def probe(
    addr: str,
    service: str,
    connect_timeout: float,
    rpc_timeout: float,
    rpc_header: tuple[str, ...],
    user_agent: str,
    tls: bool,
    tls_ca_cert: Path | None,
    tls_client_cert: Path | None,
    tls_client_key: Path | None,
    tls_server_name: str | None,
    verbose: bool,
) -> None:
    """Ask a gRPC server for its health, as grpc_health_probe does.

    Exit status: 0 serving, 1 invalid arguments, 2 connection failed or timed out, 3 the call failed or timed out, 4 not serving.
    """
    if not tls and (tls_ca_cert or tls_client_cert or tls_client_key or tls_server_name):
        _fail(INVALID_ARGUMENTS, "the -tls-… flags need -tls")
    if bool(tls_client_cert) != bool(tls_client_key):
        _fail(INVALID_ARGUMENTS, "-tls-client-cert and -tls-client-key go together")
    headers = [(name.strip().lower(), value.strip()) for name, colon, value in (header.partition(":") for header in rpc_header) if colon]
    if len(headers) != len(rpc_header):
        _fail(INVALID_ARGUMENTS, "-rpc-header takes NAME: VALUE")
    options = [("grpc.primary_user_agent", user_agent)]
    if tls:
        if tls_server_name:
            options.append(("grpc.ssl_target_name_override", tls_server_name))
        channel = grpc.secure_channel(addr, _credentials(tls_ca_cert, tls_client_cert, tls_client_key), options)
    else:
        channel = grpc.insecure_channel(addr, options)
    with channel:
        started = time.monotonic()
        try:
            grpc.channel_ready_future(channel).result(timeout=connect_timeout)
        except grpc.FutureTimeoutError:
            _fail(CONNECTION_FAILURE, f"failed to connect to {addr} within {connect_timeout:g}s")
        connected = time.monotonic()
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=rpc_timeout, metadata=headers)
        except grpc.RpcError as error:
            _fail(RPC_FAILURE, f"health check failed: {error.code().name} {error.details()}")
        if verbose:
            click.echo(f"connected in {connected - started:.3f}s, answered in {time.monotonic() - connected:.3f}s", err=True)
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        _fail(UNHEALTHY, f"service unhealthy (responded with {status})")
    click.echo(f"status: {status}")


def _credentials(ca_cert: Path | None, client_cert: Path | None, client_key: Path | None) -> grpc.ChannelCredentials:
    try:
        files = [path.read_bytes() if path else None for path in (ca_cert, client_key, client_cert)]
    except OSError as error:
        _fail(INVALID_ARGUMENTS, f"{error.filename} cannot be read: {error.strerror}")
    return grpc.ssl_channel_credentials(*files)
