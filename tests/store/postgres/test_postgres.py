"""PostgresStore keeps the contract of Store; and what its lanes do beyond that."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from server.clock import TestClock
from server.store.contract import Store
from tests.store.conformance import StoreConformance
from tests.store.postgres.opened import RowClock, open_store, writer_held
from tests.unit.samples import T0

pytestmark = pytest.mark.postgres


class OnPostgres(StoreConformance):
    @pytest.fixture
    def clock(self, database: str) -> Iterator[TestClock]:
        self.url = database
        clock = RowClock(database)
        clock.set_ms(T0)
        yield clock
        clock.close()

    async def open(self, directory: Path, clock: TestClock) -> Store:
        return await open_store(self.url)

    @asynccontextmanager
    async def held(self, store: Store) -> AsyncIterator[None]:
        async with writer_held(store, self.url):
            yield


class TestPostgresStore(OnPostgres):
    pass
