"""Synchronous code that can await: it runs in a greenlet of the event loop's own thread.

It runs what it awaits itself, and leaves its greenlet only where that has to wait. Greenlets are used again,
because making one costs ten times as much as switching to one.
"""

import types
from collections.abc import Awaitable, Callable, Generator
from contextvars import copy_context
from typing import Any, Final, Generic, TypeVar, cast

from greenlet import GreenletExit, getcurrent, greenlet

_Result = TypeVar("_Result")

MAX_IDLE: Final = 128
"""How many idle greenlets are kept."""


def _nothing() -> None:
    """Does nothing."""


def await_(awaitable: Awaitable[_Result]) -> _Result:
    """Waits, in a function that `Greenlets.run` runs.

    Raises what the awaitable raises; CancelledError when the task is cancelled.
    """
    if getcurrent().parent is None:
        raise RuntimeError("await_() is called outside of a function that Greenlets runs")
    steps = awaitable.__await__()
    try:
        waits_for = steps.send(None)
        while True:
            try:
                value = _hand_over(waits_for)
            except BaseException as error:  # noqa: BLE001 - the awaitable is told whatever it is
                waits_for = steps.throw(error)
            else:
                waits_for = steps.send(value)
    except StopIteration as done:
        result: _Result = done.value
        return result
    except BaseException as error:
        # Its frames may hold it, and would keep the request.
        error.__traceback__ = None
        raise


def stop_counting() -> None:
    """Stops counting the present function as active: from now on it only waits for somebody else."""
    getcurrent().on_stop_counting()


class Greenlets:
    """The greenlets of one event loop."""

    def __init__(self) -> None:
        self._idle: list[greenlet] = []

    @types.coroutine
    def run(
        self,
        function: Callable[[], _Result],
        on_wait: Callable[[], None] = _nothing,
        on_stop_counting: Callable[[], None] = _nothing,
    ) -> Generator[Any, Any, _Result]:
        """Runs a function in a copy of the present context. Returns its result, or raises its error.

        Calls `on_wait` before the function first waits. The function may call `stop_counting`.
        """
        runner = self._idle.pop() if self._idle else _start_greenlet()
        runner.gr_context = copy_context()
        runner.on_stop_counting = on_stop_counting
        step = runner.switch(function)
        if not isinstance(step, _Outcome):
            on_wait()
        while not isinstance(step, _Outcome):
            try:
                value = yield step
            except BaseException as error:  # noqa: BLE001 - the function is told whatever it is
                step = runner.throw(error)
            else:
                step = runner.switch(value)
        self._keep(runner)
        return cast(_Result, step.take())

    def _keep(self, runner: greenlet) -> None:
        runner.gr_context = None
        runner.on_stop_counting = _nothing
        if len(self._idle) < MAX_IDLE:
            self._idle.append(runner)
        else:
            runner.throw(GreenletExit)


class _Outcome(Generic[_Result]):
    """The result or the error of a function."""

    def __init__(self, result: _Result | None, error: BaseException | None) -> None:
        self._result = result
        self._error = error

    def take(self) -> _Result | None:
        """Returns, or raises, and holds neither any longer: the frames of an error would hold the error."""
        result, error, self._result, self._error = self._result, self._error, None, None
        if error is None:
            return result
        try:
            raise error
        finally:
            del error


def _start_greenlet() -> greenlet:
    """Makes a greenlet that waits for its first function. One given at the start would be held for good."""
    runner = greenlet(_run)
    runner.switch()
    return runner


def _run() -> None:
    """Runs functions one after the other, each given by a switch.

    Switches back with each future that it waits for, then with an _Outcome.
    """
    outcome: _Outcome[Any] | None = None
    while True:
        function = _hand_over(outcome)
        try:
            outcome = _Outcome(function(), None)
        except GreenletExit:
            # It is thrown away in the midst of a function.
            raise
        except BaseException as error:  # noqa: BLE001 - it is raised by who waits
            outcome = _Outcome(None, error)
        # Nothing is kept of one until the next one comes.
        del function


def _hand_over(step: Any) -> Any:
    """Leaves the present greenlet, until it is handed something."""
    # No greenlet is held by its own frames: it would never be freed.
    return getcurrent().parent.switch(step)
