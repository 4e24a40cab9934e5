"""What is measured: services of one or two checkouts, and the programs that they are compared with."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import requests

from tests.support.service import Serve, environment

ROOT: Final = Path(__file__).parents[3]
PROGRAMS: Final = Path(__file__).parent / "programs"
START_SECONDS: Final = 60
LISTENING: Final = "istening at"
"""Before the address: gunicorn's word, too."""


@dataclass(frozen=True)
class Checkout:
    """A checkout of this repository, with the Python that its package is installed for."""

    name: str
    root: Path
    python: Path

    def serve(self, directory: Path, **settings: str) -> Serve:
        """Starts `eliza-sessions serve` as an operator does."""
        return Serve(directory, command=[str(self.python.parent / "eliza-sessions")], **settings)

    @contextmanager
    def service(self, **settings: str) -> Iterator[Serve]:
        """A running service with a new store. No session of it ever has too many open deliveries."""
        with tempfile.TemporaryDirectory() as directory:
            running = self.serve(Path(directory), MAX_OPEN_DELIVERIES="1000000", **settings)
            try:
                yield running
            finally:
                running.stop()

    def program(self, name: str) -> list[str]:
        """The command of a program of ours that uses modules of the checkout: its own form of it, where it
        has one.
        """
        own = self.root / PROGRAMS.relative_to(ROOT) / name
        return [str(self.python), "-P", str(own if own.exists() else PROGRAMS / name)]

    def commit(self) -> str:
        """What is checked out, in a line."""
        told = subprocess.run(
            ["git", "-C", self.root, "log", "-1", "--format=%h %s"],
            capture_output=True,
            text=True,
            check=True,
        )
        return told.stdout.strip()


THIS: Final = Checkout("this", ROOT, Path(sys.executable))


def other(root: Path, python: Path | None) -> Checkout:
    """A second checkout. Raises FileNotFoundError where its environment is missing."""
    found = python or root / ".venv" / "bin" / "python"
    script = found.parent / "eliza-sessions"
    if not script.exists():
        raise FileNotFoundError(
            f"there is no {script}: make the environment of {root}, or name its Python by --python"
        )
    return Checkout("other", root.resolve(), found.absolute())


@dataclass(frozen=True)
class Program:
    """A running program that is no service."""

    process: psutil.Process
    address: str


@contextmanager
def started(command: list[str], cwd: Path = ROOT) -> Iterator[Program]:
    """Starts a program that says where it listens."""
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.NamedTemporaryFile())
        process = subprocess.Popen(command, cwd=cwd, env=environment(), stdout=log, stderr=log)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        yield Program(psutil.Process(process.pid), _address(process, Path(log.name)))


def run(command: list[str], cwd: Path) -> None:
    """Runs a program to its end. Raises CalledProcessError where it fails."""
    subprocess.run(command, cwd=cwd, env=environment(), check=True)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    give_up = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < give_up:
        _, found, rest = log.read_text().partition(LISTENING)
        if found and "\n" in rest:
            return next(part for part in rest.split() if part[-1].isdigit()).removeprefix("http://")
        time.sleep(0.01)
    raise RuntimeError(f"{process.args!r} did not start: {log.read_text()}")


@contextmanager
def hello() -> Iterator[Program]:
    """A Flask hello under gunicorn, which listens before it can answer."""
    options = ["-k", "gthread", "-w", "1", "--threads", "32", "-b", "127.0.0.1:0"]
    with started(
        [sys.executable, "-m", "gunicorn", *options, "tests.campaigns.load.programs.hello:app"]
    ) as program:
        requests.get(f"http://{program.address}", timeout=START_SECONDS).raise_for_status()
        yield program


def no_op() -> list[str]:
    """The command of the gRPC no-op."""
    return [sys.executable, "-P", str(PROGRAMS / "no_op.py")]


def tree(process: psutil.Process) -> list[psutil.Process]:
    """A process and all its children."""
    return [process, *process.children(recursive=True)]


def cpu_seconds(process: psutil.Process) -> float:
    """The CPU time, user and system, that a process and its children have used so far."""
    return sum(sum(one.cpu_times()[:2]) for one in tree(process))


def memory_mib(process: psutil.Process) -> tuple[float, float]:
    """The resident memory of a process and its children: what they share counted once (PSS), and in each
    (RSS).
    """
    full = [one.memory_full_info() for one in tree(process)]
    return sum(one.pss for one in full) / 2**20, sum(one.rss for one in full) / 2**20
