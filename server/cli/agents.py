"""`eliza-sessions agents …`: the registry of agents of a running server."""

import sys
import uuid
from typing import Any

import click
from google.protobuf import field_mask_pb2

from eliza.sessions.v1 import agent_pb2, agent_service_pb2, session_service_pb2
from server.cli.agent_calls import call, find_activity, find_namesakes, get_agent, iterate_agents
from server.cli.agent_display import (
    activity_json,
    kind_name,
    print_activity,
    print_agent,
    print_json,
    print_table,
    to_json,
)
from server.cli.agent_options import KIND, fill_in, session_options, setting_options
from server.cli.chat import Stubs, printable, talk
from server.cli.server_commands import ServerGroup, server_options


@click.group(cls=ServerGroup)
@server_options("The gRPC server.")
def agents() -> None:
    """List, change and talk to the agents of a running server."""


_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


@agents.command("list")
@_json_option
@click.pass_obj
def list_agents(stubs: Stubs, as_json: bool) -> None:
    """Show the agents as a table, and how each fares."""
    found = list(iterate_agents(stubs, agent_pb2.AGENT_VIEW_STATUS))
    if as_json:
        print_json([to_json(agent) for agent in found])
        return
    print_table(found)


@agents.command()
@click.argument("agent_id")
@_json_option
@click.pass_obj
def show(stubs: Stubs, agent_id: str, as_json: bool) -> None:
    """Show one agent, how it fares, what waits for it, and its workers."""
    agent = get_agent(stubs, agent_id)
    activity = find_activity(stubs, agent_id)
    if as_json:
        print_json(to_json(agent) | {"activity": activity and activity_json(activity)})
        return
    print_agent(agent)
    if activity:
        print_activity(activity)


@agents.command()
@click.option("--id", "agent_id", default="", metavar="UUID", help="The agent's id.  [a fresh one]")
@click.option("--name", required=True, help="What people call it.")
@click.option("--kind", required=True, type=KIND, help="How it is reached.")
@setting_options
@session_options
@click.pass_obj
def add(stubs: Stubs, /, agent_id: str, name: str, kind: str, **options: Any) -> None:
    """Register an agent."""
    agent = agent_pb2.Agent(agent_id=agent_id, name=name, kind=_kind_number(kind))
    fill_in(agent, kind, options)
    namesakes = find_namesakes(stubs, name)
    added = call(stubs.agents.CreateAgent, agent_service_pb2.CreateAgentRequest(agent=agent)).agent
    print_agent(added)
    _warn_of(namesakes, added)


@agents.command()
@click.argument("agent_id")
@click.option("--name", help="What people call it.")
@click.option("--kind", type=KIND, help="How it is reached; the settings of another kind go.")
@setting_options
@session_options
@click.pass_obj
def update(stubs: Stubs, /, agent_id: str, name: str | None, kind: str | None, **options: Any) -> None:
    """Change an agent; what is not named stays."""
    agent = agent_pb2.Agent(agent_id=agent_id, name=name or "")
    if kind:
        agent.kind = _kind_number(kind)
    else:
        kind = kind_name(get_agent(stubs, agent_id))
    paths = [field for field in ("name", "kind") if getattr(agent, field)] + fill_in(agent, kind, options)
    namesakes = find_namesakes(stubs, name) if name else []
    mask = field_mask_pb2.FieldMask(paths=paths)
    updated = call(
        stubs.agents.UpdateAgent, agent_service_pb2.UpdateAgentRequest(agent=agent, update_mask=mask)
    ).agent
    print_agent(updated)
    _warn_of(namesakes, updated)


@agents.command()
@click.argument("agent_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def remove(stubs: Stubs, agent_id: str, yes: bool) -> None:
    """Remove an agent; its sessions stay until they expire. Asks before."""
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is nobody to ask whether to remove the agent: say --yes")
        agent = get_agent(stubs, agent_id)
        waiting = agent.status.open_deliveries
        lost = f" Messages that wait for its reply get none: {waiting}." if waiting else ""
        click.confirm(f"Remove {printable(agent.name)} ({agent.agent_id})?{lost}", abort=True)
    call(stubs.agents.DeleteAgent, agent_service_pb2.DeleteAgentRequest(agent_id=agent_id))
    click.echo(f"removed {agent_id}")


@agents.command()
@click.argument("agent_id")
@click.option("--user", default="", metavar="UUID", help="Who talks.  [a fresh one]")
@click.pass_obj
def chat(stubs: Stubs, agent_id: str, user: str) -> None:
    """Talk to an agent, line by line, until the input ends, or Ctrl-C.

    A terminal shows replies as they come; a pipe or a file gets each when it is whole. Failures go to
    standard error, and the exit status is 1 when a message got no reply. The session is deleted at the end.
    """
    agent = get_agent(stubs, agent_id)
    request = session_service_pb2.CreateSessionRequest(
        agent_id=agent.agent_id, user_id=user or str(uuid.uuid4())
    )
    session_id = call(stubs.sessions.CreateSession, request).session.session_id
    try:
        replied = talk(stubs, agent, session_id)
    finally:
        call(stubs.sessions.DeleteSession, session_service_pb2.DeleteSessionRequest(session_id=session_id))
    if not replied:
        click.get_current_context().exit(1)


def _warn_of(namesakes: list[str], agent: agent_pb2.Agent) -> None:
    """Warns where another agent has the same name, because people cannot tell them apart."""
    others = [found for found in namesakes if found != agent.agent_id]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        click.echo(f"Warning: {others[0]}{more} has the name {printable(agent.name)!r}, too", err=True)


def _kind_number(kind: str) -> agent_pb2.AgentKind.ValueType:
    return agent_pb2.AgentKind.Value(f"AGENT_KIND_{kind.upper()}")
