"""The gRPC server: the services of the API, health and reflection on one port."""

from typing import Final

import grpc
from grpc_health.v1 import health as health_api
from grpc_health.v1 import health_pb2_grpc

from eliza.sessions.descriptors import quarter_of_descriptors
from server.patches import grpcio
from server.rpc.health import HealthServicer
from server.rpc.interceptor import Interceptor, WireHandlers
from server.rpc.parsing import MAX_RECEIVED_BYTES
from server.rpc.pipeline import CallPipeline
from server.rpc.reflection import add_reflection
from server.rpc.sending import Sending
from server.rpc.services import Services

PENDING_PER_CONNECTION: Final = 1.5
"""How many calls of a method may wait for Python, per call that one connection may have open.

A single client never meets this bound, and cannot keep others out.
"""

MIN_PING_MS: Final = 1000
"""How often a client may ping: proxies that drop silent connections have clients do so every 10 s and more.
"""

HANDSHAKE_MS: Final = 10_000
"""How long a client may take from its connection to the end of HTTP/2's preface."""


def build_server(
    services: Services,
    pipeline: CallPipeline,
    sending: Sending,
    health: HealthServicer,
    names: tuple[str, ...],
    max_connection_streams: int,
    *,
    with_reflection: bool,
) -> grpc.aio.Server:
    """The server of the services, of health and perhaps of reflection; `names` are those of the services.

    One connection may have `max_connection_streams` calls and streams open.
    """
    max_pending = int(max_connection_streams * PENDING_PER_CONNECTION)
    options = [
        ("grpc.max_receive_message_length", MAX_RECEIVED_BYTES),
        # Identity alone, because the core unpacks a compressed message before anybody checks its size.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
        # One client alone is held back by HTTP/2 itself, before anything of it has to be refused.
        ("grpc.max_concurrent_streams", max_connection_streams),
        # A connection that does not begin to speak HTTP/2 ends; the core's own default is 120 s.
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.max_allowed_incoming_connections", quarter_of_descriptors()),
        # gRPC would answer frequent pings with GOAWAY: more than one in 5 minutes, in 2 hours without a call.
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        # How many calls of a method may wait for Python. Beyond that gRPC's core cancels calls without a
        # reason, but almost for free. In a longer queue everybody waits past their deadline. The core's
        # default, a random bound between the two limits, is such a queue.
        ("grpc.server.max_pending_requests", max_pending),
        ("grpc.server.max_pending_requests_hard_limit", max_pending + 1),
    ]
    handlers, gate = WireHandlers(pipeline, sending), pipeline.gate
    interceptors = [Interceptor(gate, handlers)] if gate.looks_ahead else []
    server = grpcio.build_server(interceptors=interceptors, options=options)
    others = Services()
    health_pb2_grpc.add_HealthServicer_to_server(health, others)
    if with_reflection:
        add_reflection((*names, health_api.SERVICE_NAME), others)
    for one in (services, others):
        one.add_to(server, handlers.wrap)
    return server
