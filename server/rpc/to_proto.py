"""Makes the API's messages of the domain's values.

`as_text` asks for metadata and attachments as JSON text.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from typing import Final

import orjson
from google.protobuf.struct_pb2 import Struct

from eliza.sessions import json_text, values
from eliza.sessions.errors import truncate
from eliza.sessions.v1 import (
    agent_pb2,
    agent_service_pb2,
    errors_pb2,
    log_pb2,
    message_pb2,
    session_pb2,
    timeout_pb2,
)
from server.agents.connector import Work
from server.delivery.statuses import AgentStatus
from server.domain.agents import Agent, AgentKind
from server.domain.errors import DomainError
from server.domain.log import (
    Abort,
    Chunk,
    Entry,
    ExpirationWarning,
    Expiry,
    Renewal,
    ReplyFailure,
    TimeoutChange,
)
from server.domain.messages import AgentMessage, Message
from server.domain.sessions import Session, etag, is_near_expiration, time_remaining_ms
from server.domain.timeouts import MINUTE_MS, PartialTimeoutConfig, TimeoutConfig

KEPT_METADATA: Final = 256
"""Up to how many characters of metadata what is made of it is kept. A Struct can take 50 bytes for each."""

_KINDS = {kind: agent_pb2.AgentKind.Value(f"AGENT_KIND_{kind.name}") for kind in AgentKind}


def session(
    stored: Session,
    now_ms: int,
    as_text: bool,
    make: Callable[..., session_pb2.Session] = session_pb2.Session,
) -> session_pb2.Session:
    """A session at an instant. `make` makes the message, such as the `add` of a list."""
    made = make(
        session_id=stored.id,
        channel_id=stored.channel_id,
        agent_id=stored.agent_id,
        user_id=stored.user_id,
        metadata=None if as_text else values.struct(orjson.loads(stored.metadata)),
        metadata_json=json_text.escape_lines(stored.metadata) if as_text else "",
        timeout_config=timeout_config(stored.timeout),
        renewal_count=stored.renewal_count,
        time_remaining_ms=time_remaining_ms(stored, now_ms),
        is_near_expiration=is_near_expiration(stored, now_ms),
        last_sequence=stored.last_sequence,
        etag=etag(stored),
    )
    values.set_timestamp(made.created_at, stored.created_at_ms)
    values.set_timestamp(made.expires_at, stored.expires_at_ms)
    values.set_timestamp(made.last_activity, stored.last_activity_ms)
    return made


def read_session(stored: Session, now_ms: int, as_text: bool) -> session_pb2.Session:
    """The same, of a session that is read time and again in one state: most of its message is kept."""
    if len(stored.metadata) > KEPT_METADATA:
        return session(stored, now_ms, as_text)
    made = session_pb2.Session()
    made.CopyFrom(_kept_session(stored, as_text))
    made.time_remaining_ms = time_remaining_ms(stored, now_ms)
    made.is_near_expiration = is_near_expiration(stored, now_ms)
    return made


@lru_cache(maxsize=1024)
def _kept_session(stored: Session, as_text: bool) -> session_pb2.Session:
    return session(stored, stored.created_at_ms, as_text)


def message(
    session: Session,
    entry: Entry,
    stored: Message,
    as_text: bool,
    make: Callable[..., message_pb2.Message] = message_pb2.Message,
) -> message_pb2.Message:
    """A stored message, with the session's metadata laid under its own. `make`: as above.

    Contract: "the session's metadata, overlaid by the message's own, and `sessionId`, which a client cannot
    overwrite".
    """
    is_agent = isinstance(stored, AgentMessage)
    made = make(
        message_id=stored.id,
        session_id=session.id,
        sequence=entry.sequence,
        author_id=session.agent_id if is_agent else session.user_id,
        is_agent=is_agent,
        content=stored.content,
        metadata_json=_overlay_metadata(session.id, session.metadata, stored.metadata) if as_text else "",
    )
    values.set_timestamp(made.created_at, entry.at_ms)
    if isinstance(stored, AgentMessage):
        if stored.thought is not None:
            made.thought = stored.thought
        if stored.actions:
            made.actions.extend(stored.actions)
        made.reply_to_sequence = stored.answers or 0
    if as_text:
        if stored.attachments:
            made.attachments_json = json_text.escape_lines(stored.attachments)
        return made
    is_short = len(session.metadata) + len(stored.metadata) <= KEPT_METADATA
    overlay = _kept_overlay if is_short else _overlay_struct
    made.metadata.CopyFrom(overlay(session.id, session.metadata, stored.metadata))
    if stored.attachments is not None:
        made.attachments.CopyFrom(values.list_value(orjson.loads(stored.attachments)))
    return made


@lru_cache(maxsize=64)
def _overlay_metadata(session_id: str, shared: str, own: str) -> str:
    """Lays a message's metadata over its session's, as text. Cached, because most messages have none."""
    laid_over = {**orjson.loads(own), "sessionId": session_id}
    return json_text.escape_lines(json_text.overlay(shared, laid_over))


def _overlay_struct(session_id: str, shared: str, own: str) -> Struct:
    """The same as a Struct, which is copied and never changed."""
    return values.struct({**orjson.loads(shared), **orjson.loads(own), "sessionId": session_id})


_kept_overlay = lru_cache(maxsize=64)(_overlay_struct)


def delivered_message(session: Session, entry: Entry, stored: Message, as_text: bool) -> message_pb2.Message:
    """A message with its author's own metadata beside the overlaid: agents need both."""
    delivered = message(session, entry, stored, as_text)
    if as_text:
        delivered.own_metadata_json = json_text.escape_lines(stored.metadata)
    else:
        delivered.own_metadata.CopyFrom(values.struct(orjson.loads(stored.metadata)))
    return delivered


def entry_head(entry: Entry) -> log_pb2.LogEntry:
    """An entry of a session's log, without its message."""
    message = log_pb2.LogEntry(
        session_id=entry.session_id,
        sequence=entry.sequence,
        at=values.timestamp(entry.at_ms),
        session_status=session_status(entry),
    )
    match entry.event:
        case Renewal():
            message.renewal.SetInParent()
        case TimeoutChange(timeout=config):
            message.timeout_change.timeout_config.CopyFrom(timeout_config(config))
        case ExpirationWarning():
            message.expiration_warning.minutes_remaining = round(
                (entry.expires_at_ms - entry.at_ms) / MINUTE_MS, 2
            )
        case Expiry():
            message.expiry.expired_at.CopyFrom(values.timestamp(entry.expires_at_ms))
        case ReplyFailure() as failure:
            message.reply_failure.CopyFrom(log_pb2.ReplyFailure(**asdict(failure)))
    return message


def chunk(piece: Chunk) -> log_pb2.ReplyChunk:
    """A piece of a reply under way."""
    return log_pb2.ReplyChunk(
        session_id=piece.session_id,
        agent_id=piece.agent_id,
        message_id=piece.message_id,
        chunk=piece.text,
        index=piece.index,
        attempt=piece.attempt,
    )


def abort(piece: Abort) -> log_pb2.ReplyAborted:
    """Says that the pieces of a reply so far are void."""
    return log_pb2.ReplyAborted(
        session_id=piece.session_id,
        agent_id=piece.agent_id,
        message_id=piece.message_id,
        attempt=piece.attempt,
    )


def session_status(entry: Entry) -> message_pb2.SessionStatus:
    """How a message changed its session."""
    return message_pb2.SessionStatus(
        expires_at=values.timestamp(entry.expires_at_ms),
        renewal_count=entry.renewal_count,
        was_renewed=entry.was_renewed,
        is_near_expiration=entry.is_near_expiration,
    )


def timeout_config(config: TimeoutConfig | PartialTimeoutConfig) -> timeout_pb2.TimeoutConfig:
    """Timeout settings. None stays unset."""
    return timeout_pb2.TimeoutConfig(
        timeout_minutes=config.timeout_minutes,
        auto_renew=config.auto_renew,
        max_duration_minutes=config.max_duration_minutes,
        warning_threshold_minutes=config.warning_threshold_minutes,
    )


def delivery_head(work: Work, now_ms: int, as_text: bool) -> agent_service_pb2.Delivery:
    """A delivery, as a worker gets it, without its history."""
    return agent_service_pb2.Delivery(
        delivery_id=work.delivery.id,
        attempt=work.delivery.attempts,
        session=session(work.session, now_ms, as_text),
        message=delivered_message(work.session, work.entry, work.message, as_text),
        reply_message_id=work.reply_id,
        lease_expires_at=values.timestamp(work.delivery.due_at_ms or now_ms),
        traceparent=work.trace.traceparent,
        tracestate=work.trace.tracestate,
    )


def agent(stored: Agent) -> agent_pb2.Agent:
    """A registered agent."""
    settings = {} if stored.settings is None else {str(stored.kind): asdict(stored.settings)}
    return agent_pb2.Agent(
        **settings,  # type: ignore[arg-type]
        agent_id=stored.id,
        name=stored.name,
        kind=_KINDS[stored.kind],
        timeout_config=timeout_config(stored.timeout),
        created_at=values.timestamp(stored.created_at_ms),
        updated_at=values.timestamp(stored.updated_at_ms),
        retention_minutes=stored.retention_minutes,
    )


def agent_status(status: AgentStatus, connected_workers: int) -> agent_pb2.AgentStatus:
    """How an agent fares."""
    message = agent_pb2.AgentStatus(
        connected_workers=connected_workers, open_deliveries=status.open, deliveries_in_hand=status.in_hand
    )
    if last := status.last_failure:
        message.last_failure.CopyFrom(
            agent_pb2.DeliveryFailure(
                session_id=last.session_id,
                message_id=last.message_id,
                attempt=last.failure.attempt,
                at=values.timestamp(last.failure.at_ms),
                reason=last.failure.reason,
                detail=last.failure.detail,
                final=last.final,
            )
        )
    return message


def error(raised: DomainError) -> tuple[errors_pb2.ErrorReason.ValueType, str, dict[str, str]]:
    """The reason, message and details of an error that does not end its stream."""
    details = {name: truncate(value) for name, value in raised.details.items()}
    return errors_pb2.ErrorReason.Value(f"ERROR_REASON_{raised.reason}"), str(raised), details
