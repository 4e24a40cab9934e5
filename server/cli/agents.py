"""`eliza-sessions agents …`: the registry of agents of a running server."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final

import click
import grpc
from google.protobuf import field_mask_pb2

from eliza.sessions.v1 import agent_pb2, agent_service_pb2, agent_service_pb2_grpc, timeout_pb2, times, values
from server.cli.common import DIRECT, read_server, server_option
from server.domain.agents import SETTINGS, AgentKind

Stub = agent_service_pb2_grpc.AgentServiceStub

DEADLINE_SECONDS: Final = 10
_KIND = click.Choice([str(kind) for kind in AgentKind])
_TIMEOUT: Final = tuple(timeout_pb2.TimeoutConfig.DESCRIPTOR.fields_by_name)

_SETTINGS: Final[dict[str, tuple[type, str]]] = {
    "url": (str, "Where each message is posted to."),
    "secret": (str, "Where its signing secret is: env:NAME or file:/PATH of the server."),
    "base_url": (str, "The address before /chat/completions.  [https://api.openai.com/v1]"),
    "model": (str, "The model to ask."),
    "api_key": (str, "Where the API key is: env:NAME or file:/PATH of the server."),
    "system_prompt": (str, "What comes before the conversation."),
    "temperature": (float, "Sampling temperature, 0 to 2."),
    "top_p": (float, "Nucleus sampling, 0 to 1."),
    "max_tokens": (int, "The greatest number of tokens of a reply."),
    "history_messages": (int, "How many messages of the conversation it is shown."),
    "history_characters": (int, "How many characters of the conversation it is shown."),
    "timeout_seconds": (float, "How long the whole answer may take."),
}
"""The options for what belongs to a kind: their types, and what they mean."""


def _open_channel(context: click.Context, option: click.Parameter, server: str | None) -> None:
    """Makes the stub that the commands get; the server of the later option wins."""
    if server is not None:
        channel = context.with_resource(grpc.insecure_channel(read_server(context, option, server), DIRECT))
        context.obj = Stub(channel)


class _AgentsCommand(click.Command):
    """Takes --server, too, for those who write it behind the command's name."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        meaning = "The gRPC server.  [that of `agents`]"
        self.params.append(click.Option(["--server"], metavar="HOST:PORT", help=meaning, expose_value=False, callback=_open_channel))


class _Agents(click.Group):
    command_class = _AgentsCommand


@click.group(cls=_Agents)
@server_option("The gRPC server.", callback=_open_channel, expose_value=False)
def agents() -> None:
    """List and change the agents of a running server."""


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


def _setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options for what belongs to a kind."""
    for name, (kind, meaning) in reversed(_SETTINGS.items()):
        owners = [str(owner) for owner, settings in SETTINGS.items() if name in (field.name for field in fields(settings))]
        command = click.option(f"--{name.replace('_', '-')}", type=kind, help=f"({', '.join(owners)}) {meaning}")(command)
    return command


@agents.command("list")
@click.pass_obj
def list_agents(stub: Stub) -> None:
    """Show the agents as a table."""
    rows = [("ID", "NAME", "KIND", "WHERE", "TIMEOUT SETTINGS")]
    token = ""
    while True:
        page = _call(stub.ListAgents, agent_service_pb2.ListAgentsRequest(page_token=token))
        rows += [
            (agent.agent_id, agent.name, _kind(agent), _where(agent), _timeout(agent.timeout_config) or "default") for agent in page.agents
        ]
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
@_setting_options
@_timeout_options
@click.pass_obj
def add(stub: Stub, /, agent_id: str, name: str, kind: str, **options: Any) -> None:
    """Register an agent."""
    agent = agent_pb2.Agent(agent_id=agent_id, name=name, kind=_kind_number(kind))
    _fill(agent, kind, options)
    _print(_call(stub.CreateAgent, agent_service_pb2.CreateAgentRequest(agent=agent)).agent)


@agents.command()
@click.argument("agent_id")
@click.option("--name", help="What people call it.")
@click.option("--kind", type=_KIND, help="How it is reached; the settings of another kind go.")
@_setting_options
@_timeout_options
@click.pass_obj
def update(stub: Stub, /, agent_id: str, name: str | None, kind: str | None, **options: Any) -> None:
    """Change an agent; what is not named stays."""
    agent = agent_pb2.Agent(agent_id=agent_id, name=name or "")
    if kind:
        agent.kind = _kind_number(kind)
    else:
        kind = _kind(_call(stub.GetAgent, agent_service_pb2.GetAgentRequest(agent_id=agent_id)).agent)
    paths = [field for field in ("name", "kind") if getattr(agent, field)] + _fill(agent, kind, options)
    mask = field_mask_pb2.FieldMask(paths=paths)
    _print(_call(stub.UpdateAgent, agent_service_pb2.UpdateAgentRequest(agent=agent, update_mask=mask)).agent)


@agents.command()
@click.argument("agent_id")
@click.pass_obj
def remove(stub: Stub, agent_id: str) -> None:
    """Remove an agent; its sessions stay until they expire."""
    _call(stub.DeleteAgent, agent_service_pb2.DeleteAgentRequest(agent_id=agent_id))
    click.echo(f"removed {agent_id}")


def _fill(agent: agent_pb2.Agent, kind: str, options: dict[str, Any]) -> list[str]:
    """Puts the options that were given into the agent; returns their paths."""
    settings = SETTINGS.get(AgentKind(kind))
    known = [field.name for field in fields(settings)] if settings else []
    paths = []
    for name, value in options.items():
        if value is None:
            continue
        if name not in (*_TIMEOUT, *known):
            raise click.UsageError(f"--{name.replace('_', '-')} does not belong to the kind {kind}")
        head = "timeout_config" if name in _TIMEOUT else kind
        try:
            setattr(getattr(agent, head), name, value)
        except ValueError as error:
            raise click.UsageError(f"--{name.replace('_', '-')}: {error}") from error
        paths.append(f"{head}.{name}")
    return paths


def _where(agent: agent_pb2.Agent) -> str:
    match agent.WhichOneof("settings"):
        case "webhook":
            return agent.webhook.url
        case "openai":
            return f"{agent.openai.model} at {agent.openai.base_url}"
        case _:
            return "-"


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
    settings = agent.WhichOneof("settings")
    for field, value in getattr(agent, settings).ListFields() if settings else ():
        click.echo(f"{settings}.{field.name}: {value:g}" if isinstance(value, float) else f"{settings}.{field.name}: {value}")
    click.echo(f"timeout:  {_timeout(agent.timeout_config) or 'default'}")
    click.echo(f"created:  {times.iso(values.ms_floor(agent.created_at))}")
    click.echo(f"updated:  {times.iso(values.ms_floor(agent.updated_at))}")
