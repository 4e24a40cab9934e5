"""Spans by OpenTelemetry. Names and attributes are those of its stable conventions for HTTP and RPC; what is
ours begins with `eliza.`.
"""

import logging
from collections.abc import Iterable, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server.telemetry.traces import (
    MAX_TRACESTATE,
    NOWHERE,
    TRACEPARENT,
    TRACESTATE,
    AgentRequestSpan,
    Facts,
    RequestSpan,
    Span,
    TraceContext,
    Traces,
    read_text,
)
from server.version import VERSION

MAX_LINKS: Final = 32
"""How many spans a group of writes is linked to at most; it says how many writes it had."""

MAX_DETAIL: Final = 200
"""How many characters the description of a failure may have."""

MAX_TEXT: Final = 500
"""How many characters of a client's path or user agent are kept."""

HTTP_METHODS: Final = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
)
OTHER_METHOD: Final = "_OTHER"

SERVER_FAULTS: Final = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
)
"""The statuses that the conventions call errors of a server; others are its callers'."""

_W3C: Final = TraceContextTextMapPropagator()
_NOTHING: Final = Context()

# They would write what strangers send into the log, as warnings that nobody can do anything about.
for _reader in ("opentelemetry.trace.span", "opentelemetry.trace.propagation.tracecontext"):
    logging.getLogger(_reader).setLevel(logging.ERROR)


class OtelTraces(Traces):
    """Makes spans by a provider, whose samplers and processors say what becomes of them."""

    is_on = True

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("eliza-sessions", VERSION)

    def start_request(
        self, method: str, scheme: str, path: str, headers: Iterable[tuple[bytes, bytes]], request_id: str
    ) -> RequestSpan:
        found = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        facts: dict[str, str | int] = {
            "http.request.method": method if method in HTTP_METHODS else OTHER_METHOD,
            "url.scheme": scheme,
            "url.path": path[:MAX_TEXT],
            "eliza.request_id": request_id,
        }
        if agents := [value for name, value in found if name == "user-agent"]:
            facts["user_agent.original"] = agents[0][:MAX_TEXT]
        name = method if method in HTTP_METHODS else "HTTP"
        return _RequestSpan(
            name, self._tracer.start_span(name, _parent_in(found), SpanKind.SERVER, attributes=facts)
        )

    def start_call(self, method: str, metadata: Iterable[tuple[str, Any]], request_id: str) -> Span:
        name = method.removeprefix("/")
        facts = {"rpc.system.name": "grpc", "rpc.method": name, "eliza.request_id": request_id}
        return _CallSpan(
            self._tracer.start_span(name, _parent_in(metadata), SpanKind.SERVER, attributes=facts)
        )

    def start_attempt(self, facts: Facts, stored: str) -> Span:
        parent = _parent_in(read_text(stored).headers)
        call = trace.get_current_span(parent).get_span_context()
        return _AttemptSpan(
            self._tracer.start_span(
                "eliza.attempt",
                parent,
                SpanKind.CONSUMER,
                attributes=dict(facts),
                # A part of the call, and begun when that may be long over.
                links=[Link(call)] if call.is_valid else None,
            )
        )

    def start_agent_request(self, method: str, url: str, host: str, port: int) -> AgentRequestSpan:
        facts: dict[str, str | int] = {
            "http.request.method": method,
            "url.full": url,
            "server.address": host,
            "server.port": port,
        }
        return _AgentRequestSpan(self._tracer.start_span(method, kind=SpanKind.CLIENT, attributes=facts))

    def current(self) -> SpanContext | None:
        found = trace.get_current_span().get_span_context()
        return found if found.is_valid and found.trace_flags.sampled else None

    def stored(self) -> str:
        return _context_of(trace.get_current_span()).text

    def note(self, facts: Facts) -> None:
        trace.get_current_span().set_attributes(dict(facts))

    def end_group(
        self, parents: Sequence[SpanContext], size: int, begun_ns: int, ended_ns: int, *, has_failed: bool
    ) -> None:
        if not parents:
            return
        # Of the first one, so that the sampler's decision for that holds here, too.
        parent = trace.set_span_in_context(trace.NonRecordingSpan(parents[0]), _NOTHING)
        span = self._tracer.start_span(
            "eliza.write_group",
            parent,
            SpanKind.INTERNAL,
            attributes={"eliza.write_group.size": size},
            links=[Link(one) for one in islice({one.span_id: one for one in parents}.values(), MAX_LINKS)],
            start_time=begun_ns,
        )
        if has_failed:
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended_ns)


class _OtelSpan(Span):
    """The common part of calls and attempts."""

    __slots__ = ("_span", "_token", "_within")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._within = trace.set_span_in_context(span, _NOTHING)
        self._token: Any = None

    @property
    def context(self) -> TraceContext:
        return _context_of(self._span)

    def __enter__(self) -> None:
        self._token = attach(self._within)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        detach(self._token)
        self._token = None


class _CallSpan(_OtelSpan):
    __slots__ = ()

    def end(self, outcome: str, detail: str = "") -> None:
        self._span.set_attribute("rpc.response.status_code", outcome)
        if outcome in SERVER_FAULTS:
            self._span.set_attribute("error.type", outcome)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class _AttemptSpan(_OtelSpan):
    __slots__ = ()

    def end(self, outcome: str, detail: str = "") -> None:
        self._span.set_attribute("eliza.outcome", outcome)
        if outcome == "failed":
            self._span.set_status(Status(StatusCode.ERROR, detail[:MAX_DETAIL]))
        self._span.end()


class _RequestSpan(RequestSpan):
    def __init__(self, name: str, span: trace.Span) -> None:
        self._name = name
        self._span = span
        self.metadata = _context_of(span).headers

    def end(self, route: str, status: int) -> None:
        span = self._span
        if route:
            span.update_name(f"{self._name} {route}")
            span.set_attribute("http.route", route)
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_attribute("error.type", str(status))
            span.set_status(Status(StatusCode.ERROR))
        span.end()


class _AgentRequestSpan(AgentRequestSpan):
    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._is_ended = False
        self.headers = _context_of(span).headers

    def note_status(self, status: int) -> None:
        self._span.set_attribute("http.response.status_code", status)
        if status >= 400:
            self._note_error(str(status))

    def end(self, error_type: str = "") -> None:
        if self._is_ended:
            return
        self._is_ended = True
        if error_type:
            self._note_error(error_type)
        self._span.end()

    def _note_error(self, error_type: str) -> None:
        self._span.set_attribute("error.type", error_type)
        self._span.set_status(Status(StatusCode.ERROR))


def _parent_in(pairs: Iterable[tuple[str, Any]]) -> Context:
    """The span that headers name. A malformed traceparent, or several, name none, which is no error."""
    parents: list[str] = []
    states: list[str] = []
    for name, value in pairs:
        if name == TRACEPARENT:
            parents.append(value)
        elif name == TRACESTATE:
            states.append(value)
    if len(parents) != 1:
        return _NOTHING
    return _W3C.extract({TRACEPARENT: parents[0], TRACESTATE: _bound(",".join(states))}, _NOTHING)


def _context_of(span: trace.Span) -> TraceContext:
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(span, _NOTHING))
    if TRACEPARENT not in carrier:
        return NOWHERE
    return TraceContext(carrier[TRACEPARENT], _bound(carrier.get(TRACESTATE, "")))


def _bound(tracestate: str) -> str:
    """As many of its members, from the first one on, as fit."""
    if len(tracestate) <= MAX_TRACESTATE:
        return tracestate
    return tracestate[: MAX_TRACESTATE + 1].rpartition(",")[0]
