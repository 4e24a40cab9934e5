"""A group of operations on sessions, carried out in memory: what is to be loaded, the rules applied, what is
to be written. No SQL.

A back end loads what `wanted` names, has `apply` carry out the operations in their order, and writes what
`written` holds; all of this in one transaction.
"""

import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, TypeAlias, TypeVar

from eliza.sessions.errors import forget_frames
from server.domain.access import Scope
from server.domain.agents import Agent
from server.domain.deliveries import OPEN_STATES, Delivery, DeliveryState, delivery_id
from server.domain.errors import (
    DeliveryNotFoundError,
    DomainError,
    SessionNotFoundError,
)
from server.domain.idempotency import RequestKey, require_same
from server.domain.log import Entry
from server.domain.sessions import Outcome, Session, due_at_ms
from server.store.counts import CountKey, changed_counts, live_of_user
from server.store.values import Commit, Erased

E = TypeVar("E", bound=Exception)

RequestName: TypeAlias = tuple[str, str]
"""The scope and the id of a request."""
DeliveryKey: TypeAlias = tuple[str, int]
"""The session and the sequence of a delivery."""


class Remembered(NamedTuple):
    """A request that was carried out: the session that it made or the entry that it appended, and the session
    that it goes with.

    `answer` is None where the purge of an older version took the entry and left its request.
    """

    fingerprint: str
    answer: Session | Entry | None
    session_id: str
    created_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the operations of a batch concern, and is to be loaded as far as it is there."""

    sessions: set[str]
    deliveries: set[DeliveryKey]
    requests: set[RequestName]
    agents: set[str]
    counts: set[CountKey] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What of it is there. A request whose session is gone is not."""

    sessions: dict[str, Session] = field(default_factory=dict)
    deliveries: dict[DeliveryKey, Delivery] = field(default_factory=dict)
    requests: dict[RequestName, Remembered] = field(default_factory=dict)
    agents: dict[str, Agent] = field(default_factory=dict)
    counts: dict[CountKey, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Written:
    """What a batch leaves, to be written in the order of the fields.

    `removed` are the ids of sessions that are to go, first, because they free the ids of requests. `nearer`:
    the changed sessions whose deadline comes sooner than it did, or never; for all others the deadline that
    is stored may stay, a lower bound. `failures`: those of which another number of deliveries has failed.
    `counts`: by how much each count of sessions changes. `heads`: the ids of sessions whose first open
    delivery may be another one or due at another time, and since when, in ms. `expired`: the ids of sessions
    of which all deliveries that are open by then have failed.
    """

    removed: set[str]
    created: list[Session]
    changed: list[Session]
    nearer: list[Session]
    failures: list[Session]
    counts: Counter[CountKey]
    entries: list[Entry]
    deliveries: list[Delivery]
    heads: dict[str, int]
    expired: set[str]
    requests: list[tuple[RequestKey, Remembered]]


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a deletion comes to: the session is gone."""

    session: Session


Result: TypeAlias = Outcome | Deleted | DomainError
"""What comes of an operation."""


class Batch:
    """See the module.

    What it holds is as its operations have left it so far; a session that is None is not there.
    """

    def __init__(self, operations: Sequence["Operation"]) -> None:
        self._operations = operations
        self._stored: dict[str, Session] = {}
        self._sessions: dict[str, Session | None] = {}
        self._deliveries: dict[DeliveryKey, Delivery] = {}
        self._requests: dict[RequestName, Remembered] = {}
        self._agents: dict[str, Agent] = {}
        # Counts that were loaded, and by how much the operations have changed them since.
        self._counts: Counter[CountKey] = Counter()
        self._created: set[str] = set()
        self._changed: set[str] = set()
        self._deleted: set[str] = set()
        self._expired: set[str] = set()
        self._entries: list[Entry] = []
        self._delivered: set[DeliveryKey] = set()
        self._heads: dict[str, int] = {}
        self._new_requests: list[tuple[RequestKey, Remembered]] = []

    def wanted(self) -> Wanted:
        """What is to be loaded."""
        wanted = Wanted(set(), set(), set(), set())
        for operation in self._operations:
            operation.want(wanted)
            if operation.request:
                wanted.requests.add(_name(operation.request))
        return wanted

    def apply(self, loaded: Loaded, now_ms: Callable[[], int]) -> list[Result]:
        """Carries out the operations, one after the other, and returns what comes of each. What a rule
        refuses changes nothing.

        Raises what a rule raises that is no DomainError: the batch is of no use then.
        """
        self._stored, self._sessions = loaded.sessions, dict(loaded.sessions)
        self._deliveries, self._requests, self._agents = loaded.deliveries, loaded.requests, loaded.agents
        self._counts.update(loaded.counts)
        results: list[Result] = []
        for operation in self._operations:
            try:
                results.append(operation.carry_out(self, now_ms()))
            except DomainError as error:
                results.append(strip(error))
        return results

    def written(self) -> Written:
        """What is to be written."""
        gone, there = self._deleted, self._sessions
        touched = self._created | self._changed | gone
        changed = [session for session in map(there.get, self._changed - self._created) if session]
        return Written(
            gone,
            [session for session in map(there.get, self._created) if session],
            changed,
            [
                session
                for session in changed
                if _is_nearer(due_at_ms(session), due_at_ms(self._stored[session.id]))
            ],
            [
                session
                for session in changed
                if session.failed_deliveries != self._stored[session.id].failed_deliveries
            ],
            changed_counts((self._stored.get(session_id), there.get(session_id)) for session_id in touched),
            [entry for entry in self._entries if entry.session_id not in gone],
            [self._deliveries[key] for key in self._delivered if key[0] not in gone],
            {
                session_id: at_ms
                for session_id, at_ms in self._heads.items()
                if session_id not in gone and session_id not in self._expired
            },
            self._expired - gone,
            [(request, made) for request, made in self._new_requests if made.session_id not in gone],
        )

    def session(self, session_id: str, scope: Scope) -> Session:
        """A session. Raises SessionNotFoundError, also for one that is out of the scope."""
        session = self._sessions.get(session_id)
        if session is None or not scope.has(session):
            raise SessionNotFoundError(session_id)
        return session

    def delivery(self, session_id: str, sequence: int) -> Delivery:
        """A delivery. Raises DeliveryNotFoundError."""
        delivery = self._deliveries.get((session_id, sequence))
        if delivery is None:
            raise DeliveryNotFoundError(delivery_id(session_id, sequence))
        if session_id in self._expired and delivery.state in OPEN_STATES:
            # It is closed together with the session, once the batch is written.
            return delivery._replace(state=DeliveryState.FAILED, due_at_ms=None)
        return delivery

    def agent(self, agent_id: str, scope: Scope) -> Agent | None:
        """An agent, if there is one in the scope."""
        agent = self._agents.get(agent_id)
        return agent if agent and scope.has_agent(agent) else None

    def count(self, key: CountKey) -> int:
        """A count of sessions that is wanted."""
        return self._counts[key]

    def known(self, request: RequestKey | None) -> Remembered | None:
        """A request that was carried out before. Raises RequestIdReusedError."""
        found = self._requests.get(_name(request)) if request else None
        # It goes with its session, so its id is free.
        if request is None or found is None or found.session_id in self._deleted:
            return None
        require_same(request, found.fingerprint)
        return found

    def remember(
        self, request: RequestKey | None, answer: Session | Entry, session_id: str, now_ms: int
    ) -> None:
        """Notes a request with what it led to."""
        if request:
            made = self._requests[_name(request)] = Remembered(
                request.fingerprint, answer, session_id, now_ms
            )
            self._new_requests.append((request, made))

    def add(self, session: Session) -> None:
        """Notes a new session."""
        self._counts[live_of_user(session.user_id, session.tenant)] += 1
        self._sessions[session.id] = session
        self._created.add(session.id)

    def remove(self, session: Session) -> None:
        """Notes that a session is to go."""
        if not session.expiry_logged:
            self._counts[live_of_user(session.user_id, session.tenant)] -= 1
        self._sessions[session.id] = None
        self._deleted.add(session.id)

    def take(self, before: Session, outcome: Outcome, now_ms: int) -> None:
        """Notes what a rule has done to a session."""
        session = outcome.session
        if session is not before:
            self._sessions[session.id] = session
            self._changed.add(session.id)
            if outcome.entry:
                self._entries.append(outcome.entry)
            if session.expiry_logged and not before.expiry_logged:
                self._expired.add(session.id)
                self._counts[live_of_user(session.user_id, session.tenant)] -= 1
        if delivery := outcome.delivery:
            key = delivery.session_id, delivery.sequence
            self._deliveries[key] = delivery
            self._delivered.add(key)
            # A message behind an open delivery leaves that one the first; an older one, delivered anew, may
            # come before it.
            is_behind = outcome.opened > 0 and session.open_deliveries > 1
            if not is_behind or delivery.sequence < session.last_sequence:
                self._heads[session.id] = now_ms


class Operation(ABC):
    """Something to do to a session.

    One with a request is carried out once, and answered the same ever after.
    """

    request: ClassVar[RequestKey | None] = None

    @abstractmethod
    def want(self, wanted: Wanted) -> None:
        """Adds what it has to see."""

    @abstractmethod
    def carry_out(self, batch: Batch, now_ms: int) -> Outcome | Deleted:
        """Does it, and tells what came of it. Raises DomainError, having done nothing."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """Sessions that were due: how many were taken, and what the rule has left of those that could be dealt
    with.
    """

    count: int
    outcomes: Sequence[Outcome | Deleted]


@dataclass(frozen=True, slots=True)
class EraseStep(Claimed):
    """A step of an erase: its outcomes are the sessions that are gone."""

    erased: Erased


def commit_of(results: Iterable[object]) -> Commit:
    """What is told of operations with these results, once they are durable."""
    flat = [
        one for result in results for one in (result.outcomes if isinstance(result, Claimed) else [result])
    ]
    return Commit(
        [result for result in flat if isinstance(result, Outcome) and not result.replayed],
        [result.session for result in flat if isinstance(result, Deleted)],
    )


def strip(error: E) -> E:
    """The error without the frames that it and its causes came through: one of them has the operation that
    will have the error, a cycle. Of an error that nobody foresaw the lines stay for the log, as a note.
    """
    if error.__traceback__ and not isinstance(error, DomainError):
        error.add_note("".join(traceback.format_exception(error)))
    forget_frames(error)
    return error


def _is_nearer(due_ms: int | None, before_ms: int | None) -> bool:
    return due_ms is None or (before_ms is not None and due_ms < before_ms)


def _name(request: RequestKey) -> RequestName:
    return request.scope, request.id
