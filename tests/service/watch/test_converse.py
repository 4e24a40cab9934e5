"""Converse: a message, the pieces of its reply, and the reply on one stream."""

import grpc
import pytest

from eliza.sessions.v1 import (
    agent_pb2,
    agent_service_pb2,
    message_service_pb2,
)
from tests.service.watch.changes import delete
from tests.support.clients import create, fails, history, replies
from tests.support.service import UNKNOWN, Serve
from tests.support.waiting import PATIENCE_SECONDS


class TestConverse:
    @staticmethod
    def converse(service: Serve, session_id: str, content: str) -> grpc.Call:
        message = message_service_pb2.SendMessageRequest(session_id=session_id, content=content)
        return service.messages.Converse(
            message_service_pb2.ConverseRequest(message=message), timeout=PATIENCE_SECONDS
        )

    @pytest.mark.parametrize("content", ["How do I  reset\nmy password?", "x", " ", "word " * 800])
    def test_the_message_comes_first_then_chunks_then_the_reply(self, service: Serve, content: str) -> None:
        session_id = create(service).session_id
        call = self.converse(service, session_id, content)
        first, *chunks, last = call
        assert call.code() == grpc.StatusCode.OK
        asked, reply = history(service, session_id)
        assert first.user_message.message == asked
        assert (
            first.user_message.session_status.renewal_count,
            first.user_message.session_status.was_renewed,
        ) == (1, True)
        assert all(part.WhichOneof("part") == "chunk" for part in chunks)
        assert [part.chunk.index for part in chunks] == list(range(len(chunks)))
        assert "".join(part.chunk.chunk for part in chunks) == content == reply.content
        assert {part.chunk.message_id for part in chunks} == {reply.message_id}
        assert last.reply == reply

    def test_two_at_once_get_their_own_replies(self, service: Serve) -> None:
        session_id = create(service).session_id
        calls = [self.converse(service, session_id, f"word by word {number}") for number in range(10)]
        for number, call in enumerate(calls):
            parts = list(call)
            assert parts[0].user_message.message.content == f"word by word {number}"
            assert (
                "".join(part.chunk.chunk for part in parts[1:-1])
                == f"word by word {number}"
                == parts[-1].reply.content
            )

    def test_errors_have_their_types(self, service: Serve) -> None:
        expired = create(service).session_id
        service.advance(minutes=31)
        session_id = create(service).session_id
        for named, content, why in (
            (UNKNOWN, "hello", "SESSION_NOT_FOUND"),
            (expired, "hello", "SESSION_EXPIRED"),
            (session_id, "", "INVALID_CONTENT"),
            (session_id, "x" * 4001, "INVALID_CONTENT"),
            (session_id, "a\0b", "INVALID_CONTENT"),
        ):
            fails(lambda named=named, content=content: next(self.converse(service, named, content)), why)
        assert history(service, session_id) == []

    def test_an_agent_that_is_gone_fails_the_reply_and_the_message_is_kept(self, service: Serve) -> None:
        agent = agent_pb2.Agent(name="to be removed", kind=agent_pb2.AGENT_KIND_ECHO)
        agent_id = service.agents.CreateAgent(
            agent_service_pb2.CreateAgentRequest(agent=agent), timeout=10
        ).agent.agent_id
        session_id = create(service, agent_id).session_id
        service.agents.DeleteAgent(agent_service_pb2.DeleteAgentRequest(agent_id=agent_id), timeout=10)
        call = self.converse(service, session_id, "anybody there?")
        kept = next(call).user_message.message
        details = fails(lambda: next(call), "AGENT_REPLY_FAILED")
        assert (details["sessionId"], details["messageId"]) == (session_id, kept.message_id)
        assert history(service, session_id) == [kept]

    def test_a_call_that_is_cancelled_cancels_only_the_waiting(self, service: Serve) -> None:
        session_id = create(service).session_id
        for number in range(10):
            call = self.converse(service, session_id, f"question {number}")
            next(call)
            call.cancel()
        assert [reply.content for reply in replies(service, session_id, 10)] == [
            f"question {number}" for number in range(10)
        ]

    def test_a_session_that_is_deleted_meanwhile_ends_the_call(self, service: Serve) -> None:
        for _ in range(10):
            session_id = create(service).session_id
            call = self.converse(service, session_id, "word " * 800)
            next(call)
            delete(service, session_id)
            try:
                parts = list(call)
            except grpc.RpcError:
                fails(lambda call=call: _raise(call), "SESSION_NOT_FOUND")
            else:
                assert parts[-1].HasField("reply")


def _raise(error: grpc.RpcError) -> None:
    raise error
