"""What is another's does not exist: by no id, token, key or tag, over gRPC, REST and sockets."""

import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc
import pytest
import requests
import socketio

from eliza.sessions.v1 import (
    agent_service_pb2,
    errors_pb2,
    message_service_pb2,
    session_service_pb2,
    timeout_pb2,
)
from tests.service.access.attacked import Attacked, code_of, raw_rest
from tests.service.access.world import AGENT, ALICE, BOB, OTHER_AGENT, World, outcome_of

STRANGERS: Final = ("other_user", "other_tenant", "behalf_other", "other_token")
"""Who may call all that a session has, but has another one."""

BY_ID: Final[Mapping[str, tuple[str, str, Callable[[str], Any]]]] = {
    "get": ("sessions", "GetSession", lambda id_: session_service_pb2.GetSessionRequest(session_id=id_)),
    "get by channel": (
        "sessions",
        "GetSession",
        lambda id_: session_service_pb2.GetSessionRequest(channel_id=id_),
    ),
    "renew": (
        "sessions",
        "RenewSession",
        lambda id_: session_service_pb2.RenewSessionRequest(session_id=id_),
    ),
    "heartbeat": (
        "sessions",
        "SendHeartbeat",
        lambda id_: session_service_pb2.SendHeartbeatRequest(session_id=id_),
    ),
    "send": (
        "messages",
        "SendMessage",
        lambda id_: message_service_pb2.SendMessageRequest(session_id=id_, content="x"),
    ),
    "list": ("messages", "ListMessages", lambda id_: message_service_pb2.ListMessagesRequest(session_id=id_)),
}


def refusal(world: World, stub: str, method: str, request: Any, caller: str) -> tuple[str, str, str]:
    """The reason, status and message of a call's refusal."""
    with pytest.raises(grpc.RpcError) as raised:
        getattr(getattr(world.service, stub), method)(request, metadata=world.metadata(caller), timeout=20)
    return outcome_of(raised.value), str(raised.value.code()), str(raised.value.details())


@pytest.mark.parametrize("caller", STRANGERS)
@pytest.mark.parametrize("what", BY_ID)
def test_anothers_session_is_told_as_nobodys(attacked: Attacked, what: str, caller: str) -> None:
    world = attacked.world
    stub, method, make = BY_ID[what]
    theirs = world.channel_id if "channel" in what else world.session_id
    nobodys = str(uuid.uuid4())
    told = refusal(world, stub, method, make(theirs), caller)
    assert told[0] == "SESSION_NOT_FOUND"
    # Not a word is other, so that nobody learns which ids there are.
    other = refusal(world, stub, method, make(nobodys), caller)
    assert [text.replace(nobodys, theirs) for text in other] == [*told]


ROUTES: Final = (
    ("GET", ""),
    ("DELETE", ""),
    ("GET", "/messages"),
    ("POST", "/messages"),
    ("GET", "/events"),
    ("POST", "/renew"),
    ("PATCH", "/timeout"),
    ("POST", "/heartbeat"),
    ("POST", "/tokens"),
)
BODIES: Final = {
    "/messages": {"content": "x"},
    "/timeout": {"timeoutMinutes": 30},
    "/tokens": {"verbs": ["read"]},
}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_route_tells_anothers_session_as_nobodys(attacked: Attacked, method: str, path: str) -> None:
    world = attacked.world
    nobodys = str(uuid.uuid4())
    body = json.dumps(BODIES.get(path, {})).encode() if method in ("POST", "PATCH") else None
    for caller in STRANGERS:
        headers = [*world.headers(caller).items(), ("Content-Type", "application/json")]
        answers = []
        for session_id in (world.session_id, world.session_id.upper(), nobodys):
            answer = raw_rest(world.service, f"/{session_id}{path}", method, body, headers)
            assert answer is not None
            told = answer.content.decode().replace(nobodys, world.session_id).lower()
            kept = {
                name: text for name, text in answer.headers.items() if name not in ("date", "x-request-id")
            }
            answers.append((answer.status, told, kept))
        assert answers[0][0] in (403, 404), answers[0]
        assert answers[0][:2] == answers[1][:2] == answers[2][:2]
        assert answers[0][2] == answers[2][2]
    assert attacked.grpc_outcome(*world.metadata("user")) == ""


def test_anothers_delivery_is_not_there(attacked: Attacked) -> None:
    world = attacked.world
    theirs = world.new_delivery()
    nobodys = f"{uuid.uuid4()}-1"

    def reply(delivery_id: str) -> Any:
        return agent_service_pb2.ReplyRequest(
            delivery_id=delivery_id, reply=agent_service_pb2.AgentReply(content="Hijacked")
        )

    told = refusal(world, "agents", "Reply", reply(theirs), "other_agent")
    assert told[0] == "SESSION_NOT_FOUND"
    other = refusal(world, "agents", "Reply", reply(nobodys), "other_agent")
    assert [text.replace(nobodys[:36], theirs[:36]) for text in other] == [*told]
    # Over a worker's stream, too: of an agent's own id, with another's delivery.
    requests_ = [
        agent_service_pb2.ConnectRequest(hello=agent_service_pb2.ConnectRequest.Hello(agent_id=OTHER_AGENT)),
        agent_service_pb2.ConnectRequest(
            reply=agent_service_pb2.ConnectRequest.Reply(
                delivery_id=theirs, reply=agent_service_pb2.AgentReply(content="Hijacked")
            )
        ),
    ]
    stream = world.service.agents.Connect(iter(requests_), metadata=world.metadata("other_agent"), timeout=20)
    refused = next(answer.refused for answer in stream if answer.HasField("refused"))
    assert (refused.delivery_id, refused.reason) == (
        theirs,
        errors_pb2.ERROR_REASON_SESSION_NOT_FOUND,
    )
    stream.cancel()
    session_id = theirs.rpartition("-")[0]
    listed = message_service_pb2.ListMessagesRequest(session_id=session_id)
    found = world.service.messages.ListMessages(listed, metadata=world.metadata("service"), timeout=20)
    assert [message.content for message in found.messages] == ["Hello"]
    # Its own agent answers it.
    world.service.agents.Reply(reply(theirs), metadata=world.metadata("agent"), timeout=20)


def test_a_page_token_leads_to_nobody_elses_page(attacked: Attacked) -> None:
    world = attacked.world
    for _ in range(3):
        world.new_session()

    def page(caller: str, token: str = "") -> Any:
        asked = session_service_pb2.ListSessionsRequest(page_size=1, page_token=token)
        return world.service.sessions.ListSessions(asked, metadata=world.metadata(caller), timeout=20)

    token = page("user").next_page_token
    assert token
    assert [one.user_id for one in page("user", token).sessions] == [ALICE]
    for caller in ("other_user", "other_tenant", "behalf_other", "other_agent"):
        found = page(caller, token)
        assert (list(found.sessions), found.total_size, found.stats.total_sessions) == ([], 0, 0)
        assert not found.next_page_token
    # Neither does a filter.
    asked = session_service_pb2.ListSessionsRequest(user_id=ALICE)
    for caller in ("other_user", "other_tenant"):
        listed = world.service.sessions.ListSessions(asked, metadata=world.metadata(caller), timeout=20)
        assert (list(listed.sessions), listed.total_size) == ([], 0)
    # A token of a session's messages.
    for number in range(3):
        sent = message_service_pb2.SendMessageRequest(session_id=world.session_id, content=f"{number}")
        world.service.messages.SendMessage(sent, metadata=world.metadata("user"), timeout=20)
    asked_for = message_service_pb2.ListMessagesRequest(session_id=world.session_id, page_size=1)
    messages = world.service.messages
    asked_for.page_token = messages.ListMessages(
        asked_for, metadata=world.metadata("user"), timeout=20
    ).next_page_token
    assert messages.ListMessages(asked_for, metadata=world.metadata("user"), timeout=20).messages
    for caller in STRANGERS:
        assert refusal(world, "messages", "ListMessages", asked_for, caller)[0] == "SESSION_NOT_FOUND"


def test_an_idempotency_key_is_ones_own(attacked: Attacked) -> None:
    world, request_id = attacked.world, str(uuid.uuid4())

    def create(caller: str, user_id: str) -> Any:
        asked = session_service_pb2.CreateSessionRequest(
            agent_id=AGENT, user_id=user_id, request_id=request_id
        )
        return world.service.sessions.CreateSession(asked, metadata=world.metadata(caller), timeout=20)

    first = create("user", ALICE)
    assert not first.replayed
    again = create("user", ALICE)
    assert (again.replayed, again.session.session_id) == (True, first.session.session_id)
    assert create("service", ALICE).session.session_id == first.session.session_id
    theirs = create("other_user", BOB)
    assert not theirs.replayed
    assert theirs.session.session_id != first.session.session_id
    for caller in ("other_user", "behalf_other"):
        asked = session_service_pb2.CreateSessionRequest(agent_id=AGENT, user_id=ALICE, request_id=request_id)
        assert refusal(world, "sessions", "CreateSession", asked, caller)[0] == "PERMISSION_DENIED"
    # Another tenant's user of the same id: it has no such agent, and hears of no replay.
    asked = session_service_pb2.CreateSessionRequest(agent_id=AGENT, user_id=ALICE, request_id=request_id)
    assert refusal(world, "sessions", "CreateSession", asked, "other_tenant")[0] == "AGENT_NOT_FOUND"

    def send(session_id: str) -> Any:
        return message_service_pb2.SendMessageRequest(
            session_id=session_id, content="Once", request_id=request_id
        )

    sent = world.service.messages.SendMessage(
        send(world.session_id), metadata=world.metadata("user"), timeout=20
    )
    assert not sent.replayed
    for caller in STRANGERS:
        told = refusal(world, "messages", "SendMessage", send(world.session_id), caller)
        assert told[0] == "SESSION_NOT_FOUND"
    other = world.service.messages.SendMessage(
        send(theirs.session.session_id), metadata=world.metadata("other_user"), timeout=20
    )
    assert not other.replayed
    assert other.message.message_id != sent.message.message_id


@pytest.mark.parametrize("tag", ["right", '"1"', "*", '"x"'])
def test_a_tag_does_not_tell_of_anothers_session(attacked: Attacked, tag: str) -> None:
    world = attacked.world
    asked = session_service_pb2.GetSessionRequest(session_id=world.session_id)
    session = world.service.sessions.GetSession(asked, metadata=world.metadata("user"), timeout=20).session
    etag = session.etag if tag == "right" else tag
    calls = {
        "RenewSession": session_service_pb2.RenewSessionRequest(session_id=world.session_id, etag=etag),
        "UpdateTimeout": session_service_pb2.UpdateTimeoutRequest(
            session_id=world.session_id,
            timeout_config=timeout_pb2.TimeoutConfig(timeout_minutes=9),
            etag=etag,
        ),
        "DeleteSession": session_service_pb2.DeleteSessionRequest(session_id=world.session_id, etag=etag),
    }
    for method, request in calls.items():
        for caller in ("other_tenant", "behalf_other"):
            assert refusal(world, "sessions", method, request, caller)[0] == "SESSION_NOT_FOUND"
    headers = [*world.headers("other_user").items(), ("If-Match", etag), ("Content-Type", "application/json")]
    answer = raw_rest(world.service, f"/{world.session_id}/renew", "POST", b"{}", headers)
    assert code_of(answer) == "SESSION_NOT_FOUND"
    after = world.service.sessions.GetSession(asked, metadata=world.metadata("user"), timeout=20).session
    assert (after.etag, after.renewal_count) == (session.etag, session.renewal_count)


@pytest.mark.parametrize("caller", STRANGERS)
def test_a_socket_reaches_nobody_elses_room(attacked: Attacked, caller: str) -> None:
    world = attacked.world
    client, errors, heard = socketio.Client(reconnection=False), [], []
    client.on("messageError", lambda payload: errors.append((payload["code"], payload["error"])))
    client.on("*", lambda name, *_: heard.append(name))
    client.connect(
        f"http://{world.service.rest}",
        headers=world.headers(caller),
        transports=["websocket"],
        wait_timeout=15,
    )
    try:
        nobodys = str(uuid.uuid4())
        for room in (world.session_id, world.channel_id, nobodys, world.channel_id.upper()):
            for name, payload in (
                ("join", {"roomId": room}),
                ("join", {"roomId": room, "after": 0}),
                ("message", {"type": 1, "payload": {"roomId": room}}),
                ("message", {"type": 2, "payload": {"roomId": room, "message": "Hello"}}),
                ("message", {"type": 2, "payload": {"channelId": room, "message": "Hello"}}),
            ):
                assert client.call(name, payload, timeout=15)["success"] is False
        told = {(code, error.replace(nobodys, "X").replace(world.session_id, "X")) for code, error in errors}
        assert {code for code, _ in told} == {"SESSION_NOT_FOUND"}, told
        # Whose stream goes on meanwhile: nothing of it is heard here.
        sent = message_service_pb2.SendMessageRequest(session_id=world.session_id, content="Private")
        world.service.messages.SendMessage(sent, metadata=world.metadata("user"), timeout=20)
        assert client.call("leave", {"roomId": world.session_id}, timeout=15) is not None
        assert not {"messageBroadcast", "sessionRenewed", "room_joined"} & {*heard}, heard
    finally:
        client.disconnect()


def test_a_sid_of_polling_is_nobody_elses(attacked: Attacked) -> None:
    world = attacked.world
    url = f"http://{world.service.rest}/socket.io/?EIO=4&transport=polling"
    opened = requests.get(url, headers=world.headers("user"), timeout=20)
    sid = json.loads(opened.text[1:])["sid"]
    join = f"420{json.dumps(['join', {'roomId': world.session_id}])}"
    for caller in ("other_user", "service", "wrong", "token"):
        headers = world.headers(caller)
        for method, data in (("GET", None), ("POST", "40"), ("POST", join)):
            answer = requests.request(method, f"{url}&sid={sid}", data=data, headers=headers, timeout=20)
            assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED"), caller
    assert (
        requests.post(f"{url}&sid={sid}", data="40", headers=world.headers("user"), timeout=20).text == "OK"
    )


def test_an_agent_reaches_its_own_sessions_only(attacked: Attacked) -> None:
    world = attacked.world
    for caller, wanted in (("agent", ""), ("other_agent", "SESSION_NOT_FOUND")):
        assert attacked.grpc_outcome(*world.metadata(caller)) == wanted
        asked = session_service_pb2.ListSessionsRequest()
        listed = world.service.sessions.ListSessions(asked, metadata=world.metadata(caller), timeout=20)
        assert {session.agent_id for session in listed.sessions} == ({AGENT} if not wanted else set())
    hello = agent_service_pb2.ConnectRequest.Hello(agent_id=AGENT)
    nobodys = str(uuid.uuid4())
    told = []
    for agent_id in (AGENT, nobodys):
        hello.agent_id = agent_id
        stream = world.service.agents.Connect(
            iter([agent_service_pb2.ConnectRequest(hello=hello)]),
            metadata=world.metadata("other_agent"),
            timeout=20,
        )
        with pytest.raises(grpc.RpcError) as raised:
            next(stream)
        told.append((outcome_of(raised.value), str(raised.value.details()).replace(nobodys, AGENT)))
    assert told == [("AGENT_NOT_FOUND", told[0][1])] * 2
