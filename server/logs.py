"""Where logs go: standard error, one line an event, for people or as JSON."""

import logging
import sys
from contextlib import suppress

import structlog

from server.patches.grpcio import LOST_CLIENT_ERROR


class _StandardError:
    """Standard error for log lines. One that cannot be written, on a full disk say, is let go: nothing else may fail for it."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def configure(level: str, style: str) -> None:
    """Sets the least level (`debug`, `info`, `warning`, `error`) and the style (`console`, `json`), of our logs and the libraries'."""
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if style == "console":
        # A plain traceback: others show the values of variables, and with them what users said.
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if style == "json":
        shared.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(_StandardError()),  # type: ignore[arg-type]
    )
    formatter = structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processor=renderer)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=max(logging.getLevelNamesMapping()[level.upper()], logging.WARNING), handlers=[handler], force=True)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_without_traceback_for_clients)


def _without_traceback_for_clients(record: logging.LogRecord) -> bool:
    """gRPC logs a traceback for every piece of metadata that is not UTF-8, and for an answer whose client has just gone: clients that do
    so must not fill the log with them.
    """
    if record.exc_info and isinstance(record.exc_info[1], (UnicodeDecodeError, LOST_CLIENT_ERROR)):
        record.exc_info = None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True
