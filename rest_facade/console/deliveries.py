"""How the delivery of a message is told."""

from typing import Any, Final

from eliza.sessions.v1 import admin_service_pb2 as pb
from eliza.sessions.v1.admin_service_pb2 import DeliveryState, MessageDelivery
from rest_facade.shapes import responses

STATES: Final[dict[DeliveryState.ValueType, tuple[str, str]]] = {
    pb.DELIVERY_STATE_UNSPECIFIED: ("unknown", "off"),
    pb.DELIVERY_STATE_WAITING: ("waiting", "warn"),
    pb.DELIVERY_STATE_IN_HAND: ("in hand", "warn"),
    pb.DELIVERY_STATE_ANSWERED: ("answered", "good"),
    pb.DELIVERY_STATE_FAILED: ("failed", "bad"),
}
"""Each state in words, and the class of its badge."""


def describe_delivery(delivery: MessageDelivery) -> dict[str, Any]:
    """A delivery in JSON; what is not known is null."""
    failure = delivery.last_failure
    return {
        "messageId": delivery.message_id,
        "messageSequence": delivery.message_sequence,
        "state": STATES[delivery.state][0],
        "attempts": delivery.attempts,
        "maxAttempts": delivery.max_attempts,
        "lostConnections": delivery.lost_connections,
        "workerId": delivery.worker_id or None,
        "workerAddress": delivery.worker_address or None,
        "lastFailure": {
            "at": responses.iso(failure.at),
            "attempt": failure.attempt,
            "reason": failure.reason,
            "detail": failure.detail,
        }
        if delivery.HasField("last_failure")
        else None,
        "nextAttemptAt": _instant(delivery, "next_attempt_at"),
        "leaseExpiresAt": _instant(delivery, "lease_expires_at"),
        "createdAt": _instant(delivery, "created_at"),
        "canRedeliver": delivery.can_redeliver,
    }


def _instant(delivery: MessageDelivery, field: str) -> str | None:
    return responses.iso(getattr(delivery, field)) if delivery.HasField(field) else None  # type: ignore[arg-type]
