"""The calls of `eliza-sessions agents`, whose errors name the options that the user typed."""

import re
from collections.abc import Iterator
from typing import Any

import click
import grpc

from eliza.sessions.errors import TABLE, error_info
from eliza.sessions.limits import MAX_SESSIONS
from eliza.sessions.v1 import admin_service_pb2, agent_pb2, agent_service_pb2, errors_pb2
from server.cli.agent_options import option_name
from server.cli.chat import DEADLINE_SECONDS, Stubs


def call(method: Any, request: Any) -> Any:
    """Calls a method. Raises ClickException with the status and the message."""
    try:
        return method(request, timeout=DEADLINE_SECONDS)
    except grpc.RpcError as error:
        raise click.ClickException(f"{error.code().name}: {_in_options(error)}") from error


def iterate_agents(stubs: Stubs, view: agent_pb2.AgentView.ValueType) -> Iterator[agent_pb2.Agent]:
    """All agents, page by page."""
    # Agents with their settings may be long, so their pages are small.
    size = MAX_SESSIONS if view == agent_pb2.AGENT_VIEW_BASIC else 0
    request = agent_service_pb2.ListAgentsRequest(page_size=size, view=view)
    while True:
        page = call(stubs.agents.ListAgents, request)
        yield from page.agents
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def get_agent(stubs: Stubs, agent_id: str) -> agent_pb2.Agent:
    """One agent, with its status."""
    request = agent_service_pb2.GetAgentRequest(agent_id=agent_id, view=agent_pb2.AGENT_VIEW_STATUS)
    agent: agent_pb2.Agent = call(stubs.agents.GetAgent, request).agent
    return agent


def find_activity(stubs: Stubs, agent_id: str) -> admin_service_pb2.GetAgentActivityResponse | None:
    """Who works for an agent, and what waits; None where the caller may not know, or the server is older.

    Raises ClickException for another failure.
    """
    request = admin_service_pb2.GetAgentActivityRequest(agent_id=agent_id)
    try:
        found: admin_service_pb2.GetAgentActivityResponse = stubs.admin.GetAgentActivity(
            request, timeout=DEADLINE_SECONDS
        )
    except grpc.RpcError as error:
        if error.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED):
            return None
        raise click.ClickException(f"{error.code().name}: {error.details()}") from error
    return found


def find_namesakes(stubs: Stubs, name: str) -> list[str]:
    """The ids of the agents that have this name."""
    return [
        agent.agent_id for agent in iterate_agents(stubs, agent_pb2.AGENT_VIEW_BASIC) if agent.name == name
    ]


def _in_options(error: grpc.RpcError) -> str:
    """The error's message, with fields named as the options that the user typed."""
    info, message = error_info(error), error.details() or ""
    if info and info.reason in TABLE:
        for detail, kind in TABLE[info.reason].details.items():
            if kind in (errors_pb2.DETAIL_KIND_FIELD, errors_pb2.DETAIL_KIND_FIELD_LIST):
                for field in filter(None, info.metadata.get(detail, "").split(",")):
                    message = re.sub(
                        rf"(?<![\w.-]){re.escape(field)}(?![\w.-])", option_name(field), message, count=1
                    )
    return message
