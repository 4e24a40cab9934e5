"""A worker's answers: which are refused, and what is said of those."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from eliza.sessions.v1 import agent_service_pb2 as pb
from eliza.sessions.v1 import errors_pb2, log_pb2
from eliza.sessions.v1.session_service_pb2 import DeleteSessionRequest
from tests.service.agents.stream.reading import UNKNOWN, exchanged, failure
from tests.service.agents.worker import Worker, agent_reply, stream_agent
from tests.support.clients import create, fails, history, replies, send
from tests.support.realtime.streams import ManyWatched, Watching
from tests.support.service import Serve


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
