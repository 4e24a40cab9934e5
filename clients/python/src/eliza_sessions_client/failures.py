"""Makes the exception of a failed call."""

from collections.abc import Mapping
from typing import Any

import grpc

from eliza_sessions_client._status import error_info
from eliza_sessions_client.error_classes import (
    CLASSES,
    STATUSES,
    DeadlineExceededError,
    ResourceExhaustedError,
    UnavailableError,
)
from eliza_sessions_client.errors import SessionsError


def error_for(
    code: str, message: str, details: Mapping[str, str], status: grpc.StatusCode | None = None
) -> SessionsError:
    """The error of a reason; of a newer service's reason that this version does not know, a bare
    SessionsError.
    """
    known = CLASSES.get(code)
    if known is None:
        error = SessionsError(message, status or grpc.StatusCode.UNKNOWN, details)
        error.code = code
        return error
    return known(message, status or STATUSES[code], details)


def error_from(failed: grpc.RpcError) -> SessionsError:
    """The error of a failed call of `grpc` or `grpc.aio`."""
    call: Any = failed
    status, message = call.code(), call.details() or ""
    if info := error_info(call.trailing_metadata()):
        return error_for(info.reason, message, info.details, status)
    match status:
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            # Not cancelled by us, who would not read the answer: the service could not look at it.
            return UnavailableError(f"The service is out of reach: {message}", status)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return ResourceExhaustedError(message, status)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceededError("The service did not answer in time", status)
        case _:
            return SessionsError(message, status)
