"""Socket.IO as its real clients meet it: both languages, both transports, both dialects, and a server that is
killed behind the facade.
"""

import contextlib
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import requests

from eliza.sessions.v1.message_service_pb2 import SendMessageRequest
from eliza.sessions.v1.session_service_pb2 import DeleteSessionRequest
from rest_facade.socketio.client_events import MAX_HINTS
from tests.service.agents.worker import Worker, stream_agent
from tests.service.docs.pages import example
from tests.support.clients import create, history, replies, send
from tests.support.node import NODE, install
from tests.support.realtime.programs import Facade, Program, free_address
from tests.support.realtime.sockets import KINDS, Client, Connect, connected
from tests.support.service import ECHO, UNKNOWN, USER, Serve, Start
from tests.support.waiting import until

DIALECTS = {
    "published": lambda room: ("join", {"roomId": room}),
    "envelope": lambda room: ("message", {"type": 1, "payload": {"channelId": room, "entityId": USER}}),
    "envelope-room": lambda room: ("message", {"type": 1, "payload": {"roomId": room, "entityId": USER}}),
    "bare": lambda room: ("1", {"channelId": room, "entityId": USER}),
}
BROADCAST = {
    *(
        "id",
        "senderId",
        "senderName",
        "text",
        "roomId",
        "channelId",
        "sessionId",
        "createdAt",
        "source",
        "isAgent",
    ),
    *("thought", "actions", "metadata", "attachments", "sequence"),
}
LONE = "\ud800"


@pytest.fixture(scope="session")
def modules() -> Path:
    """Where socket.io-client is installed."""
    return install()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of client."""
    return request.param


@pytest.fixture
def connect(modules: Path) -> Iterator[Callable[..., Client]]:
    """Opens clients that are closed after the test."""
    with contextlib.ExitStack() as stack:

        def opener(url: str, kind: str = "javascript-websocket") -> Client:
            client = connected(url, kind, modules)
            stack.callback(client.close)
            return client

        yield opener


def origin(service: Serve) -> str:
    return f"http://{service.rest}"


def joined(client: Client, room: str, **more: object) -> Client:
    """Joins a room and waits until it is in it."""
    assert client.call("join", {"roomId": room, **more}) == {"success": True}
    return client


def texts(client: Client, *, agent: bool) -> list[str]:
    return [payload["text"] for payload in client.named("messageBroadcast") if payload["isAgent"] is agent]


def contiguous(sequences: list[int]) -> bool:
    return sequences == list(range(sequences[0], sequences[0] + len(sequences)))


# Joining and talking.


def test_a_client_is_greeted(service: Serve, connect: Connect, kind: str) -> None:
    client = connect(origin(service), kind)
    (greeting,) = client.named("connection_established")
    assert set(greeting) == {"message", "socketId"}
    assert [greeting["socketId"]] == until(lambda: client.connects, "the connect event")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_conversation_in_each_dialect_is_heard(
    service: Serve, connect: Connect, kind: str, dialect: str
) -> None:
    client = connect(origin(service), kind)
    for count, key in enumerate(("sessionId", "channelId"), 1):
        session = service.create()
        room = session[key]
        name, payload = DIALECTS[dialect](room)
        assert client.call(name, payload) == {"success": True}
        for welcome in ("channel_joined", "room_joined"):
            heard = client.wait(welcome, count)[-1]
            assert set(heard) == {"message", "channelId", "roomId"}
            assert (heard["channelId"], heard["roomId"]) == (session["channelId"], room)

        body = {
            "senderId": USER,
            "message": f"two words {count}",
            "channelId": room,
            "messageId": f"mine-{count}",
        }
        body |= {
            "metadata": {"platform": "web"},
            "attachments": [{"url": "a.png"}],
            "serverId": UNKNOWN,
            "source": "client",
        }
        if dialect.startswith("bare"):
            assert client.call("2", body) == {"success": True}
        else:
            assert client.call("message", {"type": 2, "payload": body}) == {"success": True}
        ack = client.wait("messageAck", count)[-1]
        assert set(ack) == {"clientMessageId", "messageId", "status", "channelId", "roomId"}
        assert (ack["clientMessageId"], ack["channelId"], ack["roomId"]) == (f"mine-{count}", room, room)

        mine, its = client.wait("messageBroadcast", 2 * count)[-2:]
        assert set(mine) == set(its) == BROADCAST
        stored_reply, stored = service.http.get(
            f"{service.url}/{session['sessionId']}/messages", timeout=10
        ).json()["messages"]
        assert (mine["id"], its["id"]) == (stored["id"], stored_reply["id"])
        assert mine["id"] == ack["messageId"]
        for got in (mine, its):
            assert (got["roomId"], got["channelId"], got["sessionId"]) == (
                room,
                session["channelId"],
                session["sessionId"],
            )
            assert type(got["createdAt"]) is int
            assert got["text"] == f"two words {count}"
            assert (got["thought"], got["actions"]) == (None, [])
        assert its["createdAt"] > mine["createdAt"] > 1_600_000_000_000
        assert (mine["source"], mine["isAgent"], mine["senderId"], mine["senderName"]) == (
            "user",
            False,
            USER,
            "User",
        )
        assert (its["source"], its["isAgent"], its["senderId"]) == ("agent_response", True, ECHO)
        assert its["senderName"] not in ("", "User")
        assert mine["metadata"]["platform"] == "web"
        assert mine["metadata"]["sessionId"] == session["sessionId"]
        assert (mine["attachments"], its["attachments"]) == ([{"url": "a.png"}], [])
        assert contiguous(client.sequences(session["sessionId"]))

        # The pieces of the reply came between the two, in order, and are of it.
        stream = [
            (name, got)
            for name, got in client.events
            if name in ("messageBroadcast", "messageStreamChunk") and got["sessionId"] == session["sessionId"]
        ]
        assert [name for name, _ in stream] == [
            "messageBroadcast",
            *["messageStreamChunk"] * 3,
            "messageBroadcast",
        ]
        pieces = [got for name, got in stream if name == "messageStreamChunk"]
        assert all(
            set(piece) == {"messageId", "chunk", "index", "attempt", "agentId", "channelId", "sessionId"}
            for piece in pieces
        )
        assert [(piece["index"], piece["attempt"]) for piece in pieces] == [(0, 1), (1, 1), (2, 1)]
        assert "".join(piece["chunk"] for piece in pieces) == its["text"]
        assert {(p["messageId"], p["agentId"], p["channelId"]) for p in pieces} == {
            (its["id"], ECHO, session["channelId"])
        }
    assert client.named("messageError") == []


@pytest.mark.parametrize("number", ["text", "number"])
def test_bare_events_may_be_numbers(service: Serve, connect: Connect, number: str) -> None:
    """A JavaScript client may emit `1` as well as `"1"`: to a JavaScript server the two are one event."""
    session = service.create()
    client = connect(origin(service), "javascript-websocket")
    join, tell = (1, 2) if number == "number" else ("1", "2")
    client.emit(join, {"roomId": session["sessionId"], "entityId": USER})
    client.wait("room_joined", seconds=3)
    client.emit(tell, {"roomId": session["sessionId"], "senderId": USER, "message": "hi"})
    client.wait("messageBroadcast", 2)


def test_no_acknowledgement_is_needed(service: Serve, connect: Connect, kind: str) -> None:
    session = service.create()
    client = connect(origin(service), kind)
    client.emit("join", {"roomId": session["sessionId"], "entityId": USER, "agentId": ECHO})
    client.wait("room_joined")
    client.emit(
        "message", {"type": 2, "payload": {"roomId": session["sessionId"], "message": "hi", "senderId": USER}}
    )
    client.wait("messageBroadcast", 2)
    assert client.named("messageAck")[0]["clientMessageId"] is None


def test_a_message_is_heard_whatever_its_transport(service: Serve, connect: Connect, kind: str) -> None:
    session = service.create()
    session_id = session["sessionId"]
    client = joined(connect(origin(service), kind), session_id)
    other = connect(origin(service))
    ways: dict[str, Callable[[], object]] = {
        "rest": lambda: service.http.post(
            f"{service.url}/{session_id}/messages", json={"content": "rest"}, timeout=10
        ),
        "rest http": lambda: service.http.post(
            f"{service.url}/{session_id}/messages",
            json={"content": "rest http", "transport": "http"},
            timeout=10,
        ),
        "rest sse": lambda: service.http.post(
            f"{service.url}/{session_id}/messages",
            json={"content": "rest sse", "transport": "sse"},
            timeout=10,
        ),
        "grpc": lambda: send(service, session_id, "grpc"),
        "its own socket": lambda: client.call("2", {"channelId": session_id, "message": "its own socket"}),
        "another socket": lambda: other.call(
            "2", {"channelId": session["channelId"], "message": "another socket"}
        ),
    }
    for count, (name, way) in enumerate(ways.items(), 1):
        way()
        mine, its = client.wait("messageBroadcast", 2 * count)[-2:]
        assert set(mine) == set(its) == BROADCAST
        assert (mine["text"], its["text"]) == (name, name)
        assert (mine["source"], its["source"]) == ("user", "agent_response")
        assert mine["roomId"] == its["roomId"] == session_id
    assert contiguous(client.sequences(session_id))
    assert [payload["id"] for payload in client.named("messageBroadcast")] == [
        m.message_id for m in history(service, session_id)
    ]
    assert other.named("messageBroadcast") == []


def test_two_sockets_each_hear_everything_under_the_name_they_joined(
    service: Serve, connect: Connect
) -> None:
    session = service.create()
    one = joined(connect(origin(service), "javascript-websocket"), session["sessionId"])
    two = joined(connect(origin(service), "python-polling"), session["channelId"])
    for number in range(3):
        send(service, session["sessionId"], f"message {number}")
    replies(service, session["sessionId"], 3)
    heard = [client.wait("messageBroadcast", 6) for client in (one, two)]
    assert {payload.pop("roomId") for payload in heard[0]} == {session["sessionId"]}
    assert {payload.pop("roomId") for payload in heard[1]} == {session["channelId"]}
    assert heard[0] == heard[1]


def test_joining_twice_is_joining_once(service: Serve, connect: Connect, kind: str) -> None:
    session = service.create()
    client = joined(joined(connect(origin(service), kind), session["sessionId"]), session["channelId"])
    client.call("2", {"roomId": session["sessionId"], "message": "hi"})
    client.wait("messageBroadcast", 2)
    client.call("2", {"roomId": session["sessionId"], "message": "hi again"})
    assert len(client.wait("messageBroadcast", 4)) == 4
    assert {payload["roomId"] for payload in client.named("messageBroadcast")} == {session["channelId"]}


@pytest.mark.parametrize("by", ["sessionId", "channelId"])
def test_leaving_ends_it(service: Serve, connect: Connect, kind: str, by: str) -> None:
    session = service.create()
    client = joined(connect(origin(service), kind), session["sessionId"])
    witness = joined(connect(origin(service)), session["sessionId"])
    send(service, session["sessionId"], "before")
    client.wait("messageBroadcast", 2)
    assert client.call("leave", {"roomId": session[by]}) == {"success": True}
    before = list(client.events)
    send(service, session["sessionId"], "after")
    witness.wait("messageBroadcast", 4)
    assert client.call("leave", {"roomId": session[by]}) == {"success": True}
    assert client.events == before
    joined(client, session["sessionId"])
    send(service, session["sessionId"], "and back")
    client.wait("messageBroadcast", 4)
    assert texts(client, agent=False) == ["before", "and back"]


# What is wrong with an event.

NOT_OBJECTS = [(), (None,), ("text",), (5,), (True,), ([],), ([{"roomId": "x"}],)]


def bad_events(room: str) -> list[tuple[str, tuple[object, ...], str]]:
    """Events that cannot be served, and the code of each."""
    bad: list[tuple[str, tuple[object, ...], str]] = []
    bad += [
        (name, given, "INVALID_FIELD")
        for name in ("join", "leave", "message", "1", "2")
        for given in NOT_OBJECTS
    ]
    rooms: list[tuple[dict[str, object], str]] = [
        ({}, "MISSING_FIELDS"),
        ({"roomId": None}, "MISSING_FIELDS"),
        ({"roomId": 5}, "INVALID_FIELD"),
        ({"roomId": True}, "INVALID_FIELD"),
        ({"roomId": {}}, "INVALID_FIELD"),
        ({"roomId": [room]}, "INVALID_FIELD"),
        ({"channelId": {"a": LONE}}, "INVALID_FIELD"),
        ({"roomId": LONE}, "INVALID_FIELD"),
        ({"roomId": "no such room"}, "SESSION_NOT_FOUND"),
        ({"roomId": "a\0b"}, "SESSION_NOT_FOUND"),
        ({"roomId": "x" * 5000}, "SESSION_NOT_FOUND"),
        ({"roomId": UNKNOWN}, "SESSION_NOT_FOUND"),
        ({"channelId": UNKNOWN}, "SESSION_NOT_FOUND"),
    ]
    for given, code in rooms:
        bad += [(name, (given,), code) for name in ("join", "leave", "1")]
        bad += [
            ("2", ({**given, "message": "hi"},), code),
            ("message", ({"type": 1, "payload": given},), code),
        ]
    for after in ("x", "-1", -1, 1.5, True, {}, [], "1e3", LONE, 2**64, "9" * 30, "٣"):
        bad += [("join", ({"roomId": room, "after": after},), "INVALID_FIELD")]
    payload = {"roomId": room, "message": "hi"}
    bad += [
        ("message", (given,), "INVALID_FIELD")
        for given in ({}, {"type": 1}, {"type": 2, "payload": None}, {"type": 2, "payload": []})
    ]
    bad += [
        ("message", ({"type": kind, "payload": payload},), "INVALID_FIELD")
        for kind in (None, 0, 3, "1", "2", {}, [1], LONE, 1.5)
    ]
    for message in (None, "", 5, True, {}, ["hi"], LONE, "x" * 4001, "𝄞" * 4001, "a\0b"):
        bad += [("2", ({"roomId": room, "message": message},), "INVALID_CONTENT")]
        bad += [
            ("message", ({"type": 2, "payload": {"channelId": room, "message": message}},), "INVALID_CONTENT")
        ]
    for metadata in ("text", 5, True, [], {"a": LONE}, {LONE: 1}, {"a": "x" * 10_240}):
        bad += [("2", ({**payload, "metadata": metadata},), "INVALID_METADATA")]
    for attachments in ("text", 5, {}, [LONE]):
        bad += [("2", ({**payload, "attachments": attachments},), "INVALID_CONTENT")]
    return bad


def test_what_an_event_did_wrong_is_told_and_the_socket_stays_usable(
    service: Serve, connect: Connect, kind: str
) -> None:
    session = service.create()
    client = joined(connect(origin(service), kind), session["sessionId"])
    wrong = []
    for count, (name, arguments, code) in enumerate(bad_events(session["sessionId"]), 1):
        answer = client.call(name, *arguments)
        errors = client.wait("messageError", count)
        told = errors[-1]
        if (set(told), told["code"], len(errors)) != ({"error", "code"}, code, count):
            wrong.append((name, arguments, code, told))
        elif not told["error"] or answer != {"success": False, **told}:
            wrong.append((name, arguments, answer, told))
    assert wrong == []
    assert client.disconnects == []
    assert client.call("2", {"roomId": session["sessionId"], "message": "still here"}) == {"success": True}
    client.wait("messageBroadcast", 2)
    assert [message.content for message in history(service, session["sessionId"])] == ["still here"] * 2
    assert "internal" not in service.log().lower()


RIGHT = {
    "join": '"join" with {"roomId"',
    "leave": '"leave" with {"roomId"',
    "send": '"message" with {"type": 2, "payload": {"roomId"',
}


@pytest.mark.parametrize(
    ("name", "arguments", "right"),
    [
        ("join", ("ROOM",), "join"),
        ("join", ({"sessionId": "ROOM"},), "join"),
        ("1", ({"room": "ROOM"},), "join"),
        ("leave", ("ROOM",), "leave"),
        ("leave", ({},), "leave"),
        ("message", ("hi",), "send"),
        ("message", ({"roomId": "ROOM", "message": "hi"},), "send"),
        ("message", ({"type": "2", "payload": {"roomId": "ROOM", "message": "hi"}},), "send"),
        ("message", ({"type": 2, "data": {"roomId": "ROOM", "message": "hi"}},), "send"),
        ("message", ({"type": 2, "payload": {"roomId": "ROOM", "content": "hi"}},), "send"),
        ("message", ({"type": 2, "payload": {"message": "hi"}},), "send"),
        ("2", ("hi",), "send"),
        ("2", ({"roomId": "ROOM", "text": "hi"},), "send"),
        ("2", ({"roomId": 5, "message": "hi"},), "send"),
        ("sendMessage", ({"roomId": "ROOM", "message": "hi"},), "send"),
        ("send", (), "send"),
        ("joinRoom", ("ROOM",), "join"),
        ("3", ({"roomId": "ROOM"},), "leave"),
        ("chat \r\nmessage" + LONE + "x" * 5000, ("text",), "send"),
    ],
)
def test_an_error_says_what_would_be_right(
    service: Serve, connect: Connect, name: str, arguments: tuple[object, ...], right: str
) -> None:
    room = service.create()["sessionId"]
    given = [_in_room(one, room) for one in arguments]
    client = connect(origin(service), "python-websocket")
    answer = client.call(name, *given)
    assert answer["success"] is False
    assert RIGHT[right] in answer["error"], answer
    assert len(answer["error"]) < 1000
    (told,) = client.wait("messageError")
    assert told == {"error": answer["error"], "code": answer["code"]}
    assert history(service, room) == []


def _in_room(value: object, room: str) -> object:
    if isinstance(value, dict):
        return {key: _in_room(one, room) for key, one in value.items()}
    return room if value == "ROOM" else value


def test_events_that_do_not_exist_are_told_of_a_few_times(
    service: Serve, connect: Connect, kind: str
) -> None:
    client = connect(origin(service), kind)
    answers = [client.call(f"event {number}") for number in range(2 * MAX_HINTS)]
    assert [answer["code"] for answer in answers] == ["INVALID_FIELD"] * 2 * MAX_HINTS
    assert client.call("subscribe_logs") == {"success": False}
    joined(client, service.create()["sessionId"])
    assert len(client.named("messageError")) == MAX_HINTS


def test_fields_that_no_message_has_are_named(service: Serve, connect: Connect, kind: str) -> None:
    room = service.create()["sessionId"]
    client = joined(connect(origin(service), kind), room)
    payload = {"roomId": room, "message": "hi", "metdata": {}, LONE: 1, "a\r\nb": 2}
    assert client.call("message", {"type": 2, "payload": payload}) == {"success": True}
    assert client.wait("messageAck")[0]["unknownFields"] == ["metdata", "\\ud800", "a\r\nb"]
    many = {f"field {number}": number for number in range(1000)}
    client.call("2", {"roomId": room, "message": "hi", **many})
    assert client.wait("messageAck", 2)[1]["unknownFields"] == [f"field {number}" for number in range(10)]


def test_what_live_clients_send_is_known(service: Serve, connect: Connect, kind: str) -> None:
    """The payloads of the clients of ElizaOS, old and new."""
    room = service.create()["sessionId"]
    client = joined(connect(origin(service), kind), room)
    payload = {"senderId": USER, "senderName": "User", "message": "hi", "channelId": room, "roomId": room}
    payload |= {"serverId": UNKNOWN, "messageServerId": UNKNOWN, "worldId": UNKNOWN, "messageId": "mine"}
    payload |= {"source": "client_chat", "sourceType": "client", "raw_message": {"a": 1}, "attachments": []}
    payload |= {
        "metadata": {"isDm": True},
        "targetUserId": ECHO,
        "isDm": True,
        "channelType": "DM",
        "entityId": USER,
    }
    assert client.call("message", {"type": 2, "payload": payload}) == {"success": True}
    assert "unknownFields" not in client.wait("messageAck")[0]


def test_errors_come_without_an_acknowledgement_too(service: Serve, connect: Connect, kind: str) -> None:
    client = connect(origin(service), kind)
    client.emit("join", {"roomId": UNKNOWN})
    client.emit("2", {"message": "hi"})
    assert [error["code"] for error in client.wait("messageError", 2)] == [
        "SESSION_NOT_FOUND",
        "MISSING_FIELDS",
    ]


def test_sessions_that_are_gone_cannot_be_joined(service: Serve, connect: Connect, kind: str) -> None:
    client = connect(origin(service), kind)
    expired, deleted = service.create(timeoutConfig={"timeoutMinutes": 5}), service.create()
    service.advance(minutes=6)
    service.http.delete(f"{service.url}/{deleted['sessionId']}", timeout=10)
    for session, code in ((expired, "SESSION_EXPIRED"), (deleted, "SESSION_NOT_FOUND")):
        for key in ("sessionId", "channelId"):
            for name, payload in (
                ("join", {"roomId": session[key]}),
                ("1", {"channelId": session[key]}),
                ("2", {"channelId": session[key], "message": "hi"}),
            ):
                answer = client.call(name, payload)
                assert (answer["success"], answer.get("code")) == (False, code), (name, payload)
    assert client.named("room_joined") == []
    assert len(client.wait("messageError", 12)) == 12


def test_that_a_session_is_expired_is_said_before_what_is_wrong_with_after(
    service: Serve, connect: Connect
) -> None:
    """Order of checks: the session exists (404), it is live (410), the body is valid (400)."""
    session = service.create(timeoutConfig={"timeoutMinutes": 5})
    service.advance(minutes=6)
    client = connect(origin(service))
    assert client.call("join", {"roomId": session["sessionId"], "after": 1000})["code"] == "SESSION_EXPIRED"


# What happens to a session.


def test_the_life_of_a_session_is_told(service: Serve, connect: Connect, kind: str) -> None:
    session = service.create(timeoutConfig={"timeoutMinutes": 10, "warningThresholdMinutes": 2})
    session_id = session["sessionId"]
    client = joined(connect(origin(service), kind), session_id)
    assert service.http.post(f"{service.url}/{session_id}/renew", timeout=10).status_code == 200
    (renewed,) = client.wait("sessionRenewed")
    assert set(renewed) == {"sessionId", "expiresAt", "renewalCount", "sequence"}
    assert renewed["renewalCount"] == 1

    send(service, session_id, "hello")
    client.wait("messageBroadcast", 2)
    assert client.wait("sessionRenewed", 2)[1]["renewalCount"] == 2
    mine = client.named("messageBroadcast")[0]
    assert client.named("sessionRenewed")[1]["sequence"] == mine["sequence"]

    changed = {"timeoutMinutes": 20}
    body = service.http.patch(f"{service.url}/{session_id}/timeout", json=changed, timeout=10).json()
    (change,) = client.wait("sessionTimeoutChanged")
    assert set(change) == {"sessionId", "expiresAt", "timeoutConfig", "sequence"}
    assert (change["expiresAt"], change["timeoutConfig"]) == (body["expiresAt"], body["timeoutConfig"])

    service.advance(minutes=18, ms=1000)
    (warning,) = client.wait("sessionExpirationWarning")
    assert set(warning) == {"sessionId", "minutesRemaining", "sequence"}
    assert 1 <= warning["minutesRemaining"] <= 2
    service.advance(minutes=3)
    (expired,) = client.wait("sessionExpired")
    assert set(expired) == {"sessionId", "expiredAt", "sequence"}
    assert expired["expiredAt"] == body["expiresAt"]
    assert {event["sessionId"] for event in (renewed, change, warning, expired)} == {session_id}
    sequences = client.sequences(session_id)
    assert len(sequences) == 6
    assert contiguous(sequences)
    # It is over, and the socket is good for another session.
    assert client.call("join", {"roomId": session_id})["code"] == "SESSION_EXPIRED"
    # What it left behind can still be had.
    late = joined(connect(origin(service)), session_id, after=sequences[0])
    late.wait("sessionExpired")
    assert late.sequences(session_id) == sequences[1:]


def test_a_deleted_session_says_so_and_the_socket_lives_on(
    service: Serve, connect: Connect, kind: str
) -> None:
    session, other = service.create(), service.create()
    client = joined(joined(connect(origin(service), kind), session["sessionId"]), other["sessionId"])
    service.sessions.DeleteSession(DeleteSessionRequest(session_id=session["sessionId"]), timeout=10)
    assert client.wait("sessionDeleted") == [{"sessionId": session["sessionId"]}]
    send(service, other["sessionId"], "hi")
    client.wait("messageBroadcast", 2)
    assert client.call("join", {"roomId": session["sessionId"]})["code"] == "SESSION_NOT_FOUND"
    assert {payload["sessionId"] for payload in client.named("messageBroadcast")} == {other["sessionId"]}
    assert len(client.named("sessionDeleted")) == 1


def test_an_expired_session_is_not_said_to_be_deleted_until_it_is(
    service: Serve, connect: Connect, kind: str
) -> None:
    expiring, witness = (
        service.create(timeoutConfig={"timeoutMinutes": 5}),
        service.create(timeoutConfig={"timeoutMinutes": 60}),
    )
    client = joined(joined(connect(origin(service), kind), expiring["sessionId"]), witness["sessionId"])
    service.advance(minutes=6)
    client.wait("sessionExpired")
    service.http.delete(f"{service.url}/{expiring['sessionId']}", timeout=10)
    service.http.delete(f"{service.url}/{witness['sessionId']}", timeout=10)
    # The socket had left the first with its expiry.
    assert client.wait("sessionDeleted") == [{"sessionId": witness["sessionId"]}]


GUIDE = """
const { io } = require('socket.io-client');
const [url, sessionId, userId] = process.argv.slice(2);
const socket = io(url);

// Join session room
socket.emit('join', { roomId: sessionId, entityId: userId });

// Listen for messages
socket.on('messageBroadcast', (message) => { console.log('New message:', message.text); });

// Listen for session events
socket.on('sessionExpirationWarning', (data) => { console.log(`Session expires in ${data.minutesRemaining} minutes`); });
socket.on('sessionExpired', (data) => { console.log(`Session ${data.sessionId} expired at ${data.expiredAt}`); });
socket.on('sessionRenewed', (data) => { console.log(`Session renewed until ${data.expiresAt}`); });
"""
HOLD = """
socket.on('room_joined', () => console.log('joined'));
process.stdin.resume().on('end', () => process.exit(0));
"""


def test_the_published_guide_works_as_printed(service: Serve, modules: Path, tmp_path: Path) -> None:
    session = service.create(
        timeoutConfig={"timeoutMinutes": 10, "warningThresholdMinutes": 2, "autoRenew": False}
    )
    (tmp_path / "guide.cjs").write_text(GUIDE + HOLD)
    lines: list[str] = []
    process = subprocess.Popen(
        [str(NODE), "guide.cjs", origin(service), session["sessionId"], USER],
        cwd=tmp_path,
        env={"NODE_PATH": str(modules)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    reader = threading.Thread(target=lambda: lines.extend(line.rstrip("\n") for line in process.stdout))
    with process:
        try:
            reader.start()
            until(lambda: "joined" in lines or process.poll() is not None, "the guide's socket to join")
            send(service, session["sessionId"], "Hello!")
            until(lambda: lines.count("New message: Hello!") == 2, "both messages")
            renewed = service.http.post(f"{service.url}/{session['sessionId']}/renew", timeout=10).json()
            until(lambda: f"Session renewed until {renewed['expiresAt']}" in lines, "the renewal")
            service.advance(minutes=8, ms=500)
            until(lambda: any(line.startswith("Session expires in") for line in lines), "the warning")
            service.advance(minutes=2)
            until(
                lambda: f"Session {session['sessionId']} expired at {renewed['expiresAt']}" in lines,
                "the expiry",
            )
            process.stdin.close()
        finally:
            # Before the block ends: it would wait for the reader, who waits for the process.
            process.kill()
            reader.join(timeout=10)
    assert len(lines) == 6, lines


def test_the_snippet_of_our_docs_prints_what_was_said_before(
    service: Serve, modules: Path, tmp_path: Path
) -> None:
    session = service.create()
    send(service, session["sessionId"], "said before")
    replies(service, session["sessionId"], 1)
    head = "const { io } = require('socket.io-client');\nconst [url, sessionId] = process.argv.slice(2);\n"
    snippet = example("listen.js").replace('"http://127.0.0.1:3000"', "url")
    (tmp_path / "snippet.cjs").write_text(
        f"{head}{snippet}let left = 2;\nsocket.on('messageBroadcast', () => --left || process.exit(0));"
    )
    done = subprocess.run(
        [str(NODE), "snippet.cjs", origin(service), session["sessionId"]],
        cwd=tmp_path,
        env={"NODE_PATH": str(modules)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "said before\n" * 2), done.stderr


def test_the_pieces_that_our_docs_show_are_never_void(service: Serve, modules: Path, tmp_path: Path) -> None:
    """An attempt fails after it has sent a piece, the next one replies; then one fails for good."""
    head = (
        "const { io } = require('socket.io-client');\nconst [url, roomId] = "
        "process.argv.slice(2);\nconst socket = io(url);"
    )
    names = ["messageStreamChunk", "messageStreamAborted", "agentReplyFailed", "messageBroadcast"]
    tell = (
        f"for (const name of {names})\n  socket.on(name, (e) => console.log(JSON.stringify([name, "
        "[...pieces.values()], e])));"
    )
    join = "socket.emit('join', { roomId }, () => console.log('[]'));"
    (tmp_path / "pieces.cjs").write_text("\n".join([head, example("pieces.js"), tell, join]))
    agent_id = stream_agent(service)
    session_id = service.create(agentId=agent_id)["sessionId"]
    command = [str(NODE), "pieces.cjs", origin(service), session_id]
    process = subprocess.Popen(
        command, cwd=tmp_path, env={"NODE_PATH": str(modules)}, stdout=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()

    def said() -> tuple[str, list[str], dict]:
        return tuple(json.loads(process.stdout.readline()))

    try:
        with process, Worker(service.channel, agent_id) as worker:
            try:
                assert said() == ()
                send(service, session_id, "hello")
                first = worker.next()
                worker.chunk(first, "half a ")
                assert said()[:2] == ("messageBroadcast", [])
                assert said()[:2] == ("messageStreamChunk", ["half a "])
                worker.fail(first, "not now")
                void = {"messageId": first.reply_message_id, "sessionId": session_id, "attempt": 1}
                assert said() == ("messageStreamAborted", [], void)
                second = worker.next()
                worker.chunk(second, "whole")
                name, shown, chunk = said()
                assert (name, shown, chunk["attempt"], chunk["messageId"]) == (
                    "messageStreamChunk",
                    ["whole"],
                    2,
                    second.reply_message_id,
                )
                worker.answer(second, "whole")
                assert said()[:2] == ("messageBroadcast", [])
                send(service, session_id, "again")
                third = worker.next()
                worker.chunk(third, "never ")
                assert [said()[:2] for _ in range(2)] == [
                    ("messageBroadcast", []),
                    ("messageStreamChunk", ["never "]),
                ]
                worker.fail(third, "for good", final=True)
                assert said()[:2] == ("messageStreamAborted", [])
                name, shown, failed = said()
                assert (name, shown, failed["replyMessageId"]) == (
                    "agentReplyFailed",
                    [],
                    third.reply_message_id,
                )
                assert set(failed) == {
                    "sessionId",
                    "messageId",
                    "replyMessageId",
                    "reason",
                    "attempts",
                    "sequence",
                }
            finally:
                process.kill()
    finally:
        watchdog.cancel()


def test_the_snippet_of_our_docs_sends(service: Serve, modules: Path, tmp_path: Path) -> None:
    session_id = service.create()["sessionId"]
    head = "const { io } = require('socket.io-client');\nconst [url, sessionId] = process.argv.slice(2);\n"
    head += "const socket = io(url);\n"
    snippet = example("sending.js")
    (tmp_path / "sending.cjs").write_text(f"{head}{snippet}socket.on('messageAck', () => process.exit(0));")
    done = subprocess.run(
        [str(NODE), "sending.cjs", origin(service), session_id],
        cwd=tmp_path,
        env={"NODE_PATH": str(modules)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "mine-1 received_by_server_and_processing\n"), done.stderr
    assert [message.content for message in replies(service, session_id, 1)] == ["Hello!"]


# Going on where one left off.


def test_joining_again_and_again_takes_no_streams(start: Start, connect: Connect) -> None:
    """A socket that has missed nothing needs no stream of its own to catch up: that one must be closed."""
    service = start(MAX_STREAMS="12")
    session = service.create()
    present = joined(connect(origin(service)), session["sessionId"])
    for _ in range(30):
        assert present.call("join", {"roomId": session["sessionId"], "after": 0}) == {"success": True}
    with requests.get(f"{service.url}/{session['sessionId']}/events", stream=True, timeout=15) as response:
        assert response.status_code == 200


@pytest.mark.parametrize("after", [0, 1, 3, 4, "2"])
def test_joining_replays_what_was_missed(
    service: Serve, connect: Connect, kind: str, after: int | str
) -> None:
    session_id = service.create()["sessionId"]
    for number in range(2):
        send(service, session_id, f"missed {number}")
        replies(service, session_id, number + 1)
    client = joined(connect(origin(service), kind), session_id, after=after)
    send(service, session_id, "live")
    ids = [
        message.message_id for message in (replies(service, session_id, 3) and history(service, session_id))
    ]
    until(lambda: len(client.sequences(session_id)) == 6 - int(after), "what was missed and what is live")
    assert client.sequences(session_id) == list(range(int(after) + 1, 7))
    assert [payload["id"] for payload in client.named("messageBroadcast")] == ids[int(after) :]
    welcomes = [name for name, payload in client.events if name in ("room_joined", "messageBroadcast")]
    assert welcomes[0] == "room_joined"


def test_replay_while_the_session_goes_on(service: Serve, connect: Connect, kind: str) -> None:
    """600 entries are more than a socket's backlog may be; more are made while it catches up."""
    session_id = service.create()["sessionId"]
    for number in range(300):
        send(service, session_id, f"missed {number}")
    replies(service, session_id, 300)

    def go_on() -> None:
        for number in range(100):
            send(service, session_id, f"live {number}")

    speaker = threading.Thread(target=go_on)
    speaker.start()
    client = connect(origin(service), kind)
    joined(client, session_id, after=10)
    speaker.join()
    until(lambda: len(client.sequences(session_id)) >= 790 or client.disconnects, "everything", 30)
    assert client.disconnects == []
    assert client.sequences(session_id) == list(range(11, 801))
    client.call("2", {"roomId": session_id, "message": "the end"})
    until(lambda: len(client.sequences(session_id)) >= 792, "the end")
    assert client.sequences(session_id) == list(range(11, 803))


def test_who_joined_with_nothing_missed_gets_the_pieces_of_the_next_reply(
    service: Serve, connect: Connect
) -> None:
    """A client that has everything and says so follows as live as any other: it gets the pieces of the next
    reply.
    """
    client = connect(origin(service))
    for _ in range(20):
        session_id = service.create()["sessionId"]
        joined(client, session_id, after=0)
        send(service, session_id, "one two three")
        until(lambda session_id=session_id: len(client.sequences(session_id)) == 2, "the reply")
        pieces = [
            piece["chunk"] for piece in client.named("messageStreamChunk") if piece["sessionId"] == session_id
        ]
        assert pieces == ["one ", "two ", "three"]


@pytest.fixture
def run_program() -> Iterator[Callable[[Program], Program]]:
    """Takes programs into its care: they are killed after the test."""
    with contextlib.ExitStack() as stack:

        def keeper(program: Program) -> Program:
            stack.callback(program.kill)
            return program

        yield keeper


def persistently(service: Callable[[], Serve], session_id: str, content: str) -> None:
    """Sends a message to a server that may be away, until it says that it has it."""

    def sent() -> bool:
        try:
            service().messages.SendMessage(
                SendMessageRequest(session_id=session_id, content=content), timeout=5
            )
        except (grpc.RpcError, ValueError):
            return False
        return True

    until(sent, content)


def test_a_server_that_is_killed_behind_the_facade(
    start: Start, connect: Connect, tmp_path: Path, run_program: Callable[[Program], Program]
) -> None:
    address, directory = free_address(), tmp_path / "server"
    running = [start("--no-rest", directory=directory, GRPC_ADDRESS=address)]
    front = run_program(Facade(address, "127.0.0.1:0", tmp_path / "facade"))
    url = f"http://{front.addresses['rest']}"
    made = (
        running[0]
        .http.post(f"{url}/api/messaging/sessions", json={"agentId": ECHO, "userId": USER}, timeout=10)
        .json()
    )
    session_id = made["sessionId"]
    clients = [connect(url, kind) for kind in KINDS]
    for client, more in zip(clients, ({}, {"after": 0}, {}, {"after": 0}), strict=True):
        joined(client, session_id, **more)

    stop, sent = threading.Event(), []

    def talk() -> None:
        while not stop.is_set():
            persistently(lambda: running[-1], session_id, f"message {len(sent)}")
            sent.append(len(sent))

    speaker = threading.Thread(target=talk)
    speaker.start()
    try:
        for round_number in range(2):
            goal = len(sent) + 20
            until(lambda goal=goal: len(sent) >= goal, "20 messages")
            running[-1].kill()
            if round_number:
                # A socket that speaks in the meantime hears that it cannot, and stays.
                assert (
                    clients[0].call("2", {"roomId": session_id, "message": "anyone?"})["code"]
                    == "UNAVAILABLE"
                )
            running.append(start("--no-rest", directory=directory, GRPC_ADDRESS=address))
        goal = len(sent) + 20
        until(lambda: len(sent) >= goal, "20 messages")
    finally:
        stop.set()
        speaker.join()
    # The facade looks for its server once a second.
    until(
        lambda: clients[1].call("2", {"roomId": session_id, "message": "the end"})["success"],
        "the facade to find the server",
    )
    until(
        lambda: (
            history(running[-1], session_id)[-1].content == "the end"
            and history(running[-1], session_id)[-1].is_agent
        ),
        "the reply",
    )
    log = [message.message_id for message in history(running[-1], session_id)]
    for client in clients:
        until(lambda client=client: len(client.sequences(session_id)) >= len(log), "every entry")
        assert client.sequences(session_id) == list(range(1, len(log) + 1))
        assert [payload["id"] for payload in client.named("messageBroadcast")] == log
        assert client.disconnects == []
        assert len(client.connects) == 1
    assert "Traceback" not in front.log_path.read_text()


def test_pieces_are_void_when_the_server_behind_the_facade_is_gone(
    start: Start, connect: Connect, tmp_path: Path, run_program: Callable[[Program], Program]
) -> None:
    """Nobody is left who could say so but the facade: the next server knows nothing of them."""
    address, directory = free_address(), tmp_path / "server"
    server = start("--no-rest", directory=directory, GRPC_ADDRESS=address)
    front = run_program(Facade(address, "127.0.0.1:0", tmp_path / "facade"))
    url = f"http://{front.addresses['rest']}"
    agent_id = stream_agent(server)
    session_id = create(server, agent_id).session_id
    members = [joined(connect(url), session_id), joined(connect(url, "python-polling"), session_id)]
    with requests.get(
        f"{url}/api/messaging/sessions/{session_id}/events", stream=True, timeout=30
    ) as response:
        lines = (line.decode() for line in response.iter_lines(chunk_size=1))
        with Worker(server.channel, agent_id) as worker:
            send(server, session_id, "hello")
            delivery = worker.next()
            worker.chunk(delivery, "half a ")
            for member in members:
                member.wait("messageStreamChunk")
            assert "event: messageStreamChunk" in lines
            server.kill()
            void = {"messageId": delivery.reply_message_id, "sessionId": session_id, "attempt": 1}
            for member in members:
                assert member.wait("messageStreamAborted") == [void]
            assert "event: messageStreamAborted" in lines
            assert json.loads(next(lines).removeprefix("data: ")) == void


# The end of the service.


@pytest.mark.parametrize("kind", ["javascript-websocket", "javascript-polling", "python-polling"])
def test_a_stop_with_a_socket_open_is_orderly(start: Start, connect: Connect, kind: str) -> None:
    service = start()
    client = joined(connect(origin(service), kind), service.create()["sessionId"])
    assert service.stop() == 0
    assert "Traceback" not in service.log()
    until(lambda: client.disconnects, "the client to notice")


def test_a_stop_does_not_wait_for_a_client_that_polls_no_more(start: Start) -> None:
    """A tab that was closed has said nothing: what is queued for it is never fetched."""
    service = start(SHUTDOWN_GRACE_SECONDS="1")
    session_id = service.create()["sessionId"]
    url = f"{origin(service)}/socket.io/?EIO=4&transport=polling"
    url += "&sid=" + requests.get(url, timeout=5).text.split('"sid":"')[1].split('"')[0]
    assert requests.post(url, data="40", timeout=5).text == "OK"
    assert requests.post(url, data=f'42["join",{{"roomId":"{session_id}"}}]', timeout=5).text == "OK"
    service.process.terminate()
    until(lambda: service.process.poll() is not None, "the end of the service", 8)
    assert service.stop() == 0


def test_the_last_poll_ends_when_its_client_says_goodbye(start: Start) -> None:
    """Over polling the last poll is to be answered when its client disconnects by another request."""
    service = start()
    url = f"{origin(service)}/socket.io/?EIO=4&transport=polling"
    url += "&sid=" + requests.get(url, timeout=5).text.split('"sid":"')[1].split('"')[0]
    assert requests.post(url, data="40", timeout=5).text == "OK"
    heard = ""
    while "connection_established" not in heard:
        heard += requests.get(url, timeout=5).text
    ended = threading.Event()

    def poll() -> None:
        with contextlib.suppress(requests.RequestException):
            requests.get(url, timeout=20)
        ended.set()

    threading.Thread(target=poll, daemon=True).start()
    assert requests.post(url, data="1", timeout=5).text == "OK"
    assert ended.wait(timeout=3), "the poll of a client that has disconnected is still open"
