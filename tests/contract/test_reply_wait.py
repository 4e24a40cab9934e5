"""A SendMessage over gRPC that waits for the agent's reply."""

import signal
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from eliza.sessions.call_metadata import MESSAGE_ID_KEY
from eliza.sessions.errors import error_info
from eliza.sessions.v1 import errors_pb2
from eliza.sessions.v1.agent_service_pb2 import AgentReply, ReplyRequest
from eliza.sessions.v1.message_service_pb2 import SendMessageRequest, SendMessageResponse
from eliza.sessions.v1.session_service_pb2 import DeleteSessionRequest
from tests.contract.drivers import PATIENCE_SECONDS
from tests.service.agents.worker import Worker, stream_agent
from tests.support.clients import create, ended, fails, history
from tests.support.service import Serve
from tests.support.waiting import until

LONG_SECONDS = 60
SHORT_MS = 100


@pytest.fixture
def silent(service: Serve) -> str:
    """An agent that nobody works for."""
    return stream_agent(service)


def asking(session_id: str, wait_ms: int = LONG_SECONDS * 1000, **given: Any) -> SendMessageRequest:
    request = SendMessageRequest(session_id=session_id, **{"content": "Hello", **given})
    request.reply_wait.FromMilliseconds(wait_ms)
    return request


def ask(service: Serve, *given: Any, **more: Any) -> SendMessageResponse:
    return service.messages.SendMessage(asking(*given, **more), timeout=LONG_SECONDS + PATIENCE_SECONDS)


def begin(service: Serve, session_id: str, **more: Any) -> Any:
    """A call that waits, whose message is stored."""
    before = len(history(service, session_id))
    call = service.messages.SendMessage.future(asking(session_id, **more), timeout=LONG_SECONDS)
    until(lambda: len(history(service, session_id)) > before, "the message")
    return call


def test_the_answer_has_the_reply(service: Serve) -> None:
    session_id = create(service).session_id
    answer = ask(service, session_id)
    assert (answer.WhichOneof("answer"), answer.reply.content, answer.reply.is_agent) == (
        "reply",
        "Hello",
        True,
    )
    assert history(service, session_id) == [answer.message, answer.reply]


@pytest.mark.parametrize("given", [{}, {"wait_ms": 0}])
def test_without_a_wait_there_is_no_answer_to_it(service: Serve, silent: str, given: dict[str, int]) -> None:
    request = asking(create(service, silent).session_id, **given)
    if not given:
        request.ClearField("reply_wait")
    answer = service.messages.SendMessage(request, timeout=PATIENCE_SECONDS)
    assert answer.WhichOneof("answer") is None


def test_a_failure_says_why(service: Serve, silent: str) -> None:
    session_id = create(service, silent).session_id
    call = begin(service, session_id)
    with Worker(service.channel, silent) as worker:
        worker.fail(worker.next(), "no idea", final=True)
        answer = call.result()
    assert answer.failure.reason == errors_pb2.ERROR_REASON_AGENT_REPLY_FAILED
    message_id = history(service, session_id)[0].message_id
    assert answer.message.message_id == message_id
    assert answer.failure.details == {"sessionId": session_id, "messageId": message_id, "reason": "no idea"}


def test_a_session_that_is_deleted_meanwhile_is_a_failure(service: Serve, silent: str) -> None:
    session_id = create(service, silent).session_id
    call = begin(service, session_id)
    service.sessions.DeleteSession(DeleteSessionRequest(session_id=session_id), timeout=PATIENCE_SECONDS)
    answer = call.result()
    assert answer.failure.reason == errors_pb2.ERROR_REASON_SESSION_NOT_FOUND
    assert answer.failure.details == {"sessionId": session_id}


def test_a_wait_that_is_over_is_pending_and_the_repeated_call_has_the_reply(
    service: Serve, silent: str
) -> None:
    session_id = create(service, silent).session_id
    given = {"request_id": "again"}
    first = ask(service, session_id, SHORT_MS, **given)
    assert first.WhichOneof("answer") == "pending"
    second = service.messages.SendMessage.future(asking(session_id, **given), timeout=LONG_SECONDS)
    reply = AgentReply(content="At last")
    service.agents.Reply(ReplyRequest(delivery_id=f"{session_id}-1", reply=reply), timeout=PATIENCE_SECONDS)
    third = ask(service, session_id, **given)
    for answer in (second.result(), third):
        assert (answer.replayed, answer.reply.content) == (True, "At last")
        assert answer.message == first.message
    assert len(history(service, session_id)) == 2


def test_a_wait_that_is_cancelled_leaves_the_message_stored(service: Serve, silent: str) -> None:
    session_id = create(service, silent).session_id
    begin(service, session_id).cancel()
    (kept,) = history(service, session_id)
    assert kept.content == "Hello"
    reply = AgentReply(content="all the same")
    service.agents.Reply(ReplyRequest(delivery_id=f"{session_id}-1", reply=reply), timeout=PATIENCE_SECONDS)
    assert [message.content for message in history(service, session_id)] == ["Hello", "all the same"]


def test_a_wait_of_less_than_nothing_is_refused(service: Serve) -> None:
    session_id = create(service).session_id
    details = fails(lambda: ask(service, session_id, -1), "INVALID_FIELD")
    assert details["field"] == "reply_wait"
    assert history(service, session_id) == []


def test_the_calls_own_deadline_leaves_time_for_the_answer(service: Serve, silent: str) -> None:
    answer = service.messages.SendMessage(asking(create(service, silent).session_id), timeout=2)
    assert answer.WhichOneof("answer") == "pending"


def test_the_id_of_the_message_comes_as_soon_as_it_is_stored(service: Serve, silent: str) -> None:
    """To a client that reads the call as a stream of one answer."""
    session_id = create(service, silent).session_id
    method = service.channel.unary_stream(
        "/eliza.sessions.v1.MessageService/SendMessage",
        SendMessageRequest.SerializeToString,
        SendMessageResponse.FromString,
    )
    call = method(asking(session_id), timeout=LONG_SECONDS)
    told = dict(call.initial_metadata())[MESSAGE_ID_KEY]
    assert [message.message_id for message in history(service, session_id)] == [told]
    call.cancel()


def test_without_a_free_stream_nothing_is_stored(start: Callable[..., Serve]) -> None:
    service = start("--no-rest", MAX_STREAMS="2")
    session_id = create(service, stream_agent(service)).session_id
    waiting = [begin(service, session_id) for _ in range(2)]
    fails(lambda: ask(service, session_id, content="one too many"), "OVERLOADED")
    assert len(history(service, session_id)) == 2
    # It holds back no other calls.
    service.messages.SendMessage(SendMessageRequest(session_id=session_id, content="x"), timeout=10)
    for call in waiting:
        call.cancel()
    # Its streams are free again.
    until(lambda: has_room(service, session_id), "a free stream")


def has_room(service: Serve, session_id: str) -> bool:
    try:
        return ask(service, session_id, SHORT_MS).HasField("pending")
    except grpc.RpcError as error:
        info = error_info(error)
        assert info is not None
        assert info.reason == "OVERLOADED"
        return False


def test_a_service_that_stops_tells_who_waits(start: Callable[..., Serve]) -> None:
    service = start("--no-rest", SHUTDOWN_GRACE_SECONDS="5")
    session_id = create(service, stream_agent(service)).session_id
    call = begin(service, session_id)
    (message,) = history(service, session_id)
    service.process.send_signal(signal.SIGTERM)
    answer = call.result()
    assert (answer.WhichOneof("answer"), answer.message.message_id) == ("pending", message.message_id)
    assert ended(service) == 0
    assert "Traceback" not in service.log()


def test_many_wait_at_once_and_each_has_its_own_reply(service: Serve) -> None:
    session_id = create(service).session_id
    answers: list[SendMessageResponse] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(ask(service, session_id, content=f"message {n}")))
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.message.content for answer in answers) == sorted(f"message {n}" for n in range(20))
    assert all(answer.reply.content == answer.message.content for answer in answers)
