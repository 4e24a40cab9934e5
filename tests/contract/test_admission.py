"""How many requests are worked on at a time, how many begin in a turn of the loop, which are refused, and how
many connections are accepted in a turn.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import uvloop

from rest_facade.front_door import admission
from rest_facade.front_door.admission import (
    ACTIVE_REQUESTS,
    STARTED_PER_TURN,
    STARTED_SECONDS,
    Admission,
)
from rest_facade.main import ACCEPTED_AT_ONCE, duplicate_listener
from tests.support.waiting import PATIENCE_SECONDS


class Request:
    """A request that notes what becomes of it."""

    def __init__(self, name: str, told: list[str], over: asyncio.Event | None = None) -> None:
        """`over`: until when it has to wait."""
        self._name, self._told, self._over = name, told, over

    async def run(self, on_wait: Callable[[], None]) -> None:
        self._told.append(self._name)
        if self._over:
            on_wait()
            await self._over.wait()
            self._told.append(f"{self._name} is over")

    def refuse(self) -> None:
        self._told.append(f"{self._name} refused")


async def fill(door: Admission, told: list[str], count: int = ACTIVE_REQUESTS) -> None:
    """Has so many requests be worked on."""
    for number in range(count):
        door.add(Request(f"busy {number}", told))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(told) < count:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
    told.clear()


async def turn() -> None:
    """Lets the loop take some turns, in which whoever has its turn begins."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_only_so_many_begin_in_a_turn_of_the_loop_in_the_order_in_which_they_came() -> None:
    door, told = Admission(1000), []
    turns: list[int] = []
    for number in range(20):
        door.add(Request(str(number), told))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(told) < 20:
            before = len(told)
            await asyncio.sleep(0)
            turns.append(len(told) - before)
    assert told == [str(number) for number in range(20)]
    assert max(turns) == STARTED_PER_TURN


async def test_a_request_that_takes_long_has_its_turn_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)

    class Long(Request):
        async def run(self, on_wait: Callable[[], None]) -> None:
            nonlocal now_s
            await super().run(on_wait)
            now_s += STARTED_SECONDS

    door, told = Admission(1000), []
    for name in ("one", "two", "three"):
        door.add(Long(name, told))
    turns = []
    for _ in range(5):
        await asyncio.sleep(0)
        turns.append(len(told))
    assert turns == [1, 2, 3, 3, 3]


async def test_a_request_that_waits_holds_up_nobody() -> None:
    door, told, over = Admission(1000), [], asyncio.Event()
    for name in ("one", "two"):
        door.add(Request(name, told, over))
    door.add(Request("three", told))
    await turn()
    assert told == ["one", "two", "three"]
    over.set()
    await turn()
    assert told[3:] == ["one is over", "two is over"]
    door.add(Request("four", told))
    await turn()
    assert told[5:] == ["four"]


async def test_only_so_many_are_worked_on_and_none_whose_client_has_gone_before_its_turn() -> None:
    door, told = Admission(1000), []
    await fill(door, told)
    goes, stays = Request("goes", told), Request("stays", told)
    door.add(goes)
    door.add(stays)
    # Health waits for nobody.
    door.add_exempt(Request("health", told))
    await turn()
    assert (told, door.taken) == (["health"], ACTIVE_REQUESTS + 2)
    door.remove(goes)
    door.end()
    await turn()
    assert (told, door.taken) == (["health", "stays"], ACTIVE_REQUESTS)


async def test_beyond_the_bound_requests_are_refused_until_there_is_room() -> None:
    door, told = Admission(2), []
    await fill(door, told, 2)
    assert door.is_full
    door.add(Request("late", told))
    assert told == ["late refused"]
    door.end()
    assert not door.is_full
    door.add(Request("later", told))
    await turn()
    assert told == ["late refused", "later"]


async def test_behind_a_queue_that_is_not_worked_off_requests_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "QUEUE_SECONDS", -1)
    door, told = Admission(1000), []
    # However long they wait, while they are few.
    for number in range(ACTIVE_REQUESTS):
        door.add(Request(f"busy {number}", told))
    assert told == []
    assert door.is_full
    door.add(Request("late", told))
    assert told == ["late refused"]
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(told) < 1 + ACTIVE_REQUESTS:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
    # Nobody waits any more.
    assert not door.is_full


async def test_only_so_many_are_refused_in_a_tick_and_none_whose_client_has_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "REFUSED_PER_TICK", 2)
    monkeypatch.setattr(admission, "TICK_SECONDS", 0.01)
    door, told = Admission(0), []
    requests = [Request(str(number), told) for number in range(5)]
    for request in requests:
        door.add(request)
    assert told == ["0 refused", "1 refused"]
    door.remove(requests[2])
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(told) < 4:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)
    assert told == ["0 refused", "1 refused", "3 refused", "4 refused"]


async def test_who_waits_too_long_for_a_turn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "TURN_SECONDS", 0.01)
    door, told = Admission(1000), []
    await fill(door, told)
    door.add(Request("one", told))
    door.add(Request("two", told))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(told) < 2:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)
    assert (told, door.taken) == (["one refused", "two refused"], ACTIVE_REQUESTS)


def test_many_connections_are_accepted_in_a_turn_of_the_loop() -> None:
    accepted = 0

    class Accepted(asyncio.Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            nonlocal accepted
            accepted += 1
            transport.abort()

    async def turns(listeners: list[socket.socket], clients: list[socket.socket]) -> int:
        """How many turns of the loop it takes to accept all clients."""
        nonlocal accepted
        accepted = count = 0
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(Accepted, sock=one, backlog=len(clients)) for one in listeners]
        for client in clients:
            client.connect(listeners[0].getsockname())
        async with asyncio.timeout(PATIENCE_SECONDS):
            while accepted < len(clients):
                await asyncio.sleep(0)
                count += 1
        for server in servers:
            server.close()
            await server.wait_closed()
        return count

    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(4 * ACCEPTED_AT_ONCE)]
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        # In another process, which accepts already, it must not block.
        listener.setblocking(False)
        with socket.socket(fileno=os.dup(listener.fileno())) as inherited:
            more = duplicate_listener(inherited)
            assert not any(os.get_blocking(one.fileno()) for one in more)
            for one in more:
                one.close()
        assert uvloop.run(turns(duplicate_listener(listener), clients)) < len(clients) / 4
