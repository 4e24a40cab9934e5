"""Event streams and programs that end with their test; a store in this process."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.clock import TestClock
from server.domain.agents import ECHO_ID
from server.domain.sessions import (
    Session,
)
from server.store.sqlite.store import SqliteStore
from tests.service.watch.event_stream import Stream
from tests.support.realtime.programs import Program
from tests.unit.samples import T0, put, session


@pytest.fixture
def stream() -> Iterator[Callable[..., Stream]]:
    """Opens streams that are closed after the test."""
    with contextlib.ExitStack() as stack:

        def opener(url: str, method: str = "GET", **options: Any) -> Stream:
            opened = Stream(url, method, **options)
            stack.callback(opened.response.close)
            return opened

        yield opener


@pytest.fixture
def programs() -> Iterator[Callable[[Program], Program]]:
    """Takes programs into its care: they are killed after the test."""
    with contextlib.ExitStack() as stack:

        def keeper(program: Program) -> Program:
            stack.callback(program.kill)
            return program

        yield keeper


@pytest.fixture
def clock() -> TestClock:
    clock = TestClock()
    clock.set_ms(T0)
    return clock


@pytest.fixture
async def store(tmp_path: Path, clock: TestClock) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "store.db", clock)
    yield store
    await store.close()


@pytest.fixture
async def one(store: SqliteStore) -> Session:
    new = session(T0, agent_id=ECHO_ID)
    await put(store, new)
    return new
