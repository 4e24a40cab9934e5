"""What the metrics tell of a store."""

from collections.abc import Iterable

from server.domain.access import EVERYTHING
from server.store.contract import Store
from server.telemetry.telemetry import Reading


async def read_store_gauges(store: Store) -> Iterable[Reading]:
    """How many sessions there are, how large the store is, and how the last commands on it ended.

    Raises the store's errors.
    """
    counts, sizes = await store.counts(scope=EVERYTHING), await store.measure()
    ahead, free = sizes.wal_bytes, sizes.free_bytes
    known = [] if ahead is None else [Reading("eliza_store_bytes", ahead, ("wal",))]
    known += [] if free is None else [Reading("eliza_store_free_bytes", free)]
    runs = (await store.last_runs())._asdict()
    return [
        Reading("eliza_live_sessions", counts.active),
        Reading("eliza_expiring_sessions", counts.expiring_soon),
        Reading("eliza_store_bytes", sizes.data_bytes, ("data",)),
        *known,
        *(
            Reading("eliza_last_run_timestamp_seconds", run.at_ms / 1000 if run else 0, (command,))
            for command, run in runs.items()
        ),
        *(
            Reading("eliza_last_run_good", int(run is None or run.is_good), (command,))
            for command, run in runs.items()
        ),
    ]
