"""Makes AdminService's messages of the service's values."""

from collections.abc import Callable, Mapping
from typing import Final

from eliza.sessions import values
from eliza.sessions.v1 import admin_service_pb2 as pb
from eliza.sessions.v1 import agent_pb2
from server.agents.stream import StreamWorker
from server.delivery.attempt import Attempt
from server.delivery.statuses import LastFailure
from server.domain.deliveries import AttemptFailure, DeliveryState
from server.domain.sessions import Session, is_expired
from server.environment import MASK
from server.rpc import to_proto
from server.rpc.parts import Part
from server.store.values import Description, FoundDelivery, Run, Sizes
from server.telemetry.recorder import Point

_STATES: Final = {
    DeliveryState.PENDING: pb.DELIVERY_STATE_WAITING,
    # The agent had it when the service stopped, or is about to be given it.
    DeliveryState.LEASED: pb.DELIVERY_STATE_WAITING,
    DeliveryState.ANSWERED: pb.DELIVERY_STATE_ANSWERED,
    DeliveryState.FAILED: pb.DELIVERY_STATE_FAILED,
}
"""The state of a delivery that the agent does not have now."""


def point(made: Point) -> pb.OverviewPoint:
    """How busy the service was."""
    figures, gauges = made.figures, made.gauges
    return pb.OverviewPoint(
        at=values.timestamp(made.at_ms),
        messages_per_second=figures.messages,
        replies_per_second=figures.replies,
        first_chunk_p50_ms=figures.first_chunk_p50_ms,
        first_chunk_p95_ms=figures.first_chunk_p95_ms,
        reply_p50_ms=figures.reply_p50_ms,
        reply_p95_ms=figures.reply_p95_ms,
        open_deliveries=int(gauges.open_deliveries),
        live_sessions=int(gauges.live_sessions),
        expiring_sessions=int(gauges.expiring_sessions),
        open_streams=int(gauges.open_streams),
        refusals_per_second=figures.refusals,
        store_bytes=int(gauges.store_bytes),
        event_loop_lag_ms=figures.lag_ms,
    )


def found_session(
    stored: Session, now_ms: int, as_text: bool, make: Callable[..., pb.FoundSession] = pb.FoundSession
) -> pb.FoundSession:
    """A session that was found. `make` makes the message, such as the `add` of a list."""
    has_expired = is_expired(stored, now_ms)
    return make(
        session=to_proto.session(stored, now_ms, as_text),
        is_expired=has_expired,
        ended_at=values.timestamp(stored.expires_at_ms) if has_expired else None,
        open_deliveries=stored.open_deliveries,
        failed_deliveries=0 if has_expired else stored.failed_deliveries,
    )


def delivery(
    found: FoundDelivery,
    now_ms: int,
    max_attempts: int,
    attempt: Attempt | None,
    worker: StreamWorker | None,
    *,
    is_whole: bool,
) -> pb.MessageDelivery:
    """The way of a message; `attempt` is what the agent has of it now from this server, `worker` who that is.

    Not `is_whole`: without what is for the operator of the agent alone.
    """
    stored = found.delivery if attempt is None else attempt.work.delivery
    message = pb.MessageDelivery(
        delivery_id=stored.id,
        session_id=stored.session_id,
        message_id=found.message_id,
        message_sequence=stored.sequence,
        state=pb.DELIVERY_STATE_IN_HAND if attempt or found.is_held else _STATES[stored.state],
        attempts=stored.attempts,
        max_attempts=max_attempts,
        created_at=values.timestamp(found.created_at_ms),
        lost_connections=stored.lost_connections,
        can_redeliver=stored.state is DeliveryState.FAILED and now_ms < found.session_end_ms,
    )
    if last := stored.last_failure:
        message.last_failure.CopyFrom(
            _failure(stored.session_id, found.message_id, last, final=stored.state is DeliveryState.FAILED)
        )
    if attempt is not None:
        message.lease_expires_at.CopyFrom(values.timestamp(now_ms + round(attempt.lease_left_s * 1000)))
    elif found.is_held:
        message.lease_expires_at.CopyFrom(values.timestamp(stored.due_at_ms or now_ms))
    elif message.state == pb.DELIVERY_STATE_WAITING:
        due_ms = stored.due_at_ms if stored.state is DeliveryState.PENDING else now_ms
        message.next_attempt_at.CopyFrom(values.timestamp(now_ms if due_ms is None else due_ms))
    if not is_whole:
        if message.HasField("last_failure"):
            message.last_failure.ClearField("detail")
    elif worker is not None:
        message.worker_id, message.worker_address = worker.id, worker.origin.address
    return message


def last_failure(last: LastFailure) -> agent_pb2.DeliveryFailure:
    """The last failed attempt of an agent."""
    return _failure(last.session_id, last.message_id, last.failure, final=last.final)


def worker(connected: StreamWorker) -> pb.GetAgentActivityResponse.Worker:
    """A worker that is connected."""
    origin = connected.origin
    return pb.GetAgentActivityResponse.Worker(
        worker_id=connected.id,
        address=origin.address,
        principal=origin.principal,
        connected_at=values.timestamp(origin.connected_at_ms),
        max_deliveries=connected.capacity,
        in_hand=len(connected.held),
        is_retired=connected.retired,
    )


def part(seen: Part) -> pb.GetSystemResponse.Part:
    """A part of the service."""
    return pb.GetSystemResponse.Part(
        name=seen.name,
        health=seen.finding.health.value,  # type: ignore[arg-type] # they have the same numbers
        reason=seen.finding.reason,
        since=values.timestamp(seen.since_ms),
    )


def store_file(described: Description, sizes: Sizes) -> pb.GetSystemResponse.StoreFile:
    """The file that holds everything. 0 stands for what only the database's own tools can tell."""
    return pb.GetSystemResponse.StoreFile(
        path=described.place,
        data_bytes=sizes.data_bytes,
        wal_bytes=sizes.wal_bytes or 0,
        disk_free_bytes=sizes.free_bytes or 0,
        disk_total_bytes=sizes.disk_bytes,
        gives_back_space=described.gives_back,
        free_pages_bytes=described.unused_bytes,
    )


def run(ended: Run | None) -> pb.GetSystemResponse.Run | None:
    """How a command has ended; None: nobody knows."""
    if ended is None:
        return None
    return pb.GetSystemResponse.Run(
        at=values.timestamp(ended.at_ms), is_good=ended.is_good, detail=ended.detail
    )


def settings(
    changed: Mapping[str, object], defaults: Mapping[str, object]
) -> list[pb.GetSystemResponse.Setting]:
    """The settings that differ from their defaults, by name."""
    return [
        pb.GetSystemResponse.Setting(
            name=name, value=_text(changed[name]), default_value=_text(defaults[name])
        )
        for name in sorted(changed)
    ]


def _text(value: object) -> str:
    """A setting as the environment has it; empty for none."""
    if isinstance(value, bool):
        return str(value).lower()
    if value == MASK:
        return "(set)"
    return "" if value is None else str(value)


def _failure(
    session_id: str, message_id: str, failure: AttemptFailure, *, final: bool
) -> agent_pb2.DeliveryFailure:
    return agent_pb2.DeliveryFailure(
        session_id=session_id,
        message_id=message_id,
        attempt=failure.attempt,
        at=values.timestamp(failure.at_ms),
        reason=failure.reason,
        detail=failure.detail,
        final=final,
    )
