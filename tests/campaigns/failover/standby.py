"""The standby that commits wait for goes, and comes back or is promoted.

While it is away, whoever looks after the database cancels or terminates commits that wait for it, which the
server then has as committed. Where the standby is promoted, what it never had is lost: nobody may have been
told that it is stored.
"""

import asyncio
import random
import time

from tests.campaigns.failover.pair import Pair
from tests.campaigns.failover.store_load import Load, Target, endure, new_store
from tests.campaigns.failover.tally import Tally
from tests.support.cutting_proxy import CuttingProxy
from tests.support.waiting import eventually

ANSWER_SECONDS = 3.0
"""How long the stores wait for what they have sent."""
WAIT_SECONDS = 2.0
"""How long calls wait for a database that is away."""
LONGEST_SECONDS = 6.0
"""For how long the standby is away, at most: some of the calls end meanwhile."""

_WAITING = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


async def send_standby_away(
    times: int,
    seed: int,
    *,
    is_synchronous: bool = True,
    longest_seconds: float = LONGEST_SECONDS,
    **settings: str,
) -> Tally:
    """Has the standby go so often. Every second time it is promoted when it comes back.

    Where commits do not wait for it, that loses something. `settings`: of both servers of the database.
    """
    choose = random.Random(seed)
    pair = await asyncio.to_thread(lambda: Pair(is_synchronous=is_synchronous, **settings))

    async def away(load: Load) -> None:
        """What happens while the standby is away: at first some commits are cancelled."""
        end_s, how = time.monotonic() + choose.uniform(0.5, longest_seconds), "pg_cancel_backend"
        if is_synchronous:
            await eventually(lambda: pair.primary.execute(f"SELECT 1 {_WAITING}"))
        while time.monotonic() < end_s:
            ended = await asyncio.to_thread(pair.primary.execute, f"SELECT {how}(pid) {_WAITING}")
            load.tally.troubles[f"{how} of a COMMIT"] += len(ended)
            await asyncio.sleep(choose.uniform(0.2, 0.5))
            how = choose.choice(["pg_cancel_backend", "pg_terminate_backend"])

    async def trouble(load: Load, _: list[CuttingProxy]) -> None:
        for number in range(times):
            await load.until_acknowledged(20)
            await asyncio.to_thread(pair.standby.kill)
            await away(load)
            if number % 2:
                await asyncio.to_thread(pair.primary.kill)
                begun_s = time.monotonic()
                await asyncio.to_thread(pair.promote_from_rest)
                load.tally.troubles["standbys promoted"] += 1
                await asyncio.to_thread(pair.standby.copy_of, pair.primary)
            else:
                begun_s = time.monotonic()
                await asyncio.to_thread(pair.standby.start)
                load.tally.troubles["standbys back"] += 1
            await load.until_acknowledged()
            load.tally.pauses_s.append(time.monotonic() - begun_s)
            await asyncio.to_thread(pair.until_together)

    try:
        # The proxies stand for nothing here: each server has its port.
        there = await asyncio.to_thread(new_store, pair.primary)
        target = Target(pair.url(there.url.rsplit("/", 1)[1]), ())
        return await endure(target, trouble, seed, answer_s=ANSWER_SECONDS, wait_s=WAIT_SECONDS)
    finally:
        await asyncio.to_thread(pair.close)
