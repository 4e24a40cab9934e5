"""What an operator asks of a store: the role `Inspection` of the interface (see `contract`)."""

from abc import ABC, abstractmethod

from server.domain.access import Scope
from server.domain.deliveries import DeliveryState
from server.domain.sessions import Session
from server.store.values import (
    AgentQueue,
    DeliveryPage,
    Place,
    Position,
    Runs,
    SearchPage,
    SessionFilter,
)

MAX_LOOKED_AT = 1000
"""How many sessions, deliveries or entries of a log a call reads at most beyond those that it gives out.

This bounds its cost where few of them are wanted.
"""

MAX_QUEUED = 1000
"""How many sessions that wait for an agent are looked at, and up to how many failures are counted."""


class Inspection(ABC):
    """What has become of sessions and messages."""

    @abstractmethod
    async def search_sessions(
        self,
        now_ms: int,
        wanted: SessionFilter,
        *,
        scope: Scope,
        limit: int,
        before: Position | None = None,
    ) -> SearchPage:
        """Reads at most `limit` sessions of the scope that are wanted at `now_ms`, the newest first, from the
        first one before a place.

        An expired one is found once its expiry is in the log. A page stops early, after at least one session,
        where its text grows past PAGE_BYTES. It stops, even without any session, once it has looked at very
        many that are not wanted. One that is unreadable is left out.
        """

    @abstractmethod
    async def list_deliveries(
        self,
        session: Session,
        *,
        limit: int,
        state: frozenset[DeliveryState],
        after: Place | None = None,
    ) -> DeliveryPage:
        """Reads at most `limit` deliveries of a session that are in one of these states, that of the newest
        message first. The session was read by whoever asks, in its scope.

        A page stops, even without any, once it has passed MAX_LOOKED_AT that are in another state.
        """

    @abstractmethod
    async def list_agent_deliveries(
        self, agent_id: str, *, scope: Scope, limit: int, failed: bool, after: Place | None = None
    ) -> DeliveryPage:
        """Reads at most `limit` deliveries of an agent in the scope: open ones, session by session, those
        first of which the first is due first; or those of live sessions that have failed for good, of the
        newest session of a tenant first.

        A page stops, even without any, once it has looked at MAX_LOOKED_AT sessions.
        """

    @abstractmethod
    async def find_message(self, session: Session, message_id: str) -> int | None:
        """Finds the sequence of a message of a session among the latest MAX_LOOKED_AT entries of its log."""

    @abstractmethod
    async def describe_queue(self, agent_id: str, *, scope: Scope) -> AgentQueue:
        """Tells what waits for an agent in the scope, by the MAX_QUEUED sessions that are due first.

        Failures are counted up to MAX_QUEUED.
        """

    @abstractmethod
    async def last_runs(self) -> Runs:
        """Tells how the last backup and the last check of the store have ended."""
