"""What is posted to a webhook, and how it is signed."""

import asyncio
import base64
import json

import pytest
import standardwebhooks

from eliza.sessions.limits import MAX_ATTACHMENTS_BYTES
from server.domain.access import EVERYTHING
from server.domain.messages import AgentMessage
from tests.service.agents.asking import Asking, cannot_be_asked
from tests.service.agents.webhook.settings import KEY, settings
from tests.service.agents.webhook_server import (
    Server,
    answer,
    reply,
)
from tests.unit.samples import USER

OTHER_KEY = base64.b64encode(bytes(range(32, 64))).decode()

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_delivery_is_posted_with_its_session_and_history(here: Asking) -> None:
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
