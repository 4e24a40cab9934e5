"""The Store interface, in roles.

Its docstrings are the contract that every back end keeps and `tests/store` checks.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping

from server.domain.access import Scope
from server.domain.agents import Agent
from server.domain.idempotency import RequestKey
from server.domain.log import Entry
from server.domain.quotas import UserQuota
from server.domain.replies import DeliveryRule
from server.domain.sessions import Creation, Outcome, Rule, Session
from server.store.inspection import Inspection
from server.store.maintenance import Maintenance
from server.store.sharing import Sharing
from server.store.values import (
    Commit,
    Counts,
    MessagePage,
    OpenDelivery,
    Position,
    SessionPage,
)

LeaseRule = Callable[..., Outcome]
"""A DeliveryRule that is also given the id of the message, as `message_id`."""
AgentChange = Callable[[Agent, int], Agent]
"""A change of an agent with its input bound: of the agent and the instant in ms."""


CommitListener = Callable[[Commit], None]
"""Is told what a commit has done."""


class Sessions(ABC):
    """Sessions and their logs."""

    @abstractmethod
    async def create_session(
        self,
        agent_id: str,
        rule: Creation,
        request: RequestKey | None = None,
        *,
        scope: Scope,
        of: UserQuota | None = None,
    ) -> Outcome:
        """Adds the session that the rule makes of the agent, if there is such an agent in the scope, at the
        present instant, in one transaction.

        Its id and its channel are new. For a request that is known already nothing is done, and the outcome
        is the session as it was made then. The request is remembered until the session is removed, or
        `forget_requests` takes it. `of` is the quota of the user whom the session is made for, where there is
        one.

        :raises DomainError: whatever the rule raises; nothing is written then
        :raises RequestIdReusedError: the request's id is known with other content
        :raises QuotaExceededError: the user has as many live sessions as it may
        """

    @abstractmethod
    async def apply(
        self, session_id: str, rule: Rule, request: RequestKey | None = None, *, scope: Scope
    ) -> Outcome:
        """Loads a session, applies the rule to it at the present instant, and persists the outcome, in one
        transaction.

        With the expiry of a session its open deliveries have failed. A request is remembered with the
        outcome's first entry, until the session is removed or `forget_requests` takes it. For one that is
        known already nothing is done, and the outcome is that entry again.

        :raises SessionNotFoundError: there is no such session
        :raises RequestIdReusedError: the request's id is known with other content
        :raises DomainError: whatever the rule raises; nothing is written then
        """

    @abstractmethod
    async def delete_session(self, session_id: str, etag: str = "", *, scope: Scope) -> None:
        """Removes a session, live or expired, with its log and its deliveries: no reading method knows of
        them any more.

        The requests that made it or wrote to it are forgotten: their ids are free. Its own id is not used
        again. How long this takes does not depend on how much the session has: what cannot be removed at once
        is left for `purge`.

        :raises SessionNotFoundError: there is no such session
        :raises EtagMismatchError: it is in none of the states that `etag` names
        """

    @abstractmethod
    async def get_session(self, session_id: str, *, scope: Scope) -> Session:
        """Reads a session, live or expired.

        :raises SessionNotFoundError: there is no such session
        """

    @abstractmethod
    async def find_channel(self, channel_id: str, *, scope: Scope) -> str:
        """Finds the id of the session with this channel.

        :raises SessionNotFoundError: there is no such channel
        """

    @abstractmethod
    async def list_sessions(
        self,
        now_ms: int,
        *,
        scope: Scope,
        limit: int,
        after: Position | None = None,
        agent_id: str | None = None,
        user_id: str | None = None,
    ) -> SessionPage:
        """Reads at most `limit` sessions of the scope that are active at `now_ms`, the oldest first, from the
        first one behind `after`; only those of an agent and of a user, where these are given.

        A page stops early, after at least one session, where its text grows past PAGE_BYTES. It stops, even
        without any session, once it has left out MAX_PASSED: their expiry is not written yet, or they are
        unreadable.
        """

    @abstractmethod
    async def list_user_sessions(
        self, user_id: str, *, scope: Scope, limit: int, before: Position | None = None
    ) -> SessionPage:
        """Reads at most `limit` sessions of a user in the scope, live or expired, the newest first, from the
        first one before a place.

        `total` counts them all. A page stops early, after at least one session, where its text grows past
        PAGE_BYTES. One that is unreadable is left out.
        """

    @abstractmethod
    async def list_messages(
        self, session: Session, *, limit: int, before_ms: int | None = None, after_ms: int | None = None
    ) -> MessagePage:
        """Reads at most `limit` messages of a session whose time lies strictly between the cursors, newest
        first. The session was read by whoever asks, in its scope; so it is for `list_history`, too.

        With `after_ms` alone they are the oldest of these (travelling forward), otherwise the newest
        (travelling back). A page stops early, after at least one message, where its text, with the session's
        metadata under each message, grows past PAGE_BYTES.
        """

    @abstractmethod
    async def list_entries(
        self,
        session_id: str,
        *,
        scope: Scope,
        after_sequence: int,
        limit: int,
        most_bytes: int | None = None,
    ) -> list[Entry]:
        """Reads at most `limit` entries of a session's log behind a sequence, in order, without gaps; none
        for a session that is not there.

        It stops early, after at least one entry, where their text grows past `most_bytes`, or PAGE_BYTES.
        """

    @abstractmethod
    async def list_history(self, session: Session, *, before_sequence: int, limit: int) -> list[Entry]:
        """Reads at most `limit` messages of a session that belong before the user's message with this
        sequence, the oldest first.

        They are the latest of the user's earlier messages and of the replies to these, each reply behind the
        message that it answers. It stops early, after at least one message, where their text grows past
        PAGE_BYTES.
        """

    @abstractmethod
    async def count_history(self, session: Session, *, before_sequence: int, limit: int) -> int:
        """Counts, up to `limit`, the messages that `list_history` would read if it never stopped early."""

    @abstractmethod
    async def counts(self, *, scope: Scope) -> Counts:
        """Tells how many sessions of the scope there are, at the same cost however many they are: each write
        keeps the counts.

        What is known of whole tenants only is 0 in a narrower scope: `expiring_soon`; and of the whole store:
        `invalid`.
        """

    @abstractmethod
    async def apply_due(self, rule: Rule, due_ms: int, limit: int) -> int:
        """Applies the rule, as `apply` does, to at most `limit` sessions whose deadline may be at `due_ms` or
        before, in one transaction.

        The longest due go first. Returns how many sessions it took; 0 when there are none left. A session may
        be among them whose deadline has moved on, where the rule does nothing. One that cannot be dealt with
        is logged and put off by PUT_OFF_MS, and holds up nobody.
        """

    @abstractmethod
    async def next_due_ms(self) -> int | None:
        """Tells an instant before which nothing happens to any session by itself; None when nothing ever
        does.
        """


class Deliveries(ABC):
    """The ways of users' messages to the agents."""

    @abstractmethod
    async def apply_delivery(
        self, session_id: str, sequence: int, rule: DeliveryRule, *, scope: Scope
    ) -> Outcome:
        """Does as `apply`, with a rule that is given the delivery of the session's message with this
        sequence, too.

        :raises SessionNotFoundError: there is no such session
        :raises DeliveryNotFoundError: the session has no such delivery
        :raises DomainError: whatever the rule raises; nothing is written then
        """

    @abstractmethod
    async def find_answer(self, session_id: str, sequence: int, *, scope: Scope) -> Entry | None:
        """Finds the reply to the message with this sequence, or else its last final failure; None while there
        is neither, and while it is delivered anew.

        It goes through no log: a message may be repeated when 100,000 entries have come since.
        """

    @abstractmethod
    async def lease_due(
        self,
        agent_id: str,
        due_ms: int,
        limit: int,
        held: Collection[str] = (),
        rule: LeaseRule | None = None,
    ) -> list[OpenDelivery]:
        """Claims at most `limit` deliveries of an agent that may be given at `due_ms`, the longest due first.

        Of each session only the first open delivery may be given, and none of the sessions whose ids are in
        `held`: the caller has one of these in hand. It becomes due when it becomes the first, or when its
        rest ends. A lease is void where its session is not in `held`: nobody else gives this agent
        deliveries.

        The rule is applied to each as by `apply_delivery`, and they are returned as it leaves them. One that
        the rule refuses is left out; where its session's expiry is not in the log yet, it is put off by
        PUT_OFF_MS. Without a rule nothing is written: from then on `held` is the claim. Fewer are returned
        than are due where their text grows past PAGE_BYTES, or where a lease cannot be written.

        :raises UnavailableError: and the like, where none could be leased
        """

    @abstractmethod
    async def next_delivery_ms(self, agent_id: str, held: Collection[str] = ()) -> int | None:
        """Tells from when on `lease_due` has a delivery to give, 0 being at once; None when there is none."""

    @abstractmethod
    async def count_open(self) -> Mapping[str, int]:
        """Counts the open deliveries of each agent that has any.

        It reads a row for each session with some: to be called once, at the start.
        """

    @abstractmethod
    async def oldest_open_ms(self) -> int | None:
        """Tells from when the oldest is of the messages that sessions have open and answer next.

        It reads as much as `count_open`.
        """


class Agents(ABC):
    """The agents that sessions are held with."""

    @abstractmethod
    async def create_agent(self, agent: Agent, *, most: int = 0) -> None:
        """Adds an agent. Its tenant may have `most` then; 0: as many as it wants.

        :raises AgentAlreadyExistsError: its id is taken
        :raises QuotaExceededError: its tenant has as many as it may
        """

    @abstractmethod
    async def seed_agent(self, agent: Agent) -> None:
        """Adds an agent once in the life of the store: not where it was seeded before, even if it is gone
        since, nor over another.
        """

    @abstractmethod
    async def update_agent(self, agent_id: str, change: AgentChange, *, scope: Scope) -> Agent:
        """Loads an agent, changes it at the present instant, and persists the result, in one transaction;
        returns it.

        :raises AgentNotFoundError: there is no such agent
        :raises PermissionDeniedError: the scope sees it, and does not own it
        :raises DomainError: whatever the change raises; nothing is written then
        """

    @abstractmethod
    async def delete_agent(self, agent_id: str, *, scope: Scope) -> None:
        """Removes an agent; its sessions stay.

        :raises AgentNotFoundError: there is no such agent
        :raises PermissionDeniedError: the scope sees it, and does not own it
        """

    @abstractmethod
    async def get_agent(self, agent_id: str, *, scope: Scope) -> Agent:
        """Reads an agent.

        :raises AgentNotFoundError: there is no such agent
        """

    @abstractmethod
    async def list_agents(self, *, scope: Scope, limit: int, after: Position | None = None) -> list[Agent]:
        """Reads at most `limit` agents of the scope in order of registration, from the first one behind
        `after`.
        """


class Store(Sessions, Deliveries, Inspection, Agents, Maintenance, Sharing):
    """Keeps agents, sessions and their logs.

    A writing method returns once its effect is durable, and then any reading method sees it. Writes on one
    session happen one after the other; each happens wholly or not at all. A call that is cancelled before its
    turn writes nothing. Every method may raise UnavailableError (the store is closed, or cannot be read or
    written now) and every writing one ResourceExhaustedError (there is no room) or OverloadedError (too many
    writes wait); nothing was done then.

    Methods that a caller's request leads to take the `scope` of the caller, and check it before anything
    else: what lies out of it is not there. Others are for the service itself.
    """

    @abstractmethod
    def add_listener(self, listener: CommitListener) -> None:
        """Has the listener called on the event loop after each commit of `create_session`, `apply`,
        `apply_delivery`, `delete_session` and `erase_user`.

        It is called before they return, also where their callers are gone; it must not raise, nor take long.
        It is not told what was replayed, nor what the purge and `clear_sessions` remove.
        """

    @abstractmethod
    async def close(self) -> None:
        """Finishes the writes that were accepted, then lets go of the database.

        The store is of no use afterwards.
        """


PUT_OFF_MS = 60_000
"""For how long a session is left alone whose deadline or delivery could not be dealt with, in ms."""

MAX_WRITES = 10_000
"""How many writes may wait for the disk, where nobody says."""

MAX_PASSED = 1000
"""How many sessions a page may leave out before it ends.

This bounds its cost while the expiry of many is not written yet.
"""

PAGE_BYTES = 640 * 1024
"""How much text of JSON and content a page holds: as protobuf it then stays below the 4 MiB that a gRPC
client takes by default, whatever is in it, except where a single message is larger."""
