"""Sessions and their logs as records, for who takes them along: JSON Lines, in parts."""

from collections.abc import AsyncIterator
from typing import Any, Final, TypeAlias

import orjson
from google.protobuf.json_format import MessageToDict

from eliza.sessions.v1 import log_pb2
from server.domain.access import Scope
from server.domain.errors import SessionNotFoundError
from server.domain.log import Entry
from server.domain.sessions import Session
from server.rpc import to_proto
from server.rpc.encoding import in_slices
from server.store.contract import Store

READ_ENTRIES: Final = 100
"""How many are read at a time."""

PART_BYTES: Final = 256 * 1024
"""How large a part is, about."""

Record: TypeAlias = dict[str, Any]
"""`record` says what it is: a `session`, or an `entry` of its log."""


async def iterate_session(
    store: Store, session: Session, now_ms: int, scope: Scope, after_sequence: int = 0
) -> AsyncIterator[Record]:
    """Yields a session and its log behind a sequence, as far as it goes now.

    Raises SessionNotFoundError where the session is removed meanwhile.
    """
    yield {"record": "session", "session": MessageToDict(to_proto.session(session, now_ms, True))}
    sequence = after_sequence
    while sequence < session.last_sequence:
        limit = min(READ_ENTRIES, session.last_sequence - sequence)
        entries = await store.list_entries(session.id, scope=scope, after_sequence=sequence, limit=limit)
        if not entries:
            raise SessionNotFoundError(session.id)
        async for entry in in_slices(entries):
            yield {"record": "entry", "entry": MessageToDict(_whole_entry(session, entry))}
        sequence = entries[-1].sequence


async def write_lines(records: AsyncIterator[Record]) -> AsyncIterator[bytes]:
    """Yields the records as whole lines, in parts of about PART_BYTES."""
    lines = bytearray()
    async for record in records:
        lines += orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
        if len(lines) >= PART_BYTES:
            yield bytes(lines)
            lines.clear()
    if lines:
        yield bytes(lines)


def _whole_entry(session: Session, entry: Entry) -> log_pb2.LogEntry:
    """An entry with its message, whose metadata and attachments are as text."""
    whole = to_proto.entry_head(entry)
    if entry.message:
        whole.message.CopyFrom(to_proto.message(session, entry, entry.message, True))
    return whole
