"""What is compared between a large store and a small one: calls of the store, as the service makes them."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from server.domain.access import EVERYTHING
from server.domain.deliveries import DeliveryState
from server.domain.log import message_of
from server.domain.sessions import fall_due
from server.store.postgres.store import PostgresStore
from server.store.values import Position, SessionFilter
from tests.campaigns.growth.fill import AGENT, HOUR_MS

PAGE: Final = 50
LIST: Final = 100
DUE_BATCH: Final = 10
PURGE_ROWS: Final = 256
FAILED: Final = frozenset([DeliveryState.FAILED])


@dataclass
class Subject:
    """A store, and what is in it: sessions to ask for, their users, and places to go on from."""

    name: str
    store: PostgresStore
    now_ms: int
    ids: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    places: list[Position] = field(default_factory=list)


Call = Callable[[Subject], Awaitable[object]]


async def _page(one: Subject) -> object:
    session = await one.store.get_session(random.choice(one.ids), scope=EVERYTHING)
    return await one.store.list_messages(session, limit=PAGE)


async def _list(one: Subject) -> object:
    return await one.store.list_sessions(
        one.now_ms, scope=EVERYTHING, limit=LIST, after=random.choice(one.places)
    )


async def _list_of_agent(one: Subject) -> object:
    return await one.store.list_sessions(
        one.now_ms, scope=EVERYTHING, limit=LIST, after=random.choice(one.places), agent_id=AGENT
    )


async def _list_of_user(one: Subject) -> object:
    return await one.store.list_sessions(
        one.now_ms, scope=EVERYTHING, limit=LIST, user_id=random.choice(one.users)
    )


async def _list_all_of_user(one: Subject) -> object:
    return await one.store.list_user_sessions(random.choice(one.users), scope=EVERYTHING, limit=LIST)


async def _search(one: Subject, **wanted: object) -> object:
    filters = SessionFilter(**wanted)  # type: ignore[arg-type]
    return await one.store.search_sessions(one.now_ms, filters, scope=EVERYTHING, limit=PAGE)


async def _search_by_id(one: Subject) -> object:
    return await _search(one, id_prefix=random.choice(one.ids)[:18])


async def _search_of_user(one: Subject) -> object:
    return await _search(one, user_id=random.choice(one.users))


async def _deliveries(one: Subject) -> object:
    session = await one.store.get_session(random.choice(one.ids), scope=EVERYTHING)
    return await one.store.list_deliveries(session, limit=PAGE, state=FAILED)


async def _failed(one: Subject) -> object:
    return await one.store.list_agent_deliveries(AGENT, scope=EVERYTHING, limit=PAGE, failed=True)


async def _waiting(one: Subject) -> object:
    return await one.store.list_agent_deliveries(AGENT, scope=EVERYTHING, limit=PAGE, failed=False)


async def _find_message(one: Subject) -> object:
    session = await one.store.get_session(random.choice(one.ids), scope=EVERYTHING)
    entry = (await one.store.list_messages(session, limit=1)).messages[0]
    return await one.store.find_message(session, message_of(entry).id)


async def _due_deliveries(one: Subject) -> object:
    return await one.store.lease_due(AGENT, one.now_ms, PAGE)


async def _claim_due(one: Subject) -> object:
    return await one.store.apply_due(fall_due, one.now_ms, DUE_BATCH)


async def _purge(one: Subject) -> object:
    return await one.store.purge(one.now_ms, PURGE_ROWS, retention_ms=HOUR_MS)


@dataclass(frozen=True)
class Row:
    """A call. `most`: how often it finds something to do, where it uses that up."""

    name: str
    call: Call
    most: int = 10**6


ROWS: Final = (
    Row("page", _page),
    Row("list by creation, with total", _list),
    Row("list by agent, with total", _list_of_agent),
    Row("list by user, with total", _list_of_user),
    Row("list of a user, live and expired", _list_all_of_user),
    Row("counts", lambda one: one.store.counts(scope=EVERYTHING)),
    Row("search: all", _search),
    Row("search: expired", partial(_search, is_expired=True)),
    Row("search: of an agent", partial(_search, agent_id=AGENT)),
    Row("search: of a user", _search_of_user),
    Row("search: by id", _search_by_id),
    Row("deliveries of a session", _deliveries),
    Row("failed deliveries of an agent", _failed),
    Row("waiting deliveries of an agent", _waiting),
    Row("queue of an agent", lambda one: one.store.describe_queue(AGENT, scope=EVERYTHING)),
    Row("find a message", _find_message),
    Row("next deadline", lambda one: one.store.next_due_ms()),
    Row("next delivery", lambda one: one.store.next_delivery_ms(AGENT)),
    Row("due deliveries", _due_deliveries),
    Row("renewal of a server's row", lambda one: one.store.check_writable()),
    Row("due claim", _claim_due, most=14),
    Row("purge step", _purge, most=100),
)
START: Final = "start of a service"
