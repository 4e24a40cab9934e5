"""The Socket.IO server: its sockets, and the events that are sent to them."""

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final

import grpc.aio
from socketio import exceptions

from eliza.sessions.errors import error_info, forget_frames
from eliza.sessions.v1.session_service_pb2 import GetServiceStatusRequest
from rest_facade.patches import socketio as patched
from rest_facade.shapes import errors, json_body
from rest_facade.shapes.asgi import Message, Receive, Send
from rest_facade.shapes.credentials import ADDRESS, Metadata, read_auth, read_headers, without_address
from rest_facade.shapes.errors import ApiError, out_of_reach
from rest_facade.shapes.events import Payload
from rest_facade.socketio.callers import Callers
from rest_facade.socketio.client_events import ClientEvents
from rest_facade.socketio.engine import CONNECT_SECONDS, Engine
from rest_facade.upstream.backend import Backend

PATH: Final = "/socket.io"
WRONG_POLICY: Final = "wrong-credentials"
"""The rate limit by which the server refuses wrong credentials."""

BACKLOG: Final = 500
"""How many events may wait for a WebSocket."""

POLLING_BACKLOG: Final = 10
"""How many events may wait for a polling client: fewer than an answer holds."""


class _Json:
    """How events are written and read."""

    @staticmethod
    def dumps(value: object, **_: object) -> str:
        """Returns the text of an event, with metadata and attachments as they came from the server."""
        try:
            return json_body.dump(value).decode()
        except TypeError:
            # It repeats a client's value: half a surrogate pair, or a number of any size.
            return json.dumps(value, separators=(",", ":"))

    loads = staticmethod(json.loads)


class Sockets:
    """The Socket.IO server of the contract."""

    def __init__(self, backend: Backend, max_message_bytes: int) -> None:
        # How many messages are being handed to connections.
        self._sending = 0
        # Events of one socket are handled one after the other, so that messages keep their order.
        self._io = patched.Server(
            self._greet,
            async_mode="asgi",
            # The library checks no origin: `Origins` does, before it sees a request.
            cors_allowed_origins=[],
            async_handlers=False,
            max_http_buffer_size=max_message_bytes,
            json=_Json,
            # Loggers of its own making would print each line once more, in another form.
            logger=logging.getLogger("socketio"),
            engineio_logger=logging.getLogger("engineio"),
        )
        self._backend = backend
        self.callers = Callers(backend, self, self._end_soon)
        self._ending: set[asyncio.Task[None]] = set()
        self._engine = Engine(self._io, PATH, max_message_bytes)
        self._io.on("connect", self._connect)
        self._io.on("disconnect", self._disconnect)
        self._events = ClientEvents(self._io, backend, self.callers)

    @property
    def count(self) -> int:
        """How many sockets are open."""
        return len(self._io.eio.sockets)

    async def app(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serves one connection as an ASGI 3 app."""

        async def counted(message: Message) -> None:
            self._sending += 1
            try:
                await send(message)
            finally:
                self._sending -= 1

        await self._engine(scope, receive, counted)

    async def emit(self, socket_id: str, name: str, payload: Payload) -> None:
        """Queues an event for a socket; one that is gone is ignored."""
        await self._io.emit(name, payload, to=socket_id)

    async def emit_to_all(self, socket_ids: Sequence[str], name: str, payload: Payload) -> None:
        """Queues an event, encoded once, for some sockets; those that are gone are ignored."""
        await self._io.emit(name, payload, to=list(socket_ids))

    def is_full(self, socket_id: str) -> bool:
        """Whether too many events wait for a socket, so that it should catch up from the server's store."""
        transport = self._transport(socket_id)
        return transport is not None and patched.count_waiting(transport) > (
            BACKLOG if transport.upgraded else POLLING_BACKLOG
        )

    async def wait_until_flushed(self, socket_id: str) -> None:
        """Waits until nothing waits for a socket, or it is gone."""
        if transport := self._transport(socket_id):
            await patched.wait_until_sent(transport)

    async def close(self, grace_seconds: float) -> None:
        """Answers the events being handled, refuses new ones, and ends the polls so that clients reconnect.

        The HTTP server itself closes WebSockets, whatever still waits to be sent.
        """
        self._events.is_stopping = True
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                while self._events.busy:  # noqa: ASYNC110 - as rare as stops are
                    await asyncio.sleep(0.01)
                await asyncio.gather(
                    *(
                        patched.wait_until_sent(transport)
                        for transport in self._io.eio.sockets.values()
                        if transport.upgraded
                    )
                )
                # A message that has left its queue is being sent from the same turn of the loop on.
                while self._sending:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.01)
        for transport in list(self._io.eio.sockets.values()):
            if not transport.upgraded:
                await transport.close(wait=False)

    def _transport(self, socket_id: str) -> Any:
        return patched.find_transport(self._io, socket_id)

    async def _connect(self, socket_id: str, environ: Mapping[str, Any], auth: object = None) -> None:
        """Takes a socket with its credential. Raises ConnectionRefusedError for a bad one."""
        scope = environ["asgi.scope"]
        headers = read_headers(scope["headers"], scope["state"].get(ADDRESS, ()))
        # What says the same in both is said once; the server refuses a header that is sent twice.
        metadata = (*(pair for pair in read_auth(auth) if pair not in headers), *headers)
        if without_address(metadata):
            await self._check(metadata)
        transport = self._transport(socket_id)
        if transport is None or transport.closed:
            raise exceptions.ConnectionRefusedError("The connection has ended")
        self._engine.note_connected(transport.sid)
        self.callers.add(socket_id, metadata)

    async def _check(self, metadata: Metadata) -> None:
        """Asks the server about a credential.

        Raises ConnectionRefusedError where it is not good. A server that cannot say lets the socket in: each
        of its events is judged anyway.
        """
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                status = self._backend.sessions.GetServiceStatus
                await self._backend.ask(status, GetServiceStatusRequest(), metadata)
        except (grpc.aio.AioRpcError, ApiError, TimeoutError) as error:
            forget_frames(error)
            fault = error if isinstance(error, ApiError) else out_of_reach()
            if isinstance(error, grpc.aio.AioRpcError) and error_info(error):
                fault = errors.from_rpc(error)
            # A rate of a good credential's says nothing against it, that of wrong ones does.
            is_busy = fault.http_status == 429 and fault.details.get("policy") != WRONG_POLICY
            if fault.http_status < HTTPStatus.INTERNAL_SERVER_ERROR and not is_busy:
                told = {"error": fault.message, "code": fault.row.reason}
                raise exceptions.ConnectionRefusedError(fault.message, told) from None

    async def _greet(self, socket_id: str) -> None:
        """Says hello, behind the library's own answer."""
        payload = {"message": "Connected to eliza-sessions", "socketId": socket_id}
        await self.emit(socket_id, "connection_established", payload)

    def _end_soon(self, socket_ids: Sequence[str]) -> None:
        task = asyncio.ensure_future(self._end(socket_ids))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, socket_ids: Sequence[str]) -> None:
        """Disconnects sockets whose credential is no longer good, and says so."""
        payload = {"error": "The credential has expired", "code": "CREDENTIAL_EXPIRED"}
        for socket_id in socket_ids:
            transport = self._transport(socket_id)
            await self.emit(socket_id, "messageError", payload)
            await self._io.disconnect(socket_id)
            if transport is not None:
                self._engine.note_disconnected(transport.sid)

    async def _disconnect(self, socket_id: str, *_reason: object) -> None:
        self.callers.forget(socket_id)
        self._events.forget(socket_id)
