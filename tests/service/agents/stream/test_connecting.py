"""How a worker's stream begins, and what ends it."""

import grpc
import pytest

from eliza.sessions.v1 import agent_service_pb2 as pb
from tests.service.agents.stream.reading import UNKNOWN
from tests.service.agents.worker import Worker, stream_agent
from tests.support.clients import fails
from tests.support.service import ECHO, Serve


class TestConnecting:
    def test_a_worker_is_welcomed(self, service: Serve) -> None:
        agent_id = stream_agent(service, "greeter")
        with Worker(service.channel, agent_id.upper()) as worker:
            assert worker.agent == service.agents.GetAgent(pb.GetAgentRequest(agent_id=agent_id)).agent
            # A sign of life comes where nothing else does.
            assert next(worker.call).WhichOneof("part") == "heartbeat"
            worker.leave()
            assert [response for response in worker.call if not response.HasField("heartbeat")] == []
            assert worker.call.code() is grpc.StatusCode.OK

    @pytest.mark.parametrize(
        ("requests", "reason"),
        [
            ([pb.ConnectRequest()], "MISSING_FIELDS"),
            ([pb.ConnectRequest(chunk=pb.ConnectRequest.Chunk(chunk="x"))], "MISSING_FIELDS"),
            ([pb.ConnectRequest(hello=pb.ConnectRequest.Hello())], "MISSING_FIELDS"),
            ([pb.ConnectRequest(hello=pb.ConnectRequest.Hello(agent_id="nobody"))], "AGENT_NOT_FOUND"),
            ([pb.ConnectRequest(hello=pb.ConnectRequest.Hello(agent_id=UNKNOWN))], "AGENT_NOT_FOUND"),
            ([pb.ConnectRequest(hello=pb.ConnectRequest.Hello(agent_id=ECHO))], "INVALID_FIELD"),
            (
                [pb.ConnectRequest(hello=pb.ConnectRequest.Hello(agent_id=ECHO, max_deliveries=-1))],
                "INVALID_FIELD",
            ),
            (
                [pb.ConnectRequest(hello=pb.ConnectRequest.Hello(agent_id=ECHO, max_deliveries=1001))],
                "INVALID_FIELD",
            ),
            (
                [pb.ConnectRequest(hello=pb.ConnectRequest.Hello(agent_id=ECHO, history_messages=-1))],
                "INVALID_FIELD",
            ),
            (
                [pb.ConnectRequest(hello=pb.ConnectRequest.Hello(agent_id=ECHO, history_messages=101))],
                "INVALID_FIELD",
            ),
        ],
    )
    def test_a_bad_first_request_ends_the_stream(
        self, service: Serve, requests: list[pb.ConnectRequest], reason: str
    ) -> None:
        fails(lambda: list(service.agents.Connect(iter(requests), timeout=10)), reason)

    def test_who_connects_and_says_nothing_is_let_go(self, service: Serve) -> None:
        assert list(service.agents.Connect(iter(()), timeout=10)) == []

    @pytest.mark.parametrize(
        "request_",
        [pb.ConnectRequest(), pb.ConnectRequest(hello=pb.ConnectRequest.Hello(agent_id=ECHO))],
        ids=["nothing", "hello"],
    )
    def test_a_bad_later_request_ends_the_stream(self, service: Serve, request_: pb.ConnectRequest) -> None:
        with Worker(service.channel, stream_agent(service)) as worker:
            worker.say_bytes(request_.SerializeToString())
            fails(worker.told, "MISSING_FIELDS")
