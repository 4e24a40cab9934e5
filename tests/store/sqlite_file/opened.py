"""Stores that are opened, filled and refused."""

import asyncio
from functools import partial
from pathlib import Path

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.agents import Agent, AgentKind
from server.domain.sessions import Session
from server.store.sqlite.store import SqliteStore
from tests.store.conformance.common import say
from tests.unit.samples import AGENT, T0, put, session


async def opened(path: Path, now_ms: int = T0) -> SqliteStore:
    clock = TestClock()
    clock.set_ms(now_ms)
    return await SqliteStore.open(path, clock)


async def populated(path: Path, sessions: int = 40) -> list[Session]:
    """Makes a store with some pages of everything, and closes it."""
    store = await opened(path)
    many = [session(T0 + n, metadata='{"a":"' + "m" * 500 + '"}') for n in range(sessions)]
    await asyncio.gather(*map(partial(put, store), many))
    await asyncio.gather(
        *(store.apply(one.id, say(f"{n}" + "x" * 200), scope=EVERYTHING) for one in many for n in range(20))
    )
    await store.create_agent(Agent(AGENT, "a", AgentKind.ECHO, T0, T0))
    await store.close()
    return many
