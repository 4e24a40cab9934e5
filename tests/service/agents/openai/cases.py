"""Answers of such an endpoint, and what each leads to."""

import json
from typing import NamedTuple

from server.agents import guarded_http
from tests.service.agents.asking import ATTEMPTS
from tests.service.agents.openai.settings import BRIEF, HALF, NO_COMPLETION
from tests.service.agents.openai_server import (
    DONE,
    ROLE,
    STOP,
    completion,
    error,
    failure,
    part,
)
from tests.service.agents.webhook_server import (
    EVENTS,
    Behaviour,
    answer,
    drip,
    flood,
    hanging,
    head,
    reset,
    said,
)
from tests.support.waiting import PATIENCE_SECONDS


class Case(NamedTuple):
    """What the endpoint does, request by request, and what comes of it: the reply, or why there is none; and
    after how many attempts.
    """

    behaviours: list[Behaviour]
    reply: str | None
    reason: str | None
    attempts: int
    timeout_seconds: float = PATIENCE_SECONDS


def replied(reply: str, *behaviours: Behaviour) -> Case:
    return Case(list(behaviours), reply, None, len(behaviours))


def final(reason: str, behaviour: Behaviour) -> Case:
    return Case([behaviour], None, reason, 1)


def retried(reason: str, behaviour: Behaviour, timeout_seconds: float = PATIENCE_SECONDS) -> Case:
    return Case([behaviour], None, reason, ATTEMPTS, timeout_seconds)


def stream(*parts: bytes) -> Behaviour:
    return said(head(content_type=EVENTS), *parts)


EMPTY = "the agent's reply cannot be stored: Invalid content: content must have 1 to 100000 characters"
LONG = "the agent's reply cannot be stored: Invalid content: a reply must have at most 100000 characters"
LATE = f"the agent did not reply within {BRIEF:g} seconds"

LOST = "the agent cannot be reached: RemoteProtocolError"
TOO_LARGE = f"the agent's answer is larger than {guarded_http.MAX_RESPONSE_BYTES} bytes"

CHUNKED = head(content_type=EVENTS, headers={"Transfer-Encoding": "chunked"}) + b"%x\r\n%b\r\n" % (
    len(HALF),
    HALF,
)

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
