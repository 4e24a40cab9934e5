"""Rooms against a real server, with sockets that are as full as a test says: what is not kept must reach also
those that catch up.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import pytest

from eliza.sessions.v1.session_pb2 import Session
from rest_facade.socketio.rooms import Rooms
from rest_facade.upstream.backend import Backend, dial
from tests.service.agents.worker import Worker, stream_agent
from tests.service.socketio.inside import watched_in
from tests.service.watch.changes import delete
from tests.support.clients import create, send
from tests.support.service import Serve
from tests.support.waiting import eventually

SOCKET = "a socket"


class Outlet:
    """One socket; while it is `full`, nothing that waits for it goes out."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.full = False
        self.waiting = 0
        self.room = asyncio.Event()

    async def emit_to_all(self, socket_ids: Sequence[str], name: str, payload: dict[str, Any]) -> None:
        self.events += [(name, payload) for _ in socket_ids]

    def is_full(self, socket_id: str) -> bool:
        return self.full

    async def wait_until_flushed(self, socket_id: str) -> None:
        self.waiting += 1
        if self.full:
            await self.room.wait()
        self.waiting -= 1

    def fill(self) -> None:
        self.full = True
        self.room.clear()

    def empty(self) -> None:
        self.full = False
        self.room.set()

    def names(self) -> list[str]:
        return [name for name, _ in self.events if name != "sessionRenewed"]


@pytest.fixture
def outlet() -> Outlet:
    return Outlet()


@pytest.fixture
async def rooms(service: Serve, outlet: Outlet) -> AsyncIterator[Rooms]:
    async with Backend(partial(dial, service.grpc), 10, 10) as backend:
        rooms = Rooms(backend, outlet, (), lambda: None)
        yield rooms
        rooms.forget(SOCKET)
        rooms.close()


async def join(rooms: Rooms, session_id: str, after: int | None = None) -> None:
    async def welcome(session: Session) -> None:
        pass

    await rooms.join(SOCKET, session_id, session_id, after, welcome, ())


async def fill(service: Serve, outlet: Outlet, session_id: str) -> None:
    """Has the socket fall behind."""
    outlet.fill()
    await asyncio.to_thread(send, service, session_id, "too much")
    await eventually(lambda: outlet.waiting)


async def test_a_socket_that_catches_up_hears_once_that_its_session_is_deleted(
    service: Serve, rooms: Rooms, outlet: Outlet
) -> None:
    session_id = create(service, stream_agent(service)).session_id
    await join(rooms, session_id)
    await fill(service, outlet, session_id)
    await asyncio.to_thread(delete, service, session_id)
    await eventually(lambda: outlet.names() == ["sessionDeleted"])
    outlet.empty()
    other = create(service).session_id
    await join(rooms, other)
    await asyncio.to_thread(send, service, other, "hi")
    await eventually(lambda: outlet.names().count("messageBroadcast") == 2)
    assert outlet.names().count("sessionDeleted") == 1
    assert session_id not in watched_in(rooms)


async def test_a_replay_that_is_cut_short_by_a_deletion_says_so_once(
    service: Serve, rooms: Rooms, outlet: Outlet
) -> None:
    """The socket's own stream tells it, or that of all; whichever comes first."""
    for _ in range(10):
        session_id = create(service, stream_agent(service)).session_id
        for number in range(3):
            await asyncio.to_thread(send, service, session_id, f"{number}")
        outlet.fill()
        await join(rooms, session_id, 0)
        await eventually(lambda: outlet.waiting or "messageBroadcast" in outlet.names())
        await asyncio.to_thread(delete, service, session_id)
        outlet.empty()
        await eventually(lambda: "sessionDeleted" in outlet.names())
        assert outlet.events[-1] == ("sessionDeleted", {"sessionId": session_id})
        assert outlet.names().count("sessionDeleted") == 1
        outlet.events.clear()


async def test_a_socket_that_fell_behind_hears_that_its_pieces_are_void(
    service: Serve, rooms: Rooms, outlet: Outlet
) -> None:
    agent_id = stream_agent(service)
    session_id = create(service, agent_id).session_id
    await join(rooms, session_id)
    with Worker(service.channel, agent_id) as worker:
        await asyncio.to_thread(send, service, session_id, "hello")
        delivery = await asyncio.to_thread(worker.next)
        worker.chunk(delivery, "half a ")
        await eventually(lambda: outlet.names() == ["messageBroadcast", "messageStreamChunk"])
        await fill(service, outlet, session_id)
        worker.fail(delivery, "not now")
        await eventually(lambda: outlet.names()[2:] == ["messageStreamAborted"])
        # Pieces that it is not sent need no taking back.
        again = await asyncio.to_thread(worker.next)
        worker.chunk(again, "half a ")
        worker.fail(again, "for good", final=True)
        outlet.empty()
        await eventually(lambda: "agentReplyFailed" in outlet.names())
    (failed,) = [payload for name, payload in outlet.events if name == "agentReplyFailed"]
    assert failed["replyMessageId"] == again.reply_message_id
