"""Runs calls that may block for long, such as looking up a name, in a bounded number of threads."""

import asyncio
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Call(Generic[T]):
    """A call that is under way or waits for its turn, and how many wait for its result."""

    task: asyncio.Task[T]
    waiting: int = 0
    begun: bool = False


class BlockingCalls(Generic[T]):
    """Runs one call at a time for each key; everybody who asks for it meanwhile gets its result.

    A group of calls has a bound of its own: when all of its calls hang, others still find room. Nothing is
    kept of a call that has ended. Threads are daemons, so that a hanging one does not keep the process alive.
    """

    def __init__(self, name: str, *, most: int, most_of_a_group: int) -> None:
        """`most` bounds all calls under way, `most_of_a_group` those of one group."""
        self._name = name
        self._turns = asyncio.Semaphore(most)
        self._most_of_a_group = most_of_a_group
        self._group_turns: WeakValueDictionary[Hashable, asyncio.Semaphore] = WeakValueDictionary()
        self._calls: dict[Hashable, _Call[T]] = {}

    @property
    def open_count(self) -> int:
        """How many calls are under way or wait for their turn."""
        return len(self._calls)

    async def run(self, group: Hashable, key: Hashable, function: Callable[[], T]) -> T:
        """Returns the result of the function, or of a call with this key that is under way. Raises its
        errors.

        A caller that is cancelled leaves. A call without callers is not begun; one that has begun goes on.
        """
        call = self._calls.get(key)
        if call is None:
            call = self._calls[key] = _Call(asyncio.create_task(self._take_turn(group, key, function)))
            call.task.add_done_callback(lambda task: self._forget(key, task))
        call.waiting += 1
        try:
            return await asyncio.shield(call.task)
        finally:
            call.waiting -= 1
            if not call.waiting and not call.begun:
                call.task.cancel()
                # At once, so that nobody else waits for it.
                self._forget(key, call.task)
            # An error leads to this frame, and the frame must not lead back to it.
            del call

    async def _take_turn(self, group: Hashable, key: Hashable, function: Callable[[], T]) -> T:
        turns = self._group_turns.setdefault(group, asyncio.Semaphore(self._most_of_a_group))
        # First that of its group, so that each group has few calls in the line of all.
        async with turns, self._turns:
            self._calls[key].begun = True
            return await _in_thread(self._name, function)

    def _forget(self, key: Hashable, task: asyncio.Task[T]) -> None:
        call = self._calls.get(key)
        if call is not None and call.task is task:
            del self._calls[key]
        if task.done() and not task.cancelled():
            # Retrieved, because Python complains of an error that nobody retrieves.
            task.exception()


async def _in_thread(name: str, function: Callable[[], T]) -> T:
    """Returns the result of the function, called in a thread of its own. Raises its errors."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    threading.Thread(target=_call, args=(function, loop, done), name=name, daemon=True).start()
    try:
        return await done
    finally:
        # An error leads to this frame, and the frame must not lead back to it.
        del done


def _call(function: Callable[[], T], loop: asyncio.AbstractEventLoop, done: asyncio.Future[T]) -> None:
    """Settles the future with the result of the function, in the loop's thread."""
    result: T | None = None
    failure: Exception | None = None
    try:
        result = function()
    except Exception as error:  # noqa: BLE001 - it is raised where the result is waited for
        failure = error
    # The loop may be closed by now: then nobody waits.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(_settle, done, result, failure)
    # As above.
    del done, failure


def _settle(done: asyncio.Future[T], result: T | None, failure: Exception | None) -> None:
    if done.done():
        return
    if failure is not None:
        done.set_exception(failure)
    else:
        done.set_result(result)  # type: ignore[arg-type]
