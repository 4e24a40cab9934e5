"""Calls that a client may repeat: the same request id with the same content has its effect once.

Contract: "The same id with the same content returns the first answer, marked as a replay; with other content it is an error."
"""

import hashlib
from dataclasses import dataclass

from eliza.sessions.limits import MAX_REQUEST_ID
from server.domain.errors import InvalidFieldError, RequestIdReusedError


@dataclass(frozen=True, slots=True)
class Request:
    """A call with a request id. `scope` is whose ids these are: of one session, or of one user who creates some."""

    scope: str
    id: str
    fingerprint: str


def request(scope: str, request_id: str, *content: str) -> Request | None:
    """The request with this id and content; None when no id is given. Raises InvalidFieldError for an id that cannot be one."""
    if not request_id:
        return None
    if len(request_id) > MAX_REQUEST_ID or not request_id.isascii() or not request_id.isprintable():
        raise InvalidFieldError("request_id", request_id, f"must have 1 to {MAX_REQUEST_ID} printable ASCII characters")
    digest = hashlib.sha256()
    for part in content:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(encoded))
        digest.update(encoded)
    return Request(scope, request_id, digest.hexdigest())


def require_same(wanted: Request, known_fingerprint: str) -> None:
    """Raises RequestIdReusedError when the id was used with other content."""
    if wanted.fingerprint != known_fingerprint:
        raise RequestIdReusedError(wanted.id)
