"""What the clients of all three kinds have in common. They are as thin as they can be, so that they see what
happens to their connections: `AgainError` says how an attempt ended.
"""

import uuid
from dataclasses import dataclass
from typing import Protocol

CALL_SECONDS = 20
"""After which an attempt is given up; far above what it takes, also beside other work."""
PAUSE_SECONDS = 0.05
"""How long a client waits before the next attempt, at most."""


class AgainError(Exception):
    """An attempt has no answer, or one that says to try again.

    `how`: `refused`, `dropped`, `late`, or the reason given. `address`: who was asked, of several.
    """

    def __init__(self, how: str, detail: str = "") -> None:
        super().__init__(f"{how} {detail}")
        self.how = how
        self.address = ""


class RefusedError(Exception):
    """The answer is an error that another attempt does not change."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Sent:
    """An acknowledged message; `replayed` and `reply_id` where the client is told."""

    message_id: str
    replayed: bool | None = None
    reply_id: str | None = None


class Client(Protocol):
    """Sends messages. Raises AgainError, RefusedError."""

    kind: str

    async def send(self, session_id: str, request_id: str, content: str, *, wait: bool = False) -> Sent:
        """Sends a message, and where `wait` waits for the reply."""

    async def close(self) -> None:
        """Closes the connection."""


def new_request_id() -> str:
    return str(uuid.uuid4())
