"""The attempts of a delivery: leases that run out, rests, failures, and what is not charged."""

import asyncio
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from server.agents.connector import AgentUnavailableError, Emit, NoReplyError, Work
from server.domain.access import EVERYTHING
from server.domain.deliveries import RetryPolicy
from server.domain.log import Abort
from server.domain.messages import Draft, Reply
from tests.service.agents.dispatcher.world import LONG_S, Scripted, World, echo, hang
from tests.support.waiting import eventually
from tests.unit.samples import AGENT

pytestmark = pytest.mark.sqlite


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

    async def test_pieces_that_nobody_hears_are_not_told_but_for_the_first(
        self, world: World, agent: Scripted
    ) -> None:
        heard: set[str] = set()

        async def talk(work: Work, emit: Emit) -> Reply:
            for piece in ("one ", "two "):
                emit(piece)
            heard.add(work.session.id)
            emit("three ")
            heard.clear()
            emit("four")
            raise NoReplyError("broke off", final=True)

        agent.script = talk
        await world.open(is_heard=heard.__contains__)
        one = await world.session()
        await world.send(one, "hello")
        assert await world.failures(one) == [(1, "broke off", 1)]
        assert [(chunk.text, chunk.index) for chunk in world.chunks] == [("one ", 0), ("three ", 2)]
        assert isinstance(world.pieces[-1], Abort)

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
