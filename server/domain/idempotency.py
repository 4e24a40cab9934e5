"""Calls that a client may repeat: the same request id with the same content takes effect once.

See docs/sessions-api.md, *Retries*: the repeated call gets the first answer, marked as a replay. With other
content it is an error.
"""

import hashlib
from typing import NamedTuple

from eliza.sessions.limits import MAX_REQUEST_ID
from server.domain.errors import InvalidFieldError, RequestIdReusedError


class RequestKey(NamedTuple):
    """What makes two calls the same.

    `scope` says whose ids these are: those of a session, or of a user who creates sessions. `fingerprint` is
    a digest of the call's content.
    """

    scope: str
    id: str
    fingerprint: str


def request_key(scope: str, request_id: str, *content: str) -> RequestKey | None:
    """The key of a call with this id and content; None where the client gave no id.

    Raises InvalidFieldError for a malformed id.
    """
    if not request_id:
        return None
    if len(request_id) > MAX_REQUEST_ID or not request_id.isascii() or not request_id.isprintable():
        why = f"must have 1 to {MAX_REQUEST_ID} printable ASCII characters"
        raise InvalidFieldError("request_id", request_id, why)
    digest = hashlib.sha256()
    for part in content:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(encoded))
        digest.update(encoded)
    return RequestKey(scope, request_id, digest.hexdigest())


def creation_scope(user_id: str, tenant: str) -> str:
    """The scope of the ids with which sessions are created for a user: each tenant has its own."""
    return f"tenant:{tenant}:user:{user_id}" if tenant else f"user:{user_id}"


def require_same(wanted: RequestKey, known_fingerprint: str) -> None:
    """Raises RequestIdReusedError when the id was used with other content."""
    if wanted.fingerprint != known_fingerprint:
        raise RequestIdReusedError(wanted.id)
