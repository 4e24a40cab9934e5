"""The one thread that writes to the SQLite file, in groups: what queued during one commit goes into the next.

A group of operations on sessions is carried out in memory, in order of arrival, and written set by set in one transaction. Python hands
over the interpreter at every SQLite step, so a group costs a handful of steps however many operations it has.
"""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast

import orjson

from server.clock import Clock
from server.domain.errors import DomainError, SessionNotFoundError, UnavailableError
from server.domain.events import Entry
from server.domain.sessions import Outcome, Rule, Session
from server.store import sqlite_rows as rows
from server.store.base import Commit, CommitListener
from server.store.sqlite_file import public_error

T = TypeVar("T")

GROUP_SIZE: Final = 256


def _values(count: int) -> str:
    return ", ".join(f"item.value ->> {index}" for index in range(count))


_CHANGING = (*rows.SESSION_CHANGING, "due_at_ms")
_LOAD = f"SELECT {', '.join(rows.SESSION)} FROM sessions WHERE id IN (SELECT value FROM json_each(?))"
_INSERT_SESSIONS = (
    f"INSERT INTO sessions ({', '.join((*rows.SESSION_FIXED, *_CHANGING))}) "
    f"SELECT {_values(len(rows.SESSION_FIXED) + len(_CHANGING))} FROM json_each(?) AS item"
)
_UPDATE_SESSIONS = (
    f"UPDATE sessions SET ({', '.join(_CHANGING)}) = ({_values(len(_CHANGING))}) FROM json_each(?) AS item "
    f"WHERE sessions.id = item.value ->> {len(_CHANGING)}"
)
_INSERT_ENTRIES = f"INSERT INTO log ({', '.join(rows.ENTRY)}) SELECT {_values(len(rows.ENTRY))} FROM json_each(?) AS item"
_DELETE_SESSIONS = "DELETE FROM sessions WHERE id IN (SELECT value FROM json_each(?))"


@dataclass(slots=True, eq=False)
class _Operation:
    """Something to write, who waits for it, and what came of it. `session_id` is None for work on anything but sessions."""

    future: asyncio.Future[Any]
    work: Callable[[Any, int], Any]
    session_id: str | None
    result: Any = None
    error: BaseException | None = None


@dataclass(slots=True)
class _Group:
    """The sessions of a group as its operations have left them so far (None: not there), and what there is to write."""

    sessions: dict[str, Session | None]
    created: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    entries: list[Entry] = field(default_factory=list)

    def session(self, session_id: str) -> Session:
        session = self.sessions.get(session_id)
        if session is None:
            raise SessionNotFoundError(session_id)
        return session


class SqliteWriter:
    """Queues operations from the event loop, carries them out on a thread of its own, and answers on the loop once they are durable."""

    def __init__(self, connection: sqlite3.Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._closed = False
        self.listeners: list[CommitListener] = []
        self._thread = threading.Thread(target=self._run, name="sqlite-writer", daemon=True)
        self._thread.start()

    async def create(self, session: Session) -> None:
        """Adds a session."""

        def work(group: _Group, now_ms: int) -> Outcome:
            group.sessions[session.id] = session
            group.created.add(session.id)
            return Outcome(session)

        await self._submit(work, session.id)

    async def apply(self, session_id: str, rule: Rule) -> Outcome:
        """Applies a rule to a session. Raises SessionNotFoundError and what the rule raises."""

        def work(group: _Group, now_ms: int) -> Outcome:
            session = group.session(session_id)
            outcome = rule(session, now_ms)
            if outcome.session is not session:
                group.sessions[session_id] = outcome.session
                group.changed.add(session_id)
                group.entries.extend(outcome.entries)
            return outcome

        return cast(Outcome, await self._submit(work, session_id))

    async def delete(self, session_id: str) -> None:
        """Removes a session. Raises SessionNotFoundError."""

        def work(group: _Group, now_ms: int) -> str:
            group.session(session_id)
            group.sessions[session_id] = None
            group.deleted.add(session_id)
            return session_id

        await self._submit(work, session_id)

    async def run(self, work: Callable[[sqlite3.Connection, int], T]) -> T:
        """Runs work on the connection at the present instant in ms, in a transaction of its own. Raises what the work raises."""
        return cast(T, await self._submit(work, None))

    async def close(self) -> None:
        """Carries out what was queued, then ends the thread."""
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    async def _submit(self, work: Callable[[Any, int], Any], session_id: str | None) -> Any:
        if self._closed:
            raise UnavailableError("The service is stopping")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put(_Operation(future, work, session_id))
        return await future

    def _run(self) -> None:
        for group in self._groups():
            live = [operation for operation in group if not operation.future.cancelled()]
            if live:
                self._carry_out(live)
                self._loop.call_soon_threadsafe(self._answer, live)

    def _groups(self) -> Iterator[list[_Operation]]:
        """What queues, in order, until close; work on anything but sessions is a group of its own."""
        group: list[_Operation] = []
        while True:
            try:
                operation = self._queue.get(block=not group)
            except queue.Empty:
                yield group
                group = []
                continue
            alone = operation is None or operation.session_id is None
            if group and (alone or len(group) == GROUP_SIZE):
                yield group
                group = []
            if operation is None:
                return
            group.append(operation)
            if alone:
                yield group
                group = []

    def _carry_out(self, group: list[_Operation]) -> None:
        try:
            self._transaction(group)
        except Exception as error:  # noqa: BLE001 - whatever a rule raises goes to its caller, not to this thread
            if len(group) > 1:
                # Only the culprit is to fail, so each gets a transaction of its own.
                for member in group:
                    self._carry_out([member])
            else:
                group[0].error = public_error(error) if isinstance(error, sqlite3.Error) else error

    def _transaction(self, group: list[_Operation]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            if group[0].session_id is None:
                group[0].result = group[0].work(self._connection, self._clock.now_ms())
            else:
                self._write(self._apply(group))
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _apply(self, operations: list[_Operation]) -> _Group:
        ids = orjson.dumps(list({operation.session_id for operation in operations})).decode()
        loaded = map(rows.session_of, self._connection.execute(_LOAD, (ids,)).fetchall())
        group = _Group({session.id: session for session in loaded})
        for operation in operations:
            try:
                operation.result, operation.error = operation.work(group, self._clock.now_ms()), None
            except DomainError as error:
                operation.error = error
        return group

    def _write(self, group: _Group) -> None:
        gone = group.deleted
        if created := self._present(group, group.created):
            self._execute(_INSERT_SESSIONS, ((*rows.session_fixed_row(s), *rows.session_changing_row(s)) for s in created))
        if changed := self._present(group, group.changed - group.created):
            self._execute(_UPDATE_SESSIONS, ((*rows.session_changing_row(s), s.id) for s in changed))
        if entries := [entry for entry in group.entries if entry.session_id not in gone]:
            self._execute(_INSERT_ENTRIES, map(rows.entry_row, entries))
        if gone:
            self._execute(_DELETE_SESSIONS, gone)

    @staticmethod
    def _present(group: _Group, ids: set[str]) -> list[Session]:
        return [session for session in map(group.sessions.get, ids) if session is not None]

    def _answer(self, group: list[_Operation]) -> None:
        done = [operation for operation in group if operation.session_id is not None and operation.error is None]
        results = [operation.result for operation in done]
        # A creation and a rule leave an outcome, a deletion the session's id.
        commit = Commit(
            [result for result in results if isinstance(result, Outcome)], [result for result in results if isinstance(result, str)]
        )
        for listener in self.listeners:
            listener(commit)
        for operation in group:
            if operation.future.cancelled():
                continue
            if operation.error is None:
                operation.future.set_result(operation.result)
            else:
                operation.future.set_exception(operation.error)

    def _execute(self, statement: str, items: Iterable[Any]) -> None:
        self._connection.execute(statement, (orjson.dumps(list(items)).decode(),))
