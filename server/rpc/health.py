"""The standard health protocol: what it says of each service."""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

ALIVE: Final = "alive"
"""The name that Check always calls SERVING, for a liveness probe: a restart mends no full disk."""


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """grpc.health.v1. The library's own leaves out List, and its watches do not end when the service does."""

    def __init__(self, services: Iterable[str] = ()) -> None:
        """`services` have no status until `set_serving`; "" is SERVING at first."""
        self._services = ("", *services)
        self._statuses = {"": health_pb2.HealthCheckResponse.SERVING}
        self._is_stopping = False
        self._changed = asyncio.Event()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        """The status of one service. NOT_FOUND for one that has none."""
        if request.service == ALIVE:
            return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
        if request.service not in self._statuses:
            try:
                await context.abort(grpc.StatusCode.NOT_FOUND)
            finally:
                # The call keeps the error that this raises, and so this frame, which must not have the call.
                del context
        return health_pb2.HealthCheckResponse(status=self._statuses[request.service])

    async def List(
        self, request: health_pb2.HealthListRequest, context: Any
    ) -> health_pb2.HealthListResponse:
        """Returns the status of every service."""
        statuses = {
            name: health_pb2.HealthCheckResponse(status=status) for name, status in self._statuses.items()
        }
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """Sends the status of a service and each change of it. Ends with NOT_SERVING, because a shutdown
        waits for it.
        """
        last = None
        while True:
            changed, stopping = self._changed, self._is_stopping
            status = self._statuses.get(request.service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            if status != last:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                last = status
            if stopping:
                return
            await changed.wait()

    def set_serving(self, is_serving: bool) -> None:
        """Sets the status of all services, and has the watches look."""
        if not self._is_stopping:
            status = health_pb2.HealthCheckResponse
            new = status.SERVING if is_serving else status.NOT_SERVING
            self._statuses.update(dict.fromkeys(self._services, new))
            self._notify()

    async def enter_graceful_shutdown(self) -> None:
        """Reports NOT_SERVING for every service, for good."""
        self.set_serving(False)
        self._is_stopping = True
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
