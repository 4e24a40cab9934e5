"""The life of a session, as rules: functions of (session, now, input).

A rule returns the new session and the entries for its log. A rule for live sessions raises
SessionExpiredError for an expired one; nothing revives it. The reference is docs/sessions-api.md,
*Lifecycle*.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from server.domain.access import Scope
from server.domain.agents import Agent
from server.domain.deliveries import MAX_OPEN_DELIVERIES, Delivery, DeliveryState
from server.domain.errors import (
    AgentNotFoundError,
    DomainError,
    EtagMismatchError,
    OverloadedError,
    SessionExpiredError,
    SessionRenewalError,
)
from server.domain.log import Entry, Event, ExpirationWarning, Expiry, Renewal, TimeoutChange
from server.domain.messages import (
    Draft,
    Message,
    UserMessage,
    check_draft,
    check_metadata,
    stored_size,
)
from server.domain.quotas import NO_QUOTAS, SESSION_BYTES, SESSION_ENTRIES, Quotas, require_room
from server.domain.timeouts import (
    NOTHING_NAMED,
    PartialTimeoutConfig,
    TimeoutConfig,
    TimeoutPolicy,
    apply_change,
    check_numbers,
    minutes_ms,
    resolve,
)


class Session(NamedTuple):
    """A session as the store has it.

    Ids are UUIDs in lower case, `metadata` is the text of a JSON object, times are ms since the epoch.

    `renewed_at_ms` is the last renewal, or the creation. `warning_logged`: the log has the warning, since
    that renewal. `expiry_logged`: the log has the expiry. `last_sequence` and `last_entry_ms` are those of
    the log's latest entry; of an empty log, 0 and one ms before the creation. `open_deliveries` counts the
    messages of the user that have neither a reply nor failed for good. `tenant`: that of who made it.
    `stored_bytes`: how much content, metadata and attachments its messages have, in bytes of UTF-8.
    `failed_deliveries` counts the messages of the user that have failed for good and can be delivered anew: 0
    once the expiry is in the log.
    `retention_ms`: how long it is kept once it has expired; None: as long as the service's setting says.
    """

    id: str
    channel_id: str
    agent_id: str
    user_id: str
    metadata: str
    timeout: TimeoutConfig
    created_at_ms: int
    last_activity_ms: int
    renewed_at_ms: int
    expires_at_ms: int
    renewal_count: int
    warning_logged: bool
    expiry_logged: bool
    last_sequence: int
    last_entry_ms: int
    open_deliveries: int = 0
    tenant: str = ""
    stored_bytes: int = 0
    failed_deliveries: int = 0
    retention_ms: int | None = None

    @property
    def end_ms(self) -> int:
        """When the maximum duration is over, in ms. No renewal goes beyond."""
        return self.created_at_ms + minutes_ms(self.timeout.max_duration_minutes)

    @property
    def warn_at_ms(self) -> int:
        """From when on the session is near its expiration, in ms."""
        return self.expires_at_ms - minutes_ms(self.timeout.warning_threshold_minutes)


class Outcome(NamedTuple):
    """What a rule leaves: the session after it, the entry that it appends to the log, and the delivery that
    it makes or changes.

    `replayed`: it is what an earlier, equal request left, and nothing was done now. `opened`: how many more
    deliveries of the session are open; below 0: fewer.
    """

    session: Session
    entry: Entry | None = None
    delivery: Delivery | None = None
    replayed: bool = False
    opened: int = 0


Rule = Callable[[Session, int], Outcome]
"""A rule whose input is bound: a function of the session and the instant in ms."""


Creation = Callable[[Agent | None, int], Session]
"""A rule that makes a session, with its input bound: of the agent, None where there is none, and the instant
in ms.
"""


def create(
    agent: Agent | None,
    now_ms: int,
    *,
    session_id: str,
    channel_id: str,
    agent_id: str,
    user_id: str,
    metadata: str,
    policy: TimeoutPolicy,
    timeout: PartialTimeoutConfig = NOTHING_NAMED,
    tenant: str = "",
) -> Session:
    """Makes a new session. It expires after its timeout, or its maximum duration where that is shorter.

    The metadata and numbers are checked first, the agent then.

    Raises InvalidMetadataError, InvalidTimeoutConfigError, AgentNotFoundError.
    """
    check_metadata(metadata)
    check_numbers(timeout)
    if agent is None:
        raise AgentNotFoundError(agent_id)
    config = resolve(policy, timeout, agent.timeout)
    return Session(
        id=session_id,
        channel_id=channel_id,
        agent_id=agent_id,
        user_id=user_id,
        metadata=metadata,
        timeout=config,
        created_at_ms=now_ms,
        last_activity_ms=now_ms,
        renewed_at_ms=now_ms,
        expires_at_ms=now_ms + minutes_ms(min(config.timeout_minutes, config.max_duration_minutes)),
        renewal_count=0,
        warning_logged=False,
        expiry_logged=False,
        last_sequence=0,
        last_entry_ms=now_ms - 1,
        tenant=tenant,
        retention_ms=None if agent.retention_minutes is None else minutes_ms(agent.retention_minutes),
    )


def is_expired(session: Session, now_ms: int) -> bool:
    """Whether the expiry is reached.

    Once the log has it, the session stays expired, even if the clock goes back.
    """
    return session.expiry_logged or now_ms >= session.expires_at_ms


def is_answered_by(session: Session, agent: Agent) -> bool:
    """Whether an agent is that of a session, and not another tenant's that has taken the id of one that was
    removed.
    """
    return Scope(session.tenant).has_agent(agent) or agent.created_at_ms <= session.created_at_ms


def require_live(session: Session, now_ms: int) -> None:
    """Raises SessionExpiredError when the session is expired."""
    if is_expired(session, now_ms):
        raise SessionExpiredError(session.id, session.expires_at_ms)


def time_remaining_ms(session: Session, now_ms: int) -> int:
    """Milliseconds to the expiry, never negative."""
    return 0 if session.expiry_logged else max(0, session.expires_at_ms - now_ms)


def is_near_expiration(session: Session, now_ms: int) -> bool:
    """Whether the time that remains is above zero and within the warning threshold."""
    return session.warn_at_ms <= now_ms and time_remaining_ms(session, now_ms) > 0


def etag(session: Session) -> str:
    """The entity tag of a session's state. Every change is an entry of the log, or activity."""
    return f'"{session.last_sequence}-{session.last_activity_ms}"'


def require_etag(session: Session, wanted: str) -> None:
    """Raises EtagMismatchError unless `wanted`, an If-Match list, has the session's etag.

    `*` matches any; an empty text is no condition.
    """
    tags = {tag.strip() for tag in wanted.split(",")}
    if wanted and not tags & {"*", etag(session)}:
        raise EtagMismatchError(session.id, etag(session))


def if_match(wanted: str, rule: Rule) -> Rule:
    """Guards a rule: the session must be live, and in a state that `wanted`, an If-Match list, names."""

    def guarded(session: Session, now_ms: int) -> Outcome:
        require_live(session, now_ms)
        require_etag(session, wanted)
        return rule(session, now_ms)

    return guarded


def send_message(
    session: Session,
    now_ms: int,
    message_id: str,
    draft: Draft | DomainError,
    max_open: int = MAX_OPEN_DELIVERIES,
    quotas: Quotas = NO_QUOTAS,
    trace: str = "",
) -> Outcome:
    """Stores the user's message, which is activity, and makes its delivery to the agent.

    `draft` is an error where the message cannot be read. At most `max_open` deliveries of a session are open.
    `trace` is that of the delivery.
    Raises SessionExpiredError, that error, InvalidContentError, InvalidMetadataError, QuotaExceededError,
    OverloadedError.
    """
    require_live(session, now_ms)
    if isinstance(draft, DomainError):
        raise draft
    check_draft(draft)
    require_room(SESSION_ENTRIES, quotas.session_entries, session.last_sequence + 1)
    if quotas.session_bytes:
        require_room(SESSION_BYTES, quotas.session_bytes, session.stored_bytes + stored_size(draft))
    if session.open_deliveries >= max_open:
        raise OverloadedError("too many messages of this session wait for its agent")
    message = UserMessage(message_id, draft.content, draft.metadata, draft.attachments)
    opened = session.open_deliveries + 1
    touched = _touch(session, now_ms)
    outcome = append(
        session, now_ms, message, renewed=session.timeout.auto_renew, open_deliveries=opened, **touched
    )
    sequence = outcome.session.last_sequence
    delivery = Delivery(session.id, sequence, DeliveryState.PENDING, 0, now_ms, trace=trace)
    return Outcome(outcome.session, outcome.entry, delivery, opened=outcome.opened)


def heartbeat(session: Session, now_ms: int) -> Outcome:
    """Keeps the session alive. Only a heartbeat that renews makes an entry. Raises SessionExpiredError."""
    require_live(session, now_ms)
    touched = _touch(session, now_ms)
    if session.timeout.auto_renew:
        return append(session, now_ms, Renewal(), renewed=True, **touched)
    return Outcome(session._replace(**touched))


def renew(session: Session, now_ms: int) -> Outcome:
    """Renews by hand, whatever auto_renew says.

    Raises SessionExpiredError, and SessionRenewalError where the expiry stands at the maximum duration
    already.
    """
    require_live(session, now_ms)
    if session.expires_at_ms >= session.end_ms:
        raise SessionRenewalError(session.id, session.timeout.max_duration_minutes, session.created_at_ms)
    return append(session, now_ms, Renewal(), renewed=True, **_extend(session, now_ms))


def update_timeout(
    session: Session,
    now_ms: int,
    change: PartialTimeoutConfig,
    policy: TimeoutPolicy,
) -> Outcome:
    """Changes the settings that `change` names, and computes the expiry anew.

    A change that names nothing does nothing.

    The expiry counts from the last activity with auto_renew, and from the last renewal or the creation
    without. It may lie in the past: then the session is expired from now on.
    Raises SessionExpiredError, InvalidTimeoutConfigError.
    """
    require_live(session, now_ms)
    if change == NOTHING_NAMED:
        return Outcome(session)
    patched = session._replace(timeout=apply_change(policy, session.timeout, change))
    start_ms = session.last_activity_ms if patched.timeout.auto_renew else session.renewed_at_ms
    patched = patched._replace(expires_at_ms=_expiry(patched, start_ms))
    still_warned = session.warning_logged and now_ms >= patched.warn_at_ms
    return append(patched, now_ms, TimeoutChange(patched.timeout), warning_logged=still_warned)


def fall_due(session: Session, now_ms: int) -> Outcome:
    """Logs the expiry when it is due, or else the warning; does nothing when neither is due.

    A session is warned once per renewal, and not at all where it has expired meanwhile.
    """
    if session.expiry_logged:
        return Outcome(session)
    if now_ms >= session.expires_at_ms:
        return append(session, now_ms, Expiry(), expiry_logged=True, open_deliveries=0, failed_deliveries=0)
    if not session.warning_logged and now_ms >= session.warn_at_ms:
        return append(session, now_ms, ExpirationWarning(), warning_logged=True)
    return Outcome(session)


def due_at_ms(session: Session) -> int | None:
    """When `fall_due` next has something to do, in ms; None once the log has the expiry."""
    if session.expiry_logged:
        return None
    return session.expires_at_ms if session.warning_logged else min(session.warn_at_ms, session.expires_at_ms)


def _touch(session: Session, now_ms: int) -> dict[str, Any]:
    """What activity changes, a message or a heartbeat. With auto_renew it also renews."""
    if session.timeout.auto_renew:
        return _extend(session, now_ms)
    return {"last_activity_ms": max(now_ms, session.last_activity_ms)}


def _extend(session: Session, now_ms: int) -> dict[str, Any]:
    """What a renewal changes: a new expiry within the maximum duration, one renewal more, and another warning
    to come.
    """
    now_ms = max(now_ms, session.last_activity_ms)
    return {
        "last_activity_ms": now_ms,
        "renewed_at_ms": now_ms,
        "expires_at_ms": _expiry(session, now_ms),
        "renewal_count": session.renewal_count + 1,
        "warning_logged": False,
    }


def _expiry(session: Session, start_ms: int) -> int:
    return min(start_ms + minutes_ms(session.timeout.timeout_minutes), session.end_ms)


def append(session: Session, now_ms: int, event: Event, *, renewed: bool = False, **changes: Any) -> Outcome:
    """The session with one more entry, at a time that strictly increases, and with changes of other fields.

    Its time is 1 ms after the latest entry's where the clock has not moved on, so that times strictly
    increase.
    """
    sequence, at_ms = session.last_sequence + 1, max(now_ms, session.last_entry_ms + 1)
    before = session.open_deliveries
    if isinstance(event, Message):
        changes["stored_bytes"] = session.stored_bytes + stored_size(event)
    session = session._replace(last_sequence=sequence, last_entry_ms=at_ms, **changes)
    near = is_near_expiration(session, now_ms)
    entry = Entry(
        session.id, sequence, at_ms, event, session.expires_at_ms, session.renewal_count, renewed, near
    )
    return Outcome(session, entry, opened=session.open_deliveries - before)
