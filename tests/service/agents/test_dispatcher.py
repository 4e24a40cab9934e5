"""The Dispatcher, in this process, with agents that do what a test says."""

import asyncio
import gc
import random
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from server.agents.connector import UNBOUNDED, AgentUnavailableError, Emit, NoReplyError, Work
from server.agents.echo import Echo
from server.agents.stream import StreamWorkers
from server.clock import TestClock
from server.delivery import turn
from server.delivery.dispatcher import Dispatcher
from server.domain.access import EVERYTHING
from server.domain.agents import Agent, AgentKind
from server.domain.deliveries import Delivery, DeliveryState, RetryPolicy
from server.domain.errors import (
    DeliveryAnsweredError,
    DeliveryNotFoundError,
    SessionNotFoundError,
    UnavailableError,
)
from server.domain.log import Abort, Chunk, Entry, Piece, ReplyFailure
from server.domain.messages import AgentMessage, Draft, Reply, UserMessage
from server.domain.sessions import Outcome, Session, fall_due, send_message
from server.lifecycle.watches import Watches
from server.store.sqlite.store import SqliteStore
from server.store.values import OpenDelivery
from tests.store.conformance.common import first_open
from tests.support.realtime.echo_dispatcher import delivered
from tests.support.waiting import PATIENCE_SECONDS, eventually
from tests.unit.samples import AGENT, T0, logged, put, session

OTHER = "00000000-0000-4000-8000-0000000000bb"
LONG_S = 3600.0
RETRIES = RetryPolicy(5, 10, 100)

Script = Callable[[Work, Emit], Awaitable[Reply]]


async def echo(work: Work, emit: Emit) -> Reply:
    return Reply(Draft(work.message.content))


async def hang(work: Work, emit: Emit) -> Reply:
    return await asyncio.Future()


class Scripted:
    """An agent that replies as its script says; it keeps what it was asked, what was cancelled, and how many
    it had at once.
    """

    is_inside = False

    def __init__(self, script: Script = echo) -> None:
        self.script = script
        self.asked: list[Work] = []
        self.cancelled: list[str] = []
        self.in_hand: Counter[str] = Counter()
        self.most = 0

    @property
    def contents(self) -> list[str]:
        return [work.message.content for work in self.asked]

    def check(self, agent: Agent) -> None: ...

    async def check_secret(self, agent: Agent) -> None: ...

    def capacity(self, agent_id: str) -> int:
        return UNBOUNDED

    async def check_ready(self, agent: Agent) -> None: ...

    @asynccontextmanager
    async def slot(self, agent: Agent) -> AsyncIterator["Scripted"]:
        yield self

    def history_messages(self, agent: Agent) -> int:
        return 0

    async def reply(self, work: Work, emit: Emit) -> Reply:
        self.asked.append(work)
        self.in_hand[work.session.id] += 1
        assert self.in_hand[work.session.id] == 1, "two deliveries of a session are under way"
        self.most = max(self.most, self.in_hand.total())
        try:
            return await self.script(work, emit)
        except asyncio.CancelledError:
            self.cancelled.append(work.message.content)
            raise
        finally:
            self.in_hand[work.session.id] -= 1


class FlakyStore(SqliteStore):
    """A store whose methods named in `down` cannot be used, nor the deliveries of sessions in `down_for`.

    `after_lease` is run once a lease is stored and before anyone knows.
    """

    down: frozenset[str] = frozenset()
    refused = 0
    down_for: AbstractSet[str] = frozenset()
    after_lease: Callable[[Delivery], Awaitable[object]] | None = None

    def _used(self, method: str) -> None:
        if method in self.down:
            self.refused += 1
            raise UnavailableError("The store is away")

    async def lease_due(self, *args: Any) -> Any:
        self._used("lease_due")
        return await super().lease_due(*args)

    async def get_agent(self, *args: Any, **named: Any) -> Any:
        self._used("get_agent")
        return await super().get_agent(*args, **named)

    async def apply_delivery(self, session_id: str, sequence: int, rule: Any, **named: Any) -> Outcome:
        name = rule.func.__name__
        self._used(name)
        if session_id in self.down_for:
            raise UnavailableError("The store is away")
        outcome = await super().apply_delivery(session_id, sequence, rule, **named)
        if name == "lease" and self.after_lease:
            delivery = outcome.delivery
            await self.after_lease(delivery)
        return outcome


class World:
    """A store with two agents, and a dispatcher, which can be restarted."""

    def __init__(self, path: Path, agent: Scripted) -> None:
        self.path = path
        self.agent = agent
        self.clock = TestClock()
        self.clock.set_ms(T0)
        self.pieces: list[Piece] = []
        self.connectors: dict[AgentKind, Any] = {
            AgentKind.ECHO: Echo(),
            AgentKind.WEBHOOK: agent,
            AgentKind.STREAM: agent,
        }
        self.settings: dict[str, Any] = {"policy": RETRIES, "lease_seconds": LONG_S, "concurrency": 100}

    async def open(self, **settings: Any) -> None:
        self.settings |= settings
        self.store = await FlakyStore.open(self.path, self.clock)
        await self.store.seed_agent(Agent(AGENT, "scripted", AgentKind.STREAM, T0, T0))
        await self.store.seed_agent(Agent(OTHER, "echo", AgentKind.ECHO, T0, T0))
        self.signals = Watches()
        self.store.add_listener(self.signals.on_commit)
        self.dispatcher = Dispatcher(self.store, self.clock, self.connectors, self._tell, **self.settings)
        self.store.add_listener(self.dispatcher.on_commit)
        await self.dispatcher.start()

    def _tell(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.signals.piece(piece)

    async def close(self) -> None:
        """Ends as a service does whose grace is over at once."""
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                await self.dispatcher.stop()
        await self.dispatcher.abandon()
        await self.store.close()

    async def session(self, agent_id: str = AGENT) -> Session:
        new = session(T0, agent_id=agent_id)
        await put(self.store, new)
        return new

    @property
    def chunks(self) -> list[Chunk]:
        return [piece for piece in self.pieces if isinstance(piece, Chunk)]

    async def send(self, one: Session, *contents: str) -> None:
        await asyncio.gather(
            *(self.store.apply(one.id, say(content), scope=EVERYTHING) for content in contents)
        )

    async def delete(self, one: Session) -> None:
        await self.store.delete_session(one.id, scope=EVERYTHING)

    async def expire(self, one: Session) -> None:
        self.clock.set_ms(one.expires_at_ms + 1_000_000_000)
        await self.store.apply(one.id, lambda stored, now_ms: fall_due(stored, now_ms), scope=EVERYTHING)

    async def log(self, one: Session) -> list[Entry]:
        found: list[Entry] = []
        while page := await self.store.list_entries(
            one.id, after_sequence=len(found), limit=100, scope=EVERYTHING
        ):
            found += page
        return found

    async def exchanged(self, one: Session) -> list[tuple[str, str | None]]:
        """Once nothing is open: what the user said and what was replied, in the order of the replies; then
        what got no reply (None).
        """
        await delivered(self.store)
        messages = {entry.sequence: entry.message for entry in await self.log(one) if entry.message}
        answered = [
            (messages[m.answers].content, m.content)
            for m in messages.values()
            if isinstance(m, AgentMessage) and m.answers
        ]
        silent = {m.content for m in messages.values() if isinstance(m, UserMessage)} - {
            asked for asked, _ in answered
        }
        return [*answered, *((content, None) for content in sorted(silent))]

    async def failures(self, one: Session) -> list[tuple[int, str, int]]:
        """Of the failures in the log: the sequence of the message, the reason and the attempts."""
        await delivered(self.store)
        found = [entry.event for entry in await self.log(one) if isinstance(entry.event, ReplyFailure)]
        return [(e.message_sequence, e.reason, e.attempts) for e in found]


def say(content: str, message_id: str = "") -> Any:
    return partial(send_message, message_id=message_id or str(uuid.uuid4()), draft=Draft(content))


@pytest.fixture
def agent() -> Scripted:
    return Scripted()


@pytest.fixture
async def world(tmp_path: Path, agent: Scripted, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(turn, "STORE_TROUBLE_SECONDS", 0.01)
    world = World(tmp_path / "store.db", agent)
    yield world
    await world.close()


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


class TestAttempts:
    async def test_a_lease_that_runs_out_is_given_again(self, world: World, agent: Scripted) -> None:
        async def slow_at_first(work: Work, emit: Emit) -> Reply:
            return await (hang if len(agent.asked) == 1 else echo)(work, emit)

        agent.script = slow_at_first
        await world.open(lease_seconds=0.05)
        one = await world.session()
        await world.send(one, "hello", "next")
        assert await world.exchanged(one) == [("hello", "hello"), ("next", "next")]
        assert (agent.contents, agent.cancelled) == (["hello", "hello", "next"], ["hello"])
        assert await world.failures(one) == []

    async def test_a_chunk_extends_the_lease(self, world: World, agent: Scripted) -> None:
        async def talk(work: Work, emit: Emit) -> Reply:
            loop = asyncio.get_running_loop()
            end_s, said = loop.time() + 0.5, 0
            while loop.time() < end_s:
                emit("x")
                said += 1
                await asyncio.sleep(0.005)
            return Reply(Draft("x" * said))

        agent.script = talk
        await world.open(lease_seconds=0.2)
        one = await world.session()
        await world.send(one, "hello")
        ((_, reply),) = await world.exchanged(one)
        assert [work.delivery.attempts for work in agent.asked] == [1]
        assert reply == "".join(chunk.text for chunk in world.chunks)
        assert [chunk.index for chunk in world.chunks] == list(range(len(world.chunks)))

    async def test_a_failure_is_tried_again_after_a_growing_rest(self, world: World, agent: Scripted) -> None:
        times_s: list[float] = []

        async def recover(work: Work, emit: Emit) -> Reply:
            times_s.append(asyncio.get_running_loop().time())
            if work.delivery.attempts < 4:
                raise NoReplyError(
                    "not yet", final=False, retry_after_s=0.3 if work.delivery.attempts == 3 else 0
                )
            return await echo(work, emit)

        agent.script = recover
        await world.open(policy=RetryPolicy(4, 40, 60))
        one = await world.session()
        await world.send(one, "hello")
        assert await world.exchanged(one) == [("hello", "hello")]
        rests_s = [later - earlier for earlier, later in pairwise(times_s)]
        # Half of what the policy says, at least; what the agent asks for, where that is more.
        assert [rest >= least for rest, least in zip(rests_s, (0.019, 0.029, 0.299), strict=True)] == [
            True
        ] * 3, rests_s
        assert await world.failures(one) == []

    async def test_halves_of_a_character_are_joined_within_an_attempt_and_not_across_two(
        self, world: World, agent: Scripted
    ) -> None:
        async def cut(work: Work, emit: Emit) -> Reply:
            for piece in ("a\ud83e", "\udd16\0", "\ud83e"):
                emit(piece)
            if work.delivery.attempts == 1:
                raise NoReplyError("broke off", final=False)
            return Reply(Draft("a\ud83e\udd16\0\ud83e"))

        agent.script = cut
        await world.open(policy=RetryPolicy(2, 10, 20))
        one = await world.session()
        await world.send(one, "hello")
        assert await world.exchanged(one) == [("hello", "a🤖\ufffd")]
        first = world.chunks[0].message_id
        pieces = [
            [chunk.text for chunk in world.chunks if (chunk.message_id == first) is early]
            for early in (True, False)
        ]
        assert pieces == [["a", "🤖"], ["a", "🤖", "\ufffd"]]

    @pytest.mark.parametrize(
        ("failing", "reason", "attempts"),
        [
            (NoReplyError("never", final=True), "never", 1),
            (NoReplyError("not now", final=False), "not now", 3),
            (ValueError("a secret"), "internal error", 1),
            (
                Reply(Draft("\0")),
                "the agent's reply cannot be stored: Invalid content: content must have 1 to 100000 "
                "characters",
                1,
            ),
            (
                Reply(Draft("")),
                "the agent's reply cannot be stored: Invalid content: content must have 1 to 100000 "
                "characters",
                1,
            ),
            (
                Reply(Draft("x", '{"a":"' + "x" * 10_240 + '"}')),
                "the agent's reply cannot be stored: Invalid metadata: metadata must have at most",
                1,
            ),
            (None, "the agent did not reply within 0.05 seconds", 3),
        ],
    )
    async def test_a_final_failure_is_an_entry_and_the_next_goes_on(
        self, world: World, agent: Scripted, failing: Exception | Reply | None, reason: str, attempts: int
    ) -> None:
        async def fail(work: Work, emit: Emit) -> Reply:
            if work.message.content != "fail":
                return await echo(work, emit)
            if isinstance(failing, Exception):
                raise failing
            return failing or await hang(work, emit)

        agent.script = fail
        await world.open(policy=RetryPolicy(3, 10, 20), lease_seconds=0.05 if failing is None else LONG_S)
        one = await world.session()
        await world.send(one, "fail", "next")
        exchanged = await world.exchanged(one)
        ((sequence, why, count),) = await world.failures(one)
        assert (sequence, count) == (1, attempts)
        assert why.startswith(reason)
        assert "secret" not in why
        assert exchanged == [("next", "next"), ("fail", None)]
        assert agent.contents == ["fail"] * attempts + ["next"]

    async def test_what_a_killed_service_had_tried_for_the_last_time_has_failed(
        self, world: World, agent: Scripted
    ) -> None:
        agent.script = hang
        await world.open(policy=RetryPolicy(1, 10, 20))
        one = await world.session()
        await world.send(one, "hello")
        await eventually(lambda: agent.asked)
        await world.close()
        agent.script = echo
        await world.open()
        assert await world.failures(one) == [(1, "the agent was asked and never heard of again", 1)]
        assert len(agent.asked) == 1

    @pytest.mark.parametrize(
        "failure",
        [
            NoReplyError("gone", final=False, connection_lost=True),
            AgentUnavailableError("cannot be asked", detail="a setting"),
        ],
        ids=["a lost connection", "an agent that cannot be asked"],
    )
    async def test_an_attempt_that_is_not_charged_opens_nothing_new(
        self, world: World, agent: Scripted, failure: NoReplyError
    ) -> None:
        async def recover(work: Work, emit: Emit) -> Reply:
            if len(agent.asked) <= 3:
                raise failure
            return await hang(work, emit)

        agent.script = recover
        await world.open()
        one = await world.session()
        await world.send(one, "hello")
        await eventually(lambda: len(agent.asked) == 4)
        assert world.dispatcher.statuses.status(AGENT).open == 1
        assert (await world.store.get_session(one.id, scope=EVERYTHING)).open_deliveries == 1

    async def test_the_messages_of_a_removed_agent_fail(self, world: World, agent: Scripted) -> None:
        await world.open()
        one = await world.session()
        await world.store.delete_agent(AGENT, scope=EVERYTHING)
        with capture_logs() as logs:
            await world.send(one, "hello", "again")
            assert await world.failures(one) == [
                (1, "the agent has been removed", 0),
                (2, "the agent has been removed", 0),
            ]
            await eventually(world.dispatcher.is_idle)
        # The operator hears of both, too.
        assert [line["final"] for line in logs if line["event"] == "no reply"] == [True, True]


class TestAnswers:
    async def test_one_reply_ever(self, world: World, agent: Scripted) -> None:
        agent.script = hang
        await world.open()
        one = await world.session()
        await world.send(one, "hello")
        await eventually(lambda: agent.asked)
        delivery_id = agent.asked[0].delivery.id
        with pytest.raises(DeliveryNotFoundError):
            await world.dispatcher.answer(delivery_id, Reply(Draft("hi")), scope=EVERYTHING, agent_id=OTHER)
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
        await world.open(policy=RetryPolicy(5, 2000, 2000))
        sessions = [await world.session() for _ in range(40)]
        for one in sessions:
            await world.send(one, "hello")
        await eventually(lambda: len(agent.asked) == len(sessions) and not agent.in_hand.total())
        world.clock.set_ms(T0 - 3_600_000)
        agent.script = echo
        # One after the other they would take 40 times 2 s.
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


class TestAborts:
    """Pieces of a reply that will never be are taken back, before anything else is told."""

    @staticmethod
    def told(world: World, agent: Scripted) -> list[tuple[str, int, bool]]:
        """What was told of replies under way: a piece's text or `void`, its attempt, and whether it is of
        what was asked then.
        """
        asked = {work.delivery.attempts: work.reply_id for work in agent.asked}
        return [
            (
                piece.text if isinstance(piece, Chunk) else "void",
                piece.attempt,
                piece.message_id == asked[piece.attempt],
            )
            for piece in world.pieces
        ]

    @pytest.mark.parametrize("how", ["fails", "breaks", "hangs", "answers badly"])
    async def test_an_attempt_that_fails_takes_its_pieces_back(
        self, world: World, agent: Scripted, how: str
    ) -> None:
        async def script(work: Work, emit: Emit) -> Reply:
            emit("half ")
            emit("a ")
            if work.delivery.attempts > 1 or len(agent.asked) > 1:
                world.store.down = frozenset()
                return Reply(Draft("half a "))
            match how:
                case "fails":
                    raise NoReplyError("not now", final=False)
                case "breaks":
                    raise RuntimeError("a fault of ours")
                case "hangs":
                    return await hang(work, emit)
            return Reply(Draft(""))

        agent.script = script
        await world.open(lease_seconds=0.1 if how == "hangs" else LONG_S)
        one = await world.session()
        await world.send(one, "hello")
        await delivered(world.store)
        first = [("half ", 1, True), ("a ", 1, True), ("void", 1, True)]
        if how in ("breaks", "answers badly"):
            # Another attempt makes no sense.
            assert self.told(world, agent) == first
            (failure,) = [
                entry.event for entry in await world.log(one) if isinstance(entry.event, ReplyFailure)
            ]
            assert failure.reply_message_id == agent.asked[0].reply_id
        else:
            assert self.told(world, agent) == [*first, ("half ", 2, True), ("a ", 2, True)]
            assert len({piece.message_id for piece in world.pieces}) == 2

    async def test_a_reply_is_kept_while_the_store_is_away(self, world: World, agent: Scripted) -> None:
        """The agent is not asked once more, and no attempt is used up."""

        async def script(work: Work, emit: Emit) -> Reply:
            emit("hello")
            world.store.down = frozenset(["answer"])
            return Reply(Draft("hello"))

        agent.script = script
        await world.open(policy=RetryPolicy(1, 10, 100))
        one = await world.session()
        await world.send(one, "hello")
        await eventually(lambda: world.store.refused >= 2)
        world.store.down = frozenset()
        assert await world.exchanged(one) == [("hello", "hello")]
        assert len(agent.asked) == 1
        assert list(map(type, world.pieces)) == [Chunk]

    async def test_a_piece_names_the_end_of_the_log_that_its_attempt_began_with(
        self, world: World, agent: Scripted
    ) -> None:
        async def talk(work: Work, emit: Emit) -> Reply:
            emit("half a ")
            raise NoReplyError("never", final=True)

        agent.script = talk
        await world.open()
        one = await world.session()
        await world.send(one, "a", "b")
        await delivered(world.store)
        # That there is no reply to the first message is the third entry.
        assert [(type(piece), piece.answers, piece.after) for piece in world.pieces] == [
            (Chunk, 1, world.pieces[0].after),
            (Abort, 1, world.pieces[0].after),
            (Chunk, 2, 3),
            (Abort, 2, 3),
        ]
        assert world.pieces[0].after in (1, 2)

    async def test_where_nothing_was_sent_nothing_is_taken_back(self, world: World, agent: Scripted) -> None:
        async def fail(work: Work, emit: Emit) -> Reply:
            emit("")
            raise NoReplyError("never", final=True)

        agent.script = fail
        await world.open()
        await world.send(await world.session(), "hello")
        await delivered(world.store)
        assert world.pieces == []

    @pytest.mark.parametrize("own", [True, False])
    async def test_a_reply_on_another_way_voids_the_pieces_that_are_not_of_it(
        self, world: World, agent: Scripted, own: bool
    ) -> None:
        async def talk(work: Work, emit: Emit) -> Reply:
            emit("half a ")
            try:
                return await hang(work, emit)
            finally:
                emit("too late")

        agent.script = talk
        await world.open()
        one = await world.session()
        await world.send(one, "hello")
        await eventually(lambda: world.pieces)
        (work,) = agent.asked
        entries: list[Entry] = []
        world.store.add_listener(
            lambda commit: entries.extend(entry for outcome in commit.outcomes for entry in logged(outcome))
        )
        await world.dispatcher.answer(
            work.delivery.id,
            Reply(Draft("from elsewhere")),
            scope=EVERYTHING,
            reply_id=work.reply_id if own else None,
        )
        # Told by when the reply is: whoever follows reads it next.
        assert list(map(type, world.pieces)) == ([Chunk] if own else [Chunk, Abort])
        await eventually(world.dispatcher.is_idle)
        assert list(map(type, world.pieces)) == ([Chunk] if own else [Chunk, Abort])

    @pytest.mark.parametrize("end", [World.delete, World.expire])
    async def test_the_end_of_a_session_says_enough(
        self, world: World, agent: Scripted, end: Callable[[World, Session], Awaitable[None]]
    ) -> None:
        async def talk(work: Work, emit: Emit) -> Reply:
            emit("half a ")
            return await hang(work, emit)

        agent.script = talk
        await world.open()
        one = await world.session()
        await world.send(one, "hello")
        await eventually(lambda: world.pieces)
        await end(world, one)
        await eventually(world.dispatcher.is_idle)
        assert list(map(type, world.pieces)) == [Chunk]

    async def test_a_failure_names_the_reply_of_its_last_attempt(self, world: World, agent: Scripted) -> None:
        async def fail(work: Work, emit: Emit) -> Reply:
            raise NoReplyError("not now", final=False)

        agent.script = fail
        await world.open(policy=RetryPolicy(2, 1, 1))
        one = await world.session()
        await world.send(one, "a", "b")
        await delivered(world.store)
        await world.store.delete_agent(AGENT, scope=EVERYTHING)
        await world.send(one, "never asked for")
        await delivered(world.store)
        failures = [entry.event for entry in await world.log(one) if isinstance(entry.event, ReplyFailure)]
        assert [failure.reply_message_id for failure in failures] == [
            agent.asked[1].reply_id,
            agent.asked[3].reply_id,
            "",
        ]
        assert [failure.attempts for failure in failures] == [2, 2, 0]


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
