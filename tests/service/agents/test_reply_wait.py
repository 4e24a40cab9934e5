"""A SendMessage that waits for its reply, in this process: how the wait ends, and what it counts as."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from google.protobuf.duration_pb2 import Duration
from grpc.aio import AioRpcError

from eliza.sessions.call_metadata import MESSAGE_ID_KEY
from eliza.sessions.errors import error_info
from eliza.sessions.v1 import errors_pb2, message_service_pb2_grpc
from eliza.sessions.v1 import message_service_pb2 as pb
from server.agents.connector import Emit, NoReplyError, Work
from server.domain.access import EVERYTHING
from server.domain.messages import Draft, Reply
from server.domain.sessions import Session
from server.rpc.encoding import Entries
from server.rpc.in_process_channel import InProcessChannel
from server.rpc.message_service import ANSWER_SECONDS, MessageService
from server.rpc.pipeline import CallPipeline
from server.rpc.services import Services
from tests.service.agents.dispatcher.world import OTHER, Scripted, World, hang
from tests.support.counts import counted
from tests.support.waiting import PATIENCE_SECONDS, eventually

pytestmark = pytest.mark.sqlite

STREAMS = 3


class Front:
    """A way to the messages of a world, which counts its calls and streams."""

    def __init__(self, world: World, deadline_s: float = PATIENCE_SECONDS) -> None:
        self.world = world
        self.pipeline = CallPipeline(lambda: None, max_calls=1, max_streams=STREAMS, slow_call_s=0.5)
        services: Any = Services()
        service = MessageService(world.store, world.clock, world.signals, Entries(), deadline_s, 1000)
        message_service_pb2_grpc.add_MessageServiceServicer_to_server(service, services)
        self._messages: Any = message_service_pb2_grpc.MessageServiceStub(
            InProcessChannel(services, self.pipeline)
        )

    def send(
        self,
        one: Session,
        content: str,
        request_id: str = "",
        wait_s: float = PATIENCE_SECONDS,
        **options: Any,
    ) -> Any:
        """A call that waits."""
        wait = Duration()
        wait.FromMilliseconds(round(wait_s * 1000))
        message = pb.SendMessageRequest(
            session_id=one.id.upper(), content=content, request_id=request_id, reply_wait=wait
        )
        return self._messages.SendMessage(message, **options)

    async def wait(self, *given: Any, **options: Any) -> "asyncio.Task[pb.SendMessageResponse]":
        """A call that waits, in a task of its own; its message is stored."""

        async def call() -> pb.SendMessageResponse:
            answer: pb.SendMessageResponse = await self.send(*given, **options)
            return answer

        waiting = counted(self.pipeline)[1] + 1
        task = asyncio.create_task(call())
        await eventually(lambda: counted(self.pipeline) == (0, waiting))
        return task

    def is_free(self) -> bool:
        """Whether nothing is counted, and nobody waits."""
        return counted(self.pipeline) == (0, 0) and not self.world.signals.reply_waits.session_ids


@pytest.fixture
def agent() -> Scripted:
    return Scripted()


@pytest.fixture
async def world(tmp_path: Path, agent: Scripted) -> AsyncIterator[World]:
    world = World(tmp_path / "store.db", agent)
    await world.open()
    yield world
    await world.close()


def ending(answer: pb.SendMessageResponse) -> str:
    """How a wait ended: the kind of answer, or the reason why there is no reply."""
    kind = answer.WhichOneof("answer") or ""
    if kind == "failure":
        return errors_pb2.ErrorReason.Name(answer.failure.reason).removeprefix("ERROR_REASON_")
    return kind


async def test_the_reply_comes_with_the_message_and_no_piece_is_kept(world: World) -> None:
    front, one = Front(world), await world.session(OTHER)
    answer = await front.send(one, "how are you")
    assert (answer.message.content, answer.reply.content, answer.reply.is_agent) == (
        "how are you",
        "how are you",
        True,
    )
    assert answer.reply.sequence == answer.message.sequence + 1
    assert not world.signals.session_ids
    assert front.is_free()


@pytest.mark.parametrize(
    ("how", "ends"),
    [
        ("fail", "AGENT_REPLY_FAILED"),
        ("answer", "reply"),
        ("delete", "SESSION_NOT_FOUND"),
        ("expire", "SESSION_EXPIRED"),
        ("stop", "pending"),
        ("cancelled", ""),
    ],
)
async def test_the_end_comes_in_every_case(world: World, agent: Scripted, how: str, ends: str) -> None:
    """For the message under way, and for the one behind it."""
    failing = asyncio.Event()

    async def script(work: Work, emit: Emit) -> Reply:
        emit("half a ")
        if how == "fail":
            await failing.wait()
            raise NoReplyError("never", final=True)
        return await hang(work, emit)

    agent.script = script
    front, one = Front(world), await world.session()
    first, second = await front.wait(one, "first"), await front.wait(one, "second")
    match how:
        case "fail":
            failing.set()
        case "answer":
            for number in (1, 2):
                await world.dispatcher.answer(
                    f"{one.id}-{number}", Reply(Draft(f"to {number}")), scope=EVERYTHING
                )
        case "delete":
            await world.delete(one)
        case "expire":
            await world.expire(one)
        case "stop":
            world.signals.close()
        case "cancelled":
            for task in (first, second):
                task.cancel()
            await asyncio.wait([first, second])
            assert front.is_free()
            assert [entry.message.content for entry in await world.log(one) if entry.message] == [
                "first",
                "second",
            ]
            return
    answers = [await asyncio.wait_for(task, PATIENCE_SECONDS) for task in (first, second)]
    assert [ending(answer) for answer in answers] == [ends, ends]
    assert [answer.message.content for answer in answers] == ["first", "second"]
    if how == "answer":
        assert [answer.reply.content for answer in answers] == ["to 1", "to 2"]
    if how == "fail":
        sent = answers[0].message.message_id
        assert answers[0].failure.details == {"sessionId": one.id, "messageId": sent, "reason": "never"}
    assert front.is_free()


@pytest.mark.parametrize(
    ("deadline_s", "options"),
    [(PATIENCE_SECONDS, {"wait_s": 0.05}), (0.05, {}), (PATIENCE_SECONDS, {"timeout": 0.6})],
    ids=["reply_wait", "REPLY_DEADLINE_SECONDS", "the call's own deadline"],
)
async def test_the_earliest_end_of_the_wait_counts(
    world: World, agent: Scripted, deadline_s: float, options: dict[str, float]
) -> None:
    agent.script = hang
    front, one = Front(world, deadline_s), await world.session()
    answer = await front.send(one, "hello", **options)
    assert ending(answer) == "pending"
    (kept,) = [entry.message for entry in await world.log(one) if entry.message]
    assert kept.id == answer.message.message_id
    assert front.is_free()


async def test_a_service_that_has_begun_to_stop_waits_for_nothing(world: World, agent: Scripted) -> None:
    agent.script = hang
    front, one = Front(world), await world.session()
    world.signals.close()
    assert ending(await front.send(one, "hello")) == "pending"


async def _leave(world: World, one: Session) -> None:
    pass


@pytest.mark.parametrize("meanwhile", [_leave, World.expire])
async def test_a_message_that_is_repeated_has_the_reply_that_is_stored(
    world: World, meanwhile: Callable[[World, Session], Awaitable[None]]
) -> None:
    """Also where the session has expired since."""
    front, one = Front(world), await world.session(OTHER)
    first = await front.send(one, "hello", "again")
    await meanwhile(world, one)
    again = await front.send(one, "hello", "again")
    assert (first.replayed, again.replayed) == (False, True)
    assert (again.message, again.reply) == (first.message, first.reply)


async def test_a_message_that_is_repeated_after_its_session_has_expired_says_so(
    world: World, agent: Scripted
) -> None:
    agent.script = hang
    front, one = Front(world), await world.session()
    await front.send(one, "hello", "again", wait_s=0.01)
    await world.expire(one)
    assert ending(await front.send(one, "hello", "again")) == "SESSION_EXPIRED"
    assert front.is_free()


async def test_a_message_that_is_repeated_waits_for_the_reply_that_is_to_come(
    world: World, agent: Scripted
) -> None:
    gate = asyncio.Event()

    async def script(work: Work, emit: Emit) -> Reply:
        await gate.wait()
        return Reply(Draft("hi"))

    agent.script = script
    front, one = Front(world), await world.session()
    waiting = [await front.wait(one, "hello", "again") for _ in range(STREAMS)]
    gate.set()
    answers = [await asyncio.wait_for(task, PATIENCE_SECONDS) for task in waiting]
    assert [answer.reply.content for answer in answers] == ["hi"] * STREAMS
    assert len({answer.reply.message_id for answer in answers}) == len(agent.asked) == 1
    assert front.is_free()


async def test_the_id_of_the_message_comes_as_soon_as_it_is_stored(world: World, agent: Scripted) -> None:
    agent.script = hang
    front, one = Front(world), await world.session()
    call = front.send(one, "hello", wait_s=0.1)
    answering = asyncio.ensure_future(call)
    told = (await call.initial_metadata())[MESSAGE_ID_KEY]
    assert not answering.done()
    assert told == (await answering).message.message_id


async def test_a_wait_takes_a_stream_and_no_call(world: World, agent: Scripted) -> None:
    """One more is refused before it stores anything; a long wait is no slow call."""
    agent.script = hang
    front, one = Front(world), await world.session()
    with structlog.testing.capture_logs() as lines:
        waiting = [await front.wait(one, "hello", wait_s=1) for _ in range(STREAMS)]
        with pytest.raises(AioRpcError) as raised:
            await front.send(one, "one too many")
        info = error_info(raised.value)
        assert info is not None
        assert info.reason == "OVERLOADED"
        assert [ending(await task) for task in waiting] == ["pending"] * STREAMS
    contents = [entry.message.content for entry in await world.log(one) if entry.message]
    assert contents == ["hello"] * STREAMS
    assert [line for line in lines if line["event"] == "slow call"] == []
    assert front.is_free()


@pytest.mark.parametrize(
    ("end", "reason"),
    [(World.expire, "SESSION_EXPIRED"), (World.delete, "SESSION_NOT_FOUND"), (_leave, "INVALID_FIELD")],
)
async def test_a_wait_of_less_than_nothing_is_refused_after_what_the_session_says(
    world: World, end: Callable[[World, Session], Awaitable[None]], reason: str
) -> None:
    front, one = Front(world), await world.session()
    await end(world, one)
    with pytest.raises(AioRpcError) as raised:
        await front.send(one, "hello", wait_s=-0.001)
    info = error_info(raised.value)
    assert info is not None
    assert info.reason == reason
    assert info.metadata.get("field") == ("reply_wait" if end is _leave else None)
    assert front.is_free()


async def test_a_message_that_is_refused_is_not_waited_for(world: World) -> None:
    front, one = Front(world), await world.session()
    with pytest.raises(AioRpcError):
        await front.send(one, "")
    assert front.is_free()


async def test_many_waits_of_a_session_that_ends_are_told_in_several_turns(
    world: World, agent: Scripted
) -> None:
    waits = world.signals.reply_waits
    one = await world.session()
    joined = [waits.join(one.id, f"message {number}") for number in range(50)]
    told: list[int] = []
    tasks = [asyncio.create_task(_count(wait, told)) for wait in joined]
    await asyncio.sleep(0)
    await world.delete(one)
    most = 0
    while len(told) < len(joined):
        before = len(told)
        await asyncio.sleep(0)
        most = max(most, len(told) - before)
    assert most <= 20
    await asyncio.gather(*tasks)
    assert not waits.session_ids


async def _count(wait: Any, told: list[int]) -> None:
    await wait.answer(PATIENCE_SECONDS)
    told.append(1)
    wait.close()


async def test_a_short_deadline_is_half_spent_on_the_wait(world: World) -> None:
    front, one = Front(world), await world.session(OTHER)
    answer = await front.send(one, "how are you", timeout=ANSWER_SECONDS)
    assert ending(answer) == "reply"
