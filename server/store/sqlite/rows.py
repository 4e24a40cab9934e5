"""Rows of the SQLite tables and the domain's values: one list of columns for each table, from which every statement is made."""

from collections.abc import Iterable
from typing import Any, Final

import orjson

from server.domain.agents import SETTINGS, Agent, AgentKind
from server.domain.deliveries import OPEN_STATES, AttemptFailure, Delivery, DeliveryState
from server.domain.events import Entry, EntryKind, ReplyFailure
from server.domain.messages import Message
from server.domain.requests import Request
from server.domain.sessions import Session, due_at_ms
from server.domain.timeouts import PartialTimeoutConfig, TimeoutConfig
from server.store.batch import Remembered

Row = tuple[Any, ...]

_TIMEOUT: Final = ("timeout_minutes", "auto_renew", "max_duration_minutes", "warning_threshold_minutes")

SESSION_FIXED: Final = ("id", "channel_id", "agent_id", "user_id", "metadata", "created_at_ms")
SESSION_CHANGING: Final = (
    *_TIMEOUT,
    "last_activity_ms",
    "renewed_at_ms",
    "expires_at_ms",
    "renewal_count",
    "warned",
    "expired",
    "last_sequence",
    "last_entry_ms",
)
SESSION: Final = (*SESSION_FIXED, *SESSION_CHANGING)

ENTRY: Final = (
    "session_id",
    "sequence",
    "at_ms",
    "kind",
    "expires_at_ms",
    "renewal_count",
    "was_renewed",
    "is_near_expiration",
    "message_id",
    "is_agent",
    "content",
    "metadata",
    "attachments",
    "thought",
    "actions",
    "answers",
    "timeout_config",
    "failure",
)
OPEN: Final = tuple(map(str, OPEN_STATES))
"""The states of an open delivery, as SQL lists them."""

DELIVERY: Final = ("session_id", "sequence", "state", "attempts", "due_at_ms", "lost_connections", "last_failure")
REQUEST: Final = ("scope", "id", "fingerprint", "answer", "created_at_ms", "session_id")
COUNT: Final = ("state", "agent_id", "user_id", "sessions")
AGENT: Final = ("id", "name", "kind", "created_at_ms", "updated_at_ms", *_TIMEOUT, "settings")


def item_values(count: int) -> str:
    """The columns of an INSERT whose rows are the arrays of a JSON array, as `item`."""
    return ", ".join(f"item.value ->> {index}" for index in range(count))


def of(table: str, columns: Iterable[str]) -> str:
    """Columns of one of several tables."""
    return ", ".join(f"{table}.{column}" for column in columns)


def session_fixed_row(session: Session) -> Row:
    """The values of SESSION_FIXED."""
    return session.id, session.channel_id, session.agent_id, session.user_id, session.metadata, session.created_at_ms


def session_changing_row(session: Session) -> Row:
    """The values of SESSION_CHANGING, and then `due_at_ms`."""
    timeout = session.timeout
    return (
        timeout.timeout_minutes,
        timeout.auto_renew,
        timeout.max_duration_minutes,
        timeout.warning_threshold_minutes,
        session.last_activity_ms,
        session.renewed_at_ms,
        session.expires_at_ms,
        session.renewal_count,
        session.warned,
        session.expired,
        session.last_sequence,
        session.last_entry_ms,
        due_at_ms(session),
    )


def session_of(row: Row) -> Session:
    """The session in a row of SESSION."""
    (
        session_id,
        channel_id,
        agent_id,
        user_id,
        metadata,
        created_at_ms,
        timeout_minutes,
        auto_renew,
        max_duration_minutes,
        warning_threshold_minutes,
        last_activity_ms,
        renewed_at_ms,
        expires_at_ms,
        renewal_count,
        warned,
        expired,
        last_sequence,
        last_entry_ms,
    ) = row
    return Session(
        session_id,
        channel_id,
        agent_id,
        user_id,
        metadata,
        TimeoutConfig(timeout_minutes, bool(auto_renew), max_duration_minutes, warning_threshold_minutes),
        created_at_ms,
        last_activity_ms,
        renewed_at_ms,
        expires_at_ms,
        renewal_count,
        bool(warned),
        bool(expired),
        last_sequence,
        last_entry_ms,
    )


def session_from_json(fields: dict[str, Any]) -> Session:
    """A session that was written as JSON whole."""
    return Session(**{**fields, "timeout": TimeoutConfig(**fields["timeout"])})


def entry_row(entry: Entry) -> Row:
    """The values of ENTRY."""
    standing = (
        entry.session_id,
        entry.sequence,
        entry.at_ms,
        entry.kind,
        entry.expires_at_ms,
        entry.renewal_count,
        entry.was_renewed,
        entry.is_near_expiration,
    )
    timeout = None if entry.timeout is None else orjson.dumps(entry.timeout).decode()
    failure = None if entry.failure is None else orjson.dumps(entry.failure).decode()
    message = entry.message
    if message is None:
        return *standing, None, None, None, None, None, None, None, None, timeout, failure
    # As JSON, because SQLite ends a text at a NUL.
    thought = None if message.thought is None else orjson.dumps(message.thought).decode()
    actions = orjson.dumps(message.actions).decode() if message.actions else None
    return (
        *standing,
        message.id,
        message.is_agent,
        message.content,
        message.metadata,
        message.attachments,
        thought,
        actions,
        message.answers,
        timeout,
        failure,
    )


def entry_of(row: Row) -> Entry:
    """The entry in a row of ENTRY."""
    session_id, sequence, at_ms, kind, expires_at_ms, renewal_count, was_renewed, is_near_expiration, message_id, *rest = row
    *message_rest, timeout, failure = rest
    message = None
    if message_id is not None:
        is_agent, content, metadata, attachments, thought, actions, answers = message_rest
        said = [orjson.loads(text) if text else None for text in (thought, actions)]
        message = Message(message_id, bool(is_agent), content, metadata, attachments, said[0], tuple(said[1] or ()), answers)
    return Entry(
        session_id,
        sequence,
        at_ms,
        EntryKind(kind),
        expires_at_ms,
        renewal_count,
        bool(was_renewed),
        bool(is_near_expiration),
        message,
        None if timeout is None else TimeoutConfig(**orjson.loads(timeout)),
        None if failure is None else ReplyFailure(**orjson.loads(failure)),
    )


def delivery_row(delivery: Delivery) -> Row:
    """The values of DELIVERY."""
    failure = None if delivery.last_failure is None else orjson.dumps(delivery.last_failure).decode()
    return (
        delivery.session_id,
        delivery.sequence,
        delivery.state,
        delivery.attempts,
        delivery.due_at_ms,
        delivery.lost_connections,
        failure,
    )


def delivery_of(row: Row) -> Delivery:
    """The delivery in a row of DELIVERY."""
    session_id, sequence, state, attempts, due_at_ms, lost_connections, failure = row
    last_failure = None if failure is None else AttemptFailure(**orjson.loads(failure))
    return Delivery(session_id, sequence, DeliveryState(state), attempts, due_at_ms, lost_connections, last_failure)


def request_row(made: tuple[Request, Remembered]) -> Row:
    """The values of REQUEST."""
    request, known = made
    answer = known.answer.sequence if isinstance(known.answer, Entry) else known.answer
    return request.scope, request.id, request.fingerprint, orjson.dumps(answer).decode(), known.created_at_ms, known.session_id


def agent_row(agent: Agent) -> Row:
    """The values of AGENT."""
    timeout = agent.timeout
    return (
        agent.id,
        agent.name,
        agent.kind,
        agent.created_at_ms,
        agent.updated_at_ms,
        timeout.timeout_minutes,
        timeout.auto_renew,
        timeout.max_duration_minutes,
        timeout.warning_threshold_minutes,
        None if agent.settings is None else orjson.dumps(agent.settings).decode(),
    )


def agent_of(row: Row) -> Agent:
    """The agent in a row of AGENT."""
    agent_id, name, kind, created_at_ms, updated_at_ms, *timeout_row, own = row
    timeout_minutes, auto_renew, max_duration_minutes, warning_threshold_minutes = timeout_row
    timeout = PartialTimeoutConfig(
        timeout_minutes, None if auto_renew is None else bool(auto_renew), max_duration_minutes, warning_threshold_minutes
    )
    settings = None if own is None else SETTINGS[AgentKind(kind)](**orjson.loads(own))
    return Agent(agent_id, name, AgentKind(kind), created_at_ms, updated_at_ms, timeout, settings)
