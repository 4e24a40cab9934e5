"""One session: what it is, its log page by page, and how its messages are delivered."""

from collections import deque
from collections.abc import Iterator
from typing import Any, Final

import grpc.aio
import orjson

from eliza.sessions.errors import forget_frames
from eliza.sessions.v1.admin_service_pb2 import (
    FoundSession,
    ListDeliveriesRequest,
    RedeliverMessageRequest,
    SearchSessionsRequest,
)
from eliza.sessions.v1.agent_pb2 import AGENT_VIEW_BASIC
from eliza.sessions.v1.agent_service_pb2 import GetAgentRequest
from eliza.sessions.v1.json_form_pb2 import JSON_FORM_TEXT
from rest_facade.console.deliveries import describe_delivery
from rest_facade.console.own_page import require_own_page
from rest_facade.console.parts import DATA, Add
from rest_facade.console.queries import invalid_field, read_number, read_text
from rest_facade.routes.caller import request_metadata
from rest_facade.shapes import json_body, requests, responses
from rest_facade.shapes.errors import ApiError
from rest_facade.shapes.fields import Fields
from rest_facade.shapes.numbers import MAX_INT64
from rest_facade.shapes.response import Response
from rest_facade.upstream.backend import Backend
from rest_facade.upstream.transcript import Transcript

PAGE_SIZE: Final = 50
"""How many entries of a log are asked for, unless the page says fewer."""

MAX_PAGE_SIZE: Final = 100

PAGE_BYTES: Final = 1024 * 1024
"""How large the entries of a page are together, unless one alone is larger: the newest of them are kept."""

DELIVERIES: Final = 100
"""How many deliveries a page has at most."""

MAX_CALLS: Final = 4
"""How often a session is searched for where pages are empty."""

_REDELIVER: Final[Fields] = {"messageId": None, "messageSequence": None}
_NO_STORE: Final = {"Cache-Control": "no-store"}


def add_parts(add: Add, backend: Backend) -> None:
    """Gives the console the data of one session."""
    views = _Views(backend)
    one = f"{DATA}/sessions/<session_id>"
    add(one, views.read_session)
    add(f"{one}/log", views.read_log)
    add(f"{one}/deliveries", views.list_deliveries)
    add(f"{one}/redeliver", views.redeliver, "POST")


class _Views:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def read_session(self, session_id: str) -> Response:
        """The session as it is now, live or expired, and the name of its agent."""
        found = self._find(session_id)
        return _respond(
            {
                "session": responses.session_info(found.session),
                "lastSequence": found.session.last_sequence,
                "isExpired": found.is_expired,
                "endedAt": responses.iso(found.ended_at) if found.HasField("ended_at") else None,
                "openDeliveries": found.open_deliveries,
                "failedDeliveries": found.failed_deliveries,
                "agentName": self._read_agent_name(found.session.agent_id),
            }
        )

    def read_log(self, session_id: str) -> Response:
        """A page of the log, as gRPC's JSON has its entries, in order: the newest before the sequence
        `before`, or of all.
        """
        before = read_number("before")
        limit = read_number("limit") or PAGE_SIZE
        if limit > MAX_PAGE_SIZE:
            raise invalid_field("limit", str(limit), f"must be at most {MAX_PAGE_SIZE}")
        if before is None:
            before = self._find(session_id).session.last_sequence + 1
        entries = self._read_entries(session_id, max(0, before - 1 - limit), before)
        first = entries[0][0] if entries else 0
        return _respond({"entries": [orjson.Fragment(entry) for _, entry in entries], "hasOlder": first > 1})

    def list_deliveries(self, session_id: str) -> Response:
        """A page of the deliveries of its messages, those of the newest first."""
        request = ListDeliveriesRequest(
            session_id=session_id, page_size=DELIVERIES, page_token=read_text("page")
        )
        page = self._backend.call(self._backend.admin.ListDeliveries, request, request_metadata())
        return _respond(
            {
                "deliveries": [describe_delivery(delivery) for delivery in page.deliveries],
                "nextPage": page.next_page_token or None,
            }
        )

    def redeliver(self, session_id: str) -> Response:
        """Delivers a message anew whose delivery has failed for good."""
        require_own_page()
        body = json_body.read_object(_REDELIVER)
        message_id, sequence = body.get("messageId", ""), body.get("messageSequence", 0)
        if not isinstance(message_id, str) or not requests.is_uuid(message_id):
            raise invalid_field("messageId", str(message_id), "must be a UUID")
        if not isinstance(sequence, int) or isinstance(sequence, bool) or not 0 <= sequence <= MAX_INT64:
            raise invalid_field("messageSequence", str(sequence), "must be a sequence")
        request = RedeliverMessageRequest(
            session_id=session_id, message_id=message_id, message_sequence=sequence
        )
        answer = self._backend.call(self._backend.admin.RedeliverMessage, request, request_metadata())
        return _respond({"delivery": describe_delivery(answer.delivery)})

    def _find(self, session_id: str) -> FoundSession:
        """A session, live or expired. Raises ApiError: SESSION_NOT_FOUND."""
        if requests.is_uuid(session_id):
            request = SearchSessionsRequest(
                page_size=1, session_id_prefix=session_id, json_form=JSON_FORM_TEXT
            )
            for _ in range(MAX_CALLS):
                page = self._backend.call(self._backend.admin.SearchSessions, request, request_metadata())
                if page.sessions:
                    return page.sessions[0]
                if not page.next_page_token:
                    break
                request.page_token = page.next_page_token
        raise ApiError("SESSION_NOT_FOUND", f"Session {session_id} not found", sessionId=session_id)

    def _read_agent_name(self, agent_id: str) -> str | None:
        """What people call an agent; None where it has been removed."""
        request = GetAgentRequest(agent_id=agent_id, view=AGENT_VIEW_BASIC)
        try:
            return self._backend.call(self._backend.agents.GetAgent, request, request_metadata()).agent.name
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            forget_frames(error)
            return None

    def _read_entries(self, session_id: str, after: int, before: int) -> list[tuple[int, bytes]]:
        """The entries between two sequences, each with its own: the newest of them, up to PAGE_BYTES."""
        kept: deque[tuple[int, bytes]] = deque()
        size = 0
        if after + 1 >= before:
            return []
        transcript = Transcript(self._backend, session_id, request_metadata(), after)
        try:
            for sequence, entry in self._iterate(transcript):
                if sequence >= before:
                    break
                kept.append((sequence, entry))
                size += len(entry)
                while size > PAGE_BYTES and len(kept) > 1:
                    size -= len(kept.popleft()[1])
                if sequence == before - 1:
                    break
        finally:
            transcript.close()
        return list(kept)

    def _iterate(self, transcript: Transcript) -> Iterator[tuple[int, bytes]]:
        """The entries of a transcript as they come, each with its sequence."""
        yield from _split(self._backend.wait(transcript.open()))
        for lines in self._backend.iterate(aiter(transcript)):
            yield from _split(lines)


def _split(lines: bytes) -> Iterator[tuple[int, bytes]]:
    for line in lines.splitlines():
        record = orjson.loads(line)
        if record["record"] == "entry":
            yield int(record["entry"]["sequence"]), orjson.dumps(record["entry"])


def _respond(body: dict[str, Any]) -> Response:
    return json_body.respond(body, headers=_NO_STORE)
