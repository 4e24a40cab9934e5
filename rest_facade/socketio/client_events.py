"""The events that clients send over Socket.IO, in both dialects: join, leave and send."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
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
from rest_facade.shapes import errors, fields, requests
from rest_facade.shapes.credentials import Metadata
from rest_facade.shapes.errors import ApiError
from rest_facade.shapes.events import Payload
from rest_facade.socketio.callers import Callers
from rest_facade.upstream.backend import Backend

Handler: TypeAlias = Callable[[str, Mapping[str, Any]], Awaitable[None]]

JOIN: Final = 1
SEND: Final = 2

MAX_HINTS: Final = 10
"""How many `messageError` a socket gets for events that do not exist."""

_TO_JOIN: Final = 'emit "join" with {"roomId": "<sessionId>"}'
_TO_LEAVE: Final = 'emit "leave" with {"roomId": "<sessionId>"}'
_TO_SEND: Final = 'emit "message" with {"type": 2, "payload": {"roomId": "<sessionId>", "message": "<text>"}}'
"""How the event should have been sent, for an error to say."""

_IGNORED: Final = ("subscribe_logs", "unsubscribe_logs", "update_log_filters")
"""Events that live clients send to other parts of their server. They are no mistake of their users."""


class ClientEvents:
    """Handles the events of all sockets."""

    def __init__(self, io: socketio.AsyncServer, backend: Backend, callers: Callers) -> None:
        self.is_stopping = False
        self.busy = 0
        """How many events are being handled, without those refused because the facade stops."""
        self._io = io
        self._backend = backend
        self._callers = callers
        # By socket: how many errors it got for unknown events.
        self._hints: Counter[str] = Counter()
        io.on("*", self._answer_unknown)
        join, send = self._wrap(self.join, _TO_JOIN), self._wrap(self._send, _TO_SEND)
        io.on("join", join)
        io.on("leave", self._wrap(self._leave, _TO_LEAVE))
        io.on("message", self._wrap(self._message, _TO_SEND))
        # A bare event's name is a string or, as JavaScript sends it, a number.
        for number, handler in ((JOIN, join), (SEND, send)):
            io.on(number, handler)
            io.on(str(number), handler)

    def forget(self, socket_id: str) -> None:
        """Keeps nothing of a socket that is gone."""
        self._hints.pop(socket_id, None)

    async def _emit(self, socket_id: str, name: str, payload: Payload) -> None:
        await self._io.emit(name, payload, to=socket_id)

    async def _answer_unknown(self, name: object, socket_id: str, *_data: object) -> Payload:
        """Tells a socket which events there are, MAX_HINTS times also as `messageError`."""
        if name in _IGNORED:
            return {"success": False}
        to_do = f"to send, {_TO_SEND}; to join, {_TO_JOIN}; to leave, {_TO_LEAVE}"
        told = {"error": f'there is no event "{requests.display(name)}": {to_do}', "code": "INVALID_FIELD"}
        self._hints[socket_id] += 1
        if self._hints[socket_id] <= MAX_HINTS:
            await self._emit(socket_id, "messageError", told)
        return {"success": False, **told}

    def _wrap(self, handler: Handler, to_do: str) -> Callable[..., Awaitable[Payload]]:
        """Wraps a handler. Its failures reach the socket as `messageError`, and in its acknowledgement.

        `to_do` is what the error suggests where the payload is no object.
        """

        async def answer_and_count(socket_id: str, data: object = None, *_more: object) -> Payload:
            if self.is_stopping:
                # Clients that repeat at once would keep the stop waiting.
                return await answer(socket_id, data)
            self.busy += 1
            try:
                return await answer(socket_id, data)
            finally:
                self.busy -= 1

        async def answer(socket_id: str, data: object) -> Payload:
            try:
                if self.is_stopping:
                    raise errors.stopping()
                if not isinstance(data, dict):
                    raise requests.invalid_field("payload", data, f"must be an object: {to_do}")
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
            await self._emit(socket_id, "messageError", {"error": fault.message, "code": fault.row.reason})
            return {"success": False, "error": fault.message, "code": fault.row.reason}

        return answer_and_count

    async def _message(self, socket_id: str, data: Mapping[str, Any]) -> None:
        """Handles the envelope `{type, payload}` of live clients."""
        payload = data.get("payload")
        if not isinstance(payload, dict):
            raise requests.invalid_field("payload", payload, f"must be an object: {_TO_SEND}")
        kind = data.get("type")
        if kind == JOIN:
            await self.join(socket_id, payload)
        elif kind == SEND:
            await self._send(socket_id, payload)
        else:
            reason = f"must be the number {JOIN} (join) or {SEND} (send): {_TO_SEND}"
            raise requests.invalid_field("type", kind, reason)

    async def join(self, socket_id: str, data: Mapping[str, Any]) -> None:
        """Joins a socket to the session that the payload names. Raises ApiError."""
        room_id = _room_id(data, _TO_JOIN)
        after = data.get("after")
        if after is not None:
            after = requests.after_sequence(requests.display(after))

        async def welcome(session: Session) -> None:
            payload = {
                "message": f"Socket {socket_id} joined {room_id}",
                "channelId": session.channel_id,
                "roomId": room_id,
            }
            await self._emit(socket_id, "channel_joined", payload)
            await self._emit(socket_id, "room_joined", payload)

        caller = self._callers.find(socket_id)
        session_id = await self.find_session(room_id, caller.metadata)
        # A socket that has gone meanwhile is forgotten already: it would stay a member for ever.
        if patched.is_connected(self._io, socket_id):
            await caller.rooms.join(socket_id, session_id, room_id, after, welcome, caller.metadata)

    async def _leave(self, socket_id: str, data: Mapping[str, Any]) -> None:
        caller = self._callers.find(socket_id)
        session_id = await self.find_session(_room_id(data, _TO_LEAVE), caller.metadata)
        caller.rooms.leave(socket_id, session_id)

    async def _send(self, socket_id: str, data: Mapping[str, Any]) -> None:
        room_id = _room_id(data, _TO_SEND)
        metadata = self._callers.find(socket_id).metadata
        session_id = await self.find_session(room_id, metadata)
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
                raise requests.invalid_field("requestId", request_id, "must be a string")
            request.request_id = request_id
        message_id = data.get("messageId")
        if isinstance(message_id, (dict, list)):
            raise requests.invalid_field("messageId", message_id, "must be a string or a number")
        answer = await self._backend.ask(self._backend.messages.SendMessage, request, metadata)
        ack = {
            "clientMessageId": message_id,
            "messageId": answer.message.message_id,
            "status": "received_by_server_and_processing",
            "channelId": room_id,
            "roomId": room_id,
        }
        if unknown := fields.find_unknown(data, fields.SOCKET_MESSAGE):
            ack["unknownFields"] = fields.show(unknown)
        await self._emit(socket_id, "messageAck", ack)

    async def find_session(self, room_id: str, metadata: Metadata) -> str:
        """Returns the session of a room id: the session's own or its channel's, expired or not.

        Raises ApiError, grpc.aio.AioRpcError.
        """
        for field in ("session_id", "channel_id"):
            request = GetSessionRequest(**{field: room_id}, json_form=JSON_FORM_TEXT)
            try:
                answer = await self._backend.ask(self._backend.sessions.GetSession, request, metadata)
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
    """Reads `channelId` or `roomId`. Raises ApiError, whose text suggests `to_do`."""
    room_id = data.get("channelId") or data.get("roomId")
    if room_id is None:
        reason = f"Missing required fields: roomId; {to_do}"
        raise ApiError("MISSING_FIELDS", reason, missingFields=["roomId"])
    if not isinstance(room_id, str) or not is_text(room_id):
        raise requests.invalid_field("roomId", room_id, f"must be a string: {to_do}")
    return room_id
