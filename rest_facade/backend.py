"""The way to the server: one channel, its stubs, and the call that a synchronous view makes through them."""

import asyncio
from typing import Self, TypeVar

import greenback
import grpc.aio

from eliza.sessions.v1.clock_service_pb2_grpc import ClockServiceStub
from eliza.sessions.v1.message_service_pb2_grpc import MessageServiceStub
from eliza.sessions.v1.session_service_pb2_grpc import SessionServiceStub
from rest_facade.errors import ApiError

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

_OPTIONS = [
    # A server that comes back is found within a second; without these, gRPC waits for up to two minutes between attempts.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A page holds up to 100 messages, each with up to 2 MiB of attachments.
    ("grpc.max_receive_message_length", -1),
    # The server is addressed directly, whatever proxy the environment names for the web.
    ("grpc.enable_http_proxy", 0),
]


class Backend:
    """The server's services. An async context manager: the channel belongs to the loop that enters it."""

    def __init__(self, address: str, deadline_seconds: float) -> None:
        """`address` is HOST:PORT; a call that has no answer after `deadline_seconds` fails. Nothing is opened yet."""
        self._address = address
        self._deadline_seconds = deadline_seconds

    async def __aenter__(self) -> Self:
        """Opens the channel. The server need not be there yet."""
        self._channel = grpc.aio.insecure_channel(self._address, _OPTIONS)
        self.sessions = SessionServiceStub(self._channel)
        self.messages = MessageServiceStub(self._channel)
        self.clock = ClockServiceStub(self._channel)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes the channel; calls under way are cancelled."""
        await self._channel.close()

    def call(self, method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response], request: _Request) -> _Response:
        """Makes one call from a view and waits for its answer. Raises grpc.aio.AioRpcError; ApiError when the request was cancelled."""
        try:
            return greenback.await_(method(request, timeout=self._deadline_seconds))
        except asyncio.CancelledError as error:
            # The client left, and nobody reads the answer; or the facade stops and could wait no longer, and the client gets one.
            raise ApiError("UNAVAILABLE", "The service is stopping", retryAfterSeconds=1) from error
