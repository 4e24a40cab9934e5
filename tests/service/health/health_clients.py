"""How health is asked for: with a stub, with the probe, with grpcurl."""

import subprocess
import sys
from pathlib import Path

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.support.clients import Ended, invoke
from tests.support.service import Serve

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
SERVICES = [
    f"eliza.sessions.v1.{name}"
    for name in ("SessionService", "MessageService", "AgentService", "UserDataService", "AdminService")
]
REFLECTION = [f"grpc.reflection.{version}.ServerReflection" for version in ("v1", "v1alpha")]
CLOCK = "eliza.sessions.v1.ClockService"
TLS = Path(__file__).parents[1] / "tls"


def check(service: Serve, name: str = "") -> int:
    return HealthStub(service.channel).Check(HealthCheckRequest(service=name), timeout=10).status


PATIENCE = ("-connect-timeout", "10s", "-rpc-timeout", "10s")


def probe(*arguments: object, **settings: str) -> Ended:
    return invoke("probe", *PATIENCE, *map(str, arguments), **settings)


def grpcurl(*arguments: str) -> str:
    """What grpcurl says; it knows the API by reflection alone."""
    program = Path(sys.executable).with_name("grpcurl")
    done = subprocess.run(
        [program, "-plaintext", *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
