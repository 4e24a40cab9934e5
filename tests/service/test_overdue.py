"""A start on a store in which very much is overdue: the service answers before all of it is written."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from eliza.sessions.errors import error_info
from eliza.sessions.v1 import session_service_pb2, session_service_pb2_grpc
from server.clock import SystemClock
from server.domain.access import EVERYTHING
from server.domain.sessions import Outcome, Session
from server.domain.timeouts import PartialTimeoutConfig
from server.lifecycle.expiry import BATCH, ExpiryScheduler
from server.service import Service
from server.settings import Settings
from server.store.contract import Store
from tests.store.conformance.common import say
from tests.support.service import store_fields
from tests.support.stores import open_here, store_class
from tests.support.waiting import PATIENCE_SECONDS
from tests.unit.samples import MINUTE, put, session


async def overdue_store(directory: Path, count: int) -> list[Session]:
    """Makes a store whose sessions should have expired an hour ago, each with a message that nobody has
    answered, but one that lives.
    """
    clock = SystemClock()
    store = await open_here(directory, clock)
    start_ms = clock.now_ms() - 90 * MINUTE
    old = [session(start_ms, PartialTimeoutConfig(timeout_minutes=30.0)) for _ in range(count)]
    live = session(clock.now_ms())
    await asyncio.gather(*map(partial(put, store), [*old, live]))
    await asyncio.gather(
        *(store.apply(one.id, lambda start, _: say()(start, start_ms), scope=EVERYTHING) for one in old)
    )
    await store.close()
    return [*old, live]


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[Service]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        service = await Service.start(Settings(**store_fields(directory), grpc_address="127.0.0.1:0"))
    try:
        yield service
    finally:
        await service.stop(asyncio.get_running_loop().time())


async def test_it_listens_before_the_overdue_sessions_have_expired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, live = await overdue_store(tmp_path, 1)
    back_end = store_class()
    goes_on, apply_due, leased = asyncio.Event(), back_end.apply_due, []

    async def hold(self: Store, *arguments: Any) -> int:
        await goes_on.wait()
        return await apply_due(self, *arguments)

    def note(outcomes: list[Outcome]) -> None:
        # That a delivery is put off writes it, too, and charges no attempt.
        deliveries = [outcome.delivery for outcome in outcomes if outcome.delivery]
        leased.extend(one for one in deliveries if one.attempts or one.due_at_ms is None)

    monkeypatch.setattr(back_end, "apply_due", hold)
    async with served(tmp_path) as service:
        store = service._store
        store.add_listener(lambda commit: note(commit.outcomes))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
            sessions = session_service_pb2_grpc.SessionServiceStub(channel)
            call = partial(
                sessions.RenewSession, session_service_pb2.RenewSessionRequest(session_id=live.id), timeout=10
            )
            assert (await call()).session.session_id == live.id
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await sessions.GetSession(
                    session_service_pb2.GetSessionRequest(session_id=one.id), timeout=10
                )
            assert error_info(raised.value).reason == "SESSION_EXPIRED"
            page = await sessions.ListSessions(session_service_pb2.ListSessionsRequest(), timeout=10)
            assert [found.session_id for found in page.sessions] == [live.id]
            assert not (await store.get_session(one.id, scope=EVERYTHING)).expiry_logged
            goes_on.set()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not (await store.get_session(one.id, scope=EVERYTHING)).expiry_logged:  # noqa: ASYNC110 - nothing tells
                    await asyncio.sleep(0.01)
        # Its message went to no agent meanwhile.
        assert leased == []


async def test_others_write_between_the_batches_of_what_is_overdue(tmp_path: Path) -> None:
    *old, live = await overdue_store(tmp_path, 3 * BATCH)
    clock = SystemClock()
    store = await open_here(tmp_path, clock)
    batches: list[int] = []
    store.add_listener(
        lambda commit: batches.append(sum(outcome.session.expiry_logged for outcome in commit.outcomes))
    )
    falling = asyncio.create_task(ExpiryScheduler(store, clock).run_due())
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not batches:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
    await store.apply(live.id, say("between"), scope=EVERYTHING)
    assert sum(batches) < len(old)
    await falling
    assert sum(batches) == len(old)
    assert max(batches) <= BATCH
    await store.close()
