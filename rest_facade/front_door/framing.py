"""Bounds the bytes of a connection that belong to no body."""

from typing import Final

MAX_HEAD_BYTES: Final = 65_536
"""How many bytes the request line, headers and trailers of a request may have together.

The same bound holds for the bytes between two parts of its body. The parser itself has no bound.
"""


class Framing:
    """Counts the bytes of a request's head, and those between the parts of its body."""

    is_in_head = False

    _head_bytes = 0

    _other_bytes = 0
    """How many bytes came since the last part of a body, in slices without any."""

    _is_behind_request = False
    """Whether the slice began with the end of another request."""

    _has_body = False
    """Whether the slice holds a part of a body."""

    def begin_slice(self) -> None:
        self._is_behind_request = self._has_body = False

    def begin_head(self) -> None:
        self.is_in_head = True
        self._head_bytes = 0

    def end_head(self) -> None:
        self.is_in_head = False
        self._other_bytes = 0

    def add_trailer(self, size_bytes: int) -> None:
        self._head_bytes += size_bytes

    def note_body(self) -> None:
        self._has_body = True

    def end_request(self) -> None:
        """Notes that a request is complete. The rest of the slice belongs to another one."""
        self._is_behind_request = True

    def end_slice(self, size_bytes: int, *, is_in_body: bool) -> None:
        """Counts a slice that has been parsed. `is_in_body`: the body of a request is not complete."""
        if self.is_in_head and not self._is_behind_request:
            self._head_bytes += size_bytes
        elif is_in_body:
            # Lengths of chunks, and trailers, of which the parser may keep one as it comes.
            self._other_bytes = 0 if self._has_body else self._other_bytes + size_bytes

    @property
    def is_too_long(self) -> bool:
        return max(self._head_bytes, self._other_bytes) > MAX_HEAD_BYTES
