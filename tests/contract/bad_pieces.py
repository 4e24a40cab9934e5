"""A piece of bad input over REST: its bytes, and what must come of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tests.contract.raw_http import request

FINE: Final = "fine"
"""Odd, but the answer is a success."""
NO_ANSWER: Final = "no answer"
"""The request never ends, so there is nothing to answer."""
ANY: Final = "any"
"""Whether it is an error is not in the contract; it must not be a fault of the service."""

SID: Final = "5e551011-5e55-4e55-8e55-5e5510115e55"
USER: Final = "05e40000-05e4-4e05-8e05-05e405e405e4"
"""These stand for the ids of the session that each piece gets; they have the same length."""

SESSIONS: Final = "/api/messaging/sessions"
LIMIT: Final = 2 * 1024 * 1024
JSON = (("Content-Type", "application/json"),)
BODIES = {
    "create": ("POST", SESSIONS),
    "send": ("POST", f"{SESSIONS}/{SID}/messages"),
    "patch": ("PATCH", f"{SESSIONS}/{SID}/timeout"),
    "renew": ("POST", f"{SESSIONS}/{SID}/renew"),
    "heartbeat": ("POST", f"{SESSIONS}/{SID}/heartbeat"),
    "clock": ("POST", "/test/clock"),
}
HUGE = "9" * 400


@dataclass(frozen=True)
class Bad:
    """A piece: its bytes, and the code (or the codes, of which one) of its error, or FINE,
    NO_ANSWER or ANY.
    """

    name: str
    pieces: tuple[bytes, ...]
    outcome: str
    method: str = "GET"
    half_close: bool = False


def post(
    name: str, operation: str, body: str | bytes, outcome: str, headers: Iterable[tuple[str, str]] = JSON
) -> Bad:
    method, path = BODIES[operation]
    content = body if isinstance(body, bytes) else body.encode()
    return Bad(f"{operation}: {name}", (request(method, path, content, headers),), outcome, method)


def get(path: str | bytes, outcome: str, headers: Iterable[tuple[str, str]] = (), name: str = "") -> Bad:
    return Bad(
        name or f"GET {path[:100]!r} of {len(path)}", (request("GET", path, headers=headers),), outcome
    )
