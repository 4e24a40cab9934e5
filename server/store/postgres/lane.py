"""A lane: one coroutine with one connection, which writes in groups what has queued.

A group is one transaction in two round trips: lock and load; then write, leave the group's token, and commit.
Rules are pure and nobody is answered before the end: whatever fails for a while, the group is done again.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, cast

import psycopg
import structlog

from server.domain.errors import DomainError, OutcomeUnknownError, OverloadedError, UnavailableError
from server.domain.sessions import Outcome
from server.store.batch import Batch, Operation, strip
from server.store.calls import Call, Work, answer, trace_group
from server.store.contract import CommitListener
from server.store.postgres.errors import AGAIN, READ_ONLY, is_away, is_passing
from server.store.postgres.group import (
    NOW,
    begin,
    is_empty,
    lock_and_load,
    put_token,
    write,
)
from server.store.postgres.link import KeptLink, end_of
from server.store.postgres.place import Link, Place
from server.store.postgres.tokens import new_token, settle
from server.telemetry.telemetry import OFF, Telemetry
from server.telemetry.traces import NO_TRACES, Traces

T = TypeVar("T")

GROUP_SIZE: Final = 256
MOST_TRIES: Final = 5
"""How often a group is done that others get in the way of, or whose end is not heard of."""
LONGEST_JITTER_S: Final = 0.05

log = structlog.get_logger()


class _InDoubt(Exception):  # noqa: N818
    """The end of a transaction that was to commit is not known."""


class Lane:
    """See the module. `number`: its rows among the counts."""

    def __init__(
        self,
        place: Place,
        number: int,
        listeners: list[CommitListener],
        on_time: Callable[[int], None],
        most_queued: int,
        telemetry: Telemetry = OFF,
        traces: Traces = NO_TRACES,
    ) -> None:
        """`on_time` is told the service's time, in ms, whenever the database says it."""
        self.number = number
        self._link = KeptLink(place, "writes")
        self._listeners = listeners
        self._on_time = on_time
        self._most_queued = most_queued
        self._telemetry = telemetry
        self._traces = traces
        self._queue: list[Call] = []
        self._woken = asyncio.Event()
        self._is_closed = False
        # Whether the present try has sent what ends with COMMIT.
        self._is_sent = False
        self._task = asyncio.create_task(self._run())

    async def apply(self, operation: Operation) -> Outcome:
        """Carries out an operation that leaves an outcome. Raises what it raises."""
        return cast(Outcome, await self._submit(operation))

    async def delete(self, operation: Operation) -> None:
        """Removes a session. Raises SessionNotFoundError, EtagMismatchError."""
        await self._submit(operation)

    async def run(self, work: Callable[[Link, int], Awaitable[T]]) -> T:
        """Does work in a transaction of its own, at the service's time in ms. Raises what it raises."""
        return cast(T, await self._submit(work))

    async def close(self) -> None:
        """Carries out what was queued, then lets go of the connection."""
        self._is_closed = True
        self._woken.set()
        await end_of(self._task)

    async def _submit(self, task: Operation | Work) -> Any:
        if self._is_closed:
            raise UnavailableError("The service is stopping")
        loop = asyncio.get_running_loop()
        call = Call(task, loop.create_future(), loop.time(), self._traces.current())
        # Other work is the service's own, and rare.
        if not call.is_alone and len(self._queue) >= self._most_queued:
            raise OverloadedError("too many writes are waiting")
        self._queue.append(call)
        self._woken.set()
        await call.future
        if call.error is None:
            return call.result
        try:
            raise call.error
        finally:
            # The error has this frame, which must not have the error.
            del call, task

    async def _run(self) -> None:
        while self._queue or not self._is_closed:
            if not self._queue:
                self._woken.clear()
                await self._woken.wait()
                continue
            live = [call for call in self._take() if not call.future.cancelled()]
            if live:
                begun_s, begun_ns = self._telemetry.begin(), time.time_ns() if self._traces.is_on else 0
                await self._carry_out(live)
                self._telemetry.end_group(len(live), self._telemetry.begin() - begun_s)
                answer(live, self._listeners)
                if begun_ns:
                    trace_group(self._traces, live, begun_ns)
        await self._link.drop()

    def _take(self) -> list[Call]:
        """The next group; work on anything but sessions is a group of its own."""
        size = 0
        for call in self._queue[:GROUP_SIZE]:
            if call.is_alone:
                break
            size += 1
        group = self._queue[: size or 1]
        del self._queue[: size or 1]
        return group

    async def _carry_out(self, group: list[Call]) -> None:
        try:
            await self._transaction(group)
        except Exception as error:  # noqa: BLE001 - whatever a rule raises goes to its caller
            if len(group) == 1 or _is_nobodys_fault(error):
                # To try each alone would take as long for each.
                public = self._link.refuse(error)
                for member in group:
                    member.error = _own(public)
                return
        else:
            return
        # Only the culprit is to fail, so each gets a transaction of its own. Not while the first error is
        # handled, which the culprit's would lead to.
        for member in group:
            await self._carry_out([member])

    async def _transaction(self, group: list[Call]) -> None:
        """Does a group until it is done. Raises what it fails with; nothing is written then.

        :raises OutcomeUnknownError: nobody can say now whether it is written
        """
        # That of the call that came last: `_give_up_late` ends the others in their time.
        end_s = group[-1].since_s + self._link.place.wait_s
        tries_left = MOST_TRIES
        while True:
            # A connection that was there may have been cut, which says nothing of the next.
            was_open, loop = not self._link.is_lost, asyncio.get_running_loop()
            token = new_token()
            self._is_sent = self._link.has_warned = False
            try:
                link = await self._link.open()
                with self._link.bounded():
                    await self._try(link, group, token)
            except Exception as error:
                if await self._is_in_doubt(error):
                    if await self._settle(token):
                        return
                    tries_left -= 1
                    if not tries_left:
                        raise UnavailableError("The store cannot be used now") from error
                elif _is_to_be_done_again(error) and tries_left > 1:
                    tries_left -= 1
                    await asyncio.sleep(random.random() * LONGEST_JITTER_S)
                elif is_away(error) and (was_open or loop.time() < end_s):
                    if not was_open:
                        self._give_up_late(group, error)
                    await self._link.pause()
                else:
                    raise
            else:
                return

    def _give_up_late(self, group: list[Call], error: Exception) -> None:
        """Answers those that have waited for as long as a call may, and takes them out of a group of which
        nothing is written. The last one stays.
        """
        latest_s = asyncio.get_running_loop().time() - self._link.place.wait_s
        late = [call for call in group[:-1] if call.since_s <= latest_s]
        if late:
            group[:-1] = [call for call in group[:-1] if call.since_s > latest_s]
            public = self._link.refuse(error)
            for call in late:
                call.result, call.error = None, _own(public)
            answer(late, ())

    async def _is_in_doubt(self, error: Exception) -> bool:
        """Ends the transaction that has failed; tells whether it may be committed all the same."""
        if isinstance(error, _InDoubt):
            await self._link.drop()
            return True
        if getattr(error, "sqlstate", None) == READ_ONLY:
            # Another server takes writes by now, or will.
            await self._link.drop()
            return False
        is_lost = self._link.is_lost or is_away(error)
        if not is_lost:
            try:
                link = await self._link.open()
                with self._link.bounded():
                    await link.execute("ROLLBACK")
            except psycopg.Error:
                is_lost = True
        if is_lost:
            await self._link.drop()
        return is_lost and self._is_sent

    async def _settle(self, token: str) -> bool:
        """Finds out whether a transaction with this token has been committed; if not, it never will be.

        Raises OutcomeUnknownError where the database is away for too long.
        """
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._link.place.wait_s
        while True:
            self._link.has_warned = False
            try:
                link = await self._link.open()
                with self._link.bounded():
                    is_done = await settle(link, token)
                if self._link.has_warned:
                    # It is no more certain than what it was to settle.
                    raise _InDoubt
            except Exception as error:
                # Whatever it is: to do the group again now might do it twice.
                await self._link.drop()
                if loop.time() >= end_s:
                    log.exception("nobody knows whether a group of writes is stored", token=token)
                    raise OutcomeUnknownError from error
                await self._link.pause()
            else:
                log.warning("the end of a group of writes was found out", token=token, is_stored=is_done)
                return is_done

    async def _try(self, link: Link, group: list[Call], token: str) -> None:
        if isinstance(group[0].task, Operation):
            await self._apply(link, group, token)
        else:
            await self._work(link, group[0], group[0].task, token)

    async def _apply(self, link: Link, calls: list[Call], token: str) -> None:
        batch = Batch([call.task for call in calls if isinstance(call.task, Operation)])
        locked = await lock_and_load(link, batch.wanted())
        self._on_time(locked.now_ms)
        results = batch.apply(locked.loaded, lambda: locked.now_ms)
        # Before the commit, whose answer may be found out without us.
        for call, result in zip(calls, results, strict=True):
            call.result, call.error = (None, result) if isinstance(result, DomainError) else (result, None)
        written = batch.written()
        # What is found done is certain once a later transaction is: a standby then has both.
        is_found_done = any(isinstance(result, Outcome) and result.replayed for result in results)
        if is_empty(written) and not is_found_done:
            await link.execute("ROLLBACK")
        else:
            self._is_sent = True
            async with link.pipeline():
                await write(link, written, locked, lane=self.number, holders={})
                await put_token(link, token)
                await link.execute("COMMIT")
            self._require_certain()

    async def _work(self, link: Link, call: Call, work: Work, token: str) -> None:
        async with link.pipeline():
            await begin(link)
            found = await link.execute(NOW)
        ((now_ms,),) = await found.fetchall()
        self._on_time(now_ms)
        call.result, call.error = await work(link, now_ms), None
        self._is_sent = True
        async with link.pipeline():
            await put_token(link, token)
            await link.execute("COMMIT")
        self._require_certain()

    def _require_certain(self) -> None:
        """Raises _InDoubt where the server has committed and does not promise that it lasts."""
        if self._link.has_warned:
            raise _InDoubt


def _is_to_be_done_again(error: Exception) -> bool:
    """Whether others were in the way: they have changed the same rows, or written the same request."""
    if isinstance(error, psycopg.errors.UniqueViolation):
        return error.diag.constraint_name == "requests_pkey"
    return isinstance(error, psycopg.Error) and error.sqlstate in AGAIN


def _is_nobodys_fault(error: Exception) -> bool:
    """Whether a whole group failed for what none of it has done."""
    return isinstance(error, UnavailableError) or is_passing(error)


def _own(error: Exception) -> Exception:
    """The error for one member of a group: of its own, where it is typed, because each caller adds its frames
    to it.
    """
    if isinstance(error, OutcomeUnknownError):
        return OutcomeUnknownError()
    if isinstance(error, UnavailableError):
        return UnavailableError(str(error))
    return strip(error)
