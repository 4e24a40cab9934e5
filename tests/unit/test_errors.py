"""The table of errors in itself, and the errors of the rules against it."""

import re

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eliza.sessions.errors import TABLE, VALUE_LIMIT, truncate
from server.domain import errors
from server.domain.errors import DomainError

GRPC = {
    400: {grpc.StatusCode.INVALID_ARGUMENT},
    401: {grpc.StatusCode.UNAUTHENTICATED},
    403: {grpc.StatusCode.PERMISSION_DENIED},
    404: {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED},
    405: {grpc.StatusCode.UNIMPLEMENTED},
    409: {grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED},
    410: {grpc.StatusCode.FAILED_PRECONDITION},
    412: {grpc.StatusCode.ABORTED},
    413: {grpc.StatusCode.RESOURCE_EXHAUSTED},
    415: {grpc.StatusCode.INVALID_ARGUMENT},
    421: {grpc.StatusCode.FAILED_PRECONDITION},
    422: {grpc.StatusCode.FAILED_PRECONDITION},
    429: {grpc.StatusCode.RESOURCE_EXHAUSTED},
    500: {grpc.StatusCode.INTERNAL},
    502: {grpc.StatusCode.ABORTED},
    503: {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED},
    504: {grpc.StatusCode.DEADLINE_EXCEEDED},
}

ARGUMENTS: dict[type[DomainError], tuple] = {
    errors.SessionNotFoundError: ("s",),
    errors.SessionExpiredError: ("s", 0),
    errors.SessionRenewalError: ("s", 720.0, 0),
    errors.AgentNotFoundError: ("a",),
    errors.AgentAlreadyExistsError: ("a",),
    errors.MissingFieldsError: (["agent_id", "user_id"],),
    errors.InvalidUuidError: ("agent_id", "x"),
    errors.InvalidContentError: ("is empty",),
    errors.InvalidMetadataError: ("is too large", 10_240),
    errors.InvalidPaginationError: ("limit", -1, "must not be negative"),
    errors.InvalidTimeoutConfigError: ("timeout_minutes", 0.1, "is out of range"),
    errors.InvalidFieldError: ("name", "x", "is bad"),
    errors.AgentReplyTimeoutError: ("s", "m"),
    errors.AgentReplyError: ("s", "m", "it is broken"),
    errors.RequestIdReusedError: ("r",),
    errors.EtagMismatchError: ("s", '"1-0"'),
    errors.OverloadedError: ("too many writes",),
    errors.DeliveryNotFoundError: ("d",),
    errors.DeliveryAnsweredError: ("d",),
    errors.DeliveryNotLeasedError: ("d",),
    errors.InvalidRequestError: ("no message",),
    errors.DeadlineExceededError: (),
    errors.UnavailableError: ("busy",),
    errors.ResourceExhaustedError: ("full",),
    errors.UnauthenticatedError: ("no",),
    errors.CredentialExpiredError: ("late",),
    errors.PermissionDeniedError: ("no",),
    errors.RateLimitedError: ("create", 10, 60, 5.5),
    errors.QuotaExceededError: ("sessions", 5),
}


def subclasses(of: type[DomainError]) -> set[type[DomainError]]:
    return {below for child in of.__subclasses__() for below in {child, *subclasses(child)}}


@pytest.mark.parametrize("row", TABLE.values(), ids=str)
def test_grpc_and_http_agree(row: object) -> None:
    assert row.grpc_status in GRPC[row.http_status]
    assert row.error_class.endswith("Error")
    assert re.fullmatch(r"[A-Z][A-Z_]+", row.reason)


def test_404_is_not_found_and_410_and_422_are_failed_preconditions() -> None:
    assert (
        TABLE["SESSION_NOT_FOUND"].grpc_status
        is TABLE["AGENT_NOT_FOUND"].grpc_status
        is grpc.StatusCode.NOT_FOUND
    )
    assert (
        TABLE["SESSION_EXPIRED"].grpc_status
        is TABLE["SESSION_RENEWAL_FAILED"].grpc_status
        is grpc.StatusCode.FAILED_PRECONDITION
    )


def test_classes_are_told_apart() -> None:
    assert len({row.error_class for row in TABLE.values()}) == len(TABLE)


def test_every_error_of_the_rules_is_tried_here() -> None:
    # A class without a reason of its own is told to clients as the one above it.
    assert {one for one in subclasses(DomainError) if "reason" in vars(one)} == set(ARGUMENTS)


@pytest.mark.parametrize(
    ("error_class", "arguments"), ARGUMENTS.items(), ids=[one.__name__ for one in ARGUMENTS]
)
def test_every_error_has_its_row_and_carries_exactly_its_details(
    error_class: type[DomainError], arguments: tuple
) -> None:
    row, error = TABLE[error_class.reason], error_class(*arguments)
    assert row.error_class == error_class.__name__
    assert list(error.details) == list(row.details)
    assert all(isinstance(value, str) for value in error.details.values())
    assert str(error)


def test_reasons_are_not_shared() -> None:
    assert len({one.reason for one in ARGUMENTS}) == len(ARGUMENTS)


def test_details_become_text() -> None:
    assert errors.MissingFieldsError(["agent_id", "user_id"]).details == {"missingFields": "agent_id,user_id"}
    assert (
        errors.SessionExpiredError("s", 1_769_850_300_000).details["expiresAt"] == "2026-01-31T09:05:00.000Z"
    )
    assert errors.SessionRenewalError("s", 720.0, 0).details["maxDurationMinutes"] == "720"
    assert errors.SessionRenewalError("s", 7.5, 0).details["maxDurationMinutes"] == "7.5"
    assert errors.InvalidMetadataError("x", 10_240).details["maxBytes"] == "10240"


def test_messages_have_the_words_that_published_clients_look_for() -> None:
    assert "content" in str(errors.InvalidContentError("is too long"))
    assert "metadata" in str(errors.InvalidMetadataError("is too large", 1))


@given(st.text())
def test_a_truncated_value_is_short_text_that_can_be_sent(value: str) -> None:
    text = truncate(value)
    text.encode()
    assert len(text) <= VALUE_LIMIT
    assert "\0" not in text
    if len(value) <= VALUE_LIMIT and value.isprintable():
        assert text == value
