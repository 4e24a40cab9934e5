"""What the store contract asks for the service itself, and for its operator."""

from abc import ABC, abstractmethod

from server.domain.access import Scope
from server.store.values import Description, Erased, Sizes


class Maintenance(ABC):
    """What the service itself has to know of its store, and to do for it."""

    @abstractmethod
    async def describe(self) -> Description:
        """Tells which store it is, for the operator."""

    @abstractmethod
    async def measure(self) -> Sizes:
        """Tells how large the store is.

        :raises OSError: that cannot be found out
        """

    @abstractmethod
    async def check_writable(self) -> None:
        """Makes a small durable write, to find out whether the store can.

        :raises UnavailableError: it cannot
        :raises ResourceExhaustedError: it has no room
        """

    @abstractmethod
    async def purge(self, now_ms: int, limit: int, *, retention_ms: int = 0) -> int:
        """Takes one small step of removing what deleted sessions have left, then the sessions whose retention
        is over at `now_ms`: their own, or else `retention_ms`, after their expiry.

        A session whose expiry has not been written stays until it is: nobody has been told of it. Among
        sessions with a retention of their own, and among the others, those go first whose retention ended
        first, as `delete_session` does it, then what they have left: requests,
        deliveries, entries. A step removes at most `limit` rows, and ends after a few milliseconds. It
        returns how many rows it removed: 0 when nothing is left to remove.
        """

    @abstractmethod
    async def forget_requests(self, made_by_ms: int, limit: int) -> int:
        """Takes one small step of forgetting the requests that were made at `made_by_ms` or before.

        It forgets at most `limit`, ends after a few milliseconds, and returns how many: 0 when none is left
        to forget.
        """

    @abstractmethod
    async def shrink(self) -> bool:
        """Takes one small step of giving back what removed rows have taken up, beyond some room for new ones.

        It ends after a few milliseconds, and returns whether there is more to give back.
        """

    @abstractmethod
    async def erase_user(self, user_id: str, *, scope: Scope, limit: int) -> Erased:
        """Takes one small step of removing all that the scope has of a user: its sessions, live or expired,
        as `delete_session` does it, then their requests, deliveries, entries.

        What sessions that were removed before have left goes first, whoever they belonged to: nobody knows
        that any more. A step is as small as one of `purge`; the call is to be repeated until it removes
        nothing. A session counts with all that it has in the step that removes it. What a back end keeps
        elsewhere goes with `finish_erasure`.
        """

    @abstractmethod
    async def finish_erasure(self) -> list[str]:
        """Removes what erased rows have left outside of tables, such as a log of writes.

        Returns what could not be done, a sentence each, for people.
        """

    @abstractmethod
    async def clear_sessions(self) -> None:
        """Removes every session as `delete_session` does. Agents stay."""
