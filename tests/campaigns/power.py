"""Power cuts: a store works on a disk that forgets, at any moment, any part of what was not synced; what it
acknowledged must be there.

`python -m tests.campaigns.power [--seed 1] [--cuts 2000]`. A life is a store under a mixed load on such a
disk. At random changes of its files the power "fails": what may then be on the disk is put into a directory
of its own, and after the life the ordinary store is opened on each, checked, compared with what was
acknowledged by then, and asked again what was asked before. The next life goes on from the last one.
"""

import argparse
import asyncio
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from server.clock import TestClock
from server.domain.errors import DomainError
from server.store.sqlite.check import problems
from server.store.sqlite.store import SqliteStore
from tests.campaigns.store_client import Client
from tests.campaigns.store_model import Model, Tables
from tests.campaigns.vfs import Disk, Image, in_step, mounted, settle
from tests.unit.samples import T0

MEMORY: Final = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where to have files that need not last."""
LIVES_OF_A_STORE: Final = 4
"""After which a new one is begun, lest it grow."""
CLIENTS: Final = 8
STEPS: Final = 25


@dataclass
class Cut:
    """A power cut: what is on the disk, and what was acknowledged by then."""

    during: str
    image: Image
    model: Model
    now_ms: int


@dataclass
class Figures:
    cuts: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    retries: int = 0
    replays: int = 0
    in_doubt: int = 0
    happened: int = 0
    lives: int = 0
    violations: list[str] = field(default_factory=list)


class Life:
    """A store under load on a disk whose power fails now and then."""

    def __init__(
        self, seed: str, root: Path, image: Image, model: Model, now_ms: int, pragmas: Sequence[str]
    ) -> None:
        self._rng = random.Random(seed)
        self._seed = seed
        put(image, root)
        self._root = root
        self.clock = TestClock()
        self.clock.set_ms(now_ms)
        self.model = model
        self.cuts: list[Cut] = []
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._phase = "start"
        self._until_cut = self._interval()
        self._disk = Disk(root)
        self._disk.after = self._changed
        self._disk.pragmas = (
            f"wal_autocheckpoint = {self._rng.choice([4, 15, 60])}",
            f"journal_size_limit = {self._rng.choice([0, 20_000, 200_000])}",
            f"cache_size = {self._rng.choice([4, 20, 200])}",
            *pragmas,
        )

    def _interval(self) -> int:
        if self._phase == "start":
            return self._rng.choice([1, 2, 8])
        return self._rng.choice([1, 3, self._rng.randrange(1, 90), self._rng.randrange(1, 90)])

    def _changed(self, what: str, name: str) -> None:
        self._until_cut -= 1
        if self._until_cut:
            return
        self._until_cut = self._interval()
        if threading.get_ident() != self._loop_thread:
            # All that was answered so far has arrived.
            settle(self._loop)
        self.cuts.append(
            Cut(
                f"{self._phase}, {name.rpartition('-')[2]} {what}",
                self._disk.after_power_cut(self._rng),
                self.model.copy(),
                self.clock.now_ms(),
            )
        )

    async def run(self) -> list[str]:
        """Lives, and returns what it found wrong on the way."""
        found = []
        try:
            with mounted(self._disk), in_step():
                path = self._root / "store.db"
                store = await SqliteStore.open(path, self.clock)
                with closing(sqlite3.connect(path, timeout=5)) as connection:
                    tables = Tables.read(connection)
                found = [f"after the start: {line}" for line in self.model.differences(tables)]
                self.model.adopt(tables)
                self._phase = "work"
                clients = [Client(store, self.clock, self.model, f"{self._seed}-{n}") for n in range(CLIENTS)]
                try:
                    await asyncio.gather(*(client.run(STEPS) for client in clients))
                finally:
                    self._phase = "stop"
                    await store.close()
        except Exception as error:  # noqa: BLE001 - nothing that is asked here may end so
            found.append(f"a call ended in {error!r}")
        finally:
            self._disk.close()
        return found


def put(image: Image, directory: Path) -> None:
    """Makes the directory with these files."""
    directory.mkdir()
    for name, content in image.items():
        (directory / name).write_bytes(content)


async def judge(cut: Cut, directory: Path, figures: Figures, rng: random.Random) -> list[str]:
    """Opens the ordinary store on what a power cut has left, and returns what is wrong with it."""
    put(cut.image, directory)
    path = directory / "store.db"
    clock = TestClock()
    clock.set_ms(cut.now_ms)
    try:
        store = await SqliteStore.open(path, clock)
    except Exception as error:  # noqa: BLE001 - whatever it is, the store does not open
        return [f"it does not open: {error}"]
    found = []
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            found += [f"check: {line}" for line in problems(connection)]
            tables = Tables.read(connection)
            found += cut.model.differences(tables)
            contents = {
                entry.message.content
                for log in tables.entries.values()
                for entry in log.values()
                if entry.message
            }
            in_doubt = {
                doubt.content
                for known in cut.model.sessions.values()
                for doubt in known.doubts.values()
                if doubt.content
            }
            figures.in_doubt += len(in_doubt)
            figures.happened += len(in_doubt & contents)
            answered = [asked for asked in cut.model.asked.values() if asked.answer]
            unanswered = [asked for asked in cut.model.asked.values() if not asked.answer]
            for asked in unanswered + rng.sample(answered, min(len(answered), 15)):
                figures.retries += 1
                try:
                    outcome = await asked.call(store, str(uuid.UUID(int=rng.getrandbits(128), version=4)))
                except DomainError:
                    continue  # Its session is deleted, or expired before it was carried out.
                except Exception as error:  # noqa: BLE001 - whatever it is, a retry must not end so
                    found.append(f"a retry ended in {error!r}")
                    continue
                figures.replays += outcome.replayed
                if problem := cut.model.wrong_retry(asked, outcome, was_gone=cut.model.is_gone(asked)):
                    found.append(problem)
            after = Tables.read(connection)
            counts = Counter(
                entry.message.content
                for log in after.entries.values()
                for entry in log.values()
                if entry.message
            )
            found += [
                f"after the retries {content[:20]!r} is there {count} times"
                for content, count in counts.items()
                if count > 1
            ]
            found += [f"check after the retries: {line}" for line in problems(connection)]
    finally:
        await store.close()
    return found


async def campaign(seed: int, cuts: int, pragmas: Sequence[str] = ()) -> Figures:
    """Cuts the power so many times. `pragmas` are given to the store's connections after its own."""
    figures = Figures()
    rng = random.Random(seed)
    image: Image = {}
    model, now_ms = Model(), T0
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        directory = Path(name)
        while figures.cuts.total() < cuts:
            if figures.lives % LIVES_OF_A_STORE == 0:
                image, model, now_ms = {}, Model(), T0
            life = Life(f"{seed}-{figures.lives}", directory / "life", image, model, now_ms, pragmas)
            begun = model.acknowledged
            found = await life.run()
            figures.lives += 1
            figures.violations += [f"life {figures.lives}: {line}" for line in found]
            figures.acknowledged += life.model.acknowledged - begun
            shutil.rmtree(directory / "life")
            wanted = min(cuts - figures.cuts.total(), len(life.cuts))
            for number in sorted(rng.sample(range(len(life.cuts)), wanted)):
                cut = life.cuts[number]
                figures.cuts[cut.during] += 1
                last = cut.model.copy()
                found = await judge(cut, directory / "cut", figures, rng)
                figures.violations += [
                    f"life {figures.lives}, cut {number} ({cut.during}): {line}" for line in found
                ]
                shutil.rmtree(directory / "cut")
                image, model, now_ms = cut.image, last, cut.now_ms
            if found:
                # What is broken stays so: begin anew.
                image, model, now_ms = {}, Model(), T0
    return figures


def repeatable() -> None:
    """Begins anew with a fixed order of sets, on which the order of the rows in a group depends."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONHASHSEED": "0"})


def main() -> int:
    parser = argparse.ArgumentParser(description="Power cuts under the store.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cuts", type=int, default=2000)
    parser.add_argument(
        "--pragma", action="append", default=[], help='to see it fail: "synchronous = NORMAL"'
    )
    arguments = parser.parse_args()
    repeatable()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    print(f"seed {arguments.seed}, {arguments.cuts} cuts")
    start = time.monotonic()
    figures = asyncio.run(campaign(arguments.seed, arguments.cuts, arguments.pragma))
    for during, count in sorted(figures.cuts.items()):
        print(f"{count:6} cuts: {during}")
    print(
        f"{figures.cuts.total()} cuts in {figures.lives} lives with {figures.acknowledged} acknowledged "
        "calls; "
        f"{figures.happened} of {figures.in_doubt} unanswered messages were there; {figures.retries} "
        f"retries, {figures.replays} replayed; "
        f"{len(figures.violations)} violations; {time.monotonic() - start:.0f} s"
    )
    for line in figures.violations[:20]:
        print(f"VIOLATION {line[:400]}")
    return 1 if figures.violations else 0


if __name__ == "__main__":
    sys.exit(main())
