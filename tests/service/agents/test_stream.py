"""Agents of the kind `stream`: workers over gRPC against a real service."""

import itertools
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask

from eliza.sessions import values
from eliza.sessions.limits import MAX_ATTACHMENTS_BYTES
from eliza.sessions.v1 import agent_pb2, errors_pb2, log_pb2
from eliza.sessions.v1 import agent_service_pb2 as pb
from eliza.sessions.v1.message_service_pb2 import SendMessageRequest
from eliza.sessions.v1.session_service_pb2 import DeleteSessionRequest
from tests.service.agents.worker import Worker, agent_reply, stream_agent
from tests.support.clients import create, ended, fails, history, replies, send
from tests.support.realtime.streams import ManyWatched, Watching
from tests.support.service import ECHO, USER, Serve
from tests.support.waiting import until

UNKNOWN = "99999999-9999-4999-8999-999999999999"
LEASE_SECONDS = 0.4


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Retries at once, has patience with workers and none with clients."""
    settings = {
        "DELIVERY_BACKOFF_SECONDS": "0.01",
        "DELIVERY_MAX_BACKOFF_SECONDS": "0.02",
        "DELIVERY_ATTEMPTS": "3",
    }
    running = Serve(
        tmp_path_factory.mktemp("stream"),
        REPLY_DEADLINE_SECONDS="0.5",
        STREAM_HEARTBEAT_SECONDS="0.2",
        **settings,
    )
    yield running
    assert running.stop() == 0
    assert "Traceback" not in running.log()


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Has little patience with workers."""
    settings = {
        "DELIVERY_BACKOFF_SECONDS": "0.01",
        "DELIVERY_MAX_BACKOFF_SECONDS": "0.02",
        "DELIVERY_ATTEMPTS": "100",
    }
    running = Serve(
        tmp_path_factory.mktemp("hasty"), "--no-rest", DELIVERY_LEASE_SECONDS=str(LEASE_SECONDS), **settings
    )
    yield running
    assert running.stop() == 0
    assert "Traceback" not in running.log()


def exchanged(service: Serve, session_id: str, count: int) -> list[tuple[str, str]]:
    """What was said and what was replied, in the order of the replies, once there are so many."""
    found = replies(service, session_id, count)
    said = {message.sequence: message.content for message in history(service, session_id)}
    return [(said[message.reply_to_sequence], message.content) for message in found]


def failure(service: Serve, session_id: str) -> log_pb2.ReplyFailure:
    """The first failure in the log of a session, once it is there."""
    watching = Watching(service, session_id)
    try:
        while not (entry := watching.entry()).HasField("reply_failure"):
            pass
        return entry.reply_failure
    finally:
        watching.close()


class TestConnecting:
    def test_a_worker_is_welcomed(self, service: Serve) -> None:
        agent_id = stream_agent(service, "greeter")
        with Worker(service.channel, agent_id.upper()) as worker:
            assert worker.agent == service.agents.GetAgent(pb.GetAgentRequest(agent_id=agent_id)).agent
            # A sign of life comes where nothing else does.
            assert next(worker.call).WhichOneof("part") == "heartbeat"
            worker.leave()
            assert [response for response in worker.call if not response.HasField("heartbeat")] == []
            assert worker.call.code() is grpc.StatusCode.OK

    @pytest.mark.parametrize(
        ("requests", "reason"),
        [
            ([pb.ConnectRequest()], "MISSING_FIELDS"),
            ([pb.ConnectRequest(chunk=pb.ConnectRequest.Chunk(chunk="x"))], "MISSING_FIELDS"),
            ([pb.ConnectRequest(hello=pb.ConnectRequest.Hello())], "MISSING_FIELDS"),
            ([pb.ConnectRequest(hello=pb.ConnectRequest.Hello(agent_id="nobody"))], "AGENT_NOT_FOUND"),
            ([pb.ConnectRequest(hello=pb.ConnectRequest.Hello(agent_id=UNKNOWN))], "AGENT_NOT_FOUND"),
            ([pb.ConnectRequest(hello=pb.ConnectRequest.Hello(agent_id=ECHO))], "INVALID_FIELD"),
            (
                [pb.ConnectRequest(hello=pb.ConnectRequest.Hello(agent_id=ECHO, max_deliveries=-1))],
                "INVALID_FIELD",
            ),
            (
                [pb.ConnectRequest(hello=pb.ConnectRequest.Hello(agent_id=ECHO, max_deliveries=1001))],
                "INVALID_FIELD",
            ),
            (
                [pb.ConnectRequest(hello=pb.ConnectRequest.Hello(agent_id=ECHO, history_messages=-1))],
                "INVALID_FIELD",
            ),
            (
                [pb.ConnectRequest(hello=pb.ConnectRequest.Hello(agent_id=ECHO, history_messages=101))],
                "INVALID_FIELD",
            ),
        ],
    )
    def test_what_ends_a_stream_at_its_first_request(
        self, service: Serve, requests: list[pb.ConnectRequest], reason: str
    ) -> None:
        fails(lambda: list(service.agents.Connect(iter(requests), timeout=10)), reason)

    def test_who_connects_and_says_nothing_is_let_go(self, service: Serve) -> None:
        assert list(service.agents.Connect(iter(()), timeout=10)) == []

    @pytest.mark.parametrize(
        "request_",
        [pb.ConnectRequest(), pb.ConnectRequest(hello=pb.ConnectRequest.Hello(agent_id=ECHO))],
        ids=["nothing", "hello"],
    )
    def test_what_ends_a_stream_later(self, service: Serve, request_: pb.ConnectRequest) -> None:
        with Worker(service.channel, stream_agent(service)) as worker:
            worker.say_bytes(request_.SerializeToString())
            fails(worker.told, "MISSING_FIELDS")


class TestDeliveries:
    def test_a_delivery_has_the_session_and_the_history_that_was_asked_for(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        created = service.create(agentId=agent_id, metadata={"tier": "gold", "tags": [1, None]})
        session_id = created["sessionId"]
        with Worker(service.channel, agent_id, history=3) as worker:
            for content in ("one", "two"):
                send(service, session_id, content)
            first = worker.next()
            assert (first.attempt, first.message.content, list(first.history)) == (1, "one", [])
            assert json_format.MessageToDict(first.session.metadata) == {"tier": "gold", "tags": [1, None]}
            assert (first.session.session_id, first.session.user_id, first.session.agent_id) == (
                session_id,
                USER,
                agent_id,
            )
            assert first.lease_expires_at.ToMilliseconds() > first.message.created_at.ToMilliseconds()
            worker.answer(first, "ONE")
            second = worker.next()
            # The reply to "one" is behind it, though "two" was there before.
            assert [message.content for message in second.history] == ["one", "ONE"]
            worker.answer(second, "TWO")
            send(service, session_id, "three")
            third = worker.next()
            assert [message.content for message in third.history] == ["ONE", "two", "TWO"]
            worker.answer(third, "THREE")
        stored = history(service, session_id)
        assert [message.content for message in stored] == ["one", "two", "ONE", "TWO", "three", "THREE"]
        told = [third.message, *third.history]
        assert all(message.HasField("own_metadata") for message in told)
        for message in told:
            message.ClearField("own_metadata")
        assert told == [stored[4], stored[2], stored[1], stored[3]]
        assert [delivery.history_left_out for delivery in (first, second, third)] == [0, 0, 0]
        assert [message.message_id for message in stored if message.is_agent] == [
            d.reply_message_id for d in (first, second, third)
        ]
        with Worker(service.channel, agent_id) as worker:
            send(service, session_id, "four")
            assert list(worker.next().history) == []

    def test_a_delivery_fits_a_default_client_and_tells_what_it_leaves_out(self, service: Serve) -> None:
        """Two large messages, of a user and of an agent, do not fit together; the store itself stops earlier
        than that.
        """
        agent_id = stream_agent(service)
        session_id = create(service, agent_id).session_id
        large = ["x" * (MAX_ATTACHMENTS_BYTES - 4)]
        seen = []
        with Worker(service.channel, agent_id, history=20) as worker:
            for content, attached in (("one", None), ("two", large), ("three", None)):
                request = SendMessageRequest(
                    session_id=session_id, content=content, attachments=values.list_value(large)
                )
                service.messages.SendMessage(request, timeout=30)
                delivery = worker.next()
                assert (delivery.attempt, delivery.message.content) == (1, content)
                assert values.plain_list(delivery.message.attachments) == large
                seen.append(delivery)
                worker.answer(delivery, content.upper(), attachments=attached)
            send(service, session_id, "four")
            seen.append(worker.next())
        with Worker(service.channel, agent_id, history=2) as worker:
            # Given again: only what this worker asks for counts.
            seen.append(worker.next())
        told = [
            ([message.content for message in delivery.history], delivery.history_left_out)
            for delivery in seen
        ]
        assert told == [([], 0), (["ONE"], 1), ([], 4), (["THREE"], 5), (["THREE"], 1)]

    def test_what_a_user_overlays_can_be_told_from_what_the_session_has(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        session_id = service.create(agentId=agent_id, metadata={"plan": "free", "tier": 1})["sessionId"]
        said = [{"plan": "admin", "sessionId": UNKNOWN}, None]
        with Worker(service.channel, agent_id, history=5) as worker:
            for metadata, own in zip(said, ({"plan": "admin", "sessionId": UNKNOWN}, {}), strict=True):
                body = {"content": "hello", "metadata": metadata}
                sent = service.http.post(f"{service.url}/{session_id}/messages", json=body, timeout=10).json()
                delivery = worker.next()
                assert values.plain(delivery.session.metadata) == {"plan": "free", "tier": 1}
                assert values.plain(delivery.message.metadata) == sent["metadata"]
                assert delivery.message.HasField("own_metadata")
                assert values.plain(delivery.message.own_metadata) == own
                worker.answer(delivery, "hi", metadata={"plan": "agent's"})
        assert sent["metadata"] == {"plan": "free", "tier": 1, "sessionId": session_id}
        own = [values.plain(message.own_metadata) for message in delivery.history]
        assert own == [{"plan": "admin", "sessionId": UNKNOWN}, {"plan": "agent's"}]
        assert [values.plain(message.metadata)["plan"] for message in delivery.history] == [
            "admin",
            "agent's",
        ]
        # Nobody but agents is told.
        assert not any(message.HasField("own_metadata") for message in history(service, session_id))

    def test_a_worker_has_no_more_than_it_takes(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        sessions = [create(service, agent_id).session_id for _ in range(12)]
        for session_id in sessions:
            send(service, session_id, "hello")
        with Worker(service.channel, agent_id, max_deliveries=3) as worker:
            held = [worker.next() for _ in range(3)]
            for _ in range(9):
                # One more would come before this is accepted.
                worker.answer(held.pop(0), "hi")
                held.append(worker.next())
            for delivery in held:
                worker.answer(delivery, "hi")
        assert all(exchanged(service, session_id, 1) == [("hello", "hi")] for session_id in sessions)

    def test_many_workers_share(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        sessions = [create(service, agent_id).session_id for _ in range(4)]
        with (
            Worker(service.channel, agent_id, max_deliveries=2) as one,
            Worker(service.channel, agent_id) as two,
            Worker(service.channel, agent_id) as three,
        ):
            for session_id in sessions:
                send(service, session_id, "hello")
            for worker, count in ((one, 2), (two, 1), (three, 1)):
                for delivery in [worker.next() for _ in range(count)]:
                    worker.answer(delivery, "hi")
        assert all(exchanged(service, session_id, 1) == [("hello", "hi")] for session_id in sessions)

    def test_chunks_are_streamed_and_the_reply_shows(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        session_id = service.create(agentId=agent_id)["sessionId"]
        url, watching, events = f"{service.url}/{session_id}/messages", Watching(service, session_id), []
        parts = {
            "metadata": {"mood": "calm"},
            "attachments": [{"url": "a.png"}],
            "thought": "easy",
            "actions": ("REPLY", "WAVE"),
        }
        with Worker(service.channel, agent_id) as worker, ThreadPoolExecutor(1) as pool:
            asked = pool.submit(
                service.http.post, url, json={"content": "hello", "transport": "sse"}, timeout=10
            )
            delivery = worker.next()
            for text in ("Good ", "", "morning"):
                worker.chunk(delivery, text)
            worker.answer(delivery, "Good morning", **parts)
            for block in asked.result().text.strip().split("\n\n"):
                fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
                events.append((fields["event"], json.loads(fields["data"])))
        assert [name for name, _ in events] == ["user_message", "chunk", "chunk", "done"]
        assert [
            (data["chunk"], data["index"], data["messageId"]) for name, data in events if name == "chunk"
        ] == [
            ("Good ", 0, delivery.reply_message_id),
            ("morning", 1, delivery.reply_message_id),
        ]
        shown = {
            "content": "Good morning",
            "id": delivery.reply_message_id,
            "isAgent": True,
            "authorId": agent_id,
        }
        done = events[-1][1]
        assert (
            done.items()
            >= {**shown, "text": "Good morning", "thought": "easy", "actions": ["REPLY", "WAVE"]}.items()
        )
        seen = [watching.event() for _ in range(4)]
        watching.close()
        assert [event.chunk for event in seen[1:3]] == ["Good ", "morning"]
        assert seen[3].message.message_id == delivery.reply_message_id
        (newest, _) = service.http.get(url, timeout=10).json()["messages"]
        assert newest.items() >= shown.items()
        assert (
            newest["metadata"].items()
            >= {"mood": "calm", "thought": "easy", "actions": ["REPLY", "WAVE"]}.items()
        )
        (stored,) = replies(service, session_id, 1)
        assert json_format.MessageToDict(stored.attachments) == [{"url": "a.png"}]
        assert (stored.thought, list(stored.actions), stored.reply_to_sequence) == (
            "easy",
            ["REPLY", "WAVE"],
            1,
        )

    def test_a_failure_is_tried_again_and_a_final_one_is_told(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        session_id = create(service, agent_id).session_id
        with Worker(service.channel, agent_id) as worker:
            message = send(service, session_id, "hello")
            for attempt in (1, 2, 3):
                delivery = worker.next()
                assert (delivery.message.message_id, delivery.attempt) == (message.message_id, attempt)
                worker.fail(delivery, "the model is asleep")
            found = failure(service, session_id)
            assert (found.message_id, found.message_sequence) == (message.message_id, message.sequence)
            assert (found.reason, found.attempts) == ("the model is asleep", 3)
            with ThreadPoolExecutor(1) as pool:
                request = {"content": "again", "transport": "http"}
                asked = pool.submit(
                    service.http.post, f"{service.url}/{session_id}/messages", json=request, timeout=10
                )
                worker.fail(worker.next(), final=True)
                assert (asked.result().status_code, asked.result().json()["code"]) == (
                    502,
                    "AGENT_REPLY_FAILED",
                )
                assert asked.result().json()["details"]["reason"] == "the agent gave no reason"
            send(service, session_id, "and now")
            worker.answer(worker.next(), "hi")
        assert exchanged(service, session_id, 1) == [("and now", "hi")]


class TestAnswers:
    @pytest.mark.parametrize(
        ("reply", "reason"),
        [
            (pb.AgentReply(), "INVALID_CONTENT"),
            (agent_reply("x" * 100_001), "INVALID_CONTENT"),
            (agent_reply("\0"), "INVALID_CONTENT"),
            (agent_reply("x", thought="x" * 100_001), "INVALID_CONTENT"),
            (agent_reply("x", actions=("x",) * 101), "INVALID_CONTENT"),
            (agent_reply("x", actions=("x" * 1001,)), "INVALID_CONTENT"),
            (agent_reply("x", attachments=["x" * 2 * 1024 * 1024]), "INVALID_CONTENT"),
            (agent_reply("x", metadata={"a": "x" * 10_240}), "INVALID_METADATA"),
            (None, "MISSING_FIELDS"),
        ],
    )
    def test_a_reply_that_is_refused_is_a_final_failure_at_once(
        self, service: Serve, reply: pb.AgentReply | None, reason: str
    ) -> None:
        """As for the other kinds: the agent would answer the same again."""
        agent_id = stream_agent(service)
        session_id = create(service, agent_id).session_id
        with Worker(service.channel, agent_id) as worker:
            send(service, session_id, "hello")
            delivery = worker.next()
            worker.say(reply=pb.ConnectRequest.Reply(delivery_id=delivery.delivery_id, reply=reply))
            refused = worker.expect("refused")
            assert (refused.delivery_id, errors_pb2.ErrorReason.Name(refused.reason)) == (
                delivery.delivery_id,
                f"ERROR_REASON_{reason}",
            )
            assert refused.message
            failed = failure(service, session_id)
            assert (failed.reason, failed.attempts) == (
                f"the agent's reply cannot be stored: {refused.message}",
                1,
            )
            # As any late reply, a proper one is still taken.
            worker.answer(delivery, "properly")
            send(service, session_id, "again")
            worker.answer(worker.next(), "hi")
        assert exchanged(service, session_id, 2) == [("hello", "properly"), ("again", "hi")]

    def test_a_nul_in_what_a_worker_says_is_left_out(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        session_id = create(service, agent_id).session_id
        with Worker(service.channel, agent_id) as worker:
            send(service, session_id, "hello")
            delivery = worker.next()
            worker.chunk(delivery, "\0a\0")
            worker.say(
                reply=pb.ConnectRequest.Reply(
                    delivery_id=delivery.delivery_id, reply=agent_reply("a\0b", thought="\0hm")
                )
            )
            assert worker.expect("accepted").delivery_id == delivery.delivery_id
        (stored,) = replies(service, session_id, 1)
        assert (stored.content, stored.thought) == ("ab", "hm")

    def test_what_is_said_about_what_the_worker_does_not_have_is_refused(self, service: Serve) -> None:
        agent_id, others = stream_agent(service), stream_agent(service)
        session_id, other_id = create(service, agent_id).session_id, create(service, others).session_id
        send(service, other_id, "not for you")
        with Worker(service.channel, agent_id) as worker, Worker(service.channel, others) as other:
            anothers = other.next()
            send(service, session_id, "hello")
            delivery = worker.next()

            def refused(delivery_id: str) -> tuple[str, str]:
                found = worker.expect("refused")
                assert found.delivery_id == delivery_id
                return errors_pb2.ErrorReason.Name(found.reason).removeprefix("ERROR_REASON_"), found.details[
                    "deliveryId"
                ]

            for delivery_id in ("", "nonsense", f"{UNKNOWN}-1", f"{session_id}-2", anothers.delivery_id):
                worker.chunk(delivery_id, "x")
                assert refused(delivery_id) == ("DELIVERY_NOT_LEASED", delivery_id)
                worker.fail(delivery_id)
                assert refused(delivery_id) == ("DELIVERY_NOT_LEASED", delivery_id)
            for delivery_id in ("", "nonsense", f"{session_id}-2", anothers.delivery_id):
                worker.reply(delivery_id, "x")
                assert refused(delivery_id) == ("DELIVERY_NOT_FOUND", delivery_id)
            worker.answer(delivery, "hi")
            worker.reply(delivery, "hi again")
            assert refused(delivery.delivery_id) == ("DELIVERY_ALREADY_ANSWERED", delivery.delivery_id)
            other.answer(anothers, "for me")
        assert exchanged(service, session_id, 1) == [("hello", "hi")]
        assert exchanged(service, other_id, 1) == [("not for you", "for me")]

    def test_pieces_that_are_void_are_taken_back(self, service: Serve) -> None:
        """Whoever follows the session, and who waits for the reply, hears so before the next attempt's pieces
        and before the failure.
        """
        agent_id = stream_agent(service)
        session_id = service.create(agentId=agent_id)["sessionId"]
        url, watching = f"{service.url}/{session_id}/messages", Watching(service, session_id)
        with (
            Worker(service.channel, agent_id) as worker,
            closing(ManyWatched(service)) as many,
            ThreadPoolExecutor(1) as pool,
        ):
            many.join(session_id, 0)
            asked = pool.submit(
                service.http.post, url, json={"content": "hello", "transport": "sse"}, timeout=30
            )
            ids = []
            for attempt in (1, 2, 3):
                delivery = worker.next()
                ids.append(delivery.reply_message_id)
                worker.chunk(delivery, "half a ")
                while not isinstance(chunk := watching.event(), log_pb2.ReplyChunk):
                    pass
                assert (chunk.message_id, chunk.attempt) == (delivery.reply_message_id, attempt)
                while next(many.call).chunk != chunk:
                    pass
                worker.fail(delivery, "not now")
                void = log_pb2.ReplyAborted(
                    session_id=session_id,
                    agent_id=agent_id,
                    message_id=delivery.reply_message_id,
                    attempt=attempt,
                )
                assert watching.event() == void
                assert many.expect("aborted") == void
            failed = watching.entry().reply_failure
            watching.close()
        assert (failed.reply_message_id, failed.attempts) == (ids[-1], 3)
        names = [
            line.removeprefix("event: ")
            for line in asked.result().text.splitlines()
            if line.startswith("event: ")
        ]
        assert names == ["user_message", *["chunk", "aborted"] * 3, "error"]
        told = [
            json.loads(line.removeprefix("data: "))
            for line in asked.result().text.splitlines()
            if line.startswith("data: ")
        ]
        assert told[2:-1:2] == [
            {"messageId": reply_id, "attempt": attempt} for attempt, reply_id in enumerate(ids, 1)
        ]

    def test_too_long_a_reason_and_too_many_chunks_are_refused(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        session_id = create(service, agent_id).session_id
        with Worker(service.channel, agent_id) as worker:
            send(service, session_id, "hello")
            delivery = worker.next()
            worker.fail(delivery, "x" * 501)
            assert worker.expect("refused").reason == errors_pb2.ERROR_REASON_INVALID_CONTENT
            # It was a failure all the same.
            delivery = worker.next()
            assert delivery.attempt == 2
            worker.chunk(delivery, "x" * 100_000)
            worker.chunk(delivery, "x")
            assert worker.expect("refused").reason == errors_pb2.ERROR_REASON_INVALID_CONTENT
            worker.answer(delivery, "hi")

    def test_a_reply_needs_no_stream(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        session_id = create(service, agent_id).session_id
        for content in ("one", "two"):
            send(service, session_id, content)

        def reply(sequence: int, content: str) -> pb.ReplyResponse:
            request = pb.ReplyRequest(
                delivery_id=f"{session_id}-{sequence}", reply=agent_reply(content, thought="hm")
            )
            return service.agents.Reply(request, timeout=10)

        # Nobody has it.
        answered = reply(1, "ONE").message
        assert answered == replies(service, session_id, 1)[0]
        assert (answered.content, answered.thought, answered.reply_to_sequence, answered.is_agent) == (
            "ONE",
            "hm",
            1,
            True,
        )
        assert fails(lambda: reply(1, "ONE"), "DELIVERY_ALREADY_ANSWERED") == {
            "deliveryId": f"{session_id}-1"
        }
        with Worker(service.channel, agent_id) as worker:
            delivery = worker.next()
            assert delivery.message.content == "two"
            # Somebody has it.
            reply(2, "TWO")
            assert worker.expect("revoked").delivery_id == delivery.delivery_id
            worker.reply(delivery, "too late")
            assert worker.expect("refused").reason == errors_pb2.ERROR_REASON_DELIVERY_ALREADY_ANSWERED
            send(service, session_id, "three")
            worker.answer(worker.next(), "THREE")
        assert exchanged(service, session_id, 3) == [("one", "ONE"), ("two", "TWO"), ("three", "THREE")]
        fails(lambda: reply(99, "x"), "DELIVERY_NOT_FOUND")
        fails(lambda: service.agents.Reply(pb.ReplyRequest(), timeout=10), "MISSING_FIELDS")
        send(service, session_id, "four")
        fails(lambda: reply(history(service, session_id)[-1].sequence, "\0"), "INVALID_CONTENT")
        service.sessions.DeleteSession(DeleteSessionRequest(session_id=session_id), timeout=10)
        fails(lambda: reply(1, "x"), "SESSION_NOT_FOUND")


HIGH, LOW, BAD = b"\xed\xa0\xbd", b"\xed\xb8\x80", b"\xff\xff\xff"
"""The halves of U+1F600 as JavaScript's protobuf writers encode them, and bytes that are no text at all."""


def written(request: pb.ConnectRequest | pb.ReplyRequest) -> bytes:
    """A request on the wire, with HIG, LOW and BAD in its texts replaced by those bytes."""
    raw = request.SerializeToString()
    for name, text in ((b"HIG", HIGH), (b"LOW", LOW), (b"BAD", BAD)):
        raw = raw.replace(name, text)
    return raw


def said(delivery: pb.Delivery, reply: pb.AgentReply) -> pb.ConnectRequest:
    return pb.ConnectRequest(reply=pb.ConnectRequest.Reply(delivery_id=delivery.delivery_id, reply=reply))


class TestOddTexts:
    """What protobuf alone cannot read ends no stream."""

    @pytest.mark.parametrize(
        ("reply", "reason"),
        [
            (agent_reply("BAD"), "INVALID_CONTENT"),
            (agent_reply("x", thought="BAD"), "INVALID_CONTENT"),
            (agent_reply("x", actions=("x", "BAD")), "INVALID_CONTENT"),
            (agent_reply("x", metadata={"k": "BAD"}), "INVALID_METADATA"),
            (agent_reply("x", metadata={"k": "HIG"}), "INVALID_METADATA"),
            (agent_reply("x", attachments=["BAD"]), "INVALID_CONTENT"),
            (agent_reply("x" * 4_000_000), "INVALID_REQUEST"),
            (agent_reply("x", attachments=["BAD" * 1_333_333]), "INVALID_REQUEST"),
        ],
        ids=[
            "content",
            "thought",
            "action",
            "metadata",
            "half in metadata",
            "attachment",
            "too large",
            "too large and bad",
        ],
    )
    def test_a_reply_that_cannot_be_read_is_refused_and_touches_no_other(
        self, service: Serve, reply: pb.AgentReply, reason: str
    ) -> None:
        agent_id = stream_agent(service)
        session_id, other_id = create(service, agent_id).session_id, create(service, agent_id).session_id
        with Worker(service.channel, agent_id, max_deliveries=2) as worker:
            send(service, other_id, "another's")
            other = worker.next()
            send(service, session_id, "hello")
            delivery = worker.next()
            worker.say_bytes(written(said(delivery, reply)))
            refused = worker.expect("refused")
            assert (refused.delivery_id, errors_pb2.ErrorReason.Name(refused.reason)) == (
                delivery.delivery_id,
                f"ERROR_REASON_{reason}",
            )
            worker.answer(other, "HI")
        assert exchanged(service, other_id, 1) == [("another's", "HI")]
        failed = failure(service, session_id)
        assert (failed.reason, failed.attempts) == (
            f"the agent's reply cannot be stored: {refused.message}",
            1,
        )

    def test_a_chunk_and_a_reason_that_cannot_be_read_are_refused(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        session_id = create(service, agent_id).session_id
        with Worker(service.channel, agent_id) as worker:
            send(service, session_id, "hello")
            delivery = worker.next()
            worker.say_bytes(
                written(
                    pb.ConnectRequest(
                        chunk=pb.ConnectRequest.Chunk(delivery_id=delivery.delivery_id, chunk="BAD")
                    )
                )
            )
            refused = worker.expect("refused")
            assert (refused.delivery_id, refused.reason) == (
                delivery.delivery_id,
                errors_pb2.ERROR_REASON_INVALID_CONTENT,
            )
            # It is still the worker's, until it fails: that it has failed can be read.
            for attempt, final in ((1, False), (2, True)):
                assert delivery.attempt == attempt
                bad = pb.ConnectRequest.Failure(delivery_id=delivery.delivery_id, reason="BAD", final=final)
                worker.say_bytes(written(pb.ConnectRequest(failure=bad)))
                refused = worker.expect("refused")
                assert refused.reason == errors_pb2.ERROR_REASON_INVALID_CONTENT
                if not final:
                    delivery = worker.next()
            failed = failure(service, session_id)
            assert (failed.reason, failed.attempts) == (
                f"the agent's failure cannot be stored: {refused.message}",
                2,
            )
            worker.say_bytes(
                written(pb.ConnectRequest(chunk=pb.ConnectRequest.Chunk(delivery_id="BAD", chunk="x")))
            )
            refused = worker.expect("refused")
            assert (refused.delivery_id, refused.reason) == (
                "\ufffd" * 3,
                errors_pb2.ERROR_REASON_DELIVERY_NOT_LEASED,
            )

    def test_halves_are_joined_over_chunks_and_one_alone_is_a_sign_of_its_own(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        session_id = create(service, agent_id).session_id
        watching = Watching(service, session_id)
        with Worker(service.channel, agent_id) as worker:
            send(service, session_id, "hello")
            delivery = worker.next()
            for text in ("hi HIG", "LOW!", "HIGLOW", "LOW", "HIG", "x"):
                chunk = pb.ConnectRequest.Chunk(delivery_id=delivery.delivery_id, chunk=text)
                worker.say_bytes(written(pb.ConnectRequest(chunk=chunk)))
            reply = agent_reply(
                "HIGLOW LOW",
                thought="HIG",
                actions=("LOWHIG", "HIGLOW"),
                metadata={"k": "v"},
                attachments=["a"],
            )
            worker.say_bytes(written(said(delivery, reply)))
            worker.expect("accepted")
        pieces: list[str] = []
        while len(pieces) < 5:
            if isinstance(event := watching.event(), log_pb2.ReplyChunk):
                pieces.append(event.chunk)
        watching.close()
        assert pieces == ["hi ", "\U0001f600!", "\U0001f600", "\ufffd", "\ufffdx"]
        (message,) = replies(service, session_id, 1)
        assert (message.content, message.thought, list(message.actions)) == (
            "\U0001f600 \ufffd",
            "\ufffd",
            ["\ufffd\ufffd", "\U0001f600"],
        )
        assert (message.metadata["k"], list(message.attachments)) == ("v", ["a"])

    def test_halves_in_a_reason_and_in_a_reply_without_a_stream(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        session_id = create(service, agent_id).session_id
        with Worker(service.channel, agent_id) as worker:
            send(service, session_id, "hello")
            delivery = worker.next()
            bad = pb.ConnectRequest.Failure(
                delivery_id=delivery.delivery_id, reason="no HIGLOW HIG", final=True
            )
            worker.say_bytes(written(pb.ConnectRequest(failure=bad)))
            assert failure(service, session_id).reason == "no \U0001f600 \ufffd"
        post = service.channel.unary_unary(
            "/eliza.sessions.v1.AgentService/Reply", None, pb.ReplyResponse.FromString
        )
        request = pb.ReplyRequest(delivery_id=delivery.delivery_id, reply=agent_reply("BAD"))
        fails(lambda: post(written(request), timeout=10), "INVALID_CONTENT")
        request.reply.content = "x" * 4_000_000
        fails(lambda: post(written(request), timeout=10), "INVALID_REQUEST")
        request.reply.content = "late HIGLOW HIG"
        assert post(written(request), timeout=10).message.content == "late \U0001f600 \ufffd"


class TestGone:
    def test_the_delivery_of_a_worker_that_dies_goes_to_another(self, service: Serve) -> None:
        """Where it had said nothing yet, that is not one of the delivery's three attempts."""
        agent_id = stream_agent(service)
        session_id = create(service, agent_id).session_id
        send(service, session_id, "hello")
        for end in (Worker.close, Worker.leave) * 4:
            worker = Worker(service.channel, agent_id)
            assert worker.next().attempt == 1
            end(worker)
            worker.close()
        with Worker(service.channel, agent_id) as heir:
            heir.answer(heir.next(), "hi")
        assert exchanged(service, session_id, 1) == [("hello", "hi")]

    def test_a_delivery_whose_worker_had_begun_is_charged_with_its_death(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        session_id = create(service, agent_id).session_id
        send(service, session_id, "hello")
        for attempt in (1, 2, 3):
            with Worker(service.channel, agent_id) as worker:
                delivery = worker.next()
                assert delivery.attempt == attempt
                worker.chunk(delivery, "well ")
                # By its answer the chunk is through, too.
                worker.chunk("nonsense", "x")
                worker.expect("refused")
        failed = failure(service, session_id)
        assert (failed.reason, failed.attempts) == ("the connection to the agent's worker was lost", 3)

    def test_a_message_that_kills_whoever_takes_it_fails_in_the_end(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        session_id = create(service, agent_id).session_id
        send(service, session_id, "hello")
        attempts = []
        for _ in range(20 + 3):
            with Worker(service.channel, agent_id) as worker:
                attempts.append(worker.next().attempt)
        assert attempts == [1] * 21 + [2, 3]
        failed = failure(service, session_id)
        assert (failed.reason, failed.attempts) == ("the connection to the agent's worker was lost", 3)

    def test_the_delivery_of_a_session_that_is_deleted_is_revoked(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        session_id, other_id = create(service, agent_id).session_id, create(service, agent_id).session_id
        with Worker(service.channel, agent_id) as worker:
            send(service, session_id, "hello")
            delivery = worker.next()
            service.sessions.DeleteSession(DeleteSessionRequest(session_id=session_id), timeout=10)
            assert worker.expect("revoked").delivery_id == delivery.delivery_id
            worker.reply(delivery, "too late")
            assert worker.expect("refused").reason == errors_pb2.ERROR_REASON_SESSION_NOT_FOUND
            send(service, other_id, "hello")
            worker.answer(worker.next(), "hi")

    @pytest.mark.parametrize("removed", [False, True], ids=["another kind", "removed"])
    def test_an_agent_that_takes_no_workers_any_more(self, service: Serve, removed: bool) -> None:
        agent_id = stream_agent(service)
        sessions = [create(service, agent_id).session_id for _ in range(2)]
        for session_id in sessions:
            send(service, session_id, "hello")
        with Worker(service.channel, agent_id) as busy:
            busy.next()
            if removed:
                service.agents.DeleteAgent(pb.DeleteAgentRequest(agent_id=agent_id), timeout=10)
                fails(busy.told, "AGENT_NOT_FOUND")
                for session_id in sessions:
                    assert failure(service, session_id).reason == "the agent has been removed"
            else:
                changed = agent_pb2.Agent(agent_id=agent_id, kind=agent_pb2.AGENT_KIND_ECHO)
                service.agents.UpdateAgent(
                    pb.UpdateAgentRequest(agent=changed, update_mask=FieldMask(paths=["kind"])), timeout=10
                )
                fails(busy.told, "INVALID_FIELD")
                for session_id in sessions:
                    assert exchanged(service, session_id, 1) == [("hello", "hello")]

    def test_a_new_name_disturbs_nobody(self, service: Serve) -> None:
        agent_id = stream_agent(service)
        session_id = create(service, agent_id).session_id
        with Worker(service.channel, agent_id) as worker:
            send(service, session_id, "hello")
            delivery = worker.next()
            changed = agent_pb2.Agent(agent_id=agent_id, name="renamed")
            service.agents.UpdateAgent(pb.UpdateAgentRequest(agent=changed), timeout=10)
            worker.answer(delivery, "hi")
            send(service, session_id, "again")
            worker.answer(worker.next(), "hi")


class TestLeases:
    @pytest.mark.parametrize("first", ["old", "new"])
    def test_a_lease_that_runs_out_is_given_to_another_and_one_reply_is_kept(
        self, hasty: Serve, first: str
    ) -> None:
        agent_id = stream_agent(hasty)
        session_id, beside_id = create(hasty, agent_id).session_id, create(hasty, agent_id).session_id
        with Worker(hasty.channel, agent_id) as new:
            send(hasty, beside_id, "keeps the new one from taking the other")
            beside = new.next()
            with Worker(hasty.channel, agent_id) as old:
                send(hasty, session_id, "hello")
                delivery = old.next()
                new.answer(beside, "done")
                assert old.expect("revoked").delivery_id == delivery.delivery_id
                while (told := new.told())[0] != "delivery" or told[1].delivery_id != delivery.delivery_id:
                    # On a slow machine the other lease may have run out, too.
                    assert told[0] in ("delivery", "revoked", "accepted", "refused")
                again = told[1]
                assert again.attempt > delivery.attempt
                assert again.reply_message_id != delivery.reply_message_id
                winner, loser = (old, new) if first == "old" else (new, old)
                winner.reply(delivery, first)
                until(lambda: len(history(hasty, session_id)) == 2, "the reply")
                loser.reply(delivery, "too late")
                while (told := loser.told())[0] != "refused":
                    assert told[0] == "revoked"
                assert told[1].reason == errors_pb2.ERROR_REASON_DELIVERY_ALREADY_ANSWERED
        assert exchanged(hasty, session_id, 1) == [("hello", first)]

    def test_a_chunk_extends_the_lease(self, hasty: Serve) -> None:
        agent_id = stream_agent(hasty)
        session_id = create(hasty, agent_id).session_id
        send(hasty, session_id, "hello")
        with Worker(hasty.channel, agent_id) as worker:
            deadline = time.monotonic() + 30
            while True:
                # A machine that stands still for the time of a lease may spoil a try, not the test.
                delivery, end = worker.next(), time.monotonic() + 2 * LEASE_SECONDS
                while time.monotonic() < end:
                    worker.chunk(delivery, ".")
                    time.sleep(LEASE_SECONDS / 20)
                worker.reply(delivery, "hi")
                kind, _ = worker.told()
                if kind == "accepted" or time.monotonic() > deadline:
                    break
            assert kind == "accepted"


class TestNobodyThere:
    def test_messages_wait_for_a_worker_also_over_a_restart(self, start: Callable[..., Serve]) -> None:
        service = start(REPLY_DEADLINE_SECONDS="0.3", SHUTDOWN_GRACE_SECONDS="60")
        agent_id = stream_agent(service)
        sessions = [service.create(agentId=agent_id)["sessionId"] for _ in range(2)]
        for session_id, content in itertools.product(sessions, ("one", "two")):
            request = {"content": content, "transport": "http"}
            answer = service.http.post(f"{service.url}/{session_id}/messages", json=request, timeout=10)
            assert (answer.status_code, answer.json()["code"]) == (504, "AGENT_REPLY_TIMEOUT")
            assert answer.json()["details"]["messageId"] == history(service, session_id)[-1].message_id
        # The grace is longer than `stop` waits: nobody has anything to finish.
        assert service.stop() == 0
        service = start("--no-rest")
        for session_id in sessions:
            send(service, session_id, "three")
        taken: dict[str, list[str]] = {session_id: [] for session_id in sessions}
        with Worker(service.channel, agent_id, max_deliveries=2) as worker:
            accepted = 0
            while accepted < 6:
                kind, value = worker.told()
                if kind == "accepted":
                    accepted += 1
                    continue
                assert (kind, value.attempt) == ("delivery", 1)
                taken[value.session.session_id].append(value.message.content)
                worker.reply(value, value.message.content.upper())
        for session_id in sessions:
            assert taken[session_id] == ["one", "two", "three"]
            assert exchanged(service, session_id, 3) == [("one", "ONE"), ("two", "TWO"), ("three", "THREE")]


class TestShutdown:
    def test_the_reply_to_what_a_worker_has_in_hand_is_stored(
        self, start: Callable[..., Serve], tmp_path: Path
    ) -> None:
        service = start("--no-rest", SHUTDOWN_GRACE_SECONDS="60")
        agent_id = stream_agent(service)
        session_id = create(service, agent_id).session_id
        workers = Worker(service.channel, agent_id), Worker(service.channel, agent_id)
        told: queue.SimpleQueue[tuple[Worker, str, object]] = queue.SimpleQueue()
        for worker in workers:
            threading.Thread(target=read_all, args=(worker, told), daemon=True).start()
        for content in ("one", "two"):
            send(service, session_id, content)
        busy, kind, delivery = told.get(timeout=30)
        assert kind == "delivery"
        service.process.terminate()
        until(lambda: refuses(service), "the end of service")
        busy.reply(delivery, "ONE")
        found = [told.get(timeout=30)[:2] for _ in range(3)]
        assert [kind for who, kind in found if who is busy] == ["accepted", "UNAVAILABLE"]
        assert [kind for who, kind in found if who is not busy] == ["UNAVAILABLE"]
        assert ended(service) == 0, service.log()
        assert "Traceback" not in service.log()
        service = start("--no-rest")
        with Worker(service.channel, agent_id) as worker:
            worker.answer(worker.next(), "TWO")
        assert exchanged(service, session_id, 2) == [("one", "ONE"), ("two", "TWO")]


def refuses(service: Serve) -> bool:
    """Whether a service takes no new calls any more."""
    try:
        service.agents.ListAgents(pb.ListAgentsRequest(), timeout=10)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


def read_all(worker: Worker, told: "queue.SimpleQueue[tuple[Worker, str, object]]") -> None:
    """Reads what a worker is told, to the end of its stream, which comes as the name of its status."""
    try:
        while True:
            told.put((worker, *worker.told()))
    except grpc.RpcError as error:
        told.put((worker, error.code().name, error))
