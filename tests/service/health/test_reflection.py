"""What gRPC tells of itself: reflection, as grpcurl uses it, and the services that are off."""

import json

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2

from eliza.sessions.v1.message_service_pb2 import SendMessageResponse
from eliza.sessions.v1.session_service_pb2 import CreateSessionResponse
from tests.service.health.health_clients import CLOCK, REFLECTION, SERVICES, grpcurl
from tests.support.clients import history
from tests.support.service import ECHO, USER, Serve
from tests.support.waiting import until


def test_reflection_lists_the_services(service: Serve) -> None:
    listed = grpcurl(service.grpc, "list").split()
    assert sorted(listed) == sorted([*SERVICES, CLOCK, "grpc.health.v1.Health", *REFLECTION])


@pytest.mark.parametrize("name", REFLECTION)
def test_each_version_of_reflection_describes_itself(service: Serve, name: str) -> None:
    ask = service.channel.stream_stream(
        f"/{name}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = ask(iter([reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)]), timeout=10)
    file = FileDescriptorProto.FromString(answer.file_descriptor_response.file_descriptor_proto[0])
    assert (file.package, file.service[0].name) == tuple(name.rsplit(".", 1))


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        (
            SERVICES[0],
            [
                *("CreateAccessToken", "CreateSession", "DeleteSession", "GetServiceStatus", "GetSession"),
                *(
                    "ListSessions",
                    "RenewSession",
                    "SendHeartbeat",
                    "UpdateTimeout",
                    "WatchSession",
                    "WatchSessions",
                ),
            ],
        ),
        (SERVICES[1], ["Converse", "ExportTranscript", "ListMessages", "SendMessage"]),
        (
            SERVICES[2],
            ["Connect", "CreateAgent", "DeleteAgent", "GetAgent", "ListAgents", "Reply", "UpdateAgent"],
        ),
        (SERVICES[3], ["DeleteUserData", "ExportUserData", "ListUserSessions"]),
        (
            SERVICES[4],
            [
                *("GetAgentActivity", "GetOverview", "GetSystem", "ListDeliveries"),
                *("RedeliverMessage", "SearchSessions"),
            ],
        ),
        (CLOCK, ["AdvanceClock", "GetClock", "SetClock"]),
    ],
)
def test_reflection_describes_a_service(service: Serve, name: str, methods: list[str]) -> None:
    assert sorted(grpcurl(service.grpc, "list", name).split()) == [f"{name}.{method}" for method in methods]
    described = grpcurl(service.grpc, "describe", name)
    for method in methods:
        assert (
            f"rpc {method} ( .eliza.sessions.v1.{method}Request ) returns ( "
            f".eliza.sessions.v1.{method}Response );" in described.replace("stream ", "")
        )


def test_grpcurl_holds_a_conversation(service: Serve) -> None:
    body = {
        "agentId": ECHO,
        "userId": USER,
        "metadata": {"platform": "shell"},
        "timeoutConfig": {"timeoutMinutes": 10},
    }
    answer = grpcurl("-d", json.dumps(body), service.grpc, f"{SERVICES[0]}/CreateSession")
    session = json_format.Parse(answer, CreateSessionResponse()).session
    assert (dict(session.metadata), session.timeout_config.timeout_minutes) == ({"platform": "shell"}, 10)
    body = {"session_id": session.session_id, "content": "hello", "attachments": [{"type": "image"}]}
    sent = json_format.Parse(
        grpcurl("-d", json.dumps(body), service.grpc, f"{SERVICES[1]}/SendMessage"), SendMessageResponse()
    )
    assert (sent.message.content, sent.message.attachments[0]["type"]) == ("hello", "image")
    assert sent.session_status.was_renewed
    assert json.loads(grpcurl(service.grpc, "grpc.health.v1.Health/Check")) == {"status": "SERVING"}
    until(lambda: len(history(service, session.session_id)) == 2, "the reply")
