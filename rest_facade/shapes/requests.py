"""Makes the API's requests of what a client sent. Raises ApiError.

The server checks values. This checks only what a proto cannot express: JSON types and text.
"""

import datetime as dt
import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from eliza.sessions import json_text, times, values
from eliza.sessions.errors import truncate
from eliza.sessions.limits import (
    DEFAULT_MESSAGES,
    MAX_CONTENT_CODE_POINTS,
    MAX_MESSAGES,
    MAX_METADATA_BYTES,
    MAX_REQUEST_ID,
    MAX_SESSIONS,
)
from eliza.sessions.texts import is_text
from eliza.sessions.v1.json_form_pb2 import JSON_FORM_TEXT
from eliza.sessions.v1.message_service_pb2 import ListMessagesRequest, SendMessageRequest
from eliza.sessions.v1.session_service_pb2 import (
    CreateAccessTokenRequest,
    CreateSessionRequest,
    ListSessionsRequest,
    UpdateTimeoutRequest,
)
from eliza.sessions.v1.timeout_pb2 import TimeoutConfig
from rest_facade.shapes.errors import ApiError
from rest_facade.shapes.numbers import whole_number

Body: TypeAlias = Mapping[str, Any]
Query: TypeAlias = Mapping[str, str]

_TRANSPORTS = {"websocket": "websocket", "http": "http", "sse": "sse", "sync": "http", "stream": "sse"}
"""The values of `transport` and of the older `mode`: live clients mix the two sets."""

_DECIMAL = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)\s*", re.ASCII)
_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?\s*", re.ASCII | re.IGNORECASE)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

_MAX_SECONDS = 10**9


def create_session(body: Body, request_id: str = "") -> CreateSessionRequest:
    """The body of POST /sessions.

    Raises MISSING_FIELDS, INVALID_UUID, INVALID_METADATA, INVALID_TIMEOUT_CONFIG, in this order.
    """
    try:
        return CreateSessionRequest(
            agent_id=_id(body, "agentId"),
            user_id=_id(body, "userId"),
            metadata_json=_metadata(body),
            json_form=JSON_FORM_TEXT,
            timeout_config=_nested_timeout(body),
            request_id=request_id,
        )
    except ApiError:
        # The server would report missing and malformed ids first, but will not see this request.
        missing = [name for name in ("agentId", "userId") if body.get(name) in (None, "")]
        if missing:
            raise ApiError(
                "MISSING_FIELDS", f"Missing required fields: {', '.join(missing)}", missingFields=missing
            ) from None
        for name in ("agentId", "userId"):
            if not is_uuid(_id(body, name)):
                raise _invalid_uuid(name, body[name]) from None
        raise


def send_message(body: Body, session_id: str) -> tuple[SendMessageRequest, str]:
    """The body of POST /sessions/{sessionId}/messages, and its transport.

    Raises INVALID_CONTENT and INVALID_METADATA.
    """
    content = body.get("content")
    if not isinstance(content, str):
        raise _invalid_content(f"content must be a string of 1 to {MAX_CONTENT_CODE_POINTS} characters")
    if not is_text(content):
        raise _invalid_content("content holds a lone surrogate, which is not text")
    attachments = _attachments(body)
    transport = _transport(body)
    request = SendMessageRequest(
        session_id=session_id,
        content=content,
        metadata_json=_metadata(body),
        attachments_json=attachments,
        json_form=JSON_FORM_TEXT,
    )
    return request, transport


def idempotency_key(key: str | None) -> str:
    """Reads an Idempotency-Key header, with or without the quotes of its draft standard; empty without one.

    Raises INVALID_FIELD.
    """
    if key is None:
        return ""
    bare = key[1:-1] if len(key) > 1 and key.startswith('"') and key.endswith('"') else key
    if not 1 <= len(bare) <= MAX_REQUEST_ID or not bare.isascii() or not bare.isprintable():
        raise invalid_field(
            "Idempotency-Key", key, f"must have 1 to {MAX_REQUEST_ID} printable ASCII characters"
        )
    return bare


def update_timeout(body: Body, session_id: str) -> UpdateTimeoutRequest:
    """The body of PATCH /sessions/{sessionId}/timeout. Raises INVALID_TIMEOUT_CONFIG."""
    return UpdateTimeoutRequest(
        session_id=session_id, timeout_config=_timeout(body), json_form=JSON_FORM_TEXT
    )


def create_access_token(body: Body, session_id: str) -> CreateAccessTokenRequest:
    """The body of POST /sessions/{sessionId}/tokens. Raises INVALID_FIELD."""
    verbs, seconds = body.get("verbs"), body.get("seconds")
    if verbs is not None and not (
        isinstance(verbs, list) and all(isinstance(verb, str) and is_text(verb) for verb in verbs)
    ):
        raise invalid_field("verbs", verbs, "must be an array of strings")
    request = CreateAccessTokenRequest(session_id=session_id, verbs=verbs)
    if seconds is not None:
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        # The server has a bound of its own. A Duration could not hold any number.
        if not is_number or not 1 <= seconds <= _MAX_SECONDS:
            raise invalid_field("seconds", seconds, f"must be a number from 1 to {_MAX_SECONDS}")
        request.lifetime.FromMilliseconds(int(seconds * 1000))
    return request


def list_messages(query: Query, session_id: str) -> ListMessagesRequest:
    """The query of GET /sessions/{sessionId}/messages.

    Raises INVALID_PAGINATION for a cursor that is no instant.
    """
    return ListMessagesRequest(
        session_id=session_id,
        page_size=_clamp(_number(query.get("limit", ""), DEFAULT_MESSAGES), MAX_MESSAGES),
        before=_instant(query, "before"),
        after=_instant(query, "after"),
        json_form=JSON_FORM_TEXT,
    )


def after_sequence(text: str) -> int:
    """Reads the sequence to go on after; empty means from the first entry. Raises INVALID_FIELD."""
    sequence = whole_number(text) if text else 0
    if sequence is None:
        raise invalid_field("after", text, "must be a sequence")
    return sequence


def list_sessions(query: Query) -> ListSessionsRequest:
    """The query of GET /sessions. A limit that is no number counts as absent."""
    return ListSessionsRequest(
        page_size=_clamp(_number(query.get("limit", ""), MAX_SESSIONS), MAX_SESSIONS),
        page_token=query.get("pageToken", ""),
        agent_id=query.get("agentId", ""),
        user_id=query.get("userId", ""),
        json_form=JSON_FORM_TEXT,
    )


def is_uuid(text: str) -> bool:
    """Whether a text is a UUID, in either letter case."""
    return _UUID.fullmatch(text) is not None


def invalid_field(field: str, value: object, reason: str) -> ApiError:
    """The error for a field that is not as it must be."""
    return ApiError("INVALID_FIELD", f"{field} {reason}", field=field, value=display(value), reason=reason)


def display(value: object) -> str:
    """A JSON value as an error repeats it: text as it is, anything else as JSON, cut."""
    if isinstance(value, str):
        return truncate(value)
    try:
        return truncate(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    except (RecursionError, TypeError):
        # Nested too deeply; or bytes, which a socket can bring.
        return "…"


def _id(body: Body, name: str) -> str:
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or not is_text(value):
        raise _invalid_uuid(name, value)
    return value


def _metadata(body: Body) -> str:
    metadata = body.get("metadata")
    if metadata is None:
        return ""
    if not isinstance(metadata, dict):
        raise _invalid_metadata("metadata must be an object")
    try:
        return json_text.metadata_text(metadata)
    except ValueError as error:
        raise _invalid_metadata(f"metadata {error}") from error


def _attachments(body: Body) -> str:
    attachments = body.get("attachments")
    if attachments is None:
        return ""
    if not isinstance(attachments, list):
        raise _invalid_content("attachments must be an array")
    try:
        return json_text.attachments_text(attachments)
    except ValueError as error:
        raise _invalid_content(f"attachments {error}") from error


def _transport(body: Body) -> str:
    """Which way the agent's reply goes. Contract: "`transport` wins over `mode`"."""
    name = "mode" if body.get("transport") is None else "transport"
    value = body.get(name)
    if value is None:
        return "websocket"
    if not isinstance(value, str) or value not in _TRANSPORTS:
        raise _invalid_content(f"{name} must be one of {', '.join(_TRANSPORTS)}")
    return _TRANSPORTS[value]


def _nested_timeout(body: Body) -> TimeoutConfig | None:
    settings = body.get("timeoutConfig")
    if settings is None:
        return None
    if not isinstance(settings, dict):
        raise _invalid_timeout("timeoutConfig", settings, "timeoutConfig must be an object")
    return _timeout(settings)


def _timeout(settings: Body) -> TimeoutConfig:
    auto_renew = settings.get("autoRenew")
    if not isinstance(auto_renew, bool | None):
        raise _invalid_timeout("autoRenew", auto_renew, "autoRenew must be a boolean")
    return TimeoutConfig(
        timeout_minutes=_minutes(settings, "timeoutMinutes"),
        auto_renew=auto_renew,
        max_duration_minutes=_minutes(settings, "maxDurationMinutes"),
        warning_threshold_minutes=_minutes(settings, "warningThresholdMinutes"),
    )


def _minutes(settings: Body, name: str) -> float | None:
    value = settings.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not (
        isinstance(value, int | float) or (isinstance(value, str) and _DECIMAL.fullmatch(value))
    ):
        raise _invalid_timeout(name, value, f"{name} must be a number")
    try:
        return float(value)
    except OverflowError:
        # Only an int overflows: a float and a string become infinite by themselves.
        return math.inf if int(value) > 0 else -math.inf


def _number(text: str, otherwise: float) -> float:
    return float(text) if _NUMBER.fullmatch(text) else otherwise


def _clamp(limit: float, bound: int) -> int:
    return int(min(max(limit, 1), bound))


def _instant(query: Query, parameter: str) -> Timestamp | None:
    """Reads a cursor: milliseconds since the epoch or ISO 8601; empty counts as absent.

    A finer instant is rounded up for `before` and down for `after`, so that the cursor excludes just that
    instant.
    """
    text = query.get(parameter, "").strip()
    if not text:
        return None
    if _DECIMAL.fullmatch(text):
        instant = Decimal(text)
    else:
        try:
            instant = _decimal_ms(text)
        except ValueError as error:
            reason = f"{parameter} must be milliseconds since the epoch or ISO 8601"
            raise _invalid_pagination(parameter, text, reason) from error
    if not times.FIRST_MS <= instant <= times.LAST_MS:
        raise _invalid_pagination(parameter, text, f"{parameter} is out of range")
    return values.timestamp(math.ceil(instant) if parameter == "before" else math.floor(instant))


def _decimal_ms(text: str) -> Decimal:
    """ISO 8601 as milliseconds and the fraction of one. Raises ValueError."""
    try:
        ms = times.ms_from_iso(text)
    except ValueError:
        # The + of an offset means a space where it stands unescaped in a query.
        text = "+".join(text.rsplit(" ", 1))
        ms = times.ms_from_iso(text)
    return ms + Decimal(dt.datetime.fromisoformat(text).microsecond % 1000) / 1000


def _invalid_uuid(field: str, value: object) -> ApiError:
    return ApiError("INVALID_UUID", f"{field} is not a UUID", field=field, value=display(value))


def _invalid_content(reason: str) -> ApiError:
    return ApiError("INVALID_CONTENT", f"Invalid content: {reason}", reason=reason)


def _invalid_metadata(reason: str) -> ApiError:
    return ApiError(
        "INVALID_METADATA", f"Invalid metadata: {reason}", reason=reason, maxBytes=MAX_METADATA_BYTES
    )


def _invalid_timeout(field: str, value: object, reason: str) -> ApiError:
    return ApiError(
        "INVALID_TIMEOUT_CONFIG",
        f"Invalid timeout configuration: {reason}",
        field=field,
        value=display(value),
        reason=reason,
    )


def _invalid_pagination(parameter: str, value: str, reason: str) -> ApiError:
    return ApiError(
        "INVALID_PAGINATION",
        f"Invalid pagination: {reason}",
        parameter=parameter,
        value=truncate(value),
        reason=reason,
    )
