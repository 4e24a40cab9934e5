"""Pieces of a reply that will never be are taken back."""

from collections.abc import Awaitable, Callable

import pytest

from server.agents.connector import Emit, NoReplyError, Work
from server.domain.access import EVERYTHING
from server.domain.deliveries import RetryPolicy
from server.domain.log import Abort, Chunk, Entry, ReplyFailure
from server.domain.messages import Draft, Reply
from server.domain.sessions import Session
from tests.service.agents.dispatcher.world import LONG_S, Scripted, World, hang
from tests.support.realtime.echo_dispatcher import delivered
from tests.support.waiting import eventually
from tests.unit.samples import AGENT, logged

pytestmark = pytest.mark.sqlite


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
            reply_id=work.reply_id if own else None,
            scope=EVERYTHING,
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
