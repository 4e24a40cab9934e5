"""What the metrics tell of a store."""

from collections.abc import Iterable

from server.domain.access import EVERYTHING
from server.store.contract import Store
from server.telemetry.telemetry import Reading


async def read_store_gauges(store: Store) -> Iterable[Reading]:
    """How many sessions there are, and how large the store is. Raises the store's errors."""
    counts, sizes = await store.counts(scope=EVERYTHING), await store.measure()
    ahead, free = sizes.wal_bytes, sizes.free_bytes
    known = [] if ahead is None else [Reading("eliza_store_bytes", ahead, ("wal",))]
    known += [] if free is None else [Reading("eliza_store_free_bytes", free)]
    return [
        Reading("eliza_live_sessions", counts.active),
        Reading("eliza_expiring_sessions", counts.expiring_soon),
        Reading("eliza_store_bytes", sizes.data_bytes, ("data",)),
        *known,
    ]
