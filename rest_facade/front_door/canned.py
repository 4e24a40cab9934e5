"""Responses that are made without a view: refusals, and the invitation to come back."""

from collections.abc import Mapping
from typing import Final

import orjson

from rest_facade.shapes import event_stream
from rest_facade.shapes.errors import RETRY_AFTER_SECONDS, ApiError, stopping


class CannedResponse:
    """A response that is ready to be sent.

    `lines` are its own lines of the head. `ends` closes the connection behind it.
    """

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str], *, ends: bool = False) -> None:
        self.status = status
        self.body = body
        self.ends = ends
        self.lines = "".join(
            f"{name}: {value}\r\n" for name, value in {"content-length": str(len(body)), **headers}.items()
        ).encode()


def refusal_of(error: ApiError) -> CannedResponse:
    """Returns the response for an error."""
    headers = {name.lower(): value for name, value in error.headers.items()}
    return CannedResponse(
        error.http_status, orjson.dumps(error.body), {"content-type": "application/json", **headers}
    )


def come_back() -> CannedResponse:
    """The response to a follower of events in place of a 503."""
    headers = {name.lower(): value for name, value in event_stream.HEADERS.items()}
    return CannedResponse(
        200, event_stream.come_back(), {"content-type": event_stream.CONTENT_TYPE, **headers}, ends=True
    )


OVERLOADED: Final = refusal_of(
    ApiError("OVERLOADED", "The service has more to do than it can", retryAfterSeconds=RETRY_AFTER_SECONDS)
)
STOPPING: Final = refusal_of(stopping())
