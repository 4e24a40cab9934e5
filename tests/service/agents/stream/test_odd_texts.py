"""Texts from a worker that are no UTF-8: halves of a character are joined, the rest is refused."""

import pytest

from eliza.sessions.v1 import agent_service_pb2 as pb
from eliza.sessions.v1 import errors_pb2, log_pb2
from tests.service.agents.stream.reading import exchanged, failure
from tests.service.agents.worker import Worker, agent_reply, stream_agent
from tests.support.clients import create, fails, replies, send
from tests.support.realtime.streams import Watching
from tests.support.service import Serve

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

    def test_halves_in_a_reason_and_in_a_reply_without_a_stream_are_joined(self, service: Serve) -> None:
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
