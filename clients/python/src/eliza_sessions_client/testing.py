"""Tests of an agent without a service: its function is asked as a worker asks it."""

import asyncio
import uuid
from dataclasses import dataclass

from eliza_sessions_client._api import agent_service_pb2, message_pb2, session_pb2
from eliza_sessions_client.agent import Agent, Reply, Turn, answer
from eliza_sessions_client.calls import Attachments, Metadata


@dataclass(frozen=True, slots=True)
class Answer:
    """What an agent answered: its text, the pieces that came ahead, and the reply with all its parts."""

    text: str
    pieces: list[str]
    reply: Reply

    @property
    def metadata(self) -> Metadata | None:
        """What the agent attached."""
        return self.reply.metadata

    @property
    def attachments(self) -> Attachments | None:
        """The agent's attachments."""
        return self.reply.attachments


class TestWorker:
    """A conversation with an agent, which remembers it. What the agent raises, `say` raises."""

    # It is no test, whatever its name says to pytest.
    __test__ = False

    def __init__(self, agent: Agent, *, metadata: Metadata | None = None, user_id: str | None = None) -> None:
        """`metadata` is what the creator of the session attached."""
        self._agent = agent
        self._history: list[message_pb2.Message] = []
        self._session = session_pb2.Session(
            session_id=str(uuid.uuid4()),
            channel_id=str(uuid.uuid4()),
            agent_id=agent.agent_id,
            user_id=user_id or str(uuid.uuid4()),
        )
        if metadata:
            self._session.metadata.update(metadata)

    async def say(self, text: str, *, metadata: Metadata | None = None, attempt: int = 1) -> Answer:
        """Says something as the user; returns what the agent answers."""
        said = self._message(text, is_agent=False)
        if metadata:
            said.own_metadata.update(metadata)
        said.metadata.update({**self._session.metadata, **(metadata or {})})
        delivery = agent_service_pb2.Delivery(
            delivery_id=str(uuid.uuid4()),
            attempt=attempt,
            session=self._session,
            message=said,
            history=self._history[-self._agent.history_messages :] if self._agent.history_messages else [],
            reply_message_id=str(uuid.uuid4()),
        )
        pieces, reply = [], Reply()
        async for piece in answer(self._agent, Turn(delivery)):
            if isinstance(piece, Reply):
                reply = piece
            else:
                pieces.append(piece)
        content = reply.content or ""
        if not content:
            raise ValueError("the agent's reply has no text: the service would refuse it")
        self._history += [said, self._message(content, is_agent=True)]
        return Answer(content, pieces, reply)

    def _message(self, text: str, *, is_agent: bool) -> message_pb2.Message:
        session = self._session
        return message_pb2.Message(
            message_id=str(uuid.uuid4()),
            session_id=session.session_id,
            sequence=len(self._history) + 1,
            author_id=session.agent_id if is_agent else session.user_id,
            is_agent=is_agent,
            content=text,
        )


def converse_with(agent: Agent, *texts: str, metadata: Metadata | None = None) -> list[Answer]:
    """Holds a conversation with an agent; returns its answers. For tests without an event loop."""

    async def converse() -> list[Answer]:
        worker = TestWorker(agent, metadata=metadata)
        return [await worker.say(text) for text in texts]

    return asyncio.run(converse())
