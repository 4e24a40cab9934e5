"""A call as a servicer sees it: its context, who makes it, and what that caller may see."""

from collections.abc import Callable
from typing import Any, Final, Protocol
from urllib.parse import unquote

from eliza.sessions.call_metadata import REQUEST_ID_KEY, take_request_id
from server.domain.access import EVERYTHING, OPEN, Principal, Scope

IN_PROCESS: Final = "inproc"
"""The peer of calls within the process: they are those of the facade beside the server, by construction."""


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


class RequestId:
    """The name of a call in the logs: the one that came with it, or a fresh one. It is looked for when the
    first line needs it.
    """

    __slots__ = ("_caller", "_text")

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._text = ""

    def __str__(self) -> str:
        if not self._text:
            given = self._caller.invocation_metadata() or ()
            self._text = take_request_id(str(value) for key, value in given if key == REQUEST_ID_KEY)
        return self._text


class Call:
    """What a servicer is given as the context of a call.

    `account` is the name by which the caller's calls are counted, empty where they are not, and `share` the
    part of any bound that it may have. `on_credential_end`, where a servicer sets it, is called once the
    credential of its stream has ended, with True where it was removed, False where it has expired; without it
    the stream ends then.
    """

    __slots__ = ("_caller", "account", "on_credential_end", "principal", "scope", "share")

    def __init__(
        self,
        caller: Caller,
        principal: Principal = OPEN,
        scope: Scope = EVERYTHING,
        account: str = "",
        share: float = 1.0,
    ) -> None:
        self._caller = caller
        self.principal = principal
        self.scope = scope
        self.account = account
        self.share = share
        self.on_credential_end: Callable[[bool], None] | None = None

    @property
    def address(self) -> str:
        """Where the call comes from, for people: its client's address as far as it is known, else that of the
        connection.
        """
        return self.principal.address or unquote(self._caller.peer().partition(":")[2])

    def time_remaining(self) -> float | None:
        """How many seconds are left of the call's deadline; None: it has none."""
        return self._caller.time_remaining()

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Tells the caller something ahead of the answer, in pairs of a key and a text."""
        await self._caller.send_initial_metadata(initial_metadata)
