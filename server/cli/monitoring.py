"""The metrics of one process: on an address of their own where METRICS_ADDRESS names one, else none."""

import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rest_facade.front_door.observer import NOBODY, Observer
from rest_facade.main import Facade
from server.addresses import is_reachable
from server.cli.common import listen, log, with_port
from server.settings import Settings
from server.telemetry.telemetry import OFF, Reading, Telemetry

if TYPE_CHECKING:
    from server.telemetry.endpoint import MetricsEndpoint


class _Requests(Observer):
    """Passes what the facade tells on to the telemetry."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.begin = telemetry.begin  # type: ignore[method-assign] # as below, without a call between
        self.end_request = telemetry.end_request  # type: ignore[method-assign]


class Monitoring:
    """What is told of the process, to whom, and where it can be read. Made by `open`."""

    telemetry: Telemetry = OFF
    observer: Observer = NOBODY
    port = 0
    """Where metrics are served; 0: nowhere."""

    ready = ""
    """What the line `ready` says of it."""

    _endpoint: "MetricsEndpoint | None" = None
    _listener: socket.socket | None = None

    @classmethod
    async def open(cls, settings: Settings) -> "Monitoring":
        """Takes the address, so that a start that cannot have it fails first."""
        monitoring = cls()
        if settings.metrics_address:
            await monitoring._open(settings.metrics_address)
        return monitoring

    async def _open(self, address: str) -> None:
        # Imported only here: nobody else has to wait for them.
        from server.telemetry.endpoint import MetricsEndpoint
        from server.telemetry.metrics import Metrics

        self._listener = await listen("METRICS_ADDRESS", address)
        self.port = self._listener.getsockname()[1]
        self.ready = f" metrics={with_port(address, self.port)}"
        metrics = Metrics()
        self.telemetry, self.observer = metrics, _Requests(metrics)
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

    async def stop(self) -> None:
        """Closes their port."""
        if self._endpoint:
            await self._endpoint.stop()
        if self._listener:
            self._listener.close()
