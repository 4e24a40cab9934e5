"""Rates of callers, over gRPC and REST, by the real service."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import grpc
import pytest
import requests

from eliza.sessions.v1 import session_service_pb2
from eliza.sessions.v1.session_service_pb2_grpc import SessionServiceStub
from tests.service.access.world import World, make_world, outcome_of
from tests.support.service import Serve

LIMIT: Final = 8


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A protected service in which each caller may read LIMIT times an hour."""
    directory = tmp_path_factory.mktemp("limited")
    made = make_world(partial(Serve, directory), directory, RATE_READ=f"{LIMIT}/hour")
    yield made
    assert made.service.stop() == 0, made.service.log()


def get(world: World, path: str, caller: str) -> requests.Response:
    return world.service.http.get(world.service.url + path, headers=world.headers(caller), timeout=20)


def test_a_user_has_one_rate_whatever_its_credentials_are(limited: World) -> None:
    path = f"/{limited.session_id}"
    for caller in ("user", "token", "behalf", "user", "token", "behalf", "user", "token")[:LIMIT]:
        assert get(limited, path, caller).status_code == 200
    for caller in ("user", "token", "behalf"):
        refused = get(limited, path, caller)
        assert (refused.status_code, refused.json()["code"]) == (429, "RATE_LIMITED")
        assert int(refused.headers["Retry-After"]) > 0
        assert refused.headers["RateLimit-Policy"] == f'"read";q={LIMIT};w=3600'
        asked = session_service_pb2.GetSessionRequest(session_id=limited.session_id)
        with pytest.raises(grpc.RpcError) as error:
            limited.service.sessions.GetSession(asked, metadata=limited.metadata(caller), timeout=20)
        assert outcome_of(error.value) == "RATE_LIMITED"
    # Nobody else's.
    for caller in ("service", "other_user"):
        assert get(limited, "", caller).status_code == 200
    assert get(limited, path, "wrong").status_code == 401


RETRIES: Final = {
    "name": [{"service": "eliza.sessions.v1.SessionService"}],
    "retryPolicy": {
        "maxAttempts": 3,
        "initialBackoff": "0.001s",
        "maxBackoff": "0.001s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
    },
}
"""A policy whose attempts are over long before the service has anything to give."""


def test_a_retry_policy_of_grpc_waits_as_it_is_told(tmp_path: Path) -> None:
    world = make_world(partial(Serve, tmp_path), tmp_path, RATE_READ="1/second")
    asked = session_service_pb2.GetSessionRequest(session_id=world.session_id)

    def get_twice(config: str) -> None:
        with grpc.insecure_channel(world.service.grpc, (("grpc.service_config", config),)) as channel:
            stub = SessionServiceStub(channel)
            for _ in range(2):
                stub.GetSession(asked, metadata=world.metadata("user"), timeout=20)

    try:
        with pytest.raises(grpc.RpcError) as error:
            get_twice("{}")
        assert outcome_of(error.value) == "RATE_LIMITED"
        get_twice(json.dumps({"methodConfig": [RETRIES]}))
    finally:
        assert world.service.stop() == 0, world.service.log()


@pytest.mark.parametrize("caller", ["none", "other_tenant"])
def test_health_has_no_rate(limited: World, caller: str) -> None:
    assert {get(limited, "/health", caller).status_code for _ in range(LIMIT + 3)} == {200}
    status = limited.service.sessions.GetServiceStatus
    for _ in range(LIMIT + 3):
        status(session_service_pb2.GetServiceStatusRequest(), metadata=limited.metadata(caller), timeout=20)
