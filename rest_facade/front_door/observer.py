"""Whoever wants to know how requests fare: nobody, unless the facade is given another one."""

from typing import Final

CLIENT_GONE: Final = 499
"""The status of a request whose client left before its answer began."""


class Observer:
    """Takes note of nothing. Whoever measures requests has these methods."""

    def begin(self) -> float:
        """When a request begins, in seconds of a clock of its own; for `begun_s`."""
        return 0.0

    def end_request(self, method: str, route: str, status: int, begun_s: float) -> None:
        """Notes the end of a request, on which route: empty where it came to none.

        `begun_s` is 0 for a request whose head could not be read.
        """


ROUTE: Final = "rest_facade.route"
"""The key of an environ under which the app leaves the route that a request came to, if it is to tell."""

NOBODY: Final = Observer()
