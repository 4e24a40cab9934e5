"""Event streams over HTTP: their headers, which requests ask for one, and the invitation to come back."""

import random
from typing import Final

from werkzeug.http import parse_accept_header

KIND: Final = "text/event-stream"
CONTENT_TYPE: Final = f"{KIND}; charset=utf-8"
HEADERS: Final = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

COME_BACK_MS: Final = (3000, 10_000)
"""When a browser that was refused comes back: between these, so that not all come at once."""


def is_followed(method: str, path: str, accept: str) -> bool:
    """Whether a request is for a session's events and accepts event streams by name, as EventSource does.

    A header that only allows them, by `*`, does not.
    """
    return (
        method == "GET"
        and path.rstrip("/").endswith("/events")
        and any(
            kind.partition(";")[0].strip().lower() == KIND and quality > 0
            for kind, quality in parse_accept_header(accept)
        )
    )


def come_back() -> bytes:
    """Returns a whole stream that replaces a refusal: the pause after which a browser comes back."""
    return f"retry: {random.randint(*COME_BACK_MS)}\n\n".encode()
