"""Lists that the server gives in pages: a small one goes out as a whole, a large one as the pages arrive, so
that nobody holds it all.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import grpc.aio
import structlog

from eliza.sessions import values
from eliza.sessions.v1.message_pb2 import Message
from eliza.sessions.v1.message_service_pb2 import ListMessagesRequest
from eliza.sessions.v1.session_service_pb2 import ListSessionsRequest
from rest_facade.shapes import json_body, responses
from rest_facade.shapes.credentials import Metadata
from rest_facade.shapes.errors import ApiError, stopping
from rest_facade.shapes.response import CutShortError, Response
from rest_facade.upstream.backend import Backend
from rest_facade.upstream.transcript import Transcript

WHOLE_BYTES: Final = 1024 * 1024
"""Up to how many bytes an answer is sent as a whole, with its length."""

JSON: Final = {"Content-Type": "application/json"}
JSON_LINES: Final = {"Content-Type": "application/jsonl", "Cache-Control": "no-store"}

_log = structlog.get_logger(__name__)


class Page(NamedTuple):
    """A page of the server: its items, to be taken out by who reads them, and what else the answer has if
    this is the last one.
    """

    items: list[dict[str, Any]]
    rest: dict[str, Any]


def respond(name: str, pages: Iterator[Page]) -> Response:
    """Responds with an object that holds the items of all pages under `name`, and the rest of the last page.

    What fails within the first WHOLE_BYTES is raised. What fails later cuts the connection: without the last
    chunk no client takes the answer for whole.
    """
    parts, begun, size = _write(name, pages), [], 0
    for part in parts:
        begun.append(part)
        size += len(part)
        if size > WHOLE_BYTES:
            return Response(_go_on(begun, parts), 200, JSON)
    return Response(b"".join(begun), 200, JSON)


def list_sessions(backend: Backend, request: ListSessionsRequest, metadata: Metadata) -> Iterator[Page]:
    """Lists sessions in the order of the server's pages."""
    wanted, is_first = request.page_size, True
    while True:
        page = backend.read_page(backend.sessions.ListSessions, request, metadata, is_first=is_first)
        wanted -= len(page.sessions)
        body = responses.session_list(page.sessions, page.total_size, page.stats, page.next_page_token)
        token = page.next_page_token
        # Not kept while the client reads; nor are the items, which who writes them takes out of the list.
        del page
        yield Page(body.pop("sessions"), body)
        if not token or wanted <= 0:
            return
        request.page_size, request.page_token, is_first = wanted, token, False


def list_messages(backend: Backend, request: ListMessagesRequest, metadata: Metadata) -> Iterator[Page]:
    """Lists messages, the newest first."""
    if request.HasField("after") and not request.HasField("before"):
        yield from _list_forward(backend, request, metadata)
    else:
        yield from _list_backward(backend, request, metadata)


def _list_backward(backend: Backend, request: ListMessagesRequest, metadata: Metadata) -> Iterator[Page]:
    """Lists messages where the server goes from the newest to the oldest."""
    wanted, newest_ms, is_first = request.page_size, None, True
    while True:
        page = backend.read_page(backend.messages.ListMessages, request, metadata, is_first=is_first)
        wanted -= len(page.messages)
        if page.messages and newest_ms is None:
            newest_ms = values.ms_floor(page.messages[0].created_at)
        rest: dict[str, Any] = {"hasMore": page.has_more}
        if page.messages:
            rest["cursors"] = {"before": values.ms_floor(page.messages[-1].created_at), "after": newest_ms}
        has_more, token = page.has_more, page.next_page_token
        told = [responses.page_message(message) for message in page.messages]
        # As above.
        del page
        yield Page(told, rest)
        if not has_more or wanted <= 0:
            return
        request.page_size, request.page_token, is_first = wanted, token, False


def _list_forward(backend: Backend, request: ListMessagesRequest, metadata: Metadata) -> Iterator[Page]:
    """Lists messages where the server goes from the oldest to the newest, and the answer the other way round.

    What is too large to keep is let go, and read once more from its other end.
    """
    wanted, kept_bytes, count, is_first = request.page_size, 0, 0, True
    kept: list[Message] = []
    again = ListMessagesRequest(
        session_id=request.session_id, after=request.after, json_form=request.json_form
    )
    while True:
        page = backend.read_page(backend.messages.ListMessages, request, metadata, is_first=is_first)
        count += len(page.messages)
        kept_bytes += page.ByteSize()
        kept = [*page.messages, *kept] if kept_bytes <= WHOLE_BYTES else []
        if page.messages:
            again.before.CopyFrom(values.timestamp(values.ms_floor(page.messages[0].created_at) + 1))
        if not page.has_more or count >= wanted:
            break
        request.page_size, request.page_token, is_first = wanted - count, page.next_page_token, False
    has_more = page.has_more
    if kept_bytes <= WHOLE_BYTES:
        body = responses.messages_page(kept, has_more)
        # As above.
        del page, kept
        yield Page(body.pop("messages"), body)
        return
    again.page_size = count
    del page, kept
    for one in _list_backward(backend, again, metadata):
        yield Page(one.items, {**one.rest, "hasMore": has_more})


def write_transcript(backend: Backend, transcript: Transcript, first: bytes) -> Iterator[bytes]:
    """Writes the lines of a transcript as they come. One that is not whole is cut."""

    def parts() -> Iterator[bytes]:
        yield from backend.iterate(aiter(transcript))
        if not transcript.is_whole:
            raise stopping()

    return _go_on([first], parts())


def _write(name: str, pages: Iterator[Page]) -> Iterator[bytes]:
    """Writes the JSON of an answer, a part for each page."""
    yield b"{" + json_body.dump(name) + b":["
    rest: dict[str, Any] = {}
    separator = b""
    for items, rest in pages:  # noqa: B007 - the last one is used behind the loop
        if items:
            part = [separator + json_body.dump(items)[1:-1]]
            separator = b","
            # While the client reads it nobody keeps what it was made of, and none keeps it while the next one
            # is read.
            items.clear()
            yield part.pop()
    yield b"]," + json_body.dump(rest)[1:]


def _go_on(begun: list[bytes], parts: Iterator[bytes]) -> Iterator[bytes]:
    """Gives the parts that there are already, then the others as they come."""
    while begun:
        yield begun.pop(0)
    try:
        yield from parts
    except (ApiError, grpc.aio.AioRpcError) as error:
        cause = error.message if isinstance(error, ApiError) else error.code().name
        _log.warning("cut an answer short: the rest cannot be had", cause=cause)
        raise CutShortError from None
