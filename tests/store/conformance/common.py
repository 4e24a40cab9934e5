"""What the tests of a store have in common."""

import asyncio
import gc
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.agents import Agent, AgentKind
from server.domain.deliveries import Delivery, DeliveryState, RetryPolicy
from server.domain.errors import InvalidFieldError, RequestIdReusedError
from server.domain.idempotency import RequestKey
from server.domain.log import Entry
from server.domain.messages import Draft, Reply
from server.domain.replies import DeliveryRule, fail, lease, redeliver
from server.domain.replies import answer as answer_delivery
from server.domain.sessions import Outcome, Rule, Session, fall_due, send_message, update_timeout
from server.domain.timeouts import PartialTimeoutConfig
from server.store.contract import Store
from server.store.values import OpenDelivery, SessionFilter
from tests.unit.samples import POLICY, T0, answering, put, session

UNKNOWN = "99999999-9999-4999-8999-999999999999"
FAR_MS = 2**62
"""Later than every rest."""
MANY = 600
"""More than two groups of a writer that takes 256 at a time."""

on_one_store = settings(
    deadline=None,
    max_examples=40,
    # Each back end runs the same tests, on a store of its own.
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.differing_executors,
    ],
)


class Misbehaved(Exception):  # noqa: N818
    """Something that a rule must not raise, and a test does."""


@contextmanager
def without_collector() -> Iterator[None]:
    """Within it what is in a cycle stays."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def say(
    content: str = "hello",
    *,
    metadata: str = "{}",
    attachments: str | None = None,
    message_id: str | None = None,
) -> Rule:
    draft = Draft(content, metadata, attachments)
    return partial(send_message, message_id=message_id or str(uuid.uuid4()), draft=draft, max_open=10**6)


def patch(**change: float | bool) -> Rule:
    return partial(update_timeout, change=PartialTimeoutConfig(**change), policy=POLICY)


def answer(reply: Reply) -> Rule:
    return answering(reply)


RETRIES = RetryPolicy(3, 1000, 60_000)
take = partial(lease, lease_ms=5000, message_id="m", policy=RETRIES)
stumble = partial(fail, message_id="m", reason="broken", final=False, backoff_ms=700, policy=RETRIES)
give_up = partial(stumble, final=True)
again = partial(redeliver, max_open=10**6)


def respond(content: str = "r", reply_id: str | None = None) -> DeliveryRule:
    return partial(answer_delivery, reply_id=reply_id or str(uuid.uuid4()), reply=Reply(Draft(content)))


def expire(start: Session, now_ms: int) -> Outcome:
    return fall_due(start, start.expires_at_ms)


async def delivery(store: Store, of: Session, sequence: int) -> Delivery:
    """A delivery as it is stored, open or not: seen by a rule that leaves it alone."""
    seen: list[Delivery] = []

    def look(start: Session, found: Delivery, now_ms: int) -> Outcome:
        seen.append(found)
        return Outcome(start)

    await store.apply_delivery(of.id, sequence, look, scope=EVERYTHING)
    return seen[0]


async def first_open(store: Store, of: Session) -> OpenDelivery | None:
    """The first open delivery of a session, whenever it is due."""
    found = await store.lease_due(of.agent_id, FAR_MS, MANY)
    return next((one for one in found if one.session.id == of.id), None)


def misbehave(start: Session, now_ms: int) -> Outcome:
    raise Misbehaved


def mishandle(start: Session, found: Delivery, now_ms: int) -> Outcome:
    raise Misbehaved


def refuse(start: Session, now_ms: int) -> Outcome:
    raise InvalidFieldError("x", "y", "is refused")


async def knows(store: Store, request: RequestKey) -> bool:
    """Whether a request is remembered: no rule is asked then."""
    try:
        await store.create_session(
            UNKNOWN, lambda agent, now_ms: refuse(session(), now_ms).session, request, scope=EVERYTHING
        )
    except InvalidFieldError:
        return False
    except RequestIdReusedError:
        return True
    return True


def break_a_constraint(start: Session, now_ms: int) -> Outcome:
    """An entry without a time, which no database takes."""
    outcome = send_message(start, now_ms, str(uuid.uuid4()), Draft("bad"))
    return outcome._replace(entry=outcome.entry._replace(at_ms=None))


def agent(number: int = 1, created_at_ms: int = T0, **fields: object) -> Agent:
    values = {"name": f"agent {number}", "kind": AgentKind.ECHO, "updated_at_ms": created_at_ms, **fields}
    return Agent(id=str(uuid.UUID(int=number)), created_at_ms=created_at_ms, **values)


def contents(entries: Iterable[Entry]) -> list[str | None]:
    return [entry.message and entry.message.content for entry in entries]


async def history(store: Store, of: Session) -> list[Entry]:
    """All messages of a session, the oldest first, page by page."""
    found: list[Entry] = []
    while True:
        page = await store.list_messages(of, limit=100, after_ms=found[-1].at_ms if found else -1)
        found += page.messages[::-1]
        if not page.has_more:
            return found


CALLS: dict[str, Callable[[Store, Session], Awaitable[object]]] = {
    "create_session": lambda store, one: put(store, session()),
    "apply": lambda store, one: store.apply(one.id, say(), scope=EVERYTHING),
    "delete_session": lambda store, one: store.delete_session(one.id, scope=EVERYTHING),
    "get_session": lambda store, one: store.get_session(one.id, scope=EVERYTHING),
    "list_sessions": lambda store, one: store.list_sessions(T0, limit=1, scope=EVERYTHING),
    "list_messages": lambda store, one: store.list_messages(one, limit=1),
    "list_user_sessions": lambda store, one: store.list_user_sessions(one.user_id, scope=EVERYTHING, limit=1),
    "describe": lambda store, one: store.describe(),
    "counts": lambda store, one: store.counts(scope=EVERYTHING),
    "apply_due": lambda store, one: store.apply_due(fall_due, T0, 1),
    "next_due_ms": lambda store, one: store.next_due_ms(),
    "purge": lambda store, one: store.purge(T0, 1),
    "shrink": lambda store, one: store.shrink(),
    "erase_user": lambda store, one: store.erase_user(one.user_id, scope=EVERYTHING, limit=1),
    "finish_erasure": lambda store, one: store.finish_erasure(),
    "clear_sessions": lambda store, one: store.clear_sessions(),
    "create_agent": lambda store, one: store.create_agent(agent()),
    "update_agent": lambda store, one: store.update_agent(
        agent().id, lambda stored, now_ms: stored, scope=EVERYTHING
    ),
    "delete_agent": lambda store, one: store.delete_agent(agent().id, scope=EVERYTHING),
    "get_agent": lambda store, one: store.get_agent(agent().id, scope=EVERYTHING),
    "list_agents": lambda store, one: store.list_agents(limit=1, scope=EVERYTHING),
    "seed_agent": lambda store, one: store.seed_agent(agent()),
    "find_channel": lambda store, one: store.find_channel(one.channel_id, scope=EVERYTHING),
    "list_entries": lambda store, one: store.list_entries(
        one.id, after_sequence=0, limit=1, scope=EVERYTHING
    ),
    "check_writable": lambda store, one: store.check_writable(),
    "apply_delivery": lambda store, one: store.apply_delivery(one.id, 1, take, scope=EVERYTHING),
    "lease_due": lambda store, one: store.lease_due(one.agent_id, T0, 1),
    "next_delivery_ms": lambda store, one: store.next_delivery_ms(one.agent_id),
    "count_open": lambda store, one: store.count_open(),
    "oldest_open_ms": lambda store, one: store.oldest_open_ms(),
    "measure": lambda store, one: store.measure(),
    "list_history": lambda store, one: store.list_history(one, before_sequence=1, limit=1),
    "count_history": lambda store, one: store.count_history(one, before_sequence=1, limit=1),
    "find_answer": lambda store, one: store.find_answer(one.id, 1, scope=EVERYTHING),
    "forget_requests": lambda store, one: store.forget_requests(T0, 1),
    "search_sessions": lambda store, one: store.search_sessions(
        T0, SessionFilter(), scope=EVERYTHING, limit=1
    ),
    "list_deliveries": lambda store, one: store.list_deliveries(one, limit=1, state=frozenset(DeliveryState)),
    "list_agent_deliveries": lambda store, one: store.list_agent_deliveries(
        one.agent_id, scope=EVERYTHING, limit=1, failed=False
    ),
    "find_message": lambda store, one: store.find_message(one, UNKNOWN),
    "describe_queue": lambda store, one: store.describe_queue(one.agent_id, scope=EVERYTHING),
    "last_runs": lambda store, one: store.last_runs(),
}
"""A call of every method but `add_listener` and `close`."""


class OnStore:
    """Tests of one store. They are methods so that each back end runs all of them."""

    @pytest.fixture
    def clock(self) -> TestClock:
        """The store's clock: it stands at T0 until a test moves it."""
        clock = TestClock()
        clock.set_ms(T0)
        return clock

    async def open(self, directory: Path, clock: TestClock) -> Store:
        """Opens a store without any content."""
        raise NotImplementedError

    @pytest.fixture
    async def store(self, tmp_path: Path, clock: TestClock) -> AsyncIterator[Store]:
        store = await self.open(tmp_path, clock)
        self.is_open = True
        yield store
        await self.close(store)

    async def close(self, store: Store) -> None:
        """Closes the store, if the test has not done so already."""
        if self.is_open:
            self.is_open = False
            await store.close()

    @asynccontextmanager
    async def held(self, store: Store) -> AsyncIterator[None]:
        """Lets the writes that are called for in the block meet, where a back end groups them."""
        yield

    @pytest.fixture
    async def one(self, store: Store) -> Session:
        """A session in the store."""
        return await self.added(store)

    async def added(self, store: Store, *arguments: object, **fields: object) -> Session:
        new = session(*arguments, **fields)
        await put(store, new)
        return new

    async def together(self, store: Store, calls: Iterable[object]) -> list[object]:
        """The results of calls that wait in the store at the same time, or their exceptions."""
        async with self.held(store):
            tasks = [asyncio.ensure_future(call) for call in calls]
            await asyncio.sleep(0)
        return await asyncio.gather(*tasks, return_exceptions=True)
