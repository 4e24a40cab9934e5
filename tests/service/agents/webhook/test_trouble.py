"""A webhook that redirects, floods, hangs, is not there, or wants to be left alone."""

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import psutil
import pytest

from server.agents import guarded_http
from tests.service.agents.asking import ATTEMPTS, Asking, asking, fails, rests
from tests.service.agents.webhook.cases import Failed
from tests.service.agents.webhook.settings import BRIEF, MEGABYTES_100, served, settings
from tests.service.agents.webhook_server import (
    EVENTS,
    Server,
    answer,
    event,
    flood,
    hanging,
    head,
    reply,
    reset,
    said,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOO_LARGE = Failed(f"the agent's answer is larger than {guarded_http.MAX_RESPONSE_BYTES} bytes")


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
