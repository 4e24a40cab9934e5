"""Socket.IO: both dialects of incoming events, and the sockets that outgoing ones are sent to."""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias

import grpc.aio
import socketio

from eliza.sessions.errors import forget_frames
from eliza.sessions.limits import MAX_CONTENT_CODE_POINTS
from eliza.sessions.texts import is_text
from eliza.sessions.v1.json_form_pb2 import JSON_FORM_TEXT
from eliza.sessions.v1.session_pb2 import Session
from eliza.sessions.v1.session_service_pb2 import GetSessionRequest
from rest_facade.patches import socketio as patched
from rest_facade.shapes import errors, fields, json_body, requests
from rest_facade.shapes.asgi import Message, Receive, Send
from rest_facade.shapes.errors import ApiError
from rest_facade.shapes.events import Payload
from rest_facade.socketio.engine import Engine
from rest_facade.socketio.rooms import Rooms
from rest_facade.upstream.backend import Backend

Handler: TypeAlias = Callable[[str, Mapping[str, Any]], Awaitable[None]]

PATH: Final = "/socket.io"
JOIN: Final = 1
SEND: Final = 2

BACKLOG: Final = 500
"""How many events may wait for a WebSocket."""

POLLING_BACKLOG: Final = 10
"""How many events may wait for a polling client: fewer than an answer holds."""

MAX_HINTS: Final = 10
"""How many `messageError` a socket gets for events that do not exist."""

_TO_JOIN: Final = 'emit "join" with {"roomId": "<sessionId>"}'
_TO_LEAVE: Final = 'emit "leave" with {"roomId": "<sessionId>"}'
_TO_SEND: Final = 'emit "message" with {"type": 2, "payload": {"roomId": "<sessionId>", "message": "<text>"}}'
"""What an error says would have been right."""

_IGNORED: Final = ("subscribe_logs", "unsubscribe_logs", "update_log_filters")
"""Events for other parts of a server of live clients. Their users have done nothing wrong."""


class _Json:
    """How events are written and read."""

    @staticmethod
    def dumps(value: object, **_: object) -> str:
        """The text of an event, in which metadata and attachments stand as they came from the server."""
        try:
            return json_body.dump(value).decode()
        except TypeError:
            # It repeats something of a client's: half a surrogate pair, or a number of any size.
            return json.dumps(value, separators=(",", ":"))

    loads = staticmethod(json.loads)


class Sockets:
    """The Socket.IO server of the contract."""

    def __init__(self, backend: Backend, max_message_bytes: int) -> None:
        self._backend = backend
        self._stopping = False
        # How many events of clients are being handled, and how many messages are being handed to connections.
        self._busy = 0
        self._sending = 0
        # How often each socket was told that an event does not exist.
        self._hints: Counter[str] = Counter()
        # Events of one socket are handled one after the other, so that messages keep their order.
        self._io = socketio.AsyncServer(
            async_mode="asgi",
            # The library looks at no origin: `Origins` does, before it sees a request.
            cors_allowed_origins=[],
            async_handlers=False,
            # A client hears that it is connected before it hears anything else.
            always_connect=True,
            max_http_buffer_size=max_message_bytes,
            json=_Json,
            # Loggers of its own making would print each line once more, in another form.
            logger=logging.getLogger("socketio"),
            engineio_logger=logging.getLogger("engineio"),
        )
        self.rooms = Rooms(backend, self)
        self._engine = Engine(self._io, PATH, max_message_bytes)
        self._io.on("connect", self._connect)
        self._io.on("disconnect", self._disconnect)
        self._io.on("*", self._answer_unknown)
        join, send = self._answered(self._join, _TO_JOIN), self._answered(self._send, _TO_SEND)
        self._io.on("join", join)
        self._io.on("leave", self._answered(self._leave, _TO_LEAVE))
        self._io.on("message", self._answered(self._message, _TO_SEND))
        # A bare event's name is a string or, as JavaScript sends it, a number.
        for number, handler in ((JOIN, join), (SEND, send)):
            self._io.on(number, handler)
            self._io.on(str(number), handler)

    async def app(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serves one connection, as ASGI 3 wants it."""

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
        """Queues an event, which is encoded once, for some sockets; those that are gone are ignored."""
        await self._io.emit(name, payload, to=list(socket_ids))

    def is_full(self, socket_id: str) -> bool:
        """Whether so many events wait for a socket that it should be served from the server's store, at its
        own pace.
        """
        transport = self._transport(socket_id)
        return transport is not None and patched.count_waiting(transport) > (
            BACKLOG if transport.upgraded else POLLING_BACKLOG
        )

    async def flushed(self, socket_id: str) -> None:
        """Waits until nothing waits for a socket, or it is gone."""
        if transport := self._transport(socket_id):
            await patched.wait_until_sent(transport)

    async def close(self, grace_seconds: float) -> None:
        """Answers what is being handled and refuses what comes, then ends the polls, in a way that has
        clients connect again.

        WebSockets the HTTP server closes by itself, whatever still waits to be sent.
        """
        self._stopping = True
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                while self._busy:  # noqa: ASYNC110 - as rare as stops are
                    await asyncio.sleep(0.01)
                await asyncio.gather(
                    *(
                        patched.wait_until_sent(transport)
                        for transport in self._io.eio.sockets.values()
                        if transport.upgraded
                    )
                )
                # What has left a queue is being sent from that very turn of the loop on.
                while self._sending:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.01)
        for transport in list(self._io.eio.sockets.values()):
            if not transport.upgraded:
                await transport.close(wait=False)

    def _transport(self, socket_id: str) -> Any:
        """The connection of a socket; None when it is gone."""
        return patched.find_transport(self._io, socket_id)

    async def _connect(self, socket_id: str, environ: Mapping[str, Any], auth: object = None) -> None:
        if transport := self._transport(socket_id):
            self._engine.note_connected(transport.sid)
        await self.emit(
            socket_id,
            "connection_established",
            {"message": "Connected to eliza-sessions", "socketId": socket_id},
        )

    async def _disconnect(self, socket_id: str, *_reason: object) -> None:
        self.rooms.forget(socket_id)
        self._hints.pop(socket_id, None)
        if transport := self._transport(socket_id):
            # The library leaves the last poll of a client that said goodbye waiting.
            patched.end_poll(transport)

    async def _answer_unknown(self, name: object, socket_id: str, *_data: object) -> Payload:
        """Tells a socket which events there are: as `messageError` the first few times, and where it asks for
        an acknowledgement.
        """
        if name in _IGNORED:
            return {"success": False}
        to_do = f"to send, {_TO_SEND}; to join, {_TO_JOIN}; to leave, {_TO_LEAVE}"
        told = {"error": f'there is no event "{requests.display(name)}": {to_do}', "code": "INVALID_FIELD"}
        self._hints[socket_id] += 1
        if self._hints[socket_id] <= MAX_HINTS:
            await self.emit(socket_id, "messageError", told)
        return {"success": False, **told}

    def _answered(self, handler: Handler, to_do: str) -> Callable[..., Awaitable[Payload]]:
        """A handler whose failures the socket hears as `messageError`, and in its acknowledgement.

        `to_do` is what the error says where the payload is no object.
        """

        async def answered(socket_id: str, data: object = None, *_more: object) -> Payload:
            self._busy += 1
            try:
                return await answer(socket_id, data)
            finally:
                self._busy -= 1

        async def answer(socket_id: str, data: object) -> Payload:
            try:
                if self._stopping:
                    raise ApiError("UNAVAILABLE", "The service is stopping", retryAfterSeconds=1)
                if not isinstance(data, dict):
                    raise _invalid("payload", data, f"must be an object: {to_do}")
                await handler(socket_id, data)
            except ApiError as error:
                fault = error
                forget_frames(error)
            except grpc.aio.AioRpcError as error:
                fault = errors.from_rpc(error)
                forget_frames(error)
            except Exception as error:  # noqa: BLE001 - the client hears an id, the log has the cause
                fault = errors.unforeseen(error)
                forget_frames(error)
            else:
                return {"success": True}
            await self.emit(socket_id, "messageError", {"error": fault.message, "code": fault.row.reason})
            return {"success": False, "error": fault.message, "code": fault.row.reason}

        return answered

    async def _message(self, socket_id: str, data: Mapping[str, Any]) -> None:
        """The envelope `{type, payload}` of live clients."""
        payload = data.get("payload")
        if not isinstance(payload, dict):
            raise _invalid("payload", payload, f"must be an object: {_TO_SEND}")
        match data.get("type"):
            case 1:
                await self._join(socket_id, payload)
            case 2:
                await self._send(socket_id, payload)
            case other:
                reason = f"must be the number {JOIN} (join) or {SEND} (send): {_TO_SEND}"
                raise _invalid("type", other, reason)

    async def _join(self, socket_id: str, data: Mapping[str, Any]) -> None:
        room_id = _room_id(data, _TO_JOIN)
        after = data.get("after")
        if after is not None:
            after = requests.after_sequence(requests.display(after), room_id)

        async def welcome(session: Session) -> None:
            payload = {
                "message": f"Socket {socket_id} joined {room_id}",
                "channelId": session.channel_id,
                "roomId": room_id,
            }
            await self.emit(socket_id, "channel_joined", payload)
            await self.emit(socket_id, "room_joined", payload)

        session_id = await self._session_id(room_id)
        # One that has gone meanwhile was forgotten before it joins: it would be a member for good.
        if patched.is_connected(self._io, socket_id):
            await self.rooms.join(socket_id, session_id, room_id, after, welcome)

    async def _leave(self, socket_id: str, data: Mapping[str, Any]) -> None:
        self.rooms.leave(socket_id, await self._session_id(_room_id(data, _TO_LEAVE)))

    async def _send(self, socket_id: str, data: Mapping[str, Any]) -> None:
        room_id = _room_id(data, _TO_SEND)
        session_id = await self._session_id(room_id)
        if not isinstance(data.get("message"), str):
            reason = f"message must be a string of 1 to {MAX_CONTENT_CODE_POINTS} characters: {_TO_SEND}"
            raise ApiError("INVALID_CONTENT", f"Invalid content: {reason}", reason=reason)
        body = {
            "content": data.get("message"),
            "metadata": data.get("metadata"),
            "attachments": data.get("attachments"),
        }
        request, _ = requests.send_message(body, session_id)
        request_id = data.get("requestId")
        if request_id is not None:
            if not isinstance(request_id, str) or not is_text(request_id):
                raise _invalid("requestId", request_id, "must be a string")
            request.request_id = request_id
        message_id = data.get("messageId")
        if isinstance(message_id, (dict, list)):
            raise _invalid("messageId", message_id, "must be a string or a number")
        answer = await self._backend.messages.SendMessage(request, timeout=self._backend.deadline_seconds)
        ack = {
            "clientMessageId": message_id,
            "messageId": answer.message.message_id,
            "status": "received_by_server_and_processing",
            "channelId": room_id,
            "roomId": room_id,
        }
        if unknown := fields.find_unknown(data, fields.SOCKET_MESSAGE):
            ack["unknownFields"] = fields.show(unknown)
        await self.emit(socket_id, "messageAck", ack)

    async def _session_id(self, room_id: str) -> str:
        """The session of a room id, which may be the session's or its channel's, expired or not.

        Raises ApiError, grpc.aio.AioRpcError.
        """
        for field in ("session_id", "channel_id"):
            request = GetSessionRequest(**{field: room_id}, json_form=JSON_FORM_TEXT)
            try:
                answer = await self._backend.sessions.GetSession(
                    request, timeout=self._backend.deadline_seconds
                )
            except grpc.aio.AioRpcError as error:
                fault = errors.from_rpc(error)
                if fault.row.reason == "SESSION_EXPIRED":
                    return str(fault.details["sessionId"])
                if fault.row.reason != "SESSION_NOT_FOUND":
                    raise fault from error
            else:
                return answer.session.session_id
        raise ApiError("SESSION_NOT_FOUND", "Session not found", sessionId=requests.display(room_id))


def _room_id(data: Mapping[str, Any], to_do: str) -> str:
    """Contract: "`channelId` or `roomId`". Raises ApiError, which says what `to_do`."""
    room_id = data.get("channelId") or data.get("roomId")
    if room_id is None:
        reason = f"Missing required fields: roomId; {to_do}"
        raise ApiError("MISSING_FIELDS", reason, missingFields=["roomId"])
    if not isinstance(room_id, str) or not is_text(room_id):
        raise _invalid("roomId", room_id, f"must be a string: {to_do}")
    return room_id


def _invalid(field: str, value: object, reason: str) -> ApiError:
    return ApiError(
        "INVALID_FIELD", f"{field} {reason}", field=field, value=requests.display(value), reason=reason
    )
