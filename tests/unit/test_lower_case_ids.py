"""The ids of requests become lower case at one door."""

from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor

from eliza.sessions.v1 import (
    admin_service_pb2,
    agent_service_pb2,
    clock_service_pb2,
    message_service_pb2,
    session_service_pb2,
    user_data_service_pb2,
)
from eliza.sessions.v1.agent_service_pb2 import ConnectRequest
from eliza.sessions.v1.message_service_pb2 import ConverseRequest, SendMessageRequest
from eliza.sessions.v1.session_service_pb2 import (
    CreateSessionRequest,
    GetSessionRequest,
    WatchSessionsRequest,
)
from server.rpc.lower_case_ids import EXEMPT, IDS, find_ids, lower_ids
from server.rpc.parsing import HalvedChunk

SERVICES = [
    service
    for module in (
        admin_service_pb2,
        agent_service_pb2,
        clock_service_pb2,
        message_service_pb2,
        session_service_pb2,
        user_data_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
]
OTHERS = {"request_id"}
"""Fields of requests that end in `_id`, are text, and hold no id that the store looks up by."""


def texts(message: Descriptor, path: str) -> set[str]:
    """The text fields of a message of this API, with those of the messages inside it."""
    found = set()
    for field in message.fields:
        inner = field.message_type
        if inner is not None and inner.file.package == message.file.package:
            found |= texts(inner, f"{path}.{field.name}")
        elif inner is None and field.type == field.TYPE_STRING:
            found.add(f"{path}.{field.name}")
    return found


def requests() -> dict[str, Descriptor]:
    """The request of each method, by its path."""
    return {
        f"/{service.full_name}/{method.name}": method.input_type
        for service in SERVICES
        for method in service.methods
    }


def test_each_id_of_a_request_is_covered_or_exempt() -> None:
    for request in requests().values():
        ids = {path for path in texts(request, request.name) if path.endswith("_id")}
        covered = {".".join((request.name, *parents, name)) for parents, name in find_ids(request)}
        others = {path for path in ids if path.rpartition(".")[2] in OTHERS}
        assert ids - others == covered | (EXEMPT & ids), request.name


def test_each_exemption_names_a_field_of_a_request() -> None:
    fields = {path for request in requests().values() for path in texts(request, request.name)}
    assert fields >= EXEMPT
    assert {path.rpartition(".")[2] for path in EXEMPT} <= IDS


@pytest.mark.parametrize("method", requests())
def test_each_covered_id_of_each_method_is_lowered(method: str) -> None:
    descriptor = requests()[method]
    for parents, name in find_ids(descriptor):
        request: Any = descriptor._concrete_class()
        holder = request
        for parent in parents:
            holder = getattr(holder, parent)
        setattr(holder, name, "AbC-1")
        assert lower_ids(method, lambda raw: raw)(request) is request
        assert getattr(holder, name) == "abc-1"


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("SessionService/GetSession", GetSessionRequest(session_id="abc")),
        ("SessionService/CreateSession", CreateSessionRequest(agent_id="ABC", user_id="D", request_id="Key")),
        ("SessionService/WatchSessions", WatchSessionsRequest()),
        (
            "MessageService/Converse",
            ConverseRequest(message=SendMessageRequest(request_id="Key")),
        ),
        ("AgentService/Connect", ConnectRequest(chunk=ConnectRequest.Chunk(delivery_id="a", chunk="Hi"))),
    ],
)
def test_the_rest_of_a_request_stays_as_it_is(method: str, request_: Any) -> None:
    before = request_.SerializeToString()
    read = lower_ids(f"/eliza.sessions.v1.{method}", lambda raw: raw)
    assert read(request_).SerializeToString() == before


def test_what_is_no_message_stays_as_it_is() -> None:
    said = HalvedChunk("a-1", "Hi \ud83d")
    assert lower_ids("/eliza.sessions.v1.AgentService/Connect", lambda raw: raw)(said) is said
