"""`eliza-sessions rest`: the REST facade alone."""

import asyncio
import os
import socket
import ssl
import sys
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import grpc

from eliza.sessions.v1.session_service_pb2 import GetServiceStatusRequest
from eliza.sessions.v1.session_service_pb2_grpc import SessionServiceStub
from rest_facade.front_door.observer import NOBODY, Observer
from rest_facade.main import Facade
from rest_facade.upstream.backend import Backend, Tls, dial, dial_for_streams
from server.addresses import is_reachable
from server.certificates import CertificateError, make_reloading_context, open_certificate
from server.cli.common import (
    StartError,
    listen,
    log,
    log_start,
    log_without_console,
    refuse_open_address,
    run_service,
    settings_or_exit,
    stop_signal,
    with_port,
)
from server.cli.monitoring import Monitoring
from server.cli.server_option import TLS_OPTIONS, read_credentials, server_option, tls_options
from server.setting_types import read_networks, split_list
from server.settings import Settings

_SERVER_ONLY: Final = (
    "database_url",
    "eliza_server_auth_token",
    "keys_file",
    "access_token_keys_file",
    "jwt_keys",
)
ASK_SECONDS: Final = 5.0
ASK_AGAIN_SECONDS: Final = 1.0
"""How long the server may take to say whether it is protected, and when it is asked again."""

MIN_KEY_CHARACTERS: Final = 16

INHERITED: Final = (
    *("PATH", "HOME", "TMPDIR", "TZ", "TERM", "NO_COLOR", "FORCE_COLOR", "VIRTUAL_ENV"),
    *("LANG", "LANGUAGE", "LC_*", "PYTHON[A-Z]*", "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_*", "MALLOC_*"),
    *("GRPC_VERBOSITY", "GRPC_TRACE", "GRPC_POLL_STRATEGY", "GRPC_DNS_RESOLVER", "GRPC_ENABLE_FORK_SUPPORT"),
    # Where its spans go, and the collector's own key.
    "OTEL_*",
    *(variable for _, variable, *_ in TLS_OPTIONS),
    *(name.upper() for name in Settings.model_fields if name not in _SERVER_ONLY),
)
"""The variables that the facade needs, as patterns: Python, its locale and libraries, gRPC's logs, settings.

It meets strangers first, so it gets no secret: no key of an agent or a caller, no address of a store.
"""


@click.command()
@server_option("The gRPC server to turn requests into calls of.")
@click.option("--rest-address", metavar="HOST:PORT", help="Where to listen.  [REST_ADDRESS, 127.0.0.1:3000]")
@click.option(
    "--rest-workers",
    type=int,
    help="1: run this command several times, with an address each, for more.  [REST_WORKERS, 1]",
)
@tls_options()
def rest(server: str, rest_address: str | None, rest_workers: int | None, **tls: Any) -> None:
    """Run the REST facade against any gRPC server.

    It holds no state: run as many as you like. The server need not be there yet; while it is away, requests
    are answered with 503. Where others can reach the address, the server must be protected, or ALLOW_OPEN
    set.
    """
    settings = settings_or_exit(rest_address=rest_address, rest_workers=rest_workers)
    credentials, _ = read_credentials(tls)
    upstream_tls = Tls(credentials, tls["tls_server_name"] or "") if credentials else None
    _drop_secrets()
    try:
        run_service(_serve(settings, server, upstream_tls))
    except StartError as error:
        raise click.ClickException(f"the REST facade cannot be started: {error}") from error


def select_inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables of an environment that the facade needs."""
    return {
        name: value
        for name, value in environment.items()
        if any(fnmatchcase(name, pattern) for pattern in INHERITED)
    }


def build_facade(
    settings: Settings,
    listener: socket.socket,
    open_channel: Callable[[], grpc.aio.Channel],
    open_stream_channel: Callable[[], grpc.aio.Channel] | None = None,
    facade_key: str = "",
    observer: Observer = NOBODY,
    *,
    has_console: bool = False,
) -> Facade:
    """The facade on a socket that listens; `Backend` says which channels and which key are meant."""
    return Facade(
        Backend(
            open_channel,
            settings.rest_deadline_seconds,
            settings.reply_deadline_seconds,
            open_stream_channel,
            facade_key,
            settings.stream_heartbeat_seconds,
        ),
        listener,
        max_requests=settings.rest_max_requests,
        keep_alive_seconds=settings.rest_keep_alive_seconds,
        allowed_origins=split_list(settings.rest_allowed_origins),
        allowed_hosts=split_list(settings.rest_allowed_hosts),
        trusted_proxies=read_networks(settings.trusted_proxies),
        tls=make_tls(settings),
        observer=observer,
        has_console=has_console,
    )


def make_tls(settings: Settings) -> ssl.SSLContext | None:
    """What TLS of the facade needs; None where it has none. Raises StartError."""
    try:
        files = open_certificate(settings.rest_tls_certificate, settings.rest_tls_key)
        return make_reloading_context(files, ["http/1.1"]) if files else None
    except CertificateError as error:
        raise StartError(f"REST cannot use its certificate: {error}") from error


def _drop_secrets() -> None:
    """Starts the program again with only the variables it needs: a process keeps its first environment."""
    needed = select_inherited(os.environ)
    if needed.keys() != os.environ.keys():
        os.execve(sys.executable, [sys.executable, "-P", "-m", "server.cli", *sys.argv[1:]], needed)


async def _serve(settings: Settings, server: str, tls: Tls | None) -> None:
    stopped = asyncio.create_task(stop_signal())
    facade_key = read_key(settings.facade_key_file)
    refusal = _refusal(settings)
    monitoring = await Monitoring.open(settings)
    listener = await listen("REST_ADDRESS", settings.rest_address)
    address = with_port(settings.rest_address, listener.getsockname()[1])
    facade = build_facade(
        settings,
        listener,
        partial(dial, server, tls),
        partial(dial_for_streams, server, tls),
        facade_key,
        monitoring.observer,
        has_console=settings.console and not is_reachable(settings.rest_address),
    )
    monitoring.watch_facade(facade)
    # Until it is known whether the server is protected, requests are answered as if it were away.
    facade.is_held = refusal is not None
    try:
        await facade.start()
        await monitoring.start()
    except OSError as error:
        raise StartError(error.strerror or str(error)) from error
    log_start(settings, server=server)
    print(f"ready rest={address}{monitoring.ready}", flush=True)
    if refusal or (settings.console and not facade.has_console):
        asking = asyncio.create_task(_is_open(server, tls))
        await asyncio.wait([stopped, asking], return_when=asyncio.FIRST_COMPLETED)
        if not asking.cancel():
            if asking.result() and refusal:
                await facade.stop(0)
                await monitoring.stop(asyncio.get_running_loop().time())
                raise refusal
            if asking.result() and settings.console:
                log_without_console()
            facade.has_console = settings.console and not asking.result()
        facade.is_held = False
    await stopped
    stop_by_s = asyncio.get_running_loop().time() + settings.shutdown_grace_seconds
    await facade.stop(settings.drain_seconds)
    await monitoring.stop(stop_by_s)


def _refusal(settings: Settings) -> click.ClickException | None:
    """What is said where others can reach the address and the server is open; None where it may be open."""
    # Whether credentials are wanted, the server's settings say: those of this process mean nothing.
    unprotected = dict.fromkeys(("keys_file", "eliza_server_auth_token", "jwt_keys"))
    try:
        refuse_open_address(settings.model_copy(update=unprotected), "REST_ADDRESS")
    except click.ClickException as refusal:
        return refusal
    return None


async def _is_open(server: str, tls: Tls | None) -> bool:
    """Whether a server serves whoever has no credential. Asks until it answers."""
    async with dial(server, tls) as channel:
        status = SessionServiceStub(channel).GetServiceStatus
        while True:
            try:
                answer = await status(GetServiceStatusRequest(), timeout=ASK_SECONDS, wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    return False
                log.info("the server does not say yet whether it is protected", status=error.code().name)
                await asyncio.sleep(ASK_AGAIN_SECONDS)
            else:
                return not answer.status_only


def read_key(path: str) -> str:
    """Reads the facade's key from its file; empty without a file. Raises StartError."""
    if not path:
        return ""
    try:
        key = Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        raise StartError(f"FACADE_KEY_FILE {path} cannot be read: {reason}") from None
    if len(key) < MIN_KEY_CHARACTERS or not key.isprintable() or " " in key:
        raise StartError(
            f"FACADE_KEY_FILE {path} must hold one key of at least {MIN_KEY_CHARACTERS} characters"
        )
    return key
