"""The figures of the last hour, as columns for curves."""

from typing import Any, Final

import flask

from eliza.sessions import times, values
from eliza.sessions.v1.admin_service_pb2 import GetOverviewRequest, GetOverviewResponse, OverviewPoint
from rest_facade.console.parts import DATA, Add
from rest_facade.console.queries import invalid_field
from rest_facade.console.render import respond_data
from rest_facade.routes.caller import request_metadata
from rest_facade.shapes.numbers import whole_number
from rest_facade.shapes.response import Response
from rest_facade.upstream.backend import Backend

_AFTER: Final = "after"

_FIGURES: Final = {
    "messages": "messages_per_second",
    "replies": "replies_per_second",
    "firstChunkP50": "first_chunk_p50_ms",
    "firstChunkP95": "first_chunk_p95_ms",
    "replyP50": "reply_p50_ms",
    "replyP95": "reply_p95_ms",
    "openDeliveries": "open_deliveries",
    "liveSessions": "live_sessions",
    "expiringSessions": "expiring_sessions",
    "openStreams": "open_streams",
    "refusals": "refusals_per_second",
    "storeBytes": "store_bytes",
    "loopLag": "event_loop_lag_ms",
}
"""Each figure's name in JSON, and its field of a point."""

_MAY_BE_ABSENT: Final = frozenset(
    field.name for field in OverviewPoint.DESCRIPTOR.fields if field.has_presence and not field.message_type
)


def add_parts(add: Add, backend: Backend) -> None:
    """Gives the console the figures of the overview."""

    def get_overview() -> Response:
        """The figures of now, and the points of the last hour, or behind `after`, in ms."""
        request = GetOverviewRequest()
        if text := flask.request.args.get(_AFTER):
            request.after.CopyFrom(values.timestamp(_instant(text)))
        answer = backend.call(backend.admin.GetOverview, request, request_metadata())
        return respond_data(_body(answer))

    add(f"{DATA}/overview", get_overview)


def _body(answer: GetOverviewResponse) -> dict[str, Any]:
    return {
        "startedAt": values.ms_floor(answer.started_at),
        "nowAt": values.ms_floor(answer.now.at),
        "now": {name: _figure(answer.now, field) for name, field in _FIGURES.items()},
        "oldestDeliverySeconds": answer.oldest_delivery_seconds,
        "expiryLagSeconds": answer.expiry_lag_seconds,
        "refusalsByReason": dict(sorted(answer.refusals.items())),
        "at": [values.ms_floor(point.at) for point in answer.points],
        "points": {
            name: [_figure(point, field) for point in answer.points] for name, field in _FIGURES.items()
        },
    }


def _figure(point: OverviewPoint, field: str) -> float | None:
    if field in _MAY_BE_ABSENT and not point.HasField(field):  # type: ignore[arg-type] # a name of one
        return None
    value: float = getattr(point, field)
    return value


def _instant(text: str) -> int:
    """The instant that `after` names. Raises ApiError."""
    at_ms = whole_number(text, times.LATEST_MS)
    if at_ms is None:
        raise invalid_field(_AFTER, text, "after must be milliseconds since 1970")
    return at_ms
