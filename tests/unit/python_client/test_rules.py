"""Rules of the Python client that need no service: ids of users, values, and what gRPC repeats."""

import json
from uuid import NAMESPACE_URL, uuid5

from eliza.sessions import values
from eliza.sessions.v1 import (
    agent_service_pb2,
    message_service_pb2,
    session_service_pb2,
    user_data_service_pb2,
)
from eliza_sessions_client import to_dict, to_list, user_id_for
from eliza_sessions_client.connection import SERVICE_CONFIG
from eliza_sessions_client.retries import Backoff
from tests.support.service import USER


def test_a_user_has_the_same_id_always() -> None:
    # Written out: the clients of other languages have the same.
    assert user_id_for("ada@example.com") == "5a792efa-ef7a-5c4b-99d5-93a79e74677b"
    issuer = "https://issuer.example.com"
    assert user_id_for("ada", namespace=issuer) == str(uuid5(uuid5(NAMESPACE_URL, issuer), "ada"))
    assert user_id_for(USER.upper()) == USER
    assert user_id_for(f"{{{USER}}}") != USER


def test_values_are_plain() -> None:
    fields = {"a": [1, 2.5, None, True, {"b": "c"}], "big": 2.0**60}
    assert to_dict(values.struct(fields)) == fields
    assert [type(one) for one in to_list(values.list_value([1, 2.5]))] == [int, float]


def test_grpc_repeats_only_calls_that_exist_and_answer_once() -> None:
    services = {
        service.full_name: service
        for module in (session_service_pb2, message_service_pb2, agent_service_pb2, user_data_service_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
    }
    (config,) = json.loads(SERVICE_CONFIG)["methodConfig"]
    for name in config["name"]:
        method = services[name["service"]].methods_by_name[name["method"]]
        assert not method.server_streaming
    named = {name["method"] for name in config["name"]}
    assert not named & {"RenewSession", "UpdateTimeout", "DeleteSession"}


def test_pauses_grow_up_to_a_bound_and_begin_anew() -> None:
    backoff = Backoff(most_s=1)
    pauses = [backoff.pause() for _ in range(10)]
    assert 0.05 <= pauses[0] <= 0.1
    assert all(0.5 <= pause <= 1 for pause in pauses[5:])
    backoff.reset()
    assert backoff.pause() <= 0.1
    assert 2 <= backoff.pause(at_least_s=2) <= 2.5
