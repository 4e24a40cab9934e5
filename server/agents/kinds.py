"""The kinds of agent: how each is asked for its reply to a message. A new kind is a class here and a name in AgentKind."""

from collections.abc import Mapping
from typing import Final, Protocol

from server.domain.agents import Agent, AgentKind
from server.domain.messages import Draft, Message, Reply
from server.domain.sessions import Session


class Connector(Protocol):
    """Reaches the agents of one kind."""

    async def reply(self, agent: Agent, session: Session, message: Message) -> Reply:
        """Gets the agent's reply to a message of the session's user."""


class Echo:
    """Answers every message with its own text."""

    async def reply(self, agent: Agent, session: Session, message: Message) -> Reply:
        """The message's text again."""
        return Reply(Draft(message.content))


CONNECTORS: Final[Mapping[AgentKind, Connector]] = {AgentKind.ECHO: Echo()}
