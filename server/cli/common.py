"""Shared by several commands: settings with readable failures, sockets, and the run of a service."""

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
from server.addresses import join_address, split_address
from server.settings import Settings, SettingsError, changed_settings, load_settings, unknown_variables
from server.version import VERSION

log = structlog.get_logger()

TAKEN_ADDRESS_SECONDS: Final = 3.0
RETRY_SECONDS: Final = 0.05
"""How long, and how often, a start tries an address that is taken."""

COLLECT: Final = (100_000, 0, 0)
"""gc.set_threshold: young objects after 100,000 allocations, more than the requests in flight make.

Older generations every second and third time, so that ended watches do not pile up.
"""

DEFAULT_SERVER: Final = "127.0.0.1:50051"
SCHEMES: Final = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")
"""The schemes of the names that gRPC resolves itself."""

MALLOC_OPTIONS: Final = ((-8, 2), (-3, 256 * 1024), (-1, 1024 * 1024))
"""M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h, and their values: arenas, bytes, bytes."""

TRIM_SECONDS: Final = 0.5
"""How often the service looks whether memory has become free."""

TRIM_BYTES: Final = 4 * 1024 * 1024
"""How much must have become free for it to be given back."""

DIRECT: Final = [("grpc.enable_http_proxy", 0)]
"""Options of a channel that ignores the web proxy of the environment."""


class _MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of malloc.h; `fordblks` is how many bytes are free."""

    _names = (
        "arena",
        "ordblks",
        "smblks",
        "hblks",
        "hblkhd",
        "usmblks",
        "fsmblks",
        "uordblks",
        "fordblks",
        "keepcost",
    )
    _fields_ = [(name, ctypes.c_size_t) for name in _names]


class StartError(Exception):
    """A part of the service cannot start. The text says in a line which part, and why."""


def settings_or_exit(**overrides: Any) -> Settings:
    """Reads the settings and sets up logging. Ends the command with a line for each wrong setting."""
    try:
        settings = load_settings(**overrides)
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    logs.configure(settings.log_level, settings.log_format)
    return settings


def refuse_open_address(settings: Settings, *names: str) -> None:
    """Ends the command where others can reach one of these settings' addresses, unless ALLOW_OPEN is set."""
    for name in names:
        address = getattr(settings, name.lower())
        if not settings.allow_open and not _is_loopback(split_address(address)[0]):
            raise click.ClickException(
                f"{name} is {address}, which others can reach, and there is no authentication yet: set "
                "ALLOW_OPEN=true if"
                " everyone who can reach it may read and change every session, or listen on 127.0.0.1"
            )


def _is_loopback(host: str) -> bool:
    """Whether all addresses of a host are loopback. True for none: listening there then reports the fault."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return True
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)


def log_start(settings: Settings, **facts: object) -> None:
    """Logs the version and the settings that are not at their defaults; warns of unknown variables.

    Call it once the start has succeeded: a failed start prints one line and nothing else.
    """
    log.info("started", version=VERSION, settings=changed_settings(settings), **facts)
    for name, meant in unknown_variables(os.environ).items():
        # Only a warning, because `SESSION_MANAGER` and the like belong to the desktop.
        suggestion = {"meant": meant} if meant else {}
        log.warning("the environment has a variable that is no setting", variable=name, **suggestion)


def raise_descriptor_limit() -> None:
    """Raises the soft limit on open descriptors to the hard one: each connection takes one. Logs a change."""
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
    """Runs a service until it ends, with as many descriptors as the system allows.

    Everything loaded so far stays for good, so the garbage collector leaves it out. It also runs less often
    than after every 700 objects, which a single request makes. That saves a sixth of the time of a REST
    request.
    """
    raise_descriptor_limit()
    return_freed_memory()
    gc.freeze()
    gc.set_threshold(*COLLECT)
    try:
        uvloop.run(_run(work))
    finally:
        # Python complains of a coroutine that never began, as when no loop could be made.
        work.close()


async def _run(work: Coroutine[Any, Any, None]) -> None:
    trimming = asyncio.create_task(_trim_memory())
    try:
        await work
    finally:
        trimming.cancel()


async def _trim_memory() -> None:
    """Gives back what has become free between what is in use: glibc by itself returns the end of its heap
    alone.
    """
    library = ctypes.CDLL(None)
    trim, read = getattr(library, "malloc_trim", None), getattr(library, "mallinfo2", None)
    if trim is None or read is None:
        return
    read.restype = _MallocInfo
    # What is given back counts as free still, so the least of it since then is what tells what is new.
    least_bytes = read().fordblks
    while True:
        await asyncio.sleep(TRIM_SECONDS)
        if read().fordblks > least_bytes + TRIM_BYTES:
            # In a thread, because it takes some milliseconds for a large heap.
            await asyncio.to_thread(trim, 0)
            least_bytes = read().fordblks
        least_bytes = min(least_bytes, read().fordblks)


def return_freed_memory() -> None:
    """Makes glibc give freed memory back. By default it keeps that of a burst, in eight arenas a core.

    Other C libraries have no such settings, and need none.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in MALLOC_OPTIONS:
            mallopt(parameter, value)


async def stop_signal() -> None:
    """Waits for SIGTERM or SIGINT. A second one does nothing."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


async def listen(name: str, address: str) -> socket.socket:
    """Listens on HOST:PORT. Ends the command where that fails; `name` is the setting's.

    Tries a taken address for a while: the facade of a killed service closes its socket a moment later.
    """
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # `[::]` includes all addresses of IPv4, as it does for gRPC.
    dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    last_try = time.monotonic() + TAKEN_ADDRESS_SECONDS
    while True:
        try:
            return socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=dual)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > last_try:
                reason = os.strerror(error.errno or 0)
                raise click.ClickException(f"{name} {address} cannot be listened on: {reason}") from error
        await asyncio.sleep(RETRY_SECONDS)


def with_port(address: str, port: int) -> str:
    """The address with another port."""
    return join_address(split_address(address)[0], port)


def server_option(
    meaning: str,
    *more_names: str,
    **changes: Any,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option --server, the same in every command that calls a gRPC server."""
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
