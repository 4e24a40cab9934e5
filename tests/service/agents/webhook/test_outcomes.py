"""What becomes of a webhook's answer: the reply, the failure, and what the operator is told."""

import asyncio
import json
import socket

import pytest

from server.domain.messages import AgentMessage
from tests.service.agents.asking import Asking, fails
from tests.service.agents.webhook.cases import CASES, Case, Failed, Replied
from tests.service.agents.webhook.settings import KEY, MEGABYTES_100, served, settings
from tests.service.agents.webhook_server import (
    Behaviour,
    Server,
    answer,
    event,
    flood,
    head,
    reply,
    reset,
    said,
    streamed,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


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
