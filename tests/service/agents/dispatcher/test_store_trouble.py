"""The dispatcher without its store, after a restart, and with a clock that was set back."""

import asyncio
import gc
from collections import Counter
from typing import Any

import pytest

from server.agents.connector import Emit, NoReplyError, Work
from server.delivery import turn
from server.delivery.alarm import Alarm
from server.domain.deliveries import RetryPolicy
from server.domain.messages import Reply
from server.store.values import OpenDelivery
from tests.service.agents.dispatcher.world import OTHER, Scripted, World, echo, hang
from tests.store.conformance.common import first_open
from tests.support.realtime.echo_dispatcher import delivered
from tests.support.waiting import PATIENCE_SECONDS, eventually
from tests.unit.samples import AGENT, T0

pytestmark = pytest.mark.sqlite


class TestStoreTrouble:
    @pytest.mark.parametrize("method", ["lease_due", "get_agent", "lease", "answer", "fail"])
    async def test_nothing_is_lost_while_the_store_is_away(
        self, world: World, agent: Scripted, method: str
    ) -> None:
        async def recover(work: Work, emit: Emit) -> Reply:
            if method == "fail" and world.store.down:
                raise NoReplyError("once", final=False)
            return await echo(work, emit)

        agent.script = recover
        await world.open(policy=RetryPolicy(100, 10, 20))
        sessions = [await world.session() for _ in range(5)]
        world.store.down = frozenset([method])
        for one in sessions:
            await world.send(one, "a", "b")
        await eventually(lambda: world.store.refused >= 15)
        world.store.down = frozenset()
        for one in sessions:
            assert await world.exchanged(one) == [("a", "a"), ("b", "b")]
            assert await world.failures(one) == []
        await eventually(world.dispatcher.is_idle)

    async def test_a_restart_takes_up_everything_that_is_open(self, world: World, agent: Scripted) -> None:
        async def obey(work: Work, emit: Emit) -> Reply:
            if work.message.content == "fail":
                raise NoReplyError("not now", final=False)
            return await hang(work, emit)

        agent.script = obey
        await world.open(concurrency=2, policy=RetryPolicy(100, 50, 50))
        resting, *under_way = [await world.session() for _ in range(3)]
        await world.send(resting, "fail", "behind it")
        await eventually(world.dispatcher.is_resting)
        for one in under_way:
            await world.send(one, "under way", "behind it")
        await eventually(lambda: agent.in_hand.total() == 2)
        ready = await world.session()
        await world.send(ready, "no room")
        await world.close()
        asked = len(agent.asked)
        agent.script = echo
        await world.open()
        assert await world.exchanged(resting) == [("fail", "fail"), ("behind it", "behind it")]
        for one in under_way:
            assert await world.exchanged(one) == [("under way", "under way"), ("behind it", "behind it")]
        assert await world.exchanged(ready) == [("no room", "no room")]
        attempts = Counter((work.message.content, work.delivery.attempts) for work in agent.asked[asked:])
        assert attempts[("under way", 2)] == 2
        assert attempts[("no room", 1)] == 1
        assert attempts[("fail", 1)] == 0
        await eventually(world.dispatcher.is_idle)

    async def test_what_rested_rests_on_after_a_restart(self, world: World, agent: Scripted) -> None:
        async def fail(work: Work, emit: Emit) -> Reply:
            raise NoReplyError("not now", final=False)

        agent.script = fail
        await world.open(policy=RetryPolicy(5, 3_600_000, 3_600_000))
        one, other = await world.session(), await world.session(OTHER)
        await world.send(one, "hello")
        await eventually(world.dispatcher.is_resting)
        await world.close()
        agent.script = echo
        await world.open()
        await world.send(other, "a", "b")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await first_open(world.store, other):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert len(agent.asked) == 1
        await world.close()
        # A clock that was set back does not make it rest longer than it ever should.
        world.clock.set_ms(T0 - 3_600_000)
        await world.open(policy=RetryPolicy(5, 10, 10))
        assert await world.exchanged(one) == [("hello", "hello")]

    async def test_a_clock_that_was_set_back_frees_all_that_rest_at_once(
        self, world: World, agent: Scripted
    ) -> None:
        async def fail(work: Work, emit: Emit) -> Reply:
            raise NoReplyError("not now", final=False)

        agent.script = fail
        await world.open(policy=RetryPolicy(5, 30_000, 30_000))
        sessions = [await world.session() for _ in range(40)]
        for one in sessions:
            await world.send(one, "hello")
        await eventually(lambda: len(agent.asked) == len(sessions))
        # Failures are stored after the agent has been asked, and must be by the clock of before.
        await eventually(lambda: world.dispatcher.statuses.status(AGENT).in_hand == 0)
        world.clock.set_ms(T0 - 3_600_000)
        agent.script = echo
        # One after the other they would take 40 times 30 s.
        await delivered(world.store)
        assert len(agent.asked) == 2 * len(sessions)

    async def test_a_clock_that_was_set_back_asks_for_nothing_without_a_pause(
        self, world: World, agent: Scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(work: Work, emit: Emit) -> Reply:
            raise NoReplyError("not now", final=False)

        agent.script = fail
        await world.open(policy=RetryPolicy(5, 2000, 2000))
        await world.send(await world.session(), "hello")
        await eventually(world.dispatcher.is_resting)
        world.clock.set_ms(T0 - 3_600_000)
        asked = 0

        async def lease_nothing(*_given: Any) -> list[OpenDelivery]:
            nonlocal asked
            asked += 1
            assert asked < 100, "it is asked again and again"
            return []

        monkeypatch.setattr(turn, "STORE_TROUBLE_SECONDS", 3600)
        monkeypatch.setattr(world.store, "lease_due", lease_nothing)
        world.dispatcher.wake(AGENT)
        await eventually(lambda: asked >= 2)
        for _ in range(20):
            await asyncio.sleep(0)
        assert asked == 2

    async def test_what_another_server_has_locked_is_asked_for_soon_and_then_more_seldom(
        self, world: World, agent: Scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await world.open()
        waits: list[float] = []
        given, wait = world.store.lease_due, Alarm.set

        async def pass_over(*args: Any) -> list[OpenDelivery]:
            return [] if len(waits) < 8 else await given(*args)

        def note(alarm: Alarm, seconds: float, due_ms: int = 0) -> None:
            waits.append(seconds)
            wait(alarm, seconds, due_ms)

        monkeypatch.setattr(world.store, "lease_due", pass_over)
        monkeypatch.setattr(Alarm, "set", note)
        one = await world.session()
        await world.send(one, "hello")
        assert await world.exchanged(one) == [("hello", "hello")]
        unit = turn.STORE_TROUBLE_SECONDS
        assert waits == pytest.approx([unit * min(1, 0.05 * 2**n) for n in range(8)])

    async def test_no_more_is_in_memory_however_many_rest(self, world: World, agent: Scripted) -> None:
        async def fail(work: Work, emit: Emit) -> Reply:
            raise NoReplyError("not now", final=False)

        def kept() -> Counter[str]:
            gc.collect()
            kinds = (OpenDelivery, turn.Turn, Work)
            found = Counter(type(one).__name__ for one in gc.get_objects() if type(one) in kinds)
            timers = (one for one in gc.get_objects() if type(one) is asyncio.TimerHandle)
            return found + Counter(timers=sum(not one.cancelled() for one in timers))

        agent.script = fail
        await world.open(policy=RetryPolicy(5, 3_600_000, 3_600_000))
        counts = []
        for count in (10, 300):
            sessions = [await world.session() for _ in range(count)]
            for one in sessions:
                await world.send(one, "hello", "behind it")
            await eventually(lambda count=count: len(agent.asked) >= count)
            agent.asked.clear()
            await eventually(lambda: not agent.in_hand.total())
            await eventually(lambda: world.dispatcher.statuses.status(AGENT).in_hand == 0)
            counts.append(kept())
        assert counts[0] == counts[1]
        assert world.dispatcher.statuses.status(AGENT).open == 620

    async def test_a_lease_that_cannot_be_written_holds_up_no_other(
        self, world: World, agent: Scripted
    ) -> None:
        await world.open()
        first, second, third = [await world.session() for _ in range(3)]
        world.store.down_for = {second.id}
        for one in (first, second, third):
            await world.send(one, "hello")
        await eventually(lambda: len(agent.asked) == 2)
        world.store.down_for = set()
        assert await world.exchanged(second) == [("hello", "hello")]
        assert [work.delivery.attempts for work in agent.asked] == [1, 1, 1]
