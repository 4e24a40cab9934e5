"""What becomes of deliveries that another server of the store answers meanwhile."""

import asyncio
from functools import partial
from typing import Any

import pytest

from server.agents.connector import Emit, Work
from server.delivery import dispatcher
from server.delivery.pump import Pump
from server.delivery.turn import Means
from server.domain.access import EVERYTHING
from server.domain.agents import AgentKind
from server.domain.errors import UnavailableError
from server.domain.ids import new_id
from server.domain.messages import Draft, Reply
from server.domain.replies import answer
from tests.service.agents.dispatcher.world import LONG_S, OTHER, RETRIES, Scripted, World, say
from tests.support.waiting import eventually


async def test_a_message_that_follows_one_that_another_server_has_answered_waits_for_its_turn(
    world: World, agent: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.open()
    await world.dispatcher.stop()
    # It gives deliveries as the echo does: claimed in memory alone.
    agent.is_inside = True
    may_go_on, may_answer = asyncio.Event(), asyncio.Event()
    failed: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))

    async def slowly(work: Work, emit: Emit) -> Reply:
        await may_answer.wait()
        return Reply(Draft(work.message.content))

    async def get_agent(*args: Any, **named: Any) -> Any:
        await may_go_on.wait()
        return await type(world.store).get_agent(world.store, *args, **named)

    agent.script = slowly
    monkeypatch.setattr(world.store, "get_agent", get_agent)
    # Not told by the store of what is committed: the answer is another server's.
    connectors = {**world.connectors, AgentKind.ECHO: agent}
    pump = Pump(
        OTHER,
        Means(
            world.store,
            world.clock,
            connectors,
            world.pieces.append,
            lambda _session_id: True,
            RETRIES,
            LONG_S,
            100,
        ),
        str,
    )
    one = await world.session(OTHER)
    first = await world.store.apply(one.id, say("first"), scope=EVERYTHING)
    assert first.entry
    pump.add(first, first.entry)
    rule = partial(answer, reply_id=new_id(), reply=Reply(Draft("elsewhere")))
    await world.store.apply_delivery(one.id, first.entry.sequence, rule, scope=EVERYTHING)
    second = await world.store.apply(one.id, say("second"), scope=EVERYTHING)
    assert second.entry
    pump.add(second, second.entry)
    may_go_on.set()
    await eventually(lambda: agent.contents == ["first"])
    may_answer.set()
    assert await world.exchanged(one) == [("first", "elsewhere"), ("second", "second")]
    await eventually(lambda: not list(pump.tasks))
    assert agent.contents == ["first", "second"]
    assert failed == []


@pytest.mark.parametrize("is_back", [True, False])
async def test_a_look_that_an_outage_has_held_up_is_followed_by_the_next_as_soon_as_ever(
    world: World, monkeypatch: pytest.MonkeyPatch, is_back: bool
) -> None:
    await world.open()
    monkeypatch.setattr(dispatcher, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(dispatcher, "MOST_LOOKING", 1_000_000)
    looks = 0

    async def count_open() -> dict[str, int]:
        nonlocal looks
        looks += 1
        if looks == 1:
            await asyncio.sleep(0.01)
            if not is_back:
                raise UnavailableError("The store cannot be used now")
        return {}

    monkeypatch.setattr(world.store, "count_open", count_open)
    watching = asyncio.create_task(world.dispatcher.watch_others())
    try:
        await eventually(lambda: looks >= 2)
    finally:
        watching.cancel()
        await asyncio.wait([watching])
