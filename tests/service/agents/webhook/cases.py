"""Answers of a webhook, and what each leads to."""

import gzip
import json
from typing import Any, NamedTuple

from tests.service.agents.asking import ATTEMPTS
from tests.service.agents.webhook.settings import BRIEF, MEGABYTES_100
from tests.service.agents.webhook_server import (
    EVENTS,
    Behaviour,
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
from tests.support.waiting import PATIENCE_SECONDS


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
    timeout_seconds: float = PATIENCE_SECONDS
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
