"""The errors of the service, as exceptions.

DomainError
├── SessionNotFoundError, SessionExpiredError, SessionRenewalError
├── AgentNotFoundError, AgentAlreadyExistsError
├── MissingFieldsError, InvalidUuidError, InvalidContentError, InvalidMetadataError,
│   InvalidPaginationError, InvalidTimeoutConfigError, InvalidFieldError
├── AgentReplyTimeoutError, AgentReplyError
├── RequestIdReusedError, EtagMismatchError
├── DeliveryNotFoundError, DeliveryAnsweredError, DeliveryNotLeasedError
├── UnauthenticatedError, CredentialExpiredError, PermissionDeniedError,
│   RateLimitedError, QuotaExceededError
└── InvalidRequestError, DeadlineExceededError,
    UnavailableError (OutcomeUnknownError), ResourceExhaustedError, OverloadedError

`reason` names a row of the error table (errors.proto), which has the statuses; `details` are that row's
details, as text. A message is for the client: it never holds metadata or anything of the inside.
"""

import math
from collections.abc import Iterable
from typing import ClassVar, Final

from eliza.sessions.times import iso


class DomainError(Exception):
    """The base class. `str(error)` is the public message; `details` go out with it."""

    reason: ClassVar[str]

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.details = {name: _plain(value) for name, value in details.items()}


class SessionNotFoundError(DomainError):
    """There is no such session: there never was, or it was deleted or purged."""

    reason = "SESSION_NOT_FOUND"

    def __init__(self, session_id: str) -> None:
        super().__init__("Session not found", sessionId=session_id)


class SessionExpiredError(DomainError):
    """The session's expiry, in ms, has been reached."""

    reason = "SESSION_EXPIRED"

    def __init__(self, session_id: str, expires_at_ms: int) -> None:
        expires_at = iso(expires_at_ms)
        super().__init__(f"Session expired at {expires_at}", sessionId=session_id, expiresAt=expires_at)


class SessionRenewalError(DomainError):
    """A renewal by hand would gain nothing: the expiry stands at the maximum duration already."""

    reason = "SESSION_RENEWAL_FAILED"

    def __init__(self, session_id: str, max_duration_minutes: float, created_at_ms: int) -> None:
        super().__init__(
            "The session cannot be renewed: it has reached its maximum duration",
            sessionId=session_id,
            reason="maximum duration reached",
            maxDurationMinutes=max_duration_minutes,
            createdAt=iso(created_at_ms),
        )


class AgentNotFoundError(DomainError):
    """There is no agent with this id."""

    reason = "AGENT_NOT_FOUND"

    def __init__(self, agent_id: str) -> None:
        super().__init__("Agent not found", agentId=agent_id)


class AgentAlreadyExistsError(DomainError):
    """An agent with this id exists already."""

    reason = "AGENT_ALREADY_EXISTS"

    def __init__(self, agent_id: str) -> None:
        super().__init__("An agent with this id exists already", agentId=agent_id)


class MissingFieldsError(DomainError):
    """Required fields are missing: these, and no others."""

    reason = "MISSING_FIELDS"

    def __init__(self, missing_fields: Iterable[str]) -> None:
        names = ",".join(missing_fields)
        super().__init__(f"Missing required fields: {names.replace(',', ', ')}", missingFields=names)


class InvalidUuidError(DomainError):
    """A field that must hold a UUID does not."""

    reason = "INVALID_UUID"

    def __init__(self, field: str, value: str) -> None:
        super().__init__(f"{field} is not a UUID", field=field, value=value)


class InvalidContentError(DomainError):
    """The content or the attachments of a message are not acceptable.

    The public message contains the word `content`.
    """

    reason = "INVALID_CONTENT"

    def __init__(self, why: str) -> None:
        super().__init__(f"Invalid content: {why}", reason=why)


class InvalidMetadataError(DomainError):
    """Metadata is too large or not JSON. The public message contains the word `metadata`."""

    reason = "INVALID_METADATA"

    def __init__(self, why: str, max_bytes: int) -> None:
        super().__init__(f"Invalid metadata: {why}", reason=why, maxBytes=max_bytes)


class InvalidPaginationError(DomainError):
    """A page size, a cursor or a token is malformed or out of range."""

    reason = "INVALID_PAGINATION"

    def __init__(self, parameter: str, value: object, why: str) -> None:
        super().__init__(f"{parameter} {why}", parameter=parameter, value=value, reason=why)


class InvalidTimeoutConfigError(DomainError):
    """A timeout setting is not a number, or out of range where the service does not clamp."""

    reason = "INVALID_TIMEOUT_CONFIG"

    def __init__(self, field: str, value: object, why: str) -> None:
        super().__init__(f"{field} {why}", field=field, value=value, reason=why)


class InvalidFieldError(DomainError):
    """A field that no class above is about has a bad value."""

    reason = "INVALID_FIELD"

    def __init__(self, field: str, value: object, why: str) -> None:
        super().__init__(f"{field} {why}", field=field, value=value, reason=why)


class AgentReplyTimeoutError(DomainError):
    """The agent has not replied within the reply deadline; the user's message is kept."""

    reason = "AGENT_REPLY_TIMEOUT"

    def __init__(self, session_id: str, message_id: str) -> None:
        message = "The agent has not replied in time; the message is kept"
        super().__init__(message, sessionId=session_id, messageId=message_id)


class AgentReplyError(DomainError):
    """The agent could not reply; the user's message is kept."""

    reason = "AGENT_REPLY_FAILED"

    def __init__(self, session_id: str, message_id: str, why: str) -> None:
        message = f"The agent could not reply: {why}; the message is kept"
        super().__init__(message, sessionId=session_id, messageId=message_id, reason=why)


class RequestIdReusedError(DomainError):
    """The request id was used before, with other content."""

    reason = "REQUEST_ID_REUSED"

    def __init__(self, request_id: str) -> None:
        super().__init__("This request id was used before, with other content", requestId=request_id)


class EtagMismatchError(DomainError):
    """The session is not in the state that the caller has seen."""

    reason = "ETAG_MISMATCH"

    def __init__(self, session_id: str, etag: str) -> None:
        super().__init__("The session has changed since", sessionId=session_id, etag=etag)


class DeliveryNotFoundError(DomainError):
    """There is no such delivery: it never was, or its session is gone."""

    reason = "DELIVERY_NOT_FOUND"

    def __init__(self, delivery_id: str) -> None:
        super().__init__("Delivery not found", deliveryId=delivery_id)


class DeliveryAnsweredError(DomainError):
    """The message has its reply already."""

    reason = "DELIVERY_ALREADY_ANSWERED"

    def __init__(self, delivery_id: str) -> None:
        super().__init__("The message has its reply already", deliveryId=delivery_id)


class DeliveryNotLeasedError(DomainError):
    """The worker does not have this delivery, or has it no longer."""

    reason = "DELIVERY_NOT_LEASED"

    def __init__(self, delivery_id: str) -> None:
        super().__init__("The delivery is not in the hands of this worker", deliveryId=delivery_id)


class InvalidRequestError(DomainError):
    """The bytes of the request are not a message of its method."""

    reason = "INVALID_REQUEST"

    def __init__(self, why: str) -> None:
        super().__init__(f"The request cannot be read: {why}", reason=why)


class DeadlineExceededError(DomainError):
    """The deadline passed before the call began. The service did nothing."""

    reason = "DEADLINE_EXCEEDED"

    def __init__(self) -> None:
        super().__init__("The deadline had passed before the call began")


class UnavailableError(DomainError):
    """The service is stopping, or cannot use its store. It did nothing; the client may try again."""

    reason = "UNAVAILABLE"

    def __init__(self, message: str) -> None:
        super().__init__(message, retryAfterSeconds=1)


class OutcomeUnknownError(UnavailableError):
    """The store went away while it was writing, and has not come back: nobody knows yet whether it did.

    The same request id finds out, once the store is there again.
    """

    def __init__(self) -> None:
        super().__init__("The store went away while it was writing; repeat the request with the same id")


class ResourceExhaustedError(DomainError):
    """The disk is full, or another resource is used up. The service did nothing; try again later."""

    reason = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str) -> None:
        super().__init__(message, retryAfterSeconds=10)


class OverloadedError(DomainError):
    """A queue is full. The service did nothing; try again soon."""

    reason = "OVERLOADED"

    def __init__(self, queue: str) -> None:
        super().__init__(f"The service has more to do than it can: {queue}", retryAfterSeconds=1)


class UnauthenticatedError(DomainError):
    """There is no credential, or a bad one. The message never repeats it."""

    reason = "UNAUTHENTICATED"


class CredentialExpiredError(DomainError):
    """The credential was good once: it has expired, or was removed."""

    reason = "CREDENTIAL_EXPIRED"


class PermissionDeniedError(DomainError):
    """The caller is known and may not do this."""

    reason = "PERMISSION_DENIED"


class RateLimitedError(DomainError):
    """The caller makes more calls of a kind, the `policy`, than `limit` in `window_s`. Nothing was done.

    `retry_after_s` is how many seconds it takes until one more is allowed.
    """

    reason = "RATE_LIMITED"

    def __init__(self, policy: str, limit: int, window_s: int, retry_after_s: float) -> None:
        super().__init__(
            f"Too many requests of the kind {policy}: at most {limit} in {window_s} s",
            policy=policy,
            limit=limit,
            windowSeconds=window_s,
            retryAfterSeconds=max(1, math.ceil(retry_after_s)),
        )


class QuotaExceededError(DomainError):
    """The caller, its user or its tenant has as many of something as it may have."""

    reason = "QUOTA_EXCEEDED"

    def __init__(self, quota: str, limit: int) -> None:
        super().__init__(
            f"The quota is used up: {quota}, at most {limit}", quota=quota, limit=limit, retryAfterSeconds=60
        )


STORE_TROUBLE: Final = (UnavailableError, ResourceExhaustedError, OverloadedError)
"""What a store raises when it cannot write now. The call itself is not at fault."""


def _plain(value: object) -> str:
    return f"{value:.15g}" if isinstance(value, float) else str(value)
