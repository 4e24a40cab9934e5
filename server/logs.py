"""Sets up logs: to standard error, one line an event, for people or as JSON, bounded for each kind."""

import logging
import sys
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from types import TracebackType
from typing import Final

import structlog

from server.patches.grpcio import LOST_CLIENT_ERROR

KIND_LINES: Final = 50
KIND_SECONDS: Final = 10.0
"""At most KIND_LINES lines of one kind are logged in KIND_SECONDS, so that no client can fill the disk."""

MAX_KINDS: Final = 1000
"""How many kinds are counted at a time."""


MAX_LINE: Final = 1000
"""How many characters a library's line may have: some repeat a client's text."""


def one_line(text: str) -> str:
    """Makes one line of a foreign text: without control characters, and truncated."""
    kept = text[:MAX_LINE]
    if not kept.isprintable():
        kept = "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode() for char in kept
        )
    return kept if len(text) <= MAX_LINE else f"{kept}…"


class RepeatLimit:
    """Counts the lines of each kind, and says which are too many."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._since_s = now_s()
        self._counts: dict[Hashable, int] = {}
        self._left_out: dict[Hashable, int] = {}

    def take(self, kind: Hashable) -> int | None:
        """None where a line of this kind is one too many; otherwise how many were left out before it."""
        now_s = self._now_s()
        if now_s - self._since_s >= KIND_SECONDS or len(self._counts) >= MAX_KINDS:
            self._since_s = now_s
            self._left_out = {
                one: count - KIND_LINES for one, count in self._counts.items() if count > KIND_LINES
            }
            self._counts = {}
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        return self._left_out.pop(kind, 0) if count <= KIND_LINES else None


class _StandardError:
    """Standard error for log lines.

    One that cannot be written, on a full disk say, is let go: nothing else may fail for it.
    """

    def write(self, text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def configure(level: str, style: str) -> None:
    """Sets the lowest level (`debug`, `info`, `warning`, `error`) and the style (`console`, `json`) of all
    logs.
    """
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if style == "console":
        # A plain traceback. Others show the values of variables, and with them users' messages.
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if style == "json":
        shared.append(structlog.processors.format_exc_info)
    limit = RepeatLimit()

    def limit_repeats(_: object, level: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        # A client may quote the id of its error, so each is logged; only the tracebacks of a kind are
        # bounded.
        if level in ("error", "critical", "exception"):
            cause = line.get("exc_info")
            if isinstance(cause, BaseException) and limit.take((line.get("event"), type(cause))) is None:
                return {**line, "exc_info": None, "cause": one_line(f"{type(cause).__name__}: {cause}")}
            return line
        left_out = limit.take((line.get("event"), line.get("method"), line.get("code")))
        if left_out is None:
            raise structlog.DropEvent
        return {**line, "left_out": left_out} if left_out else line

    def limit_libraries(record: logging.LogRecord) -> bool:
        if limit.take((record.name, record.msg)) is None:
            return False
        record.msg, record.args = one_line(record.getMessage()), None
        return True

    structlog.configure(
        processors=[limit_repeats, *shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(_StandardError()),  # type: ignore[arg-type]
    )
    formatter = structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processor=renderer)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(limit_libraries)
    logging.basicConfig(
        level=max(logging.getLevelNamesMapping()[level.upper()], logging.WARNING),
        handlers=[handler],
        force=True,
    )
    logging.captureWarnings(capture=True)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_without_traceback_for_clients)
    if style == "json":
        sys.excepthook = _log_crash


def log_failed_start(reason: str) -> None:
    """Logs why a service did not start."""
    structlog.get_logger().critical("the start failed", reason=reason)


def _log_crash(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Logs the error that ends the process in one line, instead of Python's traceback."""
    if not issubclass(kind, KeyboardInterrupt):
        structlog.get_logger().critical("the process ends", exc_info=(kind, error, traceback))


def _without_traceback_for_clients(record: logging.LogRecord) -> bool:
    """Drops tracebacks of gRPC that clients can cause: metadata that is not UTF-8, and leaving before an
    answer.
    """
    if record.exc_info and isinstance(record.exc_info[1], (UnicodeDecodeError, LOST_CLIENT_ERROR)):
        record.exc_info = None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True
