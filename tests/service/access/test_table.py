"""Who may call what: every method, route and event, for a caller of each kind, through a real service."""

from collections.abc import Callable

import pytest
import requests
import socketio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from eliza.sessions.v1 import (
    admin_service_pb2,
    agent_service_pb2,
    clock_service_pb2,
    message_service_pb2,
    session_service_pb2,
    user_data_service_pb2,
)
from server.domain.access import RULES
from tests.service.access.calls import call_method, request_route
from tests.service.access.table import CALLERS, EVENTS, EXPECTED, ROUTES
from tests.service.access.world import World

PROTOS = (
    session_service_pb2,
    message_service_pb2,
    agent_service_pb2,
    user_data_service_pb2,
    admin_service_pb2,
    clock_service_pb2,
)


def test_every_method_has_a_rule_and_a_row() -> None:
    methods = {
        f"{service.name}/{method.name}"
        for module in PROTOS
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert methods == RULES.keys() == EXPECTED.keys()


@pytest.mark.parametrize("method", EXPECTED)
def test_a_method_is_answered_or_refused_as_the_table_says(world: World, method: str) -> None:
    assert _outcomes(world, call_method, method) == EXPECTED[method]


@pytest.mark.parametrize("route", ROUTES)
def test_a_route_is_answered_or_refused_as_its_method(world: World, route: str) -> None:
    assert _outcomes(world, request_route, route) == EXPECTED[ROUTES[route]]


def _outcomes(world: World, call: Callable[[World, str, str], str], what: str) -> dict[str, str]:
    """What comes of a call by each caller. After ten wrong keys a minute further ones are 429: the table says
    what the first ones are.
    """
    found = {caller: call(world, what, caller) for caller in CALLERS}
    if found["wrong"] == "RATE_LIMITED":
        found["wrong"] = "UNAUTHENTICATED"
    return found


@pytest.mark.parametrize("caller", CALLERS)
def test_health_checks_need_no_credential(world: World, caller: str) -> None:
    stub = health_pb2_grpc.HealthStub(world.service.channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(), metadata=world.metadata(caller), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("transport", ["websocket", "polling"])
def test_a_socket_may_what_its_caller_may(world: World, transport: str, caller: str) -> None:
    expected = {name: EXPECTED[method][caller] for name, method in EVENTS.items()}
    # The facade reads the session first, to find it by its channel, too.
    expected["message"] = EXPECTED["SessionService/GetSession"][caller] or expected["message"]
    http = requests.Session()
    # The library sends the headers that it is given with the first poll only.
    http.headers.update(world.headers(caller))
    client = socketio.Client(reconnection=False, http_session=http)
    errors: list[str] = []
    client.on("messageError", lambda payload: errors.append(payload["code"]))
    try:
        try:
            client.connect(
                f"http://{world.service.rest}",
                headers=world.headers(caller),
                transports=[transport],
                # The library waits it out where a poll is refused: it looks for the word of a socket alone.
                wait_timeout=1 if caller == "wrong" else 10,
            )
        except socketio.exceptions.ConnectionError:
            # A wrong or expired credential is refused at once.
            assert expected["join"] in ("UNAUTHENTICATED", "CREDENTIAL_EXPIRED"), caller
            assert caller != "none"
            return
        assert caller != "expired"
        joined = client.call("join", {"roomId": world.session_id}, timeout=10)
        if caller == "wrong":
            # After ten wrong keys a minute the facade is not told that this one is wrong.
            assert joined["code"] == "RATE_LIMITED"
            return
        assert joined["success"] is (not expected["join"]), joined
        payload = {"type": 2, "payload": {"roomId": world.session_id, "message": "Hello"}}
        sent = client.call("message", payload, timeout=10)
        seen = {"join": errors[0] if expected["join"] else "", "message": errors[-1] if errors else ""}
        assert seen == expected, (seen, sent)
    finally:
        client.disconnect()
