"""What several commands need: settings with readable failures, and sockets."""

import asyncio
import ctypes
import errno
import gc
import ipaddress
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import click
import structlog
import uvloop

from server import logs
from server.settings import (
    Settings,
    SettingsError,
    changed_settings,
    join_address,
    load_settings,
    split_address,
    unknown_variables,
)
from server.version import VERSION

log = structlog.get_logger()

TAKEN_ADDRESS_SECONDS: Final = 3.0
RETRY_SECONDS: Final = 0.05

COLLECT: Final = (100_000, 0, 0)
"""After how many more objects the garbage collector looks at young ones: more than the requests under way have, which it would look at for
nothing. Every second time it looks at older ones, and every third at all, lest what has lived for a minute, as a watch does, piles up when
it is gone.
"""

DEFAULT_SERVER: Final = "127.0.0.1:50051"
SCHEMES: Final = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")
"""Of the names that gRPC resolves itself."""

MALLOC_OPTIONS: Final = ((-8, 2), (-3, 256 * 1024), (-1, 1024 * 1024))
"""M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h, and their values: arenas, bytes, bytes."""

DIRECT: Final = [("grpc.enable_http_proxy", 0)]
"""Options of a channel to a server that is addressed directly, whatever proxy the environment names for the web."""


class StartError(Exception):
    """A part of the service cannot be started; the text says which and why, in a line."""


def settings_or_exit(**overrides: Any) -> Settings:
    """The settings, with logging set up by them. Ends the command with the lines of what is wrong."""
    try:
        settings = load_settings(**overrides)
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    logs.configure(settings.log_level, settings.log_format)
    return settings


def refuse_open_address(settings: Settings, *names: str) -> None:
    """Ends the command where others can reach one of these settings' addresses, unless ALLOW_OPEN says that they may."""
    for name in names:
        address = getattr(settings, name.lower())
        if not settings.allow_open and not _is_loopback(split_address(address)[0]):
            raise click.ClickException(
                f"{name} is {address}, which others can reach, and there is no authentication yet: set ALLOW_OPEN=true if"
                " everyone who can reach it may read and change every session, or listen on 127.0.0.1"
            )


def _is_loopback(host: str) -> bool:
    """Whether all addresses of a host are loopback ones. One without addresses is: the attempt to listen there tells what is wrong."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return True
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)


def log_start(settings: Settings, **facts: object) -> None:
    """Logs which version has started, with which settings other than the defaults, and warns of variables that are no settings.

    A start that fails prints one line, so nothing is logged before.
    """
    log.info("started", version=VERSION, settings=changed_settings(settings), **facts)
    for name, meant in unknown_variables(os.environ).items():
        # `SESSION_MANAGER` and the like belong to the desktop, so it is no more than a warning.
        log.warning("the environment has a variable that is no setting", variable=name, **({"meant": meant} if meant else {}))


def raise_descriptor_limit() -> None:
    """Raises the soft limit on open descriptors to the hard one, because each connection takes one. Logs a change."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        # Some systems have a bound of their own below an unlimited hard limit.
        log.warning("the limit on open descriptors cannot be raised", soft=soft, hard=hard, error=str(error))
    else:
        log.info("raised the limit on open descriptors", before=soft, now=hard)


def run_service(work: Coroutine[Any, Any, None]) -> None:
    """Runs a program that serves until it is told to stop, with as many descriptors as it may have.

    What has been loaded by now stays, so that the garbage collector need not look at it, nor look after every 700 objects: a request alone
    makes as many. That is a sixth of the time of a REST request.
    """
    raise_descriptor_limit()
    return_freed_memory()
    gc.freeze()
    gc.set_threshold(*COLLECT)
    try:
        uvloop.run(work)
    finally:
        # A loop that could not be made has not begun it, which Python would complain of.
        work.close()


def return_freed_memory() -> None:
    """Has glibc give freed memory back: by itself it keeps what a burst of large requests has used, in eight arenas a core.

    Other C libraries have no such settings, and do by themselves.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in MALLOC_OPTIONS:
            mallopt(parameter, value)


async def stop_signal() -> None:
    """Waits for SIGTERM or SIGINT; a second one does nothing more."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


async def listen(name: str, address: str) -> socket.socket:
    """A socket that listens on HOST:PORT. Ends the command when the address cannot be had; `name` is the setting's.

    The facade of a service that was killed lets go of its socket a moment after it, so a taken address is tried for a while.
    """
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # `[::]` is all addresses of IPv4, too, as it is for gRPC.
    dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    last_try = time.monotonic() + TAKEN_ADDRESS_SECONDS
    while True:
        try:
            return socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=dual)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > last_try:
                raise click.ClickException(f"{name} {address} cannot be listened on: {os.strerror(error.errno or 0)}") from error
        await asyncio.sleep(RETRY_SECONDS)


def with_port(address: str, port: int) -> str:
    """The address with its port replaced."""
    return join_address(split_address(address)[0], port)


def server_option(meaning: str, *more_names: str, **changes: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option that says where the gRPC server is, the same in every command that calls one."""
    attributes: dict[str, Any] = {
        "default": DEFAULT_SERVER,
        "envvar": "GRPC_ADDRESS",
        "show_default": True,
        "show_envvar": True,
        "callback": read_server,
        "metavar": "HOST:PORT",
        "help": meaning,
    }
    return click.option("--server", *more_names, "server", **(attributes | changes))


def read_server(context: click.Context, option: click.Parameter, text: str) -> str:
    """The address of a server as gRPC dials it. Takes HOST:PORT, no host being localhost, and gRPC's names with a scheme."""
    try:
        return reachable(f"localhost{text}" if text.startswith(":") else text)
    except ValueError as error:
        if text.startswith(SCHEMES):
            return text
        raise click.BadParameter(f"{text!r}: it must be {error}", context, option) from error


def reachable(address: str) -> str:
    """The address as a client on this machine can use it: loopback where the server listens on all addresses."""
    host, port = split_address(address)
    return join_address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)
