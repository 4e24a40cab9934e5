"""Reads the API's messages into values of the domain."""

from dataclasses import MISSING, fields
from typing import Any, TypeAlias

from eliza.sessions import json_text, values
from eliza.sessions.limits import MAX_METADATA_BYTES
from eliza.sessions.v1 import (
    agent_pb2,
    agent_service_pb2,
    json_form_pb2,
    message_service_pb2,
    session_service_pb2,
    timeout_pb2,
)
from server.domain.agents import SETTINGS, AgentKind, AgentSettings, OpenAiSettings, WebhookSettings
from server.domain.errors import DomainError, InvalidContentError, InvalidFieldError, InvalidMetadataError
from server.domain.messages import EMPTY_OBJECT, Draft, Reply
from server.domain.timeouts import PartialTimeoutConfig

_KINDS = {agent_pb2.AgentKind.Value(f"AGENT_KIND_{kind.name}"): kind for kind in AgentKind}
_FORMS = frozenset(json_form_pb2.JsonForm.values())
_Said: TypeAlias = message_service_pb2.SendMessageRequest | agent_service_pb2.AgentReply
"""The messages that have metadata and attachments, each in one of two forms."""


def is_text_form(form: json_form_pb2.JsonForm.ValueType) -> bool:
    """Whether metadata and attachments are wanted as JSON text.

    Raises InvalidFieldError for a form that there is not.
    """
    if form not in _FORMS:
        raise InvalidFieldError("json_form", form, "is not a form that this version knows")
    return form == json_form_pb2.JSON_FORM_TEXT


def timeout_config(message: timeout_pb2.TimeoutConfig) -> PartialTimeoutConfig:
    """The settings that a request names."""
    return PartialTimeoutConfig(**{field.name: value for field, value in message.ListFields()})


def retention_minutes(message: agent_pb2.Agent) -> float | None:
    """The retention that a request names."""
    return message.retention_minutes if message.HasField("retention_minutes") else None


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


def draft(request: message_service_pb2.SendMessageRequest) -> Draft | DomainError:
    """The message that a client asks to store, or the error that the rule is to raise in its turn."""
    try:
        is_text_form(request.json_form)
        if (wait_s := values.seconds(request.reply_wait)) < 0:
            raise InvalidFieldError("reply_wait", wait_s, "must not be less than 0")
        attachments = attachments_text(request)
        return Draft(request.content, metadata_text(request), attachments)
    except DomainError as error:
        return error


def reply(message: agent_service_pb2.AgentReply) -> Reply:
    """Reads an agent's reply. Raises InvalidContentError, InvalidMetadataError."""
    attachments = attachments_text(message)
    content = Draft(message.content, metadata_text(message), attachments)
    return Reply(content, message.thought if message.HasField("thought") else None, tuple(message.actions))


def settings_values(
    message: agent_pb2.WebhookSettings | agent_pb2.OpenAiSettings,
    settings_class: type[WebhookSettings] | type[OpenAiSettings],
) -> dict[str, Any]:
    """Returns the settings of a kind by name. An unset one has its default, or is empty."""
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


def agent_kind(number: agent_pb2.AgentKind.ValueType) -> AgentKind:
    """The kind that a request names. Raises InvalidFieldError."""
    if number not in _KINDS:
        raise InvalidFieldError("kind", number, "is not a kind of agent that this version knows")
    return _KINDS[number]


def _invalid_metadata(why: str) -> InvalidMetadataError:
    return InvalidMetadataError(f"metadata {why}", MAX_METADATA_BYTES)
