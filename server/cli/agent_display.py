"""How `eliza-sessions agents` shows agents: as a table, as lines or as JSON."""

import json
from collections.abc import Sequence
from typing import Any, Final

import click
from google.protobuf.json_format import MessageToDict

from eliza.sessions import times, values
from eliza.sessions.v1 import admin_service_pb2, agent_pb2, timeout_pb2
from server.cli.amounts import amount
from server.cli.chat import printable

FAILURE_WIDTH: Final = 100
"""How many characters of a failure `list` shows."""


def print_table(agents: Sequence[agent_pb2.Agent]) -> None:
    """Prints a line for each agent."""
    rows = [("ID", "NAME", "KIND", "WORKERS", "WAITING", "WHERE", "TIMEOUT SETTINGS", "LAST FAILURE")]
    rows += [
        (
            agent.agent_id,
            printable(agent.name),
            kind_name(agent),
            _workers(agent),
            str(agent.status.open_deliveries) if agent.HasField("status") else "-",
            printable(_where(agent)),
            (_timeout(agent.timeout_config) or "default") if _is_told(agent) else "-",
            _last_failure(agent),
        )
        for agent in agents
    ]
    print_rows(rows)


def print_rows(rows: Sequence[tuple[str, ...]]) -> None:
    """Prints lines with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_agent(agent: agent_pb2.Agent) -> None:
    """Prints an agent, a field a line."""
    click.echo(f"id:       {agent.agent_id}")
    click.echo(f"name:     {printable(agent.name)}")
    click.echo(f"kind:     {kind_name(agent)}")
    settings = agent.WhichOneof("settings")
    for field, value in getattr(agent, settings).ListFields() if settings else ():
        click.echo(f"{settings}.{field.name}: {_short(value)}")
    if _is_told(agent):
        click.echo(f"timeout:  {_timeout(agent.timeout_config) or 'default'}")
    if agent.HasField("retention_minutes"):
        click.echo(f"kept:     {agent.retention_minutes:g} minutes after the end of a session")
    if _is_told(agent):
        click.echo(f"created:  {iso(agent.created_at)}")
        click.echo(f"updated:  {iso(agent.updated_at)}")
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
    click.echo(f"failure:  {iso(failure.at)}, {attempt}, {final}: {printable(failure.reason)}")
    click.echo(f"of:       message {failure.message_id} of session {failure.session_id}")
    if failure.detail:
        click.echo(f"detail:   {printable(failure.detail)}")


def print_activity(activity: admin_service_pb2.GetAgentActivityResponse) -> None:
    """Prints what waits for an agent, how long it takes, and a line for each of its workers."""
    if activity.oldest_seconds:
        click.echo(f"oldest:   {amount(activity.oldest_seconds)} s")
    if activity.failed:
        click.echo(f"failed:   {activity.failed} messages got no reply, and can be delivered anew")
    for name, field in (("piece:   ", "first_chunk_p95_ms"), ("reply:   ", "reply_p95_ms")):
        if activity.HasField(field):  # type: ignore[arg-type]
            click.echo(f"{name} p95 {amount(getattr(activity, field))} ms after the message")
    if not activity.workers:
        return
    click.echo()
    print_rows(
        [
            ("WORKER", "ADDRESS", "CREDENTIAL", "CONNECTED", "IN HAND", "STATE"),
            *(
                (
                    worker.worker_id,
                    printable(worker.address) or "-",
                    printable(worker.principal) or "-",
                    iso(worker.connected_at),
                    f"{worker.in_hand} of {worker.max_deliveries}",
                    "retired" if worker.is_retired else "works",
                )
                for worker in activity.workers
            ),
        ]
    )


def activity_json(activity: admin_service_pb2.GetAgentActivityResponse) -> dict[str, Any]:
    """The same as JSON. Programs rely on these names: add more, change none."""
    times = {
        name: getattr(activity, field) if activity.HasField(field) else None  # type: ignore[arg-type]
        for name, field in (("firstChunkP95Ms", "first_chunk_p95_ms"), ("replyP95Ms", "reply_p95_ms"))
    }
    return {
        "waiting": activity.waiting,
        "oldestSeconds": activity.oldest_seconds,
        "failed": activity.failed,
        **times,
        "workers": [
            {
                "id": worker.worker_id,
                "address": worker.address,
                "credential": worker.principal,
                "connectedAt": iso(worker.connected_at),
                "maxDeliveries": worker.max_deliveries,
                "inHand": worker.in_hand,
                "isRetired": worker.is_retired,
            }
            for worker in activity.workers
        ],
    }


def print_json(value: Any) -> None:
    """Prints a value as indented JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _is_told(agent: agent_pb2.Agent) -> bool:
    """Whether the caller may know more of an agent than its id, name and kind."""
    return agent.HasField("created_at")


def to_json(agent: agent_pb2.Agent) -> dict[str, Any]:
    """An agent as JSON. Programs rely on these names: add more, change none."""
    settings, status = agent.WhichOneof("settings"), agent.status
    failure, has_status = status.last_failure, agent.HasField("status")
    return {
        "id": agent.agent_id,
        "name": agent.name,
        "kind": kind_name(agent),
        "settings": MessageToDict(getattr(agent, settings)) if settings else {},
        "timeoutConfig": MessageToDict(agent.timeout_config),
        "retentionMinutes": agent.retention_minutes if agent.HasField("retention_minutes") else None,
        "createdAt": iso(agent.created_at) if _is_told(agent) else None,
        "updatedAt": iso(agent.updated_at) if _is_told(agent) else None,
        "status": {
            "connectedWorkers": status.connected_workers if has_status else None,
            "openDeliveries": status.open_deliveries if has_status else None,
            "deliveriesInHand": status.deliveries_in_hand if has_status else None,
            "lastFailure": {
                "sessionId": failure.session_id,
                "messageId": failure.message_id,
                "attempt": failure.attempt,
                "at": iso(failure.at),
                "reason": failure.reason,
                "detail": failure.detail,
                "final": failure.final,
            }
            if status.HasField("last_failure")
            else None,
        },
    }


def _where(agent: agent_pb2.Agent) -> str:
    match agent.WhichOneof("settings"):
        case "webhook":
            return agent.webhook.url
        case "openai":
            return f"{agent.openai.model} at {agent.openai.base_url}"
        case _:
            return "-"


def kind_name(agent: agent_pb2.Agent) -> str:
    """Returns an agent's kind as people write it: `echo`."""
    return agent_pb2.AgentKind.Name(agent.kind).removeprefix("AGENT_KIND_").lower()


def _timeout(config: timeout_pb2.TimeoutConfig) -> str:
    return ", ".join(f"{field.name}={_short(value)}" for field, value in config.ListFields())


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _workers(agent: agent_pb2.Agent) -> str:
    """The number of connected workers; a dash for kinds that have none, and where it is not told."""
    is_known = agent.kind == agent_pb2.AGENT_KIND_STREAM and agent.HasField("status")
    return str(agent.status.connected_workers) if is_known else "-"


def _last_failure(agent: agent_pb2.Agent) -> str:
    """When and why an attempt last failed, in a few words."""
    if not agent.status.HasField("last_failure"):
        return "-"
    failure = agent.status.last_failure
    text = printable(f"{iso(failure.at)} {failure.detail or failure.reason}")
    return text if len(text) <= FAILURE_WIDTH else f"{text[: FAILURE_WIDTH - 1]}…"


def iso(when: Any) -> str:
    """Returns a Timestamp as people and JSON write it, to the millisecond."""
    return times.iso(values.ms_floor(when))
