"""The call pipeline as a grpc.aio.Channel: its stubs call the servicers of this process without a wire.

Both sides share the messages, so neither changes one that it has handed over. Only the ids of a request
become lower case. Requests have no bound in bytes here: the caller has bounds of its own.
"""

import asyncio
from typing import Any

import grpc
from grpc import aio

from server.rpc.in_process_calls import StreamStream, UnaryAsStream, UnaryStream, UnaryUnary
from server.rpc.pipeline import CallPipeline
from server.rpc.services import Services


class InProcessChannel(aio.Channel):
    """A channel to servicers of this process."""

    def __init__(self, services: Services, pipeline: CallPipeline) -> None:
        self._handlers = services.handlers
        self._pipeline = pipeline

    async def __aenter__(self) -> "InProcessChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Nothing is open that does not end with its call."""

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """It is always there."""
        return grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        if last_observed_state is grpc.ChannelConnectivity.READY:
            await asyncio.get_running_loop().create_future()

    async def channel_ready(self) -> None:
        """It is always there."""

    def unary_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> UnaryUnary:
        handler = self._handlers.get(method)
        return UnaryUnary(self._pipeline, method, handler and handler.unary_unary, response_deserializer)

    def unary_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> UnaryStream:
        handler = self._handlers.get(method)
        if handler and handler.unary_unary:
            # On the wire, too, a call with one answer can be made as a stream: its initial metadata come
            # before the answer then.
            return UnaryAsStream(self._pipeline, method, handler.unary_unary, response_deserializer)
        return UnaryStream(self._pipeline, method, handler and handler.unary_stream, response_deserializer)

    def stream_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> StreamStream:
        handler = self._handlers.get(method)
        return StreamStream(self._pipeline, method, handler and handler.stream_stream, response_deserializer)

    def stream_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> Any:
        """None of our methods is of this kind."""
        raise NotImplementedError(method)
