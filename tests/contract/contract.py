"""The published tables of the contract, word for word as far as a program needs them, and what they say."""

import re
from dataclasses import dataclass
from typing import Final

_ENDPOINTS = """\
| POST `/sessions` | create a session of a user with an agent | 201 CreateSessionResponse | 400, 404 (agent unknown) |
| GET `/sessions/{sessionId}` | read one session and its live status | 200 SessionInfo | 404, 410 |
| POST `/sessions/{sessionId}/messages` | send a message; renews when auto-renewal is on | 201 MessageResponse | 400, 404, 410 |
| GET `/sessions/{sessionId}/messages` | page through the history, newest first | 200 MessagesPage | 400, 404, 410 |
| POST `/sessions/{sessionId}/renew` | renew by hand | 200 SessionInfo | 404, 410, 422 (maximum duration reached) |
| PATCH `/sessions/{sessionId}/timeout` | change the timeout settings of a live session | 200 SessionInfo | 400, 404, 410 |
| POST `/sessions/{sessionId}/heartbeat` | keep alive; renews when auto-renewal is on | 200 SessionInfo | 404, 410 |
| DELETE `/sessions/{sessionId}` | end and remove a session | 200 `{success: true, message}` | 404 |
| GET `/sessions` | admin: list the active sessions | 200 SessionList | |
| GET `/sessions/health` | health of this API | 200 Health | 503 when it cannot serve (*ours*) |
"""

_ERRORS = """\
| SessionNotFoundError | SESSION_NOT_FOUND | 404 | `sessionId` |
| SessionExpiredError | SESSION_EXPIRED | 410 | `sessionId`, `expiresAt` |
| SessionCreationError | SESSION_CREATION_FAILED | 500 | `reason` |
| AgentNotFoundError | AGENT_NOT_FOUND | 404 | `agentId` |
| InvalidUuidError | INVALID_UUID | 400 | `field`, `value` |
| MissingFieldsError | MISSING_FIELDS | 400 | `missingFields` |
| InvalidContentError | INVALID_CONTENT | 400 | `reason` |
| InvalidMetadataError | INVALID_METADATA | 400 | `reason`, `maxBytes` |
| InvalidPaginationError | INVALID_PAGINATION | 400 | `parameter`, `value`, `reason` |
| InvalidTimeoutConfigError | INVALID_TIMEOUT_CONFIG | 400 | `field`, `value`, `reason` |
| SessionRenewalError | SESSION_RENEWAL_FAILED | 422 | `sessionId`, `reason`, `maxDurationMinutes`, `createdAt` |
| MessageSendError | MESSAGE_SEND_FAILED | 500 | `sessionId`, `reason` |
"""

PREFIX: Final = "/api/messaging"
"""What stands before every path of the table of endpoints."""

OTHER_STATUSES: Final = {
    # "Malformed JSON, a body that is not an object, an unsupported content type, an unknown path and a wrong
    # method get the same error body with 400, 400, 415, 404 and 405; a body over 2 MiB gets 413, a rate limit
    # 429 with Retry-After, an overload 503".
    "INVALID_REQUEST": 400,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "PATH_NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "REQUEST_TOO_LARGE": 413,
    "RATE_LIMITED": 429,
    "UNAVAILABLE": 503,
    "RESOURCE_EXHAUSTED": 503,
    "DEADLINE_EXCEEDED": 504,
    # Of the table of transports: "504 after the reply deadline, the message being kept".
    "AGENT_REPLY_TIMEOUT": 504,
    # "A request from a web page of a foreign origin is a 403 `ORIGIN_NOT_ALLOWED`, one for a foreign Host a
    # 421 `HOST_NOT_ALLOWED`".
    "ORIGIN_NOT_ALLOWED": 403,
    "HOST_NOT_ALLOWED": 421,
    # "no or a bad credential is 401 `UNAUTHENTICATED`, an ended one 401 `CREDENTIAL_EXPIRED`, a role that may
    # not 403 `PERMISSION_DENIED`, a quota 429 `QUOTA_EXCEEDED`".
    "UNAUTHENTICATED": 401,
    "CREDENTIAL_EXPIRED": 401,
    "PERMISSION_DENIED": 403,
    "QUOTA_EXCEEDED": 429,
    # Of ours alone.
    "AGENT_REPLY_FAILED": 502,
    "INVALID_FIELD": 400,
    "AGENT_ALREADY_EXISTS": 409,
    "REQUEST_ID_REUSED": 409,
    "ETAG_MISMATCH": 412,
    "OVERLOADED": 503,
    "DELIVERY_NOT_FOUND": 404,
    "DELIVERY_ALREADY_ANSWERED": 409,
    "DELIVERY_NOT_LEASED": 409,
    "INTERNAL": 500,
}
"""The codes that the table of errors does not have."""


@dataclass(frozen=True)
class Endpoint:
    """A row of the table of endpoints."""

    method: str
    path: str
    success: int
    errors: tuple[int, ...]


@dataclass(frozen=True)
class ErrorRow:
    """A row of the table of errors."""

    error_class: str
    code: str
    status: int
    details: tuple[str, ...]


def _cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def _endpoint(cells: list[str]) -> Endpoint:
    method, path = cells[0].replace("`", "").split()
    return Endpoint(method, path, int(cells[2][:3]), tuple(map(int, re.findall(r"\b\d{3}\b", cells[3]))))


ENDPOINTS: Final = tuple(map(_endpoint, _cells(_ENDPOINTS)))
ERRORS: Final = tuple(
    ErrorRow(cells[0], cells[1], int(cells[2]), tuple(re.findall(r"`(\w+)`", cells[3])))
    for cells in _cells(_ERRORS)
)
STATUSES: Final = {**{row.code: row.status for row in ERRORS}, **OTHER_STATUSES}
"""The HTTP status of every code."""
