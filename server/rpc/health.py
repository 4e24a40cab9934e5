"""The standard health protocol, and the monitor of the store behind it."""

import asyncio
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Final

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.domain.errors import DomainError
from server.store.contract import Store

CHECK_SECONDS: Final = 2.0
RECHECK_SECONDS: Final = 1.0
ALIVE: Final = "alive"
"""The name that Check always calls SERVING, for a liveness probe: a restart mends no full disk."""

log = structlog.get_logger()


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """grpc.health.v1. The library's own leaves out List, and its watches do not end when the service does."""

    def __init__(self) -> None:
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

    def set_all(self, services: Iterable[str], status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        """Sets the status of services, and has the watches look."""
        if not self._is_stopping:
            self._statuses.update(dict.fromkeys(services, status))
            self._notify()

    async def enter_graceful_shutdown(self) -> None:
        """Reports NOT_SERVING for every service, for good."""
        self.set_all(list(self._statuses), health_pb2.HealthCheckResponse.NOT_SERVING)
        self._is_stopping = True
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class HealthMonitor:
    """Tries every few seconds whether the store can write, and sets the status of the services by it.

    `trouble` says for people why it cannot; empty where it can.
    """

    def __init__(self, store: Store, services: Sequence[str]) -> None:
        self.servicer = HealthServicer()
        self._store = store
        self._services = ("", *services)
        self._doubt = asyncio.Event()
        self._serving: bool | None = None
        self.trouble = ""

    @property
    def is_serving(self) -> bool:
        """Whether the store could write when it was last tried."""
        return bool(self._serving)

    def doubt(self) -> None:
        """Reports trouble of a call at once, and tries the store to see whether it lasts.

        Against a lock the next try takes as long as the failed call.
        """
        self._set(False, self.trouble or "a call could not use it")
        self._doubt.set()

    async def check(self) -> bool:
        """Tries the store, sets the status by it, and returns whether it could write."""
        try:
            await self._store.check_writable()
        except DomainError as error:
            self._set(False, str(error))
            return False
        except Exception:
            error_id = uuid.uuid4().hex
            log.exception("the store cannot be tried", error_id=error_id)
            self._set(False, f"internal error {error_id}, see the log")
            return False
        self._set(True)
        return True

    async def run(self) -> None:
        """Checks until cancelled."""
        while True:
            well = await self.check()
            try:
                async with asyncio.timeout(CHECK_SECONDS if well else RECHECK_SECONDS):
                    await self._doubt.wait()
            except TimeoutError:
                continue
            self._doubt.clear()
            if not well:
                await asyncio.sleep(RECHECK_SECONDS)

    def _set(self, serving: bool, trouble: str = "") -> None:
        self.trouble = trouble
        if serving is self._serving:
            return
        if self._serving is not None:
            log.warning("health changed", serving=serving)
        self._serving = serving
        status = (
            health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        self.servicer.set_all(self._services, status)
