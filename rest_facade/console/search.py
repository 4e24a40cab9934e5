"""The list of sessions: those that match the filters in the page's address, the newest first."""

from typing import Final
from urllib.parse import urlencode

import flask

from eliza.sessions.limits import MAX_SESSIONS
from eliza.sessions.v1.admin_service_pb2 import (
    SESSION_STATE_EXPIRED,
    SESSION_STATE_LIVE,
    SESSION_STATE_UNSPECIFIED,
    FoundSession,
    SearchSessionsRequest,
    SessionState,
)
from eliza.sessions.v1.agent_pb2 import AGENT_VIEW_BASIC
from eliza.sessions.v1.agent_service_pb2 import ListAgentsRequest
from eliza.sessions.v1.json_form_pb2 import JSON_FORM_TEXT
from rest_facade.console.parts import PARTS, Add
from rest_facade.console.queries import invalid_field, read_instant, read_text
from rest_facade.console.render import respond_part
from rest_facade.routes.caller import request_metadata
from rest_facade.shapes.response import Response
from rest_facade.upstream.backend import Backend

PAGE_SIZE: Final = 50
"""How many sessions a page has at most."""

MAX_CALLS: Final = 4
"""How many pages of the server are read for one of ours: those that match may be few."""

FILTERS: Final = ("user", "agent", "state", "from", "to", "id")
"""The parameters of the page's address that say which sessions are wanted."""

STATES: Final[dict[str, SessionState.ValueType]] = {
    "": SESSION_STATE_UNSPECIFIED,
    "live": SESSION_STATE_LIVE,
    "expired": SESSION_STATE_EXPIRED,
}


def add_parts(add: Add, backend: Backend) -> None:
    """Gives the console the list of sessions."""

    def list_sessions() -> Response:
        """A page of sessions, with a link to the next."""
        request = _read_filters()
        sessions = _search(backend, request)
        token = request.page_token
        given = {name: text for name in FILTERS if (text := read_text(name))}
        return respond_part(
            "parts/sessions.html",
            sessions=sessions,
            agent_names=read_agent_names(backend) if sessions else {},
            has_filters=bool(given),
            newest=urlencode(given) if flask.request.args.get("page") else None,
            older=urlencode({**given, "page": token}) if token else "",
        )

    add(f"{PARTS}/sessions", list_sessions)


def read_agent_names(backend: Backend) -> dict[str, str]:
    """The names of agents by their ids: of the first thousand."""
    request = ListAgentsRequest(page_size=MAX_SESSIONS, view=AGENT_VIEW_BASIC)
    page = backend.call(backend.agents.ListAgents, request, request_metadata())
    return {agent.agent_id: agent.name for agent in page.agents}


def _read_filters() -> SearchSessionsRequest:
    """The request for the page that the address names. Raises ApiError."""
    state = read_text("state")
    if state not in STATES:
        raise invalid_field("state", state, "must be live or expired")
    return SearchSessionsRequest(
        page_size=PAGE_SIZE,
        page_token=read_text("page"),
        user_id=read_text("user"),
        agent_id=read_text("agent"),
        state=STATES[state],
        created_after=read_instant("from"),
        created_before=read_instant("to"),
        session_id_prefix=read_text("id"),
        json_form=JSON_FORM_TEXT,
    )


def _search(backend: Backend, request: SearchSessionsRequest) -> list[FoundSession]:
    """Finds a page of sessions; the request then has the token of the next, or none."""
    found: list[FoundSession] = []
    for _ in range(MAX_CALLS):
        answer = backend.call(backend.admin.SearchSessions, request, request_metadata())
        found += answer.sessions
        request.page_token = answer.next_page_token
        if not answer.next_page_token or len(found) >= PAGE_SIZE:
            break
        request.page_size = PAGE_SIZE - len(found)
    return found
