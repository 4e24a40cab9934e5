"""`eliza-sessions status`: how a running server is, on one page."""

from typing import Any, Final

import click

from eliza.sessions.v1 import admin_service_pb2 as pb
from eliza.sessions.v1 import session_service_pb2
from server.cli.agent_calls import call
from server.cli.agent_display import iso, print_json
from server.cli.amounts import amount
from server.cli.chat import Stubs, printable
from server.cli.server_commands import ServerCommand, server_options

_HEALTH: Final = "HEALTH_"
_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")


@click.command(cls=ServerCommand)
@server_options("The gRPC server.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.pass_obj
def status(stubs: Stubs, as_json: bool) -> None:
    """Show how a running server is: its parts, traffic, waiting messages, refusals, disk, backup.

    Rates and times are those of the last 10 seconds. A protected server wants the key of an administrator of
    all tenants.
    """
    request = pb.GetOverviewRequest()
    # Without the points of the last hour, of which nothing is shown.
    request.after.GetCurrentTime()
    overview = call(stubs.admin.GetOverview, request)
    system = call(stubs.admin.GetSystem, pb.GetSystemRequest())
    if as_json:
        print_json(to_json(overview, system))
    else:
        _print(overview, system)


def to_json(overview: pb.GetOverviewResponse, system: pb.GetSystemResponse) -> dict[str, Any]:
    """Both as JSON. Programs rely on these names: add more, change none."""
    now, store = overview.now, system.store
    return {
        "version": system.version,
        "schemaVersion": system.schema_version,
        "startedAt": iso(system.started_at),
        "isProtected": system.is_protected,
        "changedSettings": {one.name: one.value for one in system.changed_settings},
        "parts": {
            part.name: {"health": _health(part.health), "reason": part.reason, "since": iso(part.since)}
            for part in system.parts
        },
        "messagesPerSecond": now.messages_per_second,
        "repliesPerSecond": now.replies_per_second,
        "refusalsPerSecond": now.refusals_per_second,
        "firstChunkP50Ms": _maybe(now, "first_chunk_p50_ms"),
        "firstChunkP95Ms": _maybe(now, "first_chunk_p95_ms"),
        "replyP50Ms": _maybe(now, "reply_p50_ms"),
        "replyP95Ms": _maybe(now, "reply_p95_ms"),
        "openDeliveries": now.open_deliveries,
        "oldestDeliverySeconds": overview.oldest_delivery_seconds,
        "liveSessions": now.live_sessions,
        "expiringSessions": now.expiring_sessions,
        "expiryLagSeconds": overview.expiry_lag_seconds,
        "openStreams": now.open_streams,
        "eventLoopLagMs": now.event_loop_lag_ms,
        "refusals": dict(sorted(overview.refusals.items())),
        "store": {
            "path": store.path,
            "dataBytes": store.data_bytes,
            "walBytes": store.wal_bytes,
            "freePagesBytes": store.free_pages_bytes,
            "givesBackSpace": store.gives_back_space,
            "diskFreeBytes": store.disk_free_bytes,
            "diskTotalBytes": store.disk_total_bytes,
        },
        "lastBackup": _run_json(system, "last_backup"),
        "lastCheck": _run_json(system, "last_check"),
    }


def _print(overview: pb.GetOverviewResponse, system: pb.GetSystemResponse) -> None:
    now, store = overview.now, system.store
    lock = "protected" if system.is_protected else "open"
    _line("version", f"{system.version}, schema {system.schema_version}, {lock}")
    _line("started", iso(system.started_at))
    for part in system.parts:
        since = f" since {iso(part.since)}" if part.reason else ""
        # Under a name of their own: `store` and `sessions` have figures, too.
        health = f"{part.name}, {_health(part.health)}{since}"
        _line("part", ": ".join(filter(None, (health, printable(part.reason)))))
    _line(
        "traffic",
        f"{amount(now.messages_per_second)} messages, {amount(now.replies_per_second)} replies and "
        f"{amount(now.refusals_per_second)} refusals a second",
    )
    _line("first piece", _times(now, "first_chunk"))
    _line("reply", _times(now, "reply"))
    oldest = f", the oldest for {amount(overview.oldest_delivery_seconds)} s" if now.open_deliveries else ""
    _line("waiting", f"{now.open_deliveries} messages{oldest}")
    _line(
        "sessions",
        f"{now.live_sessions} live, {now.expiring_sessions} of them near their end; "
        f"deadlines late by {amount(overview.expiry_lag_seconds)} s",
    )
    _line(
        "streams", f"{now.open_streams} open; event loop late by {amount(now.event_loop_lag_ms)} ms at most"
    )
    refusals = sorted(overview.refusals.items(), key=lambda one: (-one[1], one[0]))
    _line("refusals", ", ".join(f"{reason} {count}" for reason, count in refusals) or "none since the start")
    ahead = f", and {_size(store.wal_bytes)} ahead" if store.disk_total_bytes else ""
    _line("store", f"{printable(store.path)}: {_size(store.data_bytes)}{ahead}")
    # Of a PostgreSQL store only the database's own tools can tell.
    if store.disk_total_bytes:
        kept = (
            "which it gives back" if store.gives_back_space else "which `eliza-sessions compact` gives back"
        )
        _line("free in it", f"{_size(store.free_pages_bytes)}, {kept}")
        _line("disk", f"{_size(store.disk_free_bytes)} free of {_size(store.disk_total_bytes)}")
    _line("backup", _run(system, "last_backup"))
    _line("check", _run(system, "last_check"))
    for setting in system.changed_settings:
        _line("setting", f"{setting.name}={printable(setting.value)}")


def _line(name: str, text: str) -> None:
    click.echo(f"{name + ':':<13}{text}")


def _health(health: session_service_pb2.GetServiceStatusResponse.Health.ValueType) -> str:
    """Returns a health in a word."""
    name = session_service_pb2.GetServiceStatusResponse.Health.Name(health)
    return name.removeprefix(_HEALTH).lower()


def _maybe(point: pb.OverviewPoint, field: str) -> float | None:
    return getattr(point, field) if point.HasField(field) else None  # type: ignore[arg-type]


def _times(point: pb.OverviewPoint, what: str) -> str:
    half, most = (_maybe(point, f"{what}_p{part}_ms") for part in (50, 95))
    if half is None or most is None:
        return "none in the last 10 s"
    return f"p50 {amount(half)} ms, p95 {amount(most)} ms"


def _run(system: pb.GetSystemResponse, field: str) -> str:
    if not system.HasField(field):  # type: ignore[arg-type]
        return "none is known of"
    run: pb.GetSystemResponse.Run = getattr(system, field)
    return f"{iso(run.at)}, {'good' if run.is_good else 'BAD'}: {printable(run.detail)}"


def _run_json(system: pb.GetSystemResponse, field: str) -> dict[str, Any] | None:
    if not system.HasField(field):  # type: ignore[arg-type]
        return None
    run: pb.GetSystemResponse.Run = getattr(system, field)
    return {"at": iso(run.at), "isGood": run.is_good, "detail": run.detail}


def _size(count: int) -> str:
    """Returns a size for people: `3.4 MiB`."""
    left = float(count)
    for unit in _UNITS:
        if left < 1024 or unit == _UNITS[-1]:
            break
        left /= 1024
    return f"{amount(left)} {unit}"
