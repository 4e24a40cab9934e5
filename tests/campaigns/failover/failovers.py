"""The primary is killed under load and its synchronous standby promoted; the old primary comes back as a
standby.
"""

import asyncio
import random
import time

from tests.campaigns.failover.pair import Pair
from tests.campaigns.failover.service_load import Report, ServiceLoad, endure_served

LONGEST_LAG_SECONDS = 0.5
"""For how long the standby has received nothing, at most, when the primary is killed; every second time."""


async def fail_over_at_random(
    times: int, seed: int, *, is_synchronous: bool = True, senders: int = 6, **settings: str
) -> Report:
    """Kills the primary so often. Where commits do not wait for the standby, that loses something.

    `settings`: of both servers of the database.
    """
    choose = random.Random(seed)
    pair = await asyncio.to_thread(lambda: Pair(is_synchronous=is_synchronous, **settings))

    async def trouble(load: ServiceLoad) -> None:
        for number in range(times):
            await load.until_all_served()
            if not load.is_sound():
                return
            await asyncio.sleep(choose.random())
            lag_seconds = 0.0 if number % 2 else choose.uniform(0.1, LONGEST_LAG_SECONDS)
            killed_s = await asyncio.to_thread(lambda lag=lag_seconds: pair.fail_over(lag_seconds=lag))
            load.report.troubles[
                "primaries killed while the standby lags" if lag_seconds else "primaries killed"
            ] += 1
            promoted_s = time.monotonic() - killed_s
            copying = asyncio.create_task(asyncio.to_thread(pair.standby.copy_of, pair.primary))
            await load.note_pause(killed_s)
            await copying
            print(
                f"promoted after {promoted_s:.2f} s, the old primary is back as a standby after "
                f"{time.monotonic() - killed_s:.2f} s",
                flush=True,
            )
            await asyncio.to_thread(pair.until_together)

    try:
        name = await asyncio.to_thread(pair.primary.make_database)
        return await endure_served(pair.url(name), trouble, seed, senders=senders)
    finally:
        await asyncio.to_thread(pair.close)
