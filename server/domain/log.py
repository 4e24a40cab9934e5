"""The entries of a session's log: what happened to it, in the order of their sequence."""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from server.domain.messages import AgentMessage, Message, UserMessage
from server.domain.timeouts import TimeoutConfig


@dataclass(frozen=True, slots=True)
class Renewal:
    """A renewal that came with no message: by hand, or by a heartbeat."""


@dataclass(frozen=True, slots=True)
class TimeoutChange:
    """Changed timeout settings; `timeout` holds from here on."""

    timeout: TimeoutConfig


@dataclass(frozen=True, slots=True)
class ExpirationWarning:
    """The warning threshold was reached."""


@dataclass(frozen=True, slots=True)
class Expiry:
    """The session expired."""


@dataclass(frozen=True, slots=True)
class ReplyFailure:
    """There is no reply to a message, and there will be no more attempts: to which, why (for people), and
    after how many.

    `reply_message_id` is the id that the last attempt's reply would have had; empty where no attempt was
    made, or none is known of.
    """

    message_id: str
    message_sequence: int
    reason: str
    attempts: int
    reply_message_id: str = ""


Event: TypeAlias = (
    UserMessage | AgentMessage | Renewal | TimeoutChange | ExpirationWarning | Expiry | ReplyFailure
)
"""What an entry reports."""


class Entry(NamedTuple):
    """One entry: its place, its time, what it reports, and how the session stood right after.

    `sequence` starts at 1 and has no gaps; `at_ms` strictly increases within the session.
    """

    session_id: str
    sequence: int
    at_ms: int
    event: Event
    expires_at_ms: int
    renewal_count: int
    was_renewed: bool
    is_near_expiration: bool

    @property
    def message(self) -> Message | None:
        """The message that it is, if it is one."""
        return self.event if isinstance(self.event, Message) else None

    @property
    def answers(self) -> int | None:
        """The sequence of the message that this is the reply to, or that there is none for."""
        match self.event:
            case AgentMessage():
                return self.event.answers
            case ReplyFailure():
                return self.event.message_sequence
        return None


def message_of(entry: Entry) -> Message:
    """The message that an entry is. Raises TypeError for another entry."""
    if entry.message is None:
        raise TypeError(f"entry {entry.sequence} of session {entry.session_id} is no message")
    return entry.message


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an agent's reply under way.

    It tells of which reply, its place in it from 0, the sequence of the message that it `answers`, and which
    attempt it is of, from 1. `after`: the last sequence of the log when the attempt began, which holds the
    ends of all earlier replies.
    """

    session_id: str
    agent_id: str
    message_id: str
    text: str
    index: int
    answers: int
    attempt: int
    after: int


@dataclass(frozen=True, slots=True)
class Abort:
    """An attempt at a reply has come to nothing after it sent pieces: those with its `message_id` are void.

    `after`: as theirs.
    """

    session_id: str
    agent_id: str
    message_id: str
    answers: int
    attempt: int
    after: int


Piece: TypeAlias = Chunk | Abort
"""What is told of a reply under way, and not kept."""
