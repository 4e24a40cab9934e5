"""Injected faults: the same work again and again, each time with a fault of the disk at its next point, until
every point was tried.

`python -m tests.campaigns.injected [--seed 1] [--size N]`, of which `N` (a share of all points, 1 by default)
makes it shorter. The faults: no room; a file system that turned read-only; I/O errors on write, sync, read
and truncate, and on opening; a locked file; a damaged page; a clock that jumps. Each happens once, or from a
point on until it is lifted. Nobody may get anything but a typed error, nothing acknowledged may be lost or
doubled, nothing refused may be there, health must tell, and all must be well again by itself.
"""

import argparse
import asyncio
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import apsw
import structlog

from server.store.sqlite.check import problems
from server.store.values import StoreOpenError
from tests.campaigns.injected_run import Run
from tests.campaigns.power import MEMORY, repeatable
from tests.campaigns.store_model import Model
from tests.campaigns.vfs import Image, flipped, in_step, mounted, restored

PATIENCE_SECONDS: Final = 60
DAY_MS: Final = 24 * 60 * 60 * 1000
PAGE: Final = 4096

FAULTS: Final = {
    "no room": ("write", apsw.SQLITE_FULL),
    "read-only": ("write", apsw.SQLITE_READONLY),
    "I/O error on write": ("write", apsw.SQLITE_IOERR_WRITE),
    "I/O error on sync": ("sync", apsw.SQLITE_IOERR_FSYNC),
    "I/O error on read": ("read", apsw.SQLITE_IOERR_READ),
    "I/O error on truncate": ("truncate", apsw.SQLITE_IOERR_TRUNCATE),
    "I/O error on delete": ("delete", apsw.SQLITE_IOERR_DELETE),
    "cannot open": ("open", apsw.SQLITE_CANTOPEN),
}


@dataclass
class Figures:
    runs: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    reopened: Counter[str] = field(default_factory=Counter)
    unseen: Counter[str] = field(default_factory=Counter)
    """Persistent faults that refused nothing and that health did not see."""
    acknowledged: int = 0
    violations: list[str] = field(default_factory=list)


class Campaign:
    """Runs the work with one fault after the other."""

    def __init__(self, seed: int, share: float) -> None:
        self.figures = Figures()
        self._seed = seed
        self._share = share
        self._rng = random.Random(seed)
        self._image: Image = {}
        self._model = Model()

    def _some(self, points: int) -> list[int]:
        """The points to try, of 1 to `points`."""
        wanted = max(1, round(points * self._share)) if points else 0
        return sorted(self._rng.sample(range(1, points + 1), wanted))

    async def run(self, only: str = "", only_fault: str = "") -> Figures:
        """Tries them all, or only the group of this name, and of the disk's faults only this one."""
        self._faults = {fault: call for fault, call in FAULTS.items() if only_fault in fault}
        with tempfile.TemporaryDirectory(dir=MEMORY) as name:
            self._directory = Path(name)
            await self._prepare()
            for attempt in (
                self._disk_faults,
                self._read_only,
                self._locked,
                self._damaged,
                self._clock_jumps,
                self._at_start,
            ):
                if only in attempt.__name__:
                    await attempt()
        return self.figures

    async def _prepare(self) -> None:
        """A store with something in it, from which each run starts, and the calls that the work makes."""

        async def prepare(run: Run) -> None:
            await run.work("prepare", 8)
            run.killed = run.disk.after_kill()

        run = await self._one("prepare", prepare, finish=False)
        self._image, self._killed, self._model = self._left, run.killed, run.model
        run = await self._one("no fault", self._plain)
        if run.trouble:
            self.figures.violations.append(f"without a fault: {run.trouble}")
        self._calls, self._deeds = run.work_calls, run.work_deeds

    @staticmethod
    async def _plain(run: Run) -> None:
        run.begin()
        for part in range(3):
            await run.work(f"part {part}", 3)
        run.work_calls, run.work_deeds = Counter(run.calls), run.deeds

    async def _one(
        self, name: str, scenario: Callable[[Run], Awaitable[None]], *, finish: bool = True, armed: Any = None
    ) -> Run:
        """One run. What it finds is put down under its name."""
        root = self._directory / "run"
        run = Run(str(self._seed), root, self._image, self._model.copy())
        if armed:
            armed(run)
        begun = run.model.acknowledged
        try:
            with mounted(run.disk), in_step():
                try:
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        try:
                            await run.open()
                        except StoreOpenError:
                            run.unopened += 1
                            run.lift()
                            await run.open()
                        await scenario(run)
                        if finish:
                            await run.finish()
                finally:
                    run.lift()
                    await run.close()
        except TimeoutError:
            run.found.append("it hangs")
        except Exception as error:  # noqa: BLE001 - any other than those that a caller expects
            run.found.append(f"a call ended in {error!r}")
        try:
            run.judge()
        except sqlite3.Error as error:
            run.found.append(f"the file at the end: {error!r}")
        run.disk.close()
        self._left = {file.name: file.read_bytes() for file in root.iterdir() if file.suffix == ".db"}
        shutil.rmtree(root)
        kind = name.partition(":")[0]
        self.figures.runs[kind] += 1
        self.figures.refused[kind] += len(run.trouble) + run.unopened
        self.figures.reopened[kind] += run.reopened
        self.figures.acknowledged += run.model.acknowledged - begun
        self.figures.violations += [f"{name}: {line}" for line in run.found]
        return run

    async def _disk_faults(self) -> None:
        for fault, (what, code) in self._faults.items():
            for at in self._some(self._calls[what]):
                await self._once(f"{fault}, once: {what} {at} of {self._calls[what]}", what, code, at)
                await self._until_lifted(
                    f"{fault}, until lifted: from {what} {at} of {self._calls[what]}", what, code, at
                )

    async def _once(self, name: str, what: str, code: int, at: int) -> None:
        async def scenario(run: Run) -> None:
            await self._plain(run)
            run.lift()
            if len(run.trouble) > 1:
                run.found.append(f"one fault, but {len(run.trouble)} were refused: {run.trouble}")

        await self._one(name, scenario, armed=lambda run: run.arm(what, code, at, 1))

    async def _until_lifted(self, name: str, what: str, code: int, at: int) -> None:
        async def scenario(run: Run) -> None:
            await self._plain(run)
            serving = await run.health()
            if serving and run.trouble:
                run.found.append("health says serving while the fault lasts")
            if serving and not run.trouble and run.hits:
                self.figures.unseen[name.partition(":")[0]] += 1

        await self._one(name, scenario, armed=lambda run: run.arm(what, code, at, 10**9))

    async def _read_only(self) -> None:
        """The whole file system, from a deed on."""
        for at in self._some(self._deeds):

            async def scenario(run: Run, at: int = at) -> None:
                run.on_deed = lambda number: setattr(
                    run.disk, "read_only", run.disk.read_only or number == at
                )
                await self._plain(run)
                if run.disk.read_only and await run.health():
                    run.found.append("health says serving on a read-only file system")
                run.on_deed = lambda number: None

            await self._one(f"read-only file system: from deed {at}", scenario)

    async def _at_start(self) -> None:
        """While the store is opened after a kill: it says why it cannot, or opens; the next start needs no
        hand.
        """
        self._image = self._killed
        run = await self._one("no fault", self._nothing, armed=Run.begin)
        for fault, (what, code) in self._faults.items():
            for at in self._some(run.calls[what]):
                for times in (1, 10**9):

                    def armed(
                        run: Run, what: str = what, code: int = code, at: int = at, times: int = times
                    ) -> None:
                        run.arm(what, code, at, times)
                        run.begin()

                    await self._one(
                        f"{fault}, at the start: {what} {at}, {times} times", self._nothing, armed=armed
                    )

    @staticmethod
    async def _nothing(run: Run) -> None:
        run.lift()

    async def _locked(self) -> None:
        """By another connection, from a deed on, for three deeds or until it is lifted."""
        for at in self._some(self._deeds):
            for deeds in (3, 10**9):

                async def scenario(run: Run, at: int = at, deeds: int = deeds) -> None:
                    other = apsw.Connection(str(run.disk.root / "store.db"), vfs=run.disk.name)

                    def lock(number: int) -> None:
                        if number == at:
                            other.execute("BEGIN IMMEDIATE")
                        elif number == at + deeds and other.in_transaction:
                            other.execute("ROLLBACK")

                    run.on_deed = lock
                    try:
                        await self._plain(run)
                        if other.in_transaction and await run.health():
                            run.found.append("health says serving while the file is locked")
                    finally:
                        other.close()
                        run.on_deed = lambda number: None

                await self._one(
                    f"locked by another, {'for 3 deeds' if deeds == 3 else 'until lifted'}: from deed {at}",
                    scenario,
                )

    async def _damaged(self) -> None:
        """Each page of the file in turn, under the open store."""
        for page in self._some(len(self._image["store.db"]) // PAGE):

            async def scenario(run: Run, page: int = page) -> None:
                offset = (page - 1) * PAGE
                before = flipped(run.disk, "store.db", offset, 4)
                try:
                    with closing(sqlite3.connect(run.disk.root / "store.db")) as connection:
                        seen = list(problems(connection))
                except sqlite3.DatabaseError as error:
                    seen = [str(error)]
                if not seen and page not in self._free_pages():
                    run.found.append("check does not find the damage")
                await run.read()
                await run.work("damaged", 3)
                if run.trouble and await run.health():
                    run.found.append("health says serving while a page is damaged")
                restored(run.disk, "store.db", offset, before)

            await self._one(f"damaged page: {page}", scenario)

    def _free_pages(self) -> set[int]:
        """Those that hold nothing."""
        content = self._image["store.db"]
        trunk, pages = int.from_bytes(content[32:36], "big"), set()
        while trunk:
            start = (trunk - 1) * PAGE
            count = int.from_bytes(content[start + 4 : start + 8], "big")
            pages |= {
                int.from_bytes(content[start + 8 + 4 * n : start + 12 + 4 * n], "big") for n in range(count)
            }
            trunk = int.from_bytes(content[start : start + 4], "big")
        return pages

    async def _clock_jumps(self) -> None:
        """By a day, back or forward, at each deed in turn; and back again some deeds later."""
        for at in self._some(self._deeds):
            for jump_ms in (-DAY_MS, DAY_MS):

                async def scenario(run: Run, at: int = at, jump_ms: int = jump_ms) -> None:
                    def jump(number: int) -> None:
                        if number in (at, at + 12):
                            run.clock.set_ms(run.clock.now_ms() + (jump_ms if number == at else -jump_ms))

                    run.on_deed = jump
                    await self._plain(run)
                    if run.trouble:
                        run.found.append(f"refused for the clock: {run.trouble}")

                await self._one(f"clock jumps {'back' if jump_ms < 0 else 'forward'}: at deed {at}", scenario)


def main() -> int:
    parser = argparse.ArgumentParser(description="Injected faults under the store.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=float, default=1, help="the share of all points that is tried")
    parser.add_argument("--only", default="", help="only the group of faults with this in its name")
    parser.add_argument(
        "--only-fault", default="", help="of the disk's faults only those with this in their name"
    )
    arguments = parser.parse_args()
    repeatable()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    print(f"seed {arguments.seed}, {arguments.size:.0%} of all points")
    start = time.monotonic()
    figures = asyncio.run(Campaign(arguments.seed, arguments.size).run(arguments.only, arguments.only_fault))
    print(f"{'fault':42} {'runs':>5} {'refused':>8} {'reopened':>9} {'unseen':>7}")
    for kind, runs in figures.runs.items():
        print(
            f"{kind:42} {runs:5} {figures.refused[kind]:8} {figures.reopened[kind]:9} "
            f"{figures.unseen[kind]:7}"
        )
    print(
        f"{figures.runs.total()} runs, {figures.acknowledged} acknowledged calls, {len(figures.violations)} "
        "violations; "
        f"{time.monotonic() - start:.0f} s"
    )
    for line in figures.violations[:40]:
        print(f"VIOLATION {line[:400]}")
    return 1 if figures.violations else 0


if __name__ == "__main__":
    sys.exit(main())
