"""The services of the API: their servicers, and their methods by path."""

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import grpc

from eliza.sessions.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    agent_service_pb2,
    agent_service_pb2_grpc,
    clock_service_pb2,
    clock_service_pb2_grpc,
    message_service_pb2,
    message_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
    user_data_service_pb2,
    user_data_service_pb2_grpc,
)
from server.access.session_tokens import SessionTokens
from server.agents.connectors import Connectors
from server.clock import Clock, TestClock
from server.delivery.dispatcher import Dispatcher
from server.lifecycle.backpressure import Backpressure
from server.lifecycle.expiry import ExpiryScheduler
from server.lifecycle.health import HealthMonitor
from server.lifecycle.purge import Purge
from server.lifecycle.watches import Watches
from server.rpc.admin_service import AdminService
from server.rpc.agent_service import AgentService
from server.rpc.clock_service import ClockService
from server.rpc.encoding import Entries
from server.rpc.message_service import MessageService
from server.rpc.parts import Parts
from server.rpc.session_service import SessionService
from server.rpc.user_data_service import UserDataService
from server.rpc.watch_streams import WatchStreams
from server.settings import Settings
from server.store.contract import Store
from server.telemetry.recorder import Recorder
from server.telemetry.traces import NO_TRACES, Traces

SERVICE_NAMES: Final = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (session_service_pb2, "SessionService"),
        (message_service_pb2, "MessageService"),
        (agent_service_pb2, "AgentService"),
        (user_data_service_pb2, "UserDataService"),
        (admin_service_pb2, "AdminService"),
    )
)
CLOCK_SERVICE_NAME: Final = clock_service_pb2.DESCRIPTOR.services_by_name["ClockService"].full_name


class Services:
    """The methods of servicers, by path.

    Generated `add_…Servicer_to_server` functions take it for a server.
    """

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {}
        self._registered: list[tuple[str, Any]] = []

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Drops them: they name the same methods again."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Takes the methods of a servicer."""
        self._registered.append((service, handlers))
        self.handlers.update({f"/{service}/{name}": handler for name, handler in handlers.items()})

    def add_to(self, server: grpc.aio.Server, wrap: Callable[[str, Any], Any]) -> None:
        """Registers the same methods with a server of gRPC, each in what `wrap` makes of it."""
        for service, handlers in self._registered:
            wrapped = {name: wrap(f"/{service}/{name}", handler) for name, handler in handlers.items()}
            server.add_registered_method_handlers(service, wrapped)


def service_names(clock: Clock) -> tuple[str, ...]:
    """The full names of the services: ClockService is one of them when the clock is a test clock."""
    return (*SERVICE_NAMES, CLOCK_SERVICE_NAME) if isinstance(clock, TestClock) else SERVICE_NAMES


def build_services(
    store: Store,
    clock: Clock,
    settings: Settings,
    *,
    dispatcher: Dispatcher,
    connectors: Connectors,
    watches: Watches,
    expiry: ExpiryScheduler,
    purge: Purge,
    health: HealthMonitor,
    backpressure: Backpressure,
    tokens: SessionTokens,
    parts: Parts,
    recorder: Recorder | None,
    started_at_ms: int,
    traces: Traces = NO_TRACES,
) -> Services:
    """All servicers of the API."""
    services, entries, heartbeat_s = Services(), Entries(), settings.stream_heartbeat_seconds
    # The generated functions ask no more of a server.
    target = cast(grpc.aio.Server, services)
    streams = WatchStreams(store, clock, watches, entries, heartbeat_s, backpressure)
    sessions = SessionService(
        store,
        clock,
        settings.timeout_policy,
        health,
        streams,
        settings.quotas,
        tokens=tokens,
        token_seconds=settings.access_token_seconds,
    )
    messages = MessageService(
        store,
        clock,
        watches,
        entries,
        settings.reply_deadline_seconds,
        settings.max_open_deliveries,
        settings.quotas,
        users_may_read_transcripts=settings.users_may_read_transcripts,
        traces=traces,
    )
    agents = AgentService(store, clock, connectors, dispatcher, heartbeat_s, settings.max_tenant_agents)
    session_service_pb2_grpc.add_SessionServiceServicer_to_server(sessions, target)
    message_service_pb2_grpc.add_MessageServiceServicer_to_server(messages, target)
    agent_service_pb2_grpc.add_AgentServiceServicer_to_server(agents, target)
    user_data_service_pb2_grpc.add_UserDataServiceServicer_to_server(UserDataService(store, clock), target)
    admin = AdminService(
        store,
        clock,
        settings,
        dispatcher=dispatcher,
        workers=connectors.workers,
        parts=parts,
        recorder=recorder,
        started_at_ms=started_at_ms,
    )
    admin_service_pb2_grpc.add_AdminServiceServicer_to_server(admin, target)
    if isinstance(clock, TestClock):
        clock_service_pb2_grpc.add_ClockServiceServicer_to_server(
            ClockService(store, clock, expiry, purge), target
        )
    return services
