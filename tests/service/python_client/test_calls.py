"""Each call of the Python clients, against the real service."""

import datetime as dt
import inspect
import time
import uuid
from collections.abc import Callable

import grpc
import pytest

from eliza_sessions_client import (
    AsyncClient,
    Client,
    Message,
    Timeouts,
    errors,
    to_dict,
    to_list,
    user_id_for,
)
from tests.service.agents.worker import Worker, stream_agent
from tests.service.python_client.conftest import Connect
from tests.support.service import ECHO, UNKNOWN, USER, Serve, Start


def test_a_session_from_its_creation_to_its_end(service: Serve, connect: Connect) -> None:
    client, user = connect(service.grpc), str(uuid.uuid4())
    made = client.create(
        ECHO,
        user,
        metadata={"platform": "web", "level": 2, "tags": ["a", None, True, 0.5]},
        timeouts=Timeouts(timeout_minutes=20, auto_renew=False),
    )
    assert to_dict(made.metadata) == {"platform": "web", "level": 2, "tags": ["a", None, True, 0.5]}
    assert (made.timeout_config.timeout_minutes, made.timeout_config.auto_renew) == (20, False)
    assert client.get(made.session_id).etag == made.etag
    assert client.heartbeat(made.session_id).renewal_count == 0
    assert client.renew(made.session_id).renewal_count == 1
    changed = client.update_timeout(made.session_id, Timeouts(timeout_minutes=30))
    assert (changed.timeout_config.timeout_minutes, changed.timeout_config.auto_renew) == (30, False)
    assert [one.session_id for one in client.sessions(user_id=user)] == [made.session_id]
    client.delete(made.session_id)
    with pytest.raises(errors.SessionNotFoundError) as raised:
        client.get(made.session_id)
    assert raised.value.session_id == made.session_id


def test_a_repeated_request_id_does_nothing_twice(service: Serve, connect: Connect) -> None:
    client, user = connect(service.grpc), str(uuid.uuid4())
    first, again = (client.create(ECHO, user, request_id="mine") for _ in range(2))
    other = client.create(ECHO, user)
    assert first.session_id == again.session_id != other.session_id
    sent, repeated = (client.send(first.session_id, "Hello!", request_id="1") for _ in range(2))
    assert (sent.message.message_id, sent.replayed) == (repeated.message.message_id, False)
    assert repeated.replayed
    assert client.send(first.session_id, "Hello!").message.message_id != sent.message.message_id
    with pytest.raises(errors.RequestIdReusedError) as raised:
        client.send(first.session_id, "Bye!", request_id="1")
    assert raised.value.request_id == "1"


def test_messages_come_over_all_pages(service: Serve, connect: Connect) -> None:
    client = connect(service.grpc)
    session_id = client.create(ECHO, USER).session_id
    for number in range(4):
        client.send_and_wait(session_id, str(number), metadata={"n": number}, attachments=[{"n": number}])
    whole = [message.content for message in client.messages(session_id)]
    assert whole == [content for number in "3210" for content in (number, number)]
    assert [message.content for message in client.messages(session_id, page_size=3)] == whole
    oldest = next(iter(client.messages(session_id, after=dt.datetime(2000, 1, 1, tzinfo=dt.UTC))))
    assert (oldest.content, oldest.is_agent) == ("0", False)
    assert (to_dict(oldest.metadata)["n"], to_list(oldest.attachments)) == (0, [{"n": 0}])
    when = oldest.created_at.ToDatetime(dt.UTC)
    forward = client.messages(session_id, after=when, page_size=3)
    assert [message.content for message in forward] == whole[::-1][1:]
    assert list(client.messages(session_id, before=when)) == []
    with pytest.raises(ValueError, match="time zone"):
        client.messages(session_id, before=dt.datetime(2000, 1, 1))


def test_agents_and_the_service_tell_how_they_are(service: Serve, connect: Connect) -> None:
    client = connect(service.grpc)
    agent_id = stream_agent(service, "told of")
    found = {one.agent_id: one for one in client.agents(page_size=1, with_status=True)}
    assert {ECHO, agent_id} <= found.keys()
    assert found[agent_id].HasField("status")
    assert not any(one.HasField("status") for one in client.agents())
    assert client.status().version


def test_a_token_is_for_one_session(service: Serve, connect: Connect) -> None:
    client = connect(service.grpc)
    one, other = (client.create(ECHO, USER).session_id for _ in range(2))
    made = client.create_access_token(one, verbs=["read"], lifetime=dt.timedelta(seconds=60))
    left_s = made.expires_at.ToDatetime(dt.UTC) - client.get(one).last_activity.ToDatetime(dt.UTC)
    assert (list(made.verbs), left_s <= dt.timedelta(minutes=10)) == (["read"], True)
    narrow = connect(service.grpc, token=made.access_token)
    assert narrow.get(one).session_id == one
    with pytest.raises(errors.PermissionDeniedError):
        narrow.send(one, "Hello!")
    with pytest.raises(errors.SessionNotFoundError):
        narrow.get(other)
    assert set(client.create_access_token(one).verbs) == {"read", "send"}


def test_all_there_is_of_a_session_and_a_user(service: Serve, connect: Connect) -> None:
    client, user = connect(service.grpc), str(uuid.uuid4())
    made = [client.create(ECHO, user, metadata={"n": number}).session_id for number in range(3)]
    client.send_and_wait(made[0], "Hello!")
    first, *entries = client.transcript(made[0])
    assert (first["record"], first["session"]["sessionId"]) == ("session", made[0])
    assert [one["entry"]["message"]["content"] for one in entries] == ["Hello!", "Hello!"]
    assert list(client.transcript(made[0], after=1))[1:] == entries[1:]
    assert sorted(one.session_id for one in client.user_sessions(user, page_size=2)) == sorted(made)
    told = [one["session"]["sessionId"] for one in client.export_user(user) if one["record"] == "session"]
    assert sorted(told) == sorted(made)
    receipt = client.erase_user(user)
    assert (receipt.user_id, receipt.sessions, receipt.entries) == (user, 3, 2)
    assert list(client.user_sessions(user)) == list(client.export_user(user)) == []
    with pytest.raises(errors.SessionNotFoundError):
        next(client.transcript(made[0]))


def test_errors_have_their_class_and_details(service: Serve, connect: Connect) -> None:
    client = connect(service.grpc)
    with pytest.raises(errors.InvalidUuidError) as bad:
        client.create("nobody", USER)
    assert (bad.value.field, bad.value.value) == ("agent_id", "nobody")
    assert (bad.value.code, bad.value.status) == ("INVALID_UUID", grpc.StatusCode.INVALID_ARGUMENT)
    with pytest.raises(errors.MissingFieldsError) as missing:
        client.create("", "")
    assert missing.value.missing_fields == ("agent_id", "user_id")
    with pytest.raises(errors.InvalidMetadataError) as large:
        client.create(ECHO, USER, metadata={"x": "x" * 20_000})
    assert large.value.max_bytes == 10_240
    # It cannot be renewed, and no warning, which would change its etag, is due.
    timeouts = Timeouts(timeout_minutes=5, max_duration_minutes=5, warning_threshold_minutes=1)
    made = client.create(ECHO, USER, timeouts=timeouts)
    with pytest.raises(errors.EtagMismatchError) as changed:
        client.renew(made.session_id, etag='"other"')
    assert changed.value.etag == client.get(made.session_id).etag
    with pytest.raises(errors.SessionRenewalError) as limited:
        client.renew(made.session_id)
    assert limited.value.max_duration_minutes == 5
    service.advance(minutes=6)
    with pytest.raises(errors.SessionExpiredError) as expired:
        client.send(made.session_id, "Hello?")
    when = dt.datetime.fromisoformat(expired.value.expires_at)
    assert when == made.expires_at.ToDatetime(dt.UTC)


def test_a_conversation_comes_in_pieces(service: Serve, connect: Connect) -> None:
    client = connect(service.grpc)
    session_id = client.create(ECHO, USER).session_id
    parts = list(client.converse(session_id, "Hello there!"))
    kinds = [type(part).__name__ for part in parts]
    assert kinds[0] == "SendMessageResponse"
    assert set(kinds[1:-1]) == {"ReplyChunk"}
    assert "".join(part.chunk for part in parts[1:-1]) == "Hello there!"
    assert isinstance(parts[-1], Message)
    assert parts[-1].content == "Hello there!"


def test_an_agent_that_fails_is_an_error_of_its_own(service: Serve, connect: Connect) -> None:
    client, agent_id = connect(service.grpc), stream_agent(service)
    session_id = client.create(agent_id, USER).session_id
    with Worker(service.channel, agent_id) as worker:
        conversation = client.converse(session_id, "Hello?")
        stored = next(conversation).message
        delivery = worker.expect("delivery")
        worker.chunk(delivery, "Well, ")
        assert next(conversation).chunk == "Well, "
        worker.fail(delivery, "not today", final=True)
        assert next(conversation).message_id == delivery.reply_message_id
        with pytest.raises(errors.AgentReplyError) as raised:
            next(conversation)
    assert (raised.value.reason, raised.value.message_id) == ("not today", stored.message_id)


def test_a_reply_that_does_not_come_is_an_error_that_names_the_message(
    service: Serve, connect: Connect
) -> None:
    client = connect(service.grpc)
    session_id = client.create(stream_agent(service), USER).session_id
    begun_s = time.monotonic()
    with pytest.raises(errors.AgentReplyTimeoutError) as raised:
        client.send_and_wait(session_id, "Hello?", timeout=1)
    assert 0.9 < time.monotonic() - begun_s < 20
    (stored,) = client.messages(session_id)
    assert raised.value.message_id == stored.message_id


def test_waiting_goes_on_where_the_service_is_less_patient(
    start: Start, connect_both: Callable[[str], list[Client]]
) -> None:
    service = start("--no-rest", REPLY_DEADLINE_SECONDS="1")
    agent_id = stream_agent(service)
    for client in connect_both(service.grpc):
        session_id = client.create(agent_id, USER).session_id
        conversation = client.converse(session_id, "Hello?", timeout=60)
        next(conversation)
        with Worker(service.channel, agent_id) as worker:
            delivery = worker.expect("delivery")
            # Longer than the service waits.
            time.sleep(1.5)
            worker.answer(delivery, "Here I am")
            reply = list(conversation)[-1]
        assert isinstance(reply, Message)
        assert reply.content == "Here I am"
        assert len(list(client.messages(session_id))) == 2


def test_a_service_out_of_reach_is_unavailable(connect: Connect) -> None:
    client, begun_s = connect("127.0.0.1:1", timeout=3), time.monotonic()
    with pytest.raises(errors.UnavailableError, match="out of reach"):
        client.get(UNKNOWN)
    with pytest.raises(errors.UnavailableError):
        next(client.watch(UNKNOWN, patience=0.2))
    assert time.monotonic() - begun_s < 20


def test_a_closed_client_makes_no_calls(service: Serve, connect: Connect) -> None:
    client = connect(service.grpc)
    events = client.watch(client.create(ECHO, user_id_for("ada")).session_id)
    client.close()
    with pytest.raises((ValueError, grpc.aio.UsageError)):
        client.get(UNKNOWN)
    with pytest.raises((ValueError, grpc.aio.UsageError)):
        next(events)


def test_methods_show_their_arguments_and_what_they_do() -> None:
    for kind in (Client, AsyncClient):
        for name in ("create", "messages", "watch"):
            method = getattr(kind, name)
            assert method.__doc__
            assert next(iter(inspect.signature(method).parameters)) == "self"
        assert "agent_id" in inspect.signature(kind.create).parameters
        public = {name for name in vars(kind) if not name.startswith("_")}
        assert public == {name for name in vars(Client) if not name.startswith("_")}
