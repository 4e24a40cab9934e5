"""Between the domain's values and the API's messages."""

from dataclasses import MISSING, asdict, fields
from typing import Any, TypeAlias

import orjson

from eliza.sessions import json_text, values
from eliza.sessions.errors import truncate
from eliza.sessions.limits import MAX_METADATA_BYTES
from eliza.sessions.v1 import (
    agent_pb2,
    agent_service_pb2,
    errors_pb2,
    json_form_pb2,
    log_pb2,
    message_pb2,
    message_service_pb2,
    session_pb2,
    session_service_pb2,
    timeout_pb2,
)
from server.agents.kinds import Work
from server.delivery.statuses import AgentStatus
from server.domain.agents import SETTINGS, Agent, AgentKind, AgentSettings, OpenAiSettings, WebhookSettings
from server.domain.errors import DomainError, InvalidContentError, InvalidFieldError, InvalidMetadataError
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
from server.domain.messages import EMPTY_OBJECT, AgentMessage, Draft, Message, Reply
from server.domain.sessions import Session, etag, is_near_expiration, time_remaining_ms
from server.domain.timeouts import MINUTE_MS, PartialTimeoutConfig, TimeoutConfig

_KINDS = {kind: agent_pb2.AgentKind.Value(f"AGENT_KIND_{kind.name}") for kind in AgentKind}
_KINDS_BACK = {number: kind for kind, number in _KINDS.items()}
_TIMEOUT_FIELDS = tuple(timeout_pb2.TimeoutConfig.DESCRIPTOR.fields_by_name)

_Said: TypeAlias = message_service_pb2.SendMessageRequest | agent_service_pb2.AgentReply
"""What has metadata and attachments, each in one of two forms."""


def is_text_form(form: json_form_pb2.JsonForm.ValueType) -> bool:
    """Whether metadata and attachments are wanted as JSON text.

    Raises InvalidFieldError for a form that there is not.
    """
    if form not in json_form_pb2.JsonForm.values():
        raise InvalidFieldError("json_form", form, "is not a form that this version knows")
    return form == json_form_pb2.JSON_FORM_TEXT


def session_message(session: Session, now_ms: int, as_text: bool) -> session_pb2.Session:
    """A session as it stands at an instant; `as_text`: its metadata as JSON text."""
    return session_pb2.Session(
        session_id=session.id,
        channel_id=session.channel_id,
        agent_id=session.agent_id,
        user_id=session.user_id,
        created_at=values.timestamp(session.created_at_ms),
        metadata=None if as_text else values.struct(orjson.loads(session.metadata)),
        metadata_json=json_text.escape_lines(session.metadata) if as_text else "",
        expires_at=values.timestamp(session.expires_at_ms),
        timeout_config=timeout_message(session.timeout),
        last_activity=values.timestamp(session.last_activity_ms),
        renewal_count=session.renewal_count,
        time_remaining_ms=time_remaining_ms(session, now_ms),
        is_near_expiration=is_near_expiration(session, now_ms),
        last_sequence=session.last_sequence,
        etag=etag(session),
    )


def message_message(session: Session, entry: Entry, message: Message, as_text: bool) -> message_pb2.Message:
    """A stored message, with the session's metadata laid under its own; `as_text`: both as JSON text.

    Contract: "the session's metadata, overlaid by the message's own, and `sessionId`, which a client cannot
    overwrite".
    """
    own: dict[str, json_text.Json] = (
        {} if message.metadata == EMPTY_OBJECT else orjson.loads(message.metadata)
    )
    own["sessionId"] = session.id
    is_agent = isinstance(message, AgentMessage)
    made = message_pb2.Message(
        message_id=message.id,
        session_id=session.id,
        sequence=entry.sequence,
        author_id=session.agent_id if is_agent else session.user_id,
        is_agent=is_agent,
        content=message.content,
        created_at=values.timestamp(entry.at_ms),
    )
    if isinstance(message, AgentMessage):
        if message.thought is not None:
            made.thought = message.thought
        made.actions.extend(message.actions)
        made.reply_to_sequence = message.answers or 0
    if as_text:
        made.metadata_json = json_text.escape_lines(json_text.overlay(session.metadata, own))
        made.attachments_json = json_text.escape_lines(message.attachments or "")
        return made
    made.metadata.CopyFrom(values.struct({**orjson.loads(session.metadata), **own}))
    if message.attachments is not None:
        made.attachments.CopyFrom(values.list_value(orjson.loads(message.attachments)))
    return made


def entry_head(entry: Entry) -> log_pb2.LogEntry:
    """An entry of a session's log, but for its message."""
    message = log_pb2.LogEntry(
        session_id=entry.session_id,
        sequence=entry.sequence,
        at=values.timestamp(entry.at_ms),
        session_status=session_status(entry),
    )
    match entry.event:
        case Renewal():
            message.renewal.SetInParent()
        case TimeoutChange(timeout=timeout):
            message.timeout_change.timeout_config.CopyFrom(timeout_message(timeout))
        case ExpirationWarning():
            message.expiration_warning.minutes_remaining = round(
                (entry.expires_at_ms - entry.at_ms) / MINUTE_MS, 2
            )
        case Expiry():
            message.expiry.expired_at.CopyFrom(values.timestamp(entry.expires_at_ms))
        case ReplyFailure() as failure:
            message.reply_failure.CopyFrom(log_pb2.ReplyFailure(**asdict(failure)))
    return message


def chunk_message(chunk: Chunk) -> log_pb2.ReplyChunk:
    """A piece of a reply under way."""
    return log_pb2.ReplyChunk(
        session_id=chunk.session_id,
        agent_id=chunk.agent_id,
        message_id=chunk.message_id,
        chunk=chunk.text,
        index=chunk.index,
        attempt=chunk.attempt,
    )


def abort_message(abort: Abort) -> log_pb2.ReplyAborted:
    """That the pieces of a reply so far are void."""
    return log_pb2.ReplyAborted(
        session_id=abort.session_id,
        agent_id=abort.agent_id,
        message_id=abort.message_id,
        attempt=abort.attempt,
    )


def session_status(entry: Entry) -> message_pb2.SessionStatus:
    """What a message did to its session."""
    return message_pb2.SessionStatus(
        expires_at=values.timestamp(entry.expires_at_ms),
        renewal_count=entry.renewal_count,
        was_renewed=entry.was_renewed,
        is_near_expiration=entry.is_near_expiration,
    )


def timeout_message(config: TimeoutConfig | PartialTimeoutConfig) -> timeout_pb2.TimeoutConfig:
    """Timeout settings; what is None stays unset."""
    return timeout_pb2.TimeoutConfig(
        timeout_minutes=config.timeout_minutes,
        auto_renew=config.auto_renew,
        max_duration_minutes=config.max_duration_minutes,
        warning_threshold_minutes=config.warning_threshold_minutes,
    )


def timeout_request(message: timeout_pb2.TimeoutConfig) -> PartialTimeoutConfig:
    """The settings that a request names."""
    named: dict[str, Any] = {
        field: getattr(message, field) for field in _TIMEOUT_FIELDS if message.HasField(field)
    }  # type: ignore[arg-type]
    return PartialTimeoutConfig(**named)


def metadata_text(request: session_service_pb2.CreateSessionRequest | _Said) -> str:
    """The stored text of a request's metadata, which is the same whatever form it came in.

    Raises InvalidMetadataError.
    """
    text = request.metadata_json
    if text and request.HasField("metadata"):
        raise _invalid_metadata("and metadata_json cannot both be given")
    if not text and not request.metadata.fields:
        return EMPTY_OBJECT
    try:
        return json_text.read_metadata(text) if text else json_text.dump(values.plain(request.metadata))
    except ValueError as error:
        raise _invalid_metadata(str(error)) from error


def attachments_text(request: _Said) -> str | None:
    """The stored text of a request's attachments, the same whatever form they came in; None for none.

    Raises InvalidContentError.
    """
    text, has_list = request.attachments_json, request.HasField("attachments")
    if text and has_list:
        raise InvalidContentError("attachments and attachments_json cannot both be given")
    if not text and not has_list:
        return None
    try:
        return (
            json_text.read_attachments(text)
            if text
            else json_text.dump(values.plain_list(request.attachments))
        )
    except ValueError as error:
        raise InvalidContentError(f"attachments {error}") from error


def read_draft(request: message_service_pb2.SendMessageRequest) -> Draft | DomainError:
    """The message that a client asks to store, or why it cannot be read: that is for the rule to raise in its
    turn.
    """
    try:
        is_text_form(request.json_form)
        if (wait_s := values.seconds(request.reply_wait)) < 0:
            raise InvalidFieldError("reply_wait", wait_s, "must not be less than 0")
        attachments = attachments_text(request)
        return Draft(request.content, metadata_text(request), attachments)
    except DomainError as error:
        return error


def reply_of(message: agent_service_pb2.AgentReply) -> Reply:
    """What an agent answers. Raises InvalidContentError, InvalidMetadataError."""
    attachments = attachments_text(message)
    draft = Draft(message.content, metadata_text(message), attachments)
    return Reply(draft, message.thought if message.HasField("thought") else None, tuple(message.actions))


def delivery_head(work: Work, now_ms: int, as_text: bool) -> agent_service_pb2.Delivery:
    """A delivery, as a worker gets it, but for the history; `as_text`: metadata and attachments
    as JSON text.
    """
    session = work.session
    return agent_service_pb2.Delivery(
        delivery_id=work.delivery.id,
        attempt=work.delivery.attempts,
        session=session_message(session, now_ms, as_text),
        message=delivered_message(session, work.entry, work.message, as_text),
        reply_message_id=work.reply_id,
        lease_expires_at=values.timestamp(work.delivery.due_at_ms or now_ms),
    )


def delivered_message(session: Session, entry: Entry, message: Message, as_text: bool) -> message_pb2.Message:
    """A message with its author's own metadata beside the overlaid: an agent must be able to tell the two
    apart.
    """
    delivered = message_message(session, entry, message, as_text)
    if as_text:
        delivered.own_metadata_json = json_text.escape_lines(message.metadata)
    else:
        delivered.own_metadata.CopyFrom(values.struct(orjson.loads(message.metadata)))
    return delivered


def refusal(error: DomainError) -> tuple[errors_pb2.ErrorReason.ValueType, str, dict[str, str]]:
    """The reason, the message and the details of an error that is told on a stream and does not end it."""
    details = {name: truncate(value) for name, value in error.details.items()}
    return errors_pb2.ErrorReason.Value(f"ERROR_REASON_{error.reason}"), str(error), details


def settings_values(
    message: agent_pb2.WebhookSettings | agent_pb2.OpenAiSettings,
    settings_class: type[WebhookSettings] | type[OpenAiSettings],
) -> dict[str, Any]:
    """The settings of a kind, by name; what the message leaves unset has its default, or is empty."""
    given: dict[str, Any] = {field.name: value for field, value in message.ListFields()}
    return {
        field.name: given.get(field.name, "" if field.default is MISSING else field.default)
        for field in fields(settings_class)
    }


def agent_settings(message: agent_pb2.Agent) -> AgentSettings:
    """The settings of its kind that a request has."""
    for kind, settings_class in SETTINGS.items():
        if message.HasField(str(kind)):  # type: ignore[arg-type]
            return settings_class(**settings_values(getattr(message, kind), settings_class))
    return None


def agent_message(agent: Agent) -> agent_pb2.Agent:
    """A registered agent."""
    settings = {} if agent.settings is None else {str(agent.kind): asdict(agent.settings)}
    return agent_pb2.Agent(
        **settings,  # type: ignore[arg-type]
        agent_id=agent.id,
        name=agent.name,
        kind=_KINDS[agent.kind],
        timeout_config=timeout_message(agent.timeout),
        created_at=values.timestamp(agent.created_at_ms),
        updated_at=values.timestamp(agent.updated_at_ms),
    )


def agent_status_message(status: AgentStatus, connected_workers: int) -> agent_pb2.AgentStatus:
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


def agent_kind(number: agent_pb2.AgentKind.ValueType) -> AgentKind:
    """The kind that a request names. Raises InvalidFieldError."""
    if number not in _KINDS_BACK:
        raise InvalidFieldError("kind", number, "is not a kind of agent that this version knows")
    return _KINDS_BACK[number]


def _invalid_metadata(why: str) -> InvalidMetadataError:
    return InvalidMetadataError(f"metadata {why}", MAX_METADATA_BYTES)
