"""Rows against services: how much memory each leaves behind or holds, and how late others are served
meanwhile.
"""

import contextlib
import os
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc
import psutil
import requests

from tests.campaigns.hostile import rows_of_time, stores
from tests.campaigns.hostile.others import CALLS, Others, watching
from tests.campaigns.hostile.playing import FAULTS, Playing
from tests.campaigns.hostile.rows import Row
from tests.support.service import HIDDEN_PACKAGES, Serve

FIRST_MIB: Final = 50.0
"""By how much the memory of the service may grow in the first round."""
AGAIN_MIB: Final = 5.0
"""By how much it may grow in each round after it."""
LATE_S: Final = 0.25
LATE_TIMES: Final = 3.0
"""How late others may be, in the better of two rounds: so much, or so many times what is the worst at rest.
"""
RESOLVER: Final = str(Path(__file__).parent / "resolver")
_SETTLES_SECONDS: Final = 5.0
_HELD_SECONDS: Final = 2.0
"""How long the service has to give back what is free, before what it holds is measured."""
_SAMPLE_SECONDS: Final = 0.1
_MIB: Final = 2**20


class Memory:
    """The memory of a service, which is one process or more, in MiB.

    A context manager: `peak_mib` is the most while its block runs.
    """

    def __init__(self, service: Serve) -> None:
        server = psutil.Process(service.process.pid)
        self._processes = [server, *server.children(recursive=True)]
        self._ended = threading.Event()
        self.peak_mib = 0.0

    def __enter__(self) -> "Memory":
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def each_mib(self) -> list[float]:
        """Of each process: `serve` is one."""
        return [process.memory_info().rss / _MIB for process in self._processes]

    def now_mib(self) -> float:
        return sum(self.each_mib())

    def descriptors(self) -> int:
        return sum(process.num_fds() for process in self._processes)

    def settle_mib(self, allowed_mib: float, seconds: float = _SETTLES_SECONDS) -> float:
        """The memory once it is at most so much, or after some seconds."""
        until_s = time.monotonic() + seconds
        while (now := self.now_mib()) > allowed_mib and time.monotonic() < until_s:
            self._ended.wait(_SAMPLE_SECONDS)
        return now

    def _watch(self) -> None:
        # A service that is being ended has no memory any more.
        with contextlib.suppress(psutil.NoSuchProcess):
            while not self._ended.wait(_SAMPLE_SECONDS):
                self.peak_mib = max(self.peak_mib, self.now_mib())


@dataclass
class Outcome:
    """What a row has cost: MiB grown in each round, and the worst seconds of others by call, at rest and in
    each round.
    """

    row: Row
    base_mib: float = 0.0
    grown_mib: list[float] = field(default_factory=list)
    held_mib: list[list[float]] = field(default_factory=list)
    peak_mib: float = 0.0
    descriptors: int = 0
    rest_s: dict[str, float] = field(default_factory=dict)
    worst_s: dict[str, list[float]] = field(default_factory=dict)
    failed: int = 0
    ready_s: list[float] = field(default_factory=list)
    stop_s: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def add(self, play: Playing, number: int) -> None:
        """Takes what a round has counted and found."""
        self.answers += play.answers
        self.problems += [f"round {number}: {problem}" for problem in dict.fromkeys(play.problems)]
        for answer in FAULTS:
            if play.answers[answer]:
                self.problems.append(f"round {number}: {play.answers[answer]} answers are {answer}")

    def missed(self) -> list[str]:
        """The goals of memory that are missed, and what was found otherwise."""
        found = list(self.problems)
        for number, grown in enumerate(self.grown_mib, 1):
            allowed = FIRST_MIB if number == 1 else AGAIN_MIB
            if grown > allowed:
                found.append(f"memory grew by {grown:.0f} MiB in round {number}, {allowed:.0f} are allowed")
        return found

    def late(self) -> list[str]:
        """Calls of others that were later than the goal, in the better of two rounds."""
        found = []
        for call, worst in self.worst_s.items():
            allowed = max(LATE_S, LATE_TIMES * self.rest_s[call])
            if worst and min(worst[:2]) > allowed:
                found.append(f"{call} took {min(worst[:2]):.2f} s, {allowed:.2f} are allowed")
        return found

    def lines(self) -> Iterator[str]:
        """Its figures."""
        grown = ", ".join(f"{grown:+.0f}" for grown in self.grown_mib)
        at_most = f"at most +{FIRST_MIB:.0f}, then +{AGAIN_MIB:.0f}"
        held = "; ".join("held " + " and ".join(f"{mib:.0f}" for mib in each) for each in self.held_mib[-1:])
        verdict = "MISSED" if self.missed() else "kept"
        yield (
            f"{self.row.number:>3} {self.row.name}: memory {self.base_mib:.0f} MiB, by round {grown} "
            f"({at_most}): {verdict}"
        )
        yield f"      {held}; peak {self.peak_mib - self.base_mib:+.0f}; descriptors {self.descriptors:+d}"
        for call, worst in self.worst_s.items():
            times = ", ".join(f"{seconds:.2f}" for seconds in worst)
            verdict = "LATE" if any(late.startswith(call) for late in self.late()) else "kept"
            goal = max(LATE_S, LATE_TIMES * self.rest_s[call])
            yield (
                f"      others' {call} at worst {times} s by round; at rest {self.rest_s[call]:.2f} (at "
                f"most {goal:.2f}): {verdict}"
            )
        if self.failed:
            yield f"      others' calls that failed: {self.failed}"
        if self.ready_s:
            yield "      ready after " + ", ".join(f"{seconds:.1f}" for seconds in self.ready_s) + " s"
        if self.stop_s:
            yield f"      ended, with all sessions cleared, after {self.stop_s:.1f} s"
        yield "      answers: " + ", ".join(
            f"{count} {answer}" for answer, count in sorted(self.answers.items())
        )
        for problem in self.missed():
            yield f"      PROBLEM {problem}"


class Campaign:
    """Rows at a size, of a seed. Stores are filled once and copied."""

    def __init__(
        self, directory: Path, *, size: float, seed: int, rounds: int, rest_seconds: float = 3.0
    ) -> None:
        """No `rest_seconds`: nobody watches how late others are."""
        self._directory = directory
        self._size = size
        self._seed = seed
        self._rounds = rounds
        self._rest_seconds = rest_seconds
        self._count = 0
        self._plain: Outcome | None = None

    def run(self, row: Row) -> Outcome:
        """Plays a row against services of its own."""
        if row.is_at_start:
            return self._run_at_start(row)
        with self.serving(row.fill, CLEAR_SESSIONS_ON_SHUTDOWN="true" if row.number == "10" else "") as (
            service,
            _,
        ):
            outcome = self.play(row, service)
            if row.number == "10":
                begun_s = time.monotonic()
                outcome.problems += (
                    [f"the service ended with status {status}"] if (status := service.stop()) else []
                )
                outcome.stop_s = time.monotonic() - begun_s
        return outcome

    def play(self, row: Row, service: Serve) -> Outcome:
        """Plays a row's rounds against a service."""
        outcome, kept = Outcome(row), dict[str, object]()
        with self._others(service) as others:
            if row.prepare:
                row.prepare(Playing(service, self._size, random.Random(f"{self._seed} {row.number}"), kept))
            self._rest(others)
            memory = Memory(service)
            before_mib = outcome.base_mib = memory.now_mib()
            descriptors = memory.descriptors()
            for number in range(1, self._rounds + 1):
                before_mib = self._round(outcome, service, others, number, before_mib, kept)
            outcome.descriptors = memory.descriptors() - descriptors
        self._take(outcome, others)
        return outcome

    @contextmanager
    def serving(
        self, fill: Callable[[float, int], str] | None, *, has_resolver: bool = True, **more: str
    ) -> Iterator[tuple[Serve, float]]:
        """A service of its own with defaults, and how many seconds it took until it was ready.

        `has_resolver`: some names hang.
        """
        self._count += 1
        directory = self._directory / f"service-{self._count}"
        directory.mkdir(parents=True)
        if fill:
            shutil.copy(self._filled(fill), directory / "store.db")
        begun_s = time.monotonic()
        service = Serve(
            directory,
            PYTHONPATH=f"{RESOLVER}{os.pathsep}{HIDDEN_PACKAGES}" if has_resolver else HIDDEN_PACKAGES,
            **{**rows_of_time.settings(directory), **more},
        )
        try:
            yield service, time.monotonic() - begun_s
        finally:
            if service.process.poll() is None:
                service.kill()
        # Whoever has the last word says what became of it.
        shutil.rmtree(directory)

    def _filled(self, fill: Callable[[float, int], str]) -> Path:
        path = self._directory / "filled" / f"{fill.__name__}.db"
        if not path.exists():
            stores.fill(path, fill(self._size, stores.now_ms()))
        return path

    def _run_at_start(self, row: Row) -> Outcome:
        """As many services, each with a store of its own; compared with one that has nothing to do."""
        outcome = Outcome(row)
        plain = self._at_rest()
        outcome.base_mib, outcome.rest_s = plain.base_mib, plain.rest_s
        before_mib = plain.base_mib
        for number in range(1, min(2, self._rounds) + 1):
            with self.serving(row.fill, has_resolver=False) as (service, ready_s):
                outcome.ready_s.append(ready_s)
                with self._others(service) as others:
                    before_mib = self._round(outcome, service, others, number, before_mib, {})
                self._take(outcome, others)
        return outcome

    def _at_rest(self) -> Outcome:
        if self._plain is None:
            self._plain = Outcome(Row("0", "nothing", lambda _: None))
            with self.serving(None, has_resolver=False) as (service, _):
                with self._others(service) as others:
                    self._rest(others)
                    # What a session and a few calls take.
                    service.create()
                    self._plain.base_mib = Memory(service).now_mib()
                self._take(self._plain, others)
        return self._plain

    def _round(
        self,
        outcome: Outcome,
        service: Serve,
        others: Others | None,
        number: int,
        before_mib: float,
        kept: dict[str, object],
    ) -> float:
        """Plays one round; the memory after it."""
        if others:
            others.phase(f"round {number}")
        play = Playing(
            service, self._size, random.Random(f"{self._seed} {outcome.row.number} {number}"), kept
        )
        allowed = FIRST_MIB if number == 1 else AGAIN_MIB
        with Memory(service) as memory, play.held:
            try:
                outcome.row.play(play)
            except (grpc.RpcError, requests.RequestException, AssertionError) as error:
                play.problems.append(f"what everybody may do failed: {str(error)[:300]}")
            held_mib = memory.settle_mib(before_mib + allowed, _HELD_SECONDS)
            outcome.held_mib.append(memory.each_mib())
        if others:
            others.phase(f"after {number}")
        left_mib = memory.settle_mib(before_mib + allowed)
        after_mib = max(held_mib, left_mib)
        outcome.grown_mib.append(after_mib - before_mib)
        outcome.peak_mib = max(outcome.peak_mib, memory.peak_mib, after_mib)
        outcome.add(play, number)
        return after_mib

    @contextmanager
    def _others(self, service: Serve) -> Iterator[Others | None]:
        if not self._rest_seconds:
            yield None
            return
        with watching(service) as others:
            yield others

    def _rest(self, others: Others | None) -> None:
        if others:
            others.phase("rest")
            threading.Event().wait(self._rest_seconds)

    def _take(self, outcome: Outcome, others: Others | None) -> None:
        """What the others have seen, who have ended by now."""
        if others is None:
            return
        for call in CALLS:
            if "rest" in others.phases:
                outcome.rest_s[call] = others.worst_s("rest", call)
            rounds = [phase for phase in others.phases if phase.startswith("round")]
            outcome.worst_s.setdefault(call, []).extend(others.worst_s(phase, call) for phase in rounds)
        outcome.failed += sum(others.failed(phase) for phase in others.phases)


@contextmanager
def campaign(*, size: float, seed: int, rounds: int, rest_seconds: float = 3.0) -> Iterator[Campaign]:
    """A campaign in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as directory:
        yield Campaign(Path(directory), size=size, seed=seed, rounds=rounds, rest_seconds=rest_seconds)
