"""`eliza-sessions rest`: the REST facade alone."""

import contextlib
import socket
from collections.abc import Callable

import click

from rest_facade.main import serve as serve_rest
from server.cli.common import StartError, listen, log_start, refuse_open_address, run_service, server_option, settings_or_exit, with_port
from server.settings import Settings, read_networks, split_list


@click.command()
@server_option("The gRPC server to turn requests into calls of.")
@click.option("--rest-address", metavar="HOST:PORT", help="Where to listen.  [REST_ADDRESS, 127.0.0.1:3000]")
@click.option("--rest-workers", type=int, help="1: run this command several times, with an address each, for more.  [REST_WORKERS, 1]")
def rest(server: str, rest_address: str | None, rest_workers: int | None) -> None:
    """Run the REST facade against any gRPC server.

    It holds no state: run as many as you like. The server need not be there yet; while it is away, requests are answered with 503.
    """
    settings = settings_or_exit(rest_address=rest_address, rest_workers=rest_workers)
    refuse_open_address(settings, "REST_ADDRESS")
    try:
        run_service(_serve(settings, server))
    except StartError as error:
        raise click.ClickException(f"the REST facade cannot be started: {error}") from error


async def _serve(settings: Settings, server: str) -> None:
    listener = await listen("REST_ADDRESS", settings.rest_address)
    address = with_port(settings.rest_address, listener.getsockname()[1])

    def tell_ready() -> None:
        log_start(settings, server=server)
        print(f"ready rest={address}", flush=True)

    await serve_facade(settings, server, listener, tell_ready)


async def serve_facade(settings: Settings, server: str, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serves REST on a socket that listens. Raises StartError where that fails before `on_ready` was called."""
    is_ready = False

    def note_ready() -> None:
        nonlocal is_ready
        is_ready = True
        on_ready()

    try:
        with contextlib.closing(listener):
            await serve_rest(
                server,
                listener,
                note_ready,
                grace_seconds=settings.drain_seconds,
                deadline_seconds=settings.rest_deadline_seconds,
                reply_deadline_seconds=settings.reply_deadline_seconds,
                max_requests=settings.rest_max_requests,
                keep_alive_seconds=settings.rest_keep_alive_seconds,
                allowed_origins=split_list(settings.rest_allowed_origins),
                allowed_hosts=split_list(settings.rest_allowed_hosts),
                trusted_proxies=read_networks(settings.trusted_proxies),
            )
    except OSError as error:
        if is_ready:
            raise
        raise StartError(error.strerror or str(error)) from error
