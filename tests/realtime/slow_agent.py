"""`eliza-sessions` with an agent that does what it is told: `sleep 2`, `fail`, `think about it`; anything else it echoes."""

import asyncio

from server.agents.kinds import CONNECTORS, Emit
from server.cli import main
from server.domain.agents import Agent, AgentKind
from server.domain.messages import Draft, Message, Reply
from server.domain.sessions import Session


class Told:
    """Obeys the first word of a message."""

    async def reply(self, agent: Agent, session: Session, message: Message, emit: Emit) -> Reply:
        match message.content.split():
            case ["sleep", seconds]:
                await asyncio.sleep(float(seconds))
            case ["fail", *_]:
                emit("half a ")
                raise RuntimeError("this agent was told to fail")
            case ["think", *words]:
                for word in words:
                    emit(f"{word} ")
                return Reply(Draft(" ".join(words), '{"mood":"calm"}'), thought="I was told to", actions=("THINK", "REPLY"))
        return Reply(Draft(message.content))


if __name__ == "__main__":
    CONNECTORS[AgentKind.ECHO] = Told()
    main()
