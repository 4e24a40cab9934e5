"""The one thread that writes to the SQLite file, in groups: what queued during one commit goes into the next,
as one batch.
"""

import asyncio
import queue
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import structlog

from server.clock import Clock
from server.domain.errors import (
    DomainError,
    OverloadedError,
    UnavailableError,
)
from server.domain.sessions import Outcome, Session
from server.store.batch import Batch, Operation, strip
from server.store.calls import Call, Changed, Work, answer, trace_group
from server.store.contract import CommitListener
from server.store.operations import Delete
from server.store.sqlite.file import (
    FileLock,
    check_sound,
    connect,
    file_identity,
    is_locked,
    leaves_doubt,
    public_error,
)
from server.store.sqlite.group import load, write
from server.store.sqlite.removal import Pieces, remove, take_left
from server.telemetry.telemetry import OFF, Telemetry
from server.telemetry.traces import NO_TRACES, Traces

T = TypeVar("T")

GROUP_SIZE: Final = 256
DELETED_ROWS: Final = 256
"""How many rows that deleted sessions leave go together with them."""
MAX_RECENT: Final = 1000
"""How many sessions are kept in memory, so that the next group need not load them."""

log = structlog.get_logger()


def no_sessions(_result: object) -> Iterable[str]:
    """Says that work has changed no session."""
    return ()


def _is_nobodys_fault(error: Exception) -> bool:
    """Whether a whole group failed for what none of it has done."""
    return isinstance(error, UnavailableError) or (
        isinstance(error, sqlite3.Error) and (is_locked(error) or leaves_doubt(error))
    )


def _refusal(error: Exception) -> Exception:
    """The error for one member of a group: of its own, where it is typed, because each caller adds its frames
    to it.
    """
    if isinstance(error, UnavailableError):
        return UnavailableError(str(error))
    return strip(public_error(error) if isinstance(error, sqlite3.Error) else error)


class SqliteWriter:
    """Queues operations from the event loop, carries them out on a thread of its own, and answers on the loop
    once they are durable.
    """

    def __init__(
        self,
        path: Path,
        lock: FileLock,
        clock: Clock,
        max_queued: int,
        telemetry: Telemetry = OFF,
        traces: Traces = NO_TRACES,
    ) -> None:
        self._path = path
        self._lock = lock
        self._connection = self._connect()
        self._identity = file_identity(path)
        # After an I/O error nobody knows what the file holds, until it has been opened and checked anew.
        self._sound = True
        # The sessions that groups have written last, as they are stored; none after an error. A session that
        # is about to be written is none of them.
        self.recent: OrderedDict[str, Session] = OrderedDict()
        self._clock = clock
        self._max_queued = max_queued
        self._telemetry = telemetry
        self._traces = traces
        self._pieces = Pieces()
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._closed = False
        self.listeners: list[CommitListener] = []
        self._thread = threading.Thread(target=self._run, name="sqlite-writer", daemon=True)
        self._thread.start()

    async def apply(self, operation: Operation) -> Outcome:
        """Carries out an operation that leaves an outcome. Raises what it raises."""
        return cast(Outcome, await self._submit(operation))

    async def delete(self, operation: Delete) -> None:
        """Removes a session. Raises SessionNotFoundError, EtagMismatchError."""
        await self._submit(operation)

    async def run(
        self,
        work: Callable[[sqlite3.Connection, int], T],
        *,
        in_transaction: bool = True,
        changed: Callable[[T], Iterable[str]] | None = None,
    ) -> T:
        """Runs work on the connection at the present instant in ms, in a transaction of its own, or in none.

        `changed` tells by the result of a transaction the ids of the sessions that it changes, and all others
        stay in memory; without it none does. Raises what the work raises.
        """
        return cast(T, await self._submit(work, in_transaction=in_transaction, changed=changed))

    async def close(self) -> None:
        """Carries out what was queued, then ends the thread and lets go of the file."""
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self._connection.close()

    async def _submit(
        self, task: Operation | Work, *, in_transaction: bool = True, changed: Changed | None = None
    ) -> Any:
        if self._closed:
            raise UnavailableError("The service is stopping")
        parent, now_s = self._traces.current(), self._loop.time()
        call = Call(task, self._loop.create_future(), now_s, parent, in_transaction, changed)
        # Work on anything but sessions is the service's own, and rare.
        if not call.is_alone and self._queue.qsize() >= self._max_queued:
            raise OverloadedError("too many writes are waiting")
        self._queue.put(call)
        await call.future
        if call.error is None:
            return call.result
        try:
            raise call.error
        finally:
            # The error has this frame, which must not have the error.
            del call, task

    def _run(self) -> None:
        for group in self._groups():
            live = [call for call in group if not call.future.cancelled()]
            if live:
                begun_s, begun_ns = self._telemetry.begin(), time.time_ns() if self._traces.is_on else 0
                self._carry_out(live)
                self._telemetry.end_group(len(live), self._telemetry.begin() - begun_s)
                self._loop.call_soon_threadsafe(answer, live, self.listeners)
                if begun_ns:
                    trace_group(self._traces, live, begun_ns)

    def _groups(self) -> Iterator[list[Call]]:
        """What queues, in order, until close; work on anything but sessions is a group of its own."""
        group: list[Call] = []
        while True:
            try:
                call = self._queue.get(block=not group)
            except queue.Empty:
                yield group
                group = []
                continue
            alone = call is None or call.is_alone
            if group and (alone or len(group) == GROUP_SIZE):
                yield group
                group = []
            if call is None:
                return
            group.append(call)
            if alone:
                yield group
                group = []

    def _carry_out(self, group: list[Call]) -> None:
        try:
            self._transaction(group)
        except Exception as error:  # noqa: BLE001 - whatever a rule raises goes to its caller, not to this thread
            if len(group) == 1 or _is_nobodys_fault(error):
                # To try each alone would take as long for each.
                for member in group:
                    member.error = _refusal(error)
                return
        else:
            return
        # Only the culprit is to fail, so each gets a transaction of its own. Not while the first error is
        # handled, which the culprit's would lead to, and so to this frame and to itself.
        for member in group:
            self._carry_out([member])

    def _transaction(self, group: list[Call]) -> None:
        try:
            self._try(group)
        except sqlite3.Error as error:
            if len(group) == 1 or not leaves_doubt(error):
                raise
            # It may be over by now, which the file is asked first.
            self._try(group)

    def _try(self, group: list[Call]) -> None:
        self._require_file()
        try:
            if not self._sound:
                self._open_anew()
            self._commit(group)
        except sqlite3.Error as error:
            self._sound = self._sound and not leaves_doubt(error)
            if not self._lock.is_held():
                # SQLite has made an error of its own of that.
                raise UnavailableError("The store cannot be used now") from error
            raise

    def _require_file(self) -> None:
        """Raises UnavailableError where the file is gone from its place: what was written to it would be lost
        with this process.
        """
        if file_identity(self._path) != self._identity:
            log.error("the store's file is gone from its place", path=str(self._path))
            raise UnavailableError("The store cannot be used now")

    def _require_lock(self) -> None:
        """Raises UnavailableError where another process may have taken the file.

        To be called within a transaction, see `prepare`.
        """
        if not self._lock.is_held():
            log.error(
                "the store's lock is gone from its place: another process may have the file",
                path=str(self._path),
            )
            raise UnavailableError("The store cannot be used now")

    def _connect(self) -> sqlite3.Connection:
        connection = connect(self._path)
        # What a statement may have to take back is kept in memory. SQLite would make a file for it each time.
        connection.execute("PRAGMA temp_store = MEMORY")
        return connection

    def _open_anew(self) -> None:
        """Opens the file again, checks it, and has what is in the WAL written and synced once more.

        Raises sqlite3.Error.
        """
        self._connection.close()
        self._connection = self._connect()
        check_sound(self._connection)
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._sound = True
        log.warning("the store was opened and checked anew after an I/O error")

    def _commit(self, group: list[Call]) -> None:
        try:
            if isinstance(group[0].task, Operation):
                self._apply(group)
            else:
                self._work(group[0], group[0].task)
        except BaseException:
            self.recent.clear()
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _work(self, call: Call, work: Work) -> None:
        if not call.in_transaction:
            self.recent.clear()
            self._require_lock()
            call.result = work(self._connection, self._clock.now_ms())
            return
        self._connection.execute("BEGIN IMMEDIATE")
        self._require_lock()
        call.result = work(self._connection, self._clock.now_ms())
        # Before anybody can read what is stored from now on.
        if call.changed is None:
            self.recent.clear()
        else:
            for session_id in call.changed(call.result):
                self.recent.pop(session_id, None)
        self._connection.execute("COMMIT")

    def _apply(self, calls: list[Call]) -> None:
        batch = Batch([call.task for call in calls if isinstance(call.task, Operation)])
        results = batch.apply(load(self._connection, batch.wanted(), self.recent), self._clock.now_ms)
        for call, result in zip(calls, results, strict=True):
            call.result, call.error = (None, result) if isinstance(result, DomainError) else (result, None)
        written = batch.written()
        for session_id in (*written.removed, *(session.id for session in written.changed)):
            self.recent.pop(session_id, None)
        self._connection.execute("BEGIN IMMEDIATE")
        self._require_lock()
        if written.removed:
            remove(self._connection, written.removed)
            # Most sessions leave no more than this; the purge takes the rest.
            self._pieces.take(DELETED_ROWS, lambda rows: take_left(self._connection, rows))
        write(self._connection, written)
        self._connection.execute("COMMIT")
        for session in (*written.created, *written.changed):
            self.recent[session.id] = session
        while len(self.recent) > MAX_RECENT:
            self.recent.popitem(last=False)
