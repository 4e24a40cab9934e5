"""Messages: what a client asks to store, what is stored, and the bounds of both. JSON is compact UTF-8 text here, never rebuilt."""

from dataclasses import dataclass

from eliza.sessions.v1.limits import MAX_ATTACHMENTS_BYTES, MAX_CONTENT_CODE_POINTS, MAX_METADATA_BYTES
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
    """A stored message. Its place, its time and its author are those of its entry in the log."""

    id: str
    is_agent: bool
    content: str
    metadata: str
    attachments: str | None
    thought: str | None
    actions: tuple[str, ...]


def check_draft(draft: Draft) -> None:
    """Raises InvalidContentError or InvalidMetadataError for what the contract does not allow.

    Contract: "`content` (string, 1 to 4000 Unicode code points; white space alone is a message; a NUL … is an
    InvalidContentError), `metadata` (object, at most 10,240 bytes as compact JSON)".
    """
    if not 1 <= len(draft.content) <= MAX_CONTENT_CODE_POINTS:
        raise InvalidContentError(f"content must have 1 to {MAX_CONTENT_CODE_POINTS} characters")
    if "\0" in draft.content:
        raise InvalidContentError("content must not contain a NUL character")
    check_metadata(draft.metadata)
    if draft.attachments is not None and _bytes(draft.attachments) > MAX_ATTACHMENTS_BYTES:
        raise InvalidContentError(f"attachments must have at most {MAX_ATTACHMENTS_BYTES} bytes as compact JSON")


def check_metadata(metadata: str) -> None:
    """Raises InvalidMetadataError when the compact JSON text has more than MAX_METADATA_BYTES bytes in UTF-8."""
    if _bytes(metadata) > MAX_METADATA_BYTES:
        raise InvalidMetadataError(f"metadata must have at most {MAX_METADATA_BYTES} bytes as compact JSON", MAX_METADATA_BYTES)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
