"""Bad input over gRPC: every error has a known reason, none is a fault of the service, and nothing is half
done.
"""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from eliza.sessions.v1 import (
    agent_pb2,
    agent_service_pb2,
    message_service_pb2,
    session_service_pb2,
)
from tests.conftest import SHARED
from tests.contract.bad_pieces import ANY, FINE, SID, USER
from tests.contract.bad_rpc import BAD, token
from tests.contract.drivers import PATIENCE_SECONDS
from tests.contract.grpc_driver import read_rpc_error
from tests.contract.rpc_pieces import PATHS, REFUSED, STREAM, BadRpc
from tests.contract.untouched import Untouched, standing, untouched
from tests.support.service import ECHO, Serve

BY_GRPC = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNIMPLEMENTED}


# Of the session: xdist may come back to this module.
@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A service whose agents are few: each piece compares all of them."""
    running = Serve(tmp_path_factory.mktemp("bad_rpc"), **SHARED)
    yield running
    assert running.stop() == 0, running.log()


@pytest.fixture(scope="module")
def sessions() -> Untouched:
    return Untouched()


def list_agents(service: Serve) -> list[agent_pb2.Agent]:
    request = agent_service_pb2.ListAgentsRequest(page_size=1000)
    return list(service.agents.ListAgents(request, timeout=PATIENCE_SECONDS).agents)


@pytest.fixture(scope="session")
def stream_agent(service: Serve) -> str:
    """The agent that workers may serve."""
    agent = agent_pb2.Agent(agent_id=STREAM, name="a stream", kind=agent_pb2.AGENT_KIND_STREAM)
    service.agents.CreateAgent(agent_service_pb2.CreateAgentRequest(agent=agent), timeout=PATIENCE_SECONDS)
    return STREAM


@pytest.fixture(scope="session")
def last_agents(service: Serve, stream_agent: str) -> list[agent_pb2.Agent]:
    """The agents as the last piece has left them: each piece puts what it finds in here."""
    return list_agents(service)


@pytest.mark.parametrize(
    "piece", [pytest.param(piece, id=f"{number}: {piece.name[:60]}") for number, piece in enumerate(BAD)]
)
def test_bad_rpc_is_refused_and_changes_nothing(
    service: Serve,
    piece: BadRpc,
    sessions: Untouched,
    stream_agent: str,
    last_agents: list[agent_pb2.Agent],
) -> None:
    of_agents = piece.method in (PATHS["Connect"], PATHS["Reply"])
    made = sessions.take(service, stream_agent if of_agents else ECHO)
    session, user = made.session_id, made.user_id
    before: Any = untouched(made)
    if of_agents:
        sent = message_service_pb2.SendMessageRequest(session_id=session, content="x")
        service.messages.SendMessage(sent, timeout=PATIENCE_SECONDS)
        before = standing(service, made)
    requests = [
        each.replace(SID.encode(), session.encode()).replace(USER.encode(), user.encode())
        for each in (piece.request, *piece.more)
    ]
    error = error_of(service, piece.method, *requests)
    agents_before, last_agents[:] = last_agents[:], list_agents(service)
    try:
        judge(piece, error)
        if error:
            assert standing(service, made) == before
            assert last_agents == agents_before
            if not of_agents:
                sessions.keep(service, made)
    finally:
        if of_agents:
            # Workers of the pieces to come are to have nothing to do with it.
            service.sessions.DeleteSession(
                session_service_pb2.DeleteSessionRequest(session_id=session), timeout=PATIENCE_SECONDS
            )


def judge(piece: BadRpc, error: grpc.RpcError | None) -> None:
    """Asserts that what came of a piece is what must."""
    if error is None:
        assert FINE in piece.outcome.split() or piece.outcome == ANY
    elif piece.outcome == REFUSED:
        assert error.code() in BY_GRPC
    else:
        reason = read_rpc_error(error).code
        assert piece.outcome == ANY or reason in piece.outcome.split(), error
        assert reason not in ("INTERNAL", "SESSION_CREATION_FAILED", "MESSAGE_SEND_FAILED")


def error_of(service: Serve, method: str, *requests: bytes) -> grpc.RpcError | None:
    """How a call with these bytes fails; None when it does not."""
    try:
        # What a method takes and gives, one message or a stream, is the same on the wire.
        for _ in service.channel.stream_stream(method)(iter(requests), timeout=PATIENCE_SECONDS):
            pass
    except grpc.RpcError as error:
        return error
    return None


@pytest.mark.parametrize("position", [2**64 - 1, 2**63, -(2**63), True, "x", 0.5, None, {}, []])
def test_a_forged_token_of_a_history_is_refused_or_read(service: Serve, position: object) -> None:
    session = service.create()["sessionId"]
    forged = token([["messages", session, None, None], [position]])
    request = message_service_pb2.ListMessagesRequest(session_id=session, page_token=forged)
    error = error_of(service, PATHS["ListMessages"], request.SerializeToString())
    assert error is None or read_rpc_error(error).code == "INVALID_PAGINATION"


def test_the_pieces_are_many_and_distinct_and_on_every_method() -> None:
    assert len({(piece.method, piece.request) for piece in BAD}) >= 60
    assert len({piece.name for piece in BAD}) == len(BAD)
    assert {piece.method for piece in BAD} >= set(PATHS.values())
