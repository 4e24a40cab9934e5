"""The way to the server: a channel for calls, as many for streams as it takes, and the calls that a
synchronous view makes.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeAlias, TypeVar, cast

import grpc.aio
from google.protobuf.message import Message

from eliza.sessions.call_metadata import FACADE_KEY_KEY
from eliza.sessions.errors import forget_frames
from eliza.sessions.v1.admin_service_pb2_grpc import AdminServiceStub
from eliza.sessions.v1.agent_service_pb2_grpc import AgentServiceStub
from eliza.sessions.v1.clock_service_pb2_grpc import ClockServiceStub
from eliza.sessions.v1.message_service_pb2 import (
    DESCRIPTOR,
    ConverseRequest,
    ConverseResponse,
    ExportTranscriptRequest,
    ExportTranscriptResponse,
    SendMessageRequest,
    SendMessageResponse,
)
from eliza.sessions.v1.message_service_pb2_grpc import MessageServiceStub
from eliza.sessions.v1.session_service_pb2 import WatchSessionsRequest, WatchSessionsResponse
from eliza.sessions.v1.session_service_pb2_grpc import SessionServiceStub
from rest_facade.front_door.answers import SMALL_BYTES, Answers
from rest_facade.front_door.greenlets import await_, stop_counting
from rest_facade.shapes.credentials import Metadata
from rest_facade.shapes.errors import out_of_reach, stopping

if TYPE_CHECKING:
    from eliza.sessions.v1.message_service_pb2_grpc import MessageServiceAsyncStub
    from eliza.sessions.v1.session_service_pb2_grpc import SessionServiceAsyncStub

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

_Page = TypeVar("_Page", bound=Message)

_Call = TypeVar("_Call", bound=grpc.aio.Call)

_Streaming: TypeAlias = grpc.aio.UnaryStreamCall[Any, _Response] | grpc.aio.StreamStreamCall[Any, _Response]

_SEND_MESSAGE: Final = f"/{DESCRIPTOR.services_by_name['MessageService'].full_name}/SendMessage"

STREAMS_PER_CHANNEL: Final = 100
"""How many streams go over one connection: no server that heeds HTTP/2's recommendation allows fewer, and one
too many would just hang.
"""

_OPTIONS = [
    # A server that comes back is found within a second; without these, gRPC waits for up to two minutes
    # between attempts.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A page holds up to 100 messages, each with up to 2 MiB of attachments.
    ("grpc.max_receive_message_length", -1),
    # The server is addressed directly, whatever proxy the environment names for the web.
    ("grpc.enable_http_proxy", 0),
    # Where the name leads to several servers, all of them get calls, and one that ends is left at once.
    ("grpc.lb_policy_name", "round_robin"),
    # Channels to one address would share a connection otherwise, and with it the bound on its streams.
    ("grpc.use_local_subchannel_pool", 1),
]


_STREAM_OPTIONS = [
    # What comes before it is read stays with the server, but for HTTP/2's 64 KiB: the core would take MBs of
    # each stream.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 16_384),
]

HEARTBEAT_SECONDS: Final = 15.0
"""How long a stream is silent before it shows that it is alive, where nobody says."""


class Tls(NamedTuple):
    """TLS of the channels to a server. `server_name` is that of its certificate; empty: its host's."""

    credentials: grpc.ChannelCredentials
    server_name: str = ""


def dial(address: str, tls: Tls | None = None) -> grpc.aio.Channel:
    """A channel for calls to a server at HOST:PORT or unix:/PATH, which need not be there yet."""
    return _open(address, tls, _OPTIONS)


def dial_for_streams(address: str, tls: Tls | None = None) -> grpc.aio.Channel:
    """A channel for streams, whose answers may be read slowly."""
    return _open(address, tls, [*_OPTIONS, *_STREAM_OPTIONS])


def _open(address: str, tls: Tls | None, options: Sequence[tuple[str, Any]]) -> grpc.aio.Channel:
    if tls is None:
        return grpc.aio.insecure_channel(address, options)
    if tls.server_name:
        options = [*options, ("grpc.ssl_target_name_override", tls.server_name)]
    return grpc.aio.secure_channel(address, tls.credentials, options)


@dataclass(slots=True, eq=False)
class _StreamChannel:
    """A channel with a connection of its own, its stubs, and how many streams are open on it."""

    channel: grpc.aio.Channel
    sessions: "SessionServiceAsyncStub"
    messages: "MessageServiceAsyncStub"
    send_and_wait: "grpc.aio.UnaryStreamMultiCallable[SendMessageRequest, SendMessageResponse]"
    streams: int = 0


class Backend:
    """The server's services. An async context manager: its channels belong to the loop that enters it."""

    is_held = False
    """Whether the server may not be called yet: all calls are answered as if it were away."""

    def __init__(
        self,
        open_channel: Callable[[], grpc.aio.Channel],
        deadline_seconds: float,
        reply_deadline_seconds: float,
        open_stream_channel: Callable[[], grpc.aio.Channel] | None = None,
        facade_key: str = "",
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        """`open_channel` opens a channel to the server; `open_stream_channel`, where it is another, one for
        streams.

        A call that has no answer after `deadline_seconds` fails.

        The server has its own deadline for an agent's reply; `reply_deadline_seconds` should not be less.

        `facade_key` goes with every call, so that the server believes the addresses of clients. A message
        whose reply is streamed gives nothing for `heartbeat_seconds` at most.
        """
        self._own: Metadata = ((FACADE_KEY_KEY, facade_key),) if facade_key else ()
        self._open_channel = open_channel
        self._open_stream_channel = open_stream_channel or open_channel
        self.answers = Answers()
        self.deadline_seconds = deadline_seconds
        self.heartbeat_seconds = heartbeat_seconds
        self.reply_deadline_seconds = deadline_seconds + reply_deadline_seconds

    async def __aenter__(self) -> Self:
        """Opens the channel. The server need not be there yet."""
        self._channel = self._open_channel()
        self._stream_channels: list[_StreamChannel] = []
        self._stopping = asyncio.get_running_loop().create_future()
        self.agents = AgentServiceStub(self._channel)
        self.sessions = SessionServiceStub(self._channel)
        self.messages = MessageServiceStub(self._channel)
        self.clock = ClockServiceStub(self._channel)
        self.admin = AdminServiceStub(self._channel)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes the channels; calls under way are cancelled."""
        await asyncio.gather(
            *(one.close() for one in (self._channel, *(stream.channel for stream in self._stream_channels)))
        )

    def watch(
        self, metadata: Metadata
    ) -> "grpc.aio.StreamStreamCall[WatchSessionsRequest, WatchSessionsResponse]":
        """Opens a stream on which sessions are watched; it waits for a server that is away."""
        channel = self._stream_channel()
        return self._counted(
            channel, channel.sessions.WatchSessions(wait_for_ready=True, metadata=self._sent(metadata))
        )

    def converse(
        self, request: ConverseRequest, metadata: Metadata
    ) -> "grpc.aio.UnaryStreamCall[ConverseRequest, ConverseResponse]":
        """Sends a message whose reply is waited for."""
        sent, channel = self._sent(metadata), self._stream_channel()
        return self._counted(
            channel, channel.messages.Converse(request, timeout=self.reply_deadline_seconds, metadata=sent)
        )

    def export_transcript(
        self, request: ExportTranscriptRequest, metadata: Metadata
    ) -> "grpc.aio.UnaryStreamCall[ExportTranscriptRequest, ExportTranscriptResponse]":
        """Asks for a transcript, which its client may take its time to read."""
        sent, channel = self._sent(metadata), self._stream_channel()
        return self._counted(channel, channel.messages.ExportTranscript(request, metadata=sent))

    def send_and_wait(
        self, message: SendMessageRequest, metadata: Metadata
    ) -> "grpc.aio.UnaryStreamCall[SendMessageRequest, SendMessageResponse]":
        """Sends a message in a call that waits for the reply.

        It is read as a stream of one answer, so that its initial metadata come first.
        """
        message.reply_wait.FromTimedelta(timedelta(seconds=self.reply_deadline_seconds))
        sent, channel = self._sent(metadata), self._stream_channel()
        return self._counted(
            channel, channel.send_and_wait(message, timeout=self.reply_deadline_seconds, metadata=sent)
        )

    def _stream_channel(self) -> _StreamChannel:
        """A channel that has room for one more stream."""
        for one in self._stream_channels:
            if one.streams < STREAMS_PER_CHANNEL:
                return one
        channel = self._open_stream_channel()
        send_and_wait: grpc.aio.UnaryStreamMultiCallable[SendMessageRequest, SendMessageResponse]
        send_and_wait = channel.unary_stream(
            _SEND_MESSAGE, SendMessageRequest.SerializeToString, SendMessageResponse.FromString
        )
        self._stream_channels.append(
            _StreamChannel(channel, SessionServiceStub(channel), MessageServiceStub(channel), send_and_wait)
        )
        return self._stream_channels[-1]

    def _counted(self, channel: _StreamChannel, call: _Call) -> _Call:
        """The call, which counts on its channel until it is done."""

        def done(_: object) -> None:
            channel.streams -= 1

        channel.streams += 1
        call.add_done_callback(done)
        return call

    def stop_streams(self) -> None:
        """Ends the streams that views write: they would not end by themselves."""
        if not self._stopping.done():
            self._stopping.set_result(None)

    def iterate(self, items: AsyncIterator[_Response]) -> Iterator[_Response]:
        """The items of an asynchronous iterator for a view's generator, until the facade stops."""
        while not self._stopping.done():
            following = asyncio.ensure_future(_next(items))
            try:
                await_(asyncio.wait([following, self._stopping], return_when=asyncio.FIRST_COMPLETED))
            finally:
                following.cancel()
            if not following.done() or (item := following.result()) is None:
                return
            # Kept no longer, while its client reads what becomes of it.
            yield item.pop()

    def wait(self, answer: Awaitable[_Response]) -> _Response:
        """Waits in a view for an answer. Raises what the awaitable raises.

        :raises ApiError: the facade stops and could wait no longer
        :raises CancelledError: the client has gone
        """
        try:
            return await_(answer)
        except BaseException as error:
            forget_frames(error)
            if isinstance(error, asyncio.CancelledError) and self._stopping.done():
                raise stopping() from None
            raise
        finally:
            # The error has this frame, which must not have the call.
            del answer

    def ask(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        metadata: Metadata,
    ) -> Awaitable[_Response]:
        """Makes one call, to be awaited. Raises grpc.aio.AioRpcError."""
        return method(request, timeout=self.deadline_seconds, metadata=self._sent(metadata))

    def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        metadata: Metadata,
    ) -> _Response:
        """Makes one call from a view and waits for its answer.

        Raises grpc.aio.AioRpcError, and the errors of `wait`.
        """
        return self.wait(self.ask(method, request, metadata))

    def read_page(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Page],
        request: _Request,
        metadata: Metadata,
        *,
        is_first: bool,
    ) -> _Page:
        """Makes a call as `call` does whose answer may be large.

        The first page of an answer is read at once. Further ones, and a large one while much is held already,
        are read in turn.
        """
        if is_first:
            page = self.call(method, request, metadata)
            if not self.answers.is_full or page.ByteSize() <= SMALL_BYTES:
                return page
            del page
            stop_counting()
        return self.wait(self.answers.read_in_turn(lambda: self.ask(method, request, metadata)))

    def _sent(self, metadata: Metadata) -> Metadata:
        """What a call for a request carries. Raises ApiError while the server may not be called."""
        if self.is_held:
            raise out_of_reach()
        return metadata + self._own if self._own else metadata


async def read(call: "_Streaming[_Response]") -> _Response | None:
    """The next response of a stream; None at its end. Raises grpc.aio.AioRpcError."""
    response = await call.read()
    return None if response is grpc.aio.EOF else cast(_Response, response)


async def _next(items: AsyncIterator[_Response]) -> list[_Response] | None:
    """The next item, in a list because it may be None itself; None at the end."""
    async for item in items:
        return [item]
    return None
