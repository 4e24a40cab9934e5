"""Rows of the tables and the domain's values, for every back end that has SQL: the columns of a table are the
fields of its class.
"""

from collections.abc import Iterable, Sequence
from inspect import get_annotations
from operator import attrgetter
from typing import Any, Final

import orjson

from server.domain.agents import SETTINGS, Agent, AgentKind
from server.domain.deliveries import OPEN_STATES, AttemptFailure, Delivery, DeliveryState
from server.domain.idempotency import RequestKey
from server.domain.log import Entry, Event, ExpirationWarning, Expiry, Renewal, ReplyFailure, TimeoutChange
from server.domain.messages import AgentMessage, UserMessage
from server.domain.sessions import Session, due_at_ms
from server.domain.timeouts import PartialTimeoutConfig, TimeoutConfig
from server.store.batch import Remembered

Row = tuple[Any, ...]


_COLUMNS: Final = {"warning_logged": "warned", "expiry_logged": "expired"}
"""Fields of a session whose columns are named otherwise, as they are in its JSON from 0.2.0."""


def _columns_of(kind: type, **parts: type) -> dict[str, str]:
    """The columns of a class, each with its attribute: its fields, in their order, and of a field in `parts`
    that class's fields.
    """
    columns: dict[str, str] = {}
    for own in get_annotations(kind):
        part = parts.get(own)
        columns |= (
            {one: f"{own}.{one}" for one in get_annotations(part)} if part else {_COLUMNS.get(own, own): own}
        )
    return columns


_SESSION: Final = _columns_of(Session, timeout=TimeoutConfig)
SESSION: Final = tuple(_SESSION)
_FIXED: Final = {
    "id",
    "channel_id",
    "agent_id",
    "user_id",
    "metadata",
    "created_at_ms",
    "tenant",
    "retention_ms",
}
SESSION_CHANGING: Final = tuple(column for column in SESSION if column not in _FIXED)
"""What a rule may change."""
_TIMEOUT_AT: Final = slice(
    SESSION.index("timeout_minutes"), SESSION.index("timeout_minutes") + len(TimeoutConfig._fields)
)
_BOOLEANS: Final = [SESSION.index(column) for column in ("auto_renew", "warned", "expired")]

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

DELIVERY: Final = tuple(_columns_of(Delivery))
REQUEST: Final = ("scope", "id", "fingerprint", "answer", "created_at_ms", "session_id")
COUNT: Final = ("state", "agent_id", "user_id", "tenant", "sessions")
_AGENT: Final = _columns_of(Agent, timeout=PartialTimeoutConfig)
AGENT: Final = tuple(_AGENT)


def of(table: str, columns: Iterable[str]) -> str:
    """Columns of one of several tables."""
    return ", ".join(f"{table}.{column}" for column in columns)


_values: Final = attrgetter(*_SESSION.values())
_changing_values: Final = attrgetter(*(_SESSION[column] for column in SESSION_CHANGING))


def session_row(session: Session) -> Row:
    """The values of SESSION, and then `due_at_ms`."""
    return *_values(session), due_at_ms(session)


def session_changing_row(session: Session) -> Row:
    """The values of SESSION_CHANGING, and then the id."""
    return *_changing_values(session), session.id


def session_of(row: Sequence[Any]) -> Session:
    """The session in a row of SESSION."""
    values = list(row)
    for index in _BOOLEANS:
        values[index] = bool(values[index])
    values[_TIMEOUT_AT] = [TimeoutConfig(*values[_TIMEOUT_AT])]
    return Session._make(values)


def session_from_json(values: dict[str, Any]) -> Session:
    """A session that was written as JSON whole."""
    values |= {name: values.pop(column) for name, column in _COLUMNS.items() if column in values}
    return Session(**values | {"timeout": TimeoutConfig(**values["timeout"])})


_KINDS: Final[dict[type[Event], str]] = {
    UserMessage: "message",
    AgentMessage: "message",
    Renewal: "renewal",
    TimeoutChange: "timeout_change",
    ExpirationWarning: "warning",
    Expiry: "expiry",
    ReplyFailure: "reply_failure",
}
"""The column `kind` of what an entry reports."""
_BARE: Final[dict[str, Event]] = {"renewal": Renewal(), "warning": ExpirationWarning(), "expiry": Expiry()}
"""What has nothing more to say than its kind."""
_NO_MESSAGE: Final = (None,) * 8


def entry_row(entry: Entry) -> Row:
    """The values of ENTRY."""
    return (
        entry.session_id,
        entry.sequence,
        entry.at_ms,
        _KINDS[type(entry.event)],
        entry.expires_at_ms,
        entry.renewal_count,
        entry.was_renewed,
        entry.is_near_expiration,
        *_event_row(entry.event),
    )


def _event_row(event: Event) -> Row:
    match event:
        case UserMessage():
            return (
                event.id,
                False,
                event.content,
                event.metadata,
                event.attachments,
                None,
                None,
                None,
                None,
                None,
            )
        case AgentMessage():
            # As JSON, because SQLite ends a text at a NUL.
            said = _json(event.thought), _json(event.actions or None)
            return (
                event.id,
                True,
                event.content,
                event.metadata,
                event.attachments,
                *said,
                event.answers,
                None,
                None,
            )
        case TimeoutChange():
            return *_NO_MESSAGE, _json(event.timeout._asdict()), None
        case ReplyFailure():
            return *_NO_MESSAGE, None, _json(event)
    return *_NO_MESSAGE, None, None


def entry_of(row: Row) -> Entry:
    """The entry in a row of ENTRY."""
    (
        session_id,
        sequence,
        at_ms,
        kind,
        expires_at_ms,
        renewal_count,
        was_renewed,
        is_near_expiration,
        *reported,
    ) = row
    event = _BARE.get(kind) or _event_of(kind, *reported)
    renewed, near = bool(was_renewed), bool(is_near_expiration)
    return Entry(session_id, sequence, at_ms, event, expires_at_ms, renewal_count, renewed, near)


def _event_of(
    kind: str,
    message_id: str,
    is_agent: int,
    content: str,
    metadata: str,
    attachments: str | None,
    thought: str | None,
    actions: str | None,
    answers: int | None,
    timeout: str,
    failure: str,
) -> Event:
    if kind == "timeout_change":
        return TimeoutChange(TimeoutConfig(**orjson.loads(timeout)))
    if kind == "reply_failure":
        return ReplyFailure(**orjson.loads(failure))
    if not is_agent:
        return UserMessage(message_id, content, metadata, attachments)
    spoken, done = (orjson.loads(text) if text else None for text in (thought, actions))
    return AgentMessage(message_id, content, metadata, attachments, spoken, tuple(done or ()), answers)


_agent_values: Final = attrgetter(*(_AGENT[column] for column in AGENT if column != "settings"))
_SETTINGS_AT: Final = AGENT.index("settings")


def delivery_row(delivery: Delivery) -> Row:
    """The values of DELIVERY."""
    return *delivery[:-2], _json(delivery.last_failure), delivery.trace or None


def delivery_of(row: Row) -> Delivery:
    """The delivery in a row of DELIVERY."""
    session_id, sequence, state, attempts, due, lost_connections, failure, trace = row
    last_failure = None if failure is None else AttemptFailure(**orjson.loads(failure))
    state = DeliveryState(state)
    return Delivery(session_id, sequence, state, attempts, due, lost_connections, last_failure, trace or "")


def request_row(made: tuple[RequestKey, Remembered]) -> Row:
    """The values of REQUEST."""
    request, known = made
    return (
        request.scope,
        request.id,
        request.fingerprint,
        orjson.dumps(_answer_json(known.answer)).decode(),
        known.created_at_ms,
        known.session_id,
    )


def _answer_json(answer: Session | Entry | None) -> Any:
    match answer:
        case Entry():
            return answer.sequence
        case Session():
            return answer._asdict() | {"timeout": answer.timeout._asdict()}
    return None


def agent_row(agent: Agent) -> Row:
    """The values of AGENT."""
    values = _agent_values(agent)
    return *values[:_SETTINGS_AT], _json(agent.settings), *values[_SETTINGS_AT:]


def agent_of(row: Row) -> Agent:
    """The agent in a row of AGENT."""
    agent_id, name, kind, created_at_ms, updated_at_ms, *timeouts, settings, tenant, retention = row
    timeout_minutes, auto_renew, max_duration_minutes, warning_threshold_minutes = timeouts
    auto_renew = None if auto_renew is None else bool(auto_renew)
    timeout = PartialTimeoutConfig(
        timeout_minutes, auto_renew, max_duration_minutes, warning_threshold_minutes
    )
    own_settings = None if settings is None else SETTINGS[AgentKind(kind)](**orjson.loads(settings))
    times = created_at_ms, updated_at_ms
    return Agent(agent_id, name, AgentKind(kind), *times, timeout, own_settings, tenant, retention)


def _json(value: object) -> str | None:
    return None if value is None else orjson.dumps(value).decode()
