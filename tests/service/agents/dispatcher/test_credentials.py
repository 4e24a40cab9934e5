"""What becomes of the deliveries of workers whose credentials end, and of answers to those of others."""

import asyncio
import uuid

import pytest

from server.agents.stream import Accepted, Given, StreamWorker, StreamWorkers
from server.domain.access import EVERYTHING, Scope
from server.domain.agents import AgentKind
from server.domain.deliveries import DeliveryState
from server.domain.errors import CredentialExpiredError, DeliveryNotLeasedError, SessionNotFoundError
from server.domain.messages import Draft, Reply
from tests.service.agents.dispatcher.world import OTHER, RETRIES, World
from tests.store.conformance.common import first_open
from tests.support.waiting import PATIENCE_SECONDS, eventually
from tests.unit.samples import AGENT, T0

pytestmark = pytest.mark.sqlite


class TestWorkersWhoseCredentialEnds:
    @pytest.fixture
    async def workers(self, world: World) -> StreamWorkers:
        workers = StreamWorkers()
        world.connectors[AgentKind.STREAM] = workers
        await world.open()
        workers.on_change = world.dispatcher.wake
        return workers

    async def take(self, worker: StreamWorker) -> Given:
        given = await asyncio.wait_for(worker.told.get(), PATIENCE_SECONDS)
        assert isinstance(given, Given)
        return given

    async def test_an_expired_one_ends_when_it_has_answered_and_gets_nothing_new(
        self, world: World, workers: StreamWorkers
    ) -> None:
        agent = await world.store.get_agent(AGENT, scope=EVERYTHING)
        first, second = await world.session(), await world.session()
        with workers.connect(agent, capacity=5, history_messages=0) as worker:
            await world.send(first, "hello")
            given = await self.take(worker)
            worker.retire()
            # It has room for what it holds, and no more.
            assert workers.capacity(AGENT) == 1
            await world.send(second, "too late")
            assert worker.told.empty()
            assert await worker.answer(given.work.delivery.id, Reply(Draft("hi")))
            # As the service tells it.
            worker.told.put_nowait(Accepted(given.work.delivery.id))
            told = [await asyncio.wait_for(worker.told.get(), PATIENCE_SECONDS) for _ in range(2)]
            assert isinstance(told[0], Accepted)
            assert isinstance(told[1], CredentialExpiredError)
            assert worker.told.empty()
            waits = await first_open(world.store, second)
            assert (waits.delivery.state, waits.delivery.attempts) == (DeliveryState.PENDING, 0)
        with workers.connect(agent, capacity=1, history_messages=0) as another:
            assert (await self.take(another)).work.message.content == "too late"

    async def test_an_expired_one_that_holds_nothing_ends_at_once(
        self, world: World, workers: StreamWorkers
    ) -> None:
        agent = await world.store.get_agent(AGENT, scope=EVERYTHING)
        with workers.connect(agent, capacity=5, history_messages=0) as worker:
            worker.retire()
            worker.retire()
            assert isinstance(worker.told.get_nowait(), CredentialExpiredError)
            assert worker.told.empty()

    @pytest.mark.parametrize("has_begun", [True, False])
    async def test_what_a_revoked_one_holds_goes_back_and_no_attempt_is_charged(
        self, world: World, workers: StreamWorkers, has_begun: bool
    ) -> None:
        agent = await world.store.get_agent(AGENT, scope=EVERYTHING)
        one = await world.session()
        with (
            workers.connect(agent, capacity=1, history_messages=0) as worker,
            workers.connect(agent, capacity=1, history_messages=0) as another,
        ):
            await world.send(one, "hello")
            await eventually(lambda: worker.held or another.held)
            holder, rest = (worker, another) if worker.held else (another, worker)
            delivery_id = (await self.take(holder)).work.delivery.id
            if has_begun:
                holder.take_chunk(delivery_id, "piece")
            holder.revoke()
            assert isinstance(holder.told.get_nowait(), CredentialExpiredError)
            with pytest.raises(DeliveryNotLeasedError):
                await holder.answer(delivery_id, Reply(Draft("too late")))
            world.clock.set_ms(T0 + 10 * RETRIES.longest_backoff_ms)
            world.dispatcher.wake(AGENT)
            delivery = (await self.take(rest)).work.delivery
            assert (delivery.id, delivery.attempts, delivery.lost_connections) == (delivery_id, 1, 1)
            await rest.answer(delivery_id, Reply(Draft("hi")))
        assert await world.exchanged(one) == [("hello", "hi")]
        assert holder.told.empty()

    async def test_a_reply_by_one_agent_to_anothers_delivery_is_as_to_nobodys(self, world: World) -> None:
        await world.open()
        one = await world.session(OTHER)
        await world.send(one, "hello")
        await world.exchanged(one)
        for scope in (Scope("", None, AGENT), Scope("acme", None, OTHER)):
            for session_id in (one.id, str(uuid.uuid4())):
                for sequence in (1, 9):
                    delivery_id = f"{session_id}-{sequence}"
                    with pytest.raises(SessionNotFoundError) as caught:
                        await world.dispatcher.answer(
                            delivery_id, Reply(Draft("x")), scope=scope, agent_id=AGENT
                        )
                    assert caught.value.details == {"sessionId": session_id}
