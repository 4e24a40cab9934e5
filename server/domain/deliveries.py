"""Deliveries: the way of a user's message to the session's agent, until a reply is stored or all attempts have failed."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from server.domain.errors import DeliveryNotFoundError


class DeliveryState(StrEnum):
    """How far a delivery is."""

    PENDING = "pending"
    """To be given to the agent, once the session's earlier messages are through and its time has come."""
    LEASED = "leased"
    """In the agent's hands."""
    ANSWERED = "answered"
    """The reply is stored."""
    FAILED = "failed"
    """There is no reply, and there will be no more attempts."""


OPEN_STATES: Final = (DeliveryState.PENDING, DeliveryState.LEASED)

MAX_OPEN_DELIVERIES: Final = 1000
"""How many deliveries of a session may be open, where nobody says."""

MAX_LOST_CONNECTIONS: Final = 20
"""How many lost connections are not charged to a delivery: one that kills whoever takes it comes to an end, too."""

MAX_DETAIL_CODE_POINTS: Final = 500
"""How much of a provider's own words is kept."""


@dataclass(frozen=True, slots=True)
class AttemptFailure:
    """An attempt that came to nothing, as the operator is told of it: `reason` is what users may see, `detail` they do not.

    `attempt` counts from 1; 0: the agent could not even be asked.
    """

    at_ms: int
    attempt: int
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """The delivery of the message with this sequence.

    `attempts` counts the leases so far, without those that a lost connection ended before anything was heard, which `lost_connections`
    counts. `due_at_ms`: while pending, not to be given before; while leased, the end of the lease, should nothing be heard; otherwise
    None. `last_failure` is that of the last attempt that came to nothing.
    """

    session_id: str
    sequence: int
    state: DeliveryState
    attempts: int
    due_at_ms: int | None
    lost_connections: int = 0
    last_failure: AttemptFailure | None = None

    @property
    def id(self) -> str:
        """What agents call it."""
        return f"{self.session_id}-{self.sequence}"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a delivery is attempted, and how long it rests in between, in ms: exponentially longer, with jitter."""

    max_attempts: int
    first_backoff_ms: int
    longest_backoff_ms: int

    def backoff_ms(self, attempts: int, jitter: float) -> int:
        """How long to rest after so many attempts. `jitter`, from 0 to 1, takes up to a half off, lest many come back at once."""
        # The exponent is bounded, because a power of two may get too large for a float.
        whole_ms: float = min(self.first_backoff_ms * 2 ** min(attempts - 1, 32), self.longest_backoff_ms)
        return round(whole_ms * (1 - jitter / 2))


_ID = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-([1-9][0-9]{0,17})", re.ASCII)


def parse_delivery_id(delivery_id: str) -> tuple[str, int]:
    """The session and the sequence of a delivery's id. Raises DeliveryNotFoundError for what is no such id."""
    found = _ID.fullmatch(delivery_id.lower())
    if not found:
        raise DeliveryNotFoundError(delivery_id)
    return found[1], int(found[2])
