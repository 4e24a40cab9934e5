"""What becomes of an endpoint's answer: the reply, the failure, and what the operator is told."""

import asyncio
import json
from pathlib import Path

import pytest

from server.agents import guarded_http, hosts, openai
from server.domain.access import EVERYTHING
from tests.service.agents.asking import ATTEMPTS, Asking, asking, cannot_be_asked, fails, rests
from tests.service.agents.openai.cases import CASES, Case, stream
from tests.service.agents.openai.settings import BRIEF, HALF, KEY, NO_COMPLETION, settings
from tests.service.agents.openai_server import (
    DONE,
    ROLE,
    STOP,
    USAGE,
    Endpoint,
    completion,
    error,
    failure,
    part,
)
from tests.service.agents.webhook_server import (
    EVENTS,
    Behaviour,
    answer,
    flood,
    hanging,
    head,
    reset,
    said,
)

REFUSED = f"the agent's host {hosts.REFUSED}"

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEAD_429 = head(429, headers={"Retry-After": "7", "Content-Length": "1000"})


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
