"""The agents, and one of them: who works for it, what waits, what failed."""

from typing import Final
from urllib.parse import urlencode

import grpc.aio

from eliza.sessions.errors import forget_frames
from eliza.sessions.v1.admin_service_pb2 import (
    DELIVERY_STATE_FAILED,
    DELIVERY_STATE_UNSPECIFIED,
    GetAgentActivityRequest,
    ListDeliveriesRequest,
    ListDeliveriesResponse,
)
from eliza.sessions.v1.agent_pb2 import (
    AGENT_KIND_ECHO,
    AGENT_KIND_OPENAI,
    AGENT_KIND_STREAM,
    AGENT_KIND_UNSPECIFIED,
    AGENT_KIND_WEBHOOK,
    AGENT_VIEW_STATUS,
    AGENT_VIEW_UNSPECIFIED,
    Agent,
    AgentKind,
)
from eliza.sessions.v1.agent_service_pb2 import GetAgentRequest, ListAgentsRequest
from rest_facade.console.deliveries import STATES
from rest_facade.console.parts import PARTS, Add
from rest_facade.console.queries import read_text
from rest_facade.console.render import respond_part
from rest_facade.routes.caller import request_metadata
from rest_facade.shapes.response import Response
from rest_facade.upstream.backend import Backend

PAGE_SIZE: Final = 100
"""How many agents a page has at most."""

DELIVERIES: Final = 25
"""How many deliveries of each table of an agent are shown."""

MAX_CALLS: Final = 4
"""How many pages of the server are read for a table: those that match may be few."""

KINDS: Final[dict[AgentKind.ValueType, str]] = {
    AGENT_KIND_UNSPECIFIED: "unknown",
    AGENT_KIND_ECHO: "echo",
    AGENT_KIND_STREAM: "stream",
    AGENT_KIND_WEBHOOK: "webhook",
    AGENT_KIND_OPENAI: "openai",
}
"""Each kind in the word that the command line and the agents' file have for it."""


def add_parts(add: Add, backend: Backend) -> None:
    """Gives the console the agents."""
    views = _Views(backend)
    add(f"{PARTS}/agents", views.list_agents)
    add(f"{PARTS}/agents/<agent_id>", views.show_agent)
    add(f"{PARTS}/agents/<agent_id>/open", views.list_open)
    add(f"{PARTS}/agents/<agent_id>/failed", views.list_failed)


class _Views:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def list_agents(self) -> Response:
        """A page of the agents, in order of registration, with a link to the next."""
        token = read_text("page")
        request = ListAgentsRequest(page_size=PAGE_SIZE, page_token=token, view=AGENT_VIEW_STATUS)
        page = self._backend.call(self._backend.agents.ListAgents, request, request_metadata())
        older = urlencode({"page": page.next_page_token}) if page.next_page_token else ""
        return respond_part(
            "parts/agents.html", agents=page.agents, kinds=KINDS, is_first=not token, older=older
        )

    def show_agent(self, agent_id: str) -> Response:
        """How one agent fares."""
        request = GetAgentActivityRequest(agent_id=agent_id)
        activity = self._backend.call(self._backend.admin.GetAgentActivity, request, request_metadata())
        return respond_part(
            "parts/agent.html", activity=activity, agent=self._read_agent(activity.agent), kinds=KINDS
        )

    def list_open(self, agent_id: str) -> Response:
        """The messages that wait for the agent or are in its hands, those that are due first."""
        request = ListDeliveriesRequest(
            agent_id=agent_id, state=DELIVERY_STATE_UNSPECIFIED, page_size=DELIVERIES
        )
        return respond_part("parts/open.html", page=self._list(request), states=STATES)

    def list_failed(self, agent_id: str) -> Response:
        """The messages of live sessions that failed for good, those of the newest sessions first."""
        token = read_text("page")
        request = ListDeliveriesRequest(
            agent_id=agent_id, state=DELIVERY_STATE_FAILED, page_size=DELIVERIES, page_token=token
        )
        page = self._list(request)
        return respond_part("parts/failed.html", page=page, is_first=not token)

    def _list(self, request: ListDeliveriesRequest) -> ListDeliveriesResponse:
        """Deliveries, and the token of the next page."""
        found = ListDeliveriesResponse()
        for _ in range(MAX_CALLS):
            page = self._backend.call(self._backend.admin.ListDeliveries, request, request_metadata())
            found.deliveries.extend(page.deliveries)
            found.next_page_token = page.next_page_token
            if not page.next_page_token or len(found.deliveries) >= DELIVERIES:
                break
            request.page_size = DELIVERIES - len(found.deliveries)
            request.page_token = page.next_page_token
        return found

    def _read_agent(self, known: Agent) -> Agent:
        """The agent with its settings, where it is still there."""
        request = GetAgentRequest(agent_id=known.agent_id, view=AGENT_VIEW_UNSPECIFIED)
        try:
            return self._backend.call(self._backend.agents.GetAgent, request, request_metadata()).agent
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            forget_frames(error)
            return known
