"""What is held of answers while their clients read them."""

import asyncio
from dataclasses import replace

import pytest

from eliza.sessions.v1.log_pb2 import LogEntry
from eliza.sessions.v1.session_pb2 import Session
from rest_facade.front_door import answers
from rest_facade.front_door.answers import MAX_UNSENT_BYTES, Answers
from rest_facade.routes import sse
from rest_facade.shapes.events import FollowedSession
from tests.support.waiting import PATIENCE_SECONDS

SESSION = "11111111-1111-4111-8111-111111111112"


def test_a_part_counts_once_until_the_last_client_has_it() -> None:
    held = Answers()
    part, other = b"x" * 1000, b"y" * 500
    for one in (part, part, other):
        held.hold(one)
    assert held.held_bytes == 1500
    held.let_go(part)
    assert held.held_bytes == 1500
    held.let_go(part)
    held.let_go(other)
    assert held.held_bytes == 0


async def test_nothing_is_read_while_too_much_is_held_and_then_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers, "TURN_SECONDS", PATIENCE_SECONDS)
    held = Answers()
    part = b"x" * MAX_UNSENT_BYTES
    begun: list[int] = []
    there = asyncio.Event()

    async def read(number: int) -> int:
        begun.append(number)
        await there.wait()
        return number

    async def nothing() -> None:
        raise ValueError("nothing to wait for")

    held.hold(part)
    waiting = [asyncio.create_task(held.read(lambda number=number: read(number))) for number in range(3)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    await asyncio.sleep(0)
    assert begun == []
    held.let_go(part)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not begun:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
        # The other one has its turn when this one has read.
        await asyncio.sleep(0)
        assert begun == [0]
        there.set()
        assert [await waiting[0], await waiting[2]] == [0, 2]
    assert begun == [0, 2]
    with pytest.raises(ValueError, match="nothing to wait for"):
        await held.read(nothing)


async def test_further_pages_are_read_one_after_the_other_and_others_go_on_between() -> None:
    held = Answers()
    order: list[str] = []

    async def read(name: str) -> None:
        order.append(name)
        asyncio.get_running_loop().call_soon(order.append, "another")

    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(
            *(held.read_in_turn(lambda name=name: read(name)) for name in ("one", "two", "three"))
        )
    assert order == ["one", "another", "two", "another", "three", "another"]


def test_an_event_is_written_once_for_all_who_follow_a_session() -> None:
    told = sse.Told()
    room = FollowedSession(Session(session_id=SESSION), "Echo", SESSION)

    def entry(sequence: int, content: str = "hello") -> LogEntry:
        made = LogEntry(session_id=SESSION, sequence=sequence)
        made.message.content = content
        return made

    first = told.write(entry(1), room)
    assert first.startswith(b"id: 1\n")
    assert told.write(entry(1), room) is first
    # Who calls the agent by another name is told another event.
    assert told.write(entry(1), replace(room, agent_name="Ohce")) is not first
    # Large ones push others out.
    for sequence in range(2, 10):
        told.write(entry(sequence, "x" * (sse.KEPT_BYTES // 4)), room)
    assert sum(map(len, told._kept.values())) <= sse.KEPT_BYTES
    assert told.write(entry(1), room) is not first
