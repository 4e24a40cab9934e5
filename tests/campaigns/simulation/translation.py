"""Between the API's messages, the store's entries and the model's plain values."""

import json
from typing import Any

from eliza.sessions import values
from eliza.sessions.v1 import log_pb2, message_pb2, session_pb2
from eliza.sessions.v1.timeout_pb2 import TimeoutConfig as TimeoutMessage
from server.domain.log import Entry, ExpirationWarning, Expiry, Renewal, ReplyFailure, TimeoutChange
from server.domain.messages import AgentMessage, UserMessage


def received(kind: Any, answer: Any) -> Any:
    """An answer as a client reads it: some leave the service as bytes."""
    return kind.FromString(answer) if isinstance(answer, bytes) else answer


def ms(timestamp: Any) -> int:
    return int(timestamp.seconds * 1000 + timestamp.nanos // 1_000_000)


def plain(struct: Any) -> dict[str, Any]:
    # In an order of its own: that of a map of protobuf is another one each time.
    return dict(sorted(values.plain(struct).items())) if struct.fields else {}


def session(found: session_pb2.Session) -> dict[str, Any]:
    return {
        "id": found.session_id,
        "channel": found.channel_id,
        "agent": found.agent_id,
        "user": found.user_id,
        "metadata": plain(found.metadata),
        "created": ms(found.created_at),
        "expires": ms(found.expires_at),
        "timeout": timeout(found.timeout_config),
        "activity": ms(found.last_activity),
        "renewals": found.renewal_count,
        "left": found.time_remaining_ms,
        "near": found.is_near_expiration,
        "last_sequence": found.last_sequence,
        "etag": found.etag,
    }


def timeout(config: TimeoutMessage) -> tuple[float, bool, float, float]:
    return (
        config.timeout_minutes,
        config.auto_renew,
        config.max_duration_minutes,
        config.warning_threshold_minutes,
    )


def message(found: message_pb2.Message) -> dict[str, Any]:
    return {
        "id": found.message_id,
        "session": found.session_id,
        "sequence": found.sequence,
        "author": found.author_id,
        "is_agent": found.is_agent,
        "content": found.content,
        "at": ms(found.created_at),
        "metadata": plain(found.metadata),
        "answers": found.reply_to_sequence,
    }


KINDS = {
    UserMessage: "message",
    AgentMessage: "message",
    Renewal: "renewal",
    TimeoutChange: "timeout_change",
    ExpirationWarning: "warning",
    Expiry: "expiry",
    ReplyFailure: "reply_failure",
}


def entry_of(entry: Entry) -> dict[str, Any]:
    """An entry as the store has it."""
    found: dict[str, Any] = {
        "sequence": entry.sequence,
        "at": entry.at_ms,
        "kind": KINDS[type(entry.event)],
        "expires": entry.expires_at_ms,
        "renewals": entry.renewal_count,
        "renewed": entry.was_renewed,
        "near": entry.is_near_expiration,
    }
    if entry.message:
        one = entry.message
        found |= {
            "id": one.id,
            "content": one.content,
            "metadata": json.loads(one.metadata),
            "is_agent": isinstance(one, AgentMessage),
        }
        if entry.answers is not None:
            found["answers"] = entry.answers
    if isinstance(entry.event, TimeoutChange):
        config = entry.event.timeout
        found["timeout"] = (
            config.timeout_minutes,
            config.auto_renew,
            config.max_duration_minutes,
            config.warning_threshold_minutes,
        )
    if isinstance(entry.event, ReplyFailure):
        failure = entry.event
        found |= {
            "answers": failure.message_sequence,
            "attempts": failure.attempts,
            "message_id": failure.message_id,
        }
    return found


def logged(entry: log_pb2.LogEntry) -> tuple[Any, ...]:
    """An entry as a watcher gets it."""
    standing = entry.session_status
    kind = entry.WhichOneof("event")
    found = getattr(entry, kind)
    match kind:
        case "message":
            detail: Any = (found.message_id, found.content, found.is_agent, found.reply_to_sequence)
        case "timeout_change":
            detail = timeout(found.timeout_config)
        case "expiration_warning":
            detail = found.minutes_remaining
        case "expiry":
            detail = ms(found.expired_at)
        case "reply_failure":
            detail = (found.message_id, found.message_sequence, found.attempts)
        case _:
            detail = None
    status = (
        ms(standing.expires_at),
        standing.renewal_count,
        standing.was_renewed,
        standing.is_near_expiration,
    )
    return kind, entry.sequence, ms(entry.at), status, detail


def seen(entry: dict[str, Any]) -> tuple[Any, ...]:
    """What a watcher should get of an entry of the model."""
    kind: str = entry["kind"]
    detail: Any = None
    match kind:
        case "message":
            detail = (entry["id"], entry["content"], entry["is_agent"], entry.get("answers", 0))
        case "timeout_change":
            detail = entry["timeout"]
        case "warning":
            kind, detail = "expiration_warning", round((entry["expires"] - entry["at"]) / 60_000, 2)
        case "expiry":
            detail = entry["expires"]
        case "reply_failure":
            detail = (entry["message_id"], entry["answers"], entry["attempts"])
    return (
        kind,
        entry["sequence"],
        entry["at"],
        (entry["expires"], entry["renewals"], entry["renewed"], entry["near"]),
        detail,
    )


def delivery_of(delivery_id: str) -> tuple[str, int]:
    """The session and the sequence that a delivery is for."""
    session_id, _, sequence = delivery_id.rpartition("-")
    return session_id, int(sequence)
