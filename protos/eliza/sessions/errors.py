"""The table of errors, as errors.proto holds it, and the ErrorInfo that carries a row of it through gRPC."""

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
"""How many characters of a client's value an error repeats."""

RETRY_AFTER: Final = "retryAfterSeconds"
"""The detail that says how long to wait before another attempt."""

_PREFIX = "ERROR_REASON_"
_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: a reason, the documented class, its status on each surface, and its details in order with their kinds."""

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
            rows[reason] = Row(reason, mapping.error_class, _STATUS_CODES[mapping.grpc_status], mapping.http_status, details)
    return rows


TABLE: Final[Mapping[str, Row]] = _table()
"""Every error of this API by its reason."""


def forget_frames(error: BaseException) -> None:
    """Has an error that was dealt with, and those behind it, let go of the frames they came through and so of what these hold.

    A frame that holds its own error, or the task that it is of, is a cycle, and a request in it stays until the collector comes.
    """
    pending = [error]
    while pending:
        one = pending.pop()
        pending += filter(None, (one.__cause__, one.__context__))
        one.__traceback__ = one.__cause__ = one.__context__ = None


def truncate(value: object) -> str:
    """A client's value as an error repeats it: text that can be encoded, at most VALUE_LIMIT characters."""
    text = str(value)[: VALUE_LIMIT + 1].encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    return text if len(text) <= VALUE_LIMIT else text[: VALUE_LIMIT - 1] + "…"


def error_trailers(row: Row, message: str, details: Mapping[str, str]) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata of a failed call: a google.rpc.Status with the ErrorInfo, as grpc-status lays it out.

    Where the details say when to try again, a RetryInfo says so too.
    """
    packed = [any_pb2.Any()]
    packed[0].Pack(error_details_pb2.ErrorInfo(reason=row.reason, domain=DOMAIN, metadata=details))
    if RETRY_AFTER in details:
        retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=math.ceil(float(details[RETRY_AFTER]))))
        packed.append(any_pb2.Any())
        packed[1].Pack(retry)
    status = status_pb2.Status(code=row.grpc_status.value[0], message=message, details=packed)
    return rpc_status.to_status(status).trailing_metadata  # type: ignore[no-any-return]


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    """The ErrorInfo of a failed call, of `grpc` or `grpc.aio`; None when the error did not come from this API."""
    status = rpc_status.from_call(error)
    for packed in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if packed.Unpack(info) and info.domain == DOMAIN:
            return info
    return None
