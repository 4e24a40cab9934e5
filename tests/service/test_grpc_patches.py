"""The fixes to grpcio's server: what they mend, and what is done where a private name that they
need is gone.
"""

import socket
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from server.patches import grpcio
from server.rpc.health import HealthServicer
from tests.campaigns.http2_frames import CALL, END_HEADERS, END_STREAM, HEADERS, START, frame
from tests.support.service import Serve

UNREADABLE = START + frame(
    HEADERS, END_HEADERS | END_STREAM, 1, CALL.replace(b"GetSession", b"GetSessi\xe8n")
)
"""A call whose path is not UTF-8, which ends grpcio's own server for good."""


async def check_health(server: grpc.aio.Server) -> int:
    """Serves health on a free port and asks for it once."""
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=10
            )
            return answer.status
    finally:
        await server.stop(None)


def test_the_installed_grpcio_has_every_private_name() -> None:
    assert grpcio.missing_names() == []


def test_a_call_whose_path_is_not_utf8_leaves_the_server_serving(service: Serve) -> None:
    host, port = service.grpc.rsplit(":", 1)
    for _ in range(3):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(UNREADABLE)
            assert connection.recv(65_536)
        with grpc.insecure_channel(service.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("name", grpcio.PRIVATE_NAMES)
def test_a_private_name_that_is_gone_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    without = SimpleNamespace(AioServer=SimpleNamespace())
    for one in grpcio.PRIVATE_NAMES:
        owner, _, attribute = one.rpartition(".")
        if one != name:
            setattr(without.AioServer if owner else without, attribute, one)
    monkeypatch.setattr(grpcio, "cygrpc", without)
    assert grpcio.missing_names() == [name]


async def test_without_a_private_name_the_public_server_serves_and_a_warning_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grpcio, "PRIVATE_NAMES", (*grpcio.PRIVATE_NAMES, "_gone_in_a_later_version"))
    with capture_logs() as logs:
        server = grpcio.build_server()
    assert [(line["log_level"], line["gone"]) for line in logs] == [("warning", ["_gone_in_a_later_version"])]
    assert await check_health(server) == health_pb2.HealthCheckResponse.SERVING


async def test_with_every_private_name_nothing_is_logged() -> None:
    with capture_logs() as logs:
        server = grpcio.build_server()
    assert logs == []
    assert await check_health(server) == health_pb2.HealthCheckResponse.SERVING
