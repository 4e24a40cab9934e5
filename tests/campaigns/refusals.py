"""What a service says past its bounds."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import requests
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from eliza.sessions.errors import error_info
from eliza.sessions.v1 import session_service_pb2
from tests.support.service import Serve

SECONDS = 10


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """The store is locked, for less than the service waits for it: writes wait meanwhile."""
    with closing(sqlite3.connect(directory / "store.db", isolation_level=None)) as outsider:
        outsider.execute("BEGIN IMMEDIATE")
        yield
        outsider.execute("ROLLBACK")


def refused(call: Callable[[], object]) -> bool:
    """Whether a call is refused for an overload, which must say when to try again."""
    caught = None
    try:
        call()
    except grpc.RpcError as error:
        caught = error
    if caught is None:
        return False
    info, retry = error_info(caught), error_details_pb2.RetryInfo()
    assert info is not None, caught
    assert (caught.code(), info.reason, dict(info.metadata)) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "OVERLOADED",
        {"retryAfterSeconds": "1"},
    )
    assert any(packed.Unpack(retry) for packed in rpc_status.from_call(caught).details)
    assert retry.retry_delay.seconds == 1
    return True


def healthy(service: Serve) -> bool:
    """Whether both kinds of health say that it serves."""
    check = health_pb2_grpc.HealthStub(service.channel).Check(
        health_pb2.HealthCheckRequest(), timeout=SECONDS
    )
    status = service.sessions.GetServiceStatus(session_service_pb2.GetServiceStatusRequest(), timeout=SECONDS)
    serving = session_service_pb2.GetServiceStatusResponse.HEALTH_HEALTHY
    return check.status == health_pb2.HealthCheckResponse.SERVING and status.health == serving


def beat(url: str) -> int:
    """Sends a session a heartbeat, once there is room for it: the question whether one more is refused may
    itself take the place.
    """
    while (status := requests.post(f"{url}/heartbeat", timeout=SECONDS).status_code) == 503:
        pass
    return status
