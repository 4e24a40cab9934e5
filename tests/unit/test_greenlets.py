"""Synchronous functions that await: what they return and raise, their contexts, what cancels them, and what
is kept of them.
"""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from rest_facade.front_door import greenlets
from rest_facade.front_door.greenlets import Greenlets, await_

CALLER: ContextVar[str] = ContextVar("CALLER", default="nobody")


async def finish(run: Awaitable[Any]) -> Any:
    return await run


async def double(value: int) -> int:
    await asyncio.sleep(0)
    return 2 * value


async def fail(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


async def test_a_function_that_does_not_have_to_wait_is_over_at_once() -> None:
    async def know() -> int:
        return 5

    told: list[str] = []
    for view in (lambda: 5, lambda: await_(know())):
        with pytest.raises(StopIteration) as over:
            Greenlets().run(view, lambda: told.append("waits")).send(None)
        assert over.value.value == 5
    with pytest.raises(ZeroDivisionError):
        await Greenlets().run(lambda: 1 // 0)
    assert told == []


async def test_a_function_that_waits_says_so_once_and_gets_what_it_awaits() -> None:
    pool, told = Greenlets(), []

    def view() -> int:
        return sum(await_(double(number)) for number in range(4))

    begun = [asyncio.create_task(finish(pool.run(view, lambda: told.append(1)))) for _ in range(10)]
    assert [await one for one in begun] == [12] * 10
    assert told == [1] * 10


@pytest.mark.parametrize(
    "error", [ValueError("x"), asyncio.CancelledError(), KeyError("y"), StopIteration()], ids=repr
)
async def test_what_an_awaitable_raises_is_raised_in_the_function(error: BaseException) -> None:
    caught: list[BaseException] = []

    def view() -> str:
        try:
            await_(asyncio.gather(fail(error)) if not isinstance(error, StopIteration) else fail(error))
        except BaseException as found:  # noqa: BLE001 - it is the question which
            caught.append(found)
        return "went on"

    assert await finish(Greenlets().run(view)) == "went on"
    (found,) = caught
    # A coroutine may not raise StopIteration: Python makes an error of it.
    assert found is error or isinstance(found, RuntimeError | asyncio.CancelledError)


async def test_what_the_function_raises_is_raised_by_its_task() -> None:
    def view() -> None:
        await_(double(1))
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        await finish(Greenlets().run(view))


async def test_each_function_has_a_copy_of_the_context_and_what_it_awaits_has_the_same() -> None:
    pool = Greenlets()
    seen: list[tuple[str, str]] = []

    async def look() -> str:
        await asyncio.sleep(0)
        return CALLER.get()

    def view(name: str) -> None:
        before = CALLER.get()
        CALLER.set(name)
        seen.append((before, await_(look())))

    CALLER.set("test")
    for name in ("one", "two"):
        await finish(pool.run(lambda name=name: view(name)))
    await asyncio.gather(*(finish(pool.run(lambda name=name: view(name))) for name in ("three", "four")))
    assert seen == [("test", name) for name in ("one", "two", "three", "four")]
    assert CALLER.get() == "test"
    # Nor is there anything left in a greenlet that is used again.
    assert await pool.run(CALLER.get) == "test"


async def test_a_task_that_is_cancelled_cancels_what_the_function_awaits_and_runs_its_finally() -> None:
    pool, ended = Greenlets(), []
    begun = asyncio.Event()

    async def wait_for_ever() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            ended.append("awaitable")

    def view() -> None:
        try:
            await_(wait_for_ever())
        finally:
            # What cleans up may await, too.
            ended.append(await_(double(1)))

    task = asyncio.create_task(finish(pool.run(view)))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["awaitable", 2]
    assert await finish(pool.run(lambda: await_(double(3)))) == 6


async def test_a_task_that_is_cancelled_where_it_waits_cancels_the_function() -> None:
    caught = []

    def view() -> None:
        try:
            await_(asyncio.sleep(0))
        except BaseException as error:
            caught.append(type(error))
            raise

    task = asyncio.create_task(finish(Greenlets().run(view)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert caught == [asyncio.CancelledError]


async def test_generators_await_wherever_they_are_consumed() -> None:
    pool = Greenlets()

    def numbers() -> Iterator[int]:
        for number in range(3):
            yield await_(double(number))

    assert await finish(pool.run(lambda: list(numbers()))) == [0, 2, 4]
    half = numbers()
    assert await finish(pool.run(lambda: next(half))) == 0
    assert await finish(pool.run(lambda: next(half))) == 2


async def test_only_so_many_idle_greenlets_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greenlets, "MAX_IDLE", 2)
    made: list[weakref.ref[Any]] = []
    started = greenlets._start_greenlet

    def noted() -> Any:
        made.append(weakref.ref(runner := started()))
        return runner

    monkeypatch.setattr(greenlets, "_start_greenlet", noted)
    pool = Greenlets()
    for _ in range(3):
        await asyncio.gather(*(finish(pool.run(lambda: await_(double(1)))) for _ in range(5)))
        assert sum(one() is not None for one in made) == 2
    assert len(made) == 5 + 3 + 3


@pytest.mark.parametrize(
    "ends",
    [lambda request: request, lambda request: [][0], lambda request: await_(fail(ValueError(request)))],
)
async def test_nothing_is_kept_of_a_function_that_is_over(ends: Callable[[object], object]) -> None:
    class Request:
        pass

    pool = Greenlets()
    gone: list[weakref.ref[Request]] = []

    def ask(*, awaits: bool) -> Any:
        request = Request()
        gone.append(weakref.ref(request))

        def view() -> None:
            if awaits:
                await_(double(1))
            # A view's own handler answers what it raises.
            try:
                ends(request)
            except (LookupError, ValueError):
                return

        return pool.run(view)

    gc.disable()
    try:
        for awaits in (False, True):
            await finish(ask(awaits=awaits))
            await asyncio.sleep(0)
        assert [one() for one in gone] == [None, None]
    finally:
        gc.enable()


async def test_an_error_that_leaves_the_function_is_not_kept() -> None:
    pool = Greenlets()

    class ViewError(Exception):
        pass

    gone: list[weakref.ref[ViewError]] = []

    def view() -> None:
        await_(double(1))
        error = ViewError()
        gone.append(weakref.ref(error))
        raise error

    with pytest.raises(ViewError):
        await finish(pool.run(view))
    await asyncio.sleep(0)
    gc.collect()
    assert gone[0]() is None


async def test_what_is_no_such_function_may_not_await() -> None:
    coroutine = double(1)
    with pytest.raises(RuntimeError, match="outside"):
        await_(coroutine)
    coroutine.close()


async def test_a_function_that_is_dropped_while_it_waits_ends() -> None:
    ended = []

    def view() -> None:
        try:
            await_(asyncio.Event().wait())
        finally:
            ended.append(True)

    pool = Greenlets()
    waiting = pool.run(view)
    waiting.send(None)
    waiting.close()
    assert ended == [True]
    assert await pool.run(lambda: 1) == 1
