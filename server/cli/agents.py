"""`eliza-sessions agents …`: the registry of agents of a running server."""

from collections.abc import Callable
from typing import Any, Final

import click
import grpc

from eliza.sessions.v1 import agent_pb2, agent_service_pb2, agent_service_pb2_grpc, timeout_pb2, times, values
from server.cli.common import DIRECT, reachable
from server.domain.agents import AgentKind

Stub = agent_service_pb2_grpc.AgentServiceStub

DEADLINE_SECONDS: Final = 10
_KIND = click.Choice([str(kind) for kind in AgentKind])


@click.group()
@click.option("--server", default="127.0.0.1:50051", envvar="GRPC_ADDRESS", show_default=True, metavar="HOST:PORT", help="The gRPC server.")
@click.pass_context
def agents(context: click.Context, server: str) -> None:
    """List and change the agents of a running server."""
    try:
        address = reachable(server)
    except ValueError as error:
        raise click.BadParameter(f"it must be {error}", param_hint="--server") from error
    channel = context.with_resource(grpc.insecure_channel(address, DIRECT))
    context.obj = Stub(channel)


def _timeout_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of an agent's timeout settings, named as in the contract."""
    for option in reversed(
        (
            click.option("--timeout-minutes", type=float, help="Inactivity timeout of the agent's sessions."),
            click.option("--auto-renew/--no-auto-renew", default=None, help="Whether activity renews them."),
            click.option("--max-duration-minutes", type=float, help="Their total life."),
            click.option("--warning-threshold-minutes", type=float, help="When to warn before they expire."),
        )
    ):
        command = option(command)
    return command


@agents.command("list")
@click.pass_obj
def list_agents(stub: Stub) -> None:
    """Show the agents as a table."""
    rows = [("ID", "NAME", "KIND", "TIMEOUT SETTINGS")]
    token = ""
    while True:
        page = _call(stub.ListAgents, agent_service_pb2.ListAgentsRequest(page_token=token))
        rows += [(agent.agent_id, agent.name, _kind(agent), _timeout(agent.timeout_config) or "default") for agent in page.agents]
        token = page.next_page_token
        if not token:
            break
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@agents.command()
@click.argument("agent_id")
@click.pass_obj
def show(stub: Stub, agent_id: str) -> None:
    """Show one agent."""
    _print(_call(stub.GetAgent, agent_service_pb2.GetAgentRequest(agent_id=agent_id)).agent)


@agents.command()
@click.option("--id", "agent_id", default="", metavar="UUID", help="The agent's id.  [a fresh one]")
@click.option("--name", required=True, help="What people call it.")
@click.option("--kind", required=True, type=_KIND, help="How it is reached.")
@_timeout_options
@click.pass_obj
def add(stub: Stub, /, agent_id: str, name: str, kind: str, **timeout: Any) -> None:
    """Register an agent."""
    agent = agent_pb2.Agent(agent_id=agent_id, name=name, kind=_kind_number(kind), timeout_config=timeout_pb2.TimeoutConfig(**timeout))
    _print(_call(stub.CreateAgent, agent_service_pb2.CreateAgentRequest(agent=agent)).agent)


@agents.command()
@click.argument("agent_id")
@click.option("--name", help="What people call it.")
@click.option("--kind", type=_KIND, help="How it is reached.")
@_timeout_options
@click.pass_obj
def update(stub: Stub, /, agent_id: str, name: str | None, kind: str | None, **timeout: Any) -> None:
    """Change an agent; what is not named stays."""
    agent = agent_pb2.Agent(
        agent_id=agent_id,
        name=name or "",
        kind=_kind_number(kind) if kind else agent_pb2.AGENT_KIND_UNSPECIFIED,
        timeout_config=timeout_pb2.TimeoutConfig(**timeout),
    )
    _print(_call(stub.UpdateAgent, agent_service_pb2.UpdateAgentRequest(agent=agent)).agent)


@agents.command()
@click.argument("agent_id")
@click.pass_obj
def remove(stub: Stub, agent_id: str) -> None:
    """Remove an agent; its sessions stay until they expire."""
    _call(stub.DeleteAgent, agent_service_pb2.DeleteAgentRequest(agent_id=agent_id))
    click.echo(f"removed {agent_id}")


def _call(method: Any, request: Any) -> Any:
    try:
        return method(request, timeout=DEADLINE_SECONDS)
    except grpc.RpcError as error:
        raise click.ClickException(f"{error.code().name}: {error.details()}") from error


def _kind(agent: agent_pb2.Agent) -> str:
    return agent_pb2.AgentKind.Name(agent.kind).removeprefix("AGENT_KIND_").lower()


def _kind_number(kind: str) -> agent_pb2.AgentKind.ValueType:
    return agent_pb2.AgentKind.Value(f"AGENT_KIND_{kind.upper()}")


def _timeout(config: timeout_pb2.TimeoutConfig) -> str:
    return ", ".join(
        f"{field.name}={value:g}" if isinstance(value, float) else f"{field.name}={value}" for field, value in config.ListFields()
    )


def _print(agent: agent_pb2.Agent) -> None:
    click.echo(f"id:       {agent.agent_id}")
    click.echo(f"name:     {agent.name}")
    click.echo(f"kind:     {_kind(agent)}")
    click.echo(f"timeout:  {_timeout(agent.timeout_config) or 'default'}")
    click.echo(f"created:  {times.iso(values.ms_floor(agent.created_at))}")
    click.echo(f"updated:  {times.iso(values.ms_floor(agent.updated_at))}")
