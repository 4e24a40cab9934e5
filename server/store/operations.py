"""The operations on a session: what each has to see, and what it does to a batch. No SQL."""

from dataclasses import dataclass

from server.domain.access import Scope
from server.domain.errors import RequestIdReusedError, SessionExpiredError
from server.domain.idempotency import RequestKey
from server.domain.log import Entry
from server.domain.quotas import USER_SESSIONS, UserQuota, require_room
from server.domain.replies import DeliveryRule
from server.domain.sessions import Creation, Outcome, Rule, Session, require_etag
from server.store.batch import Batch, Deleted, Operation, Wanted
from server.store.counts import live_of_user


@dataclass(frozen=True)
class Create(Operation):
    """Adds the session that a rule makes, if its user's quota allows it.

    Raises RequestIdReusedError, what the rule raises, and QuotaExceededError.
    """

    agent_id: str
    rule: Creation
    scope: Scope
    request: RequestKey | None = None  # type: ignore[misc]
    of: UserQuota | None = None

    def want(self, wanted: Wanted) -> None:
        wanted.agents.add(self.agent_id)
        if self.of:
            wanted.counts.add(live_of_user(self.of.user_id, self.of.tenant))

    def carry_out(self, batch: Batch, now_ms: int) -> Outcome:
        if self.request and (known := batch.known(self.request)):
            if not isinstance(known.answer, Session) or not self.scope.has(known.answer):
                raise RequestIdReusedError(self.request.id)
            return Outcome(known.answer, replayed=True)
        session = self.rule(batch.agent(self.agent_id, self.scope), now_ms)
        if self.of:
            count = batch.count(live_of_user(self.of.user_id, self.of.tenant))
            require_room(USER_SESSIONS, self.of.limit, count + 1)
        batch.add(session)
        batch.remember(self.request, session, session.id, now_ms)
        return Outcome(session)


@dataclass(frozen=True)
class Apply(Operation):
    """Applies a rule to a session.

    Raises SessionNotFoundError, RequestIdReusedError and what the rule raises.
    """

    session_id: str
    rule: Rule
    scope: Scope
    request: RequestKey | None = None  # type: ignore[misc]

    def want(self, wanted: Wanted) -> None:
        wanted.sessions.add(self.session_id)

    def carry_out(self, batch: Batch, now_ms: int) -> Outcome:
        session = batch.session(self.session_id, self.scope)
        if known := batch.known(self.request):
            if not isinstance(known.answer, Entry):
                raise SessionExpiredError(session.id, session.expires_at_ms)
            return Outcome(session, known.answer, replayed=True)
        outcome = self.rule(session, now_ms)
        batch.take(session, outcome, now_ms)
        if self.request and outcome.entry:
            batch.remember(self.request, outcome.entry, session.id, now_ms)
        return outcome


@dataclass(frozen=True)
class ApplyToDelivery(Operation):
    """Applies a rule to a delivery.

    Raises SessionNotFoundError, DeliveryNotFoundError and what the rule raises.
    """

    session_id: str
    sequence: int
    rule: DeliveryRule
    scope: Scope

    def want(self, wanted: Wanted) -> None:
        wanted.sessions.add(self.session_id)
        wanted.deliveries.add((self.session_id, self.sequence))

    def carry_out(self, batch: Batch, now_ms: int) -> Outcome:
        session = batch.session(self.session_id, self.scope)
        outcome = self.rule(session, batch.delivery(self.session_id, self.sequence), now_ms)
        batch.take(session, outcome, now_ms)
        return outcome


@dataclass(frozen=True)
class Delete(Operation):
    """Removes a session that is in one of the states that `etag` names.

    Raises SessionNotFoundError, EtagMismatchError.
    """

    session_id: str
    etag: str
    scope: Scope

    def want(self, wanted: Wanted) -> None:
        wanted.sessions.add(self.session_id)

    def carry_out(self, batch: Batch, now_ms: int) -> Deleted:
        session = batch.session(self.session_id, self.scope)
        require_etag(session, self.etag)
        batch.remove(session)
        return Deleted(session)
