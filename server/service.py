"""The whole server, put together from its settings: store, life cycle, agents, gRPC."""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc.aio
import structlog

from server.access.authentication import Authentication
from server.access.limits import Rates
from server.addresses import is_reachable, split_address
from server.agents.agents_file import register_at_start, warn_of_unusable
from server.agents.connectors import Connectors, build_connectors
from server.certificates import CertificateError, open_certificate
from server.clock import Clock
from server.delivery.changed_agents import ChangedAgents
from server.delivery.dispatcher import Dispatcher
from server.delivery.measures import DeliveryMeasures
from server.domain.log import Piece
from server.lifecycle.expiry import ExpiryScheduler
from server.lifecycle.health import HealthMonitor
from server.lifecycle.other_servers import OtherServers
from server.lifecycle.purge import Purge
from server.lifecycle.watches import Watches
from server.rpc.credential_ends import watch_credentials
from server.rpc.gate import AccessGate
from server.rpc.health import HealthServicer
from server.rpc.in_process_channel import InProcessChannel
from server.rpc.parts import Parts, looks_at
from server.rpc.pipeline import QUIET_SECONDS, CallPipeline, read_gauges
from server.rpc.sending import Sending
from server.rpc.server import build_server
from server.rpc.services import build_services, service_names
from server.rpc.tls import certificate_names, open_port
from server.rpc.traced_pipeline import TracedPipeline
from server.setting_types import split_list
from server.settings import Settings
from server.store import build_clock, is_shared, open_store
from server.store.contract import Store
from server.store.gauges import read_store_gauges
from server.store.values import StoreOpenError
from server.telemetry.recorder import Recorder
from server.telemetry.telemetry import OFF, Telemetry
from server.telemetry.traces import NO_TRACES, Traces

AGENTS_SHARE: Final = 0.9
"""Which part of the time for a stop agents have to finish the replies that are under way."""

log = structlog.get_logger()


class AddressError(Exception):
    """An address cannot be listened on; the text says which and why."""


class Service:
    """A running server. Made by `start`, ended by `stop`; `port` is where gRPC listens."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clock: Clock,
        connectors: Connectors,
        authentication: Authentication,
        telemetry: Telemetry = OFF,
        recorder: Recorder | None = None,
        traces: Traces = NO_TRACES,
    ) -> None:
        """`recorder`, where there is one, is the telemetry."""
        self.port = 0
        started_at_ms = _machine_ms()
        self._recorder = recorder
        # Background work that has ended, and why.
        self._crashed: dict[str, str] = {}
        self._authentication = authentication
        self._settings = settings
        self._store = store
        self._connectors = connectors
        self._watches = Watches()
        self._measures = DeliveryMeasures(telemetry, clock, self._tell_piece) if telemetry.is_on else None
        if self._measures:
            store.add_listener(self._measures.on_commit)
        self._dispatcher = Dispatcher(
            store,
            clock,
            connectors.by_kind,
            self._tell_piece if self._measures is None else self._measures.note_piece,
            policy=settings.retry_policy,
            lease_seconds=settings.delivery_lease_seconds,
            concurrency=settings.agent_concurrency,
            telemetry=telemetry,
            traces=traces,
            is_heard=self._hears_pieces,
        )
        connectors.workers.on_change = self._dispatcher.wake
        self._expiry = ExpiryScheduler(store, clock)
        self._purge = Purge(
            store,
            clock,
            retention_minutes=settings.session_retention_minutes,
            request_retention_minutes=settings.request_id_retention_minutes,
            interval_minutes=settings.session_cleanup_interval_minutes,
        )
        for part in (self._watches, self._dispatcher, self._expiry, self._purge):
            store.add_listener(part.on_commit)
        self._others = OtherServers(store, self._watches)
        self._changed_agents = ChangedAgents(store, connectors.workers)
        if store.is_shared:
            for listener in (self._others, self._dispatcher, self._changed_agents):
                store.add_hint_listener(listener.on_hint)
        names = service_names(clock)
        self._health_servicer = HealthServicer(names)
        self._health = HealthMonitor(store, self._health_servicer.set_serving)
        make_pipeline: Callable[..., CallPipeline] = CallPipeline
        if traces.is_on:
            make_pipeline = partial(TracedPipeline, traces=traces)
        self._pipeline = make_pipeline(
            self._health.doubt,
            max_calls=settings.max_calls,
            max_streams=settings.max_streams,
            slow_call_s=settings.slow_call_seconds,
            gate=AccessGate(
                authentication,
                Rates(settings.rates, time.monotonic),
                clock.now_ms,
                certificate_names if settings.grpc_tls_client_ca else None,
            ),
            telemetry=telemetry,
        )
        telemetry.add_probe(partial(read_gauges, self._pipeline))
        telemetry.add_probe(self._expiry.read_gauges)
        telemetry.add_probe(partial(read_store_gauges, store))
        if self._measures:
            telemetry.add_probe(partial(self._measures.read_gauges, self._dispatcher.statuses))
        looks = looks_at(
            store,
            self._health,
            self._expiry,
            self._purge,
            authentication,
            self._dispatcher.statuses,
            self._crashed,
        )
        self._parts = Parts(looks, _machine_ms)
        sending = Sending()
        self._services = build_services(
            store,
            clock,
            settings,
            dispatcher=self._dispatcher,
            connectors=connectors,
            watches=self._watches,
            expiry=self._expiry,
            purge=self._purge,
            health=self._health,
            backpressure=sending,
            tokens=authentication.tokens,
            parts=self._parts,
            recorder=recorder,
            started_at_ms=started_at_ms,
            traces=traces,
        )
        self._server = build_server(
            self._services,
            self._pipeline,
            sending,
            self._health_servicer,
            names,
            settings.max_connection_streams,
            # It tells strangers what there is to call.
            with_reflection=authentication.is_open,
        )
        self._tasks: list[asyncio.Task[None]] = []

    def open_channel(self) -> InProcessChannel:
        """A channel to this service from within its process."""
        return InProcessChannel(self._services, self._pipeline)

    @classmethod
    async def start(
        cls, settings: Settings, telemetry: Telemetry = OFF, traces: Traces = NO_TRACES
    ) -> "Service":
        """Opens the store and serves. `telemetry` and `traces` are told of the work.

        Raises AccessError, StoreOpenError, AgentsFileError or AddressError, saying why.
        """
        if is_shared(settings.database_url) and settings.clear_sessions_on_shutdown:
            raise StoreOpenError(
                "CLEAR_SESSIONS_ON_SHUTDOWN is set, and other servers may serve the store of DATABASE_URL"
            )
        clock = build_clock(settings.database_url, is_test=settings.test_clock)
        recorder = Recorder(telemetry) if keeps_figures(settings) else None
        telemetry = recorder or telemetry
        authentication = Authentication.open(settings.access, clock.now_ms)
        if is_shared(settings.database_url) and not authentication.is_open:
            authentication.tokens.warn_if_alone()
        store = await open_store(
            settings.database_url, clock, settings.max_writes, telemetry, traces, settings.shared_options
        )
        connectors = build_connectors(
            settings.timeout_policy,
            allowed_hosts=split_list(settings.agent_allowed_hosts),
            allowed_secrets=split_list(settings.agent_secrets),
            traces=traces,
        )
        try:
            agents_file = Path(settings.agents_file) if settings.agents_file else None
            await register_at_start(store, clock, connectors, agents_file)
            service = cls(settings, store, clock, connectors, authentication, telemetry, recorder, traces)
            await service._serve()
        except BaseException:
            await connectors.client.aclose()
            await store.close()
            raise
        return service

    def close_port_to_agents(self, port: int) -> None:
        """Keeps agents from a port of this service, unless AGENT_ALLOWED_HOSTS names it."""
        self._connectors.hosts.add_own_port(port)

    async def log_store(self) -> None:
        """Logs which store is served, so that an operator who has named another one sees it.

        Raises UnavailableError.
        """
        store = await self._store.describe()
        log.info("serving the store", file=store.place, schema=store.schema, sessions=store.sessions)

    async def stop(self, by_s: float) -> None:
        """Says NOT_SERVING, finishes what is in flight until the event loop's time `by_s` at most, and closes
        the store.
        """
        await self._health_servicer.enter_graceful_shutdown()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(by_s):
                await asyncio.gather(self._pipeline.drain(), self._stop_agents(by_s))
        # What is left has had its time; answers that are on their way get out.
        await self._server.stop(QUIET_SECONDS)
        await self._dispatcher.abandon()
        await self._connectors.client.aclose()
        await self._authentication.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            if self._settings.clear_sessions_on_shutdown:
                await self._store.clear_sessions()
        finally:
            await self._store.close()

    def _tell_piece(self, piece: Piece) -> None:
        """Tells a piece of a reply to those who watch, here and at other servers."""
        self._watches.piece(piece)
        self._store.announce_piece(piece)

    def _hears_pieces(self, session_id: str) -> bool:
        """Whether somebody watches a session, here or maybe at another server."""
        return self._store.is_shared or session_id in self._watches.session_ids

    async def _stop_agents(self, by_s: float) -> None:
        """Waits for the replies that are under way, then lets the workers and those who watch go."""
        now_s = asyncio.get_running_loop().time()
        with suppress(TimeoutError):
            # The rest of the time is for telling those who still wait for a reply.
            async with asyncio.timeout_at(now_s + (by_s - now_s) * AGENTS_SHARE):
                await self._dispatcher.stop()
        self._connectors.workers.close()
        self._watches.close()

    async def _serve(self) -> None:
        settings = self._settings
        self.port = _listen(self._server, settings)
        # That of the facade, wherever it runs, is known only so far; port 0 is closed once it is known.
        for own_port in (self.port, split_address(settings.rest_address)[1]):
            self.close_port_to_agents(own_port)
        _warn_of_open_hosts(self._connectors)
        await self._health.check()
        if self._measures:
            await self._measures.start(self._store)
        await self._dispatcher.start()
        await self._server.start()
        # In the background, because a file may be on a file system that hangs.
        warnings = warn_of_unusable(self._store, self._connectors)
        # What fell due while nobody served happens behind the first calls: the rules go by the time, not by
        # what is written.
        works = {
            "expiry": self._expiry.run(),
            "purge": self._purge.run(),
            "health": self._health.run(),
            "credentials": watch_credentials(self._authentication, self._pipeline.credential_ends),
            "warnings": warnings,
        }
        if self._store.is_shared:
            works |= {
                "other servers": self._others.run(),
                "deliveries": self._dispatcher.watch_others(),
                "agents": self._changed_agents.run(),
            }
        if self._recorder:
            works["figures"] = self._recorder.run(self._parts.look)
        for name, work in works.items():
            self._tasks.append(asyncio.create_task(_note_crash(name, work, self._crashed)))


async def _note_crash(name: str, work: Coroutine[Any, Any, None], crashed: dict[str, str]) -> None:
    """Runs background work; its failure is logged here, and nowhere else."""
    try:
        await work
    except Exception as error:
        crashed[name] = f"{type(error).__name__}: {error}"
        log.exception("background work failed", work=name)
        raise


def _listen(server: grpc.aio.Server, settings: Settings) -> int:
    """Listens for gRPC. Returns the port; raises AddressError."""
    try:
        certificate = open_certificate(
            settings.grpc_tls_certificate, settings.grpc_tls_key, settings.grpc_tls_client_ca
        )
        return open_port(server, settings.grpc_address, certificate)
    except CertificateError as error:
        raise AddressError(f"gRPC cannot use its certificate: {error}") from error
    except (OSError, RuntimeError) as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "gRPC refuses it"
        raise AddressError(f"GRPC_ADDRESS {settings.grpc_address} cannot be listened on: {why}") from error


def _warn_of_open_hosts(connectors: Connectors) -> None:
    for host in connectors.hosts.list_open():
        log.warning(
            "AGENT_ALLOWED_HOSTS opens all ports of a host to agents", host=host, narrower=f"{host}:PORT"
        )


def keeps_figures(settings: Settings) -> bool:
    """Whether there is a console, for which the figures of the last hour are kept.

    An open service that others can reach has none.
    """
    reachable = is_reachable(settings.grpc_address) or is_reachable(settings.rest_address)
    return settings.console and (settings.is_protected or not reachable)


def _machine_ms() -> int:
    """The machine's time: what an operator looks at goes by it, whatever the sessions' clock says."""
    return round(time.time() * 1000)
