"""Socket.IO as its real clients meet it: both languages, both transports, both dialects."""

import contextlib
import threading
from collections.abc import Callable

import pytest
import requests

from eliza.sessions.v1.session_service_pb2 import DeleteSessionRequest
from tests.service.socketio.rooms import contiguous, joined, origin, texts
from tests.support.clients import history, replies, send
from tests.support.realtime.sockets import Connect
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


@pytest.mark.parametrize("connected", [True, False])
def test_the_last_poll_ends_when_its_client_says_goodbye(start: Start, connected: bool) -> None:
    """Over polling the last poll is to be answered when its client disconnects by another request: also where
    Socket.IO has refused it, or it never asked.
    """
    service = start()
    url = f"{origin(service)}/socket.io/?EIO=4&transport=polling"
    url += "&sid=" + requests.get(url, timeout=5).text.split('"sid":"')[1].split('"')[0]
    if connected:
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
