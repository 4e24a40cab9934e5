"""What the parts of the service tell of a message on its way, as spans. Here nobody listens: `otel` does."""

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, TypeAlias

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
"""The names of W3C's headers, which gRPC's metadata have, too."""

MAX_TRACESTATE: Final = 512
"""How many characters of a tracestate are kept, in whole members: W3C asks for at least as many."""

Facts: TypeAlias = Mapping[str, str | int]
"""The attributes of a span, by name."""

Parent: TypeAlias = Any
"""A span that another one belongs to, as the tracing library knows it."""


class TraceContext(NamedTuple):
    """Where a span is, as W3C writes it: 55 characters, and those of tracestate. Both empty: nowhere."""

    traceparent: str = ""
    tracestate: str = ""

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """The same as headers, or as metadata of a call."""
        found = (TRACEPARENT, self.traceparent), (TRACESTATE, self.tracestate)
        return tuple(pair for pair in found if pair[1])

    @property
    def text(self) -> str:
        """The same as one text, which the store keeps."""
        return " ".join(filter(None, self))


def read_text(text: str) -> TraceContext:
    """Reads what `text` has made."""
    traceparent, _, tracestate = text.partition(" ")
    return TraceContext(traceparent, tracestate)


NOWHERE: Final = TraceContext()


class Span:
    """Something that takes time; here it is not traced. What is begun in its `with` block is a part of it."""

    __slots__ = ()

    @property
    def context(self) -> TraceContext:
        """Where it is."""
        return NOWHERE

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        pass

    def end(self, outcome: str, detail: str = "") -> None:
        """Ends it: `outcome` says how, in a word; `detail` in a sentence, where it failed."""


class RequestSpan:
    """An HTTP request of a client; here it is not traced. `metadata` goes with the calls that serve it."""

    metadata: tuple[tuple[str, str], ...] = ()

    def end(self, route: str, status: int) -> None:
        """Ends it. `route` is empty where the request came to none."""


class AgentRequestSpan:
    """An HTTP request to an agent; here it is not traced. `headers` go with it."""

    headers: tuple[tuple[str, str], ...] = ()

    def note_status(self, status: int) -> None:
        """Notes the status of the response, whose body is still to come."""

    def end(self, error_type: str = "") -> None:
        """Ends it; `error_type` names what has gone wrong on the way. A second end does nothing."""


NO_SPAN: Final = Span()
NO_REQUEST_SPAN: Final = RequestSpan()
NO_AGENT_REQUEST_SPAN: Final = AgentRequestSpan()


class Traces:
    """Traces nothing, and makes no objects."""

    is_on = False
    """Whether anything is traced: then more than the calls below may be done."""

    def start_request(
        self, method: str, scheme: str, path: str, headers: Iterable[tuple[bytes, bytes]], request_id: str
    ) -> RequestSpan:
        """Begins the span of an HTTP request. The names of headers are in lower case."""
        return NO_REQUEST_SPAN

    def start_call(self, method: str, metadata: Iterable[tuple[str, Any]], request_id: str) -> Span:
        """Begins the span of a call; its outcome is the name of a gRPC status."""
        return NO_SPAN

    def start_attempt(self, facts: Facts, stored: str) -> Span:
        """Begins the span of an attempt at a reply: part of the call that `stored` names, and linked to it.

        Its outcome is that of the metrics.
        """
        return NO_SPAN

    def start_agent_request(self, method: str, url: str, host: str, port: int) -> AgentRequestSpan:
        """Begins the span of an HTTP request to an agent, part of what is traced now."""
        return NO_AGENT_REQUEST_SPAN

    def current(self) -> Parent | None:
        """The span that is traced now, for `end_group`; None: nothing that is recorded."""
        return None

    def stored(self) -> str:
        """Where the span is that is traced now, as the store keeps it; empty: nowhere."""
        return ""

    def note(self, facts: Facts) -> None:
        """Adds facts to the span that is traced now."""

    def end_group(
        self, parents: Sequence[Parent], size: int, begun_ns: int, ended_ns: int, *, has_failed: bool
    ) -> None:
        """Tells of a group of writes: of which spans, how many there were, and from when until when, in ns
        since the epoch. The store's writers call it, SQLite's on a thread of its own.
        """


NO_TRACES: Final = Traces()
