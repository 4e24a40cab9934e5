"""How each method of the API is called for a session, over gRPC and over REST."""

import uuid
from collections.abc import Callable
from typing import Any, Final

import grpc
import requests

from eliza.sessions.errors import error_info
from eliza.sessions.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    agent_pb2,
    agent_service_pb2,
    clock_service_pb2,
    errors_pb2,
    message_service_pb2,
    session_service_pb2,
    timeout_pb2,
    user_data_service_pb2,
    user_data_service_pb2_grpc,
)
from tests.service.access.table import ROUTES
from tests.service.access.world import AGENT, ALICE, World

SECONDS: Final = 20


def call_method(world: World, method: str, caller: str) -> str:
    """Calls a method of gRPC: the reason of its refusal, empty where it is answered."""
    try:
        end = _METHODS[method](world, {"metadata": world.metadata(caller), "timeout": SECONDS})
    except grpc.RpcError as error:
        info = error_info(error)
        return info.reason if info else f"{error.code()}: {error.details()}"
    return end if isinstance(end, str) else ""


def request_route(world: World, route: str, caller: str) -> str:
    """Sends a request of REST: the code of its refusal, empty where it is answered."""
    method, _, path = route.partition(" ")
    session_id = world.session_id
    if method == "DELETE":
        session_id = world.new_session()
    base = f"http://{world.service.rest}"
    path = {"/api/agents": "/api/agents", "/clock": "/test/clock"}.get(path, f"/api/messaging{path}")
    with requests.request(
        method,
        base + path.format(id=session_id),
        json=_BODIES.get(route),
        headers=world.headers(caller),
        stream=True,
        timeout=SECONDS,
    ) as response:
        if response.ok:
            return ""
        code = str(response.json()["code"])
        if response.status_code == 401:
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
        return code


_BODIES: Final[dict[str, Any]] = {
    "POST /sessions": {"agentId": AGENT, "userId": ALICE},
    "POST /sessions/{id}/messages": {"content": "Hello"},
    "PATCH /sessions/{id}/timeout": {"timeoutMinutes": 30},
    "POST /sessions/{id}/tokens": {"verbs": ["read"]},
    "POST /clock": {"advanceMs": 1},
}
assert _BODIES.keys() <= ROUTES.keys()


def _watch_many(world: World, options: dict[str, Any]) -> str:
    join = session_service_pb2.WatchSessionsRequest.Join(session_id=world.session_id)
    stream = world.service.sessions.WatchSessions(
        iter([session_service_pb2.WatchSessionsRequest(join=join)]), **options
    )
    first = next(stream)
    stream.cancel()
    if first.HasField("end"):
        return errors_pb2.ErrorReason.Name(first.end.reason).removeprefix("ERROR_REASON_")
    assert first.joined.agent_name == "Worker"
    return ""


def _first(stream: Any) -> None:
    next(stream)
    stream.cancel()


def _watch(world: World, options: dict[str, Any]) -> None:
    request = session_service_pb2.WatchSessionRequest(session_id=world.session_id)
    # It may have no entry yet: the stream is open once its initial metadata or an error are there.
    world.service.messages.SendMessage(
        message_service_pb2.SendMessageRequest(session_id=world.session_id, content="Look"),
        metadata=world.metadata("service"),
        timeout=SECONDS,
    )
    _first(world.service.sessions.WatchSession(request, **options))


def _connect(world: World, options: dict[str, Any]) -> None:
    hello = agent_service_pb2.ConnectRequest.Hello(agent_id=AGENT)
    _first(world.service.agents.Connect(iter([agent_service_pb2.ConnectRequest(hello=hello)]), **options))


def _reply(world: World, options: dict[str, Any]) -> None:
    reply = agent_service_pb2.AgentReply(content="Hi")
    world.service.agents.Reply(
        agent_service_pb2.ReplyRequest(delivery_id=world.new_delivery(), reply=reply), **options
    )


def _update_agent(world: World, options: dict[str, Any]) -> None:
    agent = agent_pb2.Agent(agent_id=world.new_agent(), name="Renamed")
    world.service.agents.UpdateAgent(agent_service_pb2.UpdateAgentRequest(agent=agent), **options)


def _create_agent(world: World, options: dict[str, Any]) -> None:
    agent = agent_pb2.Agent(agent_id=str(uuid.uuid4()), name="New", kind=agent_pb2.AGENT_KIND_STREAM)
    world.service.agents.CreateAgent(agent_service_pb2.CreateAgentRequest(agent=agent), **options)


def _user_data(world: World) -> Any:
    return user_data_service_pb2_grpc.UserDataServiceStub(world.service.channel)


def _admin(method: str, request: Any) -> Callable[[World, dict[str, Any]], None]:
    """A call of AdminService."""

    def call(world: World, options: dict[str, Any]) -> None:
        stub = admin_service_pb2_grpc.AdminServiceStub(world.service.channel)
        getattr(stub, method)(request(world), **options)

    return call


def _redelivery(world: World) -> admin_service_pb2.RedeliverMessageRequest:
    """Asks for a message anew that waits: which is answered, and changes nothing."""
    session_id = world.new_session()
    sent = world.service.messages.SendMessage(
        message_service_pb2.SendMessageRequest(session_id=session_id, content="Hello"),
        metadata=world.metadata("service"),
        timeout=SECONDS,
    )
    return admin_service_pb2.RedeliverMessageRequest(
        session_id=session_id, message_id=sent.message.message_id
    )


def _of_session(stub: str, method: str, request: Callable[[str], Any], *, fresh: bool = False) -> Any:
    """A call of one answer for the session, or for a new one of its kind."""

    def call(world: World, options: dict[str, Any]) -> None:
        session_id = world.new_session() if fresh else world.session_id
        getattr(getattr(world.service, stub), method)(request(session_id), **options)

    return call


_sessions, _messages, _clock = session_service_pb2, message_service_pb2, clock_service_pb2
_METHODS: Final[dict[str, Callable[[World, dict[str, Any]], Any]]] = {
    "SessionService/CreateSession": _of_session(
        "sessions", "CreateSession", lambda _: _sessions.CreateSessionRequest(agent_id=AGENT, user_id=ALICE)
    ),
    "SessionService/GetSession": _of_session(
        "sessions", "GetSession", lambda id_: _sessions.GetSessionRequest(session_id=id_)
    ),
    "SessionService/ListSessions": _of_session(
        "sessions", "ListSessions", lambda _: _sessions.ListSessionsRequest()
    ),
    "SessionService/DeleteSession": _of_session(
        "sessions", "DeleteSession", lambda id_: _sessions.DeleteSessionRequest(session_id=id_), fresh=True
    ),
    "SessionService/RenewSession": _of_session(
        "sessions", "RenewSession", lambda id_: _sessions.RenewSessionRequest(session_id=id_)
    ),
    "SessionService/UpdateTimeout": _of_session(
        "sessions",
        "UpdateTimeout",
        lambda id_: _sessions.UpdateTimeoutRequest(
            session_id=id_, timeout_config=timeout_pb2.TimeoutConfig(timeout_minutes=30)
        ),
    ),
    "SessionService/SendHeartbeat": _of_session(
        "sessions", "SendHeartbeat", lambda id_: _sessions.SendHeartbeatRequest(session_id=id_)
    ),
    "SessionService/WatchSession": _watch,
    "SessionService/WatchSessions": _watch_many,
    "SessionService/CreateAccessToken": _of_session(
        "sessions",
        "CreateAccessToken",
        lambda id_: _sessions.CreateAccessTokenRequest(session_id=id_, verbs=["read"]),
    ),
    "SessionService/GetServiceStatus": _of_session(
        "sessions", "GetServiceStatus", lambda _: _sessions.GetServiceStatusRequest()
    ),
    "MessageService/SendMessage": _of_session(
        "messages",
        "SendMessage",
        lambda id_: _messages.SendMessageRequest(session_id=id_, content="Hello"),
    ),
    "MessageService/Converse": lambda world, options: _first(
        world.service.messages.Converse(
            _messages.ConverseRequest(
                message=_messages.SendMessageRequest(session_id=world.session_id, content="Hello")
            ),
            **options,
        )
    ),
    "MessageService/ListMessages": _of_session(
        "messages", "ListMessages", lambda id_: _messages.ListMessagesRequest(session_id=id_)
    ),
    "MessageService/ExportTranscript": lambda world, options: _first(
        world.service.messages.ExportTranscript(
            _messages.ExportTranscriptRequest(session_id=world.session_id), **options
        )
    ),
    "AgentService/CreateAgent": _create_agent,
    "AgentService/GetAgent": _of_session(
        "agents", "GetAgent", lambda _: agent_service_pb2.GetAgentRequest(agent_id=AGENT)
    ),
    "AgentService/ListAgents": _of_session(
        "agents", "ListAgents", lambda _: agent_service_pb2.ListAgentsRequest()
    ),
    "AgentService/UpdateAgent": _update_agent,
    "AgentService/DeleteAgent": lambda world, options: world.service.agents.DeleteAgent(
        agent_service_pb2.DeleteAgentRequest(agent_id=world.new_agent()), **options
    ),
    "AgentService/Connect": _connect,
    "AgentService/Reply": _reply,
    "UserDataService/ListUserSessions": lambda world, options: _user_data(world).ListUserSessions(
        user_data_service_pb2.ListUserSessionsRequest(user_id=ALICE), **options
    ),
    "UserDataService/ExportUserData": lambda world, options: _first(
        _user_data(world).ExportUserData(
            user_data_service_pb2.ExportUserDataRequest(user_id=ALICE), **options
        )
    ),
    "UserDataService/DeleteUserData": lambda world, options: list(
        _user_data(world).DeleteUserData(
            user_data_service_pb2.DeleteUserDataRequest(user_id=str(uuid.uuid4())), **options
        )
    ),
    "AdminService/GetOverview": _admin("GetOverview", lambda _: admin_service_pb2.GetOverviewRequest()),
    "AdminService/GetSystem": _admin("GetSystem", lambda _: admin_service_pb2.GetSystemRequest()),
    "AdminService/SearchSessions": _admin(
        "SearchSessions", lambda _: admin_service_pb2.SearchSessionsRequest()
    ),
    "AdminService/ListDeliveries": _admin(
        "ListDeliveries",
        lambda world: admin_service_pb2.ListDeliveriesRequest(session_id=world.session_id),
    ),
    "AdminService/RedeliverMessage": _admin("RedeliverMessage", _redelivery),
    "AdminService/GetAgentActivity": _admin(
        "GetAgentActivity", lambda _: admin_service_pb2.GetAgentActivityRequest(agent_id=AGENT)
    ),
    "ClockService/GetClock": _of_session("clock", "GetClock", lambda _: _clock.GetClockRequest()),
    "ClockService/SetClock": lambda world, options: world.service.clock.SetClock(
        _clock.SetClockRequest(
            now=world.service.clock.GetClock(
                _clock.GetClockRequest(), metadata=world.metadata("admin"), timeout=SECONDS
            ).now
        ),
        **options,
    ),
    "ClockService/AdvanceClock": _of_session(
        "clock", "AdvanceClock", lambda _: _clock.AdvanceClockRequest(advance_ms=1)
    ),
}
