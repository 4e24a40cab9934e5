"""What `serve` takes before it has done anything: the time until it is ready, and memory."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import psutil

from tests.campaigns.load.figures import Figures, Plan
from tests.campaigns.load.subjects import Checkout, memory_mib, tree

REST_SECONDS: Final = 1
"""For what goes on after `ready`, before memory is looked at."""


def measure(checkouts: list[Checkout], plan: Plan, figures: Figures) -> None:
    """Starts services one after the other; the first of each, which finds no file in the page cache, does not
    count.
    """
    for turn in range(plan.rounds + 1):
        for one in checkouts:
            with TemporaryDirectory() as directory:
                begun = time.perf_counter()
                service = one.serve(Path(directory))
                took = time.perf_counter() - begun
                try:
                    if turn:
                        time.sleep(REST_SECONDS)
                        process = psutil.Process(service.process.pid)
                        shared_once, resident = memory_mib(process)
                        if plan.wants("start"):
                            figures.add("start", one.name, took)
                        if plan.wants("memory"):
                            figures.add(
                                "memory",
                                one.name,
                                shared_once,
                                **{"RSS MiB": resident, "processes": len(tree(process))},
                            )
                finally:
                    service.stop()
