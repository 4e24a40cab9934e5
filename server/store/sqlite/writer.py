"""The one thread that writes to the SQLite file, in groups: what queued during one commit goes into the next.

A group of operations on sessions is carried out in memory, in order of arrival, and written set by set in one transaction. Python hands
over the interpreter at every SQLite step, so a group costs a handful of steps however many operations it has.
"""

import asyncio
import queue
import sqlite3
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import orjson
import structlog

from server.clock import Clock
from server.domain.deliveries import OPEN_STATES, Delivery, DeliveryState
from server.domain.errors import (
    DeliveryNotFoundError,
    DomainError,
    OverloadedError,
    SessionExpiredError,
    SessionNotFoundError,
    UnavailableError,
)
from server.domain.events import Entry
from server.domain.replies import DeliveryRule
from server.domain.requests import Request, require_same
from server.domain.sessions import Outcome, Rule, Session, require_etag
from server.store.contract import Commit, CommitListener
from server.store.sqlite import rows
from server.store.sqlite.counts import change_counts
from server.store.sqlite.file import FileLock, check_sound, connect, file_identity, is_locked, leaves_doubt, public_error
from server.store.sqlite.removal import IS_THERE, Pieces, remove, take_left

T = TypeVar("T")

GROUP_SIZE: Final = 256
DELETED_ROWS: Final = 256
"""How many rows that deleted sessions leave go together with them."""

log = structlog.get_logger()


_CHANGING = (*rows.SESSION_CHANGING, "due_at_ms")
_LOAD = f"SELECT {', '.join(rows.SESSION)} FROM sessions WHERE id IN (SELECT value FROM json_each(?))"
_INSERT_SESSIONS = (
    f"INSERT INTO sessions ({', '.join((*rows.SESSION_FIXED, *_CHANGING))}) "
    f"SELECT {rows.item_values(len(rows.SESSION_FIXED) + len(_CHANGING))} FROM json_each(?) AS item"
)
# Leaves out `expired`, or SQLite would write each session anew into the four indexes of live sessions.
_UPDATED = {column: index for index, column in enumerate(_CHANGING) if column != "expired"}
_UPDATE_SESSIONS = (
    f"UPDATE sessions SET ({', '.join(_UPDATED)}) = ({', '.join(f'item.value ->> {index}' for index in _UPDATED.values())}) "
    f"FROM json_each(?) AS item WHERE sessions.id = item.value ->> {len(_CHANGING)}"
)
_EXPIRE_SESSIONS = "UPDATE sessions SET expired = true WHERE id IN (SELECT value FROM json_each(?))"
_INSERT_ENTRIES = f"INSERT INTO log ({', '.join(rows.ENTRY)}) SELECT {rows.item_values(len(rows.ENTRY))} FROM json_each(?) AS item"
_LOAD_DELIVERIES = (
    f"SELECT {', '.join(f'deliveries.{column}' for column in rows.DELIVERY)} FROM json_each(?) AS item CROSS JOIN deliveries "
    "ON deliveries.session_id = item.value ->> 0 AND deliveries.sequence = item.value ->> 1"
)
_CHANGING_DELIVERY = rows.DELIVERY[2:]
_PUT_DELIVERIES = (
    f"INSERT INTO deliveries ({', '.join(rows.DELIVERY)}) "
    f"SELECT {rows.item_values(len(rows.DELIVERY))} FROM json_each(?) AS item WHERE true "
    f"ON CONFLICT DO UPDATE SET ({', '.join(_CHANGING_DELIVERY)}) = "
    f"({', '.join(f'excluded.{column}' for column in _CHANGING_DELIVERY)})"
)
_CLOSE_DELIVERIES = (
    f"UPDATE deliveries INDEXED BY deliveries_open SET state = '{DeliveryState.FAILED}', due_at_ms = NULL "
    f"WHERE session_id IN (SELECT value FROM json_each(?)) AND state IN {rows.OPEN}"
)
_LOAD_REQUESTS = (
    "SELECT requests.scope, requests.id, fingerprint, answer, session_id FROM json_each(?) AS item CROSS JOIN requests "
    f"ON requests.scope = item.value ->> 0 AND requests.id = item.value ->> 1 AND {IS_THERE.format('session_id')}"
)
# One that is there under the same name was left by a session that is gone.
_PUT_REQUESTS = (
    "INSERT OR REPLACE INTO requests (scope, id, fingerprint, answer, created_at_ms, session_id) "
    f"SELECT {rows.item_values(6)} FROM json_each(?) AS item"
)
_LOAD_ENTRY = f"SELECT {', '.join(rows.ENTRY)} FROM log WHERE session_id = ? AND sequence = ?"


@dataclass(slots=True, eq=False)
class _Operation:
    """Something to write, who waits for it, and what came of it. `session_id` is None for work on anything but sessions.

    `sequence` is that of the delivery it is about, if it is about one; `request` the one that it carries out, if it has an id.
    """

    future: asyncio.Future[Any]
    work: Callable[[Any, int], Any]
    session_id: str | None
    sequence: int | None
    request: Request | None
    result: Any = None
    error: BaseException | None = None


@dataclass(slots=True)
class _Group:
    """The sessions and deliveries of a group as its operations have left them so far (None: not there), and what there is to write.

    `stored` are the sessions as they were before the group.
    `requests` are those that are known: by scope and id their fingerprints, answers, and the ids of the sessions that they go with.
    """

    connection: sqlite3.Connection
    sessions: dict[str, Session | None]
    stored: dict[str, Session]
    deliveries: dict[tuple[str, int], Delivery] = field(default_factory=dict)
    requests: dict[tuple[str, str], tuple[str, Any, str]] = field(default_factory=dict)
    new_requests: list[tuple[Request, Any, int, str]] = field(default_factory=list)
    created: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    expired: set[str] = field(default_factory=set)
    entries: list[Entry] = field(default_factory=list)
    delivered: set[tuple[str, int]] = field(default_factory=set)

    def session(self, session_id: str) -> Session:
        session = self.sessions.get(session_id)
        if session is None:
            raise SessionNotFoundError(session_id)
        return session

    def delivery(self, session_id: str, sequence: int) -> Delivery:
        delivery = self.deliveries.get((session_id, sequence))
        if delivery is None:
            raise DeliveryNotFoundError(f"{session_id}-{sequence}")
        if session_id in self.expired and delivery.state in OPEN_STATES:
            # It is closed together with the session, at the end of this very group.
            return replace(delivery, state=DeliveryState.FAILED, due_at_ms=None)
        return delivery

    def known(self, request: Request | None) -> Any:
        """The answer to a request that was made before; None when it was not. Raises RequestIdReusedError."""
        if request is None or (request.scope, request.id) not in self.requests:
            return None
        fingerprint, answer, session_id = self.requests[request.scope, request.id]
        if session_id in self.deleted:
            # It goes with its session, so its id is free.
            return None
        require_same(request, fingerprint)
        return answer

    def remember(self, request: Request | None, answer: Any, now_ms: int, session_id: str) -> None:
        if request:
            self.requests[request.scope, request.id] = request.fingerprint, answer, session_id
            self.new_requests.append((request, answer, now_ms, session_id))

    def entry(self, session: Session, sequence: int) -> Entry:
        """An entry of a session's log. Raises SessionExpiredError where the purge of an older version took it and left its request."""
        for entry in self.entries:
            if (entry.session_id, entry.sequence) == (session.id, sequence):
                return entry
        found = self.connection.execute(_LOAD_ENTRY, (session.id, sequence)).fetchone()
        if found is None:
            raise SessionExpiredError(session.id, session.expires_at_ms)
        return rows.entry_of(found)

    def take(self, before: Session, outcome: Outcome) -> None:
        """Notes what a rule has done to a session."""
        session = outcome.session
        if session is not before:
            self.sessions[session.id] = session
            self.changed.add(session.id)
            self.entries.extend(outcome.entries)
            if session.expired and not before.expired:
                self.expired.add(session.id)
        for delivery in outcome.deliveries:
            key = delivery.session_id, delivery.sequence
            self.deliveries[key] = delivery
            self.delivered.add(key)


def _changed_counts(group: _Group) -> Counter[rows.CountKey]:
    """By how much a group changes each count of sessions."""
    changes: Counter[rows.CountKey] = Counter()
    for session_id in group.created | group.changed | group.deleted:
        before, after = group.stored.get(session_id), group.sessions.get(session_id)
        if before and after and (before.warned, before.expired) == (after.warned, after.expired):
            continue
        changes.update(rows.counts_of(after) if after else ())
        changes.subtract(rows.counts_of(before) if before else ())
    return changes


def _is_nobodys_fault(error: Exception) -> bool:
    """Whether a whole group failed for what none of it has done."""
    return isinstance(error, UnavailableError) or (isinstance(error, sqlite3.Error) and (is_locked(error) or leaves_doubt(error)))


def _refusal(error: Exception) -> Exception:
    """The error for one member of a group: of its own, where it is typed, because each caller adds its frames to it."""
    if isinstance(error, UnavailableError):
        return UnavailableError(str(error))
    return _stripped(public_error(error) if isinstance(error, sqlite3.Error) else error)


def _stripped(error: Exception) -> Exception:
    """The error without what its frames hold; the lines that it came through stay, for the log."""
    traceback.clear_frames(error.__traceback__)
    # The first is that of who caught it: it runs, and has the operation that will have the error.
    return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)


class SqliteWriter:
    """Queues operations from the event loop, carries them out on a thread of its own, and answers on the loop once they are durable."""

    def __init__(self, path: Path, lock: FileLock, clock: Clock, max_queued: int) -> None:
        self._path = path
        self._lock = lock
        self._connection = connect(path)
        self._identity = file_identity(path)
        # After an I/O error nobody knows what the file holds, until it has been opened and checked anew.
        self._sound = True
        self._clock = clock
        self._max_queued = max_queued
        self._pieces = Pieces()
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._closed = False
        self.listeners: list[CommitListener] = []
        self._thread = threading.Thread(target=self._run, name="sqlite-writer", daemon=True)
        self._thread.start()

    async def create(self, session: Session, request: Request | None) -> Outcome:
        """Adds a session, unless the request has made one before. Raises RequestIdReusedError."""

        def work(group: _Group, now_ms: int) -> Outcome:
            if made := group.known(request):
                return Outcome(rows.session_from_json(made), replayed=True)
            group.sessions[session.id] = session
            group.created.add(session.id)
            group.remember(request, session, now_ms, session.id)
            return Outcome(session)

        return cast(Outcome, await self._submit(work, session.id, request=request))

    async def apply(self, session_id: str, rule: Rule, request: Request | None) -> Outcome:
        """Applies a rule to a session, unless the request has done so before.

        Raises SessionNotFoundError, RequestIdReusedError and what the rule raises.
        """

        def work(group: _Group, now_ms: int) -> Outcome:
            session = group.session(session_id)
            if sequence := group.known(request):
                return Outcome(session, (group.entry(session, sequence),), replayed=True)
            outcome = rule(session, now_ms)
            group.take(session, outcome)
            if request:
                group.remember(request, outcome.entries[0].sequence, now_ms, session_id)
            return outcome

        return cast(Outcome, await self._submit(work, session_id, request=request))

    async def apply_delivery(self, session_id: str, sequence: int, rule: DeliveryRule) -> Outcome:
        """Applies a rule to a delivery. Raises SessionNotFoundError, DeliveryNotFoundError and what the rule raises."""

        def work(group: _Group, now_ms: int) -> Outcome:
            session = group.session(session_id)
            outcome = rule(session, group.delivery(session_id, sequence), now_ms)
            group.take(session, outcome)
            return outcome

        return cast(Outcome, await self._submit(work, session_id, sequence))

    async def delete(self, session_id: str, etag: str) -> None:
        """Removes a session. Raises SessionNotFoundError, EtagMismatchError."""

        def work(group: _Group, now_ms: int) -> str:
            require_etag(group.session(session_id), etag)
            group.sessions[session_id] = None
            group.deleted.add(session_id)
            return session_id

        await self._submit(work, session_id)

    async def run(self, work: Callable[[sqlite3.Connection, int], T]) -> T:
        """Runs work on the connection at the present instant in ms, in a transaction of its own. Raises what the work raises."""
        return cast(T, await self._submit(work, None))

    async def close(self) -> None:
        """Carries out what was queued, then ends the thread and lets go of the file."""
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self._connection.close()

    async def _submit(
        self, work: Callable[[Any, int], Any], session_id: str | None, sequence: int | None = None, request: Request | None = None
    ) -> Any:
        if self._closed:
            raise UnavailableError("The service is stopping")
        # Work on anything but sessions is the service's own, and rare.
        if session_id is not None and self._queue.qsize() >= self._max_queued:
            raise OverloadedError("too many writes are waiting")
        operation = _Operation(self._loop.create_future(), work, session_id, sequence, request)
        self._queue.put(operation)
        await operation.future
        if operation.error is None:
            return operation.result
        try:
            raise operation.error
        finally:
            # The error has this frame, which must not have the error.
            del operation, work

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
            if len(group) == 1 or _is_nobodys_fault(error):
                # To try each alone would take as long for each.
                for member in group:
                    member.error = _refusal(error)
            else:
                # Only the culprit is to fail, so each gets a transaction of its own.
                for member in group:
                    self._carry_out([member])

    def _transaction(self, group: list[_Operation]) -> None:
        try:
            self._try(group)
        except sqlite3.Error as error:
            if len(group) == 1 or not leaves_doubt(error):
                raise
            # It may be over by now, which the file is asked first.
            self._try(group)

    def _try(self, group: list[_Operation]) -> None:
        self._require_file()
        try:
            if not self._sound:
                self._open_anew()
            self._commit(group)
        except sqlite3.Error as error:
            self._sound = self._sound and not leaves_doubt(error)
            raise

    def _require_file(self) -> None:
        """Raises UnavailableError where the file is gone from its place: what was written to it would be lost with this process."""
        if file_identity(self._path) != self._identity:
            log.error("the store's file is gone from its place", path=str(self._path))
            raise UnavailableError("The store cannot be used now")

    def _require_lock(self) -> None:
        """Raises UnavailableError where another process may have taken the file. To be called within a transaction, see `prepare`."""
        if not self._lock.is_held():
            log.error("the store's lock is gone from its place: another process may have the file", path=str(self._path))
            raise UnavailableError("The store cannot be used now")

    def _open_anew(self) -> None:
        """Opens the file again, checks it, and has what is in the WAL written and synced once more. Raises sqlite3.Error."""
        self._connection.close()
        self._connection = connect(self._path)
        check_sound(self._connection)
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._sound = True
        log.warning("the store was opened and checked anew after an I/O error")

    def _commit(self, group: list[_Operation]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._require_lock()
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
        stored = {session.id: session for session in loaded}
        group = _Group(self._connection, dict(stored), stored)
        if keys := {(operation.session_id, operation.sequence) for operation in operations if operation.sequence is not None}:
            found = self._connection.execute(_LOAD_DELIVERIES, (orjson.dumps(list(keys)).decode(),)).fetchall()
            group.deliveries = {(row[0], row[1]): rows.delivery_of(row) for row in found}
        if names := {(operation.request.scope, operation.request.id) for operation in operations if operation.request}:
            known = self._connection.execute(_LOAD_REQUESTS, (orjson.dumps(list(names)).decode(),)).fetchall()
            group.requests = {(row[0], row[1]): (row[2], orjson.loads(row[3]), row[4]) for row in known}
        for operation in operations:
            try:
                operation.result, operation.error = operation.work(group, self._clock.now_ms()), None
            except DomainError as error:
                operation.error = _stripped(error)
        return group

    def _write(self, group: _Group) -> None:
        gone = group.deleted
        if gone:
            # First, because a create of this very group may have a request id that this frees.
            remove(self._connection, orjson.dumps(list(gone)).decode())
            # Most sessions leave no more than this; the purge takes the rest.
            self._pieces.take(DELETED_ROWS, lambda rows: take_left(self._connection, rows))
        if created := self._present(group, group.created):
            self._execute(_INSERT_SESSIONS, ((*rows.session_fixed_row(s), *rows.session_changing_row(s)) for s in created))
        if changed := self._present(group, group.changed - group.created):
            self._execute(_UPDATE_SESSIONS, ((*rows.session_changing_row(s), s.id) for s in changed))
        change_counts(self._connection, _changed_counts(group))
        if entries := [entry for entry in group.entries if entry.session_id not in gone]:
            self._execute(_INSERT_ENTRIES, map(rows.entry_row, entries))
        if delivered := [group.deliveries[key] for key in group.delivered if key[0] not in gone]:
            self._execute(_PUT_DELIVERIES, map(rows.delivery_row, delivered))
        if group.expired:
            self._execute(_EXPIRE_SESSIONS, group.expired)
            self._execute(_CLOSE_DELIVERIES, group.expired)
        if new_requests := [new for new in group.new_requests if new[-1] not in gone]:
            self._execute(
                _PUT_REQUESTS,
                (
                    (one.scope, one.id, one.fingerprint, orjson.dumps(answer).decode(), at_ms, session_id)
                    for one, answer, at_ms, session_id in new_requests
                ),
            )

    @staticmethod
    def _present(group: _Group, ids: set[str]) -> list[Session]:
        return [session for session in map(group.sessions.get, ids) if session is not None]

    def _answer(self, group: list[_Operation]) -> None:
        done = [operation for operation in group if operation.session_id is not None and operation.error is None]
        results = [operation.result for operation in done]
        # A creation and a rule leave an outcome, a deletion the session's id.
        commit = Commit(
            [result for result in results if isinstance(result, Outcome) and not result.replayed],
            [result for result in results if isinstance(result, str)],
        )
        for listener in self.listeners:
            listener(commit)
        for operation in group:
            if operation.future.cancelled():
                continue
            # A future would hand its error to a frame that has the future.
            operation.future.set_result(None)

    def _execute(self, statement: str, items: Iterable[Any]) -> None:
        self._connection.execute(statement, (orjson.dumps(list(items)).decode(),))
