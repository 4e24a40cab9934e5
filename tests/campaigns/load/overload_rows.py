"""Overload over gRPC and REST: the generator of the campaign (tests.campaigns.overload), offering four times
the service's own peak.
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from typing import Final

import uvloop

from tests.campaigns.load.figures import Figures, Plan
from tests.campaigns.load.subjects import Checkout
from tests.campaigns.overload import CALLERS, SESSIONS, Campaign, p99, sessions

FACTOR: Final = 4
PROCESSES: Final = 2
DEADLINE_SECONDS: Final = 1


def measure(checkouts: list[Checkout], plan: Plan, figures: Figures) -> None:
    """One overload of each surface: a peak before and after it, of the same minute, is what it is compared
    with.
    """
    spawn = multiprocessing.get_context("spawn")
    # They give way to the service, as clients on machines of their own do.
    with ProcessPoolExecutor(PROCESSES, mp_context=spawn, initializer=os.nice, initargs=(10,)) as pool:
        for surface in ("grpc", "rest"):
            rows = f"overload-{surface}", f"health-{surface}"
            for one in checkouts if plan.wants(*rows) else ():
                with one.service() as service:
                    campaign = Campaign(
                        service, sessions(service, SESSIONS), pool, PROCESSES, rest=surface == "rest"
                    )
                    seconds = 3 * plan.seconds
                    load = {
                        "factor": FACTOR,
                        "seconds": seconds,
                        "peak_seconds": plan.seconds / 2,
                        "deadline_s": DEADLINE_SECONDS,
                    }
                    result = uvloop.run(campaign.run(**load, callers=CALLERS))
                found = {
                    outcome: len(taken) / result.found.seconds
                    for outcome, taken in result.found.latencies_ms.items()
                }
                figures.add(
                    rows[0], one.name, result.goodput, peak=result.peak, offered=result.factor, **found
                )
                taken = result.watch.rest_ms if surface == "rest" else result.watch.grpc_ms
                figures.add(
                    rows[1],
                    one.name,
                    p99(taken),
                    **{"p50 ms": sorted(taken)[len(taken) // 2], "failed": result.watch.failed},
                )
