"""The kind `echo`, which is built in."""

import re
from typing import Final

from server.agents.connector import UNBOUNDED, Emit, Work
from server.domain.agents import Agent
from server.domain.messages import Draft, Reply

_WORDS: Final = re.compile(r"\S+\s*|\s+")


class Echo:
    """Answers every message with its own text, word by word."""

    is_inside = True

    def check(self, agent: Agent) -> None:
        """Nothing can be wrong with it."""

    async def check_secret(self, agent: Agent) -> None:
        """It has none."""

    def capacity(self, agent_id: str) -> int:
        """There is always time."""
        return UNBOUNDED

    async def check_ready(self, agent: Agent) -> None:
        """It always is."""

    def slot(self, agent: Agent) -> "Echo":
        """Itself."""
        return self

    async def __aenter__(self) -> "Echo":
        return self

    async def __aexit__(self, *_: object) -> None:
        """It holds nobody."""

    def history_messages(self, agent: Agent) -> int:
        """It looks at the message alone."""
        return 0

    async def reply(self, work: Work, emit: Emit) -> Reply:
        for word in _WORDS.finditer(work.message.content):
            # Nobody can begin to listen before it is done.
            if not emit(word[0]):
                break
        return Reply(Draft(work.message.content))
