"""What the dispatcher does with answers that come on other ways than the agent's."""

import asyncio
import uuid
from collections import Counter

import pytest

from server.agents.connector import Emit, NoReplyError, Work
from server.domain.access import EVERYTHING
from server.domain.deliveries import Delivery, RetryPolicy
from server.domain.errors import (
    DeliveryAnsweredError,
    DeliveryNotFoundError,
    SessionNotFoundError,
)
from server.domain.messages import Draft, Reply
from server.domain.sessions import Outcome
from tests.service.agents.dispatcher.world import OTHER, Scripted, World, echo, hang
from tests.support.waiting import eventually

pytestmark = pytest.mark.sqlite


class TestAnswers:
    async def test_a_message_gets_one_reply_ever(self, world: World, agent: Scripted) -> None:
        agent.script = hang
        await world.open()
        one = await world.session()
        await world.send(one, "hello")
        await eventually(lambda: agent.asked)
        delivery_id = agent.asked[0].delivery.id
        with pytest.raises(DeliveryNotFoundError):
            await world.dispatcher.answer(delivery_id, Reply(Draft("hi")), agent_id=OTHER, scope=EVERYTHING)
        for unknown in ("", "x", f"{one.id}-2", f"{one.id}-0", f"{uuid.uuid4()}-1"):
            with pytest.raises((DeliveryNotFoundError, SessionNotFoundError)):
                await world.dispatcher.answer(unknown, Reply(Draft("hi")), scope=EVERYTHING)
        outcomes = await asyncio.gather(
            *(
                world.dispatcher.answer(delivery_id, Reply(Draft(f"{n}")), scope=EVERYTHING)
                for n in range(20)
            ),
            return_exceptions=True,
        )
        assert Counter(map(type, outcomes)) == {Outcome: 1, DeliveryAnsweredError: 19}
        assert len(await world.exchanged(one)) == 1
        await eventually(lambda: agent.cancelled == ["hello"])
        await eventually(world.dispatcher.is_idle)

    async def test_an_answer_to_what_rests_or_is_asked_lets_the_next_go_on(
        self, world: World, agent: Scripted
    ) -> None:
        async def obey(work: Work, emit: Emit) -> Reply:
            if work.message.content == "fail":
                raise NoReplyError("not now", final=False)
            return await (hang if work.message.content == "hang" else echo)(work, emit)

        agent.script = obey
        await world.open(policy=RetryPolicy(5, 3_600_000, 3_600_000))
        one = await world.session()
        await world.send(one, "fail", "hang", "hello")
        await eventually(world.dispatcher.is_resting)
        await world.dispatcher.answer(f"{one.id}-1", Reply(Draft("late")), scope=EVERYTHING)
        await eventually(lambda: agent.contents == ["fail", "hang"])
        await world.dispatcher.answer(f"{one.id}-2", Reply(Draft("from elsewhere")), scope=EVERYTHING)
        assert await world.exchanged(one) == [
            ("fail", "late"),
            ("hang", "from elsewhere"),
            ("hello", "hello"),
        ]

    async def test_an_answer_that_comes_with_the_lease_does_not_hold_up_the_session(
        self, world: World, agent: Scripted
    ) -> None:
        """A late worker's reply may be stored in the very commit that leases the delivery anew."""

        async def obey(work: Work, emit: Emit) -> Reply:
            return await (hang if work.message.content == "hang" else echo)(work, emit)

        async def late(delivery: Delivery) -> None:
            world.store.after_lease = None
            await world.dispatcher.answer(delivery.id, Reply(Draft("late")), scope=EVERYTHING)

        agent.script = obey
        await world.open()
        world.store.after_lease = late
        one = await world.session()
        await world.send(one, "hang", "hello")
        assert await world.exchanged(one) == [("hang", "late"), ("hello", "hello")]
