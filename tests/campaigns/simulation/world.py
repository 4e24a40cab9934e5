"""The service in process, without sockets, on a simulated loop: its store, its life cycle, its agents, and
those who use it.

Only the writer's thread is replaced (`store.py`), and what it commits is told to the model (`commits.py`).
"""

import asyncio
import contextvars
import hashlib
import random
import sqlite3
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

from server.access.session_tokens import SessionTokens
from server.agents.connectors import Connectors
from server.agents.echo import Echo
from server.agents.hosts import Hosts
from server.agents.stream import StreamWorkers
from server.delivery.dispatcher import Dispatcher
from server.domain.agents import ECHO_ID, Agent, AgentKind
from server.lifecycle.expiry import ExpiryScheduler
from server.lifecycle.purge import Purge
from server.lifecycle.watches import Watches
from server.rpc.agent_service import AgentService
from server.rpc.encoding import Entries
from server.rpc.message_service import MessageService
from server.rpc.session_service import SessionService
from server.rpc.watch_streams import WatchStreams
from server.store.sqlite.file import prepare
from tests.campaigns.simulation.answers import answered
from tests.campaigns.simulation.calls import Call
from tests.campaigns.simulation.commits import compare_with_file
from tests.campaigns.simulation.loop import SimulatedLoop
from tests.campaigns.simulation.model import Model
from tests.campaigns.simulation.settings import (
    AGENTS,
    HEAL_SECONDS,
    LEASE_SECONDS,
    LIMITS,
    POLICY,
    PURGE_MINUTES,
    REPLY_SECONDS,
    RETRIES,
    T0,
)
from tests.campaigns.simulation.state import require
from tests.campaigns.simulation.store import Store
from tests.campaigns.simulation.translation import delivery_of
from tests.campaigns.simulation.watchers import Watcher
from tests.campaigns.simulation.workers import FAIR, POOR, Worker
from tests.support.inside_sqlite import lock_of, read_connections, write_connection, writer_of


class World:
    """A run: the service in its present life, the model, the clients, the workers and the watchers."""

    def __init__(self, seed: int, path: Path) -> None:
        self.chance = random.Random(seed)
        self.loop = SimulatedLoop(self.chance)
        self.path = path
        self.model = Model(LIMITS, set(AGENTS), ECHO_ID)
        self.counts: Counter[str] = Counter()
        self.life = 0
        self.stopping = False
        self.healed = False
        self.calls: dict[Call, None] = {}
        self.habits = POOR if self.chance.random() < 0.25 else FAIR
        self.past: list[dict[str, Any]] = []
        """Calls with a request id, to be repeated."""
        self.workers: dict[str, list[Worker]] = {agent: [] for agent in AGENTS[1:]}
        # Agents of whom a worker has gone.
        self.departed: set[str] = set()
        self.watchers = [Watcher(self) for _ in range(2)]
        self.errors: list[str] = []
        self.failures: list[BaseException] = []
        self._trace = hashlib.sha256()
        self.lines = 0
        self.verbose = False

    # Time.

    def now_ms(self) -> int:
        return T0 + int(self.loop.time() * 1000 + 1e-6)

    def go(self, seconds: float, steps: int = 1_000_000) -> None:
        """Lets so much time pass, or so many callbacks run."""
        until_s = self.loop.time() + seconds
        for _ in range(steps):
            if not self.loop.step(until_s):
                break
            if self.failures:
                raise self.failures[0]
            if self.loop.time() >= until_s:
                break
        self.check()

    def finish(self, task: "asyncio.Task[Any]", seconds: float) -> None:
        """Runs until a task is done."""
        until_s = self.loop.time() + seconds
        while not task.done():
            require(self.loop.step(until_s), "this does not end:", task)
            self.check()
        task.result()

    def check(self) -> None:
        """Raises what was found so far."""
        if self.failures:
            raise self.failures[0]
        require(not self.errors, "logged:", self.errors)
        require(not self.loop.problems, "uncaught:", self.loop.problems)
        self.model.overdue(self.now_ms())

    def note(self, *what: object) -> None:
        """Adds a line to the trace."""
        line = f"{self.loop.time():.6f} {' '.join(map(str, what))}\n"
        self.lines += 1
        self._trace.update(line.encode())
        if self.verbose:
            print(line, end="")

    def new_id(self) -> uuid.UUID:
        return uuid.UUID(int=self.ids.getrandbits(128), version=4)

    def digest(self) -> str:
        return self._trace.hexdigest()[:16]

    def guarded(
        self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any
    ) -> "asyncio.Task[None]":
        """A task whose failure is the run's."""

        async def run() -> None:
            try:
                await work(*arguments)
            except Exception as error:  # noqa: BLE001 - raised by `go`
                self.failures.append(error)

        return self.loop.create_task(run(), context=contextvars.Context())

    # The service.

    def start(self) -> None:
        """Starts the service on the file as it is; unless it crashes in the middle of that, which is tried
        again.
        """
        self.life += 1
        self.stopping = False
        random.seed(self.chance.random())
        self.ids = random.Random(f"{self.chance.random()} {self.life}")
        self.store = Store(self.path, prepare(self.path), self, 1000)
        self.store.world = self
        self.signals = Watches()
        self.worker_service = StreamWorkers()
        kinds = {AgentKind.ECHO: Echo(), AgentKind.STREAM: self.worker_service}
        connectors = Connectors(kinds, self.worker_service, None, POLICY, Hosts([]))  # type: ignore[arg-type]
        self.dispatcher = Dispatcher(
            self.store,
            self,
            kinds,
            self.signals.piece,
            policy=RETRIES,
            lease_seconds=LEASE_SECONDS,
            concurrency=3,
        )
        self.worker_service.on_change = self.dispatcher.wake
        self.deadlines = ExpiryScheduler(self.store, self)
        for listener in (self.signals.on_commit, self.dispatcher.on_commit, self.deadlines.on_commit):
            self.store.add_listener(listener)
        self.purge = Purge(
            self.store,
            self,
            retention_minutes=LIMITS.retention_ms / 60_000,
            request_retention_minutes=LIMITS.request_retention_ms / 60_000,
            interval_minutes=PURGE_MINUTES,
        )
        self.store.add_listener(self.purge.on_commit)
        streams = WatchStreams(self.store, self, self.signals, Entries(), 1e6)  # type: ignore[arg-type]
        tokens = SessionTokens(self.now_ms)
        self.session_service = SessionService(
            self.store,
            self,
            POLICY,
            None,  # type: ignore[arg-type]
            streams,
            tokens=tokens,
            token_seconds=900,
        )
        self.message_service = MessageService(
            self.store, self, self.signals, Entries(), REPLY_SECONDS, LIMITS.max_open
        )
        self.agent_service = AgentService(self.store, self, connectors, self.dispatcher, 1e6)
        compare_with_file(self.path, self.model)
        self.finish(self.loop.create_task(self._start(), context=contextvars.Context()), 60)
        self.model.up_since = self.now_ms()
        for work in (self.deadlines.run(), self.purge.run()):
            self.loop.create_task(work, context=contextvars.Context())
        self.note("up", self.life)
        for watcher in self.watchers:
            watcher.connect()

    async def _start(self) -> None:
        if self.life == 1:
            for agent_id in AGENTS:
                kind = AgentKind.ECHO if agent_id == ECHO_ID else AgentKind.STREAM
                await self.store.seed_agent(Agent(agent_id, "agent", kind, T0, T0))
        await self.dispatcher.start()

    def crash(self) -> None:
        """The service is gone at this instant, and with it all that was in memory; the clients' connections
        are lost.
        """
        self.note("crash")
        self.counts["crashes"] += 1
        self.life += 1
        self.model.up_since = 2**62
        writer = writer_of(self.store)
        writer.dead = writer._closed = self.store._closed = self.dispatcher._means.is_stopping = True
        self.calls.clear()
        self._end_tasks()
        for connection in (write_connection(self.store), *read_connections(self.store)):
            connection.close()
        lock_of(self.store).release()

    def stop(self) -> None:
        """The service is stopped as it should be, as `Service.stop` does it."""
        self.note("stop")
        self.counts["stops"] += 1
        self.stopping = True
        self.model.up_since = 2**62
        self.finish(self.loop.create_task(self._stop(), context=contextvars.Context()), 60)
        self.life += 1
        self.calls.clear()
        self._end_tasks()

    async def _stop(self) -> None:
        try:
            async with asyncio.timeout(5):
                await self.dispatcher.stop()
        except TimeoutError:
            pass
        self.worker_service.close()
        self.signals.close()
        await self.dispatcher.abandon()
        await self.store.close()

    def _end_tasks(self) -> None:
        """Lets everything that runs unwind, which touches nothing that counts any more."""
        failures, errors, problems = len(self.failures), len(self.errors), len(self.loop.problems)
        while tasks := sorted(
            asyncio.all_tasks(self.loop), key=lambda task: int(task.get_name().rpartition("-")[2])
        ):
            for task in tasks:
                task.cancel()
            self.loop.run_ready()
        self.loop.drop()
        del self.failures[failures:], self.errors[errors:], self.loop.problems[problems:]
        for workers in self.workers.values():
            workers.clear()
        for watcher in self.watchers:
            watcher.lost()

    # Clients.

    def call(self, kind: str, **arguments: Any) -> Call:
        """Makes a call, and judges its answer when it comes."""
        call = Call({"kind": kind, "request": "", "etag": "", "metadata": {}, **arguments})
        self.note("call", call.arguments)
        self.counts["calls"] += 1
        self.calls[call] = None
        call.task = self.guarded(answered, self, call, self.life)
        if call.arguments["request"]:
            self.past.append(call.arguments)
        return call

    def said(self, delivery_id: str, content: str, *, final: bool = False) -> None:
        """An agent answers a delivery, or gives it up for good."""
        session_id, sequence = delivery_of(delivery_id)
        session = self.model.sessions.get(session_id) or self.model.gone[session_id]
        delivery = session.deliveries[sequence]
        delivery.said.add(content)
        delivery.final = delivery.final or final

    def given(self, delivery_id: str, attempt: int) -> None:
        """An agent has got a delivery."""
        session_id, sequence = delivery_of(delivery_id)
        session = self.model.sessions.get(session_id) or self.model.gone[session_id]
        session.deliveries[sequence].given = attempt

    # The end.

    def heal(self) -> None:
        """From now on every agent answers at once: all that is open is answered, everyone has seen
        everything, and nothing is under way.
        """
        self.healed = True
        for agent_id in self.workers:
            Worker(self, agent_id, 3).connect()
        for watcher in self.watchers:
            watcher.slow = False
            watcher.connect()
        self.go(HEAL_SECONDS)
        for session in self.model.sessions.values():
            if not session.expired:
                require(not session.open(), "there is no reply to", session.open(), "of", session.state.id)
        for watcher in self.watchers:
            watcher.check_complete()
        self._check_quiet()
        compare_with_file(self.path, self.model)

    def forget(self) -> None:
        """Long after, nothing is left."""
        self.go(4 * 3600)
        require(not self.model.sessions, "not purged:", list(self.model.sessions))
        with closing(sqlite3.connect(self.path)) as connection:
            for table in ("sessions", "log", "deliveries", "requests", "removed_sessions"):
                count = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                require(count == 0, "left in", table, count)
        for watcher in self.watchers:
            require(not watcher.places, "a watcher still follows", watcher.places)
        self._check_quiet()
        require(not self.signals.session_ids, "sessions are still watched:", self.signals.session_ids)

    def _check_quiet(self) -> None:
        left, writes = self.dispatcher, writer_of(self.store)._queue
        while writes.qsize():
            # The purge may be in the middle of its work.
            self.go(1)
        require(left.is_idle(), "deliveries are still under way")
        require(not self.calls, "calls are still under way:", [call.arguments for call in self.calls])
