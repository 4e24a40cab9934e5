"""The kind `openai`: what is asked, what becomes of every answer, and a conversation with a real server of
the protocol.
"""

import asyncio
import importlib.util
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from server.agents import guarded_http, hosts, openai
from server.domain.access import EVERYTHING
from server.domain.agents import Agent, OpenAiSettings
from server.domain.errors import InvalidFieldError
from tests.service.agents.asking import ATTEMPTS, Asking, agent, asking, cannot_be_asked, fails, rests
from tests.service.agents.openai_server import (
    DONE,
    ROLE,
    STOP,
    USAGE,
    Endpoint,
    completion,
    error,
    failure,
    llama,
    part,
    problem,
)
from tests.service.agents.webhook_server import (
    EVENTS,
    Behaviour,
    Request,
    answer,
    drip,
    flood,
    hanging,
    head,
    reset,
    said,
)

KEY = "sk-test-0123456789"
PATIENCE = 30.0
BRIEF = 0.1
REFUSED = f"the agent's host {hosts.REFUSED}"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Asking]:
    """Agents may be on 127.0.0.1."""
    async with asking(tmp_path_factory.mktemp("here")) as running:
        yield running


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_SECRET_OPENAI", KEY)
    # The service's own, which no agent without a key may send.
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-service")


def settings(base_url: str, **fields: Any) -> OpenAiSettings:
    return OpenAiSettings(**{"model": "m", "base_url": base_url, "timeout_seconds": PATIENCE, **fields})


def says(*contents: str) -> list[dict[str, str]]:
    """A conversation in which the user speaks first."""
    return [
        {"role": "assistant" if index % 2 else "user", "content": content}
        for index, content in enumerate(contents)
    ]


# What is asked.


async def test_the_conversation_is_asked_for_and_its_completion_is_the_reply(here: Asking) -> None:
    with Endpoint(completion("Hel", "lo ", "🤖"), completion("again")) as endpoint:
        session_id = await here.session(
            settings(endpoint.base_url, api_key="env:AGENT_SECRET_OPENAI", system_prompt="Be kind.")
        )
        first = await here.ask(session_id, "hi")
        second = await here.ask(session_id, "ünï")
    assert (first.message.content, first.chunks) == ("Hello 🤖", ["Hel", "lo ", "🤖"])
    assert (second.message.content, second.message.metadata, second.message.thought) == ("again", "{}", None)
    system = {"role": "system", "content": "Be kind."}
    asked = [request.json for request in endpoint.requests]
    assert asked == [
        {"model": "m", "stream": True, "messages": [system, *says("hi")]},
        {"model": "m", "stream": True, "messages": [system, *says("hi", "Hello 🤖", "ünï")]},
    ]
    assert {request.headers["authorization"] for request in endpoint.requests} == {f"Bearer {KEY}"}
    assert [problem(request) for request in endpoint.requests] == [None, None]


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0.0}, {"temperature": 1.5, "top_p": 0.25, "max_tokens": 7}], ids=str
)
async def test_only_the_sampling_that_is_set_is_asked_for(here: Asking, sampling: dict[str, float]) -> None:
    with Endpoint(completion("x")) as endpoint:
        await here.ask(await here.session(settings(endpoint.base_url, **sampling)))
    assert endpoint.requests[0].json == {"model": "m", "stream": True, "messages": says("hello"), **sampling}


async def test_without_a_key_none_is_sent_not_even_that_of_the_environment(here: Asking) -> None:
    with Endpoint(completion("x")) as endpoint:
        await here.ask(await here.session(settings(endpoint.base_url)))
    assert endpoint.requests[0].headers["authorization"] == "Bearer none"


@pytest.mark.parametrize(
    ("window", "shown"),
    [
        ({}, ["one", "first", "two", "second", "three"]),
        ({"history_messages": 1}, ["three"]),
        ({"history_messages": 2}, ["second", "three"]),
        ({"history_messages": 5}, ["one", "first", "two", "second", "three"]),
        ({"history_characters": 1}, ["three"]),
        ({"history_characters": 5}, ["three"]),
        ({"history_characters": 10}, ["three"]),
        ({"history_characters": 11}, ["second", "three"]),
        ({"history_characters": 14}, ["two", "second", "three"]),
        ({"history_characters": 18}, ["two", "second", "three"]),
        ({"history_characters": 19}, ["first", "two", "second", "three"]),
    ],
    ids=str,
)
async def test_the_window_is_in_messages_and_in_characters(
    here: Asking, window: dict[str, int], shown: list[str]
) -> None:
    with Endpoint(completion("first"), completion("second"), completion("third")) as endpoint:
        session_id = await here.session(settings(endpoint.base_url, system_prompt="s" * 100, **window))
        for content in ("one", "two", "three"):
            await here.ask(session_id, content)
    system, *messages = endpoint.requests[-1].json["messages"]
    assert system["role"] == "system"
    assert [message["content"] for message in messages] == shown
    # From the last back they take turns, and the last is the user's.
    assert [message["role"] for message in messages[::-1]] == [
        "user" if index % 2 == 0 else "assistant" for index in range(len(shown))
    ]


async def test_each_piece_is_told_before_the_next_is_sent(here: Asking) -> None:
    seen = threading.Semaphore(0)
    with Endpoint(
        completion("one ", "two ", "three", pace=lambda: seen.acquire(timeout=PATIENCE))
    ) as endpoint:
        answered = await here.ask(
            await here.session(settings(endpoint.base_url)), seen=lambda _: seen.release()
        )
    assert (answered.chunks, answered.message.content) == (["one ", "two ", "three"], "one two three")


# What becomes of an answer.


class Case(NamedTuple):
    """What the endpoint does, request by request, and what comes of it: the reply, or why there is none; and
    after how many attempts.
    """

    behaviours: list[Behaviour]
    reply: str | None
    reason: str | None
    attempts: int
    timeout_seconds: float = PATIENCE


def replied(reply: str, *behaviours: Behaviour) -> Case:
    return Case(list(behaviours), reply, None, len(behaviours))


def final(reason: str, behaviour: Behaviour) -> Case:
    return Case([behaviour], None, reason, 1)


def retried(reason: str, behaviour: Behaviour, timeout_seconds: float = PATIENCE) -> Case:
    return Case([behaviour], None, reason, ATTEMPTS, timeout_seconds)


def stream(*parts: bytes) -> Behaviour:
    return said(head(content_type=EVENTS), *parts)


HALF = part({"content": "half a "})
EMPTY = "the agent's reply cannot be stored: Invalid content: content must have 1 to 100000 characters"
LONG = "the agent's reply cannot be stored: Invalid content: a reply must have at most 100000 characters"
NO_COMPLETION = "the agent's answer is no completion"
LATE = f"the agent did not reply within {BRIEF:g} seconds"
LOST = "the agent cannot be reached: RemoteProtocolError"
TOO_LARGE = f"the agent's answer is larger than {guarded_http.MAX_RESPONSE_BYTES} bytes"
CHUNKED = head(content_type=EVENTS, headers={"Transfer-Encoding": "chunked"}) + b"%x\r\n%b\r\n" % (
    len(HALF),
    HALF,
)

HEAD_429 = head(429, headers={"Retry-After": "7", "Content-Length": "1000"})
SECOND = b'data: {"choices":[{"index":0,"delta":{}},{"index":1,"delta":{"content":"two"}}]}\n\n'

CASES: dict[str, Case] = {
    "as long as can be": replied("🤖" * 100_000, completion("🤖" * 60_000, "🤖" * 40_000)),
    "a second choice is passed over": replied(
        "one",
        stream(
            part({"content": "one"}),
            b'data: {"choices":[{"index":0,"delta":{}},{"index":1,"delta":{"content":"two"}}]}\n\n',
            STOP,
            DONE,
        ),
    ),
    "comments, and fields that are not known": replied(
        "x", stream(b": ping\n\n", part({"content": "x", "odd": 1}, system="y"), STOP, DONE)
    ),
    "429 with Retry-After, then 200": replied("x", error(429, Retry_After="0"), completion("x")),
    "500, then 200": replied("x", error(500), completion("x")),
    "503, then 200": replied("x", error(503), completion("x")),
    "closes, then 200": replied("x", said(), completion("x")),
    "breaks off in the middle, then 200": replied(
        "whole", reset(head(content_type=EVENTS), ROLE, HALF), completion("whole")
    ),
    "409, then 200": replied("x", error(409), completion("x")),
    "a whole completion whose connection breaks": replied(
        "whole", reset(head(content_type=EVENTS), part({"content": "whole"}), STOP)
    ),
    "a whole completion in a chunked body that does not end": replied(
        "half a ", said(CHUNKED + b"%x\r\n%b\r\n" % (len(STOP), STOP))
    ),
    "no finish_reason before [DONE]": replied("half a ", stream(ROLE, HALF, DONE)),
    "a byte order mark": replied("half a ", stream(b"\xef\xbb\xbf" + HALF, STOP, DONE)),
    "a stream by another name": replied(
        "half a ", said(head(content_type="text/plain; charset=latin-1"), part({"content": "half a "}), STOP)
    ),
    "bytes that are not UTF-8": replied(
        "a\ufffdb", stream(b'data: {"choices":[{"delta":{"content":"a\xffb"}}]}\n\n', STOP, DONE)
    ),
    "neither text nor finish_reason before [DONE]": retried(
        "the agent's answer broke off", stream(ROLE, DONE)
    ),
    "408 for ever": retried("the agent answered with status 408", error(408)),
    "425 for ever": retried("the agent answered with status 425", error(425)),
    "429 for ever": retried("the agent answered with status 429", error(429)),
    "500 for ever": retried("the agent answered with status 500", error(500)),
    "400": final("the agent answered with status 400", error(400)),
    "401": final("the agent answered with status 401", error(401)),
    "404": final("the agent answered with status 404", error(404)),
    "a redirect": final(
        "the agent answered with status 307", answer(b"", 307, headers={"Location": "http://127.0.0.1:1/"})
    ),
    "an error in the middle": retried(
        NO_COMPLETION, stream(ROLE, HALF, b"data: " + json.dumps(failure("oh")).encode() + b"\n\n")
    ),
    "an error event": retried(
        NO_COMPLETION, stream(ROLE, HALF, b'event: error\ndata: {"message":"oh"}\n\n', STOP, DONE)
    ),
    "an error event that is not JSON": retried(
        NO_COMPLETION, stream(ROLE, HALF, b"event: error\ndata: oh\n\n", STOP, DONE)
    ),
    "an error object": retried(
        NO_COMPLETION, stream(ROLE, HALF, b'data: {"object":"error","message":"oh"}\n\n', STOP, DONE)
    ),
    "an error of one word": retried(
        NO_COMPLETION, stream(ROLE, HALF, b'data: {"error":"oh"}\n\n', STOP, DONE)
    ),
    "ends in the middle of a chunked body": retried(LOST, said(CHUNKED)),
    "closes at once": retried(LOST, said()),
    "garbage instead of HTTP": retried(LOST, said(b"what?\r\n\r\n")),
    "hangs before the head": retried(LATE, hanging(), BRIEF),
    "hangs in the middle": retried(LATE, hanging(head(content_type=EVENTS), HALF), BRIEF),
    "talks for ever": retried(LATE, drip(head(content_type=EVENTS), ROLE * 1000, 0.01), BRIEF),
    "an empty completion": final(EMPTY, completion()),
    "a refusal": final(EMPTY, stream(ROLE, part({"refusal": "no"}), STOP, DONE)),
    "only the call of a tool": final(
        EMPTY, stream(part({"tool_calls": [{"index": 0, "function": {"name": "f"}}]}), STOP, DONE)
    ),
    "too long": final(LONG, completion("x" * 60_000, "x" * 60_000)),
    "only NULs": final(EMPTY, completion("\0", "\0")),
    "a NUL": replied("ab", completion("a\0b")),
    "a packed error, then 200": replied(
        "x", answer(b"x", 503, headers={"Content-Encoding": "gzip"}), completion("x")
    ),
    "100 megabytes": final(
        TOO_LARGE, flood(head(content_type=EVENTS), part({}, padding="x" * 65536), 100 * 1024 * 1024)
    ),
    "packed": final(
        "the agent's answer is packed, which was not asked for",
        answer(b"x", headers={"Content-Encoding": "gzip"}),
    ),
}


async def outcome(here: Asking, case: Case) -> None:
    """Asks an endpoint that behaves so, and compares what comes of it."""
    with Endpoint(*case.behaviours) as endpoint:
        answered = await here.ask(
            await here.session(settings(endpoint.base_url, timeout_seconds=case.timeout_seconds))
        )
    if case.reply is None:
        assert answered.failed == (case.reason, case.attempts)
    else:
        assert answered.message.content == case.reply
        assert len(endpoint.requests) == case.attempts
    assert endpoint.sent < 16 * 1024 * 1024


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_each_answer_has_its_outcome(here: Asking, case: Case) -> None:
    await outcome(here, case)


@pytest.mark.parametrize(
    "garbage",
    [
        *(
            b"data: what?\n\n",
            b"data: [1]\n\n",
            b"data: 5\n\n",
            b'data: "x"\n\n',
            b"data: \xff\n\n",
            b'data: {"choices":[5]}\n\n',
        ),
        *(
            b'data: {"choices":[{"delta":{"content":5}}]}\n\n',
            b'data: {"choices":5}\n\n',
            b'data: {"choices":{"a":1}}\n\n',
        ),
        *(
            b'data: {"choices":[{"delta":5}]}\n\n',
            b'data: {"choices":[{"delta":{"content":[1]}}]}\n\n',
            b"data: " + b"[" * 100_000 + b"\n\n",
        ),
        b'data: {"choices":[{"delta":{"content":NaN}}]}\n\n',
    ],
    ids=lambda garbage: repr(garbage[:60]),
)
async def test_garbage_in_a_stream_is_no_completion(here: Asking, garbage: bytes) -> None:
    with Endpoint(stream(ROLE, HALF, garbage, STOP, DONE)) as endpoint:
        assert (await here.ask(await here.session(settings(endpoint.base_url)))).failed == (
            NO_COMPLETION,
            ATTEMPTS,
        )


@pytest.mark.parametrize(
    "silent",
    [
        *(
            b'data: {"choices":[{"index":0}]}\n\n',
            b'data: {"choices":[{"delta":null}]}\n\n',
            b'data: {"choices":[{"delta":{}}]}\n\n',
        ),
        *(
            b'data: {"choices":[{"delta":[]}]}\n\n',
            b'data: {"choices":[{"delta":{"content":null}}]}\n\n',
            USAGE,
        ),
        *(
            b'data: {"id":"x"}\n\n',
            b'data: {"choices":null}\n\n',
            b'data: {"choices":[]}\n\n',
            b'data: {"choices":[null]}\n\n',
        ),
        *(
            b'data: {"usage":{"total_tokens":2},"error":null}\n\n',
            b"data: {}\n\n",
            b"data: null\n\n",
            b"data: []\n\n",
        ),
        *(
            b"event: ping\ndata:\n\n",
            b"event: ping\n\n",
            b'event: ping\ndata: {"type":"ping"}\n\n',
            b"event: ping\ndata: alive\n\n",
        ),
        *(
            b"data:\n\n",
            b"data: \n\n",
            b"data:  \ndata:\n\n",
            b": comment\n\n",
            b"id: 7\n\n",
            b"retry: 5\n\n",
        ),
    ],
    ids=repr,
)
async def test_a_piece_without_text_is_passed_over(here: Asking, silent: bytes) -> None:
    pieces = (silent, part({"content": "fi"}), silent, part({"content": "ne"}), silent, STOP, silent, DONE)
    with Endpoint(stream(*pieces)) as endpoint:
        answered = await here.ask(await here.session(settings(endpoint.base_url)))
    assert (answered.message.content, answered.chunks, len(endpoint.requests)) == ("fine", ["fi", "ne"], 1)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (["a\ud83e", "\udd16b"], ["a", "🤖b"]),
        (["a\ud83e", "b"], ["a", "\ufffdb"]),
        (["a", "\udd16b"], ["a", "\ufffdb"]),
        (["a\ud83e"], ["a", "\ufffd"]),
        (["a\0", "\0b"], ["a", "b"]),
    ],
    ids=ascii,
)
async def test_a_reply_is_not_lost_for_one_character(here: Asking, said: list[str], told: list[str]) -> None:
    with Endpoint(completion(*said)) as endpoint:
        answered = await here.ask(await here.session(settings(endpoint.base_url)))
    assert (answered.message.content, answered.chunks, len(endpoint.requests)) == ("".join(told), told, 1)


@pytest.mark.parametrize(
    ("behaviour", "detail"),
    [
        (
            error(401, f"Incorrect API key provided: {KEY}. See\n\x1b[31mhttps://x"),
            "Incorrect API key provided: [secret]. See [31mhttps://x",
        ),
        (error(400, "x" * 1000), "x" * 500),
        (answer({"error": "model not found"}, 404), "model not found"),
        (answer({"detail": "Not Found"}, 404), '{"detail": "Not Found"}'),
        (answer(b"<html>Bad gateway</html>", 502, "text/html"), "<html>Bad gateway</html>"),
        (answer(b"", 500), None),
        (
            stream(ROLE, b"data: " + json.dumps(failure(f"too long for {KEY}")).encode() + b"\n\n"),
            "too long for [secret]",
        ),
        (stream(b"event: error\ndata: oh\n\n"), "oh"),
        (stream(b"data: what?\n\n"), "what?"),
        (said(), "Server disconnected without sending a response."),
        (reset(), "Connection reset by peer"),
        (flood(head(500), b"x" * 65536, 100 * 1024 * 1024), "x" * 500),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
async def test_the_operator_is_told_what_the_endpoint_said_and_where(
    here: Asking, behaviour: Behaviour, detail: str | None
) -> None:
    with Endpoint(behaviour) as endpoint:
        failure = await fails(here, settings(endpoint.base_url, api_key="env:AGENT_SECRET_OPENAI"))
    place = f"127.0.0.1:{endpoint.port}"
    assert failure.detail == (place if detail is None else f"{place}: {detail}")
    assert endpoint.sent < 16 * 1024 * 1024
    assert detail is None or detail not in failure.reason


async def test_a_word_is_no_secret_where_there_is_no_key(here: Asking) -> None:
    with Endpoint(error(404, "none of these")) as endpoint:
        assert (
            await fails(here, settings(endpoint.base_url))
        ).detail == f"127.0.0.1:{endpoint.port}: none of these"


async def test_an_errors_body_that_does_not_end_holds_nothing_up(
    here: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_http, "ERROR_BODY_SECONDS", BRIEF)
    for broken in (
        hanging(head(429, headers={"Retry-After": "7"}), b"slow down"),
        reset(HEAD_429, b"slow down"),
        said(HEAD_429, b"slow down"),
    ):
        with Endpoint(broken) as endpoint:
            failure = await fails(here, settings(endpoint.base_url))
        assert (failure.reason, failure.final, failure.retry_after_s) == (
            "the agent answered with status 429",
            False,
            7,
        )
        assert failure.detail.startswith(f"127.0.0.1:{endpoint.port}")


async def test_a_completion_that_is_finished_is_not_lost_where_its_stream_stays_open(
    here: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "END_SECONDS", BRIEF)
    with Endpoint(hanging(head(content_type=EVENTS), ROLE, HALF, STOP)) as endpoint:
        answered = await here.ask(await here.session(settings(endpoint.base_url)))
    assert (answered.message.content, len(endpoint.requests)) == ("half a ", 1)


async def test_a_stream_that_ends_before_the_completion_does_is_no_reply(here: Asking) -> None:
    """Without a length and without chunks an end of the connection looks like the end of the body."""
    with Endpoint(stream(ROLE, HALF), completion("whole")) as endpoint:
        answered = await here.ask(await here.session(settings(endpoint.base_url)))
    assert answered.message.content == "whole"


async def test_an_endpoint_that_wants_to_be_left_alone_is(tmp_path: Path) -> None:
    async with asking(tmp_path) as here:
        with Endpoint(error(429, Retry_After="300")) as endpoint:
            session_id = await here.session(settings(endpoint.base_url))
            now_ms = (await here.store.get_session(session_id, scope=EVERYTHING)).created_at_ms
            asked = asyncio.create_task(here.ask(session_id))
            assert 300_000 <= await rests(here, session_id) - now_ms <= 330_000
            asked.cancel()


async def test_nobody_listens_and_then_somebody_does(tmp_path: Path) -> None:
    async with asking(tmp_path, attempts=1000) as here:
        with Endpoint(completion()) as endpoint:
            port = endpoint.port
        session_id = await here.session(settings(f"http://127.0.0.1:{port}/v1"))
        asked = asyncio.create_task(here.ask(session_id))
        await rests(here, session_id)
        with Endpoint(completion("up"), port=port):
            assert (await asked).message.content == "up"


async def test_private_hosts_are_refused(tmp_path: Path) -> None:
    async with asking(tmp_path, allowed_hosts=[]) as here:
        with Endpoint(completion("x")) as endpoint:
            for host in ("127.0.0.1", "2130706433", "localhost", "[::ffff:127.0.0.1]"):
                answered = await here.ask(await here.session(settings(f"http://{host}:{endpoint.port}/v1")))
                assert answered.failed == (REFUSED, 1), host
        assert endpoint.connections == 0


async def test_a_key_that_has_gone_is_waited_for(here: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    with Endpoint(completion("x")) as endpoint:
        session_id = await here.session(settings(endpoint.base_url, api_key="env:AGENT_SECRET_OPENAI"))
        monkeypatch.delenv("AGENT_SECRET_OPENAI")
        asked = asyncio.create_task(here.ask(session_id))
        failure = await cannot_be_asked(here, session_id)
        assert failure.reason == "the agent's API key cannot be read"
        assert failure.detail == "openai.api_key names AGENT_SECRET_OPENAI, which is not set or empty"
        assert endpoint.connections == 0
        monkeypatch.setenv("AGENT_SECRET_OPENAI", "sk-again")
        assert (await asked).message.content == "x"


# What is said when it is registered.


@pytest.mark.parametrize(
    ("fields", "field", "why"),
    [
        (
            {"api_key": "env:AGENT_SECRET_ABSENT"},
            "openai.api_key",
            "names AGENT_SECRET_ABSENT, which is not set or empty",
        ),
        ({"api_key": "env:HOME"}, "openai.api_key", "names HOME, which AGENT_SECRETS does not allow"),
        ({"base_url": "http://localhost:1/v1"}, "openai.base_url", "AGENT_ALLOWED_HOSTS does not allow"),
        ({"base_url": "http://169.254.169.254/v1"}, "openai.base_url", "AGENT_ALLOWED_HOSTS does not allow"),
    ],
)
async def test_what_cannot_be_reached_is_not_registered(
    here: Asking, fields: dict[str, str], field: str, why: str
) -> None:
    async def register() -> None:
        here.connectors.check(registered(**fields))
        await here.connectors.check_secret(registered(**fields))

    with pytest.raises(InvalidFieldError, match=why) as raised:
        await register()
    assert raised.value.details["field"] == field


async def test_the_missing_library_is_named_with_the_line_that_installs_it(
    here: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.connectors.check(registered())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidFieldError, match=r"pip install '\.\[openai\]'"):
        here.connectors.check(registered())


def registered(**fields: str) -> Agent:
    return agent(settings(**{"base_url": "http://127.0.0.1:1/v1", **fields}))


# The fake, and a real one.


@pytest.mark.parametrize(
    "change",
    [
        *(
            {"model": None},
            {"messages": []},
            {"stream": None},
            {"stream": False},
            {"temperature": "hot"},
            {"odd": 1},
        ),
        *(
            {"messages": [{"role": "robot", "content": "x"}]},
            {"messages": [{"role": "user"}]},
            {"messages": [{"role": "user", "content": "x", "odd": 1}]},
        ),
    ],
    ids=str,
)
async def test_the_fake_refuses_what_the_published_types_do_not_have(change: dict[str, Any]) -> None:
    def request(body: dict[str, Any]) -> Request:
        headers = {"authorization": "Bearer x", "content-type": "application/json"}
        return Request(
            "POST",
            "/v1/chat/completions",
            headers,
            json.dumps({k: v for k, v in body.items() if v is not None}).encode(),
        )

    valid = {"model": "m", "messages": says("x"), "stream": True}
    assert problem(request(valid)) is None
    assert problem(request({**valid, **change}))


async def test_a_conversation_with_llama_cpp(here: Asking, tmp_path: Path) -> None:
    with llama(tmp_path) as base_url:
        session_id = await here.session(
            settings(base_url, system_prompt="Be brief.", temperature=0.0, top_p=0.9, max_tokens=8)
        )
        for content in ("hello", "and again 🤖"):
            answered = await here.ask(session_id, content)
            assert answered.message.content
            assert "".join(answered.chunks) == answered.message.content
            assert len(answered.chunks) > 1
        assert (await here.ask(session_id, "x" * 4000)).failed == ("the agent answered with status 400", 1)
