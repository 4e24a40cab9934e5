"""The kinds of agent: how each is asked for its reply to a message. A new kind is a class here and a name in AgentKind."""

import re
from collections.abc import Callable
from typing import Final, Protocol

from server.domain.agents import Agent, AgentKind
from server.domain.messages import Draft, Message, Reply
from server.domain.sessions import Session

Emit = Callable[[str], None]
"""Sends a piece of the reply ahead, to whoever follows."""


class Connector(Protocol):
    """Reaches the agents of one kind."""

    async def reply(self, agent: Agent, session: Session, message: Message, emit: Emit) -> Reply:
        """Gets the agent's reply to a message of the session's user, emitting its text piece by piece where the agent gives it so."""


class Echo:
    """Answers every message with its own text, word by word."""

    async def reply(self, agent: Agent, session: Session, message: Message, emit: Emit) -> Reply:
        """The message's text again."""
        for word in re.findall(r"\S+\s*|\s+", message.content):
            emit(word)
        return Reply(Draft(message.content))


CONNECTORS: Final[dict[AgentKind, Connector]] = {AgentKind.ECHO: Echo()}
