"""The edge of the server: every call of the API passes it, and whatever goes wrong inside leaves as one row of the error table."""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from functools import partial
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

import grpc
import structlog

from eliza.sessions.v1.errors import DOMAIN, TABLE, Row, cut, error_trailers, forget_frames
from server.domain.errors import (
    DeadlineExceededError,
    DomainError,
    InvalidRequestError,
    OverloadedError,
    ResourceExhaustedError,
    UnavailableError,
)
from server.lifecycle.watch import SMALL_BYTES
from server.patches.grpcio import request_came
from server.rpc.parsing import MAX_REQUEST_BYTES, read_connect_request, read_reply_request, reader
from server.rpc.sending import Sending, size_bytes

QUIET_SECONDS: Final = 0.1
"""How long no call must have come before a server that stops may close its port."""

LONGEST_QUIET_SECONDS: Final = 3.0
"""How long a server that stops waits for that at most."""

MAX_HELD_BYTES: Final = 32 * 1024 * 1024
"""How many bytes of large requests (more than MAX_REQUEST_BYTES) may be under way at a time. gRPC keeps each until its call ends.

Small ones are bounded by how many calls and streams there may be.
"""

Behaviour = Callable[[Any, Any], Awaitable[Any]]
Read = Callable[[bytes], Any]
Fault: TypeAlias = tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]
"""What a call is aborted with: status, message and trailers."""

_PREFIX: Final = f"/{DOMAIN}."

_HEALTH: Final = f"{_PREFIX}SessionService/GetServiceStatus"
"""How the service stands is told however much there is to do."""

_READERS: Final[dict[str, Read]] = {
    f"{_PREFIX}AgentService/Connect": read_connect_request,
    f"{_PREFIX}AgentService/Reply": read_reply_request,
}
"""How the requests of agents are read; all others are parsed, no more."""
_LISTS: Final = frozenset(
    f"{_PREFIX}{name}" for name in ("SessionService/ListSessions", "MessageService/ListMessages", "AgentService/ListAgents")
)
"""The methods that change nothing and may have large answers."""

_LOGGED_IDS: Final = {"sessionId": "session_id", "agentId": "agent_id", "deliveryId": "delivery_id"}
"""The details of an error that a line about it repeats."""

log = structlog.get_logger()


class Boundary(grpc.aio.ServerInterceptor):
    """Reads requests, refuses those whose deadline has passed, and turns exceptions into statuses with ErrorInfo."""

    def __init__(self, on_trouble: Callable[[], None], *, max_calls: int, max_streams: int, slow_call_s: float) -> None:
        """`on_trouble` is called when the store could not do what it was asked; a call that takes `slow_call_s` is logged."""
        self._on_trouble = on_trouble
        self._max_calls = max_calls
        self._max_streams = max_streams
        self._slow_call_s = slow_call_s
        self.sending = Sending()
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._stopping = False
        self._calls = 0
        self._streams = 0
        # Streams of other APIs: a service that stops does not wait for them.
        self._foreign_streams = 0
        # Of all streams, those that are not the facade's; and of those that come from elsewhere, how many from where.
        self._side_streams = 0
        self._host_streams: Counter[str] = Counter()
        self._held_bytes = 0
        self._room = asyncio.Event()
        self._last_call_s = 0.0

    async def drain(self) -> None:
        """Refuses new calls with UNAVAILABLE, and waits until those in flight are done and no more come.

        gRPC itself would cut calls that arrive as it stops, without a word of why; a client would not know that it may try again.
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

    def _admit(self, context: Any) -> None:
        """Raises UnavailableError when the service stops, DeadlineExceededError when the call's deadline has passed."""
        request_came()
        self._last_call_s = asyncio.get_running_loop().time()
        if self._stopping:
            raise UnavailableError("The service is stopping")
        remaining_s = context.time_remaining()
        if remaining_s is not None and remaining_s <= 0:
            raise DeadlineExceededError

    @contextmanager
    def _admitted_call(self, method: str, context: Any, raw: bytes) -> Iterator[None]:
        """Counts a call, and the bytes of its request. Raises OverloadedError besides what `_admit` raises."""
        self._admit(context)
        if self._calls >= self._max_calls and method != _HEALTH:
            raise OverloadedError("too many calls are under way")
        self._calls += 1
        try:
            with self._held(raw):
                yield
        finally:
            self._calls -= 1

    @contextmanager
    def _held(self, raw: Any) -> Iterator[None]:
        """Counts the bytes of a large request; one that is a stream has none yet. Raises OverloadedError."""
        size = _counted_bytes(raw)
        if size and self._held_bytes + size > MAX_HELD_BYTES:
            raise OverloadedError("too many large requests are under way")
        self._held_bytes += size
        try:
            yield
        finally:
            self._held_bytes -= size
            self._room.set()

    async def _read_many(self, read: Read, raws: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        """Reads the requests of a stream. A large one waits, where others are under way, until there is room for it."""
        async for raw in raws:
            while (size := _counted_bytes(raw)) and self._held_bytes + size > MAX_HELD_BYTES:
                self._room.clear()
                await self._room.wait()
            with self._held(raw):
                yield read(raw)

    @contextmanager
    def _admitted_stream(self, method: str, context: Any) -> Iterator[None]:
        """Counts a stream. Raises OverloadedError besides what `_admit` raises.

        Workers and other APIs have half of them between them, and so has each other machine: the facade beside the server finds room.
        """
        self._admit(context)
        is_own, half = method.startswith(_PREFIX), max(1, self._max_streams // 2)
        is_side, host = not is_own or method in _READERS, _host(context.peer())
        if self._streams + self._foreign_streams >= self._max_streams:
            raise OverloadedError("too many streams are open")
        if is_side and self._side_streams >= half:
            raise OverloadedError("too many streams of workers, health and reflection are open")
        if host and self._host_streams[host] >= half:
            raise OverloadedError("too many streams of one address are open")
        self._streams += is_own
        self._foreign_streams += not is_own
        self._side_streams += is_side
        self._host_streams[host] += 1
        try:
            yield
        finally:
            self._streams -= is_own
            self._foreign_streams -= not is_own
            self._side_streams -= is_side
            self._host_streams[host] -= 1
            if not self._host_streams[host]:
                del self._host_streams[host]

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Wraps the handlers of this API, each once; those of health and reflection only as far as reading requests goes."""
        method = handler_call_details.method
        if method in self._wrapped:
            return self._wrapped[method]
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        if not method.startswith(_PREFIX):
            self._wrapped[method] = self._readable(method, handler)
            return self._wrapped[method]
        serialize = partial(_serialized, handler.response_serializer)
        read = _READERS.get(method) or reader(method, handler.request_deserializer)
        wrapped: grpc.RpcMethodHandler[Any, Any]
        if handler.unary_unary:
            call = self._unary(method, handler.unary_unary, read)
            wrapped = grpc.unary_unary_rpc_method_handler(call, response_serializer=serialize)
        elif handler.unary_stream:
            stream = self._stream(method, handler.unary_stream, read)
            wrapped = grpc.unary_stream_rpc_method_handler(stream, response_serializer=serialize)
        else:
            stream = self._stream(method, handler.stream_stream, partial(self._read_many, read))
            wrapped = grpc.stream_stream_rpc_method_handler(stream, response_serializer=serialize)
        self._wrapped[method] = wrapped
        return wrapped

    def _readable(self, method: str, handler: Any) -> Any:
        """A handler of another API, with its streams counted.

        gRPC would call bytes UNKNOWN that are not its message. Calls of health are few and cheap, and answered under any load.
        """
        read = reader(method, handler.request_deserializer)

        async def call(raw: bytes, context: Any) -> Any:
            fault = None
            request_came()
            try:
                try:
                    request = read(raw)
                except InvalidRequestError as error:
                    fault = self._fault(method, None, error)
                if fault:
                    await context.abort(*fault)
                return await handler.unary_unary(request, context)
            finally:
                del raw, context

        async def write(raw: bytes, context: Any) -> None:
            fault = None
            try:
                try:
                    with self._admitted_stream(method, context):
                        await handler.unary_stream(read(raw), context)
                except DomainError as error:
                    fault = self._fault(method, None, error)
                if fault:
                    await context.abort(*fault)
            finally:
                del raw, context

        if handler.unary_unary:
            return handler._replace(request_deserializer=None, unary_unary=call)
        if handler.unary_stream:
            return handler._replace(request_deserializer=None, unary_stream=write)
        stream = self._stream(method, handler.stream_stream, partial(self._read_many, read))
        serialize = partial(_serialized, handler.response_serializer)
        return handler._replace(request_deserializer=None, response_serializer=serialize, stream_stream=stream)

    def _unary(self, method: str, behaviour: Behaviour, read: Read) -> Behaviour:
        async def call(raw: bytes, context: Any) -> Any:
            try:
                answer, fault = await self._answer(method, behaviour, read, raw, context)
                if fault:
                    await context.abort(*fault)
                self.sending.watch_answer(method, answer)
                return answer
            finally:
                # The call keeps the error that `abort` raises, and so this frame, which must not have the call.
                del raw, context

        return call

    async def _answer(self, method: str, behaviour: Behaviour, read: Read, raw: bytes, context: Any) -> tuple[Any, Fault | None]:
        """The answer to a call, or what to abort it with."""
        request, begun_s = None, time.monotonic()
        try:
            with self._admitted_call(method, context, raw):
                request = read(raw)
                answer = await behaviour(request, context)
                while self.sending.is_full and method in _LISTS and size_bytes(answer) > SMALL_BYTES:
                    # Not kept until there is room: it is made once more.
                    answer = None
                    await self.sending.free()
                    answer = await behaviour(request, context)
        except Exception as error:  # noqa: BLE001 - this is where everything ends up
            return None, self._fault(method, request, error)
        if (taken_s := time.monotonic() - begun_s) >= self._slow_call_s:
            session_id = cut(getattr(request, "session_id", ""))
            log.warning("slow call", method=method.removeprefix("/"), seconds=round(taken_s, 3), session_id=session_id)
        return answer, None

    def _stream(self, method: str, behaviour: Any, read: Callable[[Any], Any]) -> Any:
        async def stream(raw: Any, context: Any) -> AsyncIterator[Any]:
            request = fault = None
            try:
                try:
                    with self._admitted_stream(method, context), self._held(raw):
                        request = read(raw)
                        async with aclosing(behaviour(request, context)) as responses:
                            async for response in responses:
                                with self.sending.sent(method, response):
                                    told = [response]
                                    # gRPC keeps what it is given until the next one comes: it gets a list, which is emptied.
                                    del response
                                    yield told
                except Exception as error:  # noqa: BLE001 - this is where everything ends up
                    fault = self._fault(method, request, error)
                if fault:
                    await context.abort(*fault)
            finally:
                # As above.
                del raw, context, request

        return stream

    def _fault(self, method: str, request: Any, error: Exception) -> Fault:
        """What to abort a call with that failed. Logs it; nothing of the call is left in the error afterwards."""
        if isinstance(error, (UnavailableError, ResourceExhaustedError)) and not self._stopping:
            self._on_trouble()
        if isinstance(error, DomainError):
            reason, message, details = error.reason, str(error), error.details
        else:
            error_id = uuid.uuid4().hex
            log.error("internal error", error_id=error_id, method=method, exc_info=error)
            reason, message, details = _internal(method, request, error_id)
        row, details = TABLE[reason], {name: cut(value) for name, value in details.items()}
        if isinstance(error, DomainError):
            _log_failure(method, row, message, details)
        forget_frames(error)
        return row.grpc_status, message, error_trailers(row, message, details)


def _log_failure(method: str, row: Row, message: str, details: Mapping[str, str]) -> None:
    """One line for a call that failed: a client's fault is news, the service's own a warning. Values of clients stay out."""
    level = "warning" if row.http_status >= 500 else "info"
    ids = {name: details[detail] for detail, name in _LOGGED_IDS.items() if detail in details}
    getattr(log, level)("failed call", method=method.removeprefix("/"), code=row.reason, error=cut(message), **ids)


def _counted_bytes(raw: Any) -> int:
    return len(raw) if isinstance(raw, bytes) and len(raw) > MAX_REQUEST_BYTES else 0


def _serialized(serialize: Callable[[Any], bytes], answer: Any) -> bytes:
    """An answer as it goes out, which it is already where it is bytes: see `encoding`. That of a stream is taken out of a list."""
    if isinstance(answer, list):
        answer = answer.pop()
    return answer if isinstance(answer, bytes) else serialize(answer)


def _host(peer: str) -> str:
    """The address that a call comes from, without its port; empty for this machine's own."""
    host = unquote(peer.removeprefix("ipv4:").removeprefix("ipv6:").rpartition(":")[0]).strip("[]")
    return "" if peer.startswith("unix") or host.startswith("127.") or host in ("::1", "") else host


def _internal(method: str, request: Any, error_id: str) -> tuple[str, str, dict[str, str]]:
    """The reason, message and details for what nobody foresaw: creating and sending have documented classes of their own."""
    reason = f"internal error {error_id}"
    match method.rpartition("/")[2]:
        case "CreateSession":
            return "SESSION_CREATION_FAILED", f"The session could not be created: {reason}", {"reason": reason}
        case "SendMessage" | "Converse" as name:
            session_id = (request if name == "SendMessage" else request.message).session_id.lower()
            return "MESSAGE_SEND_FAILED", f"The message could not be sent: {reason}", {"sessionId": session_id, "reason": reason}
        case _:
            return "INTERNAL", f"Internal error {error_id}", {"errorId": error_id}
