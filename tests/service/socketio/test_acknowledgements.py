"""Whoever sends a message is told what became of it: also instead of an answer to a ping, and at a stop."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rest_facade.socketio.sockets import Sockets
from rest_facade.upstream.backend import Backend
from tests.service.socketio.inside import events_of, io_of
from tests.support.waiting import PATIENCE_SECONDS, eventually

MESSAGE = "42" + json.dumps(["2", {"roomId": "a room", "message": "Hello"}])


class Server:
    """A server that stores messages once it may."""

    def __init__(self) -> None:
        self.stored = 0
        self.may_store = asyncio.Event()
        self.sessions = SimpleNamespace(GetSession=self._get)
        self.messages = SimpleNamespace(SendMessage=self._store)

    async def ask(self, method: Any, _request: object, _metadata: object) -> Any:
        return await method()

    async def _get(self) -> Any:
        return SimpleNamespace(session=SimpleNamespace(session_id="a session"))

    async def _store(self) -> Any:
        self.stored += 1
        await self.may_store.wait()
        return SimpleNamespace(message=SimpleNamespace(message_id="a message"))


class WebSocket:
    """A client that is connected, and has not answered its last ping."""

    def __init__(self, sockets: Sockets) -> None:
        self.told: list[str] = []
        self.is_closed = False
        self.sockets = sockets
        self._frames: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._frames.put_nowait({"type": "websocket.connect"})
        self.send("40")

    def send(self, text: str) -> None:
        self._frames.put_nowait({"type": "websocket.receive", "text": text})

    def leave(self) -> None:
        self._frames.put_nowait({"type": "websocket.disconnect", "code": 1001})

    @property
    def transport(self) -> Any:
        (transport,) = io_of(self.sockets).eio.sockets.values()
        return transport

    def wait_long(self) -> None:
        """Has the time pass that it may take to answer the ping."""
        self.transport.last_ping -= 2 * io_of(self.sockets).eio.ping_timeout

    async def serve(self) -> None:
        scope = {
            "type": "websocket",
            "path": "/socket.io/",
            "query_string": b"EIO=4&transport=websocket",
            "headers": [(b"connection", b"upgrade"), (b"upgrade", b"websocket")],
            "state": {},
        }
        await self.sockets.app(scope, self._frames.get, self._take)

    async def _take(self, message: dict[str, Any]) -> None:
        self.told.append(message.get("text", ""))
        self.is_closed |= message["type"] == "websocket.close"

    async def hear(self, text: str) -> None:
        """Waits until it is told something. Fails where it is closed before."""
        await eventually(
            lambda: self.is_closed or any(text in told for told in self.told), lambda: (text, self.told)
        )
        assert any(text in told for told in self.told), self.told


@asynccontextmanager
async def pinged(server: Server) -> AsyncIterator[WebSocket]:
    """A client that has not answered its last ping."""
    sockets = Sockets(cast(Backend, server), 1000)
    io_of(sockets).eio.ping_interval = 0
    client = WebSocket(sockets)
    serving = asyncio.create_task(client.serve())
    await client.hear("connection_established")
    await eventually(lambda: "2" in client.told, lambda: client.told)
    yield client
    client.leave()
    await serving
    await io_of(sockets).eio.shutdown()


async def test_who_sends_something_instead_of_an_answer_is_told_what_became_of_it() -> None:
    server = Server()
    server.may_store.set()
    async with pinged(server) as client:
        client.wait_long()
        client.send(MESSAGE)
        await client.hear("messageAck")
        assert not client.transport.closed
        pings = client.told.count("2")
        client.send("3")
        await eventually(lambda: client.told.count("2") > pings, lambda: client.told)


@pytest.mark.parametrize("is_checked", [False, True])
async def test_an_answer_is_not_missed_while_the_client_waits_for_ours(is_checked: bool) -> None:
    server = Server()
    async with pinged(server) as client:
        client.send(MESSAGE)
        client.send("3")
        await eventually(lambda: server.stored)
        client.wait_long()
        if is_checked:
            # As the library does with all connections, in turn.
            assert await client.transport.check_ping_timeout()
        server.may_store.set()
        await client.hear("messageAck")
        assert not client.is_closed


async def test_who_answers_nothing_ends() -> None:
    server = Server()
    server.may_store.set()
    async with pinged(server) as client:
        client.send(MESSAGE)
        await client.hear("messageAck")
        client.wait_long()
        assert not await client.transport.check_ping_timeout()
        await eventually(lambda: client.is_closed)


async def test_a_stop_waits_for_the_answer_to_a_message_under_way() -> None:
    server = Server()
    async with pinged(server) as client:
        client.send(MESSAGE)
        await eventually(lambda: server.stored)
        closing = asyncio.create_task(client.sockets.close(PATIENCE_SECONDS))
        server.may_store.set()
        await closing
        assert any("messageAck" in told for told in client.told)


async def test_a_stop_does_not_wait_for_those_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    refusing, stopped = asyncio.Event(), asyncio.Event()

    async def refuse(*_: object) -> None:
        refusing.set()
        await stopped.wait()

    async with pinged(Server()) as client:
        events = events_of(client.sockets)
        events.is_stopping = True
        # As if one client after the other were being refused.
        monkeypatch.setattr(events, "_emit", refuse)
        client.send(MESSAGE)
        await refusing.wait()
        closing = asyncio.create_task(client.sockets.close(10 * PATIENCE_SECONDS))
        try:
            await eventually(closing.done)
        finally:
            stopped.set()
