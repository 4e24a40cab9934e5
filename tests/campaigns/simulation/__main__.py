"""`python -m tests.campaigns.simulation --runs 10000 --seed 1`: simulated worlds, each by a seed of its own:
S, S + 1, and so on.

With `--stateful` hypothesis chooses what is done in them, and shrinks what it finds.
"""

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from hypothesis import Phase

from tests.campaigns.simulation.machine import SimulatedService, explore
from tests.campaigns.simulation.run import ACTIONS, run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--actions", type=int, default=ACTIONS, help="what is done in a run")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--verbose", action="store_true", help="print the trace")
    parser.add_argument("--stateful", action="store_true", help="as a state machine of hypothesis")
    arguments = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets of strings belongs to what the seed decides.
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.campaigns.simulation", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    print(f"seed {arguments.seed}: {arguments.runs} runs of {arguments.actions} actions", flush=True)
    if arguments.stateful:
        began = time.monotonic()
        explore(arguments.runs, arguments.seed, (Phase.generate, Phase.shrink))
        _print(SimulatedService.counts)
        print(f"{arguments.runs} runs in {time.monotonic() - began:.0f} s, no violation")
        return 0
    counts: Counter[str] = Counter()
    failed, digest, began = 0, 0, time.monotonic()
    seeds = range(arguments.seed, arguments.seed + arguments.runs)
    if arguments.verbose:
        for seed in seeds:
            run(seed, arguments.actions, verbose=True)
        return 0
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for report in pool.map(run, seeds, [arguments.actions] * len(seeds), chunksize=20):
            counts += report.counts
            digest = hash((digest, int(report.digest, 16)))
            if report.problem:
                failed += 1
                print(f"VIOLATION with seed {report.seed}: {report.problem}", flush=True)
                print(
                    f"  python -m tests.campaigns.simulation --runs 1 --seed {report.seed} --actions "
                    f"{arguments.actions} --verbose"
                )
    took_s = time.monotonic() - began
    _print(counts)
    print(
        f"{arguments.runs} runs in {took_s:.0f} s ({took_s / arguments.runs * 1000:.0f} ms each), digest "
        f"{digest & 2**64 - 1:016x}"
    )
    print(f"{failed} with a violation")
    return 1 if failed else 0


def _print(counts: Counter[str]) -> None:
    for name, count in sorted(counts.items()):
        print(f"  {name:24} {count:12,}")


if __name__ == "__main__":
    sys.exit(main())
