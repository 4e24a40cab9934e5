"""What servers tell each other, as messages of PostgreSQL: JSON, cut into frames where it is longer than one
message may be.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

from server.domain.log import Abort, Chunk
from server.store.hints import Hint

FRAME_CHARACTERS: Final = 7_800
"""How much of the text a frame has: PostgreSQL takes less than 8,000 bytes, the frame's head among them."""
MOST_FRAMES: Final = 200
MOST_SENDERS: Final = 64
"""Of how many servers the beginnings of messages are kept: those of one that has died are never ended."""


def write_frames(replica_id: str, told: dict[str, Any]) -> Iterator[str]:
    """The frames of something to tell; none where it is too long."""
    text = json.dumps(told, separators=(",", ":"))
    count = -(-len(text) // FRAME_CHARACTERS)
    if count <= MOST_FRAMES:
        for number in range(count):
            start = number * FRAME_CHARACTERS
            yield f"{replica_id} {number} {count} {text[start : start + FRAME_CHARACTERS]}"


class FrameReader:
    """Joins the frames of other servers: those of one come in their order, and whole or not at all."""

    def __init__(self, replica_id: str) -> None:
        self._replica_id = replica_id
        self._parts: dict[str, list[str]] = {}

    def read(self, frame: str) -> Hint | None:
        """What is told with this frame; None where more of it follows, or it is no other server's."""
        try:
            sender, number, count, text = frame.split(" ", 3)
            is_first, is_last = number == "0", int(number) == int(count) - 1
        except ValueError:
            return None
        if sender == self._replica_id:
            return None
        parts = self._parts.pop(sender, [])
        if is_first:
            parts = []
        elif len(parts) != int(number):
            # Its beginning was lost.
            return None
        parts.append(text)
        if not is_last:
            if len(parts) < MOST_FRAMES:
                self._parts[sender] = parts
            if len(self._parts) > MOST_SENDERS:
                self._parts.pop(next(iter(self._parts)))
            return None
        return _hint_of(sender, "".join(parts))

    def clear(self) -> None:
        """Forgets what was begun: the connection is another one."""
        self._parts.clear()


def _hint_of(sender: str, text: str) -> Hint | None:
    """What a text tells; None where it is of another form, as of a later version."""
    try:
        told = json.loads(text)
        return Hint(
            grown=told.get("g", {}),
            deleted=told.get("d", ()),
            due=told.get("a", ()),
            agents=told.get("c", ()),
            pieces=[Chunk(*one) if len(one) == _CHUNK_FIELDS else Abort(*one) for one in told.get("p", ())],
            sender=sender,
            all="*" in told,
        )
    except (ValueError, TypeError, AttributeError):
        return None


_CHUNK_FIELDS: Final = len(Chunk.__dataclass_fields__)
