"""What a failed call is told, and the line that the log has about it."""

import uuid
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import grpc
import structlog

from eliza.sessions.errors import TABLE, Row, error_trailers, forget_frames, truncate
from server.access.limits import WRONG_POLICY
from server.domain.access import Principal
from server.domain.errors import DomainError

_LOGGED_IDS: Final = {"sessionId": "session_id", "agentId": "agent_id", "deliveryId": "delivery_id"}
"""The details of an error that a line about it repeats."""

log = structlog.get_logger()


class Fault(NamedTuple):
    """The status, message and trailers of an aborted call."""

    code: grpc.StatusCode
    message: str
    trailers: tuple[tuple[str, bytes], ...]


class CallFailed(Exception):  # noqa: N818 - it is not an error of ours, but how a stream of answers ends
    """The error of a stream, with its `fault`."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def fault_of(method: str, request: Any, error: Exception, principal: Principal | None) -> Fault:
    """What to abort a call with that failed.

    Logs it; nothing of the call is left in the error afterwards.
    """
    if isinstance(error, DomainError):
        reason, message, details = error.reason, str(error), error.details
    else:
        error_id = uuid.uuid4().hex
        log.error("internal error", error_id=error_id, method=method, exc_info=error)
        reason, message, details = _internal(method, request, error_id)
    row, details = TABLE[reason], {name: truncate(value) for name, value in details.items()}
    # Who goes on guessing has a line for each of the first wrong credentials already.
    if isinstance(error, DomainError) and details.get("policy") != WRONG_POLICY:
        _log_failure(method, row, message, details, principal)
    forget_frames(error)
    return Fault(row.grpc_status, message, error_trailers(row, message, details))


def _log_failure(
    method: str, row: Row, message: str, details: Mapping[str, str], principal: Principal | None
) -> None:
    """One line for a call that failed: a client's fault is news, the service's own a warning.

    Values of clients stay out.
    """
    level = "warning" if row.http_status >= 500 else "info"
    ids = {name: details[detail] for detail, name in _LOGGED_IDS.items() if detail in details}
    if principal and principal.source:
        ids["principal"] = principal.id
    getattr(log, level)(
        "failed call", method=method.removeprefix("/"), code=row.reason, error=truncate(message), **ids
    )


def _internal(method: str, request: Any, error_id: str) -> tuple[str, str, dict[str, str]]:
    """Returns reason, message and details of an unforeseen error. Creating and sending have classes of their
    own.
    """
    reason = f"internal error {error_id}"
    match method.rpartition("/")[2]:
        case "CreateSession":
            return (
                "SESSION_CREATION_FAILED",
                f"The session could not be created: {reason}",
                {"reason": reason},
            )
        case "SendMessage" | "Converse" as name:
            session_id = (request if name == "SendMessage" else request.message).session_id
            return (
                "MESSAGE_SEND_FAILED",
                f"The message could not be sent: {reason}",
                {"sessionId": session_id, "reason": reason},
            )
        case _:
            return "INTERNAL", f"Internal error {error_id}", {"errorId": error_id}
