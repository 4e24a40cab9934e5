"""The call pipeline with a span around each call. Where nothing is traced, the plain one runs."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc

from eliza.sessions.call_metadata import REQUEST_ID_KEY
from server.rpc.call import Caller, RequestId
from server.rpc.failures import CallFailed, Fault
from server.rpc.large_requests import Read
from server.rpc.pipeline import Behaviour, Behaviours, CallPipeline
from server.telemetry.traces import Traces

_OK = grpc.StatusCode.OK.name
_CANCELLED = grpc.StatusCode.CANCELLED.name


class TracedPipeline(CallPipeline):
    """See the module. Clients name the span that a call is part of in its metadata."""

    def __init__(self, *arguments: Any, traces: Traces, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._traces = traces

    async def answer(
        self, method: str, behaviour: Behaviour, read: Read, raw: Any, caller: Caller
    ) -> tuple[Any, Fault | None]:
        named = _NamedCaller(caller)
        span, status = self._traces.start_call(method, named.metadata, named.request_id), _CANCELLED
        try:
            with span:
                answer, fault = await super().answer(method, behaviour, read, raw, named)
            status = fault.code.name if fault else _OK
        finally:
            span.end(status)
        return answer, fault

    async def stream(
        self, method: str, behaviour: Behaviours, read: Read, raw: Any, caller: Caller
    ) -> AsyncGenerator[Any, None]:
        named = _NamedCaller(caller)
        span, status = self._traces.start_call(method, named.metadata, named.request_id), _CANCELLED
        try:
            async with aclosing(super().stream(method, behaviour, read, raw, named)) as answers:
                del raw, caller, named
                while True:
                    # Whoever asks for the next answer may be another task than the one before.
                    with span:
                        told = [await anext(answers)]
                    yield told.pop()
        except StopAsyncIteration:
            status = _OK
        except CallFailed as failed:
            status = failed.fault.code.name
            raise
        finally:
            span.end(status)


class _NamedCaller:
    """A caller whose metadata have a request id, so that span and log have the same one."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.request_id = str(RequestId(caller))
        others = [pair for pair in caller.invocation_metadata() or () if pair[0] != REQUEST_ID_KEY]
        self.metadata = (*others, (REQUEST_ID_KEY, self.request_id))

    def invocation_metadata(self) -> Any:
        return self.metadata

    def time_remaining(self) -> float | None:
        return self._caller.time_remaining()

    def peer(self) -> str:
        return self._caller.peer()

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        await self._caller.send_initial_metadata(initial_metadata)

    def __getattr__(self, name: str) -> Any:
        # What gRPC's context has besides, such as the certificate of the caller.
        return getattr(self._caller, name)
