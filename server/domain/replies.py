"""The life of a delivery, as rules: functions of (session, delivery, now, input), like those of `sessions`.

A reply is accepted as long as none is stored, also from an agent whose lease has run out: one reply per
message, ever.
"""

from collections.abc import Callable
from dataclasses import replace

from server.domain.agent_text import clean
from server.domain.deliveries import (
    MAX_DETAIL_CODE_POINTS,
    MAX_LOST_CONNECTIONS,
    MAX_OPEN_DELIVERIES,
    OPEN_STATES,
    AttemptFailure,
    Delivery,
    DeliveryState,
    RetryPolicy,
)
from server.domain.errors import (
    DeliveryAnsweredError,
    DeliveryNotFoundError,
    DeliveryNotLeasedError,
    OverloadedError,
    SessionExpiredError,
)
from server.domain.log import Event, ReplyFailure
from server.domain.messages import AgentMessage, Reply, check_reply, clean_reply
from server.domain.sessions import Outcome, Session, append, require_live

DeliveryRule = Callable[[Session, Delivery, int], Outcome]
"""A rule whose input is bound: a function of the session, the delivery and the instant in ms."""


def lease(
    session: Session,
    delivery: Delivery,
    now_ms: int,
    *,
    lease_ms: int,
    message_id: str,
    policy: RetryPolicy,
) -> Outcome:
    """Gives the agent a delivery for one attempt; fails a delivery whose attempts are used up.

    A lease that is still there becomes void: the caller knows that no worker has it.
    Raises SessionExpiredError, DeliveryNotLeasedError (it is no longer open).
    """
    require_live(session, now_ms)
    _require_open(delivery)
    if delivery.attempts >= policy.max_attempts:
        reason, reply_id = "the agent was asked and never heard of again", _last_reply_id(delivery)
        failure = AttemptFailure(now_ms, delivery.attempts, reason, reply_id=reply_id)
        delivery = delivery._replace(last_failure=failure)
        return _give_up(session, delivery, now_ms, message_id, reason, reply_id)
    leased = delivery._replace(
        state=DeliveryState.LEASED, attempts=delivery.attempts + 1, due_at_ms=now_ms + lease_ms
    )
    return Outcome(session, delivery=leased)


def answer(
    session: Session,
    delivery: Delivery,
    now_ms: int,
    *,
    reply_id: str,
    reply: Reply,
    agent_id: str | None = None,
) -> Outcome:
    """Stores the agent's message, cleaned. That is not the user's activity, and renews nothing.

    `agent_id` is the agent whose worker answers, where that is known. Deliveries of other agents do not exist
    for it.
    Raises DeliveryNotFoundError, SessionExpiredError, DeliveryAnsweredError, InvalidContentError,
    InvalidMetadataError.
    """
    if agent_id not in (None, session.agent_id):
        raise DeliveryNotFoundError(delivery.id)
    require_live(session, now_ms)
    if delivery.state is DeliveryState.ANSWERED:
        raise DeliveryAnsweredError(delivery.id)
    reply = clean_reply(reply)
    check_reply(reply)
    draft = reply.draft
    message = AgentMessage(
        reply_id,
        draft.content,
        draft.metadata,
        draft.attachments,
        reply.thought,
        reply.actions,
        answers=delivery.sequence,
    )
    return _close(session, delivery, now_ms, message, DeliveryState.ANSWERED)


def fail(
    session: Session,
    delivery: Delivery,
    now_ms: int,
    *,
    message_id: str,
    reason: str,
    final: bool,
    backoff_ms: int,
    policy: RetryPolicy,
    last_reply_id: str = "",
    detail: str = "",
    connection_lost: bool = False,
    charged: bool = True,
    is_claimed: bool = False,
) -> Outcome:
    """Ends a failed attempt: the delivery rests for `backoff_ms`, or fails when this was the last attempt.

    `last_reply_id` is the id that this attempt's reply would have had; empty: nobody was asked now. The
    attempt does not count where `charged` is false (the operator's fault). Nor does it, up to
    MAX_LOST_CONNECTIONS times, where the worker lost its connection before it had sent anything
    (`connection_lost`). `is_claimed`: no lease was written for the attempt, so that it counts from now on.
    Raises SessionExpiredError, DeliveryNotLeasedError (it is no longer open).
    """
    require_live(session, now_ms)
    _require_open(delivery)
    if is_claimed:
        delivery = delivery._replace(attempts=delivery.attempts + 1)
    detail = clean(detail)[:MAX_DETAIL_CODE_POINTS]
    reply_id = last_reply_id or _last_reply_id(delivery)
    failure = AttemptFailure(now_ms, delivery.attempts, reason, detail, reply_id)
    delivery = delivery._replace(last_failure=failure)
    if connection_lost and delivery.lost_connections < MAX_LOST_CONNECTIONS:
        delivery, charged = delivery._replace(lost_connections=delivery.lost_connections + 1), False
    if not charged and not final:
        delivery = delivery._replace(attempts=max(delivery.attempts - 1, 0))
        return Outcome(
            session, delivery=delivery._replace(state=DeliveryState.PENDING, due_at_ms=now_ms + backoff_ms)
        )
    if final or delivery.attempts >= policy.max_attempts:
        return _give_up(session, delivery, now_ms, message_id, reason, reply_id)
    return Outcome(
        session, delivery=delivery._replace(state=DeliveryState.PENDING, due_at_ms=now_ms + backoff_ms)
    )


def put_off(session: Session, delivery: Delivery, now_ms: int, *, rest_ms: int) -> Outcome:
    """Has a delivery rest that nobody was asked for. A lease that it has is given back, and no attempt.

    Also in a session whose expiry has passed and is not in the log yet. Raises SessionExpiredError (it is
    there), DeliveryNotLeasedError (it is no longer open).
    """
    if session.expiry_logged:
        raise SessionExpiredError(session.id, session.expires_at_ms)
    _require_open(delivery)
    attempts = delivery.attempts - (delivery.state is DeliveryState.LEASED)
    rests = delivery._replace(state=DeliveryState.PENDING, attempts=attempts, due_at_ms=now_ms + rest_ms)
    return Outcome(session, delivery=rests)


def redeliver(
    session: Session, delivery: Delivery, now_ms: int, *, max_open: int = MAX_OPEN_DELIVERIES
) -> Outcome:
    """Has a delivery that has failed for good wait for its agent again, as if it were new. One that is open
    stays as it is.

    Its last failure stays known, until the next one. The log keeps that it has failed. At most `max_open`
    deliveries of a session are open.
    Raises SessionExpiredError, DeliveryAnsweredError, OverloadedError.
    """
    require_live(session, now_ms)
    if delivery.state is DeliveryState.ANSWERED:
        raise DeliveryAnsweredError(delivery.id)
    if delivery.state in OPEN_STATES:
        return Outcome(session)
    if session.open_deliveries >= max_open:
        raise OverloadedError("too many messages of this session wait for its agent")
    # The id of that attempt's reply is no longer that of the last attempt.
    failure = delivery.last_failure and replace(delivery.last_failure, reply_id="")
    again = delivery._replace(
        state=DeliveryState.PENDING, attempts=0, due_at_ms=now_ms, lost_connections=0, last_failure=failure
    )
    counted = session._replace(
        open_deliveries=session.open_deliveries + 1,
        failed_deliveries=max(0, session.failed_deliveries - 1),
    )
    return Outcome(counted, delivery=again, opened=1)


def _last_reply_id(delivery: Delivery) -> str:
    """The id that the reply of the last attempt would have had, where that attempt has failed."""
    failure = delivery.last_failure
    return failure.reply_id if failure and failure.attempt == delivery.attempts else ""


def _require_open(delivery: Delivery) -> None:
    if delivery.state not in OPEN_STATES:
        raise DeliveryNotLeasedError(delivery.id)


def _give_up(
    session: Session,
    delivery: Delivery,
    now_ms: int,
    message_id: str,
    reason: str,
    last_reply_id: str,
) -> Outcome:
    failure = ReplyFailure(message_id, delivery.sequence, reason, delivery.attempts, last_reply_id)
    return _close(session, delivery, now_ms, failure, DeliveryState.FAILED)


def _close(session: Session, delivery: Delivery, now_ms: int, event: Event, state: DeliveryState) -> Outcome:
    """Appends what closes a delivery, which may have failed before."""
    left = session.open_deliveries - (delivery.state in OPEN_STATES)
    failed = session.failed_deliveries + (state is DeliveryState.FAILED)
    if delivery.state is DeliveryState.FAILED:
        failed = max(0, failed - 1)
    outcome = append(session, now_ms, event, open_deliveries=left, failed_deliveries=failed)
    # Of an answered one nothing more is traced.
    trace = "" if state is DeliveryState.ANSWERED else delivery.trace
    closed = delivery._replace(state=state, due_at_ms=None, trace=trace)
    return Outcome(outcome.session, outcome.entry, closed, opened=outcome.opened)
