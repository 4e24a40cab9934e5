"""Traces over calls, where the program has OpenTelemetry's API (opentelemetry-api) installed: without it
nothing here does anything.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from eliza_sessions_client.credentials import Metadata

_propagator: Any = None
try:
    from opentelemetry.context import attach, detach, get_current
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    _propagator = TraceContextTextMapPropagator()
except ImportError:
    # The package is the program's to choose.
    pass

IS_ON: Final = _propagator is not None


def present_trace() -> Metadata:
    """The span that is current, as metadata of a call: `traceparent`, and `tracestate` if it has one."""
    if not IS_ON:
        return ()
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return tuple(carrier.items())


@contextmanager
def continued(headers: Mapping[str, str]) -> Iterator[None]:
    """Makes the span that headers name the current one; malformed headers change nothing."""
    if not IS_ON or not headers:
        yield
        return
    token = attach(_propagator.extract(headers, get_current()))
    try:
        yield
    finally:
        detach(token)
