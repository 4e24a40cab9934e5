"""One class for each reason of the API's table of errors.

Made from errors.proto by generate_errors.py: change nothing here.
"""

from collections.abc import Mapping
from typing import Final

import grpc

from eliza_sessions_client._api import errors_pb2
from eliza_sessions_client.errors import SessionsError, reason_name


class SessionNotFoundError(SessionsError):
    """There is no such session: there never was, or it was deleted or purged."""

    code = "SESSION_NOT_FOUND"
    session_id: str


class SessionExpiredError(SessionsError):
    """The session has expired.

    Every call on it but DeleteSession says so, until its record is purged.
    """

    code = "SESSION_EXPIRED"
    session_id: str
    expires_at: str


class SessionCreationError(SessionsError):
    """The session could not be created for a reason that is not the caller's."""

    code = "SESSION_CREATION_FAILED"
    reason: str


class AgentNotFoundError(SessionsError):
    """There is no agent with this id."""

    code = "AGENT_NOT_FOUND"
    agent_id: str


class InvalidUuidError(SessionsError):
    """A field that must hold a UUID does not.

    `value` has at most 100 characters.
    """

    code = "INVALID_UUID"
    field: str
    value: str


class MissingFieldsError(SessionsError):
    """Required fields are missing: `missingFields` names all of them and no others, separated by commas."""

    code = "MISSING_FIELDS"
    missing_fields: tuple[str, ...]


class InvalidContentError(SessionsError):
    """The content of a message, its attachments or its transport is not acceptable."""

    code = "INVALID_CONTENT"
    reason: str


class InvalidMetadataError(SessionsError):
    """Metadata is not an object, is larger than `maxBytes` as compact JSON, nests too deeply, or cannot be
    written as JSON.
    """

    code = "INVALID_METADATA"
    reason: str
    max_bytes: float


class InvalidPaginationError(SessionsError):
    """The size, the cursor or the token of a page is malformed or out of range.

    `value` has at most 100 characters.
    """

    code = "INVALID_PAGINATION"
    parameter: str
    value: str
    reason: str


class InvalidTimeoutConfigError(SessionsError):
    """A timeout setting has the wrong type, or is out of range where it is not clamped.

    `value` has at most 100 characters.
    """

    code = "INVALID_TIMEOUT_CONFIG"
    field: str
    value: str
    reason: str


class SessionRenewalError(SessionsError):
    """A renewal by hand has nothing to gain: the expiry already stands at the maximum duration."""

    code = "SESSION_RENEWAL_FAILED"
    session_id: str
    reason: str
    max_duration_minutes: float
    created_at: str


class MessageSendError(SessionsError):
    """A message could not be stored for a reason that is not the caller's."""

    code = "MESSAGE_SEND_FAILED"
    session_id: str
    reason: str


class InvalidRequestError(SessionsError):
    """The request could not be read at all: malformed JSON, a body that is not an object, bytes that are
    not the message.
    """

    code = "INVALID_REQUEST"
    reason: str


class InvalidFieldError(SessionsError):
    """A field that no class above is about has a bad value.

    `value` has at most 100 characters.
    """

    code = "INVALID_FIELD"
    field: str
    value: str
    reason: str


class AgentAlreadyExistsError(SessionsError):
    """An agent with this id exists already."""

    code = "AGENT_ALREADY_EXISTS"
    agent_id: str


class PathNotFoundError(SessionsError):
    """The path is not one of this API.

    REST only.
    """

    code = "PATH_NOT_FOUND"
    path: str


class MethodNotAllowedError(SessionsError):
    """The path exists but not with this method.

    REST only.
    """

    code = "METHOD_NOT_ALLOWED"
    method: str
    allowed: tuple[str, ...]


class RequestTooLargeError(SessionsError):
    """The request is larger than `maxBytes`."""

    code = "REQUEST_TOO_LARGE"
    max_bytes: float


class UnsupportedMediaTypeError(SessionsError):
    """The body is not JSON by its content type.

    REST only.
    """

    code = "UNSUPPORTED_MEDIA_TYPE"
    content_type: str


class RateLimitedError(SessionsError):
    """The caller sends too much.

    Wait `retryAfterSeconds`, then try again.
    """

    code = "RATE_LIMITED"
    policy: str
    limit: float
    window_seconds: float
    retry_after_seconds: float


class UnavailableError(SessionsError):
    """The service cannot answer now: it starts, stops, is out of reach, or its store is busy.

    Wait `retryAfterSeconds`, then try again.
    """

    code = "UNAVAILABLE"
    retry_after_seconds: float


class ResourceExhaustedError(SessionsError):
    """The store has no room left.

    Wait `retryAfterSeconds`, then try again.
    """

    code = "RESOURCE_EXHAUSTED"
    retry_after_seconds: float


class DeadlineExceededError(SessionsError):
    """The deadline of the call passed before there was an answer."""

    code = "DEADLINE_EXCEEDED"


class AgentReplyTimeoutError(SessionsError):
    """The agent has not replied within the reply deadline.

    The user's message is kept, and a late reply is still stored.
    """

    code = "AGENT_REPLY_TIMEOUT"
    session_id: str
    message_id: str


class AgentReplyError(SessionsError):
    """The agent could not reply.

    The user's message is kept; sending it again would store it twice.
    """

    code = "AGENT_REPLY_FAILED"
    session_id: str
    message_id: str
    reason: str


class DeliveryNotFoundError(SessionsError):
    """There is no such delivery: there never was, or its session is gone."""

    code = "DELIVERY_NOT_FOUND"
    delivery_id: str


class DeliveryAnsweredError(SessionsError):
    """The message has its reply already: there is one for each, ever."""

    code = "DELIVERY_ALREADY_ANSWERED"
    delivery_id: str


class DeliveryNotLeasedError(SessionsError):
    """The worker does not have this delivery, or has it no longer."""

    code = "DELIVERY_NOT_LEASED"
    delivery_id: str


class RequestIdReusedError(SessionsError):
    """The request id was used before, with other content."""

    code = "REQUEST_ID_REUSED"
    request_id: str


class EtagMismatchError(SessionsError):
    """The session is not in the state that the caller has seen: `etag` is its present one."""

    code = "ETAG_MISMATCH"
    session_id: str
    etag: str


class OverloadedError(SessionsError):
    """The service is overloaded: a queue is full.

    The service did nothing. Wait `retryAfterSeconds`, then try again.
    """

    code = "OVERLOADED"
    retry_after_seconds: float


class OriginNotAllowedError(SessionsError):
    """A web page of another origin may not use this API: REST_ALLOWED_ORIGINS does not name `origin`.

    The service did nothing. `origin` is empty where the browser names none, as it does when a link of
    another site is followed.
    """

    code = "ORIGIN_NOT_ALLOWED"
    origin: str


class HostNotAllowedError(SessionsError):
    """The service is not known by the name in the header Host: REST_ALLOWED_HOSTS does not name `host`.

    The service did nothing.
    """

    code = "HOST_NOT_ALLOWED"
    host: str


class UnauthenticatedError(SessionsError):
    """There is no credential, or a bad one: an unknown key, a token that is no good, two that differ.

    The service did nothing.
    """

    code = "UNAUTHENTICATED"


class CredentialExpiredError(SessionsError):
    """The credential was good and has expired, or was removed.

    The service did nothing. A stream ends with it.
    """

    code = "CREDENTIAL_EXPIRED"


class PermissionDeniedError(SessionsError):
    """The caller is known and may not do this.

    The service did nothing.
    """

    code = "PERMISSION_DENIED"


class QuotaExceededError(SessionsError):
    """The caller, or its user, or its tenant, has as many of `quota` as it may have.

    The service did nothing.
    """

    code = "QUOTA_EXCEEDED"
    quota: str
    limit: float
    retry_after_seconds: float


class InternalError(SessionsError):
    """A fault of the service itself.

    The log has the cause under `errorId`.
    """

    code = "INTERNAL"
    error_id: str


CLASSES: Final[Mapping[str, type[SessionsError]]] = {
    one.code: one for one in SessionsError.__subclasses__() if one.__module__ == __name__
}
"""The classes by their codes."""

_NUMBERS = {code.value[0]: code for code in grpc.StatusCode}
STATUSES: Final[dict[str, grpc.StatusCode]] = {}
"""The gRPC status of each code."""

for _value in errors_pb2.ErrorReason.DESCRIPTOR.values:
    if _value.number and reason_name(_value.number) in CLASSES:
        _row = _value.GetOptions().Extensions[errors_pb2.error]
        _class = CLASSES[reason_name(_value.number)]
        _class.kinds = {detail.name: detail.kind for detail in _row.details}
        STATUSES[_class.code] = _NUMBERS[_row.grpc_status]
