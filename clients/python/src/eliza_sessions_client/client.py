"""The client for programs without an event loop."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

import grpc

from eliza_sessions_client import calls, connection, streams
from eliza_sessions_client._api import message_pb2, user_data_service_pb2
from eliza_sessions_client.credentials import Metadata
from eliza_sessions_client.failures import error_from
from eliza_sessions_client.retries import CALL_SECONDS, Attempts
from eliza_sessions_client.signatures import described_by
from eliza_sessions_client.traces import present_trace

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


def _called(build: Callable[P, calls.Call[T]]) -> Callable[Concatenate["Client", P], T]:
    """A method that makes a call."""

    @described_by(build)
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._call(build(*args, **kwargs))

    return method


def _paged(build: Callable[P, calls.Pages[T]]) -> Callable[Concatenate["Client", P], Iterator[T]]:
    """A method that iterates over the items of pages."""

    @described_by(build)
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._page(build(*args, **kwargs))

    return method


def _streamed(build: Callable[P, streams.Stream[T]]) -> Callable[Concatenate["Client", P], Iterator[T]]:
    """A method that iterates over a stream."""

    @described_by(build)
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._stream(build(*args, **kwargs))

    return method


def _awaited(
    build: Callable[P, streams.Stream[Any]], kind: type[R], name: str = "", text: str = ""
) -> Callable[Concatenate["Client", P], R]:
    """A method that reads a stream to its end, and returns the part of it that is of a kind."""

    @described_by(build, name, text)
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> R:
        found = [part for part in self._stream(build(*args, **kwargs)) if isinstance(part, kind)]
        return found[0]

    return method


class Client:
    """A client of the service, for any number of threads. A context manager, which closes it.

    A call raises the class of `errors` that belongs to its failure. It is repeated until its deadline where
    that is safe: after a lost connection, and when the service says how long to wait.
    """

    def __init__(
        self,
        address: str = connection.ADDRESS,
        *,
        timeout: float = CALL_SECONDS,
        **options: Unpack[connection.ConnectionOptions],
    ) -> None:
        """`timeout`: the seconds that a call may take with all its attempts. `options`: see
        ConnectionOptions.
        """
        self._credentials = connection.credentials(options)
        self._channel = connection.open_channel(address, options)
        self._timeout_s = timeout
        self._is_closed = False
        self._stubs = connection.stubs(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all calls; streams simply end."""
        self._is_closed = True
        self._channel.close()

    create = _called(calls.create)
    get = _called(calls.get)
    sessions = _paged(calls.sessions)
    renew = _called(calls.renew)
    update_timeout = _called(calls.update_timeout)
    heartbeat = _called(calls.heartbeat)
    delete = _called(calls.delete)
    send = _called(calls.send)
    messages = _paged(calls.messages)
    agents = _paged(calls.agents)
    create_access_token = _called(calls.create_access_token)
    user_sessions = _paged(calls.user_sessions)
    status = _called(calls.status)
    watch = _streamed(streams.watch)
    converse = _streamed(streams.converse)
    send_and_wait = _awaited(
        streams.converse,
        message_pb2.Message,
        "send_and_wait",
        "Sends a message and returns the reply. Its arguments and errors are those of `converse`.",
    )
    transcript = _streamed(streams.transcript)
    export_user = _streamed(streams.export_user)
    erase_user = _awaited(streams.erase_user, user_data_service_pb2.DeleteUserDataResponse.Receipt)

    def _metadata(self) -> Metadata:
        return (*self._credentials.metadata(), *present_trace())

    def _call(self, call: calls.Call[T]) -> T:
        method = getattr(self._stubs[call.service], call.method)
        attempts = Attempts(call, self._timeout_s)
        while True:
            try:
                metadata = self._metadata()
                return call.unpack(method(call.request, timeout=attempts.left(), metadata=metadata))
            except grpc.RpcError as failed:
                if self._is_closed:
                    raise error_from(failed) from None
                if (pause_s := attempts.pause(failed)) is None:
                    return call.unpack(None)
                time.sleep(pause_s)

    def _page(self, pages: calls.Pages[T]) -> Iterator[T]:
        call: calls.Call[Any] | None = pages.first
        while call:
            page = self._call(call)
            yield from pages.items(page)
            call = pages.after(page)

    def _stream(self, stream: streams.Stream[T]) -> Iterator[T]:
        method = getattr(self._stubs[stream.service], stream.method)
        while not stream.is_over:
            metadata, failed = self._metadata(), None
            responses = method(stream.request(), timeout=stream.timeout(), metadata=metadata)
            try:
                for response in responses:
                    yield from stream.take(response)
                    if stream.is_over:
                        return
            except grpc.RpcError as error:
                failed = error
            finally:
                responses.cancel()
            if self._is_closed:
                return
            yield from stream.lose(failed, is_renewable=self._credentials.is_renewable)
            if not stream.is_over:
                time.sleep(stream.pause())
