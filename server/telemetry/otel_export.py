"""Where spans go, as the OTEL_* variables of OpenTelemetry's SDK say; never at the cost of the service."""

import asyncio
import os
import threading
from contextlib import suppress
from importlib.metadata import entry_points
from typing import Final

import structlog
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from server.telemetry.otel import OtelTraces
from server.version import VERSION

SERVICE_NAME: Final = "eliza-sessions"
"""The name of the service in traces, where OTEL_SERVICE_NAME gives no other."""

_GROUP: Final = "opentelemetry_traces_exporter"
"""Under which packages offer their exporters, by names of OTEL_TRACES_EXPORTER."""

_PROTOCOLS: Final = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}

log = structlog.get_logger()


class ExporterError(Exception):
    """Spans can go nowhere; the text says why."""


class TraceExport:
    """The traces of a process, and the exporters that get them from a bounded queue, on threads of their own.

    A full queue drops spans. An exporter that fails is logged by its library.
    """

    def __init__(self) -> None:
        """Raises ExporterError."""
        own = Resource.create({"service.name": SERVICE_NAME, "service.version": VERSION})
        self._provider = TracerProvider(
            # What the environment says wins.
            resource=own.merge(OTELResourceDetector().detect()),
            # It would wait for exporters without a bound.
            shutdown_on_exit=False,
        )
        for exporter in make_exporters():
            try:
                self._provider.add_span_processor(BatchSpanProcessor(exporter))
            except ValueError as error:
                raise ExporterError(f"OTEL_BSP_… are wrong: {error}") from error
        self.traces = OtelTraces(self._provider)

    async def stop(self, by_s: float) -> None:
        """Sends what is left, until the event loop's time `by_s` at most; what is not sent then is lost."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def tell() -> None:
            if not ended.done():
                ended.set_result(None)

        def shut_down() -> None:
            try:
                # First, because the shutdown waits for an export in steps of seconds.
                self._provider.force_flush()
                self._provider.shutdown()
            finally:
                # The loop may have ended meanwhile.
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(tell)

        # Not one of the loop's threads, which would be waited for at its end.
        threading.Thread(target=shut_down, name="traces-end", daemon=True).start()
        left_s = by_s - loop.time()
        await asyncio.wait([ended], timeout=max(0.0, left_s))
        if not ended.done() and left_s > 0:
            log.warning("the last spans were not sent in time")


def make_exporters() -> list[SpanExporter]:
    """Makes the exporters that OTEL_TRACES_EXPORTER names, `otlp` by default. Raises ExporterError."""
    names = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    wanted = [name for name in map(str.strip, names.split(",")) if name and name != "none"]
    return [_make_exporter(_PROTOCOLS[_read_protocol()] if name == "otlp" else name) for name in wanted]


def _read_protocol() -> str:
    variables = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    given = next(filter(None, map(os.environ.get, variables)), "grpc")
    if given not in _PROTOCOLS:
        raise ExporterError(f"{given} is none of the protocols {', '.join(_PROTOCOLS)}")
    return given


def _make_exporter(name: str) -> SpanExporter:
    found = list(entry_points(group=_GROUP, name=name))
    if not found:
        raise ExporterError(f"no package with the exporter {name} is installed")
    try:
        exporter: SpanExporter = found[0].load()()
    except Exception as error:
        raise ExporterError(f"the exporter {name} cannot be made: {error}") from error
    return exporter
