"""Groups of writes are traced as SQLite's are: once each, with the spans of their calls."""

import asyncio
from collections.abc import Sequence

import pytest

from server.domain.access import EVERYTHING
from server.domain.errors import UnavailableError
from server.store.postgres.place import Place
from server.store.postgres.store import PostgresStore
from server.telemetry.traces import Traces
from tests.store.conformance.common import say
from tests.store.postgres.opened import writer_held
from tests.support.inside_postgres import first_lane, link_of
from tests.support.postgres import free_port
from tests.unit.samples import put, session

pytestmark = pytest.mark.postgres


class Told(Traces):
    """Notes the groups that it is told of. `span` is what is traced now."""

    is_on = True
    span: object = None

    def __init__(self) -> None:
        self.groups: list[tuple[list[object], int, bool]] = []

    def current(self) -> object:
        return self.span

    def end_group(
        self, parents: Sequence[object], size: int, begun_ns: int, ended_ns: int, *, has_failed: bool
    ) -> None:
        assert 0 < begun_ns <= ended_ns
        self.groups.append((list(parents), size, has_failed))


async def test_a_group_is_told_once_with_the_spans_of_its_calls(database: str) -> None:
    traces = Told()
    store = await PostgresStore.open(Place(database), traces=traces)
    one = session()
    await put(store, one)
    async with writer_held(store, database):
        calls = []
        for name in ("a", "b", None):
            traces.span = name
            calls.append(asyncio.ensure_future(store.apply(one.id, say(), scope=EVERYTHING)))
            await asyncio.sleep(0)
        traces.span = None
    await asyncio.gather(*calls)
    await store.close()
    # With the deletion of the session that held it up.
    assert (["a", "b"], 4, False) in traces.groups


async def test_a_group_that_could_not_be_written_is_told_as_failed(database: str) -> None:
    traces = Told()
    store = await PostgresStore.open(Place(database, wait_s=0), traces=traces)
    link_of(first_lane(store)).place = Place(f"postgresql://eliza@127.0.0.1:{free_port()}/x", wait_s=0)
    with pytest.raises(UnavailableError):
        await put(store, session())
    await store.close()
    assert traces.groups == [([], 1, True)]


async def test_what_fails_to_trace_holds_up_nobody(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    traces = Told()
    store = await PostgresStore.open(Place(database), traces=traces)
    monkeypatch.setattr(traces, "end_group", None)
    for _ in range(2):
        await put(store, session())
    await store.close()
