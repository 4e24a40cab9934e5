"""What is wrong with an event is told, and the socket stays usable."""

import pytest

from rest_facade.socketio.client_events import MAX_HINTS
from tests.service.socketio.rooms import LONE, joined, origin
from tests.support.clients import history
from tests.support.realtime.sockets import Connect
from tests.support.service import ECHO, UNKNOWN, USER, Serve

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
