"""Leases in a store that one process has for itself: its deliveries are read, and then leased one by one."""

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import structlog

from server.domain.access import EVERYTHING
from server.domain.errors import (
    STORE_TROUBLE,
    DeliveryNotFoundError,
    DeliveryNotLeasedError,
    SessionExpiredError,
    SessionNotFoundError,
)
from server.domain.log import message_of
from server.domain.replies import put_off
from server.store.contract import PUT_OFF_MS, Deliveries, LeaseRule
from server.store.values import OpenDelivery

_CLOSED: Final = (DeliveryNotLeasedError, DeliveryNotFoundError, SessionNotFoundError)
"""What the rules raise where a delivery was closed since it was read."""

log = structlog.get_logger()


async def lease_each(store: Deliveries, found: Sequence[OpenDelivery], rule: LeaseRule) -> list[OpenDelivery]:
    """Leases deliveries that were read as due; see `lease_due`. The writer has them all in one group."""
    results = await asyncio.gather(*(_lease(store, one, rule) for one in found), return_exceptions=True)
    leased = [one for one in results if isinstance(one, OpenDelivery)]
    for one, error in zip(found, results, strict=True):
        if isinstance(error, STORE_TROUBLE):
            if not leased:
                raise error
        elif isinstance(error, BaseException):
            # It is of this session alone, and holds up no other.
            log.error(
                "a delivery is held up",
                error_id=uuid.uuid4().hex,
                session_id=one.session.id,
                exc_info=error,
            )
    return leased


async def _lease(store: Deliveries, one: OpenDelivery, rule: LeaseRule) -> OpenDelivery | None:
    """Leases a delivery; None where that is refused."""
    session_id, sequence = one.session.id, one.delivery.sequence
    try:
        outcome = await store.apply_delivery(
            session_id, sequence, partial(rule, message_id=message_of(one.entry).id), scope=EVERYTHING
        )
    except _CLOSED:
        return None
    except SessionExpiredError:
        with suppress(*_CLOSED, SessionExpiredError):
            await store.apply_delivery(
                session_id, sequence, partial(put_off, rest_ms=PUT_OFF_MS), scope=EVERYTHING
            )
        return None
    return OpenDelivery(outcome.session, one.entry, outcome.delivery or one.delivery)
