"""Surrounds every call, from the wire or this process: admits and counts it, lets its caller in, and maps its
failure to the table.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from typing import Any, Final, NamedTuple

import grpc
import structlog

from eliza.sessions.errors import truncate
from eliza.sessions.v1.message_service_pb2 import SendMessageRequest
from eliza.sessions.values import seconds
from server.access.limits import Shares
from server.domain.access import Principal
from server.domain.errors import (
    DeadlineExceededError,
    DomainError,
    OverloadedError,
    ResourceExhaustedError,
    UnavailableError,
)
from server.rpc.audit import StreamAudit, log_audited
from server.rpc.call import Call, Caller, RequestId
from server.rpc.credential_ends import CredentialEnds
from server.rpc.failures import CallFailed, Fault, fault_of
from server.rpc.gate import UNKNOWN_SHARE, Gate, OpenGate, account_of, host_of
from server.rpc.large_requests import MAX_HELD_BYTES, LargeRequests, Read, counted_bytes
from server.rpc.paths import PREFIX
from server.telemetry.telemetry import OFF, Reading, Telemetry

QUIET_SECONDS: Final = 0.1
"""How long no call must have come before a server that stops may close its port."""

LONGEST_QUIET_SECONDS: Final = 3.0
"""How long a server that stops waits for that at most."""

Behaviour = Callable[[Any, Any], Awaitable[Any]]
Behaviours = Callable[[Any, Any], AsyncGenerator[Any, None]]


class Waiting(NamedTuple):
    """What a call returns that has done its work and waits on: `rest` makes the answer.

    It counts as a call no longer, but as a stream.
    """

    rest: Callable[[], Awaitable[Any]]


_HEALTH: Final = f"{PREFIX}SessionService/GetServiceStatus"
"""The call for the service's state is answered under any load."""

_OK: Final = grpc.StatusCode.OK.name
_CANCELLED: Final = grpc.StatusCode.CANCELLED.name
_INTERNAL: Final = "INTERNAL"

_OF_WORKERS: Final = (f"{PREFIX}AgentService/Connect", f"{PREFIX}AgentService/Reply")

log = structlog.get_logger()


class CallPipeline:
    """Admits calls, refuses those past their deadline, and turns exceptions into statuses with ErrorInfo.

    What comes first, in order: the deadline, the bounds of all callers, the caller's credential, what that
    may do and how often, the caller's share of the bounds. Then the request is parsed.
    """

    def __init__(
        self,
        on_trouble: Callable[[], None],
        *,
        max_calls: int,
        max_streams: int,
        slow_call_s: float,
        gate: Gate | None = None,
        telemetry: Telemetry = OFF,
    ) -> None:
        """`on_trouble` is called when the store failed. Calls that take `slow_call_s` are logged. Without a
        gate everybody may do everything.
        """
        self._on_trouble = on_trouble
        self._telemetry = telemetry
        self.gate = gate or OpenGate()
        self.credential_ends = CredentialEnds(self.gate)
        self._shares = Shares()
        self._max_calls = max_calls
        self._max_streams = max_streams
        self._slow_call_s = slow_call_s
        self._stopping = False
        self._calls = 0
        self._streams = 0
        # Streams of other APIs: a service that stops does not wait for them.
        self._foreign_streams = 0
        # Streams of others than the facade.
        self._side_streams = 0
        self.requests = LargeRequests()
        self._last_call_s = 0.0

    async def drain(self) -> None:
        """Refuses new calls with UNAVAILABLE, and waits until those in flight are done and no more come.

        gRPC itself would cut calls that arrive as it stops, and a client would not know that it may try
        again.
        """
        self._stopping = True
        now_s = asyncio.get_running_loop().time
        self._last_call_s = now_s()
        while self._calls or self._streams:  # noqa: ASYNC110 - as rare as stops are
            await asyncio.sleep(QUIET_SECONDS / 4)
        # Clients that try again at once would never let it be quiet.
        give_up_s = now_s() + LONGEST_QUIET_SECONDS
        while now_s() < min(self._last_call_s + QUIET_SECONDS, give_up_s):  # noqa: ASYNC110 - nothing tells that no call comes
            await asyncio.sleep(QUIET_SECONDS / 4)

    def _admit(self, caller: Caller) -> None:
        """Raises UnavailableError when the service stops, DeadlineExceededError past the call's deadline."""
        self._last_call_s = asyncio.get_running_loop().time()
        if self._stopping:
            raise UnavailableError("The service is stopping")
        remaining_s = caller.time_remaining()
        if remaining_s is not None and remaining_s <= 0:
            raise DeadlineExceededError

    def _begin_call(self, method: str, caller: Caller, size_bytes: int) -> None:
        """Counts a call, and the bytes of its request.

        Raises OverloadedError besides what `_admit` raises.
        """
        self._admit(caller)
        if self._calls >= self._max_calls and method != _HEALTH:
            raise OverloadedError("too many calls are under way")
        self.requests.hold(size_bytes)
        self._calls += 1

    @contextmanager
    def admitted_stream(self, method: str, caller: Caller) -> Iterator[None]:
        """Counts a stream. Raises OverloadedError besides the errors of `_admit`.

        Workers and other APIs may have half of all streams. So the facade beside the server finds room.
        """
        self._admit(caller)
        is_own, half = method.startswith(PREFIX), max(1, self._max_streams // 2)
        is_side = not is_own or method in _OF_WORKERS
        if self._streams + self._foreign_streams >= self._max_streams:
            raise OverloadedError("too many streams are open")
        if is_side and self._side_streams >= half:
            raise OverloadedError("too many streams of workers, health and reflection are open")
        self._streams += is_own
        self._foreign_streams += not is_own
        self._side_streams += is_side
        try:
            yield
        finally:
            self._streams -= is_own
            self._foreign_streams -= not is_own
            self._side_streams -= is_side

    @contextmanager
    def admitted_foreign_stream(self, method: str, caller: Caller) -> Iterator[None]:
        """Counts a stream of another API, to which everybody is let in."""
        account = account_of(host_of(caller.peer()))
        with self.admitted_stream(method, caller), self._shared_stream(account, UNKNOWN_SHARE):
            yield

    @contextmanager
    def _shared_stream(self, account: str, share: float) -> Iterator[None]:
        """Counts a stream of a caller. Raises OverloadedError where it has its share."""
        if not account or share >= 1:
            yield
            return
        with self._shares.hold(account, share, self._max_streams, "streams"):
            yield

    async def answer(
        self, method: str, behaviour: Behaviour, read: Read, raw: Any, caller: Caller
    ) -> tuple[Any, Fault | None]:
        """The answer to a call, or what to abort it with.

        A call that waits for a reply has a stream from the start, so that it is refused before it has done
        anything.
        """
        request = call = None
        request_id = RequestId(caller)
        begun_s, size_bytes = time.monotonic(), counted_bytes(raw)
        stream: ExitStack | None = None
        try:
            self._begin_call(method, caller, size_bytes)
            try:
                is_shared = False
                try:
                    call = await self.gate.enter(method, caller)
                    if call.account and call.share < 1 and method != _HEALTH:
                        self._begin_shared_call(call, size_bytes)
                        is_shared = True
                    request = read(raw)
                    if isinstance(request, SendMessageRequest) and seconds(request.reply_wait) > 0:
                        stream = ExitStack()
                        stream.enter_context(self.admitted_stream(method, caller))
                        stream.enter_context(self._shared_stream(call.account, call.share))
                    answer = await behaviour(request, call)
                except (asyncio.CancelledError, GeneratorExit):
                    if call:
                        # What it has begun is done all the same.
                        log_audited(method, call.principal, request, None, request_id, broken_off=True)
                    raise
                finally:
                    self._calls -= 1
                    if call and is_shared:
                        self._end_shared_call(call, size_bytes)
                log_audited(method, call.principal, request, answer, request_id)
                if (taken_s := time.monotonic() - begun_s) >= self._slow_call_s:
                    _warn_of_slow(method, request, taken_s, request_id)
                if isinstance(answer, Waiting):
                    answer = await answer.rest()
            finally:
                self.requests.let_go(size_bytes)
                if stream:
                    stream.close()
        except Exception as error:  # noqa: BLE001 - this is where everything ends up
            principal = call.principal if call else None
            fault = self.fault(method, request, error, principal, request_id)
            self._telemetry.end_call(method, fault.code.name, begun_s)
            return None, fault
        except asyncio.CancelledError:
            self._telemetry.end_call(method, _CANCELLED, begun_s)
            raise
        self._telemetry.end_call(method, _OK, begun_s)
        return answer, None

    def _begin_shared_call(self, call: Call, size_bytes: int) -> None:
        """Counts a call of a caller who may have a share only. Raises OverloadedError."""
        self._shares.begin(call.account, call.share, self._max_calls, "calls")
        if size_bytes:
            try:
                self._shares.begin(call.account, call.share, MAX_HELD_BYTES, "bytes", size_bytes)
            except OverloadedError:
                self._shares.end(call.account, "calls")
                raise

    def _end_shared_call(self, call: Call, size_bytes: int) -> None:
        self._shares.end(call.account, "calls")
        if size_bytes:
            self._shares.end(call.account, "bytes", size_bytes)

    async def stream(
        self, method: str, behaviour: Behaviours, read: Read, raw: Any, caller: Caller
    ) -> AsyncGenerator[Any, None]:
        """Yields the answers to a call. Raises CallFailed."""
        request = fault = call = None
        # A stream that is closed was cancelled.
        begun_s, status = self._telemetry.begin(), _CANCELLED
        request_id = RequestId(caller)
        try:
            try:
                with self.admitted_stream(method, caller), self.requests.held(raw):
                    call = await self.gate.enter(method, caller)
                    with self._shared_stream(call.account, call.share):
                        request = read(raw)
                        with StreamAudit(method, call.principal, request, request_id) as audit:
                            async with aclosing(behaviour(request, call)) as answers:
                                with self.credential_ends.watched(call, answers) as watched:
                                    async for answer in watched:
                                        audit.has_begun, told = True, [answer]
                                        # Not kept while the next one is waited for.
                                        del answer
                                        yield told.pop()
                status = _OK
            except Exception as error:  # noqa: BLE001 - this is where everything ends up
                principal = call.principal if call else None
                fault = self.fault(method, request, error, principal, request_id)
                status = fault.code.name
            if fault:
                raise CallFailed(fault)
        finally:
            self._telemetry.end_call(method, status, begun_s)
            # The error keeps this frame, which must not hold the call.
            del raw, caller, request, call, request_id

    def fault(
        self, method: str, request: Any, error: Exception, principal: Principal | None, request_id: RequestId
    ) -> Fault:
        """What to abort a call with that failed. Logs it.

        A caller who was not let in has not come to the store: what cannot be had then is somebody else's.
        """
        is_inside = principal is not None and not self._stopping
        if is_inside and isinstance(error, (UnavailableError, ResourceExhaustedError)):
            self._on_trouble()
        self._telemetry.count_refusal(error.reason if isinstance(error, DomainError) else _INTERNAL)
        return fault_of(method, request, error, principal, str(request_id))


async def read_gauges(pipeline: CallPipeline) -> list[Reading]:
    """What the metrics tell of the calls and streams under way."""
    # Those of workers, health and reflection count as side streams.
    streams, side_streams = pipeline._streams + pipeline._foreign_streams, pipeline._side_streams
    return [
        Reading("eliza_open_calls", pipeline._calls),
        Reading("eliza_open_streams", streams - side_streams, ("client",)),
        Reading("eliza_open_streams", side_streams, ("worker",)),
    ]


def _warn_of_slow(method: str, request: Any, taken_s: float, request_id: RequestId) -> None:
    log.warning(
        "slow call",
        method=method.removeprefix("/"),
        seconds=round(taken_s, 3),
        session_id=truncate(getattr(request, "session_id", "")),
        request_id=str(request_id),
    )
