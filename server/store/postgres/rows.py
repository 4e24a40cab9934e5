"""The columns of the PostgreSQL tables, and how the rows of a set are handed over: as a JSON array of arrays.

JSON carries them and nothing more: what is text in the table stays the text it was.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import orjson

from server.domain.deliveries import Delivery
from server.domain.log import Entry, ReplyFailure
from server.domain.sessions import Session, due_at_ms
from server.store.pages import text_size
from server.store.rows import (
    AGENT,
    COUNT,
    DELIVERY,
    ENTRY,
    OPEN,
    REQUEST,
    SESSION,
    SESSION_CHANGING,
    Row,
    agent_of,
    agent_row,
    delivery_of,
    delivery_row,
    entry_of,
    entry_row,
    of,
    request_row,
    session_changing_row,
    session_from_json,
    session_of,
    session_row,
)

__all__ = [
    "AGENT",
    "COUNT",
    "DELIVERY",
    "ENTRY",
    "OPEN",
    "REQUEST",
    "SESSION",
    "Row",
    "agent_of",
    "agent_row",
    "delivery_of",
    "delivery_row",
    "entry_of",
    "of",
    "request_row",
    "session_from_json",
    "session_of",
]

TYPES: Final = {
    **dict.fromkeys(("id", "channel_id", "agent_id", "user_id", "session_id", "holder"), "uuid"),
    **dict.fromkeys(
        ("timeout_minutes", "max_duration_minutes", "warning_threshold_minutes", "retention_minutes"),
        "float8",
    ),
    **dict.fromkeys(
        ("auto_renew", "warned", "expired", "was_renewed", "is_near_expiration", "is_agent", "is_nearer"),
        "boolean",
    ),
    **dict.fromkeys(
        (
            "renewal_count",
            "open_deliveries",
            "failed_deliveries",
            "size",
            "attempts",
            "lost_connections",
            "lane",
        ),
        "integer",
    ),
    **dict.fromkeys(
        (
            *("created_at_ms", "updated_at_ms", "last_activity_ms", "renewed_at_ms", "expires_at_ms"),
            *("last_sequence", "last_entry_ms", "stored_bytes", "due_at_ms", "expired_at_ms"),
            *("retention_ms", "kept_until_ms"),
            *("sequence", "at_ms", "answers", "failed_sequence", "head_due_ms", "sessions"),
        ),
        "bigint",
    ),
}
"""The types of columns that are not text."""

NEW_SESSION: Final = (*SESSION, "due_at_ms", "expired_at_ms", "kept_until_ms")
CHANGED_SESSION: Final = (*SESSION_CHANGING, "expired_at_ms", "kept_until_ms", "id", "is_nearer", "due_at_ms")
NEW_ENTRY: Final = (*ENTRY, "size", "failed_sequence")
SET_DELIVERY: Final = (*DELIVERY, "agent_id", "head_due_ms", "holder")
SET_COUNT: Final = (*COUNT[:-1], "lane", COUNT[-1])

MOST_JSON_BYTES: Final = 16 * 1024 * 1024
"""How large one parameter gets: an array in PostgreSQL's JSON has less than 256 MiB."""


def item_values(columns: Sequence[str], texts: Iterable[str] = ()) -> str:
    """Columns of a set whose rows are the arrays of a JSON array, as `item`. Those in `texts` are text."""
    as_text = set(texts)
    return ", ".join(item_value(columns, column, column in as_text) for column in columns)


def item_value(columns: Sequence[str], column: str, is_text: bool = False) -> str:
    """One of them."""
    value = f"(item ->> {columns.index(column)})"
    return value if is_text or column not in TYPES else f"{value}::{TYPES[column]}"


def packed(items: Iterable[Sequence[Any]]) -> Iterator[str]:
    """The sets as parameters: one JSON array, or a few where the rows are large.

    Raises TypeError for text that is no UTF-8.
    """
    rows: list[bytes] = []
    size = 0
    for item in items:
        rows.append(orjson.dumps(item))
        size += len(rows[-1])
        if size > MOST_JSON_BYTES:
            yield f"[{b','.join(rows).decode()}]"
            rows, size = [], 0
    if rows:
        yield f"[{b','.join(rows).decode()}]"


def new_session_row(session: Session) -> Row:
    """The values of NEW_SESSION."""
    return *session_row(session), *_purge_times_of(session)


def changed_session_row(session: Session, *, is_nearer: bool) -> Row:
    """The values of CHANGED_SESSION. Where the deadline is not nearer, the stored one may stay."""
    *changing, session_id = session_changing_row(session)
    return *changing, *_purge_times_of(session), session_id, is_nearer, due_at_ms(session)


def _purge_times_of(session: Session) -> tuple[int | None, int | None]:
    return purge_times(session.expiry_logged, session.expires_at_ms, session.retention_ms)


def purge_times(
    expiry_logged: bool, expires_at_ms: int, retention_ms: int | None
) -> tuple[int | None, int | None]:
    """The expiry, once it is in the log; or the end of the session's own retention, where it has one."""
    if not expiry_logged:
        return None, None
    return (expires_at_ms, None) if retention_ms is None else (None, expires_at_ms + retention_ms)


def new_entry_row(entry: Entry) -> Row:
    """The values of NEW_ENTRY."""
    event = entry.event
    failed = event.message_sequence if isinstance(event, ReplyFailure) else None
    return *entry_row(entry), text_size(entry), failed


def set_delivery_row(delivery: Delivery, agent_id: str, head_due_ms: int | None, holder: str | None) -> Row:
    """The values of SET_DELIVERY."""
    return *delivery_row(delivery), agent_id, head_due_ms, holder


def is_uuid(text: str) -> bool:
    """Whether a text can be an id in lower case: nothing else is asked of the database."""
    return (
        len(text) == 36
        and text[8] == text[13] == text[18] == text[23] == "-"
        and not (set(text) - _DIGITS)
        and text.count("-") == 4
    )


_DIGITS: Final = frozenset("0123456789abcdef-")
NO_ID: Final = "00000000-0000-0000-0000-000000000000"
"""Before every id."""
LAST_ID: Final = "ffffffff-ffff-ffff-ffff-ffffffffffff"
"""Behind every other id."""
