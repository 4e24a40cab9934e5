"""What parts read of the query in their address. What is wrong with it is an INVALID_FIELD that names it."""

import flask
from google.protobuf.timestamp_pb2 import Timestamp

from eliza.sessions import times, values
from eliza.sessions.errors import truncate
from rest_facade.shapes.errors import ApiError
from rest_facade.shapes.numbers import whole_number


def read_text(name: str) -> str:
    """A parameter without the white space around it; empty where it is absent."""
    return flask.request.args.get(name, "").strip()


def read_instant(name: str) -> Timestamp | None:
    """An instant in ISO 8601, in UTC where it names no zone; None where it is absent. Raises ApiError."""
    text = read_text(name)
    if not text:
        return None
    try:
        at_ms = times.ms_from_iso(text)
    except ValueError:
        raise invalid_field(name, text, "must be a time such as 2026-01-31T09:05") from None
    return values.timestamp(at_ms)


def read_number(name: str) -> int | None:
    """A whole number of 0 or more; None where it is absent. Raises ApiError."""
    text = read_text(name)
    if not text:
        return None
    number = whole_number(text)
    if number is None:
        raise invalid_field(name, text, "must be a whole number")
    return number


def invalid_field(name: str, value: str, reason: str) -> ApiError:
    """The error for a parameter or a field that is not as it must be."""
    return ApiError(
        "INVALID_FIELD", f"Invalid {name}: {reason}", field=name, value=truncate(value), reason=reason
    )
