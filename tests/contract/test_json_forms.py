"""Metadata and attachments in both forms, over every transport: one value is one text, and no answer has both
forms.
"""

import json
import uuid
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import requests
from google.protobuf.message import Message

from eliza.sessions import values
from eliza.sessions.v1 import agent_service_pb2
from eliza.sessions.v1.json_form_pb2 import JSON_FORM_TEXT, JSON_FORM_UNSPECIFIED, JsonForm
from eliza.sessions.v1.message_service_pb2 import ConverseRequest, ListMessagesRequest, SendMessageRequest
from eliza.sessions.v1.session_service_pb2 import (
    CreateSessionRequest,
    GetSessionRequest,
    ListSessionsRequest,
    RenewSessionRequest,
    SendHeartbeatRequest,
    UpdateTimeoutRequest,
    WatchSessionRequest,
    WatchSessionsRequest,
)
from tests.service.agents.worker import Worker, stream_agent
from tests.support.clients import fails
from tests.support.service import ECHO, USER, Serve, Start
from tests.support.stores import execute
from tests.support.waiting import until

LINE_ENDS = "\x85\u2028\u2029"
METADATA = {"plan": "é😀", "nested": {"a": [1, 2.5, None, True, {}]}, "line": LINE_ENDS}
ATTACHMENTS = [{"url": "x"}, [], LINE_ENDS]

BOTH_FORMS = """{"z": 1.0, "a": 123456789012345678901234567890, "a": 9007199254740993, "m": -0, "n": -0.0, "e": 1e2, "é": {"b": 1, "a": [2]}}"""
"""What every JSON reader takes for the same value as the next one, where the last of two equal keys wins and
numbers are doubles.
"""
SAME_VALUE = {"é": {"a": [2], "b": 1}, "n": 0, "m": 0, "e": 100, "a": 9007199254740992, "z": 1}


def told(answer: Message) -> Iterator[Any]:
    """The sessions and messages in an answer, wherever they are."""
    if answer.DESCRIPTOR.name in ("Session", "Message"):
        yield answer
        return
    for field, value in answer.ListFields():
        if field.message_type and not field.message_type.GetOptions().map_entry:
            for inner in value if field.is_repeated else (value,):
                yield from told(inner)


def read(found: Any, form: JsonForm.ValueType) -> tuple[Any, Any]:
    """The metadata and attachments of a session or message, which has them in one form only."""
    is_message = found.DESCRIPTOR.name == "Message"
    if form == JSON_FORM_TEXT:
        assert not found.HasField("metadata")
        assert not (is_message and found.HasField("attachments"))
        text = found.metadata_json + (found.attachments_json if is_message else "")
        assert not set(LINE_ENDS) & set(text)
        attachments = json.loads(found.attachments_json) if is_message and found.attachments_json else None
        return json.loads(found.metadata_json), attachments
    assert not found.metadata_json
    assert not (is_message and found.attachments_json)
    return values.plain(found.metadata), values.plain_list(
        found.attachments
    ) if is_message and found.HasField("attachments") else None


def join(session_id: str, form: JsonForm.ValueType) -> WatchSessionsRequest:
    return WatchSessionsRequest(
        join=WatchSessionsRequest.Join(session_id=session_id, after_sequence=0, json_form=form)
    )


def ask_all(service: Serve, session_id: str, form: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every call that answers with the session or its messages, in a form."""
    sessions, messages, agents = service.sessions, service.messages, service.agents
    key = str(uuid.uuid4())
    send = {
        "session_id": session_id,
        "content": "hi",
        "metadata_json": '{"own":1}',
        "attachments_json": json.dumps(ATTACHMENTS),
        "json_form": form,
    }
    create = {"agent_id": ECHO, "user_id": USER, "metadata_json": json.dumps(METADATA), "json_form": form}
    yield "Create", lambda: sessions.CreateSession(CreateSessionRequest(**create), timeout=30)
    yield (
        "Get",
        lambda: sessions.GetSession(GetSessionRequest(session_id=session_id, json_form=form), timeout=30),
    )
    yield "List", lambda: sessions.ListSessions(ListSessionsRequest(user_id=USER, json_form=form), timeout=30)
    yield (
        "Renew",
        lambda: sessions.RenewSession(RenewSessionRequest(session_id=session_id, json_form=form), timeout=30),
    )
    yield (
        "Update",
        lambda: sessions.UpdateTimeout(
            UpdateTimeoutRequest(session_id=session_id, json_form=form), timeout=30
        ),
    )
    yield (
        "Heartbeat",
        lambda: sessions.SendHeartbeat(
            SendHeartbeatRequest(session_id=session_id, json_form=form), timeout=30
        ),
    )
    yield "Send", lambda: messages.SendMessage(SendMessageRequest(**send), timeout=30)
    yield (
        "Converse",
        lambda: list(
            messages.Converse(ConverseRequest(message=SendMessageRequest(**send, request_id=key)), timeout=30)
        ),
    )
    yield (
        "Converse",
        lambda: list(
            messages.Converse(ConverseRequest(message=SendMessageRequest(**send, request_id=key)), timeout=30)
        ),
    )
    yield (
        "Messages",
        lambda: messages.ListMessages(ListMessagesRequest(session_id=session_id, json_form=form), timeout=30),
    )
    watch = WatchSessionRequest(session_id=session_id, json_form=form)
    yield "Watch", lambda: next(iter(sessions.WatchSession(watch, timeout=30)))
    if form in JsonForm.values():
        watched = sessions.WatchSessions(iter([join(session_id, form)]), timeout=30)
        yield "WatchMany", lambda: list(islice(watched, 2))
    reply = agent_service_pb2.AgentReply(content="again")
    yield (
        "Reply",
        lambda: agents.Reply(
            agent_service_pb2.ReplyRequest(delivery_id=f"{session_id}-1", reply=reply, json_form=form),
            timeout=30,
        ),
    )


@pytest.mark.parametrize("form", [JSON_FORM_UNSPECIFIED, JSON_FORM_TEXT])
def test_every_answer_has_the_form_that_was_asked_for(service: Serve, form: JsonForm.ValueType) -> None:
    session_id = service.create(agentId=stream_agent(service), metadata=METADATA)["sessionId"]
    user = {
        "session_id": session_id,
        "content": "hi",
        "metadata": values.struct({"own": 1}),
        "attachments": values.list_value(ATTACHMENTS),
    }
    service.messages.SendMessage(SendMessageRequest(**user), timeout=30)
    for name, call in ask_all(service, session_id, form):
        if name == "Converse":
            continue
        answers = call()
        found = [
            one for answer in (answers if isinstance(answers, list) else [answers]) for one in told(answer)
        ]
        assert found, name
        for one in found:
            metadata, attachments = read(one, form)
            if one.DESCRIPTOR.name == "Session":
                assert one.session_id != session_id or metadata == METADATA
            elif one.is_agent:
                assert (metadata, attachments) == ({**METADATA, "sessionId": session_id}, None)
            else:
                assert (metadata, attachments) == (
                    {**METADATA, "own": 1, "sessionId": session_id},
                    ATTACHMENTS,
                ), name


@pytest.mark.parametrize("form", [JSON_FORM_UNSPECIFIED, JSON_FORM_TEXT])
def test_a_conversation_and_its_repetition_have_the_form_that_was_asked_for(
    service: Serve, form: JsonForm.ValueType
) -> None:
    session_id = service.create(metadata=METADATA)["sessionId"]
    for name, call in ask_all(service, session_id, form):
        if name == "Converse":
            asked, *_, replied = [one for answer in call() for one in told(answer)]
            assert read(asked, form) == ({**METADATA, "own": 1, "sessionId": session_id}, ATTACHMENTS)
            assert read(replied, form) == ({**METADATA, "sessionId": session_id}, None)


@pytest.mark.parametrize("form", [JSON_FORM_UNSPECIFIED, JSON_FORM_TEXT])
def test_a_worker_gets_deliveries_in_the_form_that_it_asks_for(
    service: Serve, form: JsonForm.ValueType
) -> None:
    agent_id = stream_agent(service)
    session_id = service.create(agentId=agent_id, metadata=METADATA)["sessionId"]
    for content in ("one", "two"):
        request = SendMessageRequest(
            session_id=session_id, content=content, attachments_json=json.dumps(ATTACHMENTS)
        )
        service.messages.SendMessage(request, timeout=30)
    with Worker(service.channel, agent_id, history=10, json_form=form) as worker:
        first = worker.next()
        reply = agent_service_pb2.AgentReply(
            content="a", metadata_json='{"own": 1.0}', attachments_json="[ 1 ]"
        )
        worker.say(reply=agent_service_pb2.ConnectRequest.Reply(delivery_id=first.delivery_id, reply=reply))
        worker.expect("accepted")
        second = worker.next()
    below = {**METADATA, "sessionId": session_id}
    assert read(first.session, form) == (METADATA, None)
    assert read(first.message, form) == (below, ATTACHMENTS)
    assert [read(one, form) for one in second.history] == [(below, ATTACHMENTS), ({**below, "own": 1}, [1])]


def test_a_form_that_there_is_not_is_refused_before_anything_is_done(service: Serve) -> None:
    session_id = service.create()["sessionId"]
    for name, call in ask_all(service, session_id, 7):
        assert fails(call, "INVALID_FIELD")["field"] == "json_form", name
    ended = next(iter(service.sessions.WatchSessions(iter([join(session_id, 7)]), timeout=30)))
    assert ended.end.details["field"] == "json_form"
    assert service.http.get(f"{service.url}/{session_id}/messages", timeout=30).json()["messages"] == []


def test_both_forms_in_one_request_are_refused(service: Serve) -> None:
    session_id = service.create()["sessionId"]
    for made, reason in (
        ({"metadata": values.struct({"a": 1}), "metadata_json": '{"a":1}'}, "INVALID_METADATA"),
        ({"attachments": values.list_value([]), "attachments_json": "[]"}, "INVALID_CONTENT"),
    ):
        request = SendMessageRequest(session_id=session_id, content="hi", **made)
        fails(lambda request=request: service.messages.SendMessage(request, timeout=30), reason)
    request = CreateSessionRequest(
        agent_id=ECHO, user_id=USER, metadata=values.struct({}), metadata_json="{}"
    )
    fails(lambda: service.sessions.CreateSession(request, timeout=30), "INVALID_METADATA")


def test_a_request_may_be_repeated_in_another_form_and_over_another_transport(rest_service: Serve) -> None:
    service = rest_service
    user, key = str(uuid.uuid4()), str(uuid.uuid4())
    body = f'{{"agentId": "{ECHO}", "userId": "{user}", "metadata": {BOTH_FORMS}}}'
    headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
    first = requests.post(service.url, data=body.encode(), headers=headers, timeout=30)
    assert (first.status_code, first.json()["metadata"]) == (201, SAME_VALUE)
    session_id = first.json()["sessionId"]
    for form in (
        {"metadata_json": BOTH_FORMS},
        {"metadata_json": json.dumps(SAME_VALUE)},
        {"metadata": values.struct(SAME_VALUE)},
    ):
        again = service.sessions.CreateSession(
            CreateSessionRequest(agent_id=ECHO, user_id=user, request_id=key, **form), timeout=30
        )
        assert (again.replayed, again.session.session_id) == (True, session_id)
    other = CreateSessionRequest(agent_id=ECHO, user_id=user, request_id=key, metadata_json='{"z":2}')
    fails(lambda: service.sessions.CreateSession(other, timeout=30), "REQUEST_ID_REUSED")

    sent = service.messages.SendMessage(
        SendMessageRequest(
            session_id=session_id,
            content="hi",
            request_id=key,
            metadata_json=BOTH_FORMS,
            attachments_json=f"[{BOTH_FORMS}]",
        ),
        timeout=30,
    )
    body = f'{{"content": "hi", "metadata": {json.dumps(SAME_VALUE)}, "attachments": [{BOTH_FORMS}]}}'
    again = requests.post(
        f"{service.url}/{session_id}/messages", data=body.encode(), headers=headers, timeout=30
    )
    assert (again.status_code, again.headers.get("Idempotency-Replayed")) == (201, "true")
    assert (again.json()["id"], again.json()["attachments"]) == (sent.message.message_id, [SAME_VALUE])
    struct = SendMessageRequest(
        session_id=session_id,
        content="hi",
        request_id=key,
        metadata=values.struct(SAME_VALUE),
        attachments=values.list_value([SAME_VALUE]),
    )
    assert service.messages.SendMessage(struct, timeout=30).replayed


def test_nothing_that_leaves_holds_a_line_end_that_is_none(rest_service: Serve) -> None:
    """Not as a character: strings of JSON can escape it."""
    service = rest_service
    session_id = service.create(metadata=METADATA)["sessionId"]
    url, origin = f"{service.url}/{session_id}", f"http://{service.rest}"
    body = {"content": f"a{LINE_ENDS}b", "attachments": ATTACHMENTS, "transport": "sse"}
    bodies = [
        requests.post(f"{url}/messages", json=body, timeout=30),
        requests.get(url, timeout=30),
        requests.get(f"{url}/messages", timeout=30),
    ]
    with requests.get(f"{url}/events", stream=True, timeout=30) as stream:
        lines = stream.iter_lines(delimiter=b"\n\n")
        texts = [next(lines).decode() for _ in range(2)]
    polling = f"{origin}/socket.io/?EIO=4&transport=polling"
    sid = json.loads(requests.get(polling, timeout=30).text[1:])["sid"]
    for packet in ("40", "42" + json.dumps(["join", {"roomId": session_id, "after": 0}])):
        assert requests.post(f"{polling}&sid={sid}", data=packet, timeout=30).status_code == 200
    heard = ""

    def broadcast() -> bool:
        nonlocal heard
        heard += requests.get(f"{polling}&sid={sid}", timeout=30).content.decode()
        return "messageBroadcast" in heard

    until(broadcast, "a message over Socket.IO")
    for text in (*(answer.content.decode() for answer in bodies), *texts, heard):
        assert not set(LINE_ENDS) & set(text)
    assert "\\u0085\\u2028\\u2029" in heard
    assert bodies[1].json()["metadata"] == METADATA
    event = next(json.loads(packet[2:])[1] for packet in heard.split("\x1e") if "messageBroadcast" in packet)
    assert (event["text"], event["metadata"], event["attachments"]) == (
        body["content"],
        {**METADATA, "sessionId": session_id},
        ATTACHMENTS,
    )


def test_thought_and_actions_are_laid_over_the_metadata_of_a_page_where_it_has_them_too(
    rest_service: Serve,
) -> None:
    service = rest_service
    session_id = service.create(
        agentId=stream_agent(service), metadata={"thought": "the session's", "sessionId": "no"}
    )["sessionId"]
    for metadata in ('{"actions": ["own"], "x": {"thought": 1}}', "{}"):
        sent = service.messages.SendMessage(
            SendMessageRequest(session_id=session_id, content="hi"), timeout=30
        )
        reply = agent_service_pb2.AgentReply(
            content="a", metadata_json=metadata, thought="its own", actions=["GO"]
        )
        delivery = f"{session_id}-{sent.message.sequence}"
        service.agents.Reply(agent_service_pb2.ReplyRequest(delivery_id=delivery, reply=reply), timeout=30)
    page = service.http.get(f"{service.url}/{session_id}/messages", timeout=30)
    agents = [one["metadata"] for one in page.json()["messages"] if one["isAgent"]]
    over = {"thought": "its own", "actions": ["GO"], "sessionId": session_id}
    assert agents == [over, {**over, "x": {"thought": 1}}]
    assert page.text.count('"thought"') == 5
    stored = service.messages.ListMessages(
        ListMessagesRequest(session_id=session_id, json_form=JSON_FORM_TEXT), timeout=30
    ).messages
    assert json.loads(stored[-2].metadata_json) == {
        "thought": "the session's",
        "actions": ["own"],
        "x": {"thought": 1},
        "sessionId": session_id,
    }


def test_what_an_older_version_stored_can_be_read_over_every_transport(start: Start, tmp_path: Path) -> None:
    """It took more values, and kept the keys in no order."""
    service = start()
    session_id = service.create()["sessionId"]
    url = f"{service.url}/{session_id}/messages"
    assert requests.post(url, json={"content": "hi", "attachments": [1]}, timeout=30).status_code == 201
    assert service.stop() == 0
    attachments, metadata = [[0] * 19_999], {"z": 1, "a": {"y": [0.5], "b": 2}}
    row = (
        json.dumps(attachments, separators=(",", ":")),
        json.dumps(metadata, separators=(",", ":")),
        session_id,
    )
    execute(
        tmp_path, "UPDATE log SET attachments = ?, metadata = ? WHERE session_id = ? AND sequence = 1", *row
    )
    service = start()
    whole = {**metadata, "sessionId": session_id}
    found = requests.get(f"{service.url}/{session_id}/messages", timeout=30).json()["messages"][-1]
    assert (found["metadata"], found["attachments"]) == (whole, attachments)
    for form in (JSON_FORM_UNSPECIFIED, JSON_FORM_TEXT):
        page = service.messages.ListMessages(
            ListMessagesRequest(session_id=session_id, json_form=form), timeout=30
        )
        stream = service.sessions.WatchSession(
            WatchSessionRequest(session_id=session_id, json_form=form), timeout=30
        )
        watched = next(iter(stream)).entry.message
        for message in (page.messages[-1], watched):
            if form == JSON_FORM_TEXT:
                assert (json.loads(message.metadata_json), json.loads(message.attachments_json)) == (
                    whole,
                    attachments,
                )
            else:
                assert values.plain(message.metadata) == whole
                assert len(message.attachments[0]) == 19_999
