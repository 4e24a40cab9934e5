"""The published events of a session: their names and payloads."""

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import orjson

from eliza.sessions import json_text, values
from eliza.sessions.v1.log_pb2 import LogEntry, ReplyAborted, ReplyChunk
from eliza.sessions.v1.session_pb2 import Session
from rest_facade.shapes import responses

Payload: TypeAlias = dict[str, Any]

USER_NAME: Final = "User"


@dataclass(frozen=True, slots=True)
class FollowedSession:
    """A session as one client follows it. `room_id` is the client's name for it."""

    session: Session
    agent_name: str
    room_id: str


def entry_events(entry: LogEntry, room: FollowedSession) -> list[tuple[str, Payload]]:
    """The events of an entry: one, or two for a message that renewed the session.

    Each carries the entry's sequence.
    """
    status = entry.session_status
    renewed = (
        "sessionRenewed",
        _of(entry, expiresAt=responses.iso(status.expires_at), renewalCount=status.renewal_count),
    )
    match entry.WhichOneof("event"):
        case "message":
            broadcast = ("messageBroadcast", message_broadcast(entry, room))
            return [broadcast, renewed] if status.was_renewed else [broadcast]
        case "renewal":
            return [renewed]
        case "timeout_change":
            config = responses.timeout_config(entry.timeout_change.timeout_config)
            return [
                (
                    "sessionTimeoutChanged",
                    _of(entry, expiresAt=responses.iso(status.expires_at), timeoutConfig=config),
                )
            ]
        case "expiration_warning":
            minutes = json_text.number(entry.expiration_warning.minutes_remaining)
            return [("sessionExpirationWarning", _of(entry, minutesRemaining=minutes))]
        case "expiry":
            return [("sessionExpired", _of(entry, expiredAt=responses.iso(entry.expiry.expired_at)))]
        case "reply_failure":
            failure = entry.reply_failure
            failed = _of(
                entry,
                messageId=failure.message_id,
                replyMessageId=failure.reply_message_id,
                reason=failure.reason,
                attempts=failure.attempts,
            )
            return [("agentReplyFailed", failed)]
        case _:
            # A newer server may send entries that this facade does not know.
            return []


def message_broadcast(entry: LogEntry, room: FollowedSession) -> Payload:
    """messageBroadcast: every message of a joined session, user's or agent's, from whatever transport."""
    message = entry.message
    return {
        "id": message.message_id,
        "senderId": message.author_id,
        "senderName": room.agent_name if message.is_agent else USER_NAME,
        "text": message.content,
        "roomId": room.room_id,
        "channelId": room.session.channel_id,
        "sessionId": entry.session_id,
        "createdAt": values.ms_floor(message.created_at),
        "source": "agent_response" if message.is_agent else "user",
        "isAgent": message.is_agent,
        "thought": message.thought if message.HasField("thought") else None,
        "actions": list(message.actions),
        "metadata": orjson.Fragment(message.metadata_json),
        "attachments": orjson.Fragment(message.attachments_json or "[]"),
        "sequence": entry.sequence,
    }


def stream_chunk(chunk: ReplyChunk, channel_id: str) -> Payload:
    """messageStreamChunk: a piece of a reply under way."""
    return {
        **responses.chunk(chunk),
        "agentId": chunk.agent_id,
        "channelId": channel_id,
        "sessionId": chunk.session_id,
    }


def stream_aborted(abort: ReplyAborted) -> Payload:
    """messageStreamAborted: the pieces of a reply so far are void."""
    return {**responses.aborted(abort), "sessionId": abort.session_id}


def session_deleted(session_id: str) -> Payload:
    """sessionDeleted: the last event of a session that was deleted."""
    return {"sessionId": session_id}


class Draft:
    """The reply whose pieces one follower was sent last, until it is stored, has failed or is void.

    It is void where the connection upstream breaks, because its end may then be missed.
    """

    def __init__(self) -> None:
        self._last: ReplyChunk | None = None

    def take_chunk(self, chunk: ReplyChunk) -> None:
        self._last = chunk

    def take_entry(self, entry: LogEntry) -> None:
        """An entry is sent, which may be the end of the reply."""
        if self._last and self._last.message_id in (
            entry.message.message_id,
            entry.reply_failure.reply_message_id,
        ):
            self._last = None

    def take_abort(self, abort: ReplyAborted) -> bool:
        """Notes that the pieces of a reply are void. Returns whether the follower was sent some."""
        if self._last is None or self._last.message_id != abort.message_id:
            return False
        self._last = None
        return True

    def abandon(self) -> ReplyAborted | None:
        """Returns the event that makes the pieces void when the reply can no longer be heard; None without
        any.
        """
        last, self._last = self._last, None
        if last is None:
            return None
        return ReplyAborted(
            session_id=last.session_id,
            agent_id=last.agent_id,
            message_id=last.message_id,
            attempt=last.attempt,
        )


def _of(entry: LogEntry, **fields: Any) -> Payload:
    return {"sessionId": entry.session_id, **fields, "sequence": entry.sequence}
