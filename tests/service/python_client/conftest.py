"""Both clients, as one: a test holds for each."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import cache
from inspect import isasyncgen, iscoroutine
from typing import Any

import pytest

from eliza_sessions_client import AsyncClient, Client


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


class Blocking:
    """The asynchronous client with the manners of the other one. Its loop runs in a thread, for all tests."""

    def __init__(self, address: str, **options: Any) -> None:
        self._loop = _loop()
        self._client = self._run(self._make(address, options))

    @staticmethod
    async def _make(address: str, options: dict[str, Any]) -> AsyncClient:
        return AsyncClient(address, **options)

    def _run(self, awaitable: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(awaitable, self._loop).result(60)

    def _iterate(self, items: Any) -> Iterator[Any]:
        try:
            while (item := self._run(anext(items, None))) is not None:
                yield item
        finally:
            self._run(items.aclose())

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            given = method(*args, **kwargs)
            if isasyncgen(given):
                return self._iterate(given)
            return self._run(given) if iscoroutine(given) else given

        return call

    def close(self) -> None:
        self._run(self._client.close())


Connect = Callable[..., Client]
"""The fixture `connect`, which makes a client."""

KINDS: Any = {"sync": Client, "async": Blocking}


@pytest.fixture
def opened() -> Iterator[list[Any]]:
    """The clients of a test, which are closed at its end."""
    clients: list[Any] = []
    yield clients
    for client in clients:
        client.close()


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def connect(request: pytest.FixtureRequest, opened: list[Any]) -> Connect:
    """Makes clients of one kind: `connect(address, timeout=5)`."""

    def make(address: str, **options: Any) -> Any:
        opened.append(request.param(address, **options))
        return opened[-1]

    return make


@pytest.fixture
def connect_both(opened: list[Any]) -> Callable[[str], list[Client]]:
    """Makes a client of each kind, for tests that start services of their own."""

    def make(address: str) -> list[Client]:
        made = [kind(address) for kind in KINDS.values()]
        opened.extend(made)
        return made

    return make
