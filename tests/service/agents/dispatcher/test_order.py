"""In which order the dispatcher gives out deliveries, and how many at once."""

import asyncio
import random
from collections import defaultdict

import pytest

from server.agents.connector import Emit, NoReplyError, Work
from server.domain.deliveries import RetryPolicy
from server.domain.messages import Reply
from tests.service.agents.dispatcher.world import OTHER, Scripted, World, echo, hang
from tests.store.conformance.common import first_open
from tests.support.realtime.echo_dispatcher import delivered
from tests.support.waiting import PATIENCE_SECONDS, eventually

pytestmark = pytest.mark.sqlite


class TestOrder:
    async def test_a_flood_is_answered_in_order_and_many_sessions_at_once(
        self, world: World, agent: Scripted
    ) -> None:
        await world.open()
        flooded, *others = [await world.session() for _ in range(51)]
        contents = [f"{n}" for n in range(200)]
        await asyncio.gather(
            world.send(flooded, *contents), *(world.send(one, *contents[:3]) for one in others)
        )
        assert await world.exchanged(flooded) == [(content, content) for content in contents]
        for one in others:
            assert await world.exchanged(one) == [(content, content) for content in contents[:3]]
        asked = defaultdict(list)
        for work in agent.asked:
            asked[work.session.id].append(work.entry.sequence)
        assert len(agent.asked) == 350
        assert all(sequences == sorted(sequences) for sequences in asked.values())
        assert world.dispatcher.is_idle()

    async def test_an_agent_has_no_more_than_its_share_in_hand(self, world: World, agent: Scripted) -> None:
        gate = asyncio.Semaphore(0)

        async def gated(work: Work, emit: Emit) -> Reply:
            await gate.acquire()
            return await echo(work, emit)

        agent.script = gated
        await world.open(concurrency=3)
        sessions = [await world.session() for _ in range(10)]
        for one in sessions:
            await world.send(one, "a", "b")
        for answered in range(20):
            await eventually(lambda answered=answered: len(agent.asked) == min(20, answered + 3))
            gate.release()
        for one in sessions:
            assert await world.exchanged(one) == [("a", "a"), ("b", "b")]
        assert agent.most == 3

    async def test_sessions_take_turns(self, world: World, agent: Scripted) -> None:
        await world.open(concurrency=1)
        flooded, other = await world.session(), await world.session()
        await asyncio.gather(world.send(flooded, *(f"{n}" for n in range(50))), world.send(other, "hello"))
        await delivered(world.store)
        assert agent.contents.index("hello") <= 2

    async def test_a_stuck_agent_and_a_stuck_session_hold_up_no_other(
        self, world: World, agent: Scripted
    ) -> None:
        async def obey(work: Work, emit: Emit) -> Reply:
            return await (hang if work.message.content == "hang" else echo)(work, emit)

        agent.script = obey
        await world.open(concurrency=2)
        stuck, beside, elsewhere = await world.session(), await world.session(), await world.session(OTHER)
        await world.send(stuck, "hang", "behind it")
        for one in (beside, elsewhere):
            await world.send(one, "hello")
            async with asyncio.timeout(PATIENCE_SECONDS):
                while await first_open(world.store, one):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
        await world.send(await world.session(), "hang")
        await eventually(lambda: agent.in_hand.total() == 2)
        await world.send(beside, "no room")
        await world.send(elsewhere, "again")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await first_open(world.store, elsewhere):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert agent.contents == ["hang", "hello", "hang"]

    @pytest.mark.parametrize("is_inside", [False, True])
    async def test_whatever_fails_and_rests_in_between_all_is_answered_in_order(
        self, world: World, agent: Scripted, is_inside: bool
    ) -> None:
        chance = random.Random(3)

        async def recover(work: Work, emit: Emit) -> Reply:
            await asyncio.sleep(chance.choice((0, 0, 0.002)))
            if chance.random() < 0.3:
                raise NoReplyError("not now", final=False)
            return await echo(work, emit)

        agent.script, agent.is_inside = recover, is_inside
        await world.open(concurrency=3, policy=RetryPolicy(100, 3, 6))
        sessions = [await world.session() for _ in range(12)]
        contents = [f"{n}" for n in range(8)]
        for content in contents:
            await asyncio.gather(*(world.send(one, content) for one in sessions))
            await asyncio.sleep(chance.choice((0, 0.005)))
        for one in sessions:
            assert await world.exchanged(one) == [(content, content) for content in contents]
        assert agent.most <= 3
        await eventually(world.dispatcher.is_idle)
