"""The facade as a running program."""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from functools import partial
from typing import Final, TypeAlias

import uvicorn

from eliza.sessions.v1.limits import MAX_BODY_BYTES
from rest_facade.admission import Admission, Places, refusal_of
from rest_facade.app import create_app
from rest_facade.backend import Backend
from rest_facade.bridge import Bridge, Message, Receive, Send
from rest_facade.clients import Networks
from rest_facade.connections import Connections
from rest_facade.errors import ApiError
from rest_facade.origins import ALWAYS, Origins, is_loopback
from rest_facade.protocol import HttpProtocol, Refusals, WebSocketProtocol
from rest_facade.sockets import PATH, Sockets

App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

ACCEPTED_AT_ONCE: Final = 32
"""How many connections are accepted in a turn of the loop at most."""


async def serve(
    server: str,
    listener: socket.socket,
    on_ready: Callable[[], None],
    *,
    max_requests: int,
    grace_seconds: float,
    deadline_seconds: float = 30,
    reply_deadline_seconds: float = 120,
    keep_alive_seconds: int = 75,
    max_body_bytes: int = MAX_BODY_BYTES,
    allowed_origins: Sequence[str] = (),
    allowed_hosts: Sequence[str] = (),
    trusted_proxies: Networks = (),
) -> None:
    """Serves REST on a bound socket until SIGTERM or SIGINT, then lets the requests under way finish and returns.

    `server` is the gRPC server's HOST:PORT; it need not be there yet. `on_ready` is called once connections are accepted. At most
    `max_requests` may wait for their answers at a time. An idle connection is kept for `keep_alive_seconds`. A call to the server may
    take `deadline_seconds`, the requests under way at the signal `grace_seconds`: then they are cancelled. `Origins` says what
    `allowed_origins` and `allowed_hosts` mean. `trusted_proxies` name their clients in X-Forwarded-For.
    """
    origins = Origins(allowed_origins, allowed_hosts, is_loopback=is_loopback(listener.getsockname()[0]))
    connections = Connections(trusted_proxies)
    backend = Backend(server, deadline_seconds, reply_deadline_seconds, connections.answers)
    sockets = Sockets(backend, max_body_bytes)
    places = Places(max_requests)
    bridge = Admission(Bridge(create_app(backend), _running(backend, sockets, connections), max_body_bytes), places)

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" or (scope["type"] == "http" and f"{scope['path']}/".startswith(f"{PATH}/")):
            await sockets.app(scope, receive, send)
        else:
            await bridge(scope, receive, send)

    async def end_streams(seconds: float) -> None:
        backend.stop_streams()
        await sockets.close(seconds)

    config = uvicorn.Config(
        guarded(app, origins),
        interface="asgi3",
        headers=[(name.decode(), value.decode()) for name, value in ALWAYS],
        http=partial(HttpProtocol, origins, places, Refusals(), connections),  # type: ignore[arg-type] # it is called, and nothing else
        ws=partial(WebSocketProtocol, connections),  # type: ignore[arg-type] # as above
        ws_max_size=max_body_bytes,
        # A few bytes could unpack to many messages of the greatest size.
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=keep_alive_seconds,
    )
    await _Server(config, on_ready, end_streams, grace_seconds).serve(accepting(listener))


def guarded(app: App, origins: Origins) -> App:
    """The app, of whose HTTP requests those that `origins` refuses are answered before it sees them.

    The handshake of a WebSocket is checked by the protocol, which could not answer it otherwise.
    """

    async def serve(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        cors = origins.cors(scope["headers"])

        async def write(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *cors]
            await send(message)

        try:
            origins.check(scope["headers"])
        except ApiError as error:
            refusal = refusal_of(error)
            # Who waits for `100 Continue` may keep the body and go on: what comes next is not to be taken for it.
            is_waiting = any(name == b"expect" for name, _ in scope["headers"])
            headers = [*refusal.headers, *([(b"connection", b"close")] if is_waiting else [])]
            await write({"type": "http.response.start", "status": refusal.status, "headers": headers})
            await write({"type": "http.response.body", "body": refusal.body})
        else:
            await app(scope, receive, write)

    return serve


def accepting(listener: socket.socket) -> list[socket.socket]:
    """A bound socket, as often as connections are to be accepted in a turn of the loop.

    uvloop accepts one of each socket: where turns are long, because there is much to do, who connects would wait for seconds.
    """
    # Before it is duplicated, which would have it block again: for a moment, but also for other processes that accept from it.
    listener.setblocking(False)
    return [listener, *(listener.dup() for _ in range(ACCEPTED_AT_ONCE - 1))]


@contextlib.asynccontextmanager
async def _running(backend: Backend, sockets: Sockets, connections: Connections) -> AsyncIterator[None]:
    """The way to the server is open, the sockets' rooms follow it, and connections without progress end."""
    async with backend:
        tasks = [asyncio.create_task(sockets.rooms.run()), asyncio.create_task(connections.watch())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, on_ready: Callable[[], None], on_stop: Callable[[float], Awaitable[None]], grace_seconds: float
    ) -> None:
        """`on_stop` may take so many seconds; what it leaves of `grace_seconds` the requests under way have."""
        super().__init__(config)
        self._on_ready = on_ready
        self._on_stop = on_stop
        self._grace_seconds = grace_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        begun_s = time.monotonic()
        # First of all, because a successor may want the address while we are still at it.
        for server in self.servers:
            server.close()
        for one in sockets or ():
            one.close()
        await self._on_stop(self._grace_seconds)
        left_s = max(0.0, begun_s + self._grace_seconds - time.monotonic())
        # The type is that of a command line; it is waited for as it is.
        self.config.timeout_graceful_shutdown = left_s  # type: ignore[assignment]
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        # uvicorn's own raises the signal again after the orderly stop, which would end the process before its caller has stopped the rest.
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
