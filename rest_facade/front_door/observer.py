"""Whoever wants to know how requests fare: nobody, unless the facade is given another one."""

from collections.abc import Sequence
from typing import Final, Protocol

from rest_facade.shapes.credentials import Metadata

CLIENT_GONE: Final = 499
"""The status of a request whose client left before its answer began."""


class RequestSpan(Protocol):
    """A request that is traced."""

    @property
    def metadata(self) -> Metadata:
        """What goes with its calls, so that they become a part of its trace."""

    def end(self, route: str, status: int) -> None:
        """Notes its end, on which route: empty where it came to none."""


class Observer:
    """Takes note of nothing. Whoever measures requests, or traces them, has these methods."""

    is_tracing = False
    """Whether `start_span` is to be called."""

    def begin(self) -> float:
        """When a request begins, in seconds of a clock of its own; for `begun_s`."""
        return 0.0

    def end_request(self, method: str, route: str, status: int, begun_s: float) -> None:
        """Notes the end of a request, on which route: empty where it came to none.

        `begun_s` is 0 for a request whose head could not be read.
        """

    def start_span(
        self, method: str, scheme: str, path: str, headers: Sequence[tuple[bytes, bytes]], request_id: str
    ) -> RequestSpan | None:
        """Begins the span of a request; None: it is not traced."""


ROUTE: Final = "rest_facade.route"
"""The key of an environ under which the app leaves the route that a request came to, if it is to tell."""

NOBODY: Final = Observer()
