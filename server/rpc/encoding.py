"""Encodes answers: once where many clients get the same, and in slices where one client gets many messages.

In protobuf a message is the bytes of its fields, one after the other, so fields can be encoded apart.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from eliza.sessions.v1 import log_pb2, message_service_pb2
from server.agents.connector import MAX_DELIVERY_BYTES, Work, count_fitting
from server.domain.log import Chunk, Entry
from server.domain.sessions import Session
from server.rpc import to_proto

KEPT_BYTES: Final = 4 * 1024 * 1024
"""How many bytes of encoded entries and chunks are kept for the next watches."""

SLICE_SECONDS: Final = 0.005
"""How long the work for one caller keeps others waiting."""

_OVERHEAD_BYTES: Final = 500
"""About how much a kept item costs beside its bytes."""

_FIELD_BYTES: Final = 6
"""How many bytes a repeated field adds to each of its messages at most: its number and the length."""

_Item = TypeVar("_Item")
_Key = tuple[str | int | bool, ...]


class Entries:
    """The latest entries and chunks, encoded."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept: OrderedDict[_Key, tuple[bytes, bytes]] = OrderedDict()
        self._room = kept_bytes

    def encode_entry(self, answer: type[Message], session: Session, entry: Entry, as_text: bool) -> Any:
        """Returns a watch's answer that holds an entry. `as_text`: metadata and attachments as JSON text."""
        head, message = self._entry(session, entry, as_text)
        return _field(
            answer, "entry", head + (_field(log_pb2.LogEntry, "message", message) if message else b"")
        )

    def encode_reply(self, session: Session, entry: Entry, as_text: bool) -> Any:
        """Returns the part of a conversation that holds the reply."""
        return _field(message_service_pb2.ConverseResponse, "reply", self._entry(session, entry, as_text)[1])

    def encode_chunk(self, answer: type[Message], chunk: Chunk) -> Any:
        """Returns a watch's answer that holds a chunk of a reply."""
        # Chunks may be put together: where one begins does not say how long it is.
        key = (chunk.message_id, chunk.index, len(chunk.text))
        encoded, _ = self._keep(key, lambda: (to_proto.chunk(chunk).SerializeToString(), b""))
        return _field(answer, "chunk", encoded)

    def _entry(self, session: Session, entry: Entry, as_text: bool) -> tuple[bytes, bytes]:
        """An entry but for its message, and its message."""

        def encode() -> tuple[bytes, bytes]:
            message = (
                to_proto.message(session, entry, entry.message, as_text).SerializeToString()
                if entry.message
                else b""
            )
            return to_proto.entry_head(entry).SerializeToString(), message

        return self._keep((entry.session_id, entry.sequence, as_text), encode)

    def _keep(self, key: _Key, encode: Callable[[], tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            return found
        made = self._kept[key] = encode()
        self._room -= _size(made)
        while self._room < 0:
            self._room += _size(self._kept.popitem(last=False)[1])
        return made


async def in_slices(items: Iterable[_Item]) -> AsyncIterator[_Item]:
    """Yields the items, and serves others whenever the work on them has taken SLICE_SECONDS."""
    now_s = asyncio.get_running_loop().time
    since_s = now_s()
    for item in items:
        yield item
        if now_s() - since_s >= SLICE_SECONDS:
            await asyncio.sleep(0)
            since_s = now_s()


async def encode_delivery(work: Work, now_ms: int, as_text: bool) -> bytes:
    """A delivery, as a worker gets it: of the history, the last messages that fit."""
    head, history = to_proto.delivery_head(work, now_ms, as_text), work.history
    earlier = [
        to_proto.delivered_message(work.session, entry, entry.message, as_text).SerializeToString()
        async for entry in in_slices(history.entries)
        if entry.message
    ]
    sizes = [len(message) + _FIELD_BYTES for message in earlier]
    too_many = len(earlier) - count_fitting(sizes, MAX_DELIVERY_BYTES - head.ByteSize())
    head.history_left_out = history.left_out + too_many
    delivery: bytes = join(head, {"history": earlier[too_many:]})
    return delivery


def join(rest: Message, fields: Mapping[str, Sequence[bytes]]) -> Any:
    """An answer of which `rest` has all but the repeated fields that are encoded already."""
    parts = [rest.SerializeToString()]
    for name, encoded in fields.items():
        parts += [_field(type(rest), name, one) for one in encoded]
    return b"".join(parts)


def _field(message: type[Message], name: str, encoded: bytes) -> bytes:
    """Returns a field that holds a message, as it stands in the bytes of the message around it."""
    number = message.DESCRIPTOR.fields_by_name[name].number
    return _varint(number << 3 | 2) + _varint(len(encoded)) + encoded


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _size(encoded: tuple[bytes, bytes]) -> int:
    return len(encoded[0]) + len(encoded[1]) + _OVERHEAD_BYTES
