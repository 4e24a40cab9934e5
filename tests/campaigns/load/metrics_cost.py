"""`python -m tests.campaigns.load.metrics_cost`: what metrics cost a call, as a share of one without.

A REST get by wrk and a SendMessage by h2load, against a service without METRICS_ADDRESS and one with it that
is scraped each second, in alternating rounds of one run. The share is that of the CPU time of a call without
in that of one with, scrapes included: 1 means that metrics are free; the goal is 0.97.
"""

import argparse
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

import requests

from tests.campaigns.access.cost import grpc_send, rest_get
from tests.campaigns.access.subjects import SETTINGS, Caller, open_caller
from tests.support.service import Serve

GOAL: Final = 0.97
SCRAPE_SECONDS: Final = 1.0
SESSIONS: Final = 1
WITHOUT, WITH = "without", "with metrics"


@contextmanager
def subjects() -> Iterator[dict[str, Caller]]:
    """A caller of a service without metrics, and one of a service that is scraped."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        plain = Serve(directory / "plain", **SETTINGS)
        measured = Serve(directory / "measured", METRICS_ADDRESS="127.0.0.1:0", **SETTINGS)
        stopped = threading.Event()
        scraping = threading.Thread(target=_scrape, args=(measured.metrics, stopped))
        scraping.start()
        try:
            yield {WITHOUT: open_caller(plain, SESSIONS), WITH: open_caller(measured, SESSIONS)}
        finally:
            stopped.set()
            scraping.join()
            plain.stop()
            measured.stop()


def _scrape(address: str, stopped: threading.Event) -> None:
    while not stopped.wait(SCRAPE_SECONDS):
        requests.get(f"http://{address}/metrics", timeout=30).raise_for_status()


def compare(callers: dict[str, Caller], rounds: int, seconds: int) -> dict[str, float]:
    """Measures and prints; returns of each kind of call the share of what it costs the first caller's service
    in what it costs the second's.
    """
    without, changed = callers
    print(f"{'':18} {without:>13} {changed:>13}  CPU µs of a call; share")
    shares: dict[str, float] = {}
    for name, measure in (("REST get", rest_get), ("gRPC SendMessage", grpc_send)):
        found: dict[str, list[float]] = {subject: [] for subject in callers}
        for turn in range(rounds + 1):
            # Now one first, now the other, so that neither has always the warmer machine.
            for subject in sorted(callers, reverse=turn % 2 == 1):
                taken = measure(callers[subject], seconds)
                # The first round warms up.
                if turn:
                    found[subject].append(taken)
        each = [before / after for before, after in zip(found[without], found[changed], strict=True)]
        shares[name] = median(each)
        row = f"{median(found[without]):13.0f} {median(found[changed]):13.0f}  {shares[name]:.3f}"
        print(f"{name:18} {row}  ({min(each):.3f} to {max(each):.3f})", flush=True)
    return shares


def main(arguments: list[str] | None = None) -> None:
    """Measures and prints. Ends with status 1 where the goal is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=int, default=1)
    options = parser.parse_args(arguments)
    with subjects() as callers:
        shares = compare(callers, options.rounds, options.seconds)
    missed = [f"{name}: {share:.3f}" for name, share in shares.items() if share < GOAL]
    if missed:
        sys.exit("missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
