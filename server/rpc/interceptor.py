"""The call pipeline on grpc.aio: reads the bytes of requests, and aborts the calls that fail."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any, Final

import grpc

from server.domain.errors import DomainError, InvalidRequestError, UnauthenticatedError
from server.lifecycle.watch import SMALL_BYTES
from server.patches.grpcio import note_request
from server.rpc.call import RequestId
from server.rpc.failures import CallFailed
from server.rpc.gate import Gate
from server.rpc.large_requests import Read
from server.rpc.lower_case_ids import lower_ids
from server.rpc.parsing import make_reader, read_connect_request, read_reply_request
from server.rpc.paths import PREFIX
from server.rpc.pipeline import Behaviour, Behaviours, CallPipeline
from server.rpc.sending import Sending, size_bytes

_READERS: Final[dict[str, Read]] = {
    f"{PREFIX}AgentService/Connect": read_connect_request,
    f"{PREFIX}AgentService/Reply": read_reply_request,
}
"""How the requests of agents are read; all others are parsed, no more."""


_LISTS: Final = frozenset(
    f"{PREFIX}{name}"
    for name in (
        "SessionService/ListSessions",
        "MessageService/ListMessages",
        "AgentService/ListAgents",
        "UserDataService/ListUserSessions",
        "AdminService/SearchSessions",
    )
)
"""The methods that change nothing and may have large answers."""


class WireHandlers:
    """Makes the handlers of gRPC's server, which pass every call of this API to the pipeline. Calls of health
    and reflection are only read and counted.
    """

    def __init__(self, pipeline: CallPipeline, sending: Sending) -> None:
        self._pipeline = pipeline
        self._sending = sending
        self._unread_handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def wrap(self, method: str, handler: Any) -> "grpc.RpcMethodHandler[Any, Any]":
        """The handler around that of a servicer."""
        if not method.startswith(PREFIX):
            foreign: grpc.RpcMethodHandler[Any, Any] = self._wrap_foreign(method, handler)
            return foreign
        serialize = partial(_serialize, handler.response_serializer)
        read = lower_ids(method, _READERS.get(method) or make_reader(method, handler.request_deserializer))
        if handler.unary_unary:
            call = self._unary(method, handler.unary_unary, read)
            return grpc.unary_unary_rpc_method_handler(call, response_serializer=serialize)
        if handler.unary_stream:
            stream = self._stream(method, handler.unary_stream, read)
            return grpc.unary_stream_rpc_method_handler(stream, response_serializer=serialize)
        stream = self._stream(method, handler.stream_stream, partial(self._pipeline.requests.read_many, read))
        return grpc.stream_stream_rpc_method_handler(stream, response_serializer=serialize)

    def unread(self, method: str) -> "grpc.RpcMethodHandler[Any, Any]":
        """Refuses a call whose caller will not be let in, before the core has read its message as a whole."""

        async def never(requests: Any, call: Any) -> AsyncGenerator[Any, None]:
            raise UnauthenticatedError("The credential is wrong")
            yield

        if method not in self._unread_handlers:
            stream = self._stream(method, never, partial(self._pipeline.requests.read_many, bytes))
            self._unread_handlers[method] = grpc.stream_stream_rpc_method_handler(stream)
        return self._unread_handlers[method]

    def _unary(self, method: str, behaviour: Behaviour, read: Read) -> Behaviour:
        async def call(raw: bytes, context: Any) -> Any:
            note_request()
            try:
                answer, fault = await self._pipeline.answer(method, behaviour, read, raw, context)
                while (
                    self._sending.is_full
                    and method in _LISTS
                    and not fault
                    and size_bytes(answer) > SMALL_BYTES
                ):
                    # Not kept until there is room: it is made once more.
                    answer = None
                    await self._sending.free()
                    answer, fault = await self._pipeline.answer(method, behaviour, read, raw, context)
                if fault:
                    await context.abort(*fault)
                self._sending.watch_answer(method, answer)
                return answer
            finally:
                # The call keeps the error of `abort`, and with it this frame, which must not hold the call.
                del raw, context

        return call

    def _stream(self, method: str, behaviour: Behaviours, read: Read) -> Any:
        async def stream(raw: Any, context: Any) -> AsyncIterator[Any]:
            fault = None
            note_request()
            try:
                try:
                    async with aclosing(
                        self._pipeline.stream(method, behaviour, read, raw, context)
                    ) as answers:
                        async for answer in answers:
                            with self._sending.sent(method, answer):
                                told = [answer]
                                # gRPC keeps its message until the next one comes. So it gets a list, which is
                                # emptied.
                                del answer
                                yield told
                except CallFailed as error:
                    fault = error.fault
                if fault:
                    await context.abort(*fault)
            finally:
                # As above.
                del raw, context

        return stream

    def _wrap_foreign(self, method: str, handler: Any) -> Any:
        """A handler of another API, with its streams counted.

        gRPC would call bytes UNKNOWN that are not its message. Calls of health are few and cheap, and
        answered under any load.
        """
        read, pipeline = make_reader(method, handler.request_deserializer), self._pipeline

        async def call(raw: bytes, context: Any) -> Any:
            fault = None
            note_request()
            try:
                try:
                    request = read(raw)
                except InvalidRequestError as error:
                    fault = pipeline.fault(method, None, error, None, RequestId(context))
                if fault:
                    await context.abort(*fault)
                return await handler.unary_unary(request, context)
            finally:
                del raw, context

        async def write(raw: bytes, context: Any) -> None:
            fault = None
            note_request()
            try:
                try:
                    with pipeline.admitted_foreign_stream(method, context):
                        await handler.unary_stream(read(raw), context)
                except DomainError as error:
                    fault = pipeline.fault(method, None, error, None, RequestId(context))
                if fault:
                    await context.abort(*fault)
            finally:
                del raw, context

        if handler.unary_unary:
            return handler._replace(request_deserializer=None, unary_unary=call)
        if handler.unary_stream:
            return handler._replace(request_deserializer=None, unary_stream=write)
        stream = self._stream(method, handler.stream_stream, partial(pipeline.requests.read_many, read))
        serialize = partial(_serialize, handler.response_serializer)
        return handler._replace(
            request_deserializer=None, response_serializer=serialize, stream_stream=stream
        )


class Interceptor(grpc.aio.ServerInterceptor):
    """Refuses calls that are not worth reading. Only where the gate knows some: it looks at each call."""

    def __init__(self, gate: Gate, handlers: WireHandlers) -> None:
        self._gate = gate
        self._handlers = handlers

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        if self._gate.may_let_in(handler_call_details.method, handler_call_details.invocation_metadata):
            return await continuation(handler_call_details)
        return self._handlers.unread(handler_call_details.method)


def _serialize(serialize: Any, answer: Any) -> bytes:
    """An answer as it goes out, which it is already where it is bytes: see `encoding`.

    That of a stream is taken out of a list.
    """
    if isinstance(answer, list):
        answer = answer.pop()
    encoded: bytes = answer if isinstance(answer, bytes) else serialize(answer)
    return encoded
