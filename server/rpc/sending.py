"""Answers that their clients do not read: how long they are waited for, and how many bytes of them are kept."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import structlog

from server.patches.grpcio import call_tasks

WRITE_SECONDS: Final = 30.0
"""How long gRPC may take for one message of an answer before its call ends."""

MAX_UNREAD_BYTES: Final = 16 * 1024 * 1024
"""How many bytes of messages may wait for clients that take longer than LATE_SECONDS to read theirs, together with all others."""

LATE_SECONDS: Final = 1.0
"""How long a message may wait before its call is among those that end where too much waits."""

log = structlog.get_logger()


class _Waiting(NamedTuple):
    """A message that waits to be sent, and the tasks to cancel where its client does not read."""

    since_s: float
    size_bytes: int
    method: str
    tasks: list[asyncio.Task[Any]]


class Sending:
    """Knows the messages that wait to be sent. Ends the calls whose clients do not read theirs."""

    def __init__(self) -> None:
        # By the task of its call, in the order in which they began to wait.
        self._waiting: dict[asyncio.Task[Any], _Waiting] = {}
        self._bytes = 0

    @contextmanager
    def sent(self, method: str, message: Any) -> Iterator[None]:
        """Within the block gRPC sends a message of a stream, whose call this task is."""
        task, timer = self._begin(method, message)
        try:
            yield
        finally:
            timer.cancel()
            self._forget(task)

    def watch_answer(self, method: str, message: Any) -> None:
        """Watches how the answer to a call is sent, which ends with the task that this is."""
        task, timer = self._begin(method, message)

        def end(_: object) -> None:
            timer.cancel()
            self._forget(task)

        task.add_done_callback(end)

    def _begin(self, method: str, message: Any) -> tuple[asyncio.Task[Any], asyncio.TimerHandle]:
        tasks, loop = call_tasks(), asyncio.get_running_loop()
        task = tasks[0]
        waiting = self._waiting[task] = _Waiting(loop.time(), _size_bytes(message), method, tasks)
        self._bytes += waiting.size_bytes
        if self._bytes > MAX_UNREAD_BYTES:
            self._shed(loop.time())
        return task, loop.call_later(WRITE_SECONDS, self._end, task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        if waiting := self._waiting.pop(task, None):
            self._bytes -= waiting.size_bytes

    def _shed(self, now_s: float) -> None:
        """Ends the calls that have waited longest, as far as they are late, until less waits."""
        for task, waiting in list(self._waiting.items()):
            if self._bytes <= MAX_UNREAD_BYTES or now_s - waiting.since_s < LATE_SECONDS:
                return
            self._end(task)

    def _end(self, task: asyncio.Task[Any]) -> None:
        if waiting := self._waiting.get(task):
            self._forget(task)
            log.info("ended a call whose client does not read", method=waiting.method.removeprefix("/"))
            for one in waiting.tasks:
                one.cancel()


def _size_bytes(message: Any) -> int:
    """How long a message is on the wire, which some are already."""
    return len(message) if isinstance(message, bytes) else int(message.ByteSize())
