"""Deliveries: user messages on their way to agents, until a reply is stored or all attempts failed."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from server.domain.errors import DeliveryNotFoundError


class DeliveryState(StrEnum):
    """How far a delivery has come."""

    PENDING = "pending"
    """Waits for its time, and for the session's earlier messages."""
    LEASED = "leased"
    """The agent has it."""
    ANSWERED = "answered"
    """The reply is stored."""
    FAILED = "failed"
    """There is no reply, and no other attempt follows."""


OPEN_STATES: Final = (DeliveryState.PENDING, DeliveryState.LEASED)

MAX_OPEN_DELIVERIES: Final = 1000
"""How many deliveries of a session may be open, where nobody says."""

MAX_LOST_CONNECTIONS: Final = 20
"""How many lost connections cost a delivery no attempt. A delivery that kills its workers must end too."""

MAX_DETAIL_CODE_POINTS: Final = 500
"""How much of a provider's own words the store keeps, in code points."""


@dataclass(frozen=True, slots=True)
class AttemptFailure:
    """A failed attempt, for the operator. Users may see `reason`, but not `detail`.

    `attempt` counts from 1; 0 means that the agent could not be asked. `reply_id`: the id that its reply
    would have had.
    """

    at_ms: int
    attempt: int
    reason: str
    detail: str = ""
    reply_id: str = ""


class Delivery(NamedTuple):
    """The delivery of the message with this sequence.

    `attempts` counts the leases, without those that `lost_connections` counts: the worker lost its connection
    before it had sent anything. `due_at_ms` is, while pending, the earliest time of the next lease; while
    leased, the end of the lease; else None. `last_failure` is that of the last failed attempt. `trace`: where
    the call that brought the message is in its trace, as text; empty: nowhere, or the message is answered.
    """

    session_id: str
    sequence: int
    state: DeliveryState
    attempts: int
    due_at_ms: int | None
    lost_connections: int = 0
    last_failure: AttemptFailure | None = None
    trace: str = ""

    @property
    def id(self) -> str:
        """The id by which agents name it."""
        return delivery_id(self.session_id, self.sequence)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a delivery is attempted, and its backoff in ms: exponential, with jitter."""

    max_attempts: int
    first_backoff_ms: int
    longest_backoff_ms: int

    def backoff_ms(self, attempts: int, jitter: float) -> int:
        """The backoff after this many attempts.

        `jitter`, from 0 to 1, takes off up to a half, to spread retries out.
        """
        # The exponent has a bound because a power of two may get too large for a float.
        whole_ms: float = min(self.first_backoff_ms * 2 ** min(attempts - 1, 32), self.longest_backoff_ms)
        return round(whole_ms * (1 - jitter / 2))


_ID = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-([1-9][0-9]{0,17})", re.ASCII)


def delivery_id(session_id: str, sequence: int) -> str:
    """The id of the delivery of a session's message."""
    return f"{session_id}-{sequence}"


def parse_delivery_id(text: str) -> tuple[str, int]:
    """The session and the sequence of a delivery's id. Raises DeliveryNotFoundError for a malformed id."""
    found = _ID.fullmatch(text.lower())
    if not found:
        raise DeliveryNotFoundError(text)
    return found[1], int(found[2])
