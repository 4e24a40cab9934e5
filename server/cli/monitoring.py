"""What is told of one process: its metrics, on an address of their own where METRICS_ADDRESS names one, and
its traces, where TRACES switches them on.
"""

import socket
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rest_facade.front_door.observer import NOBODY, Observer, RequestSpan
from rest_facade.main import Facade
from server.addresses import is_reachable
from server.cli.common import listen, log, with_port
from server.settings import Settings
from server.telemetry.telemetry import OFF, Reading, Telemetry
from server.telemetry.traces import NO_TRACES, Traces

if TYPE_CHECKING:
    from server.telemetry.endpoint import MetricsEndpoint
    from server.telemetry.otel_export import TraceExport


class RequestObserver(Observer):
    """Passes what the facade tells on to the telemetry."""

    def __init__(self, telemetry: Telemetry, traces: Traces) -> None:
        self.begin = telemetry.begin  # type: ignore[method-assign] # as below, without a call between
        self.end_request = telemetry.end_request  # type: ignore[method-assign]
        self.is_tracing = traces.is_on
        self._traces = traces

    def start_span(
        self, method: str, scheme: str, path: str, headers: Sequence[tuple[bytes, bytes]], request_id: str
    ) -> RequestSpan:
        return self._traces.start_request(method, scheme, path, headers, request_id)


class Monitoring:
    """What is told of the process, to whom, and where it can be read. Made by `open`."""

    telemetry: Telemetry = OFF
    traces: Traces = NO_TRACES
    observer: Observer = NOBODY
    port = 0
    """Where metrics are served; 0: nowhere."""

    ready = ""
    """What the line `ready` says of it."""

    _endpoint: "MetricsEndpoint | None" = None
    _listener: socket.socket | None = None
    _export: "TraceExport | None" = None

    @classmethod
    async def open(cls, settings: Settings) -> "Monitoring":
        """Takes the address, so that a start that cannot have it fails first. Logs why nothing is traced that
        should be.
        """
        monitoring = cls()
        if settings.metrics_address:
            await monitoring._open_metrics(settings.metrics_address)
        if settings.traces:
            monitoring._open_traces()
        if monitoring.telemetry.is_on or monitoring.traces.is_on:
            monitoring.observer = RequestObserver(monitoring.telemetry, monitoring.traces)
        return monitoring

    def _open_traces(self) -> None:
        """Makes the traces. Where that fails, the service runs without."""
        try:
            from server.telemetry.otel_export import ExporterError, TraceExport
        except ImportError as error:
            log.warning("nothing is traced: TRACES needs the extra: pip install '.[otel]'", cause=str(error))
            return
        try:
            self._export = TraceExport()
        except ExporterError as error:
            log.warning("nothing is traced: spans can go nowhere", cause=str(error))
            return
        self.traces = self._export.traces

    async def _open_metrics(self, address: str) -> None:
        # Imported only here: nobody else has to wait for them.
        from server.telemetry.endpoint import MetricsEndpoint
        from server.telemetry.metrics import Metrics

        self._listener = await listen("METRICS_ADDRESS", address)
        self.port = self._listener.getsockname()[1]
        self.ready = f" metrics={with_port(address, self.port)}"
        metrics = Metrics()
        self.telemetry = metrics
        self._endpoint = MetricsEndpoint(metrics, self._listener)
        if is_reachable(address):
            log.warning("others can reach the metrics, which need no credential", address=address)

    def watch_facade(self, facade: Facade) -> None:
        """Has the facade's gauges read at each scrape."""

        async def read() -> Iterable[Reading]:
            usage = facade.usage()
            return [
                Reading("eliza_open_requests", usage.requests),
                Reading("eliza_open_connections", usage.connections),
                Reading("eliza_open_sockets", usage.sockets),
            ]

        self.telemetry.add_probe(read)

    async def start(self) -> None:
        """Serves the metrics, if they are wanted."""
        if self._endpoint:
            await self._endpoint.start()

    async def stop(self, by_s: float) -> None:
        """Closes their port, and sends the last spans until the event loop's time `by_s` at most."""
        if self._endpoint:
            await self._endpoint.stop()
        if self._listener:
            self._listener.close()
        if self._export:
            await self._export.stop(by_s)
