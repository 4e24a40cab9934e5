"""The table of errors from errors.proto, and the ErrorInfo that carries an error through gRPC."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from eliza.sessions.v1 import errors_pb2

DOMAIN: Final = "eliza.sessions.v1"
"""The `domain` of every ErrorInfo of this API."""

VALUE_LIMIT: Final = 100
"""How many characters of a client's value an error repeats at most."""

RETRY_AFTER: Final = "retryAfterSeconds"
"""The detail that says how many seconds to wait before another attempt."""

PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
"""The trailer by which a server tells gRPC's retry policies how many ms to wait before another attempt."""

_PREFIX = "ERROR_REASON_"
_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: a reason, its documented class, both statuses, and its details with their kinds."""

    reason: str
    error_class: str
    grpc_status: grpc.StatusCode
    http_status: int
    details: Mapping[str, int]


def _table() -> dict[str, Row]:
    rows = {}
    for value in errors_pb2.ErrorReason.DESCRIPTOR.values:
        if value.number != errors_pb2.ERROR_REASON_UNSPECIFIED:
            mapping = value.GetOptions().Extensions[errors_pb2.error]
            reason = value.name.removeprefix(_PREFIX)
            details = {detail.name: detail.kind for detail in mapping.details}
            grpc_status = _STATUS_CODES[mapping.grpc_status]
            rows[reason] = Row(reason, mapping.error_class, grpc_status, mapping.http_status, details)
    return rows


TABLE: Final[Mapping[str, Row]] = _table()
"""Every error of this API by its reason."""


def forget_frames(error: BaseException) -> None:
    """Drops the frames of an error that is dealt with, and of its causes.

    A frame that holds its own error is a cycle. It would keep the request alive until the garbage collector
    runs.
    """
    pending = [error]
    while pending:
        one = pending.pop()
        pending += filter(None, (one.__cause__, one.__context__))
        one.__traceback__ = one.__cause__ = one.__context__ = None


def truncate(value: object) -> str:
    """A client's value for an error to repeat: text that can be encoded, at most VALUE_LIMIT characters."""
    text = str(value)[: VALUE_LIMIT + 1].encode("utf-8", "backslashreplace").decode()
    text = text.replace("\0", "\\x00")
    return text if len(text) <= VALUE_LIMIT else text[: VALUE_LIMIT - 1] + "…"


def error_trailers(row: Row, message: str, details: Mapping[str, str]) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata of a failed call: a google.rpc.Status with the ErrorInfo, as grpc-status has it.

    Where the details say when to try again, it has a RetryInfo too, and the pushback for gRPC itself.
    """
    info = error_details_pb2.ErrorInfo(reason=row.reason, domain=DOMAIN, metadata=details)
    packed = [any_pb2.Any()]
    packed[0].Pack(info)
    pushback: tuple[tuple[str, bytes], ...] = ()
    if RETRY_AFTER in details:
        retry_after_s = float(details[RETRY_AFTER])
        delay = duration_pb2.Duration(seconds=math.ceil(retry_after_s))
        packed.append(any_pb2.Any())
        packed[1].Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        pushback = ((PUSHBACK_KEY, b"%d" % math.ceil(1000 * retry_after_s)),)
    status = status_pb2.Status(code=row.grpc_status.value[0], message=message, details=packed)
    return (*rpc_status.to_status(status).trailing_metadata, *pushback)


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    """The ErrorInfo of a failed call of `grpc` or `grpc.aio`; None where the error is not from this API."""
    status = rpc_status.from_call(error)
    for packed in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if packed.Unpack(info) and info.domain == DOMAIN:
            return info
    return None
