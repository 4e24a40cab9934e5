"""The edge of the server: every call of the API passes it, and whatever goes wrong inside leaves as one row of the error table."""

import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from eliza.sessions.v1.errors import DOMAIN, TABLE, cut, error_trailers
from server.domain.errors import DomainError, ResourceExhaustedError, UnavailableError

Behaviour = Callable[[Any, Any], Awaitable[Any]]

_PREFIX: Final = f"/{DOMAIN}."

log = structlog.get_logger()


class Boundary(grpc.aio.ServerInterceptor):
    """Reads requests, refuses those whose deadline has passed, and turns exceptions into statuses with ErrorInfo."""

    def __init__(self, on_trouble: Callable[[], None]) -> None:
        """`on_trouble` is called when the store could not do what it was asked."""
        self._on_trouble = on_trouble
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Wraps the handlers of this API, each once; those of health and reflection are left alone."""
        method = handler_call_details.method
        if method in self._wrapped:
            return self._wrapped[method]
        handler = await continuation(handler_call_details)
        if handler is None or not method.startswith(_PREFIX):
            return handler
        self._wrapped[method] = grpc.unary_unary_rpc_method_handler(
            self._unary(method, handler.unary_unary, handler.request_deserializer), response_serializer=handler.response_serializer
        )
        return self._wrapped[method]

    def _unary(self, method: str, behaviour: Behaviour, parse: Callable[[bytes], Message]) -> Behaviour:
        async def call(raw: bytes, context: Any) -> Any:
            remaining_s = context.time_remaining()
            if remaining_s is not None and remaining_s <= 0:
                await _abort(context, "DEADLINE_EXCEEDED", "The deadline had passed before the call began", {})
            try:
                request = parse(raw)
            except DecodeError:
                await _abort(context, "INVALID_REQUEST", "The request cannot be read", {"reason": "not a message of this method"})
            try:
                return await behaviour(request, context)
            except DomainError as error:
                if isinstance(error, (UnavailableError, ResourceExhaustedError)):
                    self._on_trouble()
                await _abort(context, error.reason, str(error), error.details)
            except Exception:
                error_id = uuid.uuid4().hex
                log.exception("internal error", error_id=error_id, method=method)
                await _abort(context, *_internal(method, request, error_id))

        return call


def _internal(method: str, request: Any, error_id: str) -> tuple[str, str, dict[str, str]]:
    """The reason, message and details for what nobody foresaw: creating and sending have documented classes of their own."""
    reason = f"internal error {error_id}"
    match method.rpartition("/")[2]:
        case "CreateSession":
            return "SESSION_CREATION_FAILED", f"The session could not be created: {reason}", {"reason": reason}
        case "SendMessage":
            return "MESSAGE_SEND_FAILED", f"The message could not be sent: {reason}", {"sessionId": request.session_id, "reason": reason}
        case _:
            return "INTERNAL", f"Internal error {error_id}", {"errorId": error_id}


async def _abort(context: Any, reason: str, message: str, details: dict[str, str]) -> NoReturn:
    row = TABLE[reason]
    await context.abort(row.grpc_status, message, error_trailers(row, message, {name: cut(value) for name, value in details.items()}))
    raise AssertionError("abort always raises")
