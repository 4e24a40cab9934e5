"""What the store gives: its values, and its errors of opening and copying."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from server.domain.deliveries import Delivery
from server.domain.log import Entry
from server.domain.sessions import Outcome, Session


class StoreOpenError(Exception):
    """The store cannot be opened; the text says why, and what to do about it, to whoever starts
    the service.
    """


class StoreDamagedError(StoreOpenError):
    """The store is no database, or not one that can be read."""


class CopyError(Exception):
    """The copy cannot be made; the text says why. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in an order of creation: of the time in ms, then of the id."""

    created_at_ms: int
    id: str


@dataclass(frozen=True, slots=True)
class MessagePage:
    """A page of messages, newest first; `has_more`: at least one more lies beyond it in the direction of
    travel.
    """

    messages: list[Entry]
    has_more: bool


@dataclass(frozen=True, slots=True)
class SessionPage:
    """A page of active sessions in order of creation.

    `next`: the next page begins behind it; None on the last page. `total`: how many match on all pages.
    It counts a session until its expiry is written, and so may lag behind the pages.
    """

    sessions: list[Session]
    next: Position | None
    total: int


class OpenDelivery(NamedTuple):
    """What the agent has yet to answer in a session: the session, the message of the user, and
    its delivery.
    """

    session: Session
    entry: Entry
    delivery: Delivery


class SessionFilter(NamedTuple):
    """Which sessions are searched for: of a user, of an agent (None: of any), live or expired (None: both),
    created from one instant on and before another, in ms, and with an id that begins so.
    """

    user_id: str | None = None
    agent_id: str | None = None
    is_expired: bool | None = None
    created_from_ms: int = -(2**62)
    created_before_ms: int = 2**62
    id_prefix: str = ""


class SearchPage(NamedTuple):
    """Sessions that were found, the newest first. `next`: the next page begins before it; None on the last
    one.
    """

    sessions: list[Session]
    next: Position | None


class FoundDelivery(NamedTuple):
    """A delivery with the id and the time of its message, in ms.

    `session_end_ms`: when its session expires, 0 where that is in the log. `is_held`: whether a server that
    shares the store has it in hand.
    """

    delivery: Delivery
    message_id: str
    created_at_ms: int
    session_end_ms: int
    is_held: bool = False


Place: TypeAlias = tuple[int | str, ...]
"""A place in a list of deliveries, of which only the back end knows the meaning."""


class DeliveryPage(NamedTuple):
    """Deliveries that were found. `next`: the next page begins behind it; None on the last one."""

    deliveries: list[FoundDelivery]
    next: Place | None


class AgentQueue(NamedTuple):
    """What waits for an agent: how many messages, when the oldest was sent (in ms; None: there is none), and
    how many have failed for good.
    """

    open: int
    oldest_ms: int | None
    failed: int


class Run(NamedTuple):
    """How a command on the store ended, and when, in ms. `detail` is for people."""

    at_ms: int
    is_good: bool
    detail: str


class Runs(NamedTuple):
    """How the last commands on the store ended; None: nobody knows of one."""

    backup: Run | None = None
    check: Run | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """How many sessions the store holds. A session counts as active until its expiry is in its log.

    `expiring_soon`: active ones whose warning is in the log.
    `invalid`: those that a read has met, and whose rows cannot be read back.
    """

    active: int
    expired: int
    expiring_soon: int
    invalid: int


class Erased(NamedTuple):
    """What a step of an erase has removed of a user, by kind.

    `rows`: how many rows are gone for good, also of what removed sessions had left; all are 0 when nothing is
    left to remove.
    """

    sessions: int = 0
    entries: int = 0
    deliveries: int = 0
    requests: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Commit:
    """What one commit has done to sessions: the outcomes of creations and rules, in order, and the sessions
    that were deleted, as they were last.
    """

    outcomes: Sequence[Outcome]
    deleted: Sequence[Session]


class Sizes(NamedTuple):
    """How large the store is, in bytes: its data, what is written ahead of them, the space left where it is,
    and the whole space there.

    None where only the database's own tools can tell.
    """

    data_bytes: int
    wal_bytes: int | None
    free_bytes: int | None
    disk_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Description:
    """Which store it is: where it is kept, its schema, and how many sessions it holds, live or expired.

    `unused_bytes` of its size are free for what comes next; `gives_back`: it lets go of more than it needs.
    """

    place: str
    schema: int
    sessions: int
    unused_bytes: int = 0
    gives_back: bool = True
