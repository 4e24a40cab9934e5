"""A store in dictionaries keeps the contract by `server.store.batch` alone: that half of a store knows no
database.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from server.clock import TestClock
from server.store.contract import Store
from tests.store.conformance import StoreConformance
from tests.store.memory_store import MemoryStore


class TestMemoryStore(StoreConformance):
    async def open(self, directory: Path, clock: TestClock) -> Store:
        return MemoryStore(clock)

    @asynccontextmanager
    async def held(self, store: MemoryStore) -> AsyncIterator[None]:
        with store.held():
            yield
