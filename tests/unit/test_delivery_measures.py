"""How old open deliveries are and how long replies take, by a clock of the test."""

import asyncio
from collections import Counter

import pytest

from server.clock import TestClock
from server.delivery import measures as delivery_measures
from server.delivery.measures import DeliveryMeasures
from server.delivery.statuses import AgentStatuses
from server.domain.access import EVERYTHING
from server.domain.log import Abort, Chunk, Piece
from server.domain.sessions import Session
from server.telemetry.telemetry import Reading, Telemetry
from tests.store.conformance.common import expire, give_up, respond, say
from tests.store.memory_store import MemoryStore
from tests.unit.samples import AGENT, T0, put, session


class Recorder(Telemetry):
    """What the measures tell."""

    is_on = True

    def __init__(self) -> None:
        self.closed: Counter[str] = Counter()
        self.first_chunks: list[tuple[str, float]] = []
        self.replies: list[tuple[str, float]] = []

    def close_deliveries(self, state: str, count: int = 1) -> None:
        self.closed[state] += count

    def note_first_chunk(self, agent_id: str, since_s: float) -> None:
        self.first_chunks.append((agent_id, since_s))

    def note_reply(self, agent_id: str, since_s: float) -> None:
        self.replies.append((agent_id, since_s))


class World:
    """A store with one session, and measures that follow at most three deliveries."""

    def __init__(self) -> None:
        self.clock = TestClock()
        self.clock.set_ms(T0)
        self.told = Recorder()
        self.pieces: list[Piece] = []
        self.store = MemoryStore(self.clock)
        self.follow()
        self.store.add_listener(lambda commit: self.measures.on_commit(commit))

    def follow(self) -> None:
        """Begins anew, as another process would."""
        self.measures = DeliveryMeasures(self.told, self.clock, self.pieces.append, most=3)

    async def add(self) -> Session:
        """Adds a session."""
        return (await put(self.store, session())).session

    async def send(self, to: Session, at_s: float) -> int:
        """Sends a message; returns its sequence."""
        self.clock.set_ms(T0 + round(at_s * 1000))
        outcome = await self.store.apply(to.id, say("hi"), scope=EVERYTHING)
        assert outcome.entry
        return outcome.entry.sequence

    async def reply(self, to: Session, sequence: int, at_s: float) -> None:
        self.clock.set_ms(T0 + round(at_s * 1000))
        await self.store.apply_delivery(to.id, sequence, respond(), scope=EVERYTHING)

    def age_s(self, at_s: float) -> float:
        self.clock.set_ms(T0 + round(at_s * 1000))
        return self.measures.oldest_age_ms() / 1000


@pytest.fixture
async def world() -> World:
    return World()


async def test_the_oldest_open_delivery_is_that_which_was_opened_first(world: World) -> None:
    one, other = await world.add(), await world.add()
    assert world.age_s(5) == 0
    first = await world.send(one, 10)
    second = await world.send(other, 20)
    assert world.age_s(25) == 15
    await world.reply(one, first, 30)
    assert world.age_s(30) == 10
    await world.reply(other, second, 31)
    assert world.age_s(40) == 0
    assert world.told.replies == [(one.agent_id, 20.0), (one.agent_id, 11.0)]
    assert world.told.closed == {"answered": 2}


async def test_beyond_the_bound_the_oldest_is_never_younger_than_it_is(world: World) -> None:
    one = await world.add()
    sequences = [await world.send(one, at_s) for at_s in (1, 2, 3, 4, 5)]
    assert world.age_s(10) == 9
    for sequence in sequences[:3]:
        await world.reply(one, sequence, 10)
    # The fourth and the fifth are not told apart.
    assert world.age_s(10) == 6
    await world.reply(one, sequences[3], 10)
    assert world.age_s(10) == 6
    await world.reply(one, sequences[4], 10)
    assert world.age_s(10) == 0
    assert len(world.told.replies) == 3
    assert world.told.closed == {"answered": 5}


async def test_what_an_earlier_run_has_left_is_as_old_as_its_oldest(world: World) -> None:
    one = await world.add()
    first, second = await world.send(one, 1), await world.send(one, 2)
    world.follow()
    await world.measures.start(world.store)
    assert world.age_s(10) == 9
    await world.reply(one, first, 11)
    await world.send(one, 12)
    assert world.age_s(12) == 11
    await world.reply(one, second, 13)
    assert world.age_s(13) == 1


@pytest.mark.parametrize("how", ["expired", "deleted"])
async def test_the_deliveries_of_a_session_end_with_it(world: World, how: str) -> None:
    one, other = await world.add(), await world.add()
    # One of them is beyond the bound.
    for at_s in (1, 2, 3, 4):
        await world.send(one, at_s)
    await world.send(other, 5)
    if how == "expired":
        await world.store.apply(one.id, expire, scope=EVERYTHING)
    else:
        await world.store.delete_session(one.id, scope=EVERYTHING)
    assert world.told.closed == {"ended": 4}
    # That of the other session is beyond the bound, too, and so as old as the oldest of these.
    assert world.age_s(10) == 6
    await world.reply(other, 1, 10)
    assert world.age_s(10) == 0
    assert world.told.closed == {"ended": 4, "answered": 1}


async def test_a_failure_for_good_is_no_reply(world: World) -> None:
    one = await world.add()
    sequence = await world.send(one, 1)
    await world.store.apply_delivery(one.id, sequence, give_up, scope=EVERYTHING)
    assert world.told.closed == {"failed": 1}
    assert world.told.replies == []
    assert world.age_s(10) == 0


async def test_the_first_piece_of_a_reply_counts_from_its_message(world: World) -> None:
    one = await world.add()
    sequence = await world.send(one, 1)
    world.clock.set_ms(T0 + 1500)
    told: list[Piece] = [
        Chunk(one.id, AGENT, "reply", "a", 0, sequence, 1, 1),
        Chunk(one.id, AGENT, "reply", "b", 1, sequence, 1, 1),
        Chunk(one.id, AGENT, "other", "c", 0, 99, 1, 1),
        Abort(one.id, AGENT, "reply", sequence, 1, 1),
    ]
    for piece in told:
        world.measures.note_piece(piece)
    assert world.told.first_chunks == [(AGENT, 0.5)]
    assert world.pieces == told


async def test_open_deliveries_wait_or_are_in_hand(world: World) -> None:
    statuses = AgentStatuses()
    statuses.count_open("one", 3)
    statuses.count_open("two", 2)
    statuses.count_in_hand("two", 1)
    assert list(await world.measures.read_gauges(statuses)) == [
        Reading("eliza_deliveries_open", 4, ("waiting",)),
        Reading("eliza_deliveries_open", 1, ("in_hand",)),
        Reading("eliza_delivery_oldest_age_seconds", 0.0),
    ]


async def test_what_another_server_has_answered_is_open_no_longer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryStore, "is_shared", True)
    here, there = world.measures, DeliveryMeasures(Recorder(), world.clock, world.pieces.append)
    for measures in (here, there):
        await measures.start(world.store)
    one = await world.add()
    sequences = [await world.send(one, at_s) for at_s in (1, 2)]

    async def ages(at_s: float) -> list[float]:
        world.clock.set_ms(T0 + round(at_s * 1000))
        return [list(await told.read_gauges(AgentStatuses()))[-1].value for told in (here, there)]

    assert await ages(11) == [10, 10]
    # Each server is told of its own commits.
    world.measures = there
    await world.reply(one, sequences[0], 12)
    assert await ages(12) == [10, 10]
    await world.reply(one, sequences[1], 13)
    assert await ages(13) == [0, 0]
    # What it still takes for open makes room for what is.
    world.measures = here
    for at_s in (20, 21, 22):
        await world.reply(one, await world.send(one, at_s), at_s + 0.5)
    assert world.told.replies == [(one.agent_id, 0.5)] * 3


@pytest.mark.parametrize(("slow_s", "asked"), [(-1.0, 1), (3600.0, 3)])
async def test_a_store_that_takes_long_to_say_how_old_the_oldest_is_is_asked_seldom(
    world: World, monkeypatch: pytest.MonkeyPatch, slow_s: float, asked: int
) -> None:
    monkeypatch.setattr(MemoryStore, "is_shared", True)
    monkeypatch.setattr(delivery_measures, "SLOW_SECONDS", slow_s)
    monkeypatch.setattr(delivery_measures, "MOST_ASKING", 1_000_000_000)
    count = 0

    async def oldest_open_ms() -> int:
        nonlocal count
        count += 1
        await asyncio.sleep(0)
        return T0

    await world.measures.start(world.store)
    monkeypatch.setattr(world.store, "oldest_open_ms", oldest_open_ms)
    for age_s in (1, 2, 3):
        world.clock.set_ms(T0 + age_s * 1000)
        assert list(await world.measures.read_gauges(AgentStatuses()))[-1].value == age_s
    assert count == asked
