"""Makes a store with many live sessions, which expire in a day: `python filled.py PATH COUNT`, by the Python
of a checkout.
"""

import asyncio
import inspect
import sys
import uuid
from functools import partial
from pathlib import Path

import uvloop

from server.clock import SystemClock
from server.domain.access import EVERYTHING
from server.domain.agents import Agent, AgentKind
from server.domain.sessions import create
from server.settings import Settings

try:
    from server.store.sqlite.store import SqliteStore
except ImportError:
    # A checkout from before the store was a package.
    from server.store.sqlite.store import SqliteStore

ECHO = "00000000-0000-4000-8000-0000000000ec"
USER = "11111111-1111-4111-8111-111111111111"
AT_A_TIME = 5000


async def fill(path: Path, count: int) -> None:
    clock = SystemClock()
    store = await SqliteStore.open(path, clock)
    await store.create_agent(Agent(ECHO, "echo", AgentKind.ECHO, 0, 0))
    policy = Settings(session_default_timeout_minutes=1440, session_max_duration_minutes=1440).timeout_policy
    for begin in range(0, count, AT_A_TIME):
        rules = (
            partial(
                create,
                session_id=str(uuid.uuid4()),
                channel_id=str(uuid.uuid4()),
                agent_id=ECHO,
                user_id=USER,
                metadata="{}",
                policy=policy,
            )
            for _ in range(min(AT_A_TIME, count - begin))
        )
        if "rule" in inspect.signature(store.create_session).parameters:
            await asyncio.gather(*(store.create_session(ECHO, rule, scope=EVERYTHING) for rule in rules))
        else:
            await asyncio.gather(*(store.create_session(rule(clock.now_ms())) for rule in rules))
    await store.close()


if __name__ == "__main__":
    uvloop.run(fill(Path(sys.argv[1]), int(sys.argv[2])))
