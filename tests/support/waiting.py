"""Waiting for conditions, with and without an event loop."""

import asyncio
import time
from collections.abc import Callable
from typing import Final, TypeVar

import pytest

T = TypeVar("T")

PATIENCE_SECONDS: Final = 30.0
"""How long a condition is waited for: longer than anything takes on a busy machine."""


def until(condition: Callable[[], T], what: str, seconds: float = PATIENCE_SECONDS) -> T:
    """Asks for a condition until its answer is true, and returns that. Fails the test when time is up."""
    deadline_s = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline_s:
            pytest.fail(f"waited {seconds:g} s in vain: {what}")
        time.sleep(0.01)
    return answer


async def eventually(condition: Callable[[], T], what: Callable[[], object] | None = None) -> T:
    """The same on an event loop, which goes on meanwhile; `what` is asked for only if time is up."""
    deadline_s = time.monotonic() + PATIENCE_SECONDS
    while not (answer := condition()):
        if time.monotonic() > deadline_s:
            pytest.fail(f"waited {PATIENCE_SECONDS:g} s in vain: {what() if what else condition}")
        await asyncio.sleep(0.001)
    return answer
