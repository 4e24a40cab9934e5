"""Campaign 5, bad input: `python -m tests.campaigns.bad_input [--seed S] [--examples N] [--calls N] [--frames
N] [--slow N] [--part NAME]…`.

Requests made of the OpenAPI document, random bytes on every RPC, broken HTTP/1 and HTTP/2, and clients that
send a byte a second. It has failed when an answer is not one that is documented, or is a fault of the
service; when a well-behaved client is not served meanwhile; when memory grows or descriptors stay open; or
when the store is not sound afterwards.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.campaigns.http_frames import Frames
from tests.campaigns.process_usage import ProcessUsage
from tests.campaigns.rpc_bytes import RpcBytes
from tests.campaigns.slow_clients import SlowClients
from tests.campaigns.well_behaved_client import well_behaved_client
from tests.support.service import Serve, direct_url

EXAMPLES, CALLS, FRAMES, FLOOD, SLOW, SLOW_SECONDS = 20_000, 100_000, 3000, 10_000, 1000, 20.0
"""The full size."""

GROWTH_MIB: Final = 80
"""How much more memory, of all processes, is no growth: caches fill, and heaps fragment.

Four times the frames take no more than that.
"""
PEAK_MIB: Final = 400
"""How much more they may take for a moment: what is under way is bounded, not small."""
LEFT_DESCRIPTORS: Final = 8
"""How many more may be open: connections of the store and of one process to the other."""
_RELEASE_SECONDS: Final = 15
_SHOWN: Final = 20


@dataclass
class Report:
    """What a part has found, and its figures."""

    problems: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


@contextmanager
def _service(report: Report, **environment: str) -> Iterator[Serve]:
    """A service of its own, which must end well, with a sound store and a log without faults."""
    with tempfile.TemporaryDirectory(prefix="bad-input-") as directory:
        service = Serve(Path(directory), **environment)
        try:
            yield service
            if status := service.stop():
                report.problems.append(f"the service ended with status {status}")
        finally:
            if service.process.poll() is None:
                service.kill()
        for word in ("Traceback", "internal error", "unforeseen error"):
            if at := service.log().find(word) + 1:
                report.problems.append(
                    f"the log has {service.log().count(word)} times {word!r}: "
                    f"{service.log()[at - 1 :][:4000]}"
                )
        command = [
            sys.executable,
            "-m",
            "server.cli",
            "check",
            "--database-url",
            direct_url(Path(directory)),
        ]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        if checked.returncode:
            report.problems.append(
                f"the store is not sound: {checked.stdout[-1000:]}{checked.stderr[-1000:]}"
            )
        report.lines.append(checked.stdout.strip().rpartition("/")[2])


@contextmanager
def _watched(report: Report, service: Serve) -> Iterator[tuple[ProcessUsage, Callable[[str], None]]]:
    """Watches what the service takes, and whether others are served, while the block runs."""
    with well_behaved_client(service) as others:  # noqa: SIM117 - its figures are there when its block has ended
        with ProcessUsage(service) as watched:
            yield watched, others.phase
            if (left := watched.left_descriptors(LEFT_DESCRIPTORS, _RELEASE_SECONDS)) > LEFT_DESCRIPTORS:
                report.problems.append(f"{left} descriptors were not released")
            growth_mib = watched.growth_mib(GROWTH_MIB, _RELEASE_SECONDS)
            if growth_mib > GROWTH_MIB or watched.peak_mib - watched.rss_mib > PEAK_MIB:
                report.problems.append(f"memory grew: {watched.line()}")
            report.lines.append(watched.line())
    report.problems += others.problems()
    report.lines.append(others.line())


def figures(counts: Counter[str]) -> Iterator[str]:
    """Counts in order."""
    return (f"{name}: {count}" for name, count in sorted(counts.items()))


def rest(seed: int, examples: int) -> Report:
    """Requests that schemathesis makes of the OpenAPI document."""
    # Its import takes a second, in each process that collects tests.
    from tests.campaigns.rest_examples import RestExamples

    report = Report()
    with _service(report, TEST_CLOCK="1") as service:
        run = RestExamples(service, seed, examples)
        run.run()
    report.problems += run.problems
    report.lines += [f"{run.statuses.total()} examples over REST", *figures(run.statuses)]
    return report


def rpc(seed: int, calls: int) -> Report:
    """Random and mutated bytes on every method: first with a test clock, which they will move,
    then without.
    """
    report = Report()
    for clock, share in (("1", calls // 10), ("0", calls - calls // 10)):
        with _service(report, TEST_CLOCK=clock) as service:
            run = RpcBytes(service, seed)
            if clock == "1":
                # Nobody can be served well while the time jumps to and fro.
                run.run(share)
            else:
                with _watched(report, service) as (watched, phase):
                    phase("bad bytes")
                    run.run(share // 5)
                    watched.again()
                    run.run(share - share // 5)
        report.problems += run.problems
        report.lines += [f"{run.calls} calls, test clock {clock}: " + ", ".join(figures(run.statuses))]
    return report


def frames(seed: int, count: int, flood: int) -> Report:
    """Broken HTTP/1 and HTTP/2."""
    report = Report()
    with _service(report) as service:
        run = Frames(service, seed)
        with _watched(report, service) as (watched, phase):
            phase("bad frames")
            run.run(0, flood)
            watched.again()
            if count:
                run.run(count, flood)
    report.problems += run.problems
    report.lines += [f"{run.connections} connections: " + ", ".join(figures(run.statuses))]
    return report


def slow(count: int, seconds: float, **environment: str) -> Report:
    """Clients that send a byte a second, so many on each port: first their heads, then their bodies."""
    report = Report()
    with _service(report, **environment) as service:
        clients = SlowClients(service)
        with _watched(report, service) as (watched, phase):
            # What so many connections take is kept for the next ones.
            clients.run("bodies", count, 1)
            watched.again()
            for kind in ("heads", "bodies"):
                phase(f"slow {kind}")
                clients.run(kind, count, seconds)
    report.lines += [f"{clients.opened} slow connections, cut off: {dict(clients.cut)}"]
    if clients.opened < 6 * count:
        report.problems.append(f"only {clients.opened} of {6 * count} slow clients could connect")
    return report


def main() -> None:
    """Runs the campaign at the size that is asked for, prints its figures, and ends with status 1 when
    something was found.
    """
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=random.randrange(2**32))
    arguments.add_argument("--examples", type=int, default=EXAMPLES)
    arguments.add_argument("--calls", type=int, default=CALLS)
    arguments.add_argument("--frames", type=int, default=FRAMES, help="connections to each port")
    arguments.add_argument("--slow", type=int, default=SLOW, help="slow clients on each port")
    arguments.add_argument("--part", action="append", choices=["rest", "rpc", "frames", "slow"])
    given = arguments.parse_args()
    parts: dict[str, Callable[[], Report]] = {
        "rest": lambda: rest(given.seed, given.examples),
        "rpc": lambda: rpc(given.seed, given.calls),
        "frames": lambda: frames(given.seed, given.frames, FLOOD),
        "slow": lambda: slow(given.slow, SLOW_SECONDS),
    }
    print(f"seed {given.seed}", flush=True)
    found = 0
    for name in given.part or parts:
        began = time.monotonic()
        report = parts[name]()
        print(f"{name}: {len(report.problems)} problems in {time.monotonic() - began:.0f} s")
        for line in report.lines:
            print(f"  {line}")
        for problem in report.problems[:_SHOWN]:
            print(f"  PROBLEM {problem}")
        sys.stdout.flush()
        found += len(report.problems)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
