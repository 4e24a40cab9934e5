"""GET /api/agents: lists the agents in the shape that the npm package @elizaos/api-client reads.

Nothing of an agent's settings is in the list.
"""

from typing import Any, Final

import flask

from eliza.sessions.limits import MAX_SESSIONS
from eliza.sessions.v1 import agent_pb2
from eliza.sessions.v1.agent_service_pb2 import ListAgentsRequest
from rest_facade.routes.caller import request_metadata
from rest_facade.shapes import json_body
from rest_facade.shapes.response import Response
from rest_facade.upstream.backend import Backend

PATH: Final = "/api/agents"

MAX_AGENTS: Final = MAX_SESSIONS
"""How many agents are listed: one page of the server's."""


def add_routes(app: flask.Flask, backend: Backend) -> None:
    """Gives the app GET /api/agents."""

    def list_agents() -> Response:
        """Lists the agents, the oldest first: id, name and status."""
        request = ListAgentsRequest(page_size=MAX_AGENTS, view=agent_pb2.AGENT_VIEW_SUMMARY)
        page = backend.call(backend.agents.ListAgents, request, request_metadata())
        return json_body.respond(
            {"success": True, "data": {"agents": [_body(agent) for agent in page.agents]}}
        )

    app.add_url_rule(PATH, view_func=list_agents, methods=["GET"])


def _body(agent: agent_pb2.Agent) -> dict[str, Any]:
    """An agent of the list. It is inactive while workers are to answer and none is connected."""
    is_active = agent.kind != agent_pb2.AGENT_KIND_STREAM or agent.status.connected_workers > 0
    return {"id": agent.agent_id, "name": agent.name, "status": "active" if is_active else "inactive"}
