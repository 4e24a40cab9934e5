"""What becomes of deliveries when their session ends or the dispatcher stops."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from server.agents.connector import Emit, NoReplyError, Work
from server.domain.access import EVERYTHING
from server.domain.deliveries import Delivery, DeliveryState, RetryPolicy
from server.domain.messages import AgentMessage, Reply
from server.domain.sessions import Session
from tests.service.agents.dispatcher.world import OTHER, Scripted, World, echo, hang, say
from tests.store.conformance.common import first_open
from tests.support.realtime.echo_dispatcher import delivered
from tests.support.waiting import eventually
from tests.unit.samples import AGENT

pytestmark = pytest.mark.sqlite


class TestEnds:
    @pytest.mark.parametrize("end", [World.delete, World.expire])
    async def test_a_session_that_ends_leaves_nothing(
        self, world: World, agent: Scripted, end: Callable[[World, Session], Awaitable[None]]
    ) -> None:
        async def obey(work: Work, emit: Emit) -> Reply:
            if work.message.content == "fail":
                raise NoReplyError("not now", final=False)
            return await hang(work, emit)

        agent.script = obey
        await world.open(concurrency=1, policy=RetryPolicy(5, 3_600_000, 3_600_000))
        resting, under_way, ready = [await world.session() for _ in range(3)]
        await world.send(resting, "fail", "behind it")
        await eventually(world.dispatcher.is_resting)
        await world.send(under_way, "under way", "behind it")
        await eventually(lambda: agent.in_hand.total() == 1)
        await world.send(ready, "no room")
        for one in (resting, ready, under_way):
            await end(world, one)
        await eventually(lambda: agent.cancelled == ["under way"])
        await eventually(world.dispatcher.is_idle)
        assert agent.contents == ["fail", "under way"]
        assert await world.store.count_open() == {}

    async def test_a_message_and_the_deletion_of_its_session_in_one_commit_leave_nothing(
        self, world: World, agent: Scripted
    ) -> None:
        await world.open(concurrency=2)
        for _ in range(10):
            one = await world.session()
            # Both queue while the writer is busy, so that one commit has them.
            await asyncio.gather(
                world.session(OTHER),
                world.store.apply(one.id, say("hello"), scope=EVERYTHING),
                world.delete(one),
            )
        await world.send(await world.session(), "after")
        await delivered(world.store)
        await eventually(world.dispatcher.is_idle)

    async def test_stop_waits_for_what_is_under_way_and_gives_out_nothing_new(
        self, world: World, agent: Scripted
    ) -> None:
        gate = asyncio.Event()

        async def gated(work: Work, emit: Emit) -> Reply:
            if work.message.content == "fail":
                raise NoReplyError("not now", final=False)
            await gate.wait()
            return await echo(work, emit)

        agent.script = gated
        await world.open(concurrency=1, policy=RetryPolicy(100, 50, 50))
        under_way, resting, ready = [await world.session() for _ in range(3)]
        await world.send(resting, "fail")
        await eventually(world.dispatcher.is_resting)
        await world.send(under_way, "a", "b")
        await eventually(lambda: agent.contents[-1] == "a")
        asked = agent.contents
        await world.send(ready, "c")
        stopping = asyncio.create_task(world.dispatcher.stop())
        # More than the rest of what had failed.
        await asyncio.sleep(0.1)
        await world.send(ready, "d")
        assert not stopping.done()
        gate.set()
        await stopping
        assert agent.contents == asked
        messages = [entry.message for entry in await world.log(under_way) if entry.message]
        assert [(message.content, isinstance(message, AgentMessage)) for message in messages] == [
            ("a", False), ("b", False), ("a", True),
        ]  # fmt: skip
        await world.close()
        agent.script = echo
        await world.open()
        assert await world.exchanged(under_way) == [("a", "a"), ("b", "b")]
        assert await world.exchanged(resting) == [("fail", "fail")]
        assert await world.exchanged(ready) == [("c", "c"), ("d", "d")]

    async def test_a_lease_that_comes_with_the_stop_is_given_back(
        self, world: World, agent: Scripted
    ) -> None:
        stopping: list[asyncio.Task[None]] = []

        async def stop(delivery: Delivery) -> None:
            stopping.append(asyncio.create_task(world.dispatcher.stop()))
            await asyncio.sleep(0)

        await world.open()
        world.store.after_lease = stop
        one = await world.session()
        await world.send(one, "hello")
        await eventually(lambda: stopping)
        await stopping[0]
        waits = await first_open(world.store, one)
        assert (waits.delivery.state, waits.delivery.attempts) == (DeliveryState.PENDING, 0)
        assert agent.asked == []

    async def test_what_is_abandoned_lets_nothing_else_take_its_place(
        self, world: World, agent: Scripted
    ) -> None:
        agent.script = hang
        await world.open(concurrency=1)
        await world.send(await world.session(), "under way")
        await eventually(lambda: agent.asked)
        await world.send(await world.session(), "no room")
        await world.dispatcher.abandon()
        assert world.dispatcher.statuses.status(AGENT).in_hand == 0
        assert agent.contents == ["under way"]
