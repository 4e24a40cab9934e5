"""The entries of a session's log: what happened to it, in the order of their sequence."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from server.domain.messages import Message
from server.domain.timeouts import TimeoutConfig


class EntryKind(StrEnum):
    """What an entry reports."""

    MESSAGE = "message"
    """A message of the user or the agent, and what it did to the session."""
    RENEWAL = "renewal"
    """A renewal that came with no message: by hand, or by a heartbeat."""
    TIMEOUT_CHANGE = "timeout_change"
    """Changed timeout settings."""
    WARNING = "warning"
    """The warning threshold was reached."""
    EXPIRY = "expiry"
    """The session expired."""
    REPLY_FAILURE = "reply_failure"
    """There is no reply to a message, and there will be no more attempts."""


@dataclass(frozen=True, slots=True)
class ReplyFailure:
    """Which message of the user got no reply, why (for people), and after how many attempts.

    `reply_message_id` is the id that the last attempt's reply would have had; empty where no attempt was made, or none is known of.
    """

    message_id: str
    message_sequence: int
    reason: str
    attempts: int
    reply_message_id: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: its place, its time, what it reports, and how the session stood right after.

    `sequence` starts at 1 and has no gaps; `at_ms` strictly increases within the session; `message` is set for a MESSAGE, `timeout` (the
    settings from here on) for a TIMEOUT_CHANGE, `failure` for a REPLY_FAILURE.
    """

    session_id: str
    sequence: int
    at_ms: int
    kind: EntryKind
    expires_at_ms: int
    renewal_count: int
    was_renewed: bool
    is_near_expiration: bool
    message: Message | None = None
    timeout: TimeoutConfig | None = None
    failure: ReplyFailure | None = None

    @property
    def answers(self) -> int | None:
        """The sequence of the message that this is the reply to, or that there is none for."""
        if self.message:
            return self.message.answers
        return self.failure.message_sequence if self.failure else None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an agent's reply under way.

    It tells of which reply, its place in it from 0, the sequence of the message that it `answers`, and which attempt it is of, from 1.
    `after`: the last sequence of the log when the attempt began, which holds the ends of all earlier replies.
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
    """An attempt at a reply has come to nothing after it sent pieces: those with its `message_id` are void. `after`: as theirs."""

    session_id: str
    agent_id: str
    message_id: str
    answers: int
    attempt: int
    after: int


Piece: TypeAlias = Chunk | Abort
"""What is told of a reply under way, and not kept."""
