"""Power cuts: a store works on a disk that forgets, at any moment, any part of what was not synced; what it acknowledged must be there.

`python -m tests.faults.power [--seed 1] [--cuts 2000]`. A life is a store under a mixed load on such a disk. At random changes of its files
the power "fails": what may then be on the disk is put into a directory of its own, and after the life the ordinary store is opened on each,
checked, compared with what was acknowledged by then, and asked again what was asked before. The next life goes on from the last one.
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
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from server.clock import TestClock
from server.domain.agents import Agent, AgentKind
from server.domain.deliveries import Delivery, DeliveryState, RetryPolicy
from server.domain.errors import DomainError
from server.domain.events import Entry, EntryKind
from server.domain.messages import Draft, Reply
from server.domain.replies import answer, fail, lease
from server.domain.requests import request
from server.domain.sessions import Outcome, Rule, Session, create, fall_due, heartbeat, renew, send_message, update_timeout
from server.domain.timeouts import PartialTimeoutConfig
from server.store import sqlite_rows as rows
from server.store.base import Store
from server.store.sqlite import SqliteStore
from server.store.sqlite_check import problems
from tests.faults.vfs import Disk, Image, in_step, mounted, settle
from tests.unit.samples import AGENT, MINUTE, POLICY, T0, USER

MEMORY: Final = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where to have files that need not last."""
LIVES_OF_A_STORE: Final = 4
"""After which a new one is begun, lest it grow."""
CLIENTS: Final = 8
STEPS: Final = 25
ROUNDS: Final = RetryPolicy(3, 1000, 60_000)

T = TypeVar("T")


@dataclass(frozen=True)
class Doubt:
    """What was asked and is not answered: it may have happened or not."""

    kinds: frozenset[EntryKind] = frozenset()
    content: str = ""
    sequence: int = 0
    states: frozenset[DeliveryState] = frozenset()
    may_be_gone: bool = False


@dataclass
class Known:
    """A session as it was acknowledged."""

    session: Session | None = None
    entries: dict[int, Entry] = field(default_factory=dict)
    deliveries: dict[int, Delivery] = field(default_factory=dict)
    doubts: dict[object, Doubt] = field(default_factory=dict)
    purging: bool = False
    gone: bool = False

    def copy(self) -> "Known":
        return replace(self, entries=dict(self.entries), deliveries=dict(self.deliveries), doubts=dict(self.doubts))


@dataclass
class Asked:
    """A call with a request id; `answer` is None until it was answered. `call` repeats it."""

    session_id: str
    call: Callable[[Store], Awaitable[Outcome]]
    content: str = ""
    answer: Entry | Session | None = None


@dataclass
class Tables:
    """What a store's file holds."""

    sessions: dict[str, Session]
    entries: dict[str, dict[int, Entry]]
    deliveries: dict[str, dict[int, Delivery]]
    agents: dict[str, Agent]

    @classmethod
    def read(cls, connection: sqlite3.Connection) -> "Tables":
        def all_of(table: str, columns: tuple[str, ...]) -> Iterator[Any]:
            return iter(connection.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall())

        entries: dict[str, dict[int, Entry]] = defaultdict(dict)
        for entry in map(rows.entry_of, all_of("log", rows.ENTRY)):
            entries[entry.session_id][entry.sequence] = entry
        deliveries: dict[str, dict[int, Delivery]] = defaultdict(dict)
        for delivery in map(rows.delivery_of, all_of("deliveries", rows.DELIVERY)):
            deliveries[delivery.session_id][delivery.sequence] = delivery
        return cls(
            {session.id: session for session in map(rows.session_of, all_of("sessions", rows.SESSION))},
            entries,
            deliveries,
            {agent.id: agent for agent in map(rows.agent_of, all_of("agents", rows.AGENT))},
        )


@dataclass
class Model:
    """What was acknowledged, and what is in doubt. It knows nothing of how the store does it."""

    sessions: dict[str, Known] = field(default_factory=dict)
    agents: dict[str, Agent | None] = field(default_factory=dict)
    agents_in_doubt: dict[object, tuple[str, Agent | None]] = field(default_factory=dict)
    asked: dict[str, Asked] = field(default_factory=dict)
    acknowledged: int = 0

    def copy(self) -> "Model":
        return Model(
            {session_id: known.copy() for session_id, known in self.sessions.items()},
            dict(self.agents),
            dict(self.agents_in_doubt),
            {name: replace(asked) for name, asked in self.asked.items()},
            self.acknowledged,
        )

    @contextmanager
    def asking(self, session_id: str, doubt: Doubt) -> Iterator[None]:
        """While it is not known what comes of it. A refusal leaves no doubt: nothing was done then."""
        known, token = self.sessions.setdefault(session_id, Known()), object()
        known.doubts[token] = doubt
        yield
        del known.doubts[token]
        self.acknowledged += 1

    @contextmanager
    def changing_agent(self, agent_id: str, to: Agent | None) -> Iterator[None]:
        token = object()
        self.agents_in_doubt[token] = (agent_id, to)
        yield
        del self.agents_in_doubt[token]
        self.agents[agent_id] = to
        self.acknowledged += 1

    def take(self, outcome: Outcome) -> None:
        """Notes what was acknowledged."""
        known = self.sessions.setdefault(outcome.session.id, Known())
        if outcome.replayed:
            return
        known.session = outcome.session
        known.entries |= {entry.sequence: entry for entry in outcome.entries}
        known.deliveries |= {delivery.sequence: delivery for delivery in outcome.deliveries}
        if outcome.session.expired:
            for sequence, delivery in known.deliveries.items():
                if delivery.state in (DeliveryState.PENDING, DeliveryState.LEASED):
                    known.deliveries[sequence] = replace(delivery, state=DeliveryState.FAILED, due_at_ms=None)

    def differences(self, tables: Tables) -> Iterator[str]:
        """Where what is there cannot follow from what was acknowledged and what is in doubt."""
        for session_id, known in self.sessions.items():
            there = tables.sessions.get(session_id)
            entries = tables.entries.get(session_id, {})
            doubts = list(known.doubts.values())
            if known.gone:
                if there or entries:
                    yield f"session {session_id} was deleted, and is back"
            elif there is None:
                if known.session and not known.purging and not any(doubt.may_be_gone for doubt in doubts):
                    yield f"session {session_id} is lost"
            elif known.session is None and not doubts:
                yield f"session {session_id} was refused, and is there"
            else:
                deliveries = tables.deliveries.get(session_id, {})
                yield from (f"session {session_id}: {line}" for line in self._session(known, there, entries, deliveries))
        for session_id in tables.sessions.keys() - self.sessions.keys():
            yield f"session {session_id}: nobody has asked for it"
        contents = Counter(entry.message.content for log in tables.entries.values() for entry in log.values() if entry.message)
        yield from (f"message {content[:20]!r} is there {count} times" for content, count in contents.items() if count > 1)
        for agent_id in self.agents.keys() | tables.agents.keys():
            may_be = [self.agents.get(agent_id), *(agent for in_doubt, agent in self.agents_in_doubt.values() if in_doubt == agent_id)]
            if tables.agents.get(agent_id) not in may_be:
                yield f"agent {agent_id}: {tables.agents.get(agent_id)} instead of {may_be}"

    @staticmethod
    def _session(known: Known, there: Session, entries: dict[int, Entry], deliveries: dict[int, Delivery]) -> Iterator[str]:
        doubts = list(known.doubts.values())
        in_doubt = Counter(doubt.content for doubt in doubts if doubt.content)
        room = Counter(kind for doubt in doubts for kind in doubt.kinds)
        for sequence, entry in known.entries.items():
            if sequence not in entries and not known.purging:
                yield f"entry {sequence} ({entry.kind}) is lost"
            elif sequence in entries and entries[sequence] != entry:
                yield f"entry {sequence} is {entries[sequence]} instead of {entry}"
        extra = [entry for sequence, entry in entries.items() if sequence not in known.entries]
        for entry in extra:
            if entry.message:
                if not in_doubt[entry.message.content]:
                    yield f"entry {entry.sequence}: nobody waits for an answer to {entry.message.content[:20]!r}"
                in_doubt[entry.message.content] -= 1
            elif not room[entry.kind]:
                yield f"entry {entry.sequence}: nobody has asked for this {entry.kind}"
            else:
                room[entry.kind] -= 1
        for sequence, delivery in known.deliveries.items():
            states = {state for doubt in doubts if doubt.sequence in (sequence, -1) for state in doubt.states}
            found = deliveries.get(sequence)
            if found is None:
                if not known.purging:
                    yield f"delivery {sequence} is lost"
            elif found != delivery and found.state not in states:
                yield f"delivery {sequence} is {found} instead of {delivery}"
        if not doubts and there != known.session:
            yield f"it is {there} instead of {known.session}"

    def adopt(self, tables: Tables) -> None:
        """Takes what is there for what is: nothing is in doubt any more."""
        for session_id, known in list(self.sessions.items()):
            known.doubts.clear()
            known.session = tables.sessions.get(session_id)
            known.entries = tables.entries.get(session_id, {})
            known.deliveries = tables.deliveries.get(session_id, {})
            known.gone = known.session is None
        self.agents, self.agents_in_doubt = dict(tables.agents), {}


class Client:
    """Asks the store for one thing after the other, as its random numbers say, and notes what comes of it."""

    def __init__(self, store: Store, clock: TestClock, model: Model, seed: str) -> None:
        self._store, self._clock, self._model = store, clock, model
        self._rng = random.Random(seed)
        self._deeds: Final = {
            self.create: 3,
            self.say: 10,
            self.say_twice: 2,
            self.repeat: 2,
            self.deliver: 8,
            self.keep: 3,
            self.patch: 1,
            self.delete: 0.7,
            self.pass_time: 1,
            self.purge: 0.7,
            self.agent: 1,
            self.probe: 0.3,
        }

    async def run(self, steps: int) -> None:
        for _ in range(steps):
            (deed,) = self._rng.choices(list(self._deeds), list(self._deeds.values()))
            await deed()

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    def _any(self) -> str | None:
        live = [one for one, known in self._model.sessions.items() if known.session and not known.gone and not known.session.expired]
        return self._rng.choice(live[-40:]) if live else None

    async def _apply(self, session_id: str, doubt: Doubt, call: Callable[[], Awaitable[Outcome]]) -> Outcome | None:
        with self._model.asking(session_id, doubt):
            try:
                outcome = await call()
            except DomainError as error:
                self.refused(error)
                return None
            self._model.take(outcome)
        return outcome

    def refused(self, error: DomainError) -> None:
        """Is told of each refusal."""

    async def create(self) -> None:
        metadata = '{"x":"' + "y" * self._rng.randrange(400) + '"}'
        minutes = self._rng.choice([5.0, 30.0, 60.0])
        session = create(
            self._clock.now_ms(),
            session_id=self._uuid(),
            channel_id=self._uuid(),
            agent_id=AGENT,
            user_id=USER,
            metadata=metadata,
            policy=POLICY,
            request=PartialTimeoutConfig(timeout_minutes=minutes, auto_renew=self._rng.random() < 0.5),
        )
        asked = request(f"user:{USER}", self._uuid() if self._rng.random() < 0.7 else "", metadata, session.id)
        call = partial(SqliteStore.create_session, session=session, request=asked)
        if asked:
            self._model.asked[asked.id] = Asked(session.id, call)
        outcome = await self._apply(session.id, Doubt(may_be_gone=True), lambda: call(self._store))
        if asked and outcome:
            self._model.asked[asked.id].answer = outcome.session

    async def say(self, times: int = 1) -> None:
        if not (session_id := self._any()):
            return
        content = self._uuid() + "x" * self._rng.choice([0, 10, 300, 3000])
        asked = request(f"session:{session_id}", self._uuid() if times > 1 or self._rng.random() < 0.7 else "", content)

        def call(store: Store, message_id: str) -> Awaitable[Outcome]:
            return store.apply(session_id, partial(send_message, message_id=message_id, draft=Draft(content)), asked)

        if asked:
            message_id = self._uuid()
            self._model.asked[asked.id] = Asked(session_id, partial(call, message_id=message_id), content)
        doubt = Doubt(frozenset({EntryKind.MESSAGE}), content)
        ids = [self._uuid() for _ in range(times)]
        outcomes = await asyncio.gather(*(self._apply(session_id, doubt, partial(call, self._store, one)) for one in ids))
        done = [outcome for outcome in outcomes if outcome]
        if done and asked:
            self._model.asked[asked.id].answer = done[0].entries[0]
            if any(outcome.entries != done[0].entries for outcome in done) or sum(not outcome.replayed for outcome in done) > 1:
                raise AssertionError(f"one request, several answers: {done}")

    async def say_twice(self) -> None:
        await self.say(times=2)

    async def repeat(self) -> None:
        answered = [asked for asked in list(self._model.asked.values())[-60:] if asked.answer]
        if not answered:
            return
        asked = self._rng.choice(answered)
        try:
            outcome = await asked.call(self._store)
        except DomainError as error:
            self.refused(error)
            return
        if problem := not_replayed(asked, outcome):
            raise AssertionError(problem)

    async def deliver(self) -> None:
        if not (session_id := self._any()):
            return
        known = self._model.sessions[session_id]
        open_ones = [one for one in known.deliveries.values() if one.state in (DeliveryState.PENDING, DeliveryState.LEASED)]
        if not open_ones:
            return
        sequence = self._rng.choice(open_ones).sequence
        pending, leased, failed, answered = DeliveryState.PENDING, DeliveryState.LEASED, DeliveryState.FAILED, DeliveryState.ANSWERED
        failure = frozenset({EntryKind.REPLY_FAILURE})
        deed = self._rng.random()
        if deed < 0.4:
            rule = partial(lease, lease_ms=60_000, message_id=self._uuid(), policy=ROUNDS)
            doubt = Doubt(failure, sequence=sequence, states=frozenset({leased, failed}))
        elif deed < 0.85:
            content = self._uuid() + "z" * self._rng.choice([0, 500, 5000])
            rule = partial(answer, reply_id=self._uuid(), reply=Reply(Draft(content), actions=("GO",)))
            doubt = Doubt(frozenset({EntryKind.MESSAGE}), content, sequence, frozenset({answered}))
        else:
            final = self._rng.random() < 0.5
            rule = partial(fail, message_id=self._uuid(), reason="no", final=final, backoff_ms=1000, policy=ROUNDS)
            doubt = Doubt(failure, sequence=sequence, states=frozenset({pending, failed}))
        await self._apply(session_id, doubt, lambda: self._store.apply_delivery(session_id, sequence, rule))

    async def _rule(self, session_id: str, kinds: frozenset[EntryKind], rule: Rule, states: frozenset[DeliveryState] = frozenset()) -> None:
        await self._apply(session_id, Doubt(kinds, sequence=-1, states=states), lambda: self._store.apply(session_id, rule))

    async def keep(self) -> None:
        if session_id := self._any():
            await self._rule(session_id, frozenset({EntryKind.RENEWAL}), self._rng.choice([heartbeat, renew]))

    async def patch(self) -> None:
        if session_id := self._any():
            change = PartialTimeoutConfig(timeout_minutes=float(self._rng.randrange(5, 90)))
            await self._rule(session_id, frozenset({EntryKind.TIMEOUT_CHANGE}), partial(update_timeout, change=change, policy=POLICY))

    async def delete(self) -> None:
        if session_id := self._any():
            with self._model.asking(session_id, Doubt(may_be_gone=True)):
                try:
                    await self._store.delete_session(session_id)
                except DomainError as error:
                    self.refused(error)
                else:
                    self._model.sessions[session_id].gone = True

    async def pass_time(self) -> None:
        self._clock.set_ms(self._clock.now_ms() + self._rng.randrange(10 * MINUTE))
        kinds = frozenset({EntryKind.WARNING, EntryKind.EXPIRY})
        try:
            due = await self._store.due(self._clock.now_ms(), 20)
        except DomainError as error:
            self.refused(error)
            return
        await asyncio.gather(*(self._rule(one, kinds, fall_due, frozenset({DeliveryState.FAILED})) for one in due))

    async def purge(self) -> None:
        by_ms = self._clock.now_ms() - 20 * MINUTE
        old = [
            known for known in self._model.sessions.values() if known.session and not known.gone and known.session.expires_at_ms <= by_ms
        ]
        if not all(known.session.expired for known in old):
            return  # Not before the expiry is in each log: then nobody else can change these any more.
        for known in old:
            known.purging = True
        try:
            while await self._store.purge(by_ms, 4):
                self._model.acknowledged += 1
        except DomainError as error:
            self.refused(error)
            return
        for known in old:
            known.gone = True

    async def agent(self) -> None:
        agents = [agent for agent in self._model.agents.values() if agent]
        now_ms = self._clock.now_ms()
        try:
            if len(agents) < 3 or self._rng.random() < 0.3:
                agent = Agent(self._uuid(), "new", AgentKind.STREAM, now_ms, now_ms)
                with self._model.changing_agent(agent.id, agent):
                    await self._store.create_agent(agent)
            else:
                agent = self._rng.choice(agents)
                if any(in_doubt == agent.id for in_doubt, _ in self._model.agents_in_doubt.values()):
                    return
                if self._rng.random() < 0.3:
                    with self._model.changing_agent(agent.id, None):
                        await self._store.delete_agent(agent.id)
                else:
                    changed = replace(agent, name=self._uuid()[:8], updated_at_ms=now_ms)
                    with self._model.changing_agent(agent.id, changed):
                        await self._store.update_agent(agent.id, lambda _, __: changed)
        except DomainError as error:
            self._model.agents_in_doubt = {token: doubt for token, doubt in self._model.agents_in_doubt.items() if doubt[0] != agent.id}
            self.refused(error)

    async def probe(self) -> None:
        try:
            await self._store.check_writable()
        except DomainError as error:
            self.refused(error)


def not_replayed(asked: Asked, outcome: Outcome) -> str:
    """Why it is not the first answer again; empty when it is."""
    again = outcome.entries[0] if outcome.entries else outcome.session
    if asked.answer is None:
        return ""
    if not outcome.replayed:
        return f"a request of session {asked.session_id} was forgotten: its retry was carried out"
    return "" if again == asked.answer else f"a retry got {again} instead of {asked.answer}"


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

    def __init__(self, seed: str, root: Path, image: Image, model: Model, now_ms: int, pragmas: Sequence[str]) -> None:
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
            contents = {entry.message.content for log in tables.entries.values() for entry in log.values() if entry.message}
            in_doubt = {doubt.content for known in cut.model.sessions.values() for doubt in known.doubts.values() if doubt.content}
            figures.in_doubt += len(in_doubt)
            figures.happened += len(in_doubt & contents)
            answered = [asked for asked in cut.model.asked.values() if asked.answer]
            unanswered = [asked for asked in cut.model.asked.values() if not asked.answer]
            for asked in unanswered + rng.sample(answered, min(len(answered), 15)):
                figures.retries += 1
                try:
                    outcome = await asked.call(store)
                except DomainError:
                    continue  # Its session is deleted, or expired before it was carried out.
                except Exception as error:  # noqa: BLE001 - whatever it is, a retry must not end so
                    found.append(f"a retry ended in {error!r}")
                    continue
                figures.replays += outcome.replayed
                if problem := not_replayed(asked, outcome):
                    found.append(problem)
            after = Tables.read(connection)
            counts = Counter(entry.message.content for log in after.entries.values() for entry in log.values() if entry.message)
            found += [f"after the retries {content[:20]!r} is there {count} times" for content, count in counts.items() if count > 1]
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
                figures.violations += [f"life {figures.lives}, cut {number} ({cut.during}): {line}" for line in found]
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
    parser.add_argument("--pragma", action="append", default=[], help='to see it fail: "synchronous = NORMAL"')
    arguments = parser.parse_args()
    repeatable()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    print(f"seed {arguments.seed}, {arguments.cuts} cuts")
    start = time.monotonic()
    figures = asyncio.run(campaign(arguments.seed, arguments.cuts, arguments.pragma))
    for during, count in sorted(figures.cuts.items()):
        print(f"{count:6} cuts: {during}")
    print(
        f"{figures.cuts.total()} cuts in {figures.lives} lives with {figures.acknowledged} acknowledged calls; "
        f"{figures.happened} of {figures.in_doubt} unanswered messages were there; {figures.retries} retries, {figures.replays} replayed; "
        f"{len(figures.violations)} violations; {time.monotonic() - start:.0f} s"
    )
    for line in figures.violations[:20]:
        print(f"VIOLATION {line[:400]}")
    return 1 if figures.violations else 0


if __name__ == "__main__":
    sys.exit(main())
