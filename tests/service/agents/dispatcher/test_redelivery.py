"""Messages that are delivered anew, while the agent, others and the clock do what they like."""

import asyncio
import random
from functools import partial
from pathlib import Path

import pytest

from server.agents.connector import Emit, NoReplyError, Work
from server.domain.access import EVERYTHING
from server.domain.deliveries import DeliveryState
from server.domain.errors import DomainError
from server.domain.messages import AgentMessage, Draft, Reply
from server.domain.replies import redeliver
from server.domain.sessions import Session
from server.store.sqlite.check import problems
from tests.service.agents.dispatcher.world import Scripted, World
from tests.support.inside_sqlite import read_connections
from tests.support.realtime.echo_dispatcher import delivered
from tests.support.waiting import eventually

pytestmark = pytest.mark.sqlite

SESSIONS = 4
DEEDS = 250
MOST_OPEN = 6


def is_idle(world: World) -> bool:
    return world.dispatcher.is_idle() and world.dispatcher.statuses.count_all() == (0, 0)


@pytest.mark.parametrize("is_inside", [True, False])
@pytest.mark.parametrize("seed", range(2))
async def test_no_message_is_lost_or_answered_twice(tmp_path: Path, seed: int, is_inside: bool) -> None:
    choose = random.Random(seed)

    async def script(work: Work, emit: Emit) -> Reply:
        for _ in range(choose.randrange(4)):
            await asyncio.sleep(0)
        if choose.random() < 0.5:
            raise NoReplyError("no", final=choose.random() < 0.7)
        return Reply(Draft(work.message.content))

    agent = Scripted(script)
    agent.is_inside = is_inside
    world = World(tmp_path / "store.db", agent)
    await world.open(concurrency=3)
    there = [await world.session() for _ in range(SESSIONS)]
    again = partial(redeliver, max_open=MOST_OPEN)

    async def act() -> None:
        one = choose.choice(there)
        sequence = choose.randrange(1, 40)
        try:
            match choose.randrange(8):
                case 0 | 1:
                    await world.send(one, f"message {choose.random()}")
                case 2:
                    late = Reply(Draft("late"))
                    await world.dispatcher.answer(f"{one.id}-{sequence}", late, scope=EVERYTHING)
                case _:
                    await world.store.apply_delivery(one.id, sequence, again, scope=EVERYTHING)
        except DomainError:
            pass

    for _ in range(DEEDS // 5):
        await asyncio.gather(*(act() for _ in range(5)))
    agent.script = lambda work, emit: answer(work)
    await delivered(world.store)
    await eventually(lambda: is_idle(world))
    assert list(problems(read_connections(world.store)[0])) == []
    for one in there:
        await finish(world, one)
    await eventually(lambda: is_idle(world))
    assert list(problems(read_connections(world.store)[0])) == []
    await world.close()


async def answer(work: Work) -> Reply:
    return Reply(Draft(work.message.content))


async def finish(world: World, one: Session) -> None:
    """Delivers anew all that has failed; each message of the session then has one reply."""
    sent = [entry.sequence for entry in await world.log(one) if entry.message and not entry.answers]
    stored = await world.store.get_session(one.id, scope=EVERYTHING)
    found = await world.store.list_deliveries(stored, limit=1000, state=frozenset([DeliveryState.FAILED]))
    failed = [one.delivery.sequence for one in found.deliveries]
    assert (stored.open_deliveries, stored.failed_deliveries) == (0, len(failed))
    for n in failed:
        await world.store.apply_delivery(one.id, n, partial(redeliver), scope=EVERYTHING)
    await delivered(world.store)
    replies = [entry.answers for entry in await world.log(one) if isinstance(entry.message, AgentMessage)]
    assert sorted(replies) == sent
