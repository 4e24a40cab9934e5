"""Converse, in this process: how a conversation ends, with agents that do what a test says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from eliza.sessions.v1 import message_service_pb2 as pb
from server.agents.connector import Emit, NoReplyError, Work
from server.domain.access import EVERYTHING
from server.domain.errors import DomainError
from server.domain.messages import Draft, Reply
from server.domain.sessions import Session
from server.rpc.call import Call
from server.rpc.encoding import Entries
from server.rpc.message_service import MessageService
from tests.service.agents.dispatcher.world import OTHER, Scripted, World, hang
from tests.support.waiting import PATIENCE_SECONDS, eventually

pytestmark = pytest.mark.sqlite


class Conversation:
    """A call of Converse: the parts that it was told, and at the end the reason why there is no reply, if
    there is none.
    """

    def __init__(
        self,
        world: World,
        one: Session,
        content: str,
        request_id: str = "",
        deadline_s: float = PATIENCE_SECONDS,
    ) -> None:
        self.told: list[str] = []
        self.chunks: list[pb.ConverseResponse] = []
        self.parts: list[pb.ConverseResponse] = []
        service = MessageService(world.store, world.clock, world.signals, Entries(), deadline_s, 1000)
        message = pb.SendMessageRequest(session_id=one.id, content=content, request_id=request_id)
        self._stream = service.Converse(pb.ConverseRequest(message=message), Call(None))
        self.task = asyncio.create_task(self._run())

    async def end(self) -> list[str]:
        """Everything that it is told."""
        await asyncio.wait_for(self.task, PATIENCE_SECONDS)
        return self.told

    async def _run(self) -> None:
        try:
            async for part in self._stream:
                read = pb.ConverseResponse.FromString(part) if isinstance(part, bytes) else part
                self.parts.append(read)
                self.told.append(read.WhichOneof("part") or "")
        except DomainError as error:
            self.told.append(error.reason)


@pytest.fixture
def agent() -> Scripted:
    return Scripted()


@pytest.fixture
async def world(tmp_path: Path, agent: Scripted) -> AsyncIterator[World]:
    world = World(tmp_path / "store.db", agent)
    yield world
    await world.close()


async def test_a_reply_comes_with_its_chunks(world: World) -> None:
    await world.open()
    talk = Conversation(world, await world.session(OTHER), "how are you")
    assert await talk.end() == ["user_message", "chunk", "chunk", "chunk", "reply"]
    chunks, reply = [part.chunk for part in talk.parts if part.HasField("chunk")], talk.parts[-1].reply
    assert [(chunk.chunk, chunk.index) for chunk in chunks] == [("how ", 0), ("are ", 1), ("you", 2)]
    assert reply.content == "how are you"
    assert {chunk.message_id for chunk in chunks} == {reply.message_id}
    await eventually(world.dispatcher.is_idle)
    assert not world.signals.session_ids


@pytest.mark.parametrize(
    ("how", "ends"),
    [
        ("fail", "AGENT_REPLY_FAILED"),
        ("answer", "reply"),
        ("delete", "SESSION_NOT_FOUND"),
        ("expire", "SESSION_EXPIRED"),
        ("stop", "AGENT_REPLY_TIMEOUT"),
        ("cancelled", ""),
    ],
)
async def test_the_end_comes_in_every_case(world: World, agent: Scripted, how: str, ends: str) -> None:
    """For the message under way, and for the one behind it."""

    async def script(work: Work, emit: Emit) -> Reply:
        emit("half a ")
        if how == "fail":
            await eventually(lambda: behind and behind[0].told)
            raise NoReplyError("never", final=True)
        return await hang(work, emit)

    agent.script = script
    await world.open()
    one = await world.session()
    behind: list[Conversation] = []
    first = Conversation(world, one, "first")
    await eventually(lambda: "chunk" in first.told)
    behind.append(second := Conversation(world, one, "second"))
    await eventually(lambda: second.told)
    match how:
        case "answer":
            await world.dispatcher.answer(f"{one.id}-1", Reply(Draft("from elsewhere")), scope=EVERYTHING)
            await eventually(lambda: len(agent.asked) == 2)
            await world.dispatcher.answer(f"{one.id}-2", Reply(Draft("from elsewhere")), scope=EVERYTHING)
        case "delete":
            await world.delete(one)
        case "expire":
            await world.expire(one)
        case "stop":
            stopping = asyncio.create_task(world.dispatcher.stop())
            await world.dispatcher.answer(f"{one.id}-1", Reply(Draft("from elsewhere")), scope=EVERYTHING)
            await stopping
            world.signals.close()
            # The first was in hand, and could be answered yet.
            assert await first.end() == ["user_message", "chunk", "aborted", "reply"]
            assert await second.end() == ["user_message", ends]
            return
        case "cancelled":
            for talk in (first, second):
                talk.task.cancel()
                await asyncio.wait([talk.task])
            assert not world.signals.session_ids
            return
    # Where a reply has come that the pieces are not of, or none comes, they are void.
    void = ["aborted"] if how in ("fail", "answer") else []
    assert await first.end() == ["user_message", "chunk", *void, ends]
    assert (await second.end())[-1] == ends
    await eventually(world.dispatcher.is_idle)
    assert not world.signals.session_ids


async def test_a_message_whose_reply_does_not_come_in_time_is_kept(world: World, agent: Scripted) -> None:
    agent.script = hang
    await world.open()
    one = await world.session()
    assert await Conversation(world, one, "hello", deadline_s=0.05).end() == [
        "user_message",
        "AGENT_REPLY_TIMEOUT",
    ]
    assert [entry.message.content for entry in await world.log(one) if entry.message] == ["hello"]


async def _leave(world: World, one: Session) -> None:
    pass


@pytest.mark.parametrize("meanwhile", [_leave, World.expire])
async def test_a_message_that_is_repeated_has_the_reply_that_is_stored(
    world: World, meanwhile: Callable[[World, Session], Awaitable[None]]
) -> None:
    """Also where the session has expired since."""
    await world.open()
    one = await world.session(OTHER)
    first = Conversation(world, one, "hello", "again")
    await first.end()
    await meanwhile(world, one)
    again = Conversation(world, one, "hello", "again")
    assert await again.end() == ["user_message", "reply"]
    assert again.parts[0].user_message.replayed
    assert again.parts[-1] == first.parts[-1]


async def test_a_message_that_is_repeated_waits_for_the_reply_that_is_to_come(
    world: World, agent: Scripted
) -> None:
    gate = asyncio.Event()

    async def script(work: Work, emit: Emit) -> Reply:
        await gate.wait()
        emit("hi")
        return Reply(Draft("hi"))

    agent.script = script
    await world.open()
    one = await world.session()
    first = Conversation(world, one, "hello", "again")
    await eventually(lambda: agent.asked)
    again = Conversation(world, one, "hello", "again")
    await eventually(lambda: again.told)
    gate.set()
    assert await first.end() == await again.end() == ["user_message", "chunk", "reply"]
    assert len(agent.asked) == 1


@pytest.mark.parametrize(
    ("end", "reason"),
    [(World.expire, "SESSION_EXPIRED"), (World.delete, "SESSION_NOT_FOUND"), (_leave, "INVALID_CONTENT")],
)
async def test_a_message_that_is_refused_says_so_first(
    world: World, end: Callable[[World, Session], Awaitable[None]], reason: str
) -> None:
    await world.open()
    one = await world.session()
    await end(world, one)
    assert await Conversation(world, one, "").end() == [reason]
    assert not world.signals.session_ids
