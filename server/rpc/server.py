"""The gRPC server: every service on one port."""

import resource
from typing import Final, cast

import grpc
from grpc_health.v1 import health as health_api
from grpc_health.v1 import health_pb2_grpc

from eliza.sessions.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    clock_service_pb2,
    clock_service_pb2_grpc,
    message_service_pb2,
    message_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)
from server.agents.connectors import Connectors
from server.clock import Clock, TestClock
from server.delivery.dispatcher import Dispatcher
from server.lifecycle.deadlines import Deadlines
from server.lifecycle.purge import Purge
from server.lifecycle.room import Room
from server.lifecycle.watches import Watches
from server.patches import grpcio
from server.rpc.agent_service import AgentService
from server.rpc.clock_service import ClockService
from server.rpc.encoding import Entries
from server.rpc.health import HealthMonitor
from server.rpc.in_process import Services
from server.rpc.interceptor import Interceptor
from server.rpc.message_service import MessageService
from server.rpc.parsing import MAX_RECEIVED_BYTES
from server.rpc.pipeline import CallPipeline
from server.rpc.reflection import add_reflection
from server.rpc.sending import Sending
from server.rpc.session_service import SessionService
from server.settings import Settings
from server.store.contract import Store

PENDING_PER_CONNECTION: Final = 1.5
"""How many calls of a method may wait for Python, per call that one connection may have open: a client alone
never meets the bound, nor keeps others out."""

MIN_PING_MS: Final = 1000
"""How often a client may ping: proxies that drop silent connections have clients do so every 10 s and more.
"""

HANDSHAKE_MS: Final = 10_000
"""How long a client may take from its connection to the end of HTTP/2's preface."""

MAX_CONNECTIONS: Final = 10_000
"""How many connections there may be, where the process may have four times as many descriptors."""

SERVICE_NAMES: Final = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (session_service_pb2, "SessionService"),
        (message_service_pb2, "MessageService"),
        (agent_service_pb2, "AgentService"),
    )
)
CLOCK_SERVICE_NAME: Final = clock_service_pb2.DESCRIPTOR.services_by_name["ClockService"].full_name


def quarter_of_descriptors() -> int:
    """How many connections gRPC may have.

    REST in the same process has as many, so that half of the descriptors are left.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, soft // 4)


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
    deadlines: Deadlines,
    purge: Purge,
    health: HealthMonitor,
    room: Room,
) -> Services:
    """All servicers of the API."""
    services, entries, heartbeat_s = Services(), Entries(), settings.stream_heartbeat_seconds
    # The generated functions ask no more of a server.
    target = cast(grpc.aio.Server, services)
    sessions = SessionService(
        store, clock, settings.timeout_policy, health, watches, entries, heartbeat_s, room
    )
    messages = MessageService(
        store, clock, watches, entries, settings.reply_deadline_seconds, settings.max_open_deliveries
    )
    agents = AgentService(store, clock, connectors, dispatcher, heartbeat_s)
    session_service_pb2_grpc.add_SessionServiceServicer_to_server(sessions, target)
    message_service_pb2_grpc.add_MessageServiceServicer_to_server(messages, target)
    agent_service_pb2_grpc.add_AgentServiceServicer_to_server(agents, target)
    if isinstance(clock, TestClock):
        clock_service_pb2_grpc.add_ClockServiceServicer_to_server(
            ClockService(clock, deadlines, purge), target
        )
    return services


def build_server(
    services: Services,
    pipeline: CallPipeline,
    sending: Sending,
    monitor: HealthMonitor,
    names: tuple[str, ...],
    max_connection_streams: int,
) -> grpc.aio.Server:
    """The server of the services, of health and of reflection; `names` are those of the services.

    One connection may have `max_connection_streams` calls and streams open.
    """
    max_pending = int(max_connection_streams * PENDING_PER_CONNECTION)
    options = [
        ("grpc.max_receive_message_length", MAX_RECEIVED_BYTES),
        # Identity alone: what is compressed is refused, because the core unpacks it before anybody asks how
        # large it becomes.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
        # One client alone is held back by HTTP/2 itself, before anything of it has to be refused.
        ("grpc.max_concurrent_streams", max_connection_streams),
        # A connection that does not begin to speak HTTP/2 ends; the core's own default is 120 s.
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.max_allowed_incoming_connections", quarter_of_descriptors()),
        # gRPC would answer a client's pings with GOAWAY: more than one in 5 minutes, in 2 hours without a
        # call.
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        # How many calls of a method may wait for Python to look at them. Beyond that gRPC's core cancels
        # calls without a word of why, but at next to no cost: where more come than Python can even refuse, a
        # longer queue is one in which everybody waits past their deadlines. The core's own default, from the
        # one limit to the other at random, would be such a queue.
        ("grpc.server.max_pending_requests", max_pending),
        ("grpc.server.max_pending_requests_hard_limit", max_pending + 1),
    ]
    server = grpcio.build_server(interceptors=[Interceptor(pipeline, sending)], options=options)
    services.add_to(server)
    health_pb2_grpc.add_HealthServicer_to_server(monitor.servicer, server)
    add_reflection((*names, health_api.SERVICE_NAME), server)
    return server
