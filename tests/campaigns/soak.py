"""`python -m tests.campaigns.soak`: mixed load at half of what the machine gives, for half an hour, with
sessions that expire and are purged.

Sessions time out after a minute, their records are kept no longer, and the purge runs every minute; request
ids are kept for a minute. So after a few minutes as much goes as comes, and memory, file, descriptors and
latency must level off: the median of the last third may exceed that of the middle third by no more than the
margin that the table states. The driver runs on the same machine.
"""

import argparse
import asyncio
import contextlib
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import uvloop

from server.store.sqlite.check import problems, summary
from tests.campaigns.traffic.clients import AgainError, RefusedError, new_request_id
from tests.campaigns.traffic.grpc_client import GrpcClient
from tests.campaigns.traffic.rest_client import RestClient
from tests.campaigns.traffic.socket_client import SocketClient
from tests.support.service import Serve

T = TypeVar("T")

CALLERS = 30
MESSAGES = 8
"""How many messages a conversation has."""

SETTINGS = {
    "SESSION_MIN_TIMEOUT_MINUTES": "1",
    "SESSION_RETENTION_MINUTES": "0",
    "SESSION_CLEANUP_INTERVAL_MINUTES": "1",
    "SESSION_WARNING_THRESHOLD_MINUTES": "1",
    "REQUEST_ID_RETENTION_MINUTES": "1",
}

MIB = 2**20


@dataclass(frozen=True)
class Series:
    """A column of the table: how much higher its last third may be than its middle third, as a share and as
    an amount.
    """

    name: str
    unit: str
    share: float
    amount: float
    panel: str


SERIES = (
    Series("RSS", "MiB", 0.05, 2, "memory, MiB"),
    Series("file", "MiB", 0.10, 2, "file and WAL, MiB"),
    Series("WAL", "MiB", 0.25, 2, "file and WAL, MiB"),
    Series("fds", "", 0.10, 5, "descriptors"),
    Series("p50", "ms", 0.5, 1, "latency, ms"),
    Series("p99", "ms", 1.0, 20, "latency, ms"),
)


@dataclass
class Load:
    """Callers that hold one conversation after the other, at a rate of calls per second for all together (0:
    as fast as they can).
    """

    service: Serve
    seed: int
    rate: float = 0
    latencies_ms: list[float] = field(default_factory=list)
    calls: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    stopping: bool = False
    watching: set[asyncio.Task[None]] = field(default_factory=set)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def begin(self) -> None:
        """Starts the callers."""
        kinds: list[Callable[[], Any]] = [
            lambda: GrpcClient(self.service.grpc),
            lambda: RestClient(self.service.rest),
            lambda: SocketClient(self.service.rest),
        ]
        self.tasks = [asyncio.create_task(self._caller(kinds[n % 3], n)) for n in range(CALLERS)]

    async def end(self) -> None:
        """Lets every caller finish its call; the watchers are cut."""
        self.stopping = True
        await asyncio.gather(*self.tasks)
        for task in self.watching:
            task.cancel()
        await asyncio.gather(*self.watching, return_exceptions=True)

    async def _caller(self, connect: Callable[[], Any], number: int) -> None:
        choose = random.Random(f"{self.seed}-{number}")
        client = connect()
        helper = GrpcClient(self.service.grpc) if client.kind == "Socket.IO" else None
        due = time.perf_counter() + choose.random()
        while not self.stopping:
            for call in self._conversation(client, helper or client, connect, choose):
                if self.rate:
                    due = max(due + CALLERS / self.rate, time.perf_counter() - 1)
                    await asyncio.sleep(max(0, due - time.perf_counter()))
                if self.stopping:
                    break
                await self._timed(call)
        await client.close()
        if helper:
            await helper.close()

    async def _timed(self, call: Callable[[], Awaitable[Any]]) -> None:
        begun = time.perf_counter()
        try:
            await call()
        except (AgainError, RefusedError) as error:
            self.failures[str(error)[:60]] += 1
        self.latencies_ms.append((time.perf_counter() - begun) * 1000)
        self.calls += 1

    def _conversation(
        self, client: Any, creator: Any, connect: Callable[[], Any], choose: random.Random
    ) -> Any:
        """The calls of a conversation: some in five sessions are deleted at the end, the others left to
        expire, some of them watched.
        """
        session_id = ""
        watching: asyncio.Task[None] | None = None

        async def create() -> None:
            nonlocal session_id, watching
            session_id = await creator.create(new_request_id(), "soak", 1)
            if choose.random() < 0.3:
                watching = self._watch(connect(), session_id)

        async def delete() -> None:
            await creator.delete(session_id)
            if watching:
                # A socket is not told that a session was deleted.
                watching.cancel()

        async def send(request_id: str) -> None:
            await client.send(session_id, request_id, f"How do I reset my password, please? {request_id}")

        yield create
        for _ in range(MESSAGES):
            request_id = new_request_id()
            yield lambda request_id=request_id: send(request_id)
            if choose.random() < 0.1:
                yield lambda request_id=request_id: send(request_id)
        yield lambda: creator.heartbeat(session_id)
        if choose.random() < 0.2:
            yield delete

    def _watch(self, client: Any, session_id: str) -> asyncio.Task[None]:
        """Follows a session until it expires."""

        async def follow() -> None:
            try:
                with contextlib.suppress(RefusedError, AgainError):
                    async with contextlib.aclosing(client.watch(session_id, 0)) as events:
                        async for event in events:
                            if isinstance(event, tuple) and event[0] == "sessionExpired":
                                break
            finally:
                await client.close()

        task = asyncio.create_task(follow())
        self.watching.add(task)
        task.add_done_callback(self.watching.discard)
        return task


@dataclass
class Sampler:
    """Reads how the service stands; `rows` has a value for each of SERIES, behind the seconds and before the
    rate.
    """

    service: Serve
    directory: Path
    rows: list[tuple[float, ...]] = field(default_factory=list)

    def take(self, seconds: float, latencies_ms: list[float], calls: float) -> tuple[float, ...]:
        """One row."""
        server = psutil.Process(self.service.process.pid)
        wal = self.directory / "store.db-wal"
        quantiles = statistics.quantiles(latencies_ms, n=100) if len(latencies_ms) > 1 else [0.0] * 99
        row = (
            seconds,
            server.memory_info().rss / MIB,
            (self.directory / "store.db").stat().st_size / MIB,
            wal.stat().st_size / MIB if wal.exists() else 0,
            server.num_fds(),
            quantiles[49],
            quantiles[98],
            calls,
        )
        self.rows.append(row)
        return row


HEADER = (
    f"{'s':>6} " + " ".join(f"{series.name:>11}" for series in SERIES) + f" {'calls/s':>8} {'watched':>8}"
)


def shown(row: tuple[float, ...]) -> str:
    seconds, *values, rate = row
    return f"{seconds:6.0f} " + " ".join(f"{value:11.1f}" for value in values) + f" {rate:8.0f}"


def judged(rows: list[tuple[float, ...]]) -> list[str]:
    """Prints the thirds; returns what does not level off."""
    third = len(rows) // 3
    wrong = []
    print(f"\n{'median of':>11} {'first third':>12} {'middle':>8} {'last':>8}  may be")
    for index, series in enumerate(SERIES, 1):
        first, middle, last = (
            statistics.median(row[index] for row in rows[n * third : (n + 1) * third]) for n in range(3)
        )
        bound = middle * (1 + series.share) + series.amount
        verdict = "" if last <= bound else "  RISES"
        print(
            f"{series.name:>11} {first:12.1f} {middle:8.1f} {last:8.1f}  {bound:.1f} {series.unit} "
            f"(+{series.share:.0%} +{series.amount:g}){verdict}"
        )
        if verdict:
            wrong.append(f"{series.name} rises from {middle:.1f} to {last:.1f} {series.unit}")
    return wrong


def svg(rows: list[tuple[float, ...]], title: str) -> str:
    """The series over time, a panel for each unit."""
    panels = list(dict.fromkeys(series.panel for series in SERIES))
    width, height, left, gap = 860, 120, 60, 50
    end_s = max(row[0] for row in rows) or 1
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width + 180}" '
        f'height="{len(panels) * (height + gap) + 60}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="20" font-size="14">{title}</text>',
    ]
    for number, panel in enumerate(panels):
        top = 50 + number * (height + gap)
        members = [(index, series) for index, series in enumerate(SERIES, 1) if series.panel == panel]
        highest = max(row[index] for row in rows for index, _ in members) * 1.1 or 1
        parts.append(f'<text x="{left}" y="{top - 8}">{panel}</text>')
        parts.append(
            f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#999"/>'
        )
        for share in (0, 0.5, 1):
            y = top + height * (1 - share)
            parts.append(
                f'<text x="{left - 6}" y="{y + 4:.0f}" text-anchor="end">{highest * share:.0f}</text>'
            )
        for minute in range(0, int(end_s // 60) + 1, max(1, int(end_s // 600))):
            x = left + width * minute * 60 / end_s
            parts.append(
                f'<text x="{x:.0f}" y="{top + height + 15}" text-anchor="middle">{minute} min</text>'
            )
        for colour, (index, series) in zip(("#1565c0", "#c62828"), members, strict=False):
            points = " ".join(
                f"{left + width * row[0] / end_s:.1f},{top + height * (1 - row[index] / highest):.1f}"
                for row in rows
            )
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
            y = top + 16 + 18 * (colour != "#1565c0")
            parts.append(
                f'<text x="{left + width + 8}" y="{y}" fill="{colour}">{series.name}: {rows[-1][index]:.1f} '
                f"{series.unit}</text>"
            )
    return "\n".join([*parts, "</svg>\n"])


async def calibrate(service: Serve, seed: int, seconds: float) -> float:
    """The rate of calls that the callers reach when they do not wait."""
    load = Load(service, seed)
    load.begin()
    await asyncio.sleep(seconds / 3)
    calls, begun = load.calls, time.perf_counter()
    await asyncio.sleep(seconds * 2 / 3)
    rate = (load.calls - calls) / (time.perf_counter() - begun)
    await load.end()
    return rate


async def soak(
    service: Serve, directory: Path, seed: int, seconds: float, every: float, rate: float
) -> tuple[Sampler, Counter[str]]:
    """Loads the service and samples it; prints the table as it grows."""
    load, sampler = Load(service, seed, rate), Sampler(service, directory)
    load.begin()
    begun = sampled = time.perf_counter()
    print(HEADER, flush=True)
    while sampled < begun + seconds:
        await asyncio.sleep(every)
        latencies_ms, load.latencies_ms = load.latencies_ms, []
        now = time.perf_counter()
        row = sampler.take(now - begun, latencies_ms, len(latencies_ms) / (now - sampled))
        print(f"{shown(row)} {len(load.watching):8}", flush=True)
        sampled = now
    await load.end()
    return sampler, load.failures


def run(
    directory: Path, *, seed: int, minutes: float, every: float, rate: float, calibration: float
) -> tuple[Sampler, list[str]]:
    """A whole soak; returns what was sampled, and what is wrong however short it was."""
    service = Serve(directory, **SETTINGS)
    try:
        if not rate:
            peak = uvloop.run(calibrate(service, seed, calibration))
            rate = peak / 2
            print(
                f"seed {seed}: the callers reach {peak:.0f} calls/s; the soak runs at {rate:.0f} calls/s "
                f"for {minutes:g} minutes",
                flush=True,
            )
        sampler, failures = uvloop.run(soak(service, directory, seed, minutes * 60, every, rate))
    finally:
        status = service.stop()
    wrong = [f"{count} calls failed: {what}" for what, count in failures.items()]
    if status or "Traceback" in service.log():
        wrong.append(
            f"the service ended with {status}; tracebacks in its log: {service.log().count('Traceback')}"
        )
    with closing(sqlite3.connect(directory / "store.db")) as connection:
        wrong += problems(connection)
        print(f"left at the end: {summary(connection)}")
    return sampler, wrong


def main() -> None:
    """Soaks, judges, and draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=10, help="seconds between samples (default 10)")
    parser.add_argument(
        "--rate", type=float, default=0, help="calls per second (default: half of what a calibration reaches)"
    )
    parser.add_argument(
        "--svg", type=Path, default=Path(__file__).with_name("soak.svg"), help="where the plot goes"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        sampler, wrong = run(
            Path(name),
            seed=arguments.seed,
            minutes=arguments.minutes,
            every=arguments.every,
            rate=arguments.rate,
            calibration=15,
        )
    wrong += judged(sampler.rows)
    title = (
        f"Soak of {arguments.minutes:g} minutes, seed {arguments.seed}, "
        f"{statistics.mean(row[-1] for row in sampler.rows):.0f} calls/s"
    )
    arguments.svg.write_text(svg(sampler.rows, title))
    print(f"seed {arguments.seed}; plot in {arguments.svg}; " + ("; ".join(wrong) or "levels off"))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
