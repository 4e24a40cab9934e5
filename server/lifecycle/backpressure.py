"""Whether large answers may be read, or too much waits already for clients that read slowly."""

from collections.abc import Callable
from typing import Protocol


class Backpressure(Protocol):
    """Bounds how much waits for slow clients: while it is full, nothing large is read."""

    @property
    def is_full(self) -> bool:
        """Whether nothing large should be read now."""

    def reserve(self, owner: object, size_bytes: int) -> None:
        """Counts an answer that an owner has read and not begun to send."""

    def release(self, owner: object) -> None:
        """Stops counting it."""

    def when_free(self, wake: Callable[[], None]) -> None:
        """Calls `wake` once there may be room again."""

    def forget(self, wake: Callable[[], None]) -> None:
        """Drops `wake`."""


class Unbounded:
    """A Backpressure that is never full."""

    is_full = False

    def reserve(self, owner: object, size_bytes: int) -> None: ...

    def release(self, owner: object) -> None: ...

    def when_free(self, wake: Callable[[], None]) -> None: ...

    def forget(self, wake: Callable[[], None]) -> None: ...
