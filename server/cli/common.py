"""Shared by several commands: settings with readable failures, sockets, and the run of a service."""

import asyncio
import errno
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click
import structlog
import uvloop

from server import logs
from server.addresses import is_reachable, join_address, split_address, unix_path
from server.cli.memory import collect_rarely, return_freed_memory, trim_memory
from server.environment import (
    SettingsError,
    changed_settings,
    load_settings,
    overruled_settings,
    unknown_variables,
)
from server.settings import Settings
from server.version import VERSION

log = structlog.get_logger()

TAKEN_ADDRESS_SECONDS: Final = 3.0
RETRY_SECONDS: Final = 0.05
"""How long, and how often, a start tries an address that is taken."""


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
    """Ends the command where others can reach one of these settings' addresses, unless the service is
    protected or ALLOW_OPEN is set.
    """
    if settings.is_protected:
        return
    for name in names:
        address = getattr(settings, name.lower())
        if not settings.allow_open and is_reachable(address):
            raise click.ClickException(
                f"{name} is {address}, which others can reach, and the service is open: protect it with "
                "KEYS_FILE (`eliza-sessions keys add --role admin`), set ALLOW_OPEN=true if everyone who can "
                "reach it may read and change every session, or listen on 127.0.0.1"
            )


def log_without_console() -> None:
    """Logs that an open service which others can reach has no console."""
    log.warning("the console is off: the service is open, and others can reach it", setting="CONSOLE")


def log_start(settings: Settings, **facts: object) -> None:
    """Logs the version and the settings that are not at their defaults; warns of unknown variables, and of
    settings that others overrule.

    Call it once the start has succeeded: a failed start prints one line and nothing else.
    """
    log.info("started", version=VERSION, settings=changed_settings(settings), **facts)
    for name, meant in unknown_variables(os.environ).items():
        # Only a warning, because `SESSION_MANAGER` and the like belong to the desktop.
        suggestion = {"meant": meant} if meant else {}
        log.warning("the environment has a variable that is no setting", variable=name, **suggestion)
    for name, value in overruled_settings(settings).items():
        log.warning("another setting overrules this one", setting=name, holds=value)


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
    """Runs a service until it ends, with as many descriptors as the system allows."""
    raise_descriptor_limit()
    return_freed_memory()
    collect_rarely()
    try:
        uvloop.run(_run(work))
    finally:
        # Python complains of a coroutine that never began, as when no loop could be made.
        work.close()


async def _run(work: Coroutine[Any, Any, None]) -> None:
    trimming = asyncio.create_task(trim_memory())
    try:
        await work
    finally:
        trimming.cancel()


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


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """Yields what is told how much is done, and of how much; it shows a bar where somebody watches."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    with click.progressbar(length=1, label=label, file=sys.stderr) as bar:

        def show(done: int, total: int) -> None:
            bar.length, bar.pos = total, done
            bar.render_progress()

        yield show


def with_port(address: str, port: int) -> str:
    """The address with another port; a Unix socket has none."""
    return address if unix_path(address) else join_address(split_address(address)[0], port)
