"""Server-sent events: how they are written, and the two streams there are."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Final

import grpc.aio

from eliza.sessions.errors import forget_frames
from eliza.sessions.v1.log_pb2 import LogEntry, ReplyAborted, SessionDeleted
from eliza.sessions.v1.message_service_pb2 import SendMessageResponse
from rest_facade.shapes import errors, events, json_body, responses
from rest_facade.shapes.event_stream import CONTENT_TYPE, HEADERS
from rest_facade.shapes.response import Response
from rest_facade.upstream.backend import Backend
from rest_facade.upstream.conversation import Conversation
from rest_facade.upstream.following import Follower, Happening, stream_error

RETRY_MS: Final = 1000

KEPT_BYTES: Final = 2 * 1024 * 1024
"""How many bytes of events are kept for who is told them next."""

OVERHEAD_BYTES: Final = 500
"""What a kept event costs beside its bytes, about."""

HEARTBEAT: Final = b": alive\n\n"

TEMPORARY: Final = (429, 503, 504)
"""The statuses that say: try again. On any of them a browser's EventSource gives up for good."""


def event(name: str, data: object, event_id: int | None = None) -> bytes:
    """One event with JSON data; its id is what a client resumes from."""
    head = f"event: {name}\n" if event_id is None else f"id: {event_id}\nevent: {name}\n"
    return head.encode() + b"data: " + json_body.dump(data) + b"\n\n"


def respond(
    stream: Iterator[bytes], on_close: Callable[[], None], headers: Mapping[str, str] | None = None
) -> Response:
    """The response that streams events; `on_close` is called however it ends."""
    return Response(stream, 200, {"Content-Type": CONTENT_TYPE, **HEADERS, **(headers or {})}, on_close)


class Told:
    """The events of messages that were told last, as they are written: once for all who follow a session."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int, str], bytes] = OrderedDict()
        self._room = KEPT_BYTES

    def write(self, item: Happening, room: events.FollowedSession) -> bytes:
        """What a follower of a session is told of what happens there."""
        if isinstance(item, LogEntry):
            if not item.HasField("message"):
                return _entry(item, room)
            key = (item.session_id, item.sequence, room.agent_name)
            written = self._kept.get(key)
            if written is None:
                written = self._kept[key] = _entry(item, room)
                self._room -= len(written) + OVERHEAD_BYTES
                while self._room < 0:
                    self._room += len(self._kept.popitem(last=False)[1]) + OVERHEAD_BYTES
            return written
        if isinstance(item, ReplyAborted):
            return event("messageStreamAborted", events.stream_aborted(item))
        if isinstance(item, SessionDeleted):
            return event("sessionDeleted", events.session_deleted(item.session_id))
        return event("messageStreamChunk", events.stream_chunk(item, room.session.channel_id))


def _entry(entry: LogEntry, room: events.FollowedSession) -> bytes:
    """An entry as one event, whatever it did; nothing for what this facade does not know."""
    for name, payload in events.entry_events(entry, room)[:1]:
        if entry.HasField("message"):
            payload["sessionStatus"] = responses.session_status(entry.session_status)
        return event(name, payload, entry.sequence)
    return b""


def session_events(
    backend: Backend, follower: Follower, room: events.FollowedSession, told: Told
) -> Iterator[bytes]:
    """A session's events, one for each entry of its log; `id:` is the sequence.

    A message that renewed is one event, so that its id resumes behind all of it: what it did is its
    `sessionStatus`.
    """
    yield f"retry: {RETRY_MS}\n\n".encode()
    try:
        for item in backend.iterate(aiter(follower)):
            written = [HEARTBEAT if item is None else told.write(item, room)]
            # Neither is kept, the one while it is read, the other while the next one is waited for.
            del item
            yield written.pop()
    except (errors.ApiError, grpc.aio.AioRpcError) as error:
        fault = error if isinstance(error, errors.ApiError) else stream_error(error)
        if fault.http_status != HTTPStatus.UNAUTHORIZED:
            raise
        forget_frames(error)
        # It was good when the stream began.
        yield event("credentialExpired", {"code": "CREDENTIAL_EXPIRED"})


def conversation(backend: Backend, talk: Conversation, sent: SendMessageResponse) -> Iterator[bytes]:
    """A message sent with transport `sse`: `user_message`, `chunk` and `aborted` any number of times, then
    `done` or `error`.
    """
    yield event("user_message", responses.sent_message(sent.message, sent.session_status))
    is_done = False
    try:
        for part in backend.iterate(aiter(talk)):
            if part is None:
                yield HEARTBEAT
            elif part.HasField("chunk"):
                yield event("chunk", responses.chunk(part.chunk))
            elif part.HasField("aborted"):
                yield event("aborted", responses.aborted(part.aborted))
            else:
                is_done = True
                yield event("done", responses.agent_response(part.reply))
        if not is_done:
            # The facade stops.
            yield event("error", talk.timeout().body)
    except grpc.aio.AioRpcError as error:
        # The task that has read it is in its frames.
        forget_frames(error)
        yield event("error", errors.from_rpc(error).body)
    except errors.ApiError as error:
        forget_frames(error)
        yield event("error", error.body)
