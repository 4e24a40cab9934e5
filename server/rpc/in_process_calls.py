"""The calls of a channel within the process. The task that waits for an answer runs the handler."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from typing import Any, Final, TypeAlias

import grpc
from grpc import aio

from server.rpc.call import IN_PROCESS, Caller
from server.rpc.failures import CallFailed, Fault
from server.rpc.lower_case_ids import lower_ids
from server.rpc.pipeline import Behaviour, Behaviours, CallPipeline

_NO_METADATA: Final = aio.Metadata()
_LATE: Final = Fault(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", ())
_CANCELLED: Final = Fault(grpc.StatusCode.CANCELLED, "Locally cancelled by application!", ())
_UNKNOWN_METHOD: Final = Fault(grpc.StatusCode.UNIMPLEMENTED, "Method not found!", ())

_Parse = Callable[[bytes], Any]
_Metadata: TypeAlias = Any
"""The pairs of a key and a value that a caller sends with its call; or None."""


class _Caller:
    """The context of a call, as far as the pipeline and our servicers look at it."""

    __slots__ = ("_deadline_s", "_metadata", "_tell")

    def __init__(
        self, deadline_s: float | None, metadata: _Metadata, tell: Callable[[aio.Metadata], None]
    ) -> None:
        """`tell` is given the initial metadata."""
        self._deadline_s = deadline_s
        self._metadata = metadata
        self._tell = tell

    def time_remaining(self) -> float | None:
        return None if self._deadline_s is None else self._deadline_s - asyncio.get_running_loop().time()

    def peer(self) -> str:
        return IN_PROCESS

    def invocation_metadata(self) -> _Metadata:
        return self._metadata

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        self._tell(aio.Metadata(*initial_metadata))


class _Call:
    """The common part of all calls."""

    def __init__(self, multi: "_Multi", timeout: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._deadline_s = None if timeout is None else loop.time() + timeout
        self._fault: Fault | None = None
        self._is_done = False
        self._callbacks: list[Callable[[Any], None]] = []
        self._metadata: aio.Metadata | None = None
        self._on_metadata: asyncio.Event | None = None
        if multi.behaviour is None:
            self._end(_UNKNOWN_METHOD)

    def time_remaining(self) -> float | None:
        return None if self._deadline_s is None else max(0.0, self._deadline_s - self._loop.time())

    def done(self) -> bool:
        return self._is_done

    def cancelled(self) -> bool:
        return self._fault is _CANCELLED

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self._is_done:
            callback(self)
        else:
            self._callbacks.append(callback)

    async def initial_metadata(self) -> aio.Metadata:
        """What the handler has sent ahead of its first answer. Somebody has to wait for that, too: this runs
        no handler.
        """
        if self._metadata is None and not self._is_done:
            self._on_metadata = self._on_metadata or asyncio.Event()
            await self._on_metadata.wait()
        return _NO_METADATA if self._metadata is None else self._metadata

    async def trailing_metadata(self) -> aio.Metadata:
        await self._ended()
        return _NO_METADATA if self._fault is None else aio.Metadata(*self._fault.trailers)

    async def code(self) -> grpc.StatusCode:
        await self._ended()
        return grpc.StatusCode.OK if self._fault is None else self._fault.code

    async def details(self) -> str:
        await self._ended()
        return "" if self._fault is None else self._fault.message

    async def wait_for_connection(self) -> None:
        """It is always there."""

    async def _ended(self) -> None:
        if not self._is_done:
            ended = self._loop.create_future()
            self.add_done_callback(lambda _: None if ended.done() else ended.set_result(None))
            await ended

    def _take_metadata(self, metadata: aio.Metadata) -> None:
        self._metadata = metadata
        if self._on_metadata:
            self._on_metadata.set()

    def _end(self, fault: Fault | None) -> None:
        if self._is_done:
            return
        self._is_done, self._fault = True, fault
        if self._on_metadata:
            self._on_metadata.set()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)


def _error_or_cancelled(fault: Fault) -> BaseException:
    return asyncio.CancelledError() if fault is _CANCELLED else _error(fault)


def _error(fault: Fault) -> aio.AioRpcError:
    return aio.AioRpcError(fault.code, _NO_METADATA, aio.Metadata(*fault.trailers), details=fault.message)


class _UnaryCall(_Call, aio.UnaryUnaryCall[Any, Any]):
    """A call that runs in the task that awaits it, from then on."""

    def __init__(self, multi: "UnaryUnary", request: Any, timeout: float | None, metadata: _Metadata) -> None:
        super().__init__(multi, timeout)
        self._multi = multi
        self._request = request
        self._sent_metadata = metadata

    def cancel(self) -> bool:
        """Ends a call that nobody has awaited yet. One that runs ends with its task."""
        if self._is_done:
            return False
        self._end(_CANCELLED)
        return True

    def __await__(self) -> Generator[Any, None, Any]:
        if self._fault:
            raise _error_or_cancelled(self._fault)
        answer, fault = yield from self._answer()
        self._request = None
        self._end(fault)
        if fault:
            raise _error(fault)
        return answer

    def _answer(self) -> Generator[Any, None, tuple[Any, Fault | None]]:
        """Runs the handler. Most never wait: only one that does needs a timer."""
        multi = self._multi
        handling = multi.pipeline.answer(
            multi.method,
            multi.behaviour,
            _same,
            self._request,
            _Caller(self._deadline_s, self._sent_metadata, self._take_metadata),
        )
        if self._deadline_s is None:
            answer, fault = yield from handling.__await__()
            return multi.read(answer), fault
        try:
            waits_for = handling.send(None)
        except StopIteration as done:
            answer, fault = done.value
            return multi.read(answer), fault
        task, expired = asyncio.current_task(), False
        assert task is not None

        def expire() -> None:
            nonlocal expired
            expired = True
            task.cancel()

        timer = self._loop.call_at(self._deadline_s, expire)
        try:
            while True:
                try:
                    value = yield waits_for
                except BaseException as error:  # noqa: BLE001 - the handler is told whatever it is
                    waits_for = handling.throw(error)
                else:
                    waits_for = handling.send(value)
        except StopIteration as done:
            answer, fault = done.value
            if expired:
                # The handler ended all the same, and nobody else has asked for the cancellation.
                task.uncancel()
            return multi.read(answer), fault
        except asyncio.CancelledError:
            if expired and task.uncancel() <= 0:
                return None, _LATE
            self._end(_CANCELLED)
            raise
        finally:
            timer.cancel()


class _StreamCall(_Call):
    """A stream of answers. Its reader runs the handler, so that no answer is made that nobody reads."""

    def __init__(self, multi: "_Multi", requests: Any, timeout: float | None, metadata: _Metadata) -> None:
        self._timer: asyncio.TimerHandle | None = None
        super().__init__(multi, timeout)
        self._multi = multi
        self._reader: asyncio.Task[Any] | None = None
        self._is_late = False
        self._closing: asyncio.Task[None] | None = None
        self._timer = None if self._deadline_s is None else self._loop.call_at(self._deadline_s, self._expire)
        self._answers = multi.begin(requests, _Caller(self._deadline_s, metadata, self._take_metadata))

    async def read(self) -> Any:
        """The next answer, or EOF. Cancelling it cancels the call."""
        if self._is_done:
            return self._tell_end()
        self._reader = asyncio.current_task()
        try:
            answer = await anext(self._answers)
            if self._metadata is None:
                self._take_metadata(_NO_METADATA)
            return self._multi.read(answer)
        except StopAsyncIteration:
            self._end(None)
        except CallFailed as failed:
            self._end(failed.fault)
        except asyncio.CancelledError:
            if self._is_late and self._reader and self._reader.uncancel() <= 0:
                self._end(_LATE)
            else:
                self._end(_CANCELLED)
                raise
        finally:
            self._reader = None
        return self._tell_end()

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (answer := await self.read()) is not aio.EOF:
            yield answer

    def cancel(self) -> bool:
        """Ends the call; its reader is cancelled, as gRPC does it."""
        if self._is_done:
            return False
        if self._reader:
            self._reader.cancel()
        else:
            self._close(_CANCELLED)
        return True

    def _expire(self) -> None:
        if self._is_done:
            return
        self._is_late = True
        if self._reader:
            self._reader.cancel()
        else:
            self._close(_LATE)

    def _tell_end(self) -> Any:
        if self._fault:
            raise _error_or_cancelled(self._fault)
        return aio.EOF

    def _close(self, fault: Fault) -> None:
        """Ends a call without a reader, and its handler at once."""
        self._closing = self._loop.create_task(self._answers.aclose())
        self._end(fault)

    def _end(self, fault: Fault | None) -> None:
        if self._timer:
            self._timer.cancel()
        super()._end(fault)


class _UnaryStreamCall(_StreamCall, aio.UnaryStreamCall[Any, Any]):
    """A stream of answers to one request."""


class _StreamStreamCall(_StreamCall, aio.StreamStreamCall[Any, Any]):
    """A stream of answers to a stream of requests."""

    def __init__(self, multi: "_Multi", timeout: float | None, metadata: _Metadata) -> None:
        self._requests: asyncio.Queue[Any] = asyncio.Queue()
        super().__init__(multi, self._sent(), timeout, metadata)

    async def write(self, request: Any) -> None:
        """Hands over a request, which the handler takes when the answers are read."""
        if self._is_done:
            raise asyncio.InvalidStateError("the call is over")
        self._requests.put_nowait((request,))

    async def done_writing(self) -> None:
        """Says that no more requests come."""
        self._requests.put_nowait(None)

    async def _sent(self) -> AsyncIterator[Any]:
        while sent := await self._requests.get():
            yield self._multi.read_request(sent[0])


class _Multi:
    """A method that can be called."""

    def __init__(self, pipeline: CallPipeline, method: str, behaviour: Any, parse: _Parse) -> None:
        self.pipeline = pipeline
        self.method = method
        self.behaviour: Any = behaviour
        self._parse = parse
        self.read_request = lower_ids(method, _same)

    def begin(self, requests: Any, caller: Caller) -> AsyncGenerator[Any, None]:
        """The answers to a call, as a stream."""
        return self.pipeline.stream(self.method, self.behaviour, _same, requests, caller)

    def read(self, answer: Any) -> Any:
        """The answer as a message: some are encoded already, because many are told the same."""
        return self._parse(answer) if isinstance(answer, bytes) else answer


class UnaryUnary(_Multi, aio.UnaryUnaryMultiCallable[Any, Any]):
    """A method with one request and one answer."""

    behaviour: Behaviour

    def __call__(
        self, request: Any, *, timeout: float | None = None, metadata: _Metadata = None, **_: Any
    ) -> _UnaryCall:
        return _UnaryCall(self, self.read_request(request), timeout, metadata)


class UnaryStream(_Multi, aio.UnaryStreamMultiCallable[Any, Any]):
    """A method with one request and a stream of answers."""

    behaviour: Behaviours

    def __call__(
        self, request: Any, *, timeout: float | None = None, metadata: _Metadata = None, **_: Any
    ) -> _UnaryStreamCall:
        return _UnaryStreamCall(self, self.read_request(request), timeout, metadata)


class UnaryAsStream(UnaryStream):
    """A method with one answer, called as a stream of one."""

    behaviour: Any

    async def begin(self, requests: Any, caller: Caller) -> AsyncGenerator[Any, None]:
        answer, fault = await self.pipeline.answer(self.method, self.behaviour, _same, requests, caller)
        if fault:
            raise CallFailed(fault)
        yield answer


class StreamStream(_Multi, aio.StreamStreamMultiCallable[Any, Any]):
    """A method with a stream of requests and a stream of answers."""

    behaviour: Behaviours

    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: _Metadata = None,
        *_: Any,
        **__: Any,
    ) -> _StreamStreamCall:
        return _StreamStreamCall(self, timeout, metadata)


def _same(request: Any) -> Any:
    return request
