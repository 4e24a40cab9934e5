"""What a store has acknowledged under the load of the campaigns, and where what its file holds does not
follow from that.
"""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from server.domain.agents import Agent
from server.domain.deliveries import Delivery, DeliveryState
from server.domain.log import Entry, Event, Expiry
from server.domain.sessions import Outcome, Session
from server.store import rows
from server.store.contract import Store
from tests.unit.samples import logged


@dataclass(frozen=True)
class Doubt:
    """What was asked and is not answered: it may have happened or not."""

    kinds: frozenset[type[Event]] = frozenset()
    content: str = ""
    sequence: int = 0
    states: frozenset[DeliveryState] = frozenset()
    may_be_gone: bool = False


@dataclass
class Known:
    """A session as it was acknowledged."""

    session: Session | None = None
    entries: dict[int, Entry] = field(default_factory=dict)
    deliveries: dict[int, Delivery] = field(default_factory=dict)
    doubts: dict[object, Doubt] = field(default_factory=dict)
    gone: bool = False

    def copy(self) -> "Known":
        return replace(
            self, entries=dict(self.entries), deliveries=dict(self.deliveries), doubts=dict(self.doubts)
        )


@dataclass
class Asked:
    """A call with a request id; `answer` is None until it was answered.

    `call` repeats it: should it be carried out anew, the message or session that it makes has the id that it
    is given.
    """

    session_id: str
    call: Callable[[Store, str], Awaitable[Outcome]]
    content: str = ""
    answer: Entry | Session | None = None


@dataclass
class Tables:
    """What a store's file holds."""

    sessions: dict[str, Session]
    entries: dict[str, dict[int, Entry]]
    deliveries: dict[str, dict[int, Delivery]]
    agents: dict[str, Agent]

    @classmethod
    def read(cls, connection: sqlite3.Connection) -> "Tables":
        def all_of(table: str, columns: tuple[str, ...]) -> Iterator[Any]:
            # What removed sessions have left is not there any more for anybody but the purge.
            removed = (
                " WHERE session_id NOT IN (SELECT id FROM removed_sessions)"
                if "session_id" in columns
                else ""
            )
            return iter(connection.execute(f"SELECT {', '.join(columns)} FROM {table}{removed}").fetchall())

        entries: dict[str, dict[int, Entry]] = defaultdict(dict)
        for entry in map(rows.entry_of, all_of("log", rows.ENTRY)):
            entries[entry.session_id][entry.sequence] = entry
        deliveries: dict[str, dict[int, Delivery]] = defaultdict(dict)
        for delivery in map(rows.delivery_of, all_of("deliveries", rows.DELIVERY)):
            deliveries[delivery.session_id][delivery.sequence] = delivery
        return cls(
            {session.id: session for session in map(rows.session_of, all_of("sessions", rows.SESSION))},
            entries,
            deliveries,
            {agent.id: agent for agent in map(rows.agent_of, all_of("agents", rows.AGENT))},
        )


@dataclass
class Model:
    """What was acknowledged, and what is in doubt. It knows nothing of how the store does it.

    `purged_by_ms`: what expired by this instant, and was told to have, may be purged wholly or in part.
    """

    sessions: dict[str, Known] = field(default_factory=dict)
    agents: dict[str, Agent | None] = field(default_factory=dict)
    agents_in_doubt: dict[object, tuple[str, Agent | None]] = field(default_factory=dict)
    asked: dict[str, Asked] = field(default_factory=dict)
    acknowledged: int = 0
    purged_by_ms: int = 0

    def copy(self) -> "Model":
        return Model(
            {session_id: known.copy() for session_id, known in self.sessions.items()},
            dict(self.agents),
            dict(self.agents_in_doubt),
            {name: replace(asked) for name, asked in self.asked.items()},
            self.acknowledged,
            self.purged_by_ms,
        )

    def may_be_purged(self, session: Session) -> bool:
        """Whether the purge may have taken a session, or a part of it."""
        return session.expiry_logged and session.expires_at_ms <= self.purged_by_ms

    def may_be_gone(self, known: Known) -> bool:
        """Whether a session that was there may be gone, or a part of it."""
        in_doubt = any(doubt.may_be_gone or Expiry in doubt.kinds for doubt in known.doubts.values())
        return known.gone or in_doubt or known.session is None or self.may_be_purged(known.session)

    def is_gone(self, asked: Asked) -> bool:
        """Whether the session of a call is known to be gone, and its request with it."""
        return self.sessions[asked.session_id].gone

    @contextmanager
    def asking(self, session_id: str, doubt: Doubt) -> Iterator[None]:
        """While it is not known what comes of it. A refusal leaves no doubt: nothing was done then."""
        known, token = self.sessions.setdefault(session_id, Known()), object()
        known.doubts[token] = doubt
        yield
        del known.doubts[token]
        self.acknowledged += 1

    @contextmanager
    def changing_agent(self, agent_id: str, to: Agent | None) -> Iterator[None]:
        token = object()
        self.agents_in_doubt[token] = (agent_id, to)
        yield
        del self.agents_in_doubt[token]
        self.agents[agent_id] = to
        self.acknowledged += 1

    def take(self, outcome: Outcome) -> None:
        """Notes what was acknowledged."""
        known = self.sessions.setdefault(outcome.session.id, Known())
        if outcome.replayed:
            return
        known.session = outcome.session
        known.entries |= {entry.sequence: entry for entry in logged(outcome)}
        known.deliveries |= {delivery.sequence: delivery for delivery in [outcome.delivery] if delivery}
        if outcome.session.expiry_logged:
            for sequence, delivery in known.deliveries.items():
                if delivery.state in (DeliveryState.PENDING, DeliveryState.LEASED):
                    known.deliveries[sequence] = delivery._replace(state=DeliveryState.FAILED, due_at_ms=None)

    def differences(self, tables: Tables) -> Iterator[str]:
        """Where what is there cannot follow from what was acknowledged and what is in doubt."""
        for session_id, known in self.sessions.items():
            there = tables.sessions.get(session_id)
            entries = tables.entries.get(session_id, {})
            doubts = list(known.doubts.values())
            if known.gone:
                if there or entries:
                    yield f"session {session_id} was deleted, and is back"
            elif there is None:
                if not self.may_be_gone(known):
                    yield f"session {session_id} is lost"
            elif known.session is None and not doubts:
                yield f"session {session_id} was refused, and is there"
            else:
                deliveries = tables.deliveries.get(session_id, {})
                yield from (
                    f"session {session_id}: {line}"
                    for line in self._session(known, there, entries, deliveries)
                )
        for session_id in tables.sessions.keys() - self.sessions.keys():
            yield f"session {session_id}: nobody has asked for it"
        contents = Counter(
            entry.message.content
            for log in tables.entries.values()
            for entry in log.values()
            if entry.message
        )
        yield from (
            f"message {content[:20]!r} is there {count} times"
            for content, count in contents.items()
            if count > 1
        )
        for agent_id in self.agents.keys() | tables.agents.keys():
            may_be = [
                self.agents.get(agent_id),
                *(agent for in_doubt, agent in self.agents_in_doubt.values() if in_doubt == agent_id),
            ]
            if tables.agents.get(agent_id) not in may_be:
                yield f"agent {agent_id}: {tables.agents.get(agent_id)} instead of {may_be}"

    def _session(
        self, known: Known, there: Session, entries: dict[int, Entry], deliveries: dict[int, Delivery]
    ) -> Iterator[str]:
        doubts = list(known.doubts.values())
        in_doubt = Counter(doubt.content for doubt in doubts if doubt.content)
        room = Counter(kind for doubt in doubts for kind in doubt.kinds)
        purged = self.may_be_purged(there)
        for sequence, entry in known.entries.items():
            if sequence not in entries and not purged:
                yield f"entry {sequence} ({type(entry.event)}) is lost"
            elif sequence in entries and entries[sequence] != entry:
                yield f"entry {sequence} is {entries[sequence]} instead of {entry}"
        extra = [entry for sequence, entry in entries.items() if sequence not in known.entries]
        for entry in extra:
            if entry.message:
                if not in_doubt[entry.message.content]:
                    yield (
                        f"entry {entry.sequence}: nobody waits for an answer to "
                        f"{entry.message.content[:20]!r}"
                    )
                in_doubt[entry.message.content] -= 1
            elif not room[type(entry.event)]:
                yield f"entry {entry.sequence}: nobody has asked for this {type(entry.event)}"
            else:
                room[type(entry.event)] -= 1
        for sequence, delivery in known.deliveries.items():
            states = {state for doubt in doubts if doubt.sequence in (sequence, -1) for state in doubt.states}
            found = deliveries.get(sequence)
            if found is None:
                if not purged:
                    yield f"delivery {sequence} is lost"
            elif found != delivery and found.state not in states:
                yield f"delivery {sequence} is {found} instead of {delivery}"
        if not doubts and there != known.session:
            yield f"it is {there} instead of {known.session}"

    def adopt(self, tables: Tables) -> None:
        """Takes what is there for what is: nothing is in doubt any more."""
        for session_id, known in list(self.sessions.items()):
            known.doubts.clear()
            known.session = tables.sessions.get(session_id)
            known.entries = tables.entries.get(session_id, {})
            known.deliveries = tables.deliveries.get(session_id, {})
            known.gone = known.session is None
        self.agents, self.agents_in_doubt = dict(tables.agents), {}

    def wrong_retry(self, asked: Asked, outcome: Outcome, *, was_gone: bool) -> str:
        """Why a retry cannot have had this outcome; empty when it can.

        `was_gone`: its session was, before the retry was made.
        """
        again = outcome.entry or outcome.session
        if asked.answer is None:
            return ""
        may_be_free = isinstance(again, Session) and self.may_be_gone(self.sessions[asked.session_id])
        if (
            may_be_free
            and (made := self.sessions.get(outcome.session.id))
            and made.session is None
            and made.doubts
        ):
            # A retry that is in doubt has made it anew.
            return ""
        if was_gone and outcome.replayed:
            return f"a request of session {asked.session_id} is remembered, but the session is gone"
        if not outcome.replayed:
            return (
                ""
                if may_be_free
                else f"a request of session {asked.session_id} was forgotten: its retry was carried out"
            )
        return "" if again == asked.answer else f"a retry got {again} instead of {asked.answer}"
