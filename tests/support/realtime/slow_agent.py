"""`eliza-sessions` with an agent that does what it is told: `sleep 2`, `fail`, `think about it`; anything
else it echoes.
"""

import asyncio

from server.agents.connector import Emit, Work
from server.agents.echo import Echo
from server.cli import main
from server.domain.messages import Draft, Reply


async def told(_echo: Echo, work: Work, emit: Emit) -> Reply:
    """Obeys the first word of a message."""
    match work.message.content.split():
        case ["sleep", seconds]:
            await asyncio.sleep(float(seconds))
        case ["fail", *_]:
            emit("half a ")
            raise RuntimeError("this agent was told to fail")
        case ["think", *words]:
            for word in words:
                emit(f"{word} ")
            return Reply(
                Draft(" ".join(words), '{"mood":"calm"}'), thought="I was told to", actions=("THINK", "REPLY")
            )
    return Reply(Draft(work.message.content))


if __name__ == "__main__":
    Echo.reply = told
    main()
