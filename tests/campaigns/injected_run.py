"""One run of the work on a disk with a fault, and what is wrong while it lasts and once it is lifted."""

import asyncio
import sqlite3
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import apsw

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.errors import STORE_TROUBLE, DomainError, OverloadedError
from server.lifecycle.health import HealthMonitor
from server.store.sqlite.check import problems
from server.store.sqlite.store import SqliteStore
from server.store.values import Commit
from tests.campaigns.power import put
from tests.campaigns.store_client import Client
from tests.campaigns.store_model import Model, Tables
from tests.campaigns.vfs import Disk, Image
from tests.unit.samples import T0

CLIENTS: Final = 4


class Caller(Client):
    """A client that goes on after a refusal, and keeps what it was refused with."""

    def __init__(self, run: "Run", seed: str) -> None:
        super().__init__(run.store, run.clock, run.model, seed)
        self._run = run

    async def run(self, steps: int) -> None:
        for _ in range(steps):
            self._run.next_deed()
            await super().run(1)

    def refused(self, error: DomainError) -> None:
        self._run.refused(error)


class Run:
    """The work, on a disk that `arm` has made faulty; what is wrong is in `found`."""

    def __init__(self, seed: str, root: Path, image: Image, model: Model) -> None:
        self._seed = seed
        put(image, root)
        self._path = root / "store.db"
        self.disk = Disk(root)
        self.disk.pragmas = "wal_autocheckpoint = 8", "journal_size_limit = 0", "cache_size = 8"
        self.disk.busy_ms = 10
        self.disk.before = self._before
        self.disk.raised = self._raised
        self.disk.executed = self._executed
        self.clock = TestClock()
        self.clock.set_ms(T0)
        self.model = model
        self.store: Any = None
        self.found: list[str] = []
        self.trouble: list[DomainError] = []
        self.deeds = 0
        self.on_deed: Callable[[int], None] = lambda number: None
        # The fault: of which calls, which code, at which of them, and for how many.
        self._what, self._code, self._at, self._times = "", 0, 0, 0
        self.calls: Counter[str] = Counter()
        self.hits = 0
        self._counting = False
        # After an I/O error: the writer's connection must be another, and checked.
        self._in_doubt = False
        self.reopened = 0
        # What the work took.
        self.work_calls: Counter[str] = Counter()
        self.work_deeds = 0
        self.killed: Image = {}
        # How often the store said that it cannot be opened.
        self.unopened = 0

    def arm(self, what: str, code: int, at: int, times: int) -> None:
        """Has the call `at` of its kind, and those after it up to `times`, fail from `begin` on."""
        self._what, self._code, self._at, self._times = what, code, at, times

    def begin(self) -> None:
        self.calls.clear()
        self._counting = True

    def lift(self) -> None:
        """Ends the fault."""
        self._counting = False
        self.disk.read_only = False

    def _before(self, what: str, name: str) -> None:
        if not self._counting:
            return
        self.calls[what] += 1
        if what == self._what and self._at <= self.calls[what] < self._at + self._times:
            self.hits += 1
            raise apsw.exception_for(self._code)

    def _raised(self, by_writer: bool, code: int) -> None:
        if by_writer and code & 0xFF == apsw.SQLITE_IOERR:
            self._in_doubt = True

    def _executed(self, by_writer: bool, statement: str) -> None:
        if by_writer and self._in_doubt and statement.startswith("PRAGMA quick_check"):
            self._in_doubt = False
            self.reopened += 1

    def _committed(self, commit: Commit) -> None:
        if self._in_doubt and (commit.outcomes or commit.deleted):
            self.found.append(
                "something was acknowledged after an I/O error, without opening and checking the file anew"
            )

    def next_deed(self) -> None:
        self.deeds += 1
        self.on_deed(self.deeds)

    def refused(self, error: DomainError) -> None:
        if isinstance(error, STORE_TROUBLE):
            self.trouble.append(error)
            if isinstance(error, OverloadedError):
                self.found.append("overloaded")

    async def open(self) -> None:
        self.store = await SqliteStore.open(self._path, self.clock)
        self.store.add_listener(self._committed)
        self.monitor = HealthMonitor(self.store, lambda _: None)

    async def work(self, part: str, steps: int) -> None:
        """Some writes at a time, and then reads of everything."""
        await asyncio.gather(*(Caller(self, f"{self._seed}-{part}-{n}").run(steps) for n in range(CLIENTS)))
        await self.read()

    async def read(self) -> None:
        """Reads whatever there is: what comes must be what was acknowledged, or a refusal."""
        for session_id, known in self.model.sessions.items():
            if known.gone or not known.session or self.model.may_be_purged(known.session):
                continue
            entries = [known.entries[sequence] for sequence in sorted(known.entries)]
            messages = [entry for entry in reversed(entries) if entry.message]
            await self._expect(known.session, self.store.get_session(session_id, scope=EVERYTHING))
            await self._expect(
                session_id, self.store.find_channel(known.session.channel_id, scope=EVERYTHING)
            )
            await self._expect(
                entries, self.store.list_entries(session_id, after_sequence=0, limit=1000, scope=EVERYTHING)
            )
            page = await self._expect(None, self.store.list_messages(known.session, limit=1000))
            if page and page.messages != messages:
                self.found.append(f"session {session_id}: its messages are not those that it has")
            await self._expect(None, self.store.lease_due(known.session.agent_id, 2**62, 10))
            await self._expect(None, self.store.list_history(known.session, before_sequence=10**6, limit=100))
            await self._expect(None, self.store.find_answer(session_id, 1, scope=EVERYTHING))
        for reading in (
            self.store.list_sessions(self.clock.now_ms(), limit=100, scope=EVERYTHING),
            self.store.counts(scope=EVERYTHING),
            self.store.count_open(),
            self.store.next_due_ms(),
        ):
            await self._expect(None, reading)
        agents = sorted(
            (agent for agent in self.model.agents.values() if agent),
            key=lambda agent: (agent.created_at_ms, agent.id),
        )
        await self._expect(agents, self.store.list_agents(limit=100, scope=EVERYTHING))

    async def _expect(self, wanted: Any, reading: Awaitable[Any]) -> Any:
        try:
            got = await reading
        except STORE_TROUBLE as error:
            self.refused(error)
            return None
        if wanted is not None and got != wanted:
            self.found.append(f"a read gave {str(got)[:200]} instead of {str(wanted)[:200]}")
        return got

    async def health(self) -> bool:
        await self.monitor.check()
        return self.monitor.is_serving

    async def finish(self) -> None:
        """Once the fault is lifted: all is well, everything acknowledged is there, and nothing else."""
        self.lift()
        if not await self.health():
            self.found.append("health does not say serving after the fault was lifted")
        before = len(self.trouble)
        await self.work("after", 4)
        if len(self.trouble) > before:
            self.found.append(f"refused after the fault was lifted: {self.trouble[before]!r}")
        with closing(sqlite3.connect(self._path)) as connection:
            self.found += self.model.differences(Tables.read(connection))
        for asked in [asked for asked in self.model.asked.values() if asked.answer][-10:]:
            try:
                outcome = await asked.call(self.store, str(uuid.uuid4()))
                if problem := self.model.wrong_retry(asked, outcome, was_gone=self.model.is_gone(asked)):
                    self.found.append(problem)
                self.model.take(outcome)
            except STORE_TROUBLE as error:
                self.found.append(f"a retry was refused after the fault was lifted: {error!r}")
            except DomainError:
                continue  # Its session is gone.

    async def close(self) -> None:
        if self.store:
            await self.store.close()

    def judge(self) -> None:
        """What the standard library's SQLite finds in the file at the end."""
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            self.found += [f"check: {line}" for line in problems(connection)]
            self.found += [f"in the file: {line}" for line in self.model.differences(Tables.read(connection))]
