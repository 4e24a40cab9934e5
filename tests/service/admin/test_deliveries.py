"""What became of a message: its delivery is listed, and delivered anew where it has failed."""

import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from eliza.sessions.v1 import admin_service_pb2 as pb
from eliza.sessions.v1.admin_service_pb2 import (
    DELIVERY_STATE_ANSWERED,
    DELIVERY_STATE_FAILED,
    DELIVERY_STATE_IN_HAND,
    DELIVERY_STATE_WAITING,
    MessageDelivery,
)
from eliza.sessions.v1.message_service_pb2 import SendMessageRequest
from eliza.sessions.v1.session_service_pb2 import DeleteSessionRequest
from tests.service.admin.asking import SECONDS, activity, admin, deliveries, redeliver, search
from tests.service.agents.worker import Worker, stream_agent
from tests.support.clients import create, fails, history, replies, send
from tests.support.service import ECHO, UNKNOWN, Serve, Start
from tests.support.waiting import until


@pytest.fixture
def agent_id(service: Serve) -> str:
    return stream_agent(service)


@pytest.fixture
def worker(service: Serve, agent_id: str) -> Iterator[Worker]:
    with Worker(service.channel, agent_id, max_deliveries=2) as connected:
        yield connected


def state(service: Serve, session_id: str) -> list[int]:
    """The states of a session's deliveries, the oldest first."""
    return [one.state for one in reversed(deliveries(service, session_id=session_id))]


def test_a_message_is_followed_from_its_sending_to_its_reply(
    service: Serve, agent_id: str, worker: Worker
) -> None:
    session_id = create(service, agent_id).session_id
    sent = [send(service, session_id, text) for text in ("one", "two")]
    given = worker.next()
    second, first = deliveries(service, session_id=session_id)
    assert (first.state, second.state) == (DELIVERY_STATE_IN_HAND, DELIVERY_STATE_WAITING)
    assert (first.message_id, first.message_sequence) == (sent[0].message_id, sent[0].sequence)
    assert (first.delivery_id, first.attempts, first.max_attempts) == (given.delivery_id, 1, 2)
    assert first.created_at == sent[0].created_at
    (connected,) = activity(service, agent_id).workers
    assert first.worker_id == connected.worker_id
    assert first.worker_address.startswith("127.0.0.1:")
    assert first.HasField("lease_expires_at")
    assert (second.attempts, second.worker_id) == (0, "")
    assert second.HasField("next_attempt_at")
    worker.answer(given, "ONE")
    worker.next()
    assert state(service, session_id) == [DELIVERY_STATE_ANSWERED, DELIVERY_STATE_IN_HAND]
    answered = deliveries(service, session_id=session_id, state=DELIVERY_STATE_ANSWERED)
    assert [one.message_id for one in answered] == [sent[0].message_id]
    assert not answered[0].can_redeliver


def test_an_attempt_that_fails_says_why(service: Serve, agent_id: str, worker: Worker) -> None:
    session_id = create(service, agent_id).session_id
    message = send(service, session_id, "one")
    worker.fail(worker.next(), "not in the mood")
    worker.fail(worker.next(), "still not")

    def failed() -> list[MessageDelivery]:
        return deliveries(service, session_id=session_id, state=DELIVERY_STATE_FAILED)

    (found,) = until(failed, "the failure")
    assert (found.attempts, found.can_redeliver) == (2, True)
    last = found.last_failure
    assert (last.reason, last.attempt, last.final) == ("still not", 2, True)
    assert (last.session_id, last.message_id) == (session_id, message.message_id)


def test_a_failed_message_is_delivered_anew_and_answered(
    service: Serve, agent_id: str, worker: Worker
) -> None:
    session_id = create(service, agent_id).session_id
    message = send(service, session_id, "one")
    worker.fail(worker.next(), "no", final=True)
    until(lambda: state(service, session_id) == [DELIVERY_STATE_FAILED], "the failure")
    (found,) = search(service, session_id_prefix=session_id)
    assert (found.open_deliveries, found.failed_deliveries) == (0, 1)
    assert activity(service, agent_id).failed == 1
    again = redeliver(service, session_id, message.message_id.upper())
    assert (again.message_id, again.attempts) == (message.message_id, 0)
    assert again.state in (DELIVERY_STATE_WAITING, DELIVERY_STATE_IN_HAND)
    assert again.last_failure.reason == "no"
    given = worker.next()
    assert (given.message.message_id, given.attempt) == (message.message_id, 1)
    # It is open: to ask again changes nothing.
    repeated = redeliver(service, session_id, message.message_id, message.sequence)
    assert (repeated.state, repeated.attempts) == (DELIVERY_STATE_IN_HAND, 1)
    worker.answer(given, "yes")
    (reply,) = replies(service, session_id, 1)
    assert (reply.content, reply.reply_to_sequence) == ("yes", message.sequence)
    assert state(service, session_id) == [DELIVERY_STATE_ANSWERED]
    assert activity(service, agent_id).failed == 0
    fails(lambda: redeliver(service, session_id, message.message_id), "DELIVERY_ALREADY_ANSWERED")


def test_a_message_is_delivered_anew_while_a_later_one_is_in_hand(
    service: Serve, agent_id: str, worker: Worker
) -> None:
    session_id = create(service, agent_id).session_id
    first = send(service, session_id, "first")
    worker.fail(worker.next(), "no", final=True)
    until(lambda: state(service, session_id) == [DELIVERY_STATE_FAILED], "the failure")
    second = send(service, session_id, "second")
    third = send(service, session_id, "third")
    held = worker.next()
    assert held.message.message_id == second.message_id
    redeliver(service, session_id, first.message_id)
    # The later one rests after a failure; that does not hold up the earlier.
    worker.fail(held, "later")
    assert worker.next().message.message_id == first.message_id
    worker.answer(deliveries(service, session_id=session_id)[-1].delivery_id, "FIRST")
    for expected in (second, third):
        given = worker.next()
        assert given.message.message_id == expected.message_id
        worker.answer(given, "OK")
    texts = [one.content for one in history(service, session_id)]
    assert texts == ["first", "second", "third", "FIRST", "OK", "OK"]


def test_who_asks_again_waits_for_the_reply_of_a_message_that_is_delivered_anew(
    service: Serve, agent_id: str, worker: Worker
) -> None:
    session_id = create(service, agent_id).session_id

    def ask() -> Any:
        request = SendMessageRequest(
            session_id=session_id, content="one", request_id="once", reply_wait=Duration(seconds=SECONDS)
        )
        return service.messages.SendMessage.future(request, timeout=2 * SECONDS)

    first = ask()
    worker.fail(worker.next(), "no", final=True)
    message_id = first.result().message.message_id
    for answer in (first, ask()):
        assert answer.result().WhichOneof("answer") == "failure"
    redeliver(service, session_id, message_id)
    again, given = ask(), worker.next()
    worker.answer(given, "yes")
    assert (again.result().message.message_id, again.result().reply.content) == (message_id, "yes")


def test_what_cannot_be_delivered_anew(service: Serve, agent_id: str, worker: Worker) -> None:
    session_id = create(service, agent_id).session_id
    message = send(service, session_id, "one")
    worker.fail(worker.next(), "no", final=True)
    until(lambda: state(service, session_id) == [DELIVERY_STATE_FAILED], "the failure")
    fails(lambda: redeliver(service, session_id, UNKNOWN), "DELIVERY_NOT_FOUND")
    fails(lambda: redeliver(service, session_id, message.message_id, 2), "DELIVERY_NOT_FOUND")
    fails(lambda: redeliver(service, UNKNOWN, message.message_id), "SESSION_NOT_FOUND")
    other = create(service, agent_id).session_id
    fails(lambda: redeliver(service, other, message.message_id), "DELIVERY_NOT_FOUND")
    service.advance(minutes=31)
    fails(lambda: redeliver(service, session_id, message.message_id), "SESSION_EXPIRED")
    (found,) = deliveries(service, session_id=session_id)
    assert (found.state, found.can_redeliver) == (DELIVERY_STATE_FAILED, False)


def test_the_reply_of_an_agent_is_no_message_to_deliver(service: Serve) -> None:
    session_id = create(service, ECHO).session_id
    send(service, session_id, "hi")
    (reply,) = replies(service, session_id, 1)
    fails(lambda: redeliver(service, session_id, reply.message_id), "DELIVERY_NOT_FOUND")
    fails(lambda: redeliver(service, session_id, reply.message_id, reply.sequence), "DELIVERY_NOT_FOUND")


def test_what_an_agent_has_and_has_failed_at(service: Serve, agent_id: str, worker: Worker) -> None:
    sessions = [create(service, agent_id).session_id for _ in range(4)]
    for session_id in sessions:
        send(service, session_id, "hello")
    held = [worker.next(), worker.next()]
    in_hand = {one.session.session_id for one in held}

    def of_agent(state: int = 0, size: int = 1) -> list[MessageDelivery]:
        return deliveries(service, agent_id=agent_id, state=state, page_size=size)

    assert {one.session_id for one in of_agent()} == set(sessions)
    assert {one.session_id for one in of_agent(DELIVERY_STATE_IN_HAND)} == in_hand
    assert {one.session_id for one in of_agent(DELIVERY_STATE_WAITING)} == set(sessions) - in_hand
    assert of_agent(DELIVERY_STATE_FAILED) == []
    worker.fail(held[0], "no", final=True)
    worker.next()
    (found,) = of_agent(DELIVERY_STATE_FAILED)
    assert (found.session_id, found.can_redeliver) == (held[0].session.session_id, True)
    request = pb.ListDeliveriesRequest(agent_id=agent_id, state=DELIVERY_STATE_ANSWERED)
    fails(lambda: admin(service).ListDeliveries(request, timeout=SECONDS), "INVALID_FIELD")
    for session_id in sessions:
        service.sessions.DeleteSession(DeleteSessionRequest(session_id=session_id), timeout=SECONDS)
    until(lambda: of_agent() == [], "the end of all")
    assert of_agent(DELIVERY_STATE_FAILED) == []


def test_an_agent_that_fails_is_worked_through_by_what_its_list_says(service: Serve, agent_id: str) -> None:
    sessions = [create(service, agent_id).session_id for _ in range(3)]
    for session_id in sessions:
        send(service, session_id, "hello")

    def failed() -> list[MessageDelivery]:
        return deliveries(service, agent_id=agent_id, state=DELIVERY_STATE_FAILED)

    # One at a time, so that what comes next is known.
    with Worker(service.channel, agent_id) as worker:
        for _ in sessions:
            worker.fail(worker.next(), "no", final=True)
        until(lambda: len(failed()) == 3, "the failures")
        for one in failed():
            redeliver(service, one.session_id, one.message_id, one.message_sequence)
        for _ in sessions:
            worker.answer(worker.next(), "yes")
    assert failed() == []
    assert [len(replies(service, session_id, 1)) for session_id in sessions] == [1, 1, 1]


def test_a_page_token_is_good_for_its_own_list_only(service: Serve, agent_id: str) -> None:
    session_id = create(service, agent_id).session_id
    for _ in range(2):
        send(service, session_id, "hello")
    tokens = [
        admin(service)
        .ListDeliveries(pb.ListDeliveriesRequest(page_size=1, **of), timeout=SECONDS)
        .next_page_token
        for of in ({"session_id": session_id}, {"agent_id": agent_id})
    ]
    assert all(tokens)
    for token, of in (
        (tokens[0], {"agent_id": agent_id}),
        (tokens[1], {"session_id": session_id}),
        (tokens[0], {"session_id": session_id, "state": DELIVERY_STATE_WAITING}),
        (tokens[0], {"session_id": create(service, agent_id).session_id}),
        (tokens[1], {"agent_id": agent_id, "state": DELIVERY_STATE_FAILED}),
    ):
        request = pb.ListDeliveriesRequest(page_token=token, **of)
        fails(
            lambda request=request: admin(service).ListDeliveries(request, timeout=SECONDS),
            "INVALID_PAGINATION",
        )


def test_the_activity_of_an_agent_is_told(service: Serve, agent_id: str) -> None:
    before_ms = time.time() * 1000 - 60_000
    quiet = activity(service, agent_id)
    assert (quiet.waiting, quiet.oldest_seconds, quiet.failed, list(quiet.workers)) == (0, 0, 0, [])
    assert not quiet.HasField("reply_p95_ms")
    assert not quiet.HasField("last_failure")
    sessions = [create(service, agent_id).session_id for _ in range(2)]
    for session_id in sessions:
        send(service, session_id, "hello")
    with Worker(service.channel, agent_id, max_deliveries=1) as worker:
        given = worker.next()
        busy = activity(service, agent_id)
        (connected,) = busy.workers
        assert (connected.in_hand, connected.max_deliveries, connected.is_retired) == (1, 1, False)
        assert (connected.principal, uuid.UUID(connected.worker_id).version) == ("", 4)
        assert connected.connected_at.ToMilliseconds() > before_ms
        assert (busy.waiting, busy.agent.status.open_deliveries) == (1, 2)
        service.advance(ms=1500)
        assert activity(service, agent_id).oldest_seconds >= 1.5
        worker.chunk(given, "He")
        worker.answer(given, "Hello")
        worker.fail(worker.next(), "no", final=True)
        done = until(lambda: found if (found := activity(service, agent_id)).failed else None, "the failure")
    assert 1500 <= done.reply_p95_ms <= 2500
    assert 1500 <= done.first_chunk_p95_ms <= 2500
    assert done.last_failure.reason == "no"
    assert done.agent.agent_id == agent_id
    assert not done.agent.HasField("timeout_config")
    until(lambda: not activity(service, agent_id).workers, "the worker's end")


def test_an_agent_that_nobody_knows(service: Serve) -> None:
    fails(lambda: activity(service, UNKNOWN), "AGENT_NOT_FOUND")
    fails(lambda: deliveries(service, agent_id=UNKNOWN), "AGENT_NOT_FOUND")
    fails(lambda: deliveries(service, session_id=UNKNOWN), "SESSION_NOT_FOUND")


def test_what_has_failed_is_still_known_after_a_restart(start: Start) -> None:
    settings = {"DELIVERY_ATTEMPTS": "1", "DELIVERY_BACKOFF_SECONDS": "0.01"}
    service = start("--no-rest", **settings)
    agent_id = stream_agent(service)
    session_id = create(service, agent_id).session_id
    message = send(service, session_id, "hello")
    with Worker(service.channel, agent_id) as worker:
        worker.fail(worker.next(), "no")
        until(lambda: state(service, session_id) == [DELIVERY_STATE_FAILED], "the failure")
    assert service.stop() == 0
    again = start("--no-rest", **settings)
    (failed,) = deliveries(again, agent_id=agent_id, state=DELIVERY_STATE_FAILED)
    assert (failed.message_id, failed.can_redeliver) == (message.message_id, True)
    redeliver(again, session_id, message.message_id)
    again.kill()
    # What was acknowledged is open also where the service was killed.
    third = start("--no-rest", **settings)
    assert state(third, session_id) == [DELIVERY_STATE_WAITING]
    with Worker(third.channel, agent_id) as worker:
        worker.answer(worker.next(), "yes")
    assert [one.content for one in replies(third, session_id, 1)] == ["yes"]


def test_a_redelivery_is_a_line_of_the_audit_log(service: Serve, agent_id: str) -> None:
    session_id = create(service, agent_id).session_id
    message = send(service, session_id, "hello")
    redeliver(service, session_id, message.message_id)
    lines = [line for line in service.log().splitlines() if "AdminService/RedeliverMessage" in line]
    assert any("audit" in line and session_id in line for line in lines)
