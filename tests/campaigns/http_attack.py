"""What an attack over HTTP is."""

from dataclasses import dataclass
from typing import Final

SMUGGLED_USER: Final = "66666666-6666-4666-8666-666666666666"
"""Whoever sees a session of this user has taken bytes of a body for a request."""

SESSIONS: Final = "/api/messaging/sessions"


@dataclass(frozen=True)
class Attack:
    """Bytes for one connection.

    `refused`: the answer must be this status alone, and the connection closed.
    """

    name: str
    content: bytes
    refused: int = 0
    half_close: bool = False
