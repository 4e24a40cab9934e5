"""Whether there is room for what is large, where much waits for clients that read slowly."""

from collections.abc import Callable
from typing import Protocol


class Room(Protocol):
    """Whether what is told may be large: where much waits for slow clients already, it may not."""

    @property
    def is_full(self) -> bool:
        """Whether nothing large should be read now."""

    def reserve(self, owner: object, size_bytes: int) -> None:
        """Takes room for what an owner has read, and has not begun to send."""

    def release(self, owner: object) -> None:
        """Takes none for it any more."""

    def when_free(self, wake: Callable[[], None]) -> None:
        """Calls this once there is room again, as it may seem."""

    def forget(self, wake: Callable[[], None]) -> None:
        """Does not call it."""


class Unbounded:
    """A Room that is never full."""

    is_full = False

    def reserve(self, owner: object, size_bytes: int) -> None:
        """Needs none."""

    def release(self, owner: object) -> None:
        """Has none."""

    def when_free(self, wake: Callable[[], None]) -> None:
        """Is never used."""

    def forget(self, wake: Callable[[], None]) -> None:
        """Has nothing to forget."""
