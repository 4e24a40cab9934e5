"""The store itself, and its end."""

import asyncio

import pytest

from server.domain.access import EVERYTHING
from server.domain.errors import SessionExpiredError, UnavailableError
from server.domain.sessions import Session, require_live
from server.store.contract import Store
from tests.store.conformance.common import CALLS, MANY, OnStore, say
from tests.unit.samples import T0, put, session


class Closing(OnStore):
    def test_every_method_is_tried_when_closed(self) -> None:
        assert {*CALLS, "add_listener", "close"} == Store.__abstractmethods__

    async def test_check_writable_changes_nothing(self, store: Store, one: Session) -> None:
        assert await store.check_writable() is None
        assert await store.get_session(one.id, scope=EVERYTHING) == one

    async def test_close_finishes_the_writes_that_were_accepted(self, store: Store, one: Session) -> None:
        tasks = [
            asyncio.ensure_future(store.apply(one.id, say(f"{n}"), scope=EVERYTHING)) for n in range(MANY)
        ]
        await asyncio.sleep(0)
        await self.close(store)
        results = await asyncio.gather(*tasks)
        assert [result.entry.sequence for result in results] == list(range(1, MANY + 1))

    @pytest.mark.parametrize("name", CALLS)
    async def test_a_closed_store_is_unavailable(self, store: Store, one: Session, name: str) -> None:
        await self.close(store)
        with pytest.raises(UnavailableError):
            await CALLS[name](store, one)

    async def test_a_count_has_seen_all_that_was_written_before_it(self, store: Store) -> None:
        async def create_and_count() -> None:
            await put(store, session())
            written = len([counted for counted in created if counted])
            created.append(True)
            assert (await store.counts(scope=EVERYTHING)).active > written

        created: list[bool] = []
        await asyncio.gather(*(create_and_count() for _ in range(50)))
        assert (await store.counts(scope=EVERYTHING)).active == 50

    async def test_reads_that_are_under_way_when_the_store_closes_end(self, store: Store) -> None:
        """They end with what they found or as unavailable, and with nothing else."""
        await asyncio.gather(*(put(store, session(T0 + n)) for n in range(200)))
        reads = [
            asyncio.ensure_future(call)
            for _ in range(20)
            for call in (store.counts(scope=EVERYTHING), store.list_sessions(T0, limit=200, scope=EVERYTHING))
        ]
        await asyncio.sleep(0)
        await self.close(store)
        for result in await asyncio.gather(*reads, return_exceptions=True):
            assert (
                isinstance(result, UnavailableError)
                or getattr(result, "active", getattr(result, "total", 0)) == 200
            )

    async def test_live_sessions_stay_live(self, store: Store, one: Session) -> None:
        """The rules' own view of what the store gave back."""
        require_live(await store.get_session(one.id, scope=EVERYTHING), one.expires_at_ms - 1)
        with pytest.raises(SessionExpiredError):
            require_live(await store.get_session(one.id, scope=EVERYTHING), one.expires_at_ms)
