"""What every kind of agent has in common.

A new kind is a Connector, a name in AgentKind, a line in `build_connectors`.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from server.domain.agents import Agent
from server.domain.deliveries import Delivery
from server.domain.log import Entry, message_of
from server.domain.messages import Message, Reply
from server.domain.sessions import Session
from server.telemetry.traces import NOWHERE, TraceContext

MAX_DELIVERY_BYTES: Final = 4 * 1024 * 1024 - 64 * 1024
"""The largest delivery, as protobuf or JSON. gRPC clients receive 4 MiB by default, with what wraps it.

The message to answer always fits: its attachments have at most 2 MiB of JSON, and less than 3 MiB as a
Struct.
"""

UNBOUNDED: Final = 2**31
"""The capacity of those whom the dispatcher alone bounds."""

Emit = Callable[[str], bool]
"""Sends a piece of the reply ahead to the watches of the session; returns whether anybody hears the next one.

Raises InvalidContentError when the pieces grow longer than a reply may be.
"""


class NoReplyError(Exception):
    """An attempt came to nothing.

    `reason` is for people, users among them; `final`: another attempt makes no sense.
    """

    charged = True
    """Whether the attempt counts among the attempts of the delivery."""

    def __init__(
        self,
        reason: str,
        *,
        final: bool,
        retry_after_s: float = 0,
        error_id: str = "",
        detail: str = "",
        connection_lost: bool = False,
    ) -> None:
        """`retry_after_s`: the agent's own minimum pause. `error_id`: the id of our fault in the log.

        `detail`: the provider's words with host and port, for the operator alone; no secret may be in it.
        `connection_lost`: the connection to a worker broke before anything was heard from it.
        """
        super().__init__(reason)
        self.connection_lost = connection_lost
        self.reason = reason
        self.final = final
        self.retry_after_s = retry_after_s
        self.error_id = error_id
        self.detail = detail


class AgentUnavailableError(NoReplyError):
    """The agent cannot be asked under these settings. The message waits until the operator has fixed that."""

    charged = False

    def __init__(self, reason: str, *, detail: str) -> None:
        """`detail` says what is wrong, and names the setting."""
        super().__init__(reason, final=False, detail=detail)


@dataclass(frozen=True, slots=True)
class History:
    """Earlier messages, the oldest first.

    `left_out` counts still older ones that were asked for but hold too much text.
    """

    entries: list[Entry]
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """A message for an agent to answer: that of the user in `entry`.

    The reply will have the id `reply_id`. `trace`: where this attempt is in the message's trace.
    """

    agent: Agent
    session: Session
    entry: Entry
    delivery: Delivery
    reply_id: str
    history: History
    trace: TraceContext = NOWHERE

    @property
    def message(self) -> Message:
        return message_of(self.entry)


def count_fitting(sizes: Sequence[int], room: int) -> int:
    """How many of these sizes fit into the room together, counted from the last one back to the first."""
    count = 0
    for size in reversed(sizes):
        room -= size
        if room < 0:
            break
        count += 1
    return count


class Slot(Protocol):
    """Time for one delivery."""

    def history_messages(self, agent: Agent) -> int:
        """How many earlier messages are wanted with a delivery, at most."""

    async def reply(self, work: Work, emit: Emit) -> Reply:
        """Gets the reply, emitting its text piece by piece where the agent gives it so. Raises NoReplyError.

        It is cancelled when the lease runs out, when the reply comes by other means, and when the session
        ends.
        """


class Connector(Protocol):
    """Reaches the agents of one kind."""

    @property
    def is_inside(self) -> bool:
        """Whether the agents end with this process, so that a lease need not be stored.

        Then they always have time and are always ready.
        """

    def check(self, agent: Agent) -> None:
        """Raises InvalidFieldError for an agent with an address or a secret that is not allowed.

        It reads nothing and does not wait: the store calls it within a write.
        """

    async def check_secret(self, agent: Agent) -> None:
        """Raises InvalidFieldError for an agent whose secret cannot be read or used."""

    def capacity(self, agent_id: str) -> int:
        """How many deliveries of an agent can be in hand here at a time."""

    async def check_ready(self, agent: Agent) -> None:
        """Raises AgentUnavailableError where the agent cannot be asked as the service is set up."""

    def slot(self, agent: Agent) -> AbstractAsyncContextManager[Slot]:
        """Holds somebody with time for one delivery.

        An error that leaves the block says that the reply, if any, is not stored. Raises NoReplyError where
        nobody has time.
        """
