"""The name that a liveness probe asks for: it is there and well, whatever becomes of the store."""

import subprocess
from typing import Any, cast

import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from server.rpc.health import ALIVE, HealthServicer
from tests.support.clients import command
from tests.support.service import Serve


async def status(servicer: HealthServicer, name: str) -> int:
    """What Check answers for a name."""
    return (await servicer.Check(HealthCheckRequest(service=name), cast(Any, None))).status


async def test_alive_is_serving_while_the_service_is_not() -> None:
    servicer = HealthServicer()
    servicer.set_serving(False)
    assert await status(servicer, "") == HealthCheckResponse.NOT_SERVING
    assert await status(servicer, ALIVE) == HealthCheckResponse.SERVING
    await servicer.enter_graceful_shutdown()
    assert await status(servicer, ALIVE) == HealthCheckResponse.SERVING


@pytest.mark.parametrize("arguments", [[], ["-service=alive"]], ids=["ready", "alive"])
def test_the_probes_of_an_orchestrator(plain: Serve, arguments: list[str]) -> None:
    done = subprocess.run(
        command("probe", f"-addr={plain.grpc}", "-connect-timeout=10s", "-rpc-timeout=10s", *arguments),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "status: SERVING\n"), done.stderr
