"""Messages: what a client asks to store, what is stored, and the bounds of both. JSON is compact UTF-8 text here, never rebuilt."""

from dataclasses import dataclass, replace

from eliza.sessions.limits import (
    MAX_ACTION_CODE_POINTS,
    MAX_ACTIONS,
    MAX_ATTACHMENTS_BYTES,
    MAX_CONTENT_CODE_POINTS,
    MAX_METADATA_BYTES,
    MAX_REPLY_CODE_POINTS,
)
from eliza.sessions.texts import is_text
from server.domain.agent_text import clean
from server.domain.errors import InvalidContentError, InvalidMetadataError

EMPTY_OBJECT = "{}"


@dataclass(frozen=True, slots=True)
class Draft:
    """What someone asks to store: metadata is a JSON object's text, attachments a JSON array's or None."""

    content: str
    metadata: str = EMPTY_OBJECT
    attachments: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What an agent answers: a draft with the agent's thought and actions, where it gave any."""

    draft: Draft
    thought: str | None = None
    actions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """A stored message. Its place and its time are those of its entry in the log."""

    id: str
    content: str
    metadata: str
    attachments: str | None


@dataclass(frozen=True, slots=True)
class UserMessage(Message):
    """A message of the user."""


@dataclass(frozen=True, slots=True)
class AgentMessage(Message):
    """A message of the agent. `answers` is the sequence of the user's message that it is the reply to."""

    thought: str | None = None
    actions: tuple[str, ...] = ()
    answers: int | None = None


def check_draft(draft: Draft) -> None:
    """Raises InvalidContentError or InvalidMetadataError for what the contract does not allow.

    Contract: "`content` (string, 1 to 4000 Unicode code points; white space alone is a message; a NUL … is an
    InvalidContentError), `metadata` (object, at most 10,240 bytes as compact JSON)".
    """
    _check(draft, MAX_CONTENT_CODE_POINTS)


def clean_reply(reply: Reply) -> Reply:
    """The reply with its content, thought and actions cleaned, so that it is not lost for one character."""
    return Reply(
        replace(reply.draft, content=clean(reply.draft.content)),
        None if reply.thought is None else clean(reply.thought),
        tuple(map(clean, reply.actions)),
    )


def check_reply(reply: Reply) -> None:
    """Raises InvalidContentError or InvalidMetadataError for a cleaned reply that cannot be stored.

    It may be longer than a user's message: the contract bounds only these, and models answer at length.
    """
    _check(reply.draft, MAX_REPLY_CODE_POINTS)
    if reply.thought is not None and len(reply.thought) > MAX_REPLY_CODE_POINTS:
        raise InvalidContentError(f"thought must have at most {MAX_REPLY_CODE_POINTS} characters")
    if len(reply.actions) > MAX_ACTIONS or any(len(action) > MAX_ACTION_CODE_POINTS for action in reply.actions):
        raise InvalidContentError(f"actions must be at most {MAX_ACTIONS}, of at most {MAX_ACTION_CODE_POINTS} characters each")


def check_metadata(metadata: str) -> None:
    """Raises InvalidMetadataError when the compact JSON text has more than MAX_METADATA_BYTES bytes in UTF-8."""
    if _bytes(metadata) > MAX_METADATA_BYTES:
        raise InvalidMetadataError(f"metadata must have at most {MAX_METADATA_BYTES} bytes as compact JSON", MAX_METADATA_BYTES)


def _check(draft: Draft, most_code_points: int) -> None:
    if not 1 <= len(draft.content) <= most_code_points:
        raise InvalidContentError(f"content must have 1 to {most_code_points} characters")
    if "\0" in draft.content:
        raise InvalidContentError("content must not contain a NUL character")
    if not is_text(draft.content):
        raise InvalidContentError("content must not contain a lone surrogate, which is not text")
    check_metadata(draft.metadata)
    if draft.attachments is not None and _bytes(draft.attachments) > MAX_ATTACHMENTS_BYTES:
        raise InvalidContentError(f"attachments must have at most {MAX_ATTACHMENTS_BYTES} bytes as compact JSON")


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
