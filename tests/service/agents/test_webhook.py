"""The kind `webhook`: what is posted, how it is signed, and what becomes of every answer that a webhook may
give, or not give.
"""

import asyncio
import base64
import gzip
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import pytest_asyncio
import standardwebhooks

from eliza.sessions.limits import MAX_ATTACHMENTS_BYTES
from server.agents import guarded_http, hosts
from server.domain.access import EVERYTHING
from server.domain.agents import WebhookSettings
from server.domain.errors import InvalidFieldError
from server.domain.messages import AgentMessage
from tests.service.agents.asking import ATTEMPTS, Asking, agent, asking, cannot_be_asked, fails, rests
from tests.service.agents.webhook_server import (
    EVENTS,
    Behaviour,
    Server,
    answer,
    drip,
    event,
    flood,
    hanging,
    head,
    reply,
    reset,
    said,
    streamed,
)
from tests.unit.samples import USER

TLS = Path(__file__).parents[1] / "tls"
KEY = base64.b64encode(bytes(range(32))).decode()
OTHER_KEY = base64.b64encode(bytes(range(32, 64))).decode()
MEGABYTES_100 = 100 * 1024 * 1024
PATIENCE = 30.0
"""Seconds that an agent may take where that is not the point."""
BRIEF = 0.1
REFUSED = f"the agent's host {hosts.REFUSED}"


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Asking]:
    """Agents may be on 127.0.0.1."""
    async with asking(tmp_path_factory.mktemp("here")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Asking]:
    """Agents may be on no private address."""
    async with asking(tmp_path_factory.mktemp("guarded"), allowed_hosts=[]) as running:
        yield running


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_SECRET_HOOK", f"whsec_{KEY}")


def settings(url: str, timeout_seconds: float = PATIENCE, **fields: Any) -> WebhookSettings:
    return WebhookSettings(
        **{"url": url, "secret": "env:AGENT_SECRET_HOOK", "timeout_seconds": timeout_seconds, **fields}
    )


# What is posted.


async def test_what_is_posted(here: Asking) -> None:
    with Server(
        reply("first", thought="hm", actions=["WAVE"], metadata={"of": "it"}),
        reply("second", attachments=[{"url": "x"}]),
    ) as server:
        session_id = await here.session(
            settings(f"{server.url}/hook?to=me", history_messages=10), metadata='{"plan":"ü"}'
        )
        await here.ask(session_id, "one", metadata='{"n":1}')
        answered = await here.ask(session_id, "two", attachments='[{"id":7}]')
        session = await here.store.get_session(session_id, scope=EVERYTHING)
        entries = {
            e.sequence: e
            for e in await here.store.list_entries(session_id, after_sequence=0, limit=10, scope=EVERYTHING)
        }
    first, second = server.requests
    assert (first.method, first.path) == ("POST", "/hook?to=me")
    wanted = {
        "host": f"127.0.0.1:{server.port}",
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "accept-encoding": "identity",
        "user-agent": "eliza-sessions",
        "webhook-id": f"{session_id}-1",
    }
    assert {name: first.headers.get(name) for name in wanted} == wanted
    data = second.json["data"]
    assert {name: value for name, value in second.json.items() if name != "data"} == {
        "type": "message.created",
        "timestamp": data["message"]["createdAt"],
    }
    assert data.pop("replyMessageId") == answered.message.id
    messages = [*data.pop("history"), data.pop("message")]
    assert data == {
        "deliveryId": f"{session_id}-3",
        "attempt": 1,
        "sessionId": session_id,
        "channelId": session.channel_id,
        "agentId": session.agent_id,
        "userId": USER,
        "metadata": {"plan": "ü"},
        "historyLeftOut": 0,
    }
    common = [
        {"content": "one", "authorId": USER, "isAgent": False, "sequence": 1, "metadata": {"n": 1}},
        {
            "content": "first",
            "authorId": session.agent_id,
            "isAgent": True,
            "sequence": 2,
            "metadata": {"of": "it"},
            "thought": "hm",
            "actions": ["WAVE"],
        },
        {
            "content": "two",
            "authorId": USER,
            "isAgent": False,
            "sequence": 3,
            "metadata": {},
            "attachments": [{"id": 7}],
        },
    ]
    for message, expected in zip(messages, common, strict=True):
        assert message.pop("id") == entries[expected["sequence"]].message.id
        assert message.pop("createdAt").endswith("Z")
        assert message.pop("ownMetadata") == message["metadata"]
        assert message == expected
    assert first.json["data"]["history"] == []


async def test_a_delivery_has_a_bound_and_tells_what_it_leaves_out(here: Asking) -> None:
    large = json.dumps(["\U0001f600" * (MAX_ATTACHMENTS_BYTES // 4 - 10)], ensure_ascii=False)
    with Server(reply("ONE"), reply("TWO"), reply("THREE")) as server:
        session_id = await here.session(settings(server.url, history_messages=10))
        for content in ("one", "two", "three"):
            await here.ask(session_id, content, attachments=large)
    seen = [
        (request.json["data"]["history"], request.json["data"]["historyLeftOut"])
        for request in server.requests
    ]
    assert [([message["content"] for message in shown], left_out) for shown, left_out in seen] == [
        ([], 0),
        (["ONE"], 1),
        (["TWO"], 3),
    ]
    assert all(len(request.body) < 4 * 1024 * 1024 for request in server.requests)
    assert all(
        request.json["data"]["message"]["attachments"] == json.loads(large) for request in server.requests
    )


async def test_what_a_user_overlays_can_be_told_from_what_the_session_has(here: Asking) -> None:
    with Server(reply(metadata={"plan": "agent's"})) as server:
        session_id = await here.session(settings(server.url, history_messages=5), metadata='{"plan":"free"}')
        await here.ask(session_id, metadata='{"plan":"admin"}')
        await here.ask(session_id)
    data = server.requests[1].json["data"]
    assert data["metadata"] == {"plan": "free"}
    told = [*data["history"], data["message"]]
    assert [message["ownMetadata"] for message in told] == [{"plan": "admin"}, {"plan": "agent's"}, {}]
    assert [message["metadata"] for message in told] == [{"plan": "admin"}, {"plan": "agent's"}, {}]


async def test_the_signature_is_that_of_standard_webhooks_and_the_id_stays_over_all_attempts(
    here: Asking,
) -> None:
    with Server(answer(b"", 500), reply("signed")) as server:
        answered = await here.ask(await here.session(settings(server.url)), "ünï \u2028 🤖")
    assert answered.message.content == "signed"
    first, second = server.requests
    for request, attempt in ((first, 1), (second, 2)):
        verified = standardwebhooks.Webhook(f"whsec_{KEY}").verify(request.body, request.headers)
        assert (verified["data"]["attempt"], verified["data"]["message"]["content"]) == (
            attempt,
            "ünï \u2028 🤖",
        )
        for forged in (
            (OTHER_KEY, request.body),
            (KEY, request.body.replace(b"message.created", b"message.deleted")),
        ):
            with pytest.raises(standardwebhooks.WebhookVerificationError):
                standardwebhooks.Webhook(forged[0]).verify(forged[1], request.headers)
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == second.json["data"]["deliveryId"]


async def test_a_secret_that_is_changed_signs_the_next_delivery(here: Asking) -> None:
    secret = here.directory / "secret"
    secret.write_text(f"whsec_{KEY}\n")
    with Server(reply()) as server:
        session_id = await here.session(settings(server.url, secret=f"file:{secret}"))
        await here.ask(session_id)
        secret.write_text(OTHER_KEY)
        await here.ask(session_id)
        secret.unlink()
        # It is waited for, without using up an attempt.
        asked = asyncio.create_task(here.ask(session_id))
        failure = await cannot_be_asked(here, session_id)
        assert failure.reason == "the agent's secret cannot be read"
        assert (
            failure.detail
            == f"webhook.secret names {secret}, which cannot be read: No such file or directory"
        )
        secret.write_text(KEY)
        assert isinstance((await asked).message, AgentMessage)
    for request, key in zip(server.requests, (KEY, OTHER_KEY, KEY), strict=True):
        standardwebhooks.Webhook(key).verify(request.body, request.headers)


# What becomes of an answer.


class Replied(NamedTuple):
    """The reply, at this attempt."""

    content: str
    attempts: int = 1


class Failed(NamedTuple):
    """A failure for good: at once, or after all attempts."""

    reason: str
    attempts: int = 1


class Case(NamedTuple):
    """What a webhook does, request by request, and what comes of it."""

    behaviours: list[Behaviour]
    outcome: Replied | Failed
    timeout_seconds: float = PATIENCE
    chunks: list[str] | None = None
    """The pieces that were seen under way, where that matters."""


def once(behaviour: Behaviour, outcome: Replied | Failed, **rest: Any) -> Case:
    """Always the same."""
    return Case([behaviour], outcome, **rest)


def no_reply(body: object, reason: str) -> Case:
    """JSON that is no reply, for which there is no second attempt."""
    return once(answer(body), Failed(f"the agent's answer is no reply: {reason}"))


def not_stored(body: dict, reason: str) -> Case:
    return once(answer(body), Failed(f"the agent's reply cannot be stored: Invalid {reason}"))


LATE = Failed(f"the agent did not reply within {BRIEF:g} seconds", ATTEMPTS)
NOT_JSON = Failed("the agent's answer is not JSON")
NO_KIND = Failed("the agent's answer is neither application/json nor text/event-stream")
TOO_LARGE = Failed(f"the agent's answer is larger than {guarded_http.MAX_RESPONSE_BYTES} bytes")
PACKED = Failed("the agent's answer is packed, which was not asked for")
LOST = Failed("the agent cannot be reached: RemoteProtocolError", ATTEMPTS)
BROKEN = Failed("the agent cannot be reached: ReadError", ATTEMPTS)
UNENDED = Failed("the agent's event stream ended without a reply", ATTEMPTS)


def status(number: int, attempts: int = 1) -> Failed:
    return Failed(f"the agent answered with status {number}", attempts)


def nested(depth: int) -> dict:
    inner: dict = {}
    for _ in range(depth - 1):
        inner = {"in": inner}
    return inner


HEAD = head(headers={"Content-Length": "1000"})
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BOMB = gzip.compress(bytes(8 * 1024 * 1024), 1)
ODD = "Input should be a valid"

CASES: dict[str, Case] = {
    # Good ones.
    "plain": once(reply("fine"), Replied("fine")),
    "plain, with a charset": once(
        answer({"content": "fine"}, content_type="Application/JSON; charset=utf-8"), Replied("fine")
    ),
    "plain, created, with more fields than are known": once(
        answer({"content": "fine", "odd": 1}, 201), Replied("fine")
    ),
    "streamed": once(
        streamed(
            event("chunk", {"chunk": "fi"}),
            b": alive\n\n",
            event("news", "?"),
            event("chunk", {"chunk": "ne"}),
            event("done", {"content": "fine"}),
        ),
        Replied("fine"),
        chunks=["fi", "ne"],
    ),
    "streamed, and open after it": once(
        hanging(head(content_type=EVENTS), event("done", {"content": "fine"})), Replied("fine")
    ),
    "streamed in one byte pieces": once(
        said(
            head(content_type=EVENTS),
            *(bytes([byte]) for byte in event("chunk", {"chunk": "ü"}) + event("done", {"content": "🤖"})),
        ),
        Replied("🤖"),
        chunks=["ü"],
    ),
    "streamed, in a charset that nobody knows": once(
        said(head(content_type=f"{EVENTS}; charset=odd"), event("done", {"content": "fine"})), Replied("fine")
    ),
    "slow": once(drip(head(), b'{"content":"slow"}', 0.01), Replied("slow")),
    "as long as can be": once(reply("🤖" * 100_000), Replied("🤖" * 100_000)),
    "a byte order mark before a stream": once(
        streamed(BYTE_ORDER_MARK + event("chunk", {"chunk": "fi"}), event("done", {"content": "fine"})),
        Replied("fine"),
        chunks=["fi"],
    ),
    "a byte order mark before JSON": once(answer(BYTE_ORDER_MARK + b'{"content": "fine"}'), Replied("fine")),
    "a stream is UTF-8, whatever its name says": once(
        said(
            head(content_type=f"{EVENTS}; charset=latin-1"), 'event: done\ndata: {"content":"ü"}\n\n'.encode()
        ),
        Replied("ü"),
    ),
    # No reply is lost for one character.
    "an emoji in two chunks": once(
        streamed(
            event("chunk", {"chunk": "a\ud83e"}),
            event("chunk", {"chunk": "\udd16b"}),
            event("done", {"content": "a🤖b"}),
        ),
        Replied("a🤖b"),
        chunks=["a", "🤖b"],
    ),
    "a half that stays alone in the chunks": once(
        streamed(
            event("chunk", {"chunk": "a\ud83e"}),
            event("chunk", {"chunk": "\ud83e"}),
            event("done", {"content": "a\ud83e\ud83e"}),
        ),
        Replied("a\ufffd\ufffd"),
        chunks=["a", "\ufffd", "\ufffd"],
    ),
    "a lone surrogate, escaped": once(answer(b'{"content": "a\\ud800"}'), Replied("a\ufffd")),
    "a pair of surrogates, escaped": once(
        answer(b'{"content": "\\ud83e\\udd16\\udd16"}'), Replied("🤖\ufffd")
    ),
    "a lone surrogate, raw": once(answer(b'{"content": "a\xed\xa0\x80"}'), Replied("a\ufffd\ufffd\ufffd")),
    "JSON in Latin-1": once(answer('{"content": "ü"}'.encode("latin-1")), Replied("\ufffd")),
    "a NUL": once(answer({"content": "a\0b"}), Replied("ab")),
    "a NUL in a chunk": once(
        streamed(event("chunk", {"chunk": "a\0b"}), event("done", {"content": "a\0b"})),
        Replied("ab"),
        chunks=["ab"],
    ),
    # Worth another attempt.
    "408, then 200": Case([answer(b"", 408), reply("better")], Replied("better", 2)),
    "409, then 200": Case([answer(b"", 409), reply("better")], Replied("better", 2)),
    "421, then 200": Case([answer(b"", 421), reply("better")], Replied("better", 2)),
    "425, then 200": Case([answer(b"", 425), reply("better")], Replied("better", 2)),
    "429, then 200": Case(
        [answer(b"", 429, headers={"Retry-After": "0"}), reply("better")], Replied("better", 2)
    ),
    "429 for ever": once(answer(b"", 429), status(429, ATTEMPTS)),
    "413 for now, then 200": Case(
        [answer(b"", 413, headers={"Retry-After": "0"}), reply("better")], Replied("better", 2)
    ),
    "a packed 503, then 200": Case(
        [answer(b"x", 503, headers={"Content-Encoding": "gzip"}), reply("better")], Replied("better", 2)
    ),
    "500, then 200": Case([answer(b"", 500), reply("better")], Replied("better", 2)),
    "503 with Retry-After, then 200": Case(
        [answer(b"", 503, headers={"Retry-After": "0"}), reply("better")], Replied("better", 2)
    ),
    "closes at once, then 200": Case([said(), reply("better")], Replied("better", 2)),
    "breaks off in the middle, then 200": Case(
        [reset(HEAD, b'{"content'), reply("better")], Replied("better", 2)
    ),
    "500 for ever": once(answer({"content": "not this"}, 500), status(500, ATTEMPTS)),
    "500 with a Retry-After that is beyond all bounds": once(
        answer(b"", 500, headers={"Retry-After": f"1 Jan {10**20} 00:00:00 GMT"}), status(500, ATTEMPTS)
    ),
    "599 for ever": once(said(b"HTTP/1.1 599 Odd\r\nContent-Length: 0\r\n\r\n"), status(599, ATTEMPTS)),
    "closes at once": once(said(), LOST),
    "closes in the middle of the head": once(said(HEAD[:30]), LOST),
    "closes in the middle of the body": once(said(HEAD, b'{"content"'), LOST),
    "breaks off at once": once(reset(), BROKEN),
    "breaks off in the middle of the body": once(reset(HEAD, b'{"content"'), BROKEN),
    "garbage instead of HTTP": once(said(b"\x16\x03\x01 what?\r\n\r\n"), LOST),
    "a head without an end": once(
        flood(b"HTTP/1.1 200 OK\r\n", b"X-Y: " + b"x" * 65536 + b"\r\n", MEGABYTES_100), LOST
    ),
    "a stream that ends too early": once(streamed(event("chunk", {"chunk": "half"})), UNENDED),
    "a stream that ends within its last event": once(
        streamed(b'event: done\ndata: {"content": "lost"}\n'), UNENDED
    ),
    "slower than it may be": once(drip(head(), b'{"content":"late"}', 0.1), LATE, timeout_seconds=BRIEF),
    "a byte at a time, for ever": once(drip(head(), b"x" * 10_000, 0.05), LATE, timeout_seconds=BRIEF),
    "hangs before the head": once(hanging(), LATE, timeout_seconds=BRIEF),
    "hangs in the middle of the head": once(hanging(HEAD[:30]), LATE, timeout_seconds=BRIEF),
    "hangs in the middle of the body": once(hanging(HEAD, b'{"content"'), LATE, timeout_seconds=BRIEF),
    "hangs in the middle of a stream": once(
        hanging(head(content_type=EVENTS), event("chunk", {"chunk": "half"})), LATE, timeout_seconds=BRIEF
    ),
    "talks for ever": once(
        drip(head(content_type=EVENTS), event("chunk", {"chunk": ""}) * 1000, 0.01),
        LATE,
        timeout_seconds=BRIEF,
    ),
    # Final.
    "400": once(answer({"content": "not this"}, 400), status(400)),
    "404": once(answer(b"", 404), status(404)),
    "410": once(answer(b"", 410, headers={"Retry-After": "0"}), status(410)),
    "413": once(answer(b"", 413), status(413)),
    "only a NUL": not_stored({"content": "\0"}, "content: content must have 1 to 100000 characters"),
    "no content": once(answer(b"", 204, ""), NO_KIND),
    "empty": once(answer(b""), NOT_JSON),
    "HTML": once(answer(b"<html>", content_type="text/html"), NO_KIND),
    "JSON by no name": once(answer({"content": "fine"}, content_type=""), NO_KIND),
    "not JSON": once(answer(b"{'content': 'x'}"), NOT_JSON),
    "JSON in UTF-16": once(answer(json.dumps({"content": "x"}).encode("utf-16")), NOT_JSON),
    "a number that is none": once(answer(b'{"content": "x", "metadata": {"n": NaN}}'), NOT_JSON),
    "a number beyond all bounds, and a lone surrogate": once(
        answer(b'{"content": "\\ud800", "metadata": {"n": 1e400}}'), NOT_JSON
    ),
    "nested deep, and a lone surrogate": no_reply(
        {"content": "x\ud800", "metadata": nested(40)}, "it nests deeper than 30 levels"
    ),
    "nested beyond all bounds": once(answer(b"[" * 200_000 + b"]" * 200_000), NOT_JSON),
    "a list": no_reply(["content"], f"the body: {ODD} dictionary or instance of _Reply"),
    "null": no_reply(None, f"the body: {ODD} dictionary or instance of _Reply"),
    "no content at all": no_reply({}, "content: Field required"),
    "content that is a number": no_reply({"content": 1}, f"content: {ODD} string"),
    "content that is null": no_reply({"content": None}, f"content: {ODD} string"),
    "metadata that is a list": no_reply({"content": "x", "metadata": []}, f"metadata: {ODD} dictionary"),
    "attachments that are an object": no_reply(
        {"content": "x", "attachments": {}}, f"attachments: {ODD} list"
    ),
    "a thought that is a number": no_reply({"content": "x", "thought": 1}, f"thought: {ODD} string"),
    "actions that are a string": no_reply({"content": "x", "actions": "WAVE"}, f"actions: {ODD} list"),
    "an action that is a number": no_reply(
        {"content": "x", "actions": ["WAVE", 1]}, f"actions.1: {ODD} string"
    ),
    "metadata nested too deep": no_reply(
        {"content": "x", "metadata": nested(40)}, "it nests deeper than 30 levels"
    ),
    "attachments nested too deep": no_reply(
        {"content": "x", "attachments": [nested(40)]}, "it nests deeper than 30 levels"
    ),
    "more attachments than can be": no_reply(
        {"content": "x", "attachments": [0] * 2001}, "it holds more than 2000 values"
    ),
    "empty content": not_stored({"content": ""}, "content: content must have 1 to 100000 characters"),
    "too long": not_stored({"content": "x" * 100_001}, "content: content must have 1 to 100000 characters"),
    "too much metadata": not_stored(
        {"content": "x", "metadata": {"k": "v" * 10_240}},
        "metadata: metadata must have at most 10240 bytes as compact JSON",
    ),
    "too large attachments": not_stored(
        {"content": "x", "attachments": ["x" * 2 * 1024 * 1024]},
        "content: attachments must have at most 2097152 bytes as compact JSON",
    ),
    "too long a thought": not_stored(
        {"content": "x", "thought": "x" * 100_001}, "content: thought must have at most 100000 characters"
    ),
    "too many actions": not_stored(
        {"content": "x", "actions": ["A"] * 101},
        "content: actions must be at most 100, of at most 1000 characters each",
    ),
    "packed": once(answer(gzip.compress(b'{"content":"x"}'), headers={"Content-Encoding": "gzip"}), PACKED),
    "a bomb": once(answer(BOMB, headers={"Content-Encoding": "gzip"}), PACKED),
    "a streamed error": once(
        streamed(event("chunk", {"chunk": "I"}), event("error", {"error": "I am tired"})),
        Failed("I am tired"),
    ),
    "a streamed error that is none": once(
        streamed(event("error", {"error": 1})), Failed(f"the agent's answer is no reply: error: {ODD} string")
    ),
    "a streamed chunk that is none": once(
        streamed(event("chunk", {"text": "x"})),
        Failed("the agent's answer is no reply: chunk: Field required"),
    ),
    "a streamed chunk that is not JSON": once(streamed(event("chunk", "x")), NOT_JSON),
    "a streamed reply that is none": once(
        streamed(event("done", {})), Failed("the agent's answer is no reply: content: Field required")
    ),
    "chunks longer than a reply": once(
        streamed(*[event("chunk", {"chunk": "x" * 50_001})] * 2),
        Failed(
            "the agent's reply cannot be stored: Invalid content: a reply must have at most 100000 characters"
        ),
    ),
    "no stream of events": once(answer(b"\0\xff" * 1000, content_type=EVENTS), UNENDED),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_each_answer_has_its_outcome_and_nothing_waits_for_it(here: Asking, case: Case) -> None:
    with Server(*case.behaviours, held=True) as server, Server(reply("beside")) as bystander:
        asked = asyncio.create_task(here.ask(await here.session(settings(server.url, case.timeout_seconds))))
        beside = await here.ask(await here.session(settings(bystander.url)))
        assert beside.message.content == "beside"
        assert not server.sent
        server.release()
        answered = await asked
    match case.outcome:
        case Replied(content, attempts):
            assert answered.message.content == content
            assert len(server.requests) == attempts
            assert [request.json["data"]["attempt"] for request in server.requests] == list(
                range(1, attempts + 1)
            )
        case Failed():
            assert answered.failed == tuple(case.outcome)
    if case.chunks is not None:
        assert answered.chunks == case.chunks


async def test_every_field_of_a_reply_is_stored(here: Asking) -> None:
    given = {
        "content": "fine",
        "metadata": {"n": 1.5, "whole": 2.0, "deep": {"list": [None, True, "ü"]}},
        "attachments": [{"url": "x"}, 1, None],
        "thought": "hm",
        "actions": ["WAVE", "REPLY"],
    }
    for behaviour in (answer(given), streamed(event("done", given))):
        with Server(behaviour) as server:
            message = (await here.ask(await here.session(settings(server.url)))).message
        assert isinstance(message, AgentMessage)
        assert {
            "content": message.content,
            "metadata": json.loads(message.metadata),
            "attachments": json.loads(message.attachments),
            "thought": message.thought,
            "actions": list(message.actions),
        } == given
    with Server(
        answer({"content": "bare", "metadata": None, "attachments": None, "thought": None, "actions": None})
    ) as server:
        message = (await here.ask(await here.session(settings(server.url)))).message
    assert (message.metadata, message.attachments, message.thought, message.actions) == ("{}", None, None, ())


async def test_a_reply_is_not_lost_for_one_character_in_any_field(here: Asking) -> None:
    given = {
        "content": "a\ud83eb\0",
        "metadata": {"key\ud83e": ["\udd16", {"deep": "\ud83e\udd16"}]},
        "attachments": [{"url": "x\ud83e"}],
        "thought": "\udd16hm\0",
        "actions": ["WAVE\ud83e", "\0REPLY"],
    }
    for behaviour in (answer(given), streamed(event("done", given))):
        with Server(behaviour) as server:
            message = (await here.ask(await here.session(settings(server.url)))).message
        assert (message.content, message.thought, message.actions) == (
            "a\ufffdb",
            "\ufffdhm",
            ("WAVE\ufffd", "REPLY"),
        )
        assert json.loads(message.metadata) == {"key\ufffd": ["\ufffd", {"deep": "🤖"}]}
        assert json.loads(message.attachments) == [{"url": "x\ufffd"}]


SECRETS = f"whsec_{KEY} {KEY} {KEY.replace('/', '%2F').replace('+', '%2B').replace('=', '%3D')}"


@pytest.mark.parametrize(
    ("behaviour", "detail"),
    [
        (answer(b"no\tsuch \x1b[1mhook\r\n\0\xe2\x80\xae", 404, "text/plain"), "no such [1mhook"),
        (
            answer(f"not signed with {SECRETS}".encode(), 401, "text/plain"),
            "not signed with [secret] [secret] [secret]",
        ),
        (answer({"error": "tired"}, 503), "tired"),
        (answer({"error": {"message": "worn out", "code": 7}}, 500), "worn out"),
        (answer({"code": "E", "message": "no\nhook"}, 404), "no hook"),
        (answer({"detail": [{"loc": ["body"]}]}, 422), '{"detail": [{"loc": ["body"]}]}'),
        (answer({"message": ""}, 500), '{"message": ""}'),
        (answer(["tired"], 500), '["tired"]'),
        (answer(b'{"error": ' + b"[" * 15_000, 500), '{"error": ' + "[" * 490),
        (answer(b"ohn\xe9 " + b"x" * 1000, 400), "ohn\ufffd " + "x" * 495),
        (answer(b"", 307, headers={"Location": "/"}), None),
        (answer({"text": f"x{KEY}"}), '{"text": "x[secret]"}'),
        (answer(b"<html>", content_type="text/html"), "text/html"),
        (answer(b"Fatal error: on line 7"), "Fatal error: on line 7"),
        (reset(), "Connection reset by peer"),
        (said(), "Server disconnected without sending a response."),
        (flood(head(500), b"x" * 65536, MEGABYTES_100), "x" * 500),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
async def test_the_operator_is_told_what_the_webhook_said_and_where(
    here: Asking, behaviour: Behaviour, detail: str | None
) -> None:
    with Server(behaviour) as server:
        failure = await fails(here, settings(f"{server.url}/hook?token=1"))
    place = f"127.0.0.1:{server.port}"
    assert failure.detail == (place if detail is None else f"{place}: {detail}")
    assert server.sent < 16 * 1024 * 1024
    assert detail is None or detail not in failure.reason


async def test_the_operator_is_told_why_there_is_no_connection(
    here: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(reply()) as server:
        port = server.port
    refused = await fails(here, settings(f"http://127.0.0.1:{port}"))
    assert (refused.reason, refused.detail) == (
        "the agent cannot be reached: ConnectError",
        f"127.0.0.1:{port}: Connection refused",
    )
    with Server(reply(), tls=served()) as server:
        untrusted = await fails(here, settings(f"https://127.0.0.1:{server.port}"))
    assert untrusted.detail.startswith(f"127.0.0.1:{server.port}: the certificate is not valid: ")

    def getaddrinfo(*_: object, **__: object) -> list[tuple]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    nameless = await fails(here, settings("https://agent.test/hook"))
    assert (nameless.reason, nameless.detail) == (
        "the agent cannot be reached: NoAddressError",
        "agent.test:443: Name or service not known",
    )


async def test_an_errors_body_that_does_not_end_holds_nothing_up(
    here: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_http, "ERROR_BODY_SECONDS", BRIEF)
    start = head(503, headers={"Retry-After": "7", "Content-Length": "1000"})
    for broken in (hanging(start, b"busy"), reset(start, b"busy"), said(start, b"busy")):
        with Server(broken) as server:
            failure = await fails(here, settings(server.url))
        assert (failure.reason, failure.final, failure.retry_after_s) == (
            "the agent answered with status 503",
            False,
            7,
        )
        assert failure.detail.startswith(f"127.0.0.1:{server.port}")


@pytest.mark.parametrize("number", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(here: Asking, number: int) -> None:
    with (
        Server(reply("elsewhere")) as target,
        Server(answer(b"", number, headers={"Location": f"{target.url}/x"})) as server,
    ):
        answered = await here.ask(await here.session(settings(server.url)))
    assert answered.failed == (f"the agent answered with status {number}; redirects are not followed", 1)
    assert (target.connections, len(server.requests)) == (0, 1)


@pytest.mark.parametrize(
    ("value", "least_s", "most_s"),
    [
        ("300", 300, 330),
        (lambda: formatdate(time.time() + 300, usegmt=True), 298, 330),
        ("86400", 600, 630),
        ("-5", 10, 50),
        ("soon", 10, 50),
        (lambda: formatdate(0, usegmt=True), 10, 50),
    ],
    ids=["seconds", "date", "tomorrow", "negative", "no time", "past"],
)
async def test_a_webhook_that_wants_to_be_left_alone_is(
    tmp_path: Path, value: str | Callable[[], str], least_s: float, most_s: float
) -> None:
    async with asking(tmp_path, first_backoff_ms=20_000) as here:
        with Server(
            answer(b"", 503, headers={"Retry-After": value if isinstance(value, str) else value()})
        ) as server:
            session_id = await here.session(settings(server.url))
            before_ms = time.time() * 1000
            asked = asyncio.create_task(here.ask(session_id))
            due_ms = await rests(here, session_id)
            asked.cancel()
    assert least_s <= (due_ms - before_ms) / 1000 <= most_s


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (head(headers={"Content-Length": str(MEGABYTES_100)}) + b'{"content":"', b"x" * 65536),
        (head() + b'{"content":"', b"x" * 65536),
        (head(headers={"Transfer-Encoding": "chunked"}), b"10000\r\n" + b"x" * 65536 + b"\r\n"),
        (head(content_type=EVENTS), event("chunk", {"chunk": "", "odd": "x" * 1000}) * 64),
        (head(content_type=EVENTS) + b"event: chunk\ndata: ", b"x" * 65536),
        (head(content_type=EVENTS), b"data: %b\n" % (b"x" * 1000) * 64),
        (head(content_type=EVENTS), b": alive\n" * 8192),
    ],
    ids=[
        "announced",
        "not announced",
        "chunked",
        "endless events",
        "endless line",
        "endless event",
        "endless comment",
    ],
)
async def test_100_megabytes_are_not_read(here: Asking, start: bytes, piece: bytes) -> None:
    with Server(flood(start, piece, MEGABYTES_100)) as server:
        session_id = await here.session(settings(server.url))
        before = psutil.Process().memory_info().rss
        answered = await here.ask(session_id)
        grown = psutil.Process().memory_info().rss - before
    assert answered.failed == tuple(TOO_LARGE)
    # What is over the bound is what the sockets hold.
    assert server.sent < 16 * 1024 * 1024
    assert grown < 30 * 1024 * 1024


async def test_a_port_that_speaks_tls_is_asked_in_plain(here: Asking) -> None:
    with Server(reply(), tls=served()) as server:
        reason, attempts = (await here.ask(await here.session(settings(server.url)))).failed
    assert reason.startswith("the agent cannot be reached: ")
    assert (attempts, server.requests) == (ATTEMPTS, [])


async def test_nobody_listens_and_then_somebody_does(tmp_path: Path) -> None:
    async with asking(tmp_path, attempts=1000) as here:
        with Server(reply()) as server:
            port = server.port
        session_id = await here.session(settings(f"http://127.0.0.1:{port}"))
        asked = asyncio.create_task(here.ask(session_id))
        await rests(here, session_id)
        with Server(reply("up"), port=port):
            assert (await asked).message.content == "up"


# Where it may be.


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Has names resolve to these addresses, one answer after the other, the last for ever; returns who was
    asked for.
    """
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[tuple]:
        found = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        return [
            (
                socket.AF_INET6 if ":" in one else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (one, port, 0, 0) if ":" in one else (one, port),
            )
            for one in found
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "2130706433", "0x7f000001", "127.1", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
        *(
            "[::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "169.254.169.254",
            "2852039166",
        ),
        *(
            "[::ffff:169.254.169.254]",
            "[fe80::1]",
            "[fd00::1]",
            "0.0.0.0",
            "0",
            "[::]",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
        ),
        *("100.64.0.1", "224.0.0.1", "255.255.255.255", "[ff02::1]"),
    ],
)
async def test_a_private_address_is_refused_in_whatever_form(guarded: Asking, host: str) -> None:
    with Server(reply()) as server:
        reason, attempts = (
            await guarded.ask(await guarded.session(settings(f"http://{host}:{server.port}/")))
        ).failed
    assert server.connections == 0
    assert (reason, attempts) == (REFUSED, 1)


@pytest.mark.parametrize(
    "host", ["0177.0.0.1", "127.0.0.1.", "127.0.0.1%00.agent.test", "[::1%25lo]", "%31%32%37.0.0.1"]
)
async def test_what_is_no_host_is_not_asked(guarded: Asking, host: str) -> None:
    with Server(reply()) as server:
        assert (await guarded.ask(await guarded.session(settings(f"http://{host}:{server.port}/")))).failed
    assert server.connections == 0


@pytest.mark.parametrize(
    "addresses",
    [
        *(
            ["127.0.0.1"],
            ["169.254.169.254"],
            ["::1"],
            ["::ffff:127.0.0.1"],
            ["::ffff:169.254.169.254"],
            ["64:ff9b::a9fe:a9fe"],
        ),
        *(["fe80::1%lo"], ["fd00:ec2::254"], ["2002:7f00:1::"], ["0.0.0.0"], ["192.0.2.1"]),
        *(["8.8.8.8", "127.0.0.1"], ["127.0.0.1", "8.8.8.8"], ["2606:4700::1111", "::1"]),
    ],
    ids="+".join,
)
async def test_a_name_that_leads_to_a_private_address_is_refused(
    guarded: Asking, monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    with Server(reply()) as server:
        session_id = await guarded.session(settings(f"http://agent.test:{server.port}/"))
        asked = resolving(monkeypatch, addresses)
        assert (await guarded.ask(session_id)).failed == (REFUSED, 1)
    assert (server.connections, asked) == (0, ["agent.test"])


async def test_a_redirect_leads_to_no_private_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(tmp_path, allowed_hosts=["agent.test"]) as here:
        with (
            Server(reply()) as inner,
            Server(answer(b"", 307, headers={"Location": f"{inner.url}/"})) as server,
        ):
            session_id = await here.session(settings(f"http://agent.test:{server.port}/"))
            resolving(monkeypatch, ["127.0.0.1"])
            assert (await here.ask(session_id)).failed == (
                "the agent answered with status 307; redirects are not followed",
                1,
            )
    assert (len(server.requests), inner.connections) == (1, 0)


async def test_a_name_that_changes_after_it_was_checked_changes_nothing(
    guarded: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_public = hosts.is_public
    monkeypatch.setattr(hosts, "is_public", lambda address: address == "127.0.0.2" or is_public(address))
    with (
        Server(reply("checked"), host="127.0.0.2") as checked,
        Server(reply("not checked"), port=checked.port) as other,
    ):
        session_id = await guarded.session(settings(f"http://agent.test:{checked.port}/"))
        asked = resolving(monkeypatch, ["127.0.0.2"], ["127.0.0.1"])
        assert (await guarded.ask(session_id)).message.content == "checked"
        assert (asked, checked.connections, other.connections) == (["agent.test"], 1, 0)
        assert checked.requests[0].headers["host"] == f"agent.test:{checked.port}"
        # It is looked up, and checked, for each delivery.
        assert (await guarded.ask(session_id)).failed == (REFUSED, 1)
    assert (asked, checked.connections, other.connections) == (["agent.test"] * 2, 1, 0)


async def test_a_host_that_is_allowed_is_asked_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(tmp_path, allowed_hosts=["Agent.Test", "[::1]"]) as here:
        resolving(monkeypatch, ["127.0.0.1"])
        for host, allowed in {
            "agent.test": True,
            "AGENT.test": True,
            "other.test": False,
            "127.0.0.1": False,
            "x.agent.test": False,
        }.items():
            with Server(reply("in")) as server:
                answered = await here.ask(await here.session(settings(f"http://{host}:{server.port}/")))
            assert (answered.entry.message is not None, len(server.requests)) == (allowed, int(allowed)), host


async def test_a_name_that_does_not_resolve_is_asked_for_again(
    guarded: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = await guarded.session(settings("http://agent.test/"))
    asked: list[str] = []

    def getaddrinfo(host: str, *_: object, **__: object) -> list[tuple]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert (await guarded.ask(session_id)).failed == ("the agent cannot be reached: NoAddressError", ATTEMPTS)
    assert asked == ["agent.test"] * ATTEMPTS


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "http://[::1]/", "http://localhost:8/", "https://169.254.169.254/x"]
)
async def test_a_refused_host_is_not_registered(guarded: Asking, url: str) -> None:
    with pytest.raises(InvalidFieldError, match="AGENT_ALLOWED_HOSTS does not allow"):
        guarded.connectors.check(agent(settings(url)))


def served() -> ssl.SSLContext:
    """The side of a server that is `localhost` and `sessions.test`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
    return context


async def test_the_certificate_is_checked_against_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "certificate.pem"))
    async with asking(tmp_path, allowed_hosts=["sessions.test", "other.test"]) as here:
        resolving(monkeypatch, ["127.0.0.1"])
        with Server(reply("secure"), tls=served()) as server:
            url = f"https://sessions.test:{server.port}/"
            assert (await here.ask(await here.session(settings(url)))).message.content == "secure"
            other = await here.ask(await here.session(settings(url.replace("sessions", "other"))))
    assert other.failed == ("the agent cannot be reached: ConnectError", ATTEMPTS)
    assert len(server.requests) == 1


async def test_a_certificate_that_nobody_trusts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(tmp_path, allowed_hosts=["sessions.test"]) as here:
        resolving(monkeypatch, ["127.0.0.1"])
        with Server(reply(), tls=served()) as server:
            answered = await here.ask(await here.session(settings(f"https://sessions.test:{server.port}/")))
    assert answered.failed == ("the agent cannot be reached: ConnectError", ATTEMPTS)
    assert server.requests == []


async def test_no_proxy_of_the_environment_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(reply("by proxy")) as proxy, Server(reply("direct")) as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv(name.lower(), proxy.url)
        async with asking(tmp_path) as here:
            assert (await here.ask(await here.session(settings(server.url)))).message.content == "direct"
    assert proxy.connections == 0
