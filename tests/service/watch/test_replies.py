"""Replies over REST to whoever waits for them: `transport: http` and `sse`."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
import requests

from tests.service.watch.event_stream import Body, Stream, code
from tests.support.realtime.programs import slow_agent
from tests.support.service import ECHO, USER, Serve
from tests.support.waiting import until


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
    pieces, aborts = (
        [(event.data["messageId"], event.data["attempt"]) for event in events if event.name == name]
        for name in ("chunk", "aborted")
    )
    # Where both were there at once the pieces are left out.
    assert set(pieces) <= set(aborts)
    assert len(events) == 2 + len(pieces) + len(aborts)
    assert [attempt for _, attempt in aborts] in ([], [1])
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
