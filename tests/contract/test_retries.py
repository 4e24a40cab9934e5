"""Calls that are repeated with their request id, conditions on the state of a session, and what a full queue
says: over both transports.
"""

import uuid
from pathlib import Path

import grpc
import pytest
import requests
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from eliza.sessions import values
from eliza.sessions.v1 import agent_pb2, agent_service_pb2, message_service_pb2, session_service_pb2
from tests.support.clients import fails, replies
from tests.support.service import ECHO, USER, Serve, Start
from tests.support.stores import execute
from tests.support.waiting import until

CALLERS = 16


@pytest.fixture
def service(rest_service: Serve) -> Serve:
    """REST is asked both ways."""
    return rest_service


def post(service: Serve, path: str = "", key: str | None = None, **body: object) -> requests.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return requests.post(f"{service.url}{path}", json=body, headers=headers, timeout=30)


def test_a_create_that_is_repeated_gives_the_first_answer(service: Serve) -> None:
    user, key = str(uuid.uuid4()), str(uuid.uuid4())
    first = post(
        service,
        key=key,
        agentId=ECHO,
        userId=user,
        metadata={"a": 1, "b": [2]},
        timeoutConfig={"timeoutMinutes": 7},
    )
    service.http.post(f"{service.url}/{first.json()['sessionId']}/renew", timeout=30)
    again = post(
        service,
        key=f'"{key}"',
        agentId=ECHO.upper(),
        userId=user,
        metadata={"b": [2], "a": 1},
        timeoutConfig={"timeoutMinutes": 7},
    )
    assert (first.status_code, again.status_code, again.json()) == (201, 201, first.json())
    assert (first.headers.get("Idempotency-Replayed"), again.headers.get("Idempotency-Replayed")) == (
        None,
        "true",
    )
    assert again.headers["ETag"] == first.headers["ETag"]
    request = session_service_pb2.CreateSessionRequest(agent_id=ECHO, user_id=user, request_id=key)
    request.metadata.CopyFrom(values.struct({"a": 1, "b": [2]}))
    request.timeout_config.timeout_minutes = 7
    answer = service.sessions.CreateSession(request, timeout=30)
    assert (answer.session.session_id, answer.replayed) == (first.json()["sessionId"], True)
    # Another user's ids are their own.
    assert (
        post(service, key=key, agentId=ECHO, userId=str(uuid.uuid4())).headers.get("Idempotency-Replayed")
        is None
    )


def test_a_create_that_is_repeated_when_its_agent_is_gone_gives_the_first_answer(service: Serve) -> None:
    agent = agent_pb2.Agent(name="for a while", kind=agent_pb2.AGENT_KIND_ECHO)
    agent_id = service.agents.CreateAgent(
        agent_service_pb2.CreateAgentRequest(agent=agent), timeout=30
    ).agent.agent_id
    key = str(uuid.uuid4())
    first = post(service, key=key, agentId=agent_id, userId=USER)
    service.agents.DeleteAgent(agent_service_pb2.DeleteAgentRequest(agent_id=agent_id), timeout=30)
    again = post(service, key=key, agentId=agent_id, userId=USER)
    assert (again.status_code, again.json(), again.headers["Idempotency-Replayed"]) == (
        201,
        first.json(),
        "true",
    )
    assert post(service, key=key, agentId=agent_id, userId=USER, metadata={"a": 1}).status_code == 409
    other = post(service, key=str(uuid.uuid4()), agentId=agent_id, userId=USER)
    assert (other.status_code, other.json()["code"]) == (404, "AGENT_NOT_FOUND")


def test_a_key_is_free_again_once_its_session_is_deleted(service: Serve) -> None:
    user, key = str(uuid.uuid4()), str(uuid.uuid4())
    first = post(service, key=key, agentId=ECHO, userId=user, metadata={"a": 1})
    assert service.http.delete(f"{service.url}/{first.json()['sessionId']}", timeout=30).status_code == 200
    second = post(service, key=key, agentId=ECHO, userId=user, metadata={"a": 1})
    assert (second.status_code, second.headers.get("Idempotency-Replayed")) == (201, None)
    assert second.json()["sessionId"] != first.json()["sessionId"]
    assert (
        post(service, key=key, agentId=ECHO, userId=user, metadata={"a": 1}).headers["Idempotency-Replayed"]
        == "true"
    )
    service.sessions.DeleteSession(
        session_service_pb2.DeleteSessionRequest(session_id=second.json()["sessionId"]), timeout=30
    )
    request = session_service_pb2.CreateSessionRequest(agent_id=ECHO, user_id=user, request_id=key)
    third = service.sessions.CreateSession(request, timeout=30)
    assert not third.replayed
    assert service.sessions.CreateSession(request, timeout=30) == session_service_pb2.CreateSessionResponse(
        session=third.session, replayed=True
    )
    # A message with that key in the session that is gone has nobody to go to.
    sent = post(service, f"/{first.json()['sessionId']}/messages", "m", content="Hello")
    assert (sent.status_code, sent.json()["code"]) == (404, "SESSION_NOT_FOUND")


@pytest.mark.parametrize("end", ["delete", "purge", pytest.param("shutdown", marks=pytest.mark.sqlite)])
def test_nothing_of_a_session_that_is_gone_stays_in_the_table_of_requests(
    start: Start, tmp_path: Path, end: str
) -> None:
    service = start(
        TEST_CLOCK="1",
        SESSION_RETENTION_MINUTES="0",
        CLEAR_SESSIONS_ON_SHUTDOWN=str(end == "shutdown").lower(),
    )
    session_id = post(service, key="create", agentId=ECHO, userId=USER, metadata={"who": "me"}).json()[
        "sessionId"
    ]
    assert post(service, f"/{session_id}/messages", key="message", content="Hello").status_code == 201
    if end == "delete":
        assert service.http.delete(f"{service.url}/{session_id}", timeout=30).status_code == 200
    elif end == "purge":
        service.advance(minutes=60)
    assert service.stop() == 0
    for table in ("sessions", "requests"):
        assert execute(tmp_path, f"SELECT count(*) FROM {table}") == [(0,)]


@pytest.mark.parametrize("transport", ["websocket", "http", "sse"])
def test_a_message_that_is_repeated_gives_the_first_answer_and_the_same_reply(
    service: Serve, transport: str
) -> None:
    session_id = service.create()["sessionId"]
    answers = [
        post(
            service, f"/{session_id}/messages", "m", content="Hello", metadata={"x": 1.0}, transport=transport
        )
        for _ in range(3)
    ]
    assert [answer.headers.get("Idempotency-Replayed") for answer in answers] == [None, "true", "true"]
    (reply,) = replies(service, session_id, 1)
    if transport == "sse":
        # What follows are the pieces, which are not kept, then the reply.
        told = [answer.text.partition("\n\n")[0] for answer in answers]
        assert len(set(told)) == 1
        assert all(reply.message_id in answer.text.split("event: done")[1] for answer in answers)
    else:
        assert len({answer.text for answer in answers}) == 1
        assert transport == "websocket" or answers[0].json()["agentResponse"]["id"] == reply.message_id
    assert len(service.http.get(f"{service.url}/{session_id}/messages", timeout=30).json()["messages"]) == 2


def test_repeated_at_the_same_time_it_is_stored_once(service: Serve) -> None:
    session_id = service.create()["sessionId"]
    request = message_service_pb2.SendMessageRequest(
        session_id=session_id, content="Hello", request_id="same"
    )
    calls = [service.messages.SendMessage.future(request, timeout=30) for _ in range(CALLERS)]
    answers = [call.result() for call in calls]
    assert sorted(answer.replayed for answer in answers) == [False] + [True] * (CALLERS - 1)
    assert len({answer.message.message_id for answer in answers}) == 1
    assert len([message for message in _history(service, session_id) if not message["isAgent"]]) == 1


def test_who_waits_for_a_reply_again_gets_it_when_it_comes(service: Serve) -> None:
    agent = agent_pb2.Agent(name="nobody works for it", kind=agent_pb2.AGENT_KIND_STREAM)
    agent_id = service.agents.CreateAgent(
        agent_service_pb2.CreateAgentRequest(agent=agent), timeout=10
    ).agent.agent_id
    session_id = service.create(agentId=agent_id)["sessionId"]
    message = message_service_pb2.SendMessageRequest(session_id=session_id, content="Hello", request_id="r")
    asked = message_service_pb2.ConverseRequest(message=message)
    talks = [service.messages.Converse(asked, timeout=30) for _ in range(3)]
    sent = [next(talk).user_message for talk in talks]
    assert len({one.message.message_id for one in sent}) == 1
    reply = agent_service_pb2.ReplyRequest(
        delivery_id=f"{session_id}-1", reply=agent_service_pb2.AgentReply(content="At last")
    )
    service.agents.Reply(reply, timeout=10)
    assert [next(talk).reply.content for talk in talks] == ["At last"] * 3
    assert [part.WhichOneof("part") for part in service.messages.Converse(asked, timeout=30)] == [
        "user_message",
        "reply",
    ]


def test_another_content_under_the_same_id_is_refused(service: Serve) -> None:
    session_id = service.create()["sessionId"]
    post(service, f"/{session_id}/messages", "m", content="Hello")
    for body in (
        {"content": "Other"},
        {"content": "Hello", "metadata": {"a": 1}},
        {"content": "Hello", "attachments": []},
    ):
        refused = post(service, f"/{session_id}/messages", "m", **body)
        assert (refused.status_code, refused.json()["code"]) == (409, "REQUEST_ID_REUSED")
        assert refused.json()["details"] == {"requestId": "m"}
    assert len([message for message in _history(service, session_id) if not message["isAgent"]]) == 1


@pytest.mark.parametrize("key", ["", '""', "x" * 129])
def test_a_key_that_cannot_be_one(service: Serve, key: str) -> None:
    refused = post(service, key=key, agentId=ECHO, userId=USER)
    assert (refused.status_code, refused.json()["code"], refused.json()["details"]["field"]) == (
        400,
        "INVALID_FIELD",
        "Idempotency-Key",
    )
    if key not in ("", '""'):
        request = session_service_pb2.CreateSessionRequest(agent_id=ECHO, user_id=USER, request_id=key)
        assert (
            fails(lambda: service.sessions.CreateSession(request, timeout=10), "INVALID_FIELD")["field"]
            == "request_id"
        )


def test_a_session_is_changed_only_in_the_state_that_is_named(service: Serve) -> None:
    session_id = service.create()["sessionId"]
    url = f"{service.url}/{session_id}"
    etag = requests.get(url, timeout=30).headers["ETag"]

    def change(method: str, path: str, wanted: str) -> requests.Response:
        return requests.request(
            method, f"{url}{path}", headers={"If-Match": wanted}, json={"timeoutMinutes": 9}, timeout=30
        )

    for method, path in (("PATCH", "/timeout"), ("POST", "/renew"), ("DELETE", "")):
        # A header that names no tag is a condition that nothing meets, not none.
        for wrong in ('"other"', f"W/{etag}", '"a", "b"', "", ","):
            refused = change(method, path, wrong)
            assert (refused.status_code, refused.json()["code"]) == (412, "ETAG_MISMATCH")
            assert refused.json()["details"] == {"sessionId": session_id, "etag": etag}
    patched = change("PATCH", "/timeout", f'"other", {etag}')
    assert patched.status_code == 200
    assert patched.headers["ETag"] != etag
    assert change("POST", "/renew", etag).status_code == 412
    request = session_service_pb2.RenewSessionRequest(session_id=session_id, etag=etag)
    assert (
        fails(lambda: service.sessions.RenewSession(request, timeout=10), "ETAG_MISMATCH")["etag"]
        == patched.headers["ETag"]
    )
    assert change("POST", "/renew", "*").status_code == 200
    assert change("DELETE", "", requests.get(url, timeout=30).headers["ETag"]).status_code == 200


def test_a_heartbeat_that_changes_something_changes_the_tag(service: Serve) -> None:
    session_id = service.create(timeoutConfig={"autoRenew": False})["sessionId"]
    url = f"{service.url}/{session_id}"
    before = requests.get(url, timeout=30).headers["ETag"]
    service.advance(ms=5)
    assert requests.get(url, timeout=30).headers["ETag"] == before
    assert requests.post(f"{url}/heartbeat", timeout=30).headers["ETag"] != before


def test_past_its_bound_a_queue_refuses_at_once(start: Start) -> None:
    service = start(MAX_OPEN_DELIVERIES="2")
    agent = agent_pb2.Agent(name="nobody works for it", kind=agent_pb2.AGENT_KIND_STREAM)
    agent_id = service.agents.CreateAgent(
        agent_service_pb2.CreateAgentRequest(agent=agent), timeout=10
    ).agent.agent_id
    session_id = service.create(agentId=agent_id)["sessionId"]
    for key in ("one", "two"):
        assert post(service, f"/{session_id}/messages", key=key, content="Hello").status_code == 201
    # Who did not hear the answer is told it all the same: a message that is repeated adds none.
    again = post(service, f"/{session_id}/messages", key="two", content="Hello")
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert (
        post(service, f"/{session_id}/messages", key="two", content="Other").json()["code"]
        == "REQUEST_ID_REUSED"
    )
    refused = post(service, f"/{session_id}/messages", content="Hello")
    assert (refused.status_code, refused.json()["code"], refused.headers["Retry-After"]) == (
        503,
        "OVERLOADED",
        "1",
    )
    request = message_service_pb2.SendMessageRequest(session_id=session_id, content="Hello")
    with pytest.raises(grpc.RpcError) as caught:
        service.messages.SendMessage(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in rpc_status.from_call(caught.value).details)
    assert retry.retry_delay.seconds == 1
    # Other sessions go on, and this one does once there is room.
    assert post(service, f"/{service.create()['sessionId']}/messages", content="Hello").status_code == 201
    reply = agent_service_pb2.ReplyRequest(
        delivery_id=f"{session_id}-1", reply=agent_service_pb2.AgentReply(content="r")
    )
    service.agents.Reply(reply, timeout=10)
    assert until(lambda: post(service, f"/{session_id}/messages", content="Hello").status_code == 201, "room")


def _history(service: Serve, session_id: str) -> list[dict]:
    return service.http.get(f"{service.url}/{session_id}/messages", timeout=30).json()["messages"]
