"""`eliza-sessions rest`: the REST facade alone."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable

import click

from rest_facade.main import serve as serve_rest
from server.cli.common import listen, log_start, run_service, settings_or_exit, stop_signal, with_port
from server.cli.workers import Workers
from server.settings import Settings


@click.command()
@click.option("--server", required=True, metavar="HOST:PORT", help="The gRPC server to turn requests into calls of.")
@click.option("--rest-address", metavar="HOST:PORT", help="Where to listen.  [REST_ADDRESS, 127.0.0.1:3000]")
@click.option("--rest-workers", type=int, help="How many processes.  [REST_WORKERS, 1]")
@click.option("--worker-of", type=int, hidden=True, help="The descriptor of a socket that the parent process listens on.")
def rest(server: str, rest_address: str | None, rest_workers: int | None, worker_of: int | None) -> None:
    """Run the REST facade against any gRPC server.

    It holds no state: run as many as you like. The server need not be there yet; while it is away, requests are answered with 503.
    """
    settings = settings_or_exit(rest_address=rest_address, rest_workers=rest_workers)
    if worker_of is None:
        log_start(settings, server=server)
    if worker_of is not None:
        run_service(_worker(settings, server, socket.socket(fileno=worker_of)))
    else:
        run_service(_alone(settings, server))


async def _alone(settings: Settings, server: str) -> None:
    listener = await listen("REST_ADDRESS", settings.rest_address)
    ready = f"ready rest={with_port(settings.rest_address, listener.getsockname()[1])}"
    if settings.rest_workers == 1:
        await _serve(settings, server, listener, lambda: print(ready, flush=True))
    else:
        async with Workers(settings, server, listener, grace_seconds=settings.shutdown_grace_seconds).running():
            print(ready, flush=True)
            await stop_signal()
            # The workers have it too: once they let go, a new connection is refused at once instead of waiting for nobody.
            listener.close()


async def _worker(settings: Settings, server: str, listener: socket.socket) -> None:
    """Serves until the parent says so or is gone: its end of our standard input closes then."""

    def parent_is_gone() -> None:
        if not os.read(sys.stdin.fileno(), 1):
            loop.remove_reader(sys.stdin)
            os.kill(os.getpid(), signal.SIGTERM)

    def ready() -> None:
        # A parent that is gone already is heard of by standard input.
        with contextlib.suppress(BrokenPipeError):
            os.write(sys.stdout.fileno(), b"ready\n")

    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, parent_is_gone)
    await _serve(settings, server, listener, ready)


async def _serve(settings: Settings, server: str, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    with contextlib.closing(listener):
        await serve_rest(
            server,
            listener,
            on_ready,
            grace_seconds=settings.drain_seconds,
            deadline_seconds=settings.rest_deadline_seconds,
            reply_deadline_seconds=settings.reply_deadline_seconds,
            max_requests=settings.rest_max_requests,
        )
