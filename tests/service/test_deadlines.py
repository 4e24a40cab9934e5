"""Calls whose clients no longer wait: what they leave is whole or nothing."""

import itertools
import random
import time

import grpc

from eliza.sessions.errors import error_info
from eliza.sessions.v1.message_pb2 import Message
from eliza.sessions.v1.message_service_pb2 import SendMessageRequest
from eliza.sessions.v1.session_service_pb2 import CreateSessionRequest, ListSessionsRequest
from tests.support.clients import create, history, send
from tests.support.service import ECHO, Serve
from tests.support.waiting import until

GIVEN_UP = {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}


def whole(service: Serve, session_id: str, acknowledged: list[Message]) -> list[Message]:
    """Asserts that a session's history holds every acknowledged message as it was answered, nothing twice or
    by halves, and all replies.
    """

    def unanswered() -> list[str]:
        replied = {message.content for message in history(service, session_id) if message.is_agent}
        return [message.content for message in history(service, session_id) if message.content not in replied]

    send(service, session_id, "the last")
    until(lambda: "the last" not in unanswered(), "the last reply")
    log = history(service, session_id)
    asked = [message for message in log if not message.is_agent]
    assert [message.sequence for message in log] == list(range(1, len(log) + 1))
    assert len({message.created_at.ToMilliseconds() for message in log}) == len(log)
    assert len({message.content for message in asked}) == len(asked)
    stored = {message.message_id: message for message in asked}
    assert [stored.get(message.message_id) for message in acknowledged] == acknowledged
    until(lambda: not unanswered(), f"replies to {unanswered()}", seconds=5)
    log = history(service, session_id)
    assert [message.content for message in log if message.is_agent] == [
        message.content for message in log if not message.is_agent
    ]
    return asked


def test_a_message_whose_deadline_passes_is_whole_or_nothing(service: Serve) -> None:
    session_id = create(service).session_id
    acknowledged, refused = [], set()
    for number, seconds in enumerate(
        itertools.islice(itertools.cycle((0.0, 0.0002, 0.0005, 0.001, 0.0015, 0.002, 0.003)), 210)
    ):
        try:
            request = SendMessageRequest(session_id=session_id, content=f"message {number}")
            acknowledged.append(service.messages.SendMessage(request, timeout=seconds).message)
        except grpc.RpcError as error:
            refused.add(error.code())
    assert refused <= GIVEN_UP
    assert len(acknowledged) < len(whole(service, session_id, acknowledged)) <= 211


def test_a_call_that_the_server_finds_too_late_does_nothing(service: Serve) -> None:
    session_id = create(service).session_id
    refused, told = set(), set()
    acknowledged = []
    numbers = itertools.count()

    def ten_refused() -> bool:
        # The least that gRPC tells a server is 1 ms; some of these calls find it before it is over, and may
        # do their work.
        request = SendMessageRequest(session_id=session_id, content=f"message {next(numbers)}")
        try:
            acknowledged.append(service.messages.SendMessage(request, timeout=0).message)
        except grpc.RpcError as error:
            if (info := error_info(error)) is not None:
                refused.add(request.content)
                told.add((info.reason, error.code()))
        return len(refused) >= 10

    until(ten_refused, "calls that the server refuses for their deadline")
    asked = [message for message in history(service, session_id) if not message.is_agent]
    assert told == {("DEADLINE_EXCEEDED", grpc.StatusCode.DEADLINE_EXCEEDED)}
    assert refused.isdisjoint(message.content for message in asked)
    stored = {message.message_id: message for message in asked}
    assert [stored.get(message.message_id) for message in acknowledged] == acknowledged


def test_a_cancelled_message_is_whole_or_nothing(service: Serve) -> None:
    session_id = create(service).session_id
    chance = random.Random(7)
    acknowledged = []
    for number in range(200):
        call = service.messages.SendMessage.future(
            SendMessageRequest(session_id=session_id, content=f"message {number}"), timeout=10
        )
        until_then = time.monotonic() + chance.uniform(0, 0.004)
        while time.monotonic() < until_then and not call.done():
            pass
        call.cancel()
        if call.code() == grpc.StatusCode.OK:
            acknowledged.append(call.result().message)
        else:
            assert call.code() == grpc.StatusCode.CANCELLED
    whole(service, session_id, acknowledged)


def test_messages_cancelled_all_at_once_are_whole_or_nothing(service: Serve) -> None:
    session_id = create(service).session_id
    requests = [
        SendMessageRequest(session_id=session_id, content=f"message {number}") for number in range(100)
    ]
    calls = [service.messages.SendMessage.future(request, timeout=10) for request in requests]
    until(lambda: calls[20].done(), "the first answers")
    for call in calls:
        call.cancel()
    acknowledged = [call.result().message for call in calls if call.code() == grpc.StatusCode.OK]
    assert len(acknowledged) > 20
    whole(service, session_id, acknowledged)


def test_a_cancelled_create_is_whole_or_nothing(service: Serve) -> None:
    user_id = "33333333-3333-4333-8333-333333333333"
    request = CreateSessionRequest(agent_id=ECHO, user_id=user_id)
    chance = random.Random(7)
    acknowledged = []
    for _ in range(60):
        call = service.sessions.CreateSession.future(request, timeout=10)
        until_then = time.monotonic() + chance.uniform(0, 0.004)
        while time.monotonic() < until_then and not call.done():
            pass
        call.cancel()
        if call.code() == grpc.StatusCode.OK:
            acknowledged.append(call.result().session.session_id)
    acknowledged.append(service.sessions.CreateSession(request, timeout=10).session.session_id)
    page = service.sessions.ListSessions(ListSessionsRequest(user_id=user_id, page_size=1000), timeout=10)
    stored = [session.session_id for session in page.sessions]
    assert len(set(stored)) == len(stored) == page.total_size
    assert set(acknowledged) <= set(stored)
    for session_id in stored:
        send(service, session_id, "hello")
