"""The kind `echo`: what it sends ahead."""

import uuid

import pytest

from server.agents.connector import History, Work
from server.agents.echo import Echo
from server.domain.agents import Agent, AgentKind
from server.domain.messages import Draft
from server.domain.sessions import send_message
from tests.unit.samples import AGENT, T0, session


def work(content: str) -> Work:
    """A message that the echo is asked to answer."""
    outcome = send_message(session(), T0, message_id=str(uuid.uuid4()), draft=Draft(content))
    assert outcome.entry
    assert outcome.delivery
    agent = Agent(AGENT, "echo", AgentKind.ECHO, T0, T0)
    return Work(agent, outcome.session, outcome.entry, outcome.delivery, str(uuid.uuid4()), History([]))


@pytest.mark.parametrize("content", ["hello", "How do I\n reset my password? ", "  \t", " a"])
async def test_a_reply_that_is_heard_is_sent_ahead_word_by_word(content: str) -> None:
    pieces: list[str] = []

    def emit(piece: str) -> bool:
        pieces.append(piece)
        return True

    reply = await Echo().reply(work(content), emit)
    assert "".join(pieces) == reply.draft.content == content
    assert len(pieces) == (len(content.split()) or 1) + (content == " a")


async def test_nothing_is_sent_ahead_that_nobody_hears() -> None:
    pieces: list[str] = []

    def emit(piece: str) -> bool:
        pieces.append(piece)
        return False

    reply = await Echo().reply(work("one two three"), emit)
    assert (pieces, reply.draft.content) == (["one "], "one two three")
