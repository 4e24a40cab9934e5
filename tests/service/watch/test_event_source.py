"""Server-sent events as a browser and plain HTTP meet them, and the replies that a sender waits for."""

import asyncio
import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import requests

from eliza.sessions.v1.session_service_pb2 import DeleteSessionRequest
from tests.contract.answers import check_headers
from tests.contract.raw_http import request
from tests.support.clients import create, history, replies, send
from tests.support.realtime.programs import Facade, Program, free_address, slow_agent
from tests.support.service import ECHO, USER, Serve, Start
from tests.support.waiting import until

Body = dict[str, Any]

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-dev-shm-usage",
    ),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PAGE = """<!doctype html><title>events</title><script>
let number = 0;
const tell = (what) => fetch("/record", { method: "POST", body: JSON.stringify({ number: number++, ...what }) });
const events = new EventSource("URL");
events.onopen = () => tell({ state: "open" });
events.onerror = () => tell({ state: events.readyState === EventSource.CLOSED ? "closed" : "lost" });
for (const type of ["messageBroadcast", "sessionRenewed", "sessionTimeoutChanged", "sessionExpirationWarning", "sessionExpired",
                    "messageStreamChunk", "message"])
  events.addEventListener(type, (event) => tell({ type, id: event.lastEventId, data: JSON.parse(event.data) }));
</script>"""


class Event(NamedTuple):
    """A piece of a stream: an event, or a comment or a `retry:` by itself."""

    name: str
    data: Body
    id: int | None = None


class Stream:
    """A `text/event-stream` over plain HTTP, read piece by piece."""

    def __init__(self, url: str, method: str = "GET", **options: Any) -> None:
        self.response = requests.request(method, url, stream=True, timeout=15, **options)
        self._lines = self.response.iter_lines(chunk_size=1)

    def pieces(self) -> Iterator[Event]:
        fields: dict[str, str] = {}
        for raw in self._lines:
            line = raw.decode()
            if line:
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
            elif "" in fields:
                yield Event("comment", fields)
                fields = {}
            elif "retry" in fields:
                yield Event("retry", fields)
                fields = {}
            else:
                yield Event(
                    fields["event"], json.loads(fields["data"]), int(fields["id"]) if "id" in fields else None
                )
                fields = {}

    def take(self, count: int) -> list[Event]:
        """The next events, without comments and `retry:`."""
        found: list[Event] = []
        for piece in self.pieces():
            if piece.name not in ("comment", "retry"):
                found.append(piece)
            if len(found) == count:
                break
        return found

    def entries(self, count: int) -> list[Event]:
        """The next entries of the log, without the pieces of replies."""
        found: list[Event] = []
        while len(found) < count:
            (piece,) = self.take(1) or pytest.fail(f"the stream ended after {found}")
            if piece.id is not None:
                found.append(piece)
        return found


@pytest.fixture
def stream() -> Iterator[Callable[..., Stream]]:
    """Opens streams that are closed after the test."""
    with contextlib.ExitStack() as stack:

        def opener(url: str, method: str = "GET", **options: Any) -> Stream:
            opened = Stream(url, method, **options)
            stack.callback(opened.response.close)
            return opened

        yield opener


@pytest.fixture
def programs() -> Iterator[Callable[[Program], Program]]:
    """Takes programs into its care: they are killed after the test."""
    with contextlib.ExitStack() as stack:

        def keeper(program: Program) -> Program:
            stack.callback(program.kill)
            return program

        yield keeper


def events_url(service: Serve, session_id: str, query: str = "") -> str:
    return f"{service.url}/{session_id}/events{query}"


def talked(service: Serve, count: int, **body: Any) -> str:
    """A session in which so many messages were sent and answered."""
    session_id = service.create(**body)["sessionId"]
    for number in range(count):
        send(service, session_id, f"message {number}")
        replies(service, session_id, number + 1)
    return session_id


def code(response: requests.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


# The browser.


class Recorder(ThreadingHTTPServer):
    """Serves the page, and takes down what it reports."""

    daemon_threads = True

    def __init__(self, page: str) -> None:
        self.page = page.encode()
        self.heard: dict[int, Body] = {}
        super().__init__(("127.0.0.1", 0), _Handler)

    def records(self) -> list[Body]:
        """What the page reported, in its order."""
        return [self.heard[number] for number in sorted(self.heard)]

    def ids(self) -> list[int]:
        return [
            int(one["id"]) for one in self.records() if "id" in one and one["type"] != "messageStreamChunk"
        ]

    def states(self) -> list[str]:
        return [one["state"] for one in self.records() if "state" in one]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Recorder

    def do_GET(self) -> None:
        self._answer(self.server.page if self.path == "/" else b"")

    def do_POST(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.heard[said.pop("number")] = said
        self._answer(b"")

    def log_message(self, *_arguments: object) -> None:
        pass

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def browser(page: str, profile: Path, host: str = "127.0.0.1") -> Iterator[Recorder]:
    """A browser with a page open that comes from a host, which leads to this machine."""
    recorder = Recorder(page)
    thread = threading.Thread(target=recorder.serve_forever)
    thread.start()
    url = f"http://{host}:{recorder.server_address[1]}/"
    with (profile.parent / "chromium.log").open("wb") as log:
        chromium = subprocess.Popen(
            [
                CHROMIUM,
                *FLAGS,
                "--host-resolver-rules=MAP *.example 127.0.0.1",
                f"--user-data-dir={profile}",
                url,
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield recorder
    finally:
        chromium.terminate()
        try:
            chromium.wait(timeout=10)
        except subprocess.TimeoutExpired:
            chromium.kill()
            chromium.wait(timeout=10)
        recorder.shutdown()
        recorder.server_close()
        thread.join()


def test_a_browser_hears_everything_once_over_every_restart(
    start: Start, programs: Callable[[Program], Program], tmp_path: Path
) -> None:
    grpc_address, rest_address = free_address(), free_address()
    server = start("--no-rest", directory=tmp_path / "server", GRPC_ADDRESS=grpc_address, TEST_CLOCK="1")
    front = programs(Facade(grpc_address, rest_address, tmp_path / "facade"))
    base = f"http://{rest_address}/api/messaging/sessions"
    timeout = {"timeoutMinutes": 10, "warningThresholdMinutes": 2}
    made = requests.post(
        base, json={"agentId": ECHO, "userId": USER, "timeoutConfig": timeout}, timeout=10
    ).json()
    session_id = made["sessionId"]

    def say(content: str) -> None:
        response = requests.post(
            f"{base}/{session_id}/messages", json={"content": content, "transport": "http"}, timeout=15
        )
        assert response.status_code == 201, response.text

    say("before anyone listens")
    with browser(
        PAGE.replace("URL", f"{base}/{session_id}/events?after=0"), tmp_path / "profile"
    ) as recorder:

        def hears(count: int) -> None:
            until(
                lambda: len(recorder.ids()) >= count,
                f"{count} entries in the browser, not {recorder.records()}",
                30,
            )
            assert recorder.ids() == list(range(1, count + 1))

        hears(2)
        say("live in pieces")
        hears(4)

        front.kill()
        until(lambda: "lost" in recorder.states(), "the browser to see the facade gone")
        send(server, session_id, "while the facade is away")
        replies(server, session_id, 3)
        front = programs(Facade(grpc_address, rest_address, tmp_path / "facade"))
        hears(6)

        states = recorder.states()
        server.kill()
        server = start("--no-rest", directory=tmp_path / "server", GRPC_ADDRESS=grpc_address, TEST_CLOCK="1")
        send(server, session_id, "while the facade looks for the server")
        hears(8)
        assert recorder.states() == states, "the server's restart cost the browser its stream"

        # Both at once; the facade comes back first.
        server.kill()
        front.kill()
        programs(Facade(grpc_address, rest_address, tmp_path / "facade"))
        server = start("--no-rest", directory=tmp_path / "server", GRPC_ADDRESS=grpc_address, TEST_CLOCK="1")
        send(server, session_id, "after both were away")
        hears(10)

        assert requests.post(f"{base}/{session_id}/renew", timeout=10).status_code == 200
        assert (
            requests.patch(
                f"{base}/{session_id}/timeout", json={"timeoutMinutes": 20}, timeout=10
            ).status_code
            == 200
        )
        hears(12)
        server.advance(minutes=18, ms=500)
        hears(13)
        server.advance(minutes=3)
        hears(14)
        # With nothing left to hear the next request is answered 410, which ends the browser's attempts.
        until(lambda: recorder.states()[-1:] == ["closed"], "the browser to give up", 20)

    entries = [one for one in recorder.records() if one.get("type") not in (None, "messageStreamChunk")]
    assert [one["data"]["sequence"] for one in entries] == list(range(1, 15))
    names = ["messageBroadcast"] * 10 + [
        "sessionRenewed",
        "sessionTimeoutChanged",
        "sessionExpirationWarning",
        "sessionExpired",
    ]
    assert [one["type"] for one in entries] == names
    assert [one["data"]["text"] for one in entries[:10:2]] == [
        "before anyone listens",
        "live in pieces",
        "while the facade is away",
        "while the facade looks for the server",
        "after both were away",
    ]
    pieces = [one for one in recorder.records() if one.get("type") == "messageStreamChunk"]
    assert [one["data"]["chunk"] for one in pieces][:3] == ["live ", "in ", "pieces"]
    # A piece has no id of its own: the browser's stays that of the message it answers.
    assert [one["id"] for one in pieces][:3] == ["3"] * 3


def test_a_browser_that_is_refused_comes_back(
    start: Start, programs: Callable[[Program], Program], tmp_path: Path
) -> None:
    grpc_address = free_address()
    server = start("--no-rest", directory=tmp_path / "server", GRPC_ADDRESS=grpc_address)
    session_id = create(server).session_id
    server.kill()
    front = programs(Facade(grpc_address, "127.0.0.1:0", tmp_path / "facade", REST_DEADLINE_SECONDS="1"))
    events = f"http://{front.addresses['rest']}/api/messaging/sessions/{session_id}/events"
    with browser(PAGE.replace("URL", events), tmp_path / "profile") as recorder:
        until(lambda: "lost" in recorder.states(), "the browser to be refused", 30)
        assert recorder.states() == ["open", "lost"]
        server = start("--no-rest", directory=tmp_path / "server", GRPC_ADDRESS=grpc_address)
        send(server, session_id, "you are back")
        until(lambda: recorder.ids()[:1] == [1], "the browser to come back", 60)
        assert "closed" not in recorder.states()


# The stream over plain HTTP.


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
    ["x", "-1", "1.5", "+1", "1e3", "0x1", " ", "٣", "9223372036854775808", "9" * 400, "null", "1,2"],
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


# Replies to whoever waits for them.


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the sessions of a service whose agent does what it is told, and waits for it
    for a second.
    """
    program = slow_agent(tmp_path_factory.mktemp("told"), REPLY_DEADLINE_SECONDS="1")
    yield f"http://{program.addresses['rest']}/api/messaging/sessions"
    program.kill()


def created(base: str) -> str:
    return str(requests.post(base, json={"agentId": ECHO, "userId": USER}, timeout=10).json()["sessionId"])


def post(base: str, session_id: str, **body: object) -> requests.Response:
    return requests.post(f"{base}/{session_id}/messages", json=body, timeout=15)


def stored(base: str, session_id: str) -> list[Body]:
    """The history, oldest first."""
    return list(reversed(requests.get(f"{base}/{session_id}/messages", timeout=10).json()["messages"]))


def is_reply(reply: Body, in_history: Body) -> bool:
    return {
        **in_history,
        "text": "deep breath",
        "thought": "I was told to",
        "actions": ["THINK", "REPLY"],
    } == reply


MESSAGE = {"id", "content", "authorId", "createdAt", "metadata", "sessionStatus"}


@pytest.mark.parametrize(
    "way",
    [
        {"transport": "http"},
        {"mode": "sync"},
        {"transport": "http", "mode": "stream"},
        {"transport": "http", "mode": "nonsense"},
    ],
    ids=str,
)
def test_the_answer_may_hold_the_reply(told: str, way: Body) -> None:
    session_id = created(told)
    response = post(told, session_id, content="think deep breath", **way)
    assert response.status_code == 201
    body = response.json()
    assert set(body) == {*MESSAGE, "agentResponse"}
    mine, its = stored(told, session_id)
    assert (mine["id"], mine["content"]) == (body["id"], "think deep breath")
    reply = body["agentResponse"]
    assert set(reply) == {
        "id",
        "content",
        "authorId",
        "isAgent",
        "createdAt",
        "metadata",
        "text",
        "thought",
        "actions",
    }
    assert (reply["text"], reply["content"], reply["authorId"], reply["isAgent"]) == (
        "deep breath",
        "deep breath",
        ECHO,
        True,
    )
    assert (reply["thought"], reply["actions"]) == ("I was told to", ["THINK", "REPLY"])
    assert (reply["metadata"]["thought"], reply["metadata"]["actions"]) == (
        reply["thought"],
        reply["actions"],
    )
    assert reply["metadata"]["mood"] == "calm"
    assert is_reply(reply, its)


@pytest.mark.parametrize(
    "way", [{"transport": "sse"}, {"mode": "stream"}, {"transport": "sse", "mode": "sync"}], ids=str
)
def test_the_reply_may_come_piece_by_piece(told: str, stream: Callable[..., Stream], way: Body) -> None:
    session_id = created(told)
    opened = stream(f"{told}/{session_id}/messages", "POST", json={"content": "think deep breath", **way})
    assert opened.response.status_code == 200
    assert opened.response.headers["Content-Type"].startswith("text/event-stream")
    events = opened.take(100)
    assert [event.name for event in events] == ["user_message", "chunk", "chunk", "done"]
    mine, its = stored(told, session_id)
    assert set(events[0].data) == MESSAGE
    assert events[0].data["id"] == mine["id"]
    pieces = [event.data for event in events[1:3]]
    assert pieces == [
        {"messageId": its["id"], "chunk": text, "index": index, "attempt": 1}
        for index, text in enumerate(("deep ", "breath "))
    ]
    assert is_reply(events[3].data, its)


@pytest.mark.parametrize(
    "way", [{}, {"transport": "websocket"}, {"mode": "websocket"}, {"transport": None, "mode": None}], ids=str
)
def test_the_answer_may_not_wait(told: str, way: Body) -> None:
    session_id = created(told)
    response = post(told, session_id, content="sleep 60", **way)
    assert response.status_code == 201
    assert set(response.json()) == MESSAGE
    assert len(stored(told, session_id)) == 1


@pytest.mark.parametrize("value", ["nonsense", "", "HTTP", 5, True, [], {}, ["http"]], ids=repr)
def test_any_other_transport_is_refused(told: str, value: object) -> None:
    session_id = created(told)
    refused = post(told, session_id, content="hi", transport=value, mode="sync")
    assert code(refused) == (400, "INVALID_CONTENT")
    assert "content" in refused.json()["error"]
    assert code(post(told, session_id, content="hi", mode=value)) == (400, "INVALID_CONTENT")
    assert stored(told, session_id) == []


@pytest.mark.parametrize("transport", ["http", "sse"])
def test_errors_before_the_stream_are_ordinary_answers(told: str, transport: str) -> None:
    session_id, deleted = created(told), created(told)
    requests.delete(f"{told}/{deleted}", timeout=10)
    for answer, expected in (
        (post(told, session_id, content="", transport=transport), (400, "INVALID_CONTENT")),
        (post(told, session_id, transport=transport), (400, "INVALID_CONTENT")),
        (post(told, session_id, content="x" * 4001, transport=transport), (400, "INVALID_CONTENT")),
        (post(told, session_id, content="hi", metadata=[], transport=transport), (400, "INVALID_METADATA")),
        (
            post(told, session_id, content="hi", metadata={"a": "x" * 10_240}, transport=transport),
            (400, "INVALID_METADATA"),
        ),
        (post(told, deleted, content="hi", transport=transport), (404, "SESSION_NOT_FOUND")),
        (post(told, deleted, content="", transport=transport), (404, "SESSION_NOT_FOUND")),
    ):
        assert code(answer) == expected
        assert answer.headers["Content-Type"].startswith("application/json")
    assert stored(told, session_id) == []


@pytest.mark.parametrize("transport", ["http", "sse"])
def test_an_expired_session_takes_no_message(service: Serve, transport: str) -> None:
    session_id = service.create(timeoutConfig={"timeoutMinutes": 5})["sessionId"]
    service.advance(minutes=6)
    assert code(post(service.url, session_id, content="hi", transport=transport)) == (410, "SESSION_EXPIRED")
    assert code(post(service.url, session_id, content="", transport=transport)) == (410, "SESSION_EXPIRED")


@pytest.mark.parametrize(
    ("content", "status", "expected"),
    [("sleep 2", 504, "AGENT_REPLY_TIMEOUT"), ("fail now", 502, "AGENT_REPLY_FAILED")],
)
def test_a_reply_that_does_not_come_is_told_and_the_message_kept(
    told: str, stream: Callable[..., Stream], content: str, status: int, expected: str
) -> None:
    session_id = created(told)
    response = post(told, session_id, content=content, transport="http")
    assert code(response) == (status, expected)
    body = response.json()
    mine = stored(told, session_id)[0]
    assert (mine["content"], mine["id"]) == (content, body["details"]["messageId"])
    assert body["details"]["sessionId"] == session_id
    assert "told to fail" not in response.text

    session_id = created(told)
    events = stream(
        f"{told}/{session_id}/messages", "POST", json={"content": content, "transport": "sse"}
    ).take(100)
    void = [
        ("aborted", {"messageId": event.data["messageId"], "attempt": 1})
        for event in events
        if event.name == "chunk"
    ]
    assert [(event.name, event.data) for event in events[1:-1] if event.name != "chunk"] == void
    assert (events[0].name, events[-1].name) == ("user_message", "error")
    assert set(events[-1].data) == {"error", "details", "code"}
    assert events[-1].data["code"] == expected
    assert (
        events[-1].data["details"]["messageId"] == events[0].data["id"] == stored(told, session_id)[0]["id"]
    )
    if status == 504:
        # The message was kept, and its reply comes all the same.
        until(lambda: len(stored(told, session_id)) == 2, "the late reply")
    # The session is none the worse.
    assert post(told, session_id, content="hi", transport="http").json()["agentResponse"]["text"] == "hi"


async def test_those_who_wait_do_not_queue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """200 sessions wait for an agent that takes two seconds: together they wait for little more than that."""
    program = await asyncio.to_thread(slow_agent, tmp_path)
    base = f"http://{program.addresses['rest']}/api/messaging/sessions"
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

            async def call(url: str, body: Body) -> Body:
                async with http.post(url, json=body) as response:
                    assert response.status == 201, await response.text()
                    return dict(await response.json())

            made = await asyncio.gather(*(call(base, {"agentId": ECHO, "userId": USER}) for _ in range(200)))
            began = time.monotonic()
            body = {"content": "sleep 2", "transport": "http"}
            answers = await asyncio.gather(
                *(call(f"{base}/{one['sessionId']}/messages", body) for one in made)
            )
            took = time.monotonic() - began
    finally:
        program.kill()
    with capsys.disabled():
        print(f"\n200 replies of 2 s each in {took:.2f} s")
    assert [answer["agentResponse"]["text"] for answer in answers] == ["sleep 2"] * 200
    assert 2 <= took < 10
