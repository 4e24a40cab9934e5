"""Who is in a room when sockets join, leave and go in any order, against a server that answers late, refuses
and forgets.
"""

import asyncio
import random
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import grpc.aio
import pytest

from eliza.sessions.v1 import errors_pb2
from eliza.sessions.v1.session_pb2 import Session
from eliza.sessions.v1.session_service_pb2 import WatchSessionsRequest, WatchSessionsResponse
from rest_facade.front_door.answers import Answers
from rest_facade.shapes.errors import ApiError
from rest_facade.socketio.rooms import Rooms
from rest_facade.socketio.sockets import Sockets
from rest_facade.upstream.backend import Backend
from tests.service.socketio.inside import events_of, io_of, joins_in, replays_in, watched_in
from tests.support.waiting import eventually

SESSIONS = [f"session-{number}" for number in range(3)]
SOCKETS = [f"socket-{number}" for number in range(4)]
EXPIRED = "expired"
SILENT = "silent"
"""A session whose join is never answered."""


class Upstream:
    """A stream of watches, and what is watched on it. It answers a little later, in order."""

    def __init__(self, rng: random.Random) -> None:
        self.watched: set[str] = set()
        self._rng = rng
        self._answers: asyncio.Queue[WatchSessionsResponse] = asyncio.Queue()
        self._is_closed = False

    async def write(self, request: WatchSessionsRequest) -> None:
        await pause(self._rng)
        answer = WatchSessionsResponse()
        if request.HasField("leave"):
            self.watched.discard(request.leave.session_id)
            answer.end.session_id = request.leave.session_id
        elif request.join.session_id == EXPIRED:
            answer.end.session_id = EXPIRED
            answer.end.reason = errors_pb2.ERROR_REASON_SESSION_EXPIRED
            answer.end.details.update(sessionId=EXPIRED, expiresAt="2026-01-01T00:00:00.000Z")
        elif request.join.session_id != SILENT:
            self.watched.add(request.join.session_id)
            answer.joined.session.session_id = request.join.session_id
            answer.joined.after_sequence = 7
        if answer.WhichOneof("event"):
            self._answers.put_nowait(answer)

    async def read(self) -> Any:
        await pause(self._rng)
        return grpc.aio.EOF if self._is_closed else await self._answers.get()

    def cancel(self) -> None:
        self._is_closed = True
        self.watched.clear()

    def done(self) -> bool:
        return self._is_closed


class Server:
    """What rooms need of the backend. The first stream is that of all rooms."""

    def __init__(self, rng: random.Random) -> None:
        self.deadline_seconds = 0.05
        self.answers = Answers()
        self.streams: list[Upstream] = []
        self._rng = rng

    def watch(self, _metadata: object) -> Upstream:
        self.streams.append(Upstream(self._rng))
        return self.streams[-1]


async def pause(rng: random.Random) -> None:
    for _ in range(rng.randrange(4)):
        await asyncio.sleep(0)


async def nothing(*_arguments: object) -> None:
    pass


@pytest.mark.parametrize("seed", range(40))
async def test_rooms_end_empty(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(seed)
    server = Server(rng)
    outlet = SimpleNamespace(emit=nothing, is_full=lambda _: False, wait_until_flushed=nothing)
    rooms = Rooms(cast(Backend, server), outlet, (), lambda: None)
    gone: set[str] = set()

    async def welcome(session: Session) -> None:
        await pause(rng)
        if rng.random() < 0.1:
            raise ApiError("UNAVAILABLE", "The session service is out of reach", retryAfterSeconds=1)

    async def join(socket_id: str, session_id: str) -> None:
        if socket_id in gone:
            return
        with suppress(ApiError):
            await rooms.join(socket_id, session_id, session_id, rng.choice([None, 0, 7]), welcome, ())

    tasks: list[asyncio.Task[None]] = []
    for _ in range(60):
        await pause(rng)
        present = [socket_id for socket_id in SOCKETS if socket_id not in gone]
        if not present:
            break
        socket_id, session_id = rng.choice(present), rng.choice([*SESSIONS, *SESSIONS, EXPIRED, SILENT])
        match rng.choice(["join", "join", "join", "leave", "cancel", "forget"]):
            case "join":
                tasks.append(asyncio.create_task(join(socket_id, session_id)))
            case "leave":
                rooms.leave(socket_id, session_id)
            case "cancel" if tasks:
                rng.choice(tasks).cancel()
            case "forget" if rng.random() < 0.3:
                gone.add(socket_id)
                rooms.forget(socket_id)
    for socket_id in SOCKETS:
        await pause(rng)
        gone.add(socket_id)
        rooms.forget(socket_id)
    await asyncio.gather(*tasks, return_exceptions=True)
    # The join that nobody has answered is the server's to answer: its watch ends with that.
    await eventually(lambda: watched_in(rooms).keys() <= {SILENT}, lambda: watched_in(rooms))
    await eventually(lambda: not replays_in(rooms), lambda: replays_in(rooms))
    await eventually(
        lambda: not any(stream.watched for stream in server.streams),
        lambda: [one.watched for one in server.streams],
    )
    assert joins_in(rooms) == {}
    assert [watched.members for watched in watched_in(rooms).values() if watched.members] == []
    rooms.close()
    assert caplog.records == []


async def test_a_socket_that_goes_while_it_joins_is_no_member() -> None:
    for after in (None, 0):
        rng = random.Random(1)
        server = Server(rng)
        rooms = Rooms(
            cast(Backend, server),
            SimpleNamespace(emit=nothing, is_full=lambda _: False, wait_until_flushed=nothing),
            (),
            lambda: None,
        )
        welcomed, gone = asyncio.Event(), asyncio.Event()

        async def welcome(_: Session, welcomed: asyncio.Event = welcomed, gone: asyncio.Event = gone) -> None:
            welcomed.set()
            await gone.wait()

        joining = asyncio.create_task(rooms.join("one", SESSIONS[0], SESSIONS[0], after, welcome, ()))
        await welcomed.wait()
        rooms.forget("one")
        gone.set()
        await joining
        await eventually(lambda rooms=rooms: rooms.is_idle, lambda rooms=rooms: watched_in(rooms))
        await eventually(
            lambda server=server: not any(stream.watched for stream in server.streams),
            lambda: "a watch is left",
        )
        rooms.close()


async def test_a_socket_that_goes_while_its_session_is_looked_up_does_not_join(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server(random.Random(1))
    sockets = Sockets(cast(Backend, server), 1000)
    manager, events = io_of(sockets).manager, events_of(sockets)
    socket_id = await manager.connect("a connection", "/")
    sockets.callers.add(socket_id, ())
    looking, found = asyncio.Event(), asyncio.Event()

    async def session_id(room_id: str, _metadata: object) -> str:
        looking.set()
        await found.wait()
        return room_id

    monkeypatch.setattr(events, "find_session", session_id)
    joining = asyncio.create_task(events.join(socket_id, {"roomId": SESSIONS[0]}))
    await looking.wait()
    # As the library does when a connection ends.
    manager.pre_disconnect(socket_id, "/")
    await sockets._disconnect(socket_id)
    await manager.disconnect(socket_id, "/")
    found.set()
    await joining
    assert sockets.callers.is_idle
