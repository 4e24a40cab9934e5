"""Makes a store with many live sessions, which expire in a day: `python filled.py PATH COUNT`, by the Python of a checkout."""

import asyncio
import sys
import uuid
from pathlib import Path

import uvloop

from server.clock import SystemClock
from server.domain.sessions import create
from server.settings import Settings
from server.store.sqlite import SqliteStore

ECHO = "00000000-0000-4000-8000-0000000000ec"
USER = "11111111-1111-4111-8111-111111111111"
AT_A_TIME = 5000


async def fill(path: Path, count: int) -> None:
    clock = SystemClock()
    store = await SqliteStore.open(path, clock)
    policy = Settings(session_default_timeout_minutes=1440, session_max_duration_minutes=1440).timeout_policy
    for begin in range(0, count, AT_A_TIME):
        new = (
            create(
                clock.now_ms(),
                session_id=str(uuid.uuid4()),
                channel_id=str(uuid.uuid4()),
                agent_id=ECHO,
                user_id=USER,
                metadata="{}",
                policy=policy,
            )
            for _ in range(min(AT_A_TIME, count - begin))
        )
        await asyncio.gather(*map(store.create_session, new))
    await store.close()


if __name__ == "__main__":
    uvloop.run(fill(Path(sys.argv[1]), int(sys.argv[2])))
