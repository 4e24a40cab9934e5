"""The facade: how its parts are put together, started and stopped."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from eliza.sessions.limits import MAX_BODY_BYTES
from rest_facade.console.blueprint import Console
from rest_facade.front_door.admission import Admission
from rest_facade.front_door.clients import Networks
from rest_facade.front_door.connections import Connections
from rest_facade.front_door.door import Door
from rest_facade.front_door.observer import NOBODY, Observer
from rest_facade.front_door.origins import Origins, is_loopback
from rest_facade.front_door.protocol import HttpProtocol
from rest_facade.front_door.tls import TlsEntrance
from rest_facade.front_door.websockets import WebSockets
from rest_facade.routes.app import create_app
from rest_facade.routes.sessions import HEALTH
from rest_facade.socketio.sockets import PATH, Sockets
from rest_facade.upstream.backend import Backend

ACCEPTED_AT_ONCE: Final = 32
"""How many connections are accepted in a turn of the loop at most."""

CANCELLED_SECONDS: Final = 1.0
"""How long requests that are cancelled at the stop may take until they are over."""


class Usage(NamedTuple):
    """How many requests wait or are worked on, how many connections are open, and how many sockets."""

    requests: int
    connections: int
    sockets: int


class Facade:
    """REST on one bound socket, for the loop that runs."""

    def __init__(
        self,
        backend: Backend,
        listener: socket.socket,
        *,
        max_requests: int,
        keep_alive_seconds: float = 75,
        max_body_bytes: int = MAX_BODY_BYTES,
        allowed_origins: Sequence[str] = (),
        allowed_hosts: Sequence[str] = (),
        trusted_proxies: Networks = (),
        tls: ssl.SSLContext | None = None,
        observer: Observer = NOBODY,
        has_console: bool = False,
    ) -> None:
        """At most `max_requests` may wait for their answers at a time. An idle connection stays for
        `keep_alive_seconds`.

        `Origins` says what `allowed_origins` and `allowed_hosts` mean. `trusted_proxies` name their clients
        in X-Forwarded-For. With `tls` it speaks https and wss alone. `observer` is told of all requests.
        `has_console`: whether /console and /docs exist.
        """
        self._backend = backend
        self._tls = tls
        self._handshakes: set[asyncio.Task[None]] = set()
        self._listeners = [listener]
        self._sockets = Sockets(backend, max_body_bytes)
        self._connections = Connections(trusted_proxies, None, backend.answers)
        app = create_app(backend, tells_routes=observer is not NOBODY)
        self._console = Console(backend, is_on=has_console)
        self._console.add_routes(app)
        self._door = Door(
            app=app,
            asgi=self._sockets.app,
            asgi_path=PATH,
            exempt_paths=frozenset([HEALTH]),
            origins=Origins(
                allowed_origins, allowed_hosts, is_loopback=is_loopback(listener.getsockname()[0])
            ),
            admission=Admission(max_requests),
            connections=self._connections,
            max_body_bytes=max_body_bytes,
            keep_alive_seconds=keep_alive_seconds,
            observer=observer,
        )
        self._websockets = WebSockets(self._sockets.app, self._connections, max_body_bytes)
        self._servers: list[asyncio.Server] = []
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_held(self) -> bool:
        """Whether requests are answered as if the server were away."""
        return self._backend.is_held

    @is_held.setter
    def is_held(self, is_held: bool) -> None:
        self._backend.is_held = is_held

    @property
    def has_console(self) -> bool:
        """Whether /console and /docs exist now."""
        return self._console.is_on

    @has_console.setter
    def has_console(self, has_console: bool) -> None:
        self._console.is_on = has_console

    def usage(self) -> Usage:
        """How much is open now."""
        return Usage(self._door.admission.taken, self._connections.count, self._sockets.count)

    async def start(self) -> None:
        """Accepts connections.

        The server need not be there yet. Raises OSError, after which nothing is left to be stopped.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop(0)
            raise

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        await self._backend.__aenter__()
        self._tasks = [loop.create_task(self._connections.watch())]
        self._listeners = duplicate_listener(self._listeners[0])
        connect: Callable[[], asyncio.Protocol] = partial(HttpProtocol, self._door, self._websockets)
        if self._tls:
            connect = partial(TlsEntrance, self._tls, self._connections, connect, self._handshakes)
        for listener in self._listeners:
            self._servers.append(await loop.create_server(connect, sock=listener, backlog=2048))

    async def stop(self, grace_seconds: float) -> None:
        """Accepts no more, lets the requests under way finish, and closes the way to the server.

        Cancels all that is not over after `grace_seconds`.
        """
        loop = asyncio.get_running_loop()
        stop_by_s = loop.time() + grace_seconds
        self._door.is_stopping = True
        # First of all, because a successor may want the address while we are still at it.
        for server in self._servers:
            server.close()
        for listener in self._listeners:
            listener.close()
        self._backend.stop_streams()
        await self._sockets.close(grace_seconds)
        self._connections.shut_down()
        try:
            async with asyncio.timeout_at(stop_by_s):
                await self._connections.wait_until_none()
                if tasks := self._running():
                    await asyncio.wait(tasks)
        except TimeoutError:
            for task in self._running():
                task.cancel()
            if tasks := self._running():
                await asyncio.wait(tasks, timeout=CANCELLED_SECONDS)
        self._sockets.callers.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._backend.__aexit__()

    def _running(self) -> set[asyncio.Task[None]]:
        return {*self._door.tasks, *self._websockets.tasks}


def duplicate_listener(listener: socket.socket) -> list[socket.socket]:
    """Returns a bound socket as often as the loop is to accept connections in one turn.

    uvloop accepts one connection per socket and turn. Under load turns are long, and clients would wait for
    seconds.
    """
    # Before it is duplicated: a duplicate makes the socket block again, also for other processes that share
    # it.
    listener.setblocking(False)
    return [listener, *(listener.dup() for _ in range(ACCEPTED_AT_ONCE - 1))]
