"""The facade as a running program."""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from functools import partial
from typing import Final

import uvicorn

from eliza.sessions.v1.limits import MAX_BODY_BYTES
from rest_facade.admission import Admission, Places
from rest_facade.app import create_app
from rest_facade.backend import Backend
from rest_facade.bridge import Bridge, Message, Receive, Send
from rest_facade.clients import Networks
from rest_facade.connections import Connections
from rest_facade.protocol import HttpProtocol, Refusals, WebSocketProtocol
from rest_facade.sockets import PATH, Sockets

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
    trusted_proxies: Networks = (),
) -> None:
    """Serves REST on a bound socket until SIGTERM or SIGINT, then lets the requests under way finish and returns.

    `server` is the gRPC server's HOST:PORT; it need not be there yet. `on_ready` is called once connections are accepted. At most
    `max_requests` may wait for their answers at a time. An idle connection is kept for `keep_alive_seconds`. A call to the server may
    take `deadline_seconds`, the requests under way at the signal `grace_seconds`: then they are cancelled. `trusted_proxies` name
    their clients in X-Forwarded-For.
    """
    backend = Backend(server, deadline_seconds, reply_deadline_seconds)
    sockets = Sockets(backend, max_body_bytes)
    places = Places(max_requests)
    connections = Connections(trusted_proxies)
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
        app,
        interface="asgi3",
        http=partial(HttpProtocol, places, Refusals(), connections),  # type: ignore[arg-type] # it is called, and nothing else
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
