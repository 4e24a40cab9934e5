"""The errors of calls, as exceptions: one class for each reason of the API's table, in `error_classes`.

SessionsError
└── SessionNotFoundError, SessionExpiredError, OverloadedError, …

An error that carries no reason of the API, because gRPC itself failed, is one of UnavailableError,
ResourceExhaustedError and DeadlineExceededError, or a bare SessionsError.
"""

import math
import re
from collections.abc import Mapping
from typing import ClassVar, Final

import grpc

from eliza_sessions_client._api import errors_pb2

_PREFIX: Final = "ERROR_REASON_"


class SessionsError(Exception):
    """A call failed. `str(error)` is a text for people.

    `code` is the reason of the API's table, empty where there is none. `status` is gRPC's. `details` are the
    details as they came; each is also an attribute, typed, in snake case.
    """

    code: str = ""
    kinds: ClassVar[Mapping[str, errors_pb2.DetailKind.ValueType]] = {}
    """What the details hold, by their names."""

    def __init__(
        self, message: str, status: grpc.StatusCode, details: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.details = dict(details or {})
        for name, kind in self.kinds.items():
            setattr(self, attribute(name), _typed(self.details.get(name, ""), kind))


def attribute(detail: str) -> str:
    """The attribute that holds a detail: `session_id` for `sessionId`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", detail).lower()


def _typed(text: str, kind: int) -> str | float | tuple[str, ...]:
    if kind == errors_pb2.DETAIL_KIND_NUMBER:
        return float(text) if text else math.nan
    if kind == errors_pb2.DETAIL_KIND_FIELD_LIST:
        return tuple(text.split(",")) if text else ()
    return text


def reason_name(reason: int) -> str:
    """The code of a reason that comes as a field: `SESSION_EXPIRED`. Also of one that this version does not
    know.
    """
    value = errors_pb2.ErrorReason.DESCRIPTOR.values_by_number.get(reason)
    return value.name.removeprefix(_PREFIX) if value else str(reason)
