"""What the model remembers: sessions as clients see them, their deliveries, and requests; and
what it finds.
"""

from dataclasses import dataclass, field
from typing import Any

MINUTE = 60_000


class Violation(AssertionError):  # noqa: N818 - it is what is found, not what went wrong
    """The service did what the contract does not allow."""


def require(condition: object, *what: object) -> None:
    if not condition:
        raise Violation(" ".join(map(str, what)))


@dataclass(frozen=True)
class Limits:
    """The settings of the service, as its documentation names them."""

    min_timeout: float
    max_timeout: float
    default_timeout: float
    default_duration: float
    default_warning: float
    retention_ms: int
    request_retention_ms: int
    max_attempts: int
    max_open: int


@dataclass(frozen=True)
class Refusal:
    """An error, by its code."""

    reason: str


NOT_FOUND = Refusal("SESSION_NOT_FOUND")
EXPIRED = Refusal("SESSION_EXPIRED")
MISMATCH = Refusal("ETAG_MISMATCH")
REUSED = Refusal("REQUEST_ID_REUSED")
OVERLOADED = Refusal("OVERLOADED")
AGENT_NOT_FOUND = Refusal("AGENT_NOT_FOUND")


@dataclass(frozen=True)
class State:
    """What a client can see of a session."""

    id: str
    channel: str
    agent: str
    user: str
    metadata: tuple[tuple[str, Any], ...]
    created: int
    timeout: float
    auto_renew: bool
    duration: float
    warning: float
    activity: int
    renewed: int
    expires: int
    renewals: int = 0
    last_sequence: int = 0

    @property
    def end(self) -> int:
        return self.created + round(self.duration * MINUTE)

    @property
    def warn_at(self) -> int:
        return self.expires - round(self.warning * MINUTE)

    def view(self, now: int, *, expired: bool = False) -> dict[str, Any]:
        """The session in an answer that is given at an instant."""
        left = 0 if expired else max(0, self.expires - now)
        return {
            "id": self.id,
            "channel": self.channel,
            "agent": self.agent,
            "user": self.user,
            "metadata": dict(self.metadata),
            "created": self.created,
            "expires": self.expires,
            "timeout": (self.timeout, self.auto_renew, self.duration, self.warning),
            "activity": self.activity,
            "renewals": self.renewals,
            "left": left,
            "near": 0 < left <= round(self.warning * MINUTE),
            "last_sequence": self.last_sequence,
        }


@dataclass
class Delivery:
    """The way of a message to the agent, as far as the contract tells of it."""

    attempts: int = 0
    lost: int = 0
    """How often the connection of whoever had it went away before they had said anything: these are no
    attempts.
    """
    given: int = 0
    """The last attempt for which an agent has got it."""
    open: bool = True
    answered: bool = False
    final: bool = False
    """The agent has said that it makes no sense to ask again."""
    said: set[str] = field(default_factory=set)
    """What the agent has answered, whether it came through or not."""


@dataclass
class Session:
    """A session with its log, and when its deadlines last changed."""

    state: State
    changed: int
    warned: bool = False
    expired: bool = False
    log: list[dict[str, Any]] = field(default_factory=list)
    deliveries: dict[int, Delivery] = field(default_factory=dict)

    def is_expired(self, now: int) -> bool:
        return self.expired or now >= self.state.expires

    def messages(self) -> list[dict[str, Any]]:
        return [entry for entry in self.log if entry["kind"] == "message"]

    def open(self) -> list[int]:
        return [sequence for sequence, delivery in self.deliveries.items() if delivery.open]


@dataclass(frozen=True)
class Known:
    """A request with an id, what it asked for, what it was answered, and the session that it goes with."""

    content: object
    answer: dict[str, Any]
    made: int
    session: str
