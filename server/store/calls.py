"""What queues to be written, in back ends that write in groups; and how those who wait are told."""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import structlog

from server.domain.errors import STORE_TROUBLE
from server.store.batch import Operation, commit_of
from server.store.contract import CommitListener
from server.telemetry.traces import Parent, Traces

Work: TypeAlias = Callable[[Any, int], Any]
"""Work on anything but sessions, on the back end's connection, at the present instant in ms."""

Changed: TypeAlias = Callable[[Any], Iterable[str]]
"""The ids of the sessions that work has changed, by its result."""

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Call:
    """Something to write, who waits for it, since when in the loop's time, and what came of it.

    `parent`: of which span it is a part. `changed`: which sessions work has changed, by its result; None: it
    may be any.
    """

    task: Operation | Work
    future: asyncio.Future[None]
    since_s: float
    parent: Parent | None = None
    in_transaction: bool = True
    changed: Changed | None = None
    result: Any = None
    error: BaseException | None = None

    @property
    def is_alone(self) -> bool:
        """Whether it takes a transaction of its own."""
        return not isinstance(self.task, Operation)


def answer(group: Sequence[Call], listeners: Iterable[CommitListener]) -> None:
    """Tells listeners what a group has committed, and then those who wait, on the event loop."""
    commit = commit_of(call.result for call in group if call.error is None)
    for listener in listeners:
        try:
            listener(commit)
        except Exception:
            # Callers wait, and others may be waiting behind them.
            log.exception("a listener failed", error_id=uuid.uuid4().hex)
    for call in group:
        if not call.future.cancelled():
            # A future would hand its error to a frame that has the future.
            call.future.set_result(None)


def trace_group(traces: Traces, group: Sequence[Call], begun_ns: int) -> None:
    """Traces a group that has just been carried out."""
    parents = [call.parent for call in group if call.parent]
    has_failed = any(isinstance(call.error, STORE_TROUBLE) for call in group)
    try:
        traces.end_group(parents, len(group), begun_ns, time.time_ns(), has_failed=has_failed)
    except Exception:
        # Without its writer nothing would be written any more.
        log.exception("a group of writes cannot be traced")
