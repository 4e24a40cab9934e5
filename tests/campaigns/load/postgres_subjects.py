"""What the rates of PostgreSQL are measured on: a cluster of its own, stores in it, and processes that call
these.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from tests.campaigns.load.subjects import ROOT, cpu_seconds
from tests.support.postgres import PostgresServer
from tests.support.service import Serve, environment

STORE_CALLERS: Final = "store_callers"
GRPC_CALLERS: Final = "grpc_callers"
LONGEST_SECONDS: Final = 600
"""More than any measurement beside a load takes."""
CLUSTER: Final = {
    "shared_buffers": "256MB",
    # Checkpoints are the same for all then: none.
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "max_connections": "200",
}
"""Of the cluster, besides PostgreSQL's defaults: each commit is durable."""


@dataclass
class Load:
    """What came of a load. CPU in µs a call: of what made it, and of PostgreSQL."""

    done: int
    rate: float
    own_us: float
    database_us: float = 0
    details: dict[str, float] = field(default_factory=dict)


def database_cpu(server: PostgresServer) -> float:
    """The CPU time, in seconds, that PostgreSQL has used so far: of its processes, and of those that have
    ended.
    """
    while True:
        postmaster = psutil.Process(server.postmaster())
        try:
            ended = postmaster.cpu_times()
            return cpu_seconds(postmaster) + ended.children_user + ended.children_system
        except psutil.NoSuchProcess:
            # One of them has ended meanwhile.
            continue


class Callers:
    """A process that calls stores or services, as it is told."""

    def __init__(self, module: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"tests.campaigns.load.programs.{module}"],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, *command: Any) -> None:
        """Has it do something; an answer follows."""
        assert self._process.stdin
        self._process.stdin.write(f"{json.dumps(command)}\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """What it answers next. Raises RuntimeError where it has failed."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} has ended with {self._process.wait()}")
        return json.loads(line)

    def ask(self, *command: Any) -> Any:
        """Both. Raises RuntimeError where it has failed."""
        self.begin(*command)
        return self.answer()

    def close(self) -> None:
        """Ends it, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            pipe.close()


def share(callers: int, among: int) -> list[int]:
    """How many callers each of some processes has."""
    return [callers // among + (number < callers % among) for number in range(among)]


def drive_stores(
    server: PostgresServer,
    processes: Sequence[Callers],
    url: str,
    what: str,
    callers: int,
    sessions: int,
    seconds: float,
) -> Load:
    """Has a store called without RPC by some processes, each of which is a server's."""
    shares = share(callers, len(processes))
    for one, mine in zip(processes, shares, strict=True):
        one.begin("load", url, what, mine, sessions, seconds)
    return _drive(processes, lambda: database_cpu(server))


def drive_services(
    server: PostgresServer,
    process: Callers,
    services: Sequence[Serve],
    what: str,
    callers: int,
    sessions: int,
    seconds: float,
) -> Load:
    """Has services called over gRPC. `own_us` is their CPU, without that of the callers."""
    spent: list[float] = []

    def note() -> float:
        spent.append(sum(cpu_seconds(psutil.Process(one.process.pid)) for one in services))
        return database_cpu(server)

    process.begin("load", [one.grpc for one in services], what, callers, sessions, seconds)
    found = _drive([process], note)
    found.details["callers' CPU µs"] = found.own_us
    found.own_us = (spent[1] - spent[0]) / found.done * 1e6
    return found


def _drive(processes: Sequence[Callers], database: Callable[[], float]) -> Load:
    """Lets loads begin at the same time. `database`: the CPU time of PostgreSQL so far.

    Raises RuntimeError where one fails.
    """
    for one in processes:
        one.answer()
    before = database()
    for one in processes:
        one.begin()
    found = [one.answer() for one in processes]
    spent = database() - before
    done = sum(one["done"] for one in found)
    return Load(
        done=done,
        rate=sum(one["done"] / one["seconds"] for one in found),
        own_us=sum(one["cpu seconds"] for one in found) / done * 1e6,
        database_us=spent / done * 1e6,
        details={name: max(one[name] for one in found) for name in ("p50 ms", "p99 ms")},
    )


@contextmanager
def beside(address: str, callers: int, sessions: int) -> Iterator[None]:
    """While the block runs, others send messages to a service."""
    with closing(Callers(GRPC_CALLERS)) as others:
        others.ask("load", [address], "send", callers, sessions, LONGEST_SECONDS)
        others.begin()
        yield


@contextmanager
def serving(directory: Path, **settings: str) -> Iterator[Serve]:
    """A running service."""
    service = Serve(directory, **settings)
    try:
        yield service
    finally:
        service.stop()
