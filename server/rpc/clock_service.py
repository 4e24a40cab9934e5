"""ClockService: the test clock."""

from typing import Any

from eliza.sessions import values
from eliza.sessions.times import LATEST_MS
from eliza.sessions.v1 import clock_service_pb2 as pb
from eliza.sessions.v1.clock_service_pb2_grpc import ClockServiceServicer
from server.clock import TestClock
from server.domain.errors import InvalidFieldError, MissingFieldsError
from server.lifecycle.expiry import ExpiryScheduler
from server.lifecycle.purge import Purge
from server.store.contract import Store


class ClockService(ClockServiceServicer):
    """See clock_service.proto."""

    def __init__(self, store: Store, clock: TestClock, expiry: ExpiryScheduler, purge: Purge) -> None:
        self._store = store
        self._clock = clock
        self._expiry = expiry
        self._purge = purge

    async def GetClock(self, request: pb.GetClockRequest, context: Any) -> pb.GetClockResponse:
        return pb.GetClockResponse(now=values.timestamp(self._clock.now_ms()))

    async def SetClock(self, request: pb.SetClockRequest, context: Any) -> pb.SetClockResponse:
        if not request.HasField("now"):
            raise MissingFieldsError(["now"])
        await self._set("now", values.ms_floor(request.now))
        return pb.SetClockResponse(now=values.timestamp(self._clock.now_ms()))

    async def AdvanceClock(self, request: pb.AdvanceClockRequest, context: Any) -> pb.AdvanceClockResponse:
        if request.advance_ms < 0:
            raise InvalidFieldError("advance_ms", request.advance_ms, "must not be negative")
        await self._set("advance_ms", self._clock.now_ms() + request.advance_ms)
        return pb.AdvanceClockResponse(now=values.timestamp(self._clock.now_ms()))

    async def _set(self, field: str, now_ms: int) -> None:
        if not 0 <= now_ms <= LATEST_MS:
            raise InvalidFieldError(field, now_ms, "leads out of the years 1970 to 9000")
        # Where servers share a store, its time is theirs.
        await self._store.set_clock(now_ms)
        self._clock.set_ms(now_ms)
        await self._expiry.run_due()
        await self._purge.run_due()
