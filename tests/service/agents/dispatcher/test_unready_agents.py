"""Deliveries wait for an agent that cannot be asked, or for a worker."""

import asyncio

import pytest

from server.agents.connector import AgentUnavailableError
from server.agents.stream import StreamWorkers
from server.domain.access import EVERYTHING
from server.domain.agents import Agent, AgentKind
from server.domain.deliveries import DeliveryState, RetryPolicy
from server.domain.messages import Draft, Reply
from tests.service.agents.dispatcher.world import Scripted, World
from tests.store.conformance.common import first_open
from tests.support.waiting import PATIENCE_SECONDS, eventually
from tests.unit.samples import AGENT, T0

pytestmark = pytest.mark.sqlite


class TestAgentsThatCannotBeAsked:
    class Unready(Scripted):
        checks = 0
        is_ready = False

        async def check_ready(self, agent: Agent) -> None:
            self.checks += 1
            if not self.is_ready:
                raise AgentUnavailableError("cannot be asked", detail="a setting")

    async def test_nothing_is_written_and_one_delivery_at_a_time_tries_it(self, world: World) -> None:
        agent = world.connectors[AgentKind.STREAM] = self.Unready()
        await world.open(policy=RetryPolicy(1, 10, 20))
        sessions = [await world.session() for _ in range(20)]
        for one in sessions:
            await world.send(one, "hello")
        await eventually(lambda: agent.checks >= 5)
        # Not once for each session.
        assert agent.checks < 20
        for one in sessions:
            waits = await first_open(world.store, one)
            assert (waits.delivery.state, waits.delivery.attempts) == (DeliveryState.PENDING, 0)
        last = world.dispatcher.statuses.status(AGENT).last_failure
        assert (last.failure.attempt, last.failure.detail, last.final) == (0, "a setting", False)
        agent.is_ready = True
        for one in sessions:
            assert await world.exchanged(one) == [("hello", "hello")]

    async def test_a_change_of_the_agent_tries_it_at_once(self, world: World) -> None:
        agent = world.connectors[AgentKind.STREAM] = self.Unready()
        await world.open(policy=RetryPolicy(5, 3_600_000, 3_600_000))
        one = await world.session()
        await world.send(one, "hello")
        await eventually(lambda: agent.checks == 1)
        await world.send(await world.session(), "not before")
        await world.send(one, "behind it")
        assert agent.checks == 1
        agent.is_ready = True
        world.dispatcher.wake(AGENT)
        assert await world.exchanged(one) == [("hello", "hello"), ("behind it", "behind it")]


class TestWorkers:
    """The connector of the kind `stream`: what a test over the wire cannot bring about."""

    async def test_waiting_deliveries_are_looked_at_anew_when_the_agent_changes_its_kind(
        self, world: World
    ) -> None:
        workers = StreamWorkers()
        world.connectors[AgentKind.STREAM] = workers
        await world.open()
        workers.on_change = world.dispatcher.wake
        one = await world.session()
        await world.send(one, "hello")
        changed = await world.store.update_agent(
            AGENT,
            lambda agent, now_ms: Agent(agent.id, agent.name, AgentKind.ECHO, T0, now_ms),
            scope=EVERYTHING,
        )
        workers.apply_change(AGENT, changed)
        assert await world.exchanged(one) == [("hello", "hello")]

    async def test_a_session_that_ends_while_it_waits_frees_its_place(self, world: World) -> None:
        workers = StreamWorkers()
        world.connectors[AgentKind.STREAM] = workers
        await world.open()
        workers.on_change = world.dispatcher.wake
        agent = await world.store.get_agent(AGENT, scope=EVERYTHING)
        ended, other, third = await world.session(), await world.session(), await world.session()
        for one, content in ((ended, "gone"), (other, "hello"), (third, "no room")):
            await world.send(one, content)
        await world.delete(ended)
        with workers.connect(agent, capacity=1, history_messages=0) as worker:
            given = await asyncio.wait_for(worker.told.get(), PATIENCE_SECONDS)
            assert given.work.message.content == "hello"
            waits = await first_open(world.store, third)
            assert (waits.delivery.state, waits.delivery.attempts) == (DeliveryState.PENDING, 0)
            await world.dispatcher.answer(given.work.delivery.id, Reply(Draft("hi")), scope=EVERYTHING)
            await eventually(
                lambda: "no room" in [held.work.message.content for held in worker.held.values()]
            )
            assert worker.busy == 1
