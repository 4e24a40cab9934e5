"""`eliza-sessions agents …`: the registry of agents of a running server."""

import json
import re
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from typing import Any, Final

import click
import grpc
from google.protobuf import field_mask_pb2
from google.protobuf.json_format import MessageToDict

from eliza.sessions import times, values
from eliza.sessions.errors import TABLE, error_info
from eliza.sessions.limits import MAX_SESSIONS
from eliza.sessions.v1 import agent_pb2, agent_service_pb2, errors_pb2, session_service_pb2, timeout_pb2
from server.cli.chat import Stubs, printable, talk
from server.cli.common import DIRECT, read_server, server_option
from server.domain.agents import SETTINGS, AgentKind

DEADLINE_SECONDS: Final = 10

FAILURE_WIDTH: Final = 100
"""How many characters of a failure `list` shows."""

_KIND = click.Choice([str(kind) for kind in AgentKind])
_TIMEOUT: Final = tuple(timeout_pb2.TimeoutConfig.DESCRIPTOR.fields_by_name)

_SETTINGS: Final[dict[str, tuple[type, str]]] = {
    "url": (str, "Where each message is posted to."),
    "secret": (
        str,
        "Where its signing secret is, not the secret itself: env:NAME or file:/PATH of the server. There, "
        "base64 of 16 bytes or more, "
        "with or without whsec_ before it, as `openssl rand -base64 32` makes it.",
    ),
    "base_url": (str, "The address before /chat/completions.  [https://api.openai.com/v1]"),
    "model": (str, "The model to ask."),
    "api_key": (str, "Where the API key is, not the key itself: env:NAME or file:/PATH of the server."),
    "system_prompt": (str, "What comes before the conversation."),
    "temperature": (float, "Sampling temperature, 0 to 2."),
    "top_p": (float, "Nucleus sampling, 0 to 1."),
    "max_tokens": (int, "The greatest number of tokens of a reply."),
    "history_messages": (int, "How many messages of the conversation it is shown."),
    "history_characters": (int, "How many characters of the conversation it is shown."),
    "timeout_seconds": (float, "How long the whole answer may take."),
}
"""The options for the settings of a kind: their types, and what they mean."""


def _open_channel(context: click.Context, option: click.Parameter, server: str | None) -> None:
    """Makes the stubs for the commands. The server of the last option wins."""
    if server is not None:
        channel = context.with_resource(grpc.insecure_channel(read_server(context, option, server), DIRECT))
        context.obj = Stubs(channel)


class _AgentsCommand(click.Command):
    """Takes --server also behind the command's name."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        meaning = "The gRPC server.  [that of `agents`]"
        self.params.append(
            click.Option(
                ["--server"], metavar="HOST:PORT", help=meaning, expose_value=False, callback=_open_channel
            )
        )


class _Agents(click.Group):
    command_class = _AgentsCommand


@click.group(cls=_Agents)
@server_option("The gRPC server.", callback=_open_channel, expose_value=False)
def agents() -> None:
    """List, change and talk to the agents of a running server."""


def _timeout_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of an agent's timeout settings, named as in the API."""
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
    """The options for the settings of the kinds."""
    for name, (kind, meaning) in reversed(_SETTINGS.items()):
        owners = [
            str(owner)
            for owner, settings in SETTINGS.items()
            if name in (field.name for field in fields(settings))
        ]
        command = click.option(
            f"--{name.replace('_', '-')}", type=kind, help=f"({', '.join(owners)}) {meaning}"
        )(command)
    return command


_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


@agents.command("list")
@_json_option
@click.pass_obj
def list_agents(stubs: Stubs, as_json: bool) -> None:
    """Show the agents as a table, and how each fares."""
    found = list(_walk(stubs, agent_pb2.AGENT_VIEW_STATUS))
    if as_json:
        _print_json([_plain(agent) for agent in found])
        return
    rows = [("ID", "NAME", "KIND", "WORKERS", "WAITING", "WHERE", "TIMEOUT SETTINGS", "LAST FAILURE")]
    for agent in found:
        name, where, timeout = (
            printable(agent.name),
            printable(_where(agent)),
            _timeout(agent.timeout_config) or "default",
        )
        waiting = str(agent.status.open_deliveries)
        rows.append(
            (
                agent.agent_id,
                name,
                _kind(agent),
                _workers(agent),
                waiting,
                where,
                timeout,
                _last_failure(agent),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@agents.command()
@click.argument("agent_id")
@_json_option
@click.pass_obj
def show(stubs: Stubs, agent_id: str, as_json: bool) -> None:
    """Show one agent, and how it fares."""
    agent = _get(stubs, agent_id)
    if as_json:
        _print_json(_plain(agent))
    else:
        _print(agent)


@agents.command()
@click.option("--id", "agent_id", default="", metavar="UUID", help="The agent's id.  [a fresh one]")
@click.option("--name", required=True, help="What people call it.")
@click.option("--kind", required=True, type=_KIND, help="How it is reached.")
@_setting_options
@_timeout_options
@click.pass_obj
def add(stubs: Stubs, /, agent_id: str, name: str, kind: str, **options: Any) -> None:
    """Register an agent."""
    agent = agent_pb2.Agent(agent_id=agent_id, name=name, kind=_kind_number(kind))
    _fill(agent, kind, options)
    namesakes = _namesakes(stubs, name)
    added = _call(stubs.agents.CreateAgent, agent_service_pb2.CreateAgentRequest(agent=agent)).agent
    _print(added)
    _warn_of(namesakes, added)


@agents.command()
@click.argument("agent_id")
@click.option("--name", help="What people call it.")
@click.option("--kind", type=_KIND, help="How it is reached; the settings of another kind go.")
@_setting_options
@_timeout_options
@click.pass_obj
def update(stubs: Stubs, /, agent_id: str, name: str | None, kind: str | None, **options: Any) -> None:
    """Change an agent; what is not named stays."""
    agent = agent_pb2.Agent(agent_id=agent_id, name=name or "")
    if kind:
        agent.kind = _kind_number(kind)
    else:
        kind = _kind(_get(stubs, agent_id))
    paths = [field for field in ("name", "kind") if getattr(agent, field)] + _fill(agent, kind, options)
    namesakes = _namesakes(stubs, name) if name else []
    mask = field_mask_pb2.FieldMask(paths=paths)
    updated = _call(
        stubs.agents.UpdateAgent, agent_service_pb2.UpdateAgentRequest(agent=agent, update_mask=mask)
    ).agent
    _print(updated)
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
        agent = _get(stubs, agent_id)
        waiting = agent.status.open_deliveries
        lost = f" Messages that wait for its reply get none: {waiting}." if waiting else ""
        click.confirm(f"Remove {printable(agent.name)} ({agent.agent_id})?{lost}", abort=True)
    _call(stubs.agents.DeleteAgent, agent_service_pb2.DeleteAgentRequest(agent_id=agent_id))
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
    agent = _get(stubs, agent_id)
    request = session_service_pb2.CreateSessionRequest(
        agent_id=agent.agent_id, user_id=user or str(uuid.uuid4())
    )
    session_id = _call(stubs.sessions.CreateSession, request).session.session_id
    try:
        replied = talk(stubs, agent, session_id)
    finally:
        _call(stubs.sessions.DeleteSession, session_service_pb2.DeleteSessionRequest(session_id=session_id))
    if not replied:
        click.get_current_context().exit(1)


def _walk(stubs: Stubs, view: agent_pb2.AgentView.ValueType) -> Iterator[agent_pb2.Agent]:
    """All agents, page by page."""
    # Agents with their settings may be long, so their pages are small.
    size = MAX_SESSIONS if view == agent_pb2.AGENT_VIEW_BASIC else 0
    request = agent_service_pb2.ListAgentsRequest(page_size=size, view=view)
    while True:
        page = _call(stubs.agents.ListAgents, request)
        yield from page.agents
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _get(stubs: Stubs, agent_id: str) -> agent_pb2.Agent:
    """One agent, with its status."""
    request = agent_service_pb2.GetAgentRequest(agent_id=agent_id, view=agent_pb2.AGENT_VIEW_STATUS)
    agent: agent_pb2.Agent = _call(stubs.agents.GetAgent, request).agent
    return agent


def _namesakes(stubs: Stubs, name: str) -> list[str]:
    """The ids of the agents that have this name."""
    return [agent.agent_id for agent in _walk(stubs, agent_pb2.AGENT_VIEW_BASIC) if agent.name == name]


def _warn_of(namesakes: list[str], agent: agent_pb2.Agent) -> None:
    """Warns where another agent has the same name: people cannot tell them apart."""
    others = [found for found in namesakes if found != agent.agent_id]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        click.echo(f"Warning: {others[0]}{more} has the name {printable(agent.name)!r}, too", err=True)


def _fill(agent: agent_pb2.Agent, kind: str, options: dict[str, Any]) -> list[str]:
    """Puts the given options into the agent; returns their paths."""
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
        raise click.ClickException(f"{error.code().name}: {_in_options(error)}") from error


def _in_options(error: grpc.RpcError) -> str:
    """The error's message, with fields named as the options that the user typed."""
    info, message = error_info(error), error.details() or ""
    if info and info.reason in TABLE:
        for detail, kind in TABLE[info.reason].details.items():
            if kind in (errors_pb2.DETAIL_KIND_FIELD, errors_pb2.DETAIL_KIND_FIELD_LIST):
                for field in filter(None, info.metadata.get(detail, "").split(",")):
                    message = re.sub(
                        rf"(?<![\w.-]){re.escape(field)}(?![\w.-])", _option(field), message, count=1
                    )
    return message


def _option(field: str) -> str:
    """The option that sets a field of an agent; for the settings as a whole, the options that the kind
    requires.
    """
    if field in tuple(SETTINGS):
        needed = [one.name for one in fields(SETTINGS[AgentKind(field)]) if one.default is MISSING]
        return ", ".join(map(_option, needed))
    name = field.rpartition(".")[2]
    return {"agent_id": "--id", "user_id": "--user"}.get(name, f"--{name.replace('_', '-')}")


def _kind(agent: agent_pb2.Agent) -> str:
    return agent_pb2.AgentKind.Name(agent.kind).removeprefix("AGENT_KIND_").lower()


def _kind_number(kind: str) -> agent_pb2.AgentKind.ValueType:
    return agent_pb2.AgentKind.Value(f"AGENT_KIND_{kind.upper()}")


def _timeout(config: timeout_pb2.TimeoutConfig) -> str:
    return ", ".join(f"{field.name}={_short(value)}" for field, value in config.ListFields())


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _workers(agent: agent_pb2.Agent) -> str:
    """The number of connected workers; a dash for kinds that have none."""
    return str(agent.status.connected_workers) if agent.kind == agent_pb2.AGENT_KIND_STREAM else "-"


def _last_failure(agent: agent_pb2.Agent) -> str:
    """When and why an attempt last failed, in a few words."""
    if not agent.status.HasField("last_failure"):
        return "-"
    failure = agent.status.last_failure
    text = printable(f"{_iso(failure.at)} {failure.detail or failure.reason}")
    return text if len(text) <= FAILURE_WIDTH else f"{text[: FAILURE_WIDTH - 1]}…"


def _iso(when: Any) -> str:
    return times.iso(values.ms_floor(when))


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _plain(agent: agent_pb2.Agent) -> dict[str, Any]:
    """An agent as JSON. Programs rely on these names: add more, change none."""
    settings, status = agent.WhichOneof("settings"), agent.status
    failure = status.last_failure
    return {
        "id": agent.agent_id,
        "name": agent.name,
        "kind": _kind(agent),
        "settings": MessageToDict(getattr(agent, settings)) if settings else {},
        "timeoutConfig": MessageToDict(agent.timeout_config),
        "createdAt": _iso(agent.created_at),
        "updatedAt": _iso(agent.updated_at),
        "status": {
            "connectedWorkers": status.connected_workers,
            "openDeliveries": status.open_deliveries,
            "deliveriesInHand": status.deliveries_in_hand,
            "lastFailure": {
                "sessionId": failure.session_id,
                "messageId": failure.message_id,
                "attempt": failure.attempt,
                "at": _iso(failure.at),
                "reason": failure.reason,
                "detail": failure.detail,
                "final": failure.final,
            }
            if status.HasField("last_failure")
            else None,
        },
    }


def _print(agent: agent_pb2.Agent) -> None:
    click.echo(f"id:       {agent.agent_id}")
    click.echo(f"name:     {printable(agent.name)}")
    click.echo(f"kind:     {_kind(agent)}")
    settings = agent.WhichOneof("settings")
    for field, value in getattr(agent, settings).ListFields() if settings else ():
        click.echo(f"{settings}.{field.name}: {_short(value)}")
    click.echo(f"timeout:  {_timeout(agent.timeout_config) or 'default'}")
    click.echo(f"created:  {_iso(agent.created_at)}")
    click.echo(f"updated:  {_iso(agent.updated_at)}")
    if agent.HasField("status"):
        _print_status(agent)


def _print_status(agent: agent_pb2.Agent) -> None:
    status = agent.status
    if agent.kind == agent_pb2.AGENT_KIND_STREAM:
        click.echo(f"workers:  {status.connected_workers} connected")
    click.echo(f"waiting:  {status.open_deliveries} messages, {status.deliveries_in_hand} of them in hand")
    if not status.HasField("last_failure"):
        click.echo("failure:  none since the start of the service")
        return
    failure = status.last_failure
    attempt = f"attempt {failure.attempt}" if failure.attempt else "before any attempt"
    final = "final" if failure.final else "not final"
    click.echo(f"failure:  {_iso(failure.at)}, {attempt}, {final}: {printable(failure.reason)}")
    click.echo(f"of:       message {failure.message_id} of session {failure.session_id}")
    if failure.detail:
        click.echo(f"detail:   {printable(failure.detail)}")
