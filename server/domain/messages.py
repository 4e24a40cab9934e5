"""Messages: what clients and agents send, what the store keeps, and the bounds of both.

Metadata and attachments are compact JSON text here; nothing parses it again.
"""

from typing import NamedTuple, TypeAlias

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


class Draft(NamedTuple):
    """A message before it is stored. Metadata is a JSON object's text, attachments a JSON array's or None."""

    content: str
    metadata: str = EMPTY_OBJECT
    attachments: str | None = None


class Reply(NamedTuple):
    """An agent's reply: a draft, and the agent's thought and actions where it gave any."""

    draft: Draft
    thought: str | None = None
    actions: tuple[str, ...] = ()


class UserMessage(NamedTuple):
    """A message of the user. Its entry in the log has its sequence and its time."""

    id: str
    content: str
    metadata: str
    attachments: str | None


class AgentMessage(NamedTuple):
    """A message of the agent. `answers` is the sequence of the user's message that it is the reply to."""

    id: str
    content: str
    metadata: str
    attachments: str | None
    thought: str | None = None
    actions: tuple[str, ...] = ()
    answers: int | None = None


Message: TypeAlias = UserMessage | AgentMessage
"""A stored message."""


def check_draft(draft: Draft) -> None:
    """Raises InvalidContentError or InvalidMetadataError for a user's message beyond the bounds.

    docs/sessions-api.md, *A message*, has them. White space alone is a message.
    """
    _check(draft, MAX_CONTENT_CODE_POINTS)


def stored_size(message: Draft | Message) -> int:
    """How much content, metadata and attachments a message has, in bytes of UTF-8."""
    return _bytes(message.content) + _bytes(message.metadata) + _bytes(message.attachments or "")


def clean_reply(reply: Reply) -> Reply:
    """The reply with its content, thought and actions cleaned, so that one bad character does not cost it."""
    return Reply(
        reply.draft._replace(content=clean(reply.draft.content)),
        None if reply.thought is None else clean(reply.thought),
        tuple(map(clean, reply.actions)),
    )


def check_reply(reply: Reply) -> None:
    """Raises InvalidContentError or InvalidMetadataError for a cleaned reply that cannot be stored.

    It may be longer than a user's message: the API bounds only those, and models answer at length.
    """
    _check(reply.draft, MAX_REPLY_CODE_POINTS)
    if reply.thought is not None and len(reply.thought) > MAX_REPLY_CODE_POINTS:
        raise InvalidContentError(f"thought must have at most {MAX_REPLY_CODE_POINTS} characters")
    longest = max(map(len, reply.actions), default=0)
    if len(reply.actions) > MAX_ACTIONS or longest > MAX_ACTION_CODE_POINTS:
        raise InvalidContentError(
            f"actions must be at most {MAX_ACTIONS}, of at most {MAX_ACTION_CODE_POINTS} characters each",
        )


def check_metadata(metadata: str) -> None:
    """Raises InvalidMetadataError when the JSON text has more than MAX_METADATA_BYTES bytes in UTF-8."""
    if _bytes(metadata) > MAX_METADATA_BYTES:
        why = f"metadata must have at most {MAX_METADATA_BYTES} bytes as compact JSON"
        raise InvalidMetadataError(why, MAX_METADATA_BYTES)


def _check(draft: Draft, most_code_points: int) -> None:
    if not 1 <= len(draft.content) <= most_code_points:
        raise InvalidContentError(f"content must have 1 to {most_code_points} characters")
    if "\0" in draft.content:
        raise InvalidContentError("content must not contain a NUL character")
    if not is_text(draft.content):
        raise InvalidContentError("content must not contain a lone surrogate, which is not text")
    check_metadata(draft.metadata)
    if draft.attachments is not None and _bytes(draft.attachments) > MAX_ATTACHMENTS_BYTES:
        why = f"attachments must have at most {MAX_ATTACHMENTS_BYTES} bytes as compact JSON"
        raise InvalidContentError(why)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
