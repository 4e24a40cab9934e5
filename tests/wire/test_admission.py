"""How many requests are worked on at a time, with an app that the test holds; in which order, and how quickly, the others are refused; and
how many connections are accepted in a turn of the loop.
"""

import asyncio
import math
import os
import socket
from collections.abc import Iterable
from contextlib import ExitStack, nullcontext
from typing import Any

import pytest
import uvloop

from rest_facade import admission, protocol
from rest_facade.admission import ACTIVE_REQUESTS, Admission, Places
from rest_facade.bridge import Bridge
from rest_facade.greenlets import await_
from rest_facade.main import ACCEPTED_AT_ONCE, accepting
from rest_facade.protocol import Refusals

HANGS_SECONDS = 30


class Facade:
    """The admission before an app whose responses wait until they are let go. `begun` are the paths of the requests it has seen."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.statuses: list[int] = []
        self.let_go = asyncio.Event()
        self.places = Places(10_000)
        self._app = Admission(Bridge(self._respond, nullcontext(), 1000), self.places)  # type: ignore[arg-type] # no scope is a lifespan

    def _respond(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.begun.append(environ["PATH_INFO"])
        await_(self.let_go.wait())
        start_response("200 OK", [])
        return []

    def ask(self, path: str, gone: asyncio.Event) -> asyncio.Task[None]:
        """Makes a request, whose client is there until `gone`."""
        messages = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            self.statuses += [message["status"]] if "status" in message else []

        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "client": None,
            "server": None,
            "scheme": "http",
            "http_version": "1.1",
            "headers": [],
            "state": {},
        }
        return asyncio.ensure_future(self._app(scope, receive, send))

    async def until(self, taken: int, begun: int) -> None:
        """Waits until so many requests have places, and so many are worked on."""
        async with asyncio.timeout(HANGS_SECONDS):
            while (self.places.taken, len(self.begun)) != (taken, begun):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0)


async def test_only_so_many_are_worked_on_and_none_whose_client_has_gone_before_its_turn() -> None:
    facade = Facade()
    stays, goes = asyncio.Event(), asyncio.Event()
    tasks = [facade.ask("/busy", stays) for _ in range(ACTIVE_REQUESTS)]
    await facade.until(ACTIVE_REQUESTS, ACTIVE_REQUESTS)
    tasks += [facade.ask("/goes", goes), facade.ask("/stays", stays)]
    await facade.until(ACTIVE_REQUESTS + 2, ACTIVE_REQUESTS)
    # Health needs no place, and no turn.
    health = facade.ask("/api/messaging/sessions/health", stays)
    await facade.until(ACTIVE_REQUESTS + 2, ACTIVE_REQUESTS + 1)
    goes.set()
    facade.let_go.set()
    async with asyncio.timeout(HANGS_SECONDS):
        await asyncio.gather(health, *tasks)
    assert sorted(facade.begun) == ["/api/messaging/sessions/health", *["/busy"] * ACTIVE_REQUESTS, "/stays"]
    assert facade.statuses == [200] * (ACTIVE_REQUESTS + 2)
    assert facade.places.taken == 0


async def test_who_waits_too_long_for_a_turn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "TURN_SECONDS", 0.01)
    facade, stays = Facade(), asyncio.Event()
    tasks = [facade.ask("/busy", stays) for _ in range(ACTIVE_REQUESTS)]
    await facade.until(ACTIVE_REQUESTS, ACTIVE_REQUESTS)
    async with asyncio.timeout(HANGS_SECONDS):
        await facade.ask("/late", stays)
    assert (facade.statuses, facade.places.taken) == ([503], ACTIVE_REQUESTS)
    facade.let_go.set()
    async with asyncio.timeout(HANGS_SECONDS):
        await asyncio.gather(*tasks)
    assert "/late" not in facade.begun
    assert facade.places.taken == 0


async def test_behind_a_queue_that_is_not_worked_off_requests_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "QUEUE_SECONDS", 0)
    facade, stays = Facade(), asyncio.Event()
    tasks = [facade.ask("/busy", stays) for _ in range(ACTIVE_REQUESTS)]
    await facade.until(ACTIVE_REQUESTS, ACTIVE_REQUESTS)
    tasks.append(facade.ask("/first to wait", stays))
    await facade.until(ACTIVE_REQUESTS + 1, ACTIVE_REQUESTS)
    async with asyncio.timeout(HANGS_SECONDS):
        await facade.ask("/late", stays)
    assert (facade.statuses, facade.places.taken) == ([503], ACTIVE_REQUESTS + 1)
    facade.let_go.set()
    async with asyncio.timeout(HANGS_SECONDS):
        await asyncio.gather(*tasks)
        # Nobody waits any more.
        await facade.ask("/later", stays)
    assert facade.statuses == [503, *[200] * (ACTIVE_REQUESTS + 2)]
    assert facade.places.taken == 0


class Connection:
    """A connection whose request is to be refused, as far as `Refusals` knows one."""

    def __init__(self, name: str, told: list[str]) -> None:
        self._name, self._told = name, told

    def refuse(self) -> bool:
        if self._name == "gone":
            return False
        self._told.append(self._name)
        return True


async def test_who_waited_as_it_was_told_is_refused_before_those_who_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_TICK_COUNT", 1)
    refusals = Refusals()
    told: list[str] = []
    now_s = asyncio.get_running_loop().time()
    waited_s = now_s - protocol.RETRY_AFTER_SECONDS
    for name, refused_s in (
        ("at once", now_s),
        ("gone", now_s),
        ("impatient 1", now_s),
        ("impatient 2", now_s),
        ("patient 1", waited_s),
        ("new", -math.inf),
        ("patient 2", waited_s),
    ):
        refusals.add(Connection(name, told), refused_s)  # type: ignore[arg-type]
    assert told == ["at once"]
    async with asyncio.timeout(HANGS_SECONDS):
        while len(told) < 6:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
    # Nobody waits for ever.
    assert told == ["at once", "patient 1", "new", "impatient 1", "patient 2", "impatient 2"]


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
        async with asyncio.timeout(HANGS_SECONDS):
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
            more = accepting(inherited)
            assert not any(os.get_blocking(one.fileno()) for one in more)
            for one in more:
                one.close()
        assert uvloop.run(turns(accepting(listener), clients)) < len(clients) / 4
