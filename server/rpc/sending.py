"""Bounds the answers that clients do not read: how long they wait, and how many bytes they hold."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import structlog

from server.patches.grpcio import call_tasks

WRITE_SECONDS: Final = 30.0
"""How long gRPC may take for one message of an answer before its call ends."""

MAX_UNREAD_BYTES: Final = 3 * 1024 * 1024
"""How many bytes of messages may wait for their clients, together: gRPC holds each twice.

Beyond it nothing large is read for anybody.
"""

LATE_SECONDS: Final = 1.0
"""How long a message may wait before its call may be ended for holding too much."""

APART_SECONDS: Final = 0.002
"""How long one waiting reader has to use its room before the next one looks."""

log = structlog.get_logger()


class _Waiting(NamedTuple):
    """A message that waits to be sent."""

    since_s: float
    size_bytes: int
    method: str


class Sending:
    """Knows the messages that wait to be sent.

    Ends the calls whose clients do not read theirs, where others wait for room.
    """

    def __init__(self) -> None:
        # By the task of its call, in the order in which they began to wait.
        self._waiting: dict[asyncio.Task[Any], _Waiting] = {}
        self._bytes = 0
        # Called when there is room: for answers to calls, which come first, and for streams.
        self._calls: OrderedDict[Callable[[], None], None] = OrderedDict()
        self._streams: OrderedDict[Callable[[], None], None] = OrderedDict()
        # By owner: how many bytes it has read and does not send yet.
        self._reserved: dict[object, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._late_timer: asyncio.TimerHandle | None = None

    @property
    def is_full(self) -> bool:
        """Whether too much waits to be sent for anything large to be added."""
        return self._bytes + sum(self._reserved.values()) >= MAX_UNREAD_BYTES

    def reserve(self, owner: object, size_bytes: int) -> None:
        """Counts bytes that an owner has read and will send in a moment."""
        self._reserved[owner] = size_bytes

    def release(self, owner: object) -> None:
        """Counts it no longer, because it is sent now, or will not be."""
        if self._reserved.pop(owner, 0):
            self._look_later()

    def when_free(self, wake: Callable[[], None]) -> None:
        """Calls `wake` once there is room for something large. The stream then looks again whether it is
        full.
        """
        self._streams[wake] = None
        self._look_later()

    def forget(self, wake: Callable[[], None]) -> None:
        """Drops `wake`."""
        self._streams.pop(wake, None)

    async def free(self) -> None:
        """Waits until there is room for the large answer to a call."""
        woken = asyncio.Event()
        self._calls[woken.set] = None
        self._look_later()
        try:
            await woken.wait()
        finally:
            self._calls.pop(woken.set, None)

    @contextmanager
    def sent(self, method: str, message: Any) -> Iterator[None]:
        """Within the block gRPC sends a message of a stream, whose call this task is."""
        task = self._begin(method, message)
        try:
            yield
        finally:
            self._forget(task)

    def watch_answer(self, method: str, message: Any) -> None:
        """Watches how the answer to a call is sent, which ends with the task that this is."""
        self._begin(method, message).add_done_callback(self._forget)

    def _begin(self, method: str, message: Any) -> asyncio.Task[Any]:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        waiting = self._waiting[task] = _Waiting(loop.time(), size_bytes(message), method)
        self._bytes += waiting.size_bytes
        if self.is_full:
            self._look_later()
        if self._late_timer is None:
            self._late_timer = loop.call_later(WRITE_SECONDS, self._end_late)
        return task

    def _end_late(self) -> None:
        """Ends the calls that have waited for WRITE_SECONDS.

        One timer does for all: they wait in the order in which they began.
        """
        self._late_timer, loop = None, asyncio.get_running_loop()
        for task, waiting in list(self._waiting.items()):
            due_s = waiting.since_s + WRITE_SECONDS
            if due_s > loop.time():
                self._late_timer = loop.call_at(due_s, self._end_late)
                return
            self._end(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        if waiting := self._waiting.pop(task, None):
            was_full = self.is_full
            self._bytes -= waiting.size_bytes
            if was_full and not self.is_full:
                self._look_later()

    def _look_later(self) -> None:
        """Looks for room as soon as there may be some, if somebody waits for it or there is too little."""
        loop = asyncio.get_running_loop()
        at_s = loop.time() + APART_SECONDS
        if self._waiting and self.is_full:
            first = next(iter(self._waiting.values()))
            at_s = max(at_s, first.since_s + LATE_SECONDS)
        if self._timer:
            if self._timer.when() <= at_s:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at_s, self._look)

    def _look(self) -> None:
        """Wakes the first waiter where there is room; else ends the calls that are late and have waited
        longest.
        """
        self._timer = None
        now_s = asyncio.get_running_loop().time()
        for task, waiting in list(self._waiting.items()):
            if not self.is_full or now_s - waiting.since_s < LATE_SECONDS:
                break
            self._end(task)
        woken = self._calls or self._streams
        if woken and not self.is_full:
            woken.popitem(last=False)[0]()
        if self._calls or self._streams or self.is_full:
            self._look_later()

    def _end(self, task: asyncio.Task[Any]) -> None:
        if waiting := self._waiting.get(task):
            self._forget(task)
            log.info("ended a call whose client does not read", method=waiting.method.removeprefix("/"))
            for one in call_tasks(task):
                one.cancel()


def size_bytes(message: Any) -> int:
    """How long a message is on the wire, which some are already."""
    return len(message) if isinstance(message, bytes) else int(message.ByteSize())
