"""Server-sent events as plain HTTP meets them."""

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
import requests

from eliza.sessions.v1.agent_pb2 import AGENT_KIND_STREAM, Agent
from eliza.sessions.v1.agent_service_pb2 import CreateAgentRequest
from eliza.sessions.v1.session_service_pb2 import DeleteSessionRequest
from tests.contract.answers import check_headers
from tests.contract.raw_http import request
from tests.service.watch.event_stream import Event, Stream, code, events_url, talked
from tests.support.clients import history, send
from tests.support.service import Serve, Start


def test_a_stream_is_utf_8_and_has_no_other_ends_of_lines(
    service: Serve, stream: Callable[..., Stream]
) -> None:
    text = "a\x85b\u2028c\u2029d é 😀 \\u2028"
    session_id = service.create()["sessionId"]
    sent = stream(f"{service.url}/{session_id}/messages", "POST", json={"content": text, "transport": "sse"})
    followed = stream(events_url(service, session_id))
    for opened, count in ((sent, 1), (followed, 1)):
        assert opened.response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        lines = b""
        while lines.count(b"data:") < count or not lines.endswith(b"\n\n"):
            lines += opened.response.raw.read(1)
        assert rb"a\u0085b\u2028c\u2029d" in lines
        data = next(line for line in lines.decode().splitlines() if line.startswith("data: "))
        assert text in (
            json.loads(data.removeprefix("data: ")).get("content"),
            json.loads(data.removeprefix("data: ")).get("text"),
        )


@pytest.mark.parametrize("kept", [(), (("Connection", "keep-alive"),)], ids=["", "keep-alive"])
def test_an_old_client_gets_its_stream_without_chunks(
    service: Serve, kept: tuple[tuple[str, str], ...]
) -> None:
    """HTTP/1.0 has no transfer codings (RFC 9112, 6.1): the end of the connection is the end of
    the answer.
    """
    session_id = talked(service, 1)
    path = f"/api/messaging/sessions/{session_id}"
    kind = ("Content-Type", "application/json")
    for content, begin, end in (
        (
            request("POST", f"{path}/messages", b'{"content": "hi", "transport": "sse"}', (kind, *kept)),
            b"event: user_message\n",
            b"\n\n",
        ),
        (request("GET", f"{path}/events", None, kept), b"retry: 1000\n\nid: 1\n", None),
        (request("GET", "/socket.io/?EIO=4&transport=polling", None, kept), b'0{"sid"', b"}"),
        (request("GET", path, None, kept), b'{"', b"}"),
        (request("GET", f"{path}/nothing", None, kept), b'{"error"', b"}"),
    ):
        host, _, port = service.rest.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=15) as connection:
            connection.sendall(content.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1))
            said = b""
            # The stream of events goes on.
            while not (end is None and begin in said) and (part := connection.recv(65_536)):
                said += part
        head, _, body = said.partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert b"connection: close" in head.lower()
        assert body.startswith(begin)
        assert end is None or body.endswith(end)


def test_a_stream_from_the_start(service: Serve, stream: Callable[..., Stream]) -> None:
    session_id = talked(service, 2)
    opened = stream(events_url(service, session_id))
    assert opened.response.status_code == 200
    assert opened.response.headers["Content-Type"].startswith("text/event-stream")
    assert opened.response.headers["Cache-Control"] == "no-cache"
    check_headers(opened.response.headers)
    first = next(opened.pieces())
    assert first.name == "retry"
    assert int(first.data["retry"]) > 0
    events = opened.take(4)
    assert [(event.name, event.id) for event in events] == [
        ("messageBroadcast", number) for number in (1, 2, 3, 4)
    ]
    assert [event.data["sequence"] for event in events] == [1, 2, 3, 4]
    assert [event.data["id"] for event in events] == [
        message.message_id for message in history(service, session_id)
    ]
    assert {event.data["roomId"] for event in events} == {session_id}
    assert all(event.data["sessionStatus"]["wasRenewed"] is not event.data["isAgent"] for event in events)


@pytest.mark.parametrize(
    ("query", "headers", "expected"),
    [
        ("?after=0", {}, 1),
        ("?after=2", {}, 3),
        ("?after=", {}, 1),
        ("", {"Last-Event-ID": "3"}, 4),
        ("?after=0", {"Last-Event-ID": "2"}, 3),
        ("?after=3", {"Last-Event-ID": ""}, 4),
        ("?after=4", {}, 5),
        ("?after=0000002", {}, 3),
        (f"?after={'0' * 5000}2", {}, 3),
    ],
)
def test_where_a_stream_starts(
    service: Serve, stream: Callable[..., Stream], query: str, headers: dict[str, str], expected: int
) -> None:
    session_id = talked(service, 2)
    opened = stream(events_url(service, session_id, query), headers=headers)
    send(service, session_id, "one more")
    assert [event.id for event in opened.entries(7 - expected)] == list(range(expected, 7))


@pytest.mark.parametrize(
    "garbage",
    [
        *("x", "-1", "1.5", "+1", "1e3", "0x1", " ", "٣", "9223372036854775808", "9" * 400, "null", "1,2"),
        "0" * 20 + "9" * 20,
    ],
)
@pytest.mark.parametrize("place", ["query", "header"])
def test_garbage_is_no_place_to_start(service: Serve, garbage: str, place: str) -> None:
    session_id = service.create()["sessionId"]
    options: dict[str, Any] = {"params": {"after": garbage}}
    if place == "header":
        if not garbage.strip():
            garbage = "x y"
        options = {"headers": {"Last-Event-ID": garbage.encode()}}
    response = requests.get(events_url(service, session_id), timeout=10, **options)
    assert code(response) == (400, "INVALID_FIELD")
    assert response.headers["Content-Type"].startswith("application/json")
    # The session comes first.
    assert code(requests.get(events_url(service, "nobody"), timeout=10, **options)) == (
        404,
        "SESSION_NOT_FOUND",
    )


def test_a_place_beyond_the_end_is_refused_under_the_name_that_the_request_gives_it(service: Serve) -> None:
    session_id = service.create()["sessionId"]
    response = requests.get(events_url(service, session_id, "?after=1000"), timeout=10)
    assert code(response) == (400, "INVALID_FIELD")
    assert response.json()["error"].startswith("after ")
    assert (response.json()["details"]["field"], response.json()["details"]["value"]) == ("after", "1000")


def test_a_streamed_reply_that_is_waited_for_says_that_it_is_alive(
    start: Start, stream: Callable[..., Stream]
) -> None:
    service = start(STREAM_HEARTBEAT_SECONDS="0.2")
    wanted = Agent(name="nobody works for it", kind=AGENT_KIND_STREAM)
    agent_id = service.agents.CreateAgent(CreateAgentRequest(agent=wanted), timeout=5).agent.agent_id
    session_id = service.create(agentId=agent_id)["sessionId"]
    body = {"content": "hi", "transport": "sse"}
    pieces = stream(f"{service.url}/{session_id}/messages", method="POST", json=body).pieces()
    assert [next(pieces).name for _ in range(4)] == ["user_message", "comment", "comment", "comment"]


def test_an_idle_stream_says_that_it_is_alive(start: Start, stream: Callable[..., Stream]) -> None:
    service = start(STREAM_HEARTBEAT_SECONDS="0.2")
    session_id = service.create()["sessionId"]
    pieces = stream(events_url(service, session_id)).pieces()
    assert [next(pieces).name for _ in range(4)] == ["retry", "comment", "comment", "comment"]
    send(service, session_id, "hi")
    assert next(piece for piece in pieces if piece.name != "comment").data["text"] == "hi"


def test_an_expired_session_gives_what_is_left_and_then_is_gone(
    service: Serve, stream: Callable[..., Stream]
) -> None:
    session_id = talked(service, 1, timeoutConfig={"timeoutMinutes": 5, "warningThresholdMinutes": 1})
    listening = stream(events_url(service, session_id, "?after=2"))
    service.advance(minutes=6)
    events = listening.take(100)
    assert events[-1].name == "sessionExpired"
    last = events[-1].id
    late = stream(events_url(service, session_id, "?after=1")).take(100)
    assert [event.id for event in late] == list(range(2, last + 1))
    assert code(requests.get(events_url(service, session_id, f"?after={last}"), timeout=10)) == (
        410,
        "SESSION_EXPIRED",
    )
    assert code(requests.get(events_url(service, session_id, "?after=x"), timeout=10))[0] == 410


def test_that_a_session_is_expired_is_said_before_what_is_wrong_with_after(service: Serve) -> None:
    """Order of checks: the session exists (404), it is live (410), the request is valid (400)."""
    session_id = service.create(timeoutConfig={"timeoutMinutes": 5})["sessionId"]
    service.advance(minutes=6)
    assert code(requests.get(events_url(service, session_id, "?after=1000"), timeout=10)) == (
        410,
        "SESSION_EXPIRED",
    )


def test_deleting_a_session_ends_its_streams(service: Serve, stream: Callable[..., Stream]) -> None:
    session_id = talked(service, 1)
    opened = stream(events_url(service, session_id))
    assert len(opened.take(2)) == 2
    service.sessions.DeleteSession(DeleteSessionRequest(session_id=session_id), timeout=10)
    assert opened.take(2) == [Event("sessionDeleted", {"sessionId": session_id})]
    assert code(requests.get(events_url(service, session_id), timeout=10)) == (404, "SESSION_NOT_FOUND")


def test_head_of_a_stream_ends_at_once(service: Serve) -> None:
    session_id = talked(service, 1)
    response = requests.head(events_url(service, session_id), timeout=5)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["Content-Type"].startswith("text/event-stream")
    assert requests.head(events_url(service, session_id, "?after=x"), timeout=5).status_code == 400
    assert requests.head(events_url(service, "nobody"), timeout=5).status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_stream_is_only_read(service: Serve, method: str) -> None:
    assert code(requests.request(method, events_url(service, "nobody"), timeout=5)) == (
        405,
        "METHOD_NOT_ALLOWED",
    )
