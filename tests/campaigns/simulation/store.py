"""The store whose writer has no thread: a callback of the loop carries out what is queued, in groups as large
as the seed says.
"""

import contextvars
import queue
import sqlite3
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from server.domain.errors import DomainError
from server.domain.sessions import Outcome, Session
from server.lifecycle import watch
from server.store.batch import Operation
from server.store.sqlite.store import SqliteStore
from server.store.sqlite.writer import SqliteWriter
from tests.campaigns.simulation.calls import CALL, Call
from tests.campaigns.simulation.commits import Step, tell

if TYPE_CHECKING:
    from tests.campaigns.simulation.world import World


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


class Witnessed(Operation):
    """An operation that notes how it was carried out."""

    def __init__(self, operation: Any, call: Call | None, note: Callable[[Step], None]) -> None:
        self._operation, self._call, self._note = operation, call, note
        self.request = operation.request

    def want(self, wanted: Any) -> None:
        self._operation.want(wanted)

    def carry_out(self, batch: Any, now_ms: int) -> Any:
        # A creation has no session before it has made one.
        session_id, sequence = (getattr(self._operation, name, None) for name in ("session_id", "sequence"))
        step = Step(self._call, session_id or "", sequence, now_ms)
        self._note(step)
        try:
            step.result = self._operation.carry_out(batch, now_ms)
        except DomainError as error:
            step.error = error
            raise
        if isinstance(step.result, Outcome):
            step.session_id = step.result.session.id
        return step.result


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

    async def _submit(self, task: Any, **how: Any) -> Any:
        # A watch that looks whether a session was deleted does so for itself, also where a call has joined
        # it.
        call = None if getattr(task, "rule", None) is watch._look else CALL.get()
        if isinstance(task, Operation):
            return await super()._submit(Witnessed(task, call, self._steps.append), **how)

        def work(connection: Any, now_ms: int) -> Any:
            step = Step(call, None, None, now_ms)
            self._steps.append(step)
            step.result = task(connection, now_ms)
            return step.result

        return await super()._submit(work, **how)

    def witness(self, step: Step) -> None:
        self._steps.append(step)

    def _commit(self, group: Any) -> None:
        self._steps.clear()
        super()._commit(group)
        tell(self._world, list(self._steps))

    def _wake(self) -> None:
        if self._due:
            return
        self._due = True
        chance = self._world.chance.random()
        # In a context of its own, lest what the service does by itself seem to be the call's that queued
        # first.
        if chance < 0.7:
            self._loop.call_soon(self._carry_out_some, context=contextvars.Context())
        else:
            slowest = 0.02 if chance < 0.95 else 0.2
            self._loop.call_later(
                self._world.chance.uniform(0, slowest), self._carry_out_some, context=contextvars.Context()
            )

    def _carry_out_some(self) -> None:
        self._due = False
        waiting = self._queue.waiting
        if self.dead or not waiting:
            return
        count = (
            len(waiting) if self._world.chance.random() < 0.6 else self._world.chance.randint(1, len(waiting))
        )
        self._queue.taken.extend(waiting[:count])
        # The end of what the thread would take.
        self._queue.taken.append(None)
        del waiting[:count]
        self._run()
        if waiting:
            self._wake()


class Store(SqliteStore):
    """The store, into whose reads the writer commits: in one callback of the loop, two reads need not see the
    same.
    """

    world: "World"

    def _guarded(self, read: Any, connection: sqlite3.Connection) -> Any:
        call = CALL.get()
        # What the model foresees of a read call is of one instant.
        if (call is None or call.arguments["kind"] == "connect") and self.world.chance.random() < 0.1:
            self._writer._carry_out_some()  # type: ignore[attr-defined]
        return super()._guarded(read, connection)

    async def apply_due(self, rule: Any, due_ms: int, limit: int) -> int:
        writer: Any = self._writer

        def witnessed(session: Session, now_ms: int) -> Outcome:
            outcome = rule(session, now_ms)
            writer.witness(Step(None, session.id, None, now_ms, outcome))
            return outcome

        return await super().apply_due(witnessed, due_ms, limit)
