"""`eliza-sessions serve`: the gRPC server and the REST facade."""

import asyncio
import contextlib
import sys
from typing import Final

import click

from server.access.errors import AccessError
from server.agents.agents_file import AgentsFileError
from server.cli.common import (
    StartError,
    listen,
    log_start,
    log_without_console,
    refuse_open_address,
    run_service,
    settings_or_exit,
    stop_signal,
    with_port,
)
from server.cli.monitoring import Monitoring
from server.cli.rest import build_facade
from server.cli.server_option import reachable
from server.domain.agents import ECHO_ID
from server.service import AddressError, Service, keeps_figures
from server.settings import Settings
from server.store.values import StoreOpenError

_TRY: Final = """\
Try it:
  curl -X POST http://{rest}/api/messaging/sessions -H 'Content-Type: application/json' \\
    -d '{{"agentId": "{agent}", "userId": "11111111-1111-4111-8111-111111111111"}}'
"""


@click.command()
@click.option(
    "--database-url", metavar="URL", help="Where the store is.  [DATABASE_URL, sqlite:///eliza-sessions.db]"
)
@click.option(
    "--grpc-address",
    metavar="HOST:PORT",
    help="Where gRPC listens; port 0 picks a free one; or unix:/PATH.  [GRPC_ADDRESS, 127.0.0.1:50051]",
)
@click.option(
    "--rest-address",
    metavar="HOST:PORT",
    help="Where REST listens; port 0 picks a free one.  [REST_ADDRESS, 127.0.0.1:3000]",
)
@click.option("--no-rest", is_flag=True, help="Run the gRPC server alone.")
@click.option("--rest-workers", type=int, help="1: see `eliza-sessions rest` for more.  [REST_WORKERS, 1]")
@click.option("--agents-file", metavar="FILE", help="A TOML file of agents to register.  [AGENTS_FILE]")
def serve(no_rest: bool, **overrides: str | int | None) -> None:
    """Run the gRPC server and the REST facade.

    Prints one line, `ready grpc=HOST:PORT rest=HOST:PORT`, once both accept calls; logs go to standard error.
    SIGTERM and SIGINT stop
    both: what is in flight is finished, then the store is closed.
    """
    settings = settings_or_exit(**overrides)
    refuse_open_address(settings, "GRPC_ADDRESS", *([] if no_rest else ["REST_ADDRESS"]))
    try:
        run_service(_serve(settings, with_rest=not no_rest))
    except (AccessError, StoreOpenError, AgentsFileError, AddressError, StartError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        # No descriptors are left, say.
        raise click.ClickException(f"the service cannot run: {error.strerror or error}") from error


async def _serve(settings: Settings, *, with_rest: bool) -> None:
    stopped = asyncio.create_task(stop_signal())
    loop = asyncio.get_running_loop()
    # A start that fails waits for nothing.
    stop_by_s = loop.time()
    async with contextlib.AsyncExitStack() as stack:
        monitoring = await Monitoring.open(settings)
        stack.push_async_callback(lambda: monitoring.stop(stop_by_s + settings.closing_seconds))
        service = await Service.start(settings, monitoring.telemetry, monitoring.traces)
        stack.push_async_callback(lambda: service.stop(stop_by_s))
        grpc_address = with_port(settings.grpc_address, service.port)
        ready = f"ready grpc={grpc_address}"
        rest_address, has_console = "", False
        if with_rest:
            listener = await listen("REST_ADDRESS", settings.rest_address)
            rest_port = listener.getsockname()[1]
            service.close_port_to_agents(rest_port)
            rest_address = with_port(settings.rest_address, rest_port)
            ready += f" rest={rest_address}"
            has_console = keeps_figures(settings)
            facade = build_facade(
                settings,
                listener,
                service.open_channel,
                observer=monitoring.observer,
                has_console=has_console,
            )
            monitoring.watch_facade(facade)
            # It ends first, because it needs the server. Half of the time is its own; the server gets the
            # rest.
            await facade.start()
            stack.push_async_callback(lambda: facade.stop(max(0.0, stop_by_s - loop.time()) / 2))
        if monitoring.port:
            service.close_port_to_agents(monitoring.port)
        await monitoring.start()
        ready += monitoring.ready
        log_start(settings)
        if rest_address and settings.console and not has_console:
            log_without_console()
        await service.log_store()
        print(ready, flush=True)
        if rest_address and sys.stdout.isatty():
            print(_TRY.format(rest=reachable(rest_address), agent=ECHO_ID), flush=True)
            if has_console:
                scheme = "https" if settings.rest_tls_certificate else "http"
                print(f"Look at it: {scheme}://{reachable(rest_address)}/console", flush=True)
        await stopped
        stop_by_s = loop.time() + settings.drain_seconds
