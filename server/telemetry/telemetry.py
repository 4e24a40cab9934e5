"""What the parts of the service tell of their work. Here nobody listens: `metrics` does."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Final, NamedTuple, TypeAlias


class Reading(NamedTuple):
    """The present value of a gauge, with the values of its labels."""

    name: str
    value: float
    labels: tuple[str, ...] = ()


Probe: TypeAlias = Callable[[], Awaitable[Iterable[Reading]]]
"""Reads gauges. It may raise: its gauges are then left out of this scrape."""


class Telemetry:
    """Takes no note of anything, and reads no clock."""

    is_on = False
    """Whether anybody listens: then more than the calls below may be measured."""

    def begin(self) -> float:
        """When something begins, in seconds of a clock of its own; for the `begun_s` below."""
        return 0.0

    def end_call(self, method: str, status: str, begun_s: float) -> None:
        """Notes the end of a call: of which method, and with which gRPC status."""

    def count_refusal(self, reason: str) -> None:
        """Notes that a call fails, and for which reason of the table of errors."""

    def end_request(self, method: str, route: str, status: int, begun_s: float) -> None:
        """Notes the end of an HTTP request, on which route: empty where it came to none."""

    def end_group(self, size: int, taken_s: float) -> None:
        """Notes that `size` writes were committed as one group, `taken_s` after its first statement.

        SQLite's writer calls it on its own thread; all else is called on the event loop.
        """

    def end_attempt(self, agent_kind: str, agent_id: str, outcome: str) -> None:
        """Notes what came of an attempt at a reply."""

    def close_deliveries(self, state: str, count: int = 1) -> None:
        """Notes that deliveries are open no longer, and how they ended."""

    def note_message(self) -> None:
        """Notes that a message of a user is stored."""

    def note_first_chunk(self, agent_id: str, since_s: float) -> None:
        """Notes how long after its message the first piece of a reply came."""

    def note_reply(self, agent_id: str, since_s: float) -> None:
        """Notes how long after its message a reply was stored."""

    def note_loop_lag(self, lag_s: float) -> None:
        """Notes how late the event loop came to a timer."""

    def add_probe(self, probe: Probe) -> None:
        """Has gauges read at each scrape."""


OFF: Final = Telemetry()
