"""How many requests are worked on at a time, with an app that the test holds."""

import asyncio
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import greenback
import pytest

from rest_facade import admission
from rest_facade.admission import ACTIVE_REQUESTS, Admission, Places
from rest_facade.bridge import Bridge

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
        greenback.await_(self.let_go.wait())
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
