"""The service in process, without sockets, on a simulated loop: its store, its life cycle, its agents, and those who use it.

Only the writer's thread is replaced: a callback of the loop carries out what is queued, in groups as large as the seed says. What it has
committed is told to the model in the order in which it was done, so the model always knows what the file holds, whoever heard of it.
"""

import asyncio
import contextvars
import hashlib
import itertools
import json
import queue
import random
import shutil
import sqlite3
import tempfile
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import structlog

from eliza.sessions.v1 import agent_service_pb2 as agents_pb
from eliza.sessions.v1 import errors_pb2, log_pb2, message_pb2, session_pb2, values
from eliza.sessions.v1 import message_service_pb2 as messages_pb
from eliza.sessions.v1 import session_service_pb2 as sessions_pb
from eliza.sessions.v1.timeout_pb2 import TimeoutConfig as TimeoutMessage
from server.agents.connectors import Connectors
from server.agents.dispatcher import Dispatcher
from server.agents.kinds import Echo
from server.agents.workers import Workers
from server.domain.agents import ECHO_ID, Agent, AgentKind
from server.domain.deliveries import DeliveryState, RetryPolicy
from server.domain.errors import DomainError
from server.domain.events import Entry
from server.domain.sessions import Outcome
from server.domain.timeouts import TimeoutConfig, TimeoutPolicy
from server.lifecycle import deadlines as deadlines_module
from server.lifecycle import purge as purge_module
from server.lifecycle import watch as watch_module
from server.lifecycle.deadlines import Deadlines
from server.lifecycle.purge import Purge
from server.lifecycle.watch import Signals
from server.rpc.agent_service import AgentService
from server.rpc.message_service import MessageService
from server.rpc.session_service import SessionService
from server.store import sqlite as sqlite_module
from server.store import sqlite_check
from server.store import sqlite_writer as writer_module
from server.store.base import Commit, OpenSession
from server.store.sqlite import SqliteStore
from server.store.sqlite_file import prepare
from server.store.sqlite_writer import SqliteWriter
from tests.faults.simulation.loop import SimulatedLoop
from tests.faults.simulation.model import OVERLOADED, Limits, Model, Refusal, State, Violation, require

T0 = 1_800_000_000_000
AGENTS = (ECHO_ID, "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b")
USERS = ("10000000-0000-4000-8000-000000000001", "10000000-0000-4000-8000-000000000002")
UNAVAILABLE = Refusal("UNAVAILABLE")

LEASE_SECONDS = 10.0
REPLY_SECONDS = 30.0
HEAL_SECONDS = 90.0
"""How long the service may take to give out all that is left once every agent answers at once."""
PURGE_MINUTES = 20.0
POLICY = TimeoutPolicy(TimeoutConfig(5, True, 20, 1), 1, 60)
RETRIES = RetryPolicy(3, 1000, 8000)
LIMITS = Limits(1, 60, 5, 20, 1, 30 * 60_000, 60 * 60_000, RETRIES.max_attempts, 6)

CALL: contextvars.ContextVar["Call | None"] = contextvars.ContextVar("call", default=None)


@dataclass(eq=False)
class Call:
    """A client's call: what it asks for, what it must be answered at once, or what once it was carried out."""

    arguments: dict[str, Any]
    at_once: Any = None
    answers: list[Any] | None = None
    task: "asyncio.Task[None] | None" = None


@dataclass
class Step:
    """An operation of a group, as it was carried out."""

    call: Call | None
    session_id: str | None
    sequence: int | None
    now: int
    result: Any = None
    error: DomainError | None = None


class Queue:
    """In place of the writer's queue: holds what came until the loop's callback takes some of it."""

    def __init__(self, woken: Callable[[], None]) -> None:
        self._woken = woken
        self.waiting: list[Any] = []
        self.taken: deque[Any] = deque()

    def put(self, operation: Any) -> None:
        self.waiting.append(operation)
        self._woken()

    def get(self, block: bool = True) -> Any:
        if not block and not self.taken:
            raise queue.Empty
        return self.taken.popleft()

    def qsize(self) -> int:
        return len(self.waiting)


class Writer(SqliteWriter):
    """The writer without its thread."""

    def __init__(self, world: "World", *arguments: Any) -> None:
        self._world = world
        self._steps: list[Step] = []
        self._due = False
        self.dead = False
        super().__init__(*arguments)
        self._queue: Any = Queue(self._wake)

    async def close(self) -> None:
        self._closed = True
        while self._queue.waiting:
            self._carry_out_some()
        self._connection.close()

    async def _submit(self, work: Any, session_id: str | None, sequence: int | None = None, request: Any = None) -> Any:
        call = CALL.get()

        def witnessed(target: Any, now_ms: int) -> Any:
            step = Step(call, session_id, sequence, now_ms)
            self._steps.append(step)
            try:
                step.result = work(target, now_ms)
            except DomainError as error:
                step.error = error
                raise
            return step.result

        return await super()._submit(witnessed, session_id, sequence, request)

    def _commit(self, group: Any) -> None:
        self._steps = []
        super()._commit(group)
        self._world.committed(self._steps)

    def _wake(self) -> None:
        if self._due:
            return
        self._due = True
        chance = self._world.chance.random()
        # In a context of its own, lest what the service does by itself seem to be the call's that queued first.
        if chance < 0.7:
            self._loop.call_soon(self._carry_out_some, context=contextvars.Context())
        else:
            slowest = 0.02 if chance < 0.95 else 0.2
            self._loop.call_later(self._world.chance.uniform(0, slowest), self._carry_out_some, context=contextvars.Context())

    def _carry_out_some(self) -> None:
        self._due = False
        waiting = self._queue.waiting
        if self.dead or not waiting:
            return
        count = len(waiting) if self._world.chance.random() < 0.6 else self._world.chance.randint(1, len(waiting))
        self._queue.taken.extend(waiting[:count])
        # The end of what the thread would take.
        self._queue.taken.append(None)
        del waiting[:count]
        self._run()
        if waiting:
            self._wake()


class Store(SqliteStore):
    """The store, into whose reads the writer commits: in one callback of the loop, two reads need not see the same."""

    world: "World"

    def _guarded(self, read: Any, connection: sqlite3.Connection) -> Any:
        call = CALL.get()
        # What the model foresees of a read call is of one instant.
        if (call is None or call.arguments["kind"] == "connect") and self.world.chance.random() < 0.1:
            self._writer._carry_out_some()  # type: ignore[attr-defined]
        return super()._guarded(read, connection)

    async def list_open(self) -> list[OpenSession]:
        found = await super().list_open()
        self.world.waiting = {session_id: set(session.open()) for session_id, session in self.world.model.sessions.items()}
        return found


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
        self.watchers = [Watcher(self) for _ in range(2)]
        self.errors: list[str] = []
        self.failures: list[BaseException] = []
        self._trace = hashlib.sha256()
        self._lines = 0
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
        self._lines += 1
        self._trace.update(line.encode())
        if self.verbose:
            print(line, end="")

    def new_id(self) -> uuid.UUID:
        return uuid.UUID(int=self.ids.getrandbits(128), version=4)

    def digest(self) -> str:
        return self._trace.hexdigest()[:16]

    def guarded(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> "asyncio.Task[None]":
        """A task whose failure is the run's."""

        async def run() -> None:
            try:
                await work(*arguments)
            except Exception as error:  # noqa: BLE001 - raised by `go`
                self.failures.append(error)

        return self.loop.create_task(run(), context=contextvars.Context())

    # The service.

    def start(self) -> None:
        """Starts the service on the file as it is; unless it crashes in the middle of that, which is tried again."""
        self.life += 1
        self.stopping = False
        random.seed(self.chance.random())
        self.ids = random.Random(f"{self.chance.random()} {self.life}")
        self.store = Store(self.path, prepare(self.path), self, 1000)
        self.store.world = self
        self.signals = Signals()
        self.worker_service = Workers()
        kinds = {AgentKind.ECHO: Echo(), AgentKind.STREAM: self.worker_service}
        connectors = Connectors(kinds, self.worker_service, None, POLICY)  # type: ignore[arg-type]
        self.dispatcher = Dispatcher(
            self.store,
            self,
            kinds,
            self.signals.chunk,
            policy=RETRIES,
            lease_seconds=LEASE_SECONDS,
            concurrency=3,
            max_open=LIMITS.max_open,
        )
        self.deadlines = Deadlines(self.store, self)
        self.waiting: dict[str, set[int]] = {}
        for listener in (self.signals.committed, self.dispatcher.committed, self.deadlines.committed, self._told):
            self.store.add_listener(listener)
        self.purge = Purge(
            self.store,
            self,
            retention_minutes=LIMITS.retention_ms / 60_000,
            request_retention_minutes=LIMITS.request_retention_ms / 60_000,
            interval_minutes=PURGE_MINUTES,
        )
        self.session_service = SessionService(self.store, self, POLICY, None, self.signals, 1e6)  # type: ignore[arg-type]
        self.message_service = MessageService(self.store, self, self.dispatcher, REPLY_SECONDS)
        self.agent_service = AgentService(self.store, self, connectors, self.dispatcher, 1e6)
        self._compare_with_file()
        self.finish(self.loop.create_task(self._start(), context=contextvars.Context()), 60)
        self.model.up_since = self.now_ms()
        for work in (self.deadlines.run(), self.purge.run()):
            self.loop.create_task(work, context=contextvars.Context())
        self.note("up", self.life)
        for watcher in self.watchers:
            watcher.connect()

    def _told(self, commit: Commit) -> None:
        """Keeps count, as the service has been told, of the messages that wait for an agent: it refuses more than so many."""
        for outcome in commit.outcomes:
            waiting = self.waiting.setdefault(outcome.session.id, set())
            for entry in outcome.entries:
                if entry.message and not entry.message.is_agent:
                    waiting.add(entry.sequence)
                waiting.discard((entry.message and entry.message.answers) or (entry.failure and entry.failure.message_sequence))
            if outcome.session.expired:
                waiting.clear()
        for session_id in commit.deleted:
            self.waiting.pop(session_id, None)

    async def _start(self) -> None:
        if self.life == 1:
            for agent_id in AGENTS:
                kind = AgentKind.ECHO if agent_id == ECHO_ID else AgentKind.STREAM
                await self.store.seed_agent(Agent(agent_id, "agent", kind, T0, T0))
        await self.deadlines.run_due()
        await self.dispatcher.start()

    def crash(self) -> None:
        """The service is gone at this instant, and with it all that was in memory; the clients' connections are lost."""
        self.note("crash")
        self.counts["crashes"] += 1
        self.life += 1
        self.model.up_since = 2**62
        writer: Any = self.store._writer
        writer.dead = writer._closed = self.store._closed = self.dispatcher._stopping = True
        self.calls.clear()
        self._end_tasks()
        for connection in (writer._connection, self.store._read_connection, self.store._long_connection):
            connection.close()
        self.store._lock.release()

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
        self.signals.close()
        try:
            async with asyncio.timeout(5):
                await self.dispatcher.stop()
                self.worker_service.close()
        except TimeoutError:
            pass
        await self.dispatcher.abandon()
        await self.store.close()

    def _end_tasks(self) -> None:
        """Lets everything that runs unwind, which touches nothing that counts any more."""
        failures, errors, problems = len(self.failures), len(self.errors), len(self.loop.problems)
        while tasks := sorted(asyncio.all_tasks(self.loop), key=lambda task: int(task.get_name().rpartition("-")[2])):
            for task in tasks:
                task.cancel()
            while self.loop._ready:  # type: ignore[attr-defined]
                self.loop._run(self.loop._ready.popleft())  # type: ignore[attr-defined]
        self.loop.drop()
        del self.failures[failures:], self.errors[errors:], self.loop.problems[problems:]
        for workers in self.workers.values():
            workers.clear()
        for watcher in self.watchers:
            watcher.lost()

    def _compare_with_file(self) -> None:
        """The file holds what the model says, and all of it fits together."""
        with closing(sqlite3.connect(self.path)) as connection:
            require(not (problems := list(sqlite_check.problems(connection))), "check:", problems)
            found: dict[str, list[Any]] = {row[0]: [] for row in connection.execute("SELECT id FROM sessions")}
            for row in connection.execute(
                "SELECT session_id, sequence, at_ms, kind, message_id, content, answers FROM log ORDER BY session_id, sequence"
            ):
                found[row[0]].append(row[1:])
        wanted = {
            session_id: [
                (
                    entry["sequence"],
                    entry["at"],
                    entry["kind"],
                    entry.get("id"),
                    entry.get("content"),
                    entry.get("answers") if "content" in entry else None,
                )
                for entry in session.log
            ]
            for session_id, session in self.model.sessions.items()
        }
        for session_id in wanted.keys() | found.keys():
            here, there = found.get(session_id), wanted.get(session_id)
            expired = session_id in self.model.sessions and self.model.sessions[session_id].expired
            # The purge takes a log from its start.
            cut = here is not None and there is not None and expired and here == there[len(there) - len(here) :]
            require(here == there or cut, "the file has", here, "of", session_id, "but should have", there)

    # What was carried out.

    def committed(self, steps: list[Step]) -> None:
        """Tells the model, and compares what is seen at once."""
        try:
            self.model.overdue(min(step.now for step in steps))
            for step in steps:
                self._judge(step)
        except Violation as violation:
            self.failures.append(violation)

    def _judge(self, step: Step) -> None:
        model, error = self.model, None if step.error is None else step.error.reason
        if step.session_id is None:
            with closing(self.store._writer._connection.execute("SELECT id FROM sessions")) as found:
                model.purged([row[0] for row in found], step.now)
            self.note("work", step.result)
            if step.result and self.chance.random() < 0.3:
                self._watch_purged(step.now)
            return
        outcome = step.result if isinstance(step.result, Outcome) else None
        entries = [] if outcome is None or outcome.replayed else [entry_of(entry) for entry in outcome.entries]
        self.note("did", step.session_id, step.sequence, error, entries, step.now)
        self.counts["writes"] += 1
        if step.call is None or step.call.arguments["kind"] == "connect":
            session = model.sessions.get(step.session_id)
            model.did(step.session_id, step.sequence, step.now, entries, error)
            for delivery in outcome.deliveries if outcome else ():
                if delivery.state is DeliveryState.LEASED:
                    self.counts["leases"] += 1
                    model.leased(step.session_id, delivery.sequence, step.now)
            for entry in entries:
                self.counts[entry["kind"] + ("s by agents" if entry["kind"] == "message" else "s")] += 1
            assert session is None or session.log is not None
            return
        observed: dict[str, Any] = {"fresh": outcome is not None and not outcome.replayed}
        if outcome and step.call.arguments["kind"] == "create":
            observed |= {"id": outcome.session.id, "channel": outcome.session.channel_id}
        elif outcome and outcome.entries and outcome.entries[0].message:
            observed["id"] = outcome.entries[0].message.id
        elif step.error is not None:
            observed["id"] = f"none {self._lines}"
        require(step.call.answers is None, "a call was carried out twice:", step.call.arguments)
        session = model.sessions.get(step.session_id)
        length = len(session.log) if session else 0
        step.call.answers = model.carried_out(step.call.arguments, step.now, observed)
        refused = Refusal(error) if error else None
        require(
            any(answer == refused if refused else not isinstance(answer, Refusal) for answer in step.call.answers),
            f"{step.call.arguments} at {step.now} was answered {refused or 'well'}, not one of {step.call.answers}",
        )
        made = session.log[length:] if session and step.call.arguments["kind"] != "delete" else []
        require(made == entries, "the log should grow by", made, "but grows by", entries, "with", step.call.arguments)

    def _watch_purged(self, now: int) -> None:
        """Somebody comes for a log while the purge is at it: a moment that chance alone would hardly meet."""
        old = [one for one in self.model.sessions.values() if one.expired and one.is_expired(now - LIMITS.retention_ms)]
        if old:
            session = self.chance.choice(old)
            self.chance.choice(self.watchers).join(session.state.id, self.chance.randrange(len(session.log)))

    # Clients.

    def call(self, kind: str, **arguments: Any) -> Call:
        """Makes a call, and judges its answer when it comes."""
        call = Call({"kind": kind, "request": "", "etag": "", "metadata": {}, **arguments})
        self.note("call", call.arguments)
        self.counts["calls"] += 1
        self.calls[call] = None
        call.task = self.guarded(self._called, call, self.life)
        if call.arguments["request"]:
            self.past.append(call.arguments)
        return call

    async def _called(self, call: Call, life: int) -> None:
        CALL.set(call)
        arguments = call.arguments = {**call.arguments, "at": self.now_ms()}
        call.at_once = self.model.before_write(arguments, arguments["at"])
        if arguments["kind"] == "send" and len(self.waiting.get(arguments["session"], ())) >= LIMITS.max_open:
            call.at_once = OVERLOADED
        try:
            if arguments.get("converse"):
                await self._converse(call)
                return
            answer: Any = await CALLS[arguments["kind"]](self, arguments)
        except DomainError as error:
            answer = Refusal(error.reason)
        finally:
            if life == self.life:
                self.calls.pop(call, None)
        if life == self.life:
            self._answered(call, answer)

    def _answered(self, call: Call, answer: Any) -> None:
        now, etag = self.now_ms(), None
        self.note("answer", call.arguments["kind"], answer)
        wanted = call.answers
        if wanted is None or call.at_once is not None:
            wanted = [] if call.at_once is None else [call.at_once]
            wanted += [UNAVAILABLE] if self.stopping else []
        if isinstance(answer, dict):
            self.counts["replays"] += answer.get("replayed", False)
            if "session" in answer:
                etag = answer["session"].pop("etag")
            states = [one["session"] for one in wanted if isinstance(one, dict) and isinstance(one.get("session"), State)]
            wanted = [
                {"session": one["session"].view(now)} if isinstance(one, dict) and isinstance(one.get("session"), State) else one
                for one in wanted
            ]
            if etag and states:
                self.model.saw_etag(call.arguments["session"], etag, states[0])
        else:
            self.counts[f"refused: {answer.reason}"] += 1
        require(answer in wanted, f"{call.arguments} was answered {answer}, which should be one of {wanted}")

    async def _converse(self, call: Call) -> None:
        """Sends a message and follows its reply."""
        life, began = self.life, self.now_ms()
        stream = self.message_service.Converse(messages_pb.ConverseRequest(message=_message_request(call.arguments)), None)
        sequence = 0
        try:
            async for response in stream:
                if life != self.life:
                    return
                match response.WhichOneof("part"):
                    case "user_message":
                        sequence = response.user_message.message.sequence
                        self._answered(call, _sent(response.user_message))
                    case "reply":
                        log = self.model.log_of(call.arguments["session"])
                        reply = message(response.reply)
                        stored = log[reply["sequence"] - 1]
                        same = stored["content"] == reply["content"] and reply["answers"] == sequence == stored.get("answers")
                        require(same, "the reply to", sequence, "was", reply, "but is", stored)
                        self.counts["replies followed"] += 1
        except DomainError as error:
            if life != self.life:
                return
            self.note("converse", error.reason)
            if not sequence:
                self._answered(call, Refusal(error.reason))
                return
            self._judge_end(call, sequence, error.reason, self.now_ms() - began)

    def _judge_end(self, call: Call, sequence: int, reason: str, waited: int) -> None:
        """A reply that did not come."""
        session = self.model.sessions.get(call.arguments["session"])
        ends = [entry for entry in session.log if entry.get("answers") == sequence] if session else []
        # What has come in this very second may not have been told yet.
        due = any(entry["at"] < self.now_ms() - 1000 for entry in ends)
        right = {
            "AGENT_REPLY_TIMEOUT": (waited >= REPLY_SECONDS * 1000 and not due) or self.stopping,
            "AGENT_REPLY_FAILED": any(entry["kind"] == "reply_failure" for entry in ends),
            "SESSION_EXPIRED": session is not None and session.is_expired(self.now_ms()),
            "SESSION_NOT_FOUND": session is None,
            "UNAVAILABLE": self.stopping,
        }
        require(right.get(reason), "there is no reply to", sequence, "of", call.arguments, "because of", reason)

    def said(self, delivery_id: str, content: str, *, final: bool = False) -> None:
        """An agent answers a delivery, or gives it up for good."""
        session_id, sequence = _delivery(delivery_id)
        session = self.model.sessions.get(session_id) or self.model.gone[session_id]
        delivery = session.deliveries[sequence]
        delivery.said.add(content)
        delivery.final = delivery.final or final

    # The end.

    def heal(self) -> None:
        """From now on every agent answers at once: all that is open is answered, everyone has seen everything, and nothing is under way."""
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
        self._compare_with_file()

    def forget(self) -> None:
        """Long after, nothing is left."""
        self.go(4 * 3600)
        require(not self.model.sessions, "not purged:", list(self.model.sessions))
        with closing(sqlite3.connect(self.path)) as connection:
            for table in ("sessions", "log", "deliveries", "requests"):
                count = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                require(count == 0, "left in", table, count)
        for watcher in self.watchers:
            require(not watcher.places, "a watcher still follows", watcher.places)
        self._check_quiet()
        require(not self.signals._watches, "sessions are still watched:", self.signals._watches)

    def _check_quiet(self) -> None:
        left, writes = self.dispatcher, self.store._writer._queue
        while writes.qsize():
            # The purge may be in the middle of its work.
            self.go(1)
        require(not left._lines and not left._lanes, "deliveries are still under way:", left._lines, left._lanes)
        require(not left._followers and not left._awaited, "somebody still waits for a reply:", left._followers, left._awaited)
        require(not self.calls, "calls are still under way:", [call.arguments for call in self.calls])


class Stream:
    """The client's half of a stream: what it sends, one after the other."""

    def __init__(self) -> None:
        self._requests: asyncio.Queue[Any] = asyncio.Queue()

    def send(self, request: Any) -> None:
        self._requests.put_nowait(request)

    async def requests(self) -> AsyncIterator[Any]:
        while (request := await self._requests.get()) is not None:
            yield request


class Worker:
    """A worker of an agent: it answers, fails, hangs, answers late, answers twice, or goes."""

    def __init__(self, world: World, agent_id: str, capacity: int) -> None:
        self._world = world
        self._agent_id = agent_id
        self._capacity = capacity
        self._stream = Stream()
        self._sent: dict[str, deque[str]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def connect(self) -> None:
        self._world.workers[self._agent_id].append(self)
        self._tasks.append(self._world.guarded(self._run, self._world.life))

    def disconnect(self) -> None:
        self._world.note("worker goes")
        workers = self._world.workers[self._agent_id]
        if self in workers:
            workers.remove(self)
        for task in self._tasks:
            task.cancel()

    async def _run(self, life: int) -> None:
        CALL.set(Call({"kind": "connect"}))
        hello = agents_pb.ConnectRequest.Hello(agent_id=self._agent_id, max_deliveries=self._capacity, history_messages=3)
        self._stream.send(agents_pb.ConnectRequest(hello=hello))
        try:
            async for response in self._world.agent_service.Connect(self._stream.requests(), None):
                if life != self._world.life:
                    return
                match response.WhichOneof("part"):
                    case "delivery":
                        self._world.note("given", response.delivery.delivery_id, response.delivery.attempt)
                        self._check(response.delivery)
                        self._tasks.append(self._world.guarded(self._handle, response.delivery, life))
                    case "accepted":
                        self._accepted(response.accepted.delivery_id)
                    case "refused":
                        self._refused(response.refused)
        except DomainError as error:
            require(error.reason == "UNAVAILABLE" and (self._world.stopping or life != self._world.life), "a worker is sent off:", error)

    def _check(self, delivery: agents_pb.Delivery) -> None:
        """What a worker is given is the message, with what was said before it."""
        session_id, sequence = _delivery(delivery.delivery_id)
        log = self._world.model.log_of(session_id)
        require(log[sequence - 1]["content"] == delivery.message.content, "another message is given:", delivery)
        texts = [entry.content for entry in delivery.history]
        earlier = [
            entry["content"] for entry in log if entry["kind"] == "message" and (entry.get("answers") or entry["sequence"]) < sequence
        ]
        require(all(text in earlier for text in texts), "the history", texts, "is not of", earlier)
        said = [entry for entry in log[: sequence - 1] if entry["kind"] == "message" and not entry["is_agent"]]
        # A session that was deleted since has no history any more.
        gone = session_id in self._world.model.gone
        require(gone or len(texts) >= min(3, len(said)), "the history is too short:", texts)

    def _accepted(self, delivery_id: str) -> None:
        content = self._sent[delivery_id].popleft()
        session_id, sequence = _delivery(delivery_id)
        stored = [e["content"] for e in self._world.model.log_of(session_id) if e.get("answers") == sequence and e["kind"] == "message"]
        require(stored == [content], "accepted was", content, "but stored is", stored)

    def _refused(self, refused: agents_pb.ConnectResponse.Refused) -> None:
        world, reason = self._world, errors_pb2.ErrorReason.Name(refused.reason).removeprefix("ERROR_REASON_")
        world.counts["refused answers"] += 1
        if reason == "DELIVERY_NOT_LEASED":
            # A chunk or a failure for a delivery that is not the worker's any more.
            return
        self._sent[refused.delivery_id].popleft()
        session_id, sequence = _delivery(refused.delivery_id)
        session = world.model.sessions.get(session_id)
        if session is None:
            right = reason in ("SESSION_NOT_FOUND", "DELIVERY_NOT_FOUND", "SESSION_EXPIRED", "DELIVERY_ALREADY_ANSWERED")
        elif session.is_expired(world.now_ms()):
            right = reason in ("SESSION_EXPIRED", "DELIVERY_ALREADY_ANSWERED")
        else:
            right = reason == "DELIVERY_ALREADY_ANSWERED" and session.deliveries[sequence].answered
        require(right or (reason == "UNAVAILABLE" and world.stopping), "an answer was refused:", refused)

    def _reply(self, delivery_id: str, content: str) -> None:
        self._world.said(delivery_id, content)
        self._sent.setdefault(delivery_id, deque()).append(content)
        reply = agents_pb.ConnectRequest.Reply(delivery_id=delivery_id, reply=agents_pb.AgentReply(content=content))
        self._stream.send(agents_pb.ConnectRequest(reply=reply))

    async def _handle(self, delivery: agents_pb.Delivery, life: int) -> None:
        """Does with a delivery as the seed says."""
        world, chance, delivery_id = self._world, self._world.chance, delivery.delivery_id
        how = "answer" if world.healed else chance.choices(list(world.habits), list(world.habits.values()))[0]
        text = f"{how} {delivery_id} {delivery.attempt} {world.loop.steps}"
        if not world.healed:
            await asyncio.sleep(chance.choice((0, 0, 0.01, 0.5, 3)))
        if how in ("late", "hang"):
            await asyncio.sleep(LEASE_SECONDS * chance.choice((0.999, 1, 1.2, 2.5)))
        if life != world.life or how == "hang":
            return
        world.counts[f"agents: {how}"] += 1
        match how:
            case "chunks":
                for piece in text.split(" "):
                    chunk = agents_pb.ConnectRequest.Chunk(delivery_id=delivery_id, chunk=piece)
                    self._stream.send(agents_pb.ConnectRequest(chunk=chunk))
                    await asyncio.sleep(chance.choice((0, 0.1, 6)))
                self._reply(delivery_id, text.replace(" ", ""))
            case "fail" | "give up":
                if how == "give up":
                    world.said(delivery_id, "", final=True)
                failure = agents_pb.ConnectRequest.Failure(delivery_id=delivery_id, reason=how, final=how == "give up")
                self._stream.send(agents_pb.ConnectRequest(failure=failure))
            case "go":
                self.disconnect()
            case "post":
                session_id, sequence = _delivery(delivery_id)
                world.said(delivery_id, text)
                world.call("reply", session=session_id, sequence=sequence, content=text)
            case _:
                self._reply(delivery_id, text)
                if how == "twice":
                    self._reply(delivery_id, text + " again")


FAIR = {"answer": 50, "chunks": 10, "fail": 8, "give up": 3, "hang": 6, "late": 6, "twice": 6, "post": 6, "go": 5}
POOR = {"answer": 10, "fail": 60, "hang": 10, "late": 10, "twice": 5, "go": 5}
"""How often workers do what with a delivery, in most worlds and in some."""


class Watcher:
    """A client that follows sessions, goes and comes back, and keeps the place up to which it has seen each log."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._stream = Stream()
        self._task: asyncio.Task[None] | None = None
        self.slow = False
        self.places: dict[str, int | None] = {}
        """The last sequence that was seen; None until it is known."""
        self._replies: set[str] = set()
        self._asked: deque[tuple[str, str]] = deque()
        """The changes that were sent and not answered yet, as far as one can tell."""

    def connect(self) -> None:
        """Connects, if it is not, and resumes where it stood."""
        if self._task is not None:
            return
        self._stream = Stream()
        self._asked.clear()
        self._task = self._world.guarded(self._run, self._stream, self._world.life)
        for session_id in list(self.places):
            self._join(session_id)

    def disconnect(self) -> None:
        if self._task is not None:
            self._world.note("watcher goes")
            self._task.cancel()
            self.lost()

    def lost(self) -> None:
        self._task = None

    def join(self, session_id: str, after: int | None) -> None:
        """Begins to follow a session."""
        if self._task is not None and session_id not in self.places:
            self.places[session_id] = after
            self._join(session_id)

    def leave(self, session_id: str) -> None:
        if self._task is not None and session_id in self.places:
            self._asked.append(("leave", session_id))
            del self.places[session_id]
            leave = sessions_pb.WatchSessionsRequest.Leave(session_id=session_id)
            self._stream.send(sessions_pb.WatchSessionsRequest(leave=leave))

    def check_complete(self) -> None:
        for session_id, place in self.places.items():
            last = len(self._world.model.log_of(session_id))
            require(place == last, "a watcher of", session_id, "has seen", place, "entries of", last)

    def _join(self, session_id: str) -> None:
        self._asked.append(("join", session_id))
        join = sessions_pb.WatchSessionsRequest.Join(session_id=session_id, after_sequence=self.places[session_id])
        self._stream.send(sessions_pb.WatchSessionsRequest(join=join))

    async def _run(self, stream: Stream, life: int) -> None:
        try:
            async for response in self._world.session_service.WatchSessions(stream.requests(), None):
                if life != self._world.life or stream is not self._stream:
                    return
                self._take(response)
                if self.slow:
                    await asyncio.sleep(self._world.chance.choice((0, 0.01, 1, 20)))
        except DomainError as error:
            require(error.reason == "UNAVAILABLE" and (self._world.stopping or life != self._world.life), "a watch ends:", error)

    def _take(self, response: sessions_pb.WatchSessionsResponse) -> None:
        world, model = self._world, self._world.model
        match response.WhichOneof("event"):
            case "joined":
                session_id = response.joined.session.session_id
                # Changes are made in order, so those before this one are made.
                while self._asked.popleft() != ("join", session_id):
                    pass
                if self._leaves(session_id):
                    return
                place = self.places[session_id]
                wanted = response.joined.session.last_sequence if place is None else place
                require(response.joined.after_sequence == wanted, "joined behind", response.joined.after_sequence, "not", wanted)
                self.places[session_id] = wanted
            case "entry":
                entry, session_id = response.entry, response.entry.session_id
                world.note("seen", session_id, entry.sequence)
                if self._leaves(session_id):
                    return
                place = self.places.get(session_id)
                require(place is not None, "an entry of a session that is not watched:", session_id)
                assert place is not None
                require(entry.sequence == place + 1, "a watcher of", session_id, "has seen", place, "and now", entry.sequence)
                log = model.log_of(session_id)
                require(entry.sequence <= len(log), "a watcher has seen what is not there:", entry)
                wanted = log[entry.sequence - 1]
                require(logged(entry) == seen(wanted), "a watcher has seen", logged(entry), "of", seen(wanted))
                self.places[session_id] = entry.sequence
                self._replies.add(wanted.get("id", ""))
                world.counts["entries seen"] += 1
            case "chunk":
                require(response.chunk.message_id not in self._replies, "a chunk after its reply:", response.chunk)
                world.counts["chunks seen"] += 1
            case "end":
                self._end(response.end)

    def _leaves(self, session_id: str) -> bool:
        return ("leave", session_id) in self._asked

    def _end(self, end: sessions_pb.WatchSessionsResponse.End) -> None:
        world, session_id = self._world, end.session_id
        reason = errors_pb2.ErrorReason.Name(end.reason).removeprefix("ERROR_REASON_")
        world.note("end", session_id, reason)
        session = world.model.sessions.get(session_id)
        if reason == "UNSPECIFIED" and self._leaves(session_id):
            # Where the session has expired, nobody can tell whether this is the answer to the leaving or the end that came before it.
            if session is not None and not session.expired:
                self._asked.remove(("leave", session_id))
            return
        place = self.places.pop(session_id, None)
        if reason == "SESSION_NOT_FOUND":
            purging = session is not None and session.is_expired(world.now_ms() - LIMITS.retention_ms)
            require(session is None or purging, "not found, but there:", session_id)
            return
        log = world.model.log_of(session_id)
        require(log and log[-1]["kind"] == "expiry", "the watch of a live session ends:", session_id, reason)
        require(reason in ("UNSPECIFIED", "SESSION_EXPIRED"), "a watch ends with", reason)
        require(place is None or place == len(log), "a watcher of", session_id, "has seen", place, "of", len(log), "at the end")


# Between the API's messages and plain values.


def ms(timestamp: Any) -> int:
    return int(timestamp.seconds * 1000 + timestamp.nanos // 1_000_000)


def plain(struct: Any) -> dict[str, Any]:
    # In an order of its own: that of a map of protobuf is another one each time.
    return dict(sorted(values.plain(struct).items())) if struct.fields else {}


def session(found: session_pb2.Session) -> dict[str, Any]:
    return {
        "id": found.session_id,
        "channel": found.channel_id,
        "agent": found.agent_id,
        "user": found.user_id,
        "metadata": plain(found.metadata),
        "created": ms(found.created_at),
        "expires": ms(found.expires_at),
        "timeout": timeout(found.timeout_config),
        "activity": ms(found.last_activity),
        "renewals": found.renewal_count,
        "left": found.time_remaining_ms,
        "near": found.is_near_expiration,
        "last_sequence": found.last_sequence,
        "etag": found.etag,
    }


def timeout(config: TimeoutMessage) -> tuple[float, bool, float, float]:
    return config.timeout_minutes, config.auto_renew, config.max_duration_minutes, config.warning_threshold_minutes


def message(found: message_pb2.Message) -> dict[str, Any]:
    return {
        "id": found.message_id,
        "session": found.session_id,
        "sequence": found.sequence,
        "author": found.author_id,
        "is_agent": found.is_agent,
        "content": found.content,
        "at": ms(found.created_at),
        "metadata": plain(found.metadata),
        "answers": found.reply_to_sequence,
    }


def entry_of(entry: Entry) -> dict[str, Any]:
    """An entry as the store has it."""
    found: dict[str, Any] = {
        "sequence": entry.sequence,
        "at": entry.at_ms,
        "kind": str(entry.kind),
        "expires": entry.expires_at_ms,
        "renewals": entry.renewal_count,
        "renewed": entry.was_renewed,
        "near": entry.is_near_expiration,
    }
    if entry.message:
        one = entry.message
        found |= {"id": one.id, "content": one.content, "metadata": json.loads(one.metadata), "is_agent": one.is_agent}
        if one.answers is not None:
            found["answers"] = one.answers
    if entry.timeout:
        config = entry.timeout
        found["timeout"] = (config.timeout_minutes, config.auto_renew, config.max_duration_minutes, config.warning_threshold_minutes)
    if entry.failure:
        failure = entry.failure
        found |= {"answers": failure.message_sequence, "attempts": failure.attempts, "message_id": failure.message_id}
    return found


def logged(entry: log_pb2.LogEntry) -> tuple[Any, ...]:
    """An entry as a watcher gets it."""
    standing = entry.session_status
    kind = entry.WhichOneof("event")
    found = getattr(entry, kind)
    match kind:
        case "message":
            detail: Any = (found.message_id, found.content, found.is_agent, found.reply_to_sequence)
        case "timeout_change":
            detail = timeout(found.timeout_config)
        case "expiration_warning":
            detail = found.minutes_remaining
        case "expiry":
            detail = ms(found.expired_at)
        case "reply_failure":
            detail = (found.message_id, found.message_sequence, found.attempts)
        case _:
            detail = None
    status = (ms(standing.expires_at), standing.renewal_count, standing.was_renewed, standing.is_near_expiration)
    return kind, entry.sequence, ms(entry.at), status, detail


def seen(entry: dict[str, Any]) -> tuple[Any, ...]:
    """What a watcher should get of an entry of the model."""
    kind: str = entry["kind"]
    detail: Any = None
    match kind:
        case "message":
            detail = (entry["id"], entry["content"], entry["is_agent"], entry.get("answers", 0))
        case "timeout_change":
            detail = entry["timeout"]
        case "warning":
            kind, detail = "expiration_warning", round((entry["expires"] - entry["at"]) / 60_000, 2)
        case "expiry":
            detail = entry["expires"]
        case "reply_failure":
            detail = (entry["message_id"], entry["answers"], entry["attempts"])
    return kind, entry["sequence"], entry["at"], (entry["expires"], entry["renewals"], entry["renewed"], entry["near"]), detail


def _delivery(delivery_id: str) -> tuple[str, int]:
    session_id, _, sequence = delivery_id.rpartition("-")
    return session_id, int(sequence)


def _timeout_request(wanted: dict[str, Any]) -> TimeoutMessage:
    names = {"timeout": "timeout_minutes", "duration": "max_duration_minutes", "warning": "warning_threshold_minutes"}
    return TimeoutMessage(**{names.get(name, name): value for name, value in wanted.items()})


def _message_request(arguments: dict[str, Any]) -> messages_pb.SendMessageRequest:
    return messages_pb.SendMessageRequest(
        session_id=arguments["session"],
        content=arguments["content"],
        metadata=values.struct(arguments["metadata"]),
        request_id=arguments["request"],
    )


def _sent(response: messages_pb.SendMessageResponse) -> dict[str, Any]:
    standing = response.session_status
    return {
        "message": message(response.message),
        "status": (ms(standing.expires_at), standing.renewal_count, standing.was_renewed, standing.is_near_expiration),
        "replayed": response.replayed,
    }


async def _create(world: World, arguments: dict[str, Any]) -> dict[str, Any]:
    request = sessions_pb.CreateSessionRequest(
        agent_id=arguments["agent"],
        user_id=arguments["user"],
        metadata=values.struct(arguments["metadata"]),
        timeout_config=_timeout_request(arguments["timeout"]),
        request_id=arguments["request"],
    )
    response = await world.session_service.CreateSession(request, None)
    return {"session": session(response.session), "replayed": response.replayed}


async def _get(world: World, arguments: dict[str, Any]) -> dict[str, Any]:
    request = sessions_pb.GetSessionRequest(session_id=arguments["session"])
    return {"session": session((await world.session_service.GetSession(request, None)).session)}


async def _send(world: World, arguments: dict[str, Any]) -> dict[str, Any]:
    return _sent(await world.message_service.SendMessage(_message_request(arguments), None))


async def _heartbeat(world: World, arguments: dict[str, Any]) -> dict[str, Any]:
    request = sessions_pb.SendHeartbeatRequest(session_id=arguments["session"])
    return {"session": session((await world.session_service.SendHeartbeat(request, None)).session)}


async def _renew(world: World, arguments: dict[str, Any]) -> dict[str, Any]:
    request = sessions_pb.RenewSessionRequest(session_id=arguments["session"], etag=arguments["etag"])
    return {"session": session((await world.session_service.RenewSession(request, None)).session)}


async def _patch(world: World, arguments: dict[str, Any]) -> dict[str, Any]:
    config = _timeout_request(arguments["timeout"])
    request = sessions_pb.UpdateTimeoutRequest(session_id=arguments["session"], timeout_config=config, etag=arguments["etag"])
    return {"session": session((await world.session_service.UpdateTimeout(request, None)).session)}


async def _delete(world: World, arguments: dict[str, Any]) -> dict[str, Any]:
    request = sessions_pb.DeleteSessionRequest(session_id=arguments["session"], etag=arguments["etag"])
    await world.session_service.DeleteSession(request, None)
    return {}


async def _list_messages(world: World, arguments: dict[str, Any]) -> dict[str, Any]:
    request = messages_pb.ListMessagesRequest(session_id=arguments["session"], page_size=arguments["limit"])
    for side in ("before", "after"):
        if arguments[side] is not None:
            getattr(request, side).CopyFrom(values.timestamp(arguments[side]))
    response = await world.message_service.ListMessages(request, None)
    answer: dict[str, Any] = {"messages": list(map(message, response.messages)), "has_more": response.has_more}
    if response.messages:
        answer["cursors"] = (ms(response.cursor_before), ms(response.cursor_after))
    return answer


async def _list_sessions(world: World, arguments: dict[str, Any]) -> dict[str, Any]:
    request = sessions_pb.ListSessionsRequest(page_size=arguments["limit"], agent_id=arguments["agent"], user_id=arguments["user"])
    response = await world.session_service.ListSessions(request, None)
    found = list(map(session, response.sessions))
    for one in found:
        del one["etag"]
    stats = response.stats
    return {
        "sessions": found,
        "total": response.total_size,
        "stats": (stats.total_sessions, stats.active_sessions, stats.expired_sessions),
    }


async def _reply(world: World, arguments: dict[str, Any]) -> dict[str, Any]:
    delivery_id = f"{arguments['session']}-{arguments['sequence']}"
    request = agents_pb.ReplyRequest(delivery_id=delivery_id, reply=agents_pb.AgentReply(content=arguments["content"]))
    return {"message": message((await world.agent_service.Reply(request, None)).message)}


CALLS: dict[str, Callable[[World, dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]]] = {
    "create": _create,
    "get": _get,
    "send": _send,
    "heartbeat": _heartbeat,
    "renew": _renew,
    "patch": _patch,
    "delete": _delete,
    "list_messages": _list_messages,
    "list_sessions": _list_sessions,
    "reply": _reply,
}


# What a run needs around it.


@cache
def _template() -> bytes:
    """An empty store: migrating one takes longer than a run."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "store.db"
        prepare(path).release()
        return path.read_bytes()


def _numbered(initialise: Callable[..., None]) -> Callable[..., None]:
    numbers = itertools.count()

    def numbered(watch: Any, *arguments: Any) -> None:
        watch.number = next(numbers)
        initialise(watch, *arguments)

    return numbered


@contextmanager
def world_of(seed: int) -> Iterator[World]:
    """A world on a new file, with everything pinned that would make it another one the next time."""
    memory = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    (directory / "store.db").write_bytes(_template())
    world = World(seed, directory / "store.db")

    def keep(logger: object, level: str, event: dict[str, Any]) -> Any:
        if level in ("error", "critical", "exception"):
            world.errors.append(str(event))
        raise structlog.DropEvent

    state, logging = random.getstate(), structlog.get_config()
    structlog.configure(processors=[keep], cache_logger_on_first_use=False)
    try:
        with (
            mock.patch.object(uuid, "uuid4", world.new_id),
            mock.patch.object(sqlite_module, "SqliteWriter", partial(Writer, world)),
            mock.patch.object(writer_module, "threading"),
            # Watches are kept in sets, whose order would be that of their places in memory.
            mock.patch.object(watch_module.Watch, "__init__", _numbered(watch_module.Watch.__init__)),
            mock.patch.object(watch_module.Watch, "__hash__", lambda watch: watch.number),
            # Nobody sets the clock here, so what is due must be known without looking at it every second.
            mock.patch.object(deadlines_module, "LONGEST_SLEEP_S", 1e6),
            mock.patch.object(purge_module, "STEP_ROWS", 7),
            mock.patch.object(watch_module, "PAGE_ENTRIES", 3),
            world.loop.running(),
        ):
            try:
                yield world
            finally:
                if world.life:
                    world.crash()
    finally:
        random.setstate(state)
        structlog.configure(**logging)
        shutil.rmtree(directory)
