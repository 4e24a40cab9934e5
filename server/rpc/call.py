"""A call as a servicer sees it: its context, who makes it, and what that caller may see."""

from collections.abc import Callable
from typing import Any, Protocol

from server.domain.access import EVERYTHING, OPEN, Principal, Scope


class Caller(Protocol):
    """The part of a call's context that the pipeline uses: that of gRPC, or of a call within the process."""

    def time_remaining(self) -> float | None:
        """How many seconds are left of the call's deadline; None: it has none."""

    def peer(self) -> str:
        """Where the call comes from, as gRPC writes it."""

    def invocation_metadata(self) -> Any:
        """The pairs of a key, in lower case, and a value that came with the call; or None."""

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Tells the caller something ahead of the answer, in pairs of a key and a text."""


class Call:
    """What a servicer is given as the context of a call."""

    __slots__ = ("_caller", "on_credential_end", "principal", "scope")

    def __init__(self, caller: Caller, principal: Principal = OPEN, scope: Scope = EVERYTHING) -> None:
        self._caller = caller
        self.principal = principal
        self.scope = scope
        self.on_credential_end: Callable[[bool], None] | None = None
        """What a servicer wants called once the credential of its stream has ended, instead of the stream's
        end: with True where it was removed, False where it has expired.
        """

    def time_remaining(self) -> float | None:
        """How many seconds are left of the call's deadline; None: it has none."""
        return self._caller.time_remaining()

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Tells the caller something ahead of the answer, in pairs of a key and a text."""
        await self._caller.send_initial_metadata(initial_metadata)
