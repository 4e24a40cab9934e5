"""What every Store does: the sentences of server.store.base, each tried.

A back end's own test subclasses `StoreConformance` and gives it `open` and, where it groups writes, `held`.
"""

import asyncio
import itertools
import json
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.clock import TestClock
from server.domain.agents import Agent, AgentKind, OpenAiSettings, WebhookSettings
from server.domain.deliveries import Delivery, DeliveryState, RetryPolicy
from server.domain.errors import (
    AgentAlreadyExistsError,
    AgentNotFoundError,
    DeliveryAnsweredError,
    DeliveryNotFoundError,
    DeliveryNotLeasedError,
    DomainError,
    EtagMismatchError,
    InvalidContentError,
    InvalidFieldError,
    RequestIdReusedError,
    SessionExpiredError,
    SessionNotFoundError,
    UnavailableError,
)
from server.domain.events import Entry, EntryKind
from server.domain.messages import Draft, Message, Reply
from server.domain.replies import DeliveryRule, fail, lease
from server.domain.replies import answer as answer_delivery
from server.domain.requests import Request, request
from server.domain.sessions import (
    Outcome,
    Rule,
    Session,
    due_at_ms,
    etag,
    fall_due,
    heartbeat,
    renew,
    require_live,
    send_message,
    update_timeout,
)
from server.domain.timeouts import NOTHING_NAMED, PartialTimeoutConfig, TimeoutConfig
from server.store.base import PAGE_BYTES, Commit, Counts, MessagePage, OpenDelivery, OpenSession, Position, Store
from tests.unit.samples import AGENT, MINUTE, POLICY, T0, TEXT, USER, answering, session

UNKNOWN = "99999999-9999-4999-8999-999999999999"
MANY = 600
"""More than two groups of a writer that takes 256 at a time."""

on_one_store = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


class Misbehaved(Exception):  # noqa: N818
    """Something that a rule must not raise, and a test does."""


def say(content: str = "hello", *, metadata: str = "{}", attachments: str | None = None, message_id: str | None = None) -> Rule:
    return partial(send_message, message_id=message_id or str(uuid.uuid4()), draft=Draft(content, metadata, attachments))


def patch(**change: float | bool) -> Rule:
    return partial(update_timeout, change=PartialTimeoutConfig(**change), policy=POLICY)


def answer(reply: Reply) -> Rule:
    return answering(reply)


RETRIES = RetryPolicy(3, 1000, 60_000)
take = partial(lease, lease_ms=5000, message_id="m", policy=RETRIES)
stumble = partial(fail, message_id="m", reason="broken", final=False, backoff_ms=700, policy=RETRIES)
give_up = partial(stumble, final=True)


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

    await store.apply_delivery(of.id, sequence, look)
    return seen[0]


def misbehave(start: Session, now_ms: int) -> Outcome:
    raise Misbehaved


def mishandle(start: Session, found: Delivery, now_ms: int) -> Outcome:
    raise Misbehaved


def refuse(start: Session, now_ms: int) -> Outcome:
    raise InvalidFieldError("x", "y", "is refused")


def break_a_constraint(start: Session, now_ms: int) -> Outcome:
    """Two entries with one sequence, which no database takes."""
    (entry,) = send_message(start, now_ms, str(uuid.uuid4()), Draft("bad")).entries
    return Outcome(replace(start, last_sequence=start.last_sequence + 2), (entry, replace(entry, at_ms=entry.at_ms + 1)))


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
    "create_session": lambda store, one: store.create_session(session()),
    "apply": lambda store, one: store.apply(one.id, say()),
    "delete_session": lambda store, one: store.delete_session(one.id),
    "get_session": lambda store, one: store.get_session(one.id),
    "list_sessions": lambda store, one: store.list_sessions(T0, limit=1),
    "list_messages": lambda store, one: store.list_messages(one, limit=1),
    "counts": lambda store, one: store.counts(T0),
    "due": lambda store, one: store.due(T0, 1),
    "next_due_ms": lambda store, one: store.next_due_ms(),
    "purge": lambda store, one: store.purge(T0, 1),
    "clear_sessions": lambda store, one: store.clear_sessions(),
    "create_agent": lambda store, one: store.create_agent(agent()),
    "update_agent": lambda store, one: store.update_agent(agent().id, lambda stored, now_ms: stored),
    "delete_agent": lambda store, one: store.delete_agent(agent().id),
    "get_agent": lambda store, one: store.get_agent(agent().id),
    "list_agents": lambda store, one: store.list_agents(limit=1),
    "seed_agent": lambda store, one: store.seed_agent(agent()),
    "find_channel": lambda store, one: store.find_channel(one.channel_id),
    "list_entries": lambda store, one: store.list_entries(one.id, after_sequence=0, limit=1),
    "check_writable": lambda store, one: store.check_writable(),
    "apply_delivery": lambda store, one: store.apply_delivery(one.id, 1, take),
    "next_delivery": lambda store, one: store.next_delivery(one.id),
    "list_open": lambda store, one: store.list_open(),
    "list_history": lambda store, one: store.list_history(one, before_sequence=1, limit=1),
    "find_answer": lambda store, one: store.find_answer(one.id, 1),
    "knows": lambda store, one: store.knows(Request("s", "id", "content")),
    "forget_requests": lambda store, one: store.forget_requests(T0, 1),
}
"""A call of every method but `add_listener` and `close`."""


class StoreConformance:
    """The suite. Tests are methods so that each back end runs all of them."""

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
        await store.create_session(new)
        return new

    async def together(self, store: Store, calls: Iterable[object]) -> list[object]:
        """The results of calls that wait in the store at the same time, or their exceptions."""
        async with self.held(store):
            tasks = [asyncio.ensure_future(call) for call in calls]
            await asyncio.sleep(0)
        return await asyncio.gather(*tasks, return_exceptions=True)

    def test_every_method_is_tried_when_closed(self) -> None:
        assert {*CALLS, "add_listener", "close"} == Store.__abstractmethods__

    # Sessions.

    async def test_a_session_is_read_as_it_was_created(self, store: Store) -> None:
        asked = PartialTimeoutConfig(7.25, False, 1000.125, 3.5)
        new = await self.added(store, T0, asked, metadata='{"a": [1, "\\u00e9"]}')
        assert await store.get_session(new.id) == new

    async def test_every_field_of_a_session_is_kept(self, store: Store) -> None:
        timeout = TimeoutConfig(1.5, True, 2.5, 3.5)
        start = session()
        stored = Session(start.id, start.channel_id, AGENT, USER, '{"a":1}', timeout, 1, 2, 3, 4, 5, True, False, 7, 8)
        await store.create_session(stored)
        assert await store.get_session(stored.id) == stored
        changed = replace(stored, timeout=TimeoutConfig(9.5, False, 10.5, 11.5), last_activity_ms=12, renewed_at_ms=13, expires_at_ms=14)
        changed = replace(changed, renewal_count=15, warned=False, expired=True, last_sequence=16, last_entry_ms=17)
        await store.apply(stored.id, lambda _, now_ms: Outcome(changed))
        assert await store.get_session(stored.id) == changed

    async def test_a_session_that_is_not_there(self, store: Store, one: Session) -> None:
        for call in (store.get_session, store.delete_session, lambda unknown: store.apply(unknown, say())):
            for unknown in (UNKNOWN, "", "nonsense", one.id.upper() + "x", one.channel_id):
                with pytest.raises(SessionNotFoundError) as caught:
                    await call(unknown)
                assert caught.value.details == {"sessionId": unknown}

    async def test_an_expired_session_is_read_like_a_live_one(self, store: Store, one: Session, clock: TestClock) -> None:
        clock.set_ms(one.expires_at_ms + 1)
        assert await store.get_session(one.id) == one
        gone = (await store.apply(one.id, fall_due)).session
        assert gone.expired
        assert await store.get_session(one.id) == gone

    async def test_delete_removes_the_session_with_its_log(self, store: Store, one: Session) -> None:
        other = await self.added(store)
        await asyncio.gather(*(store.apply(target.id, say(f"{n}")) for n in range(3) for target in (one, other)))
        await store.delete_session(one.id)
        with pytest.raises(SessionNotFoundError):
            await store.get_session(one.id)
        with pytest.raises(SessionNotFoundError):
            await store.delete_session(one.id)
        assert await store.list_messages(one, limit=10) == MessagePage([], False)
        assert contents(await history(store, other)) == ["0", "1", "2"]
        assert await store.counts(T0) == Counts(1, 0, 0, 0)
        assert await store.due(T0 + 10**9, 10) == [other.id]

    async def test_delete_removes_an_expired_session_too(self, store: Store, one: Session, clock: TestClock) -> None:
        await store.apply(one.id, say())
        clock.set_ms(T0 + 60 * MINUTE)
        await store.apply(one.id, fall_due)
        await store.delete_session(one.id)
        assert await store.counts(T0) == Counts(0, 0, 0, 0)
        assert await store.purge(T0 + 10**10, 100) == 0

    # Apply.

    async def test_apply_hands_the_rule_the_session_and_the_present_instant(self, store: Store, one: Session, clock: TestClock) -> None:
        seen = []

        def look(start: Session, now_ms: int) -> Outcome:
            seen.append((start, now_ms))
            return Outcome(start)

        assert await store.apply(one.id, look) == Outcome(one)
        clock.set_ms(T0 + 5)
        await store.apply(one.id, look)
        assert seen == [(one, T0), (one, T0 + 5)]

    async def test_apply_returns_and_persists_the_outcome(self, store: Store, one: Session, clock: TestClock) -> None:
        clock.set_ms(T0 + MINUTE)
        rule = say("hi", metadata='{"k":1}', attachments='[{"url":"x"}]', message_id="m1")
        outcome = await store.apply(one.id, rule)
        assert outcome == rule(one, T0 + MINUTE)
        assert await store.get_session(one.id) == outcome.session
        assert (await store.list_messages(one, limit=5)).messages == list(outcome.entries)

    async def test_every_rule_and_its_entries(self, store: Store, one: Session, clock: TestClock) -> None:
        reply = Reply(Draft("b"), "hm", ("X", "Y"))
        steps = [heartbeat, say("a"), patch(max_duration_minutes=100.0), answer(reply), renew, patch(auto_renew=False)]
        model, log = one, []
        for minute, rule in enumerate([*steps, heartbeat, fall_due, fall_due, fall_due], start=20):
            clock.set_ms(max(T0 + minute * MINUTE, due_at_ms(model) or 0) if rule is fall_due else T0 + minute * MINUTE)
            expected = rule(model, clock.now_ms())
            assert await store.apply(one.id, rule) == expected
            model = expected.session
            log += expected.entries
            assert await store.get_session(one.id) == model
        kinds = [EntryKind.RENEWAL, EntryKind.MESSAGE, EntryKind.TIMEOUT_CHANGE, EntryKind.MESSAGE, EntryKind.RENEWAL]
        assert [entry.kind for entry in log] == [*kinds, EntryKind.TIMEOUT_CHANGE, EntryKind.WARNING, EntryKind.EXPIRY]
        assert await history(store, one) == [entry for entry in log if entry.message]

    @pytest.mark.parametrize(
        ("rule", "error"), [(say(""), InvalidContentError), (patch(timeout_minutes=1.0), DomainError), (misbehave, Misbehaved)]
    )
    async def test_a_rule_that_raises_writes_nothing(self, store: Store, one: Session, rule: Rule, error: type[Exception]) -> None:
        with pytest.raises(error):
            await store.apply(one.id, rule)
        assert await store.get_session(one.id) == one
        assert await store.list_messages(one, limit=5) == MessagePage([], False)
        assert (await store.apply(one.id, say())).entries[0].sequence == 1

    async def test_the_error_of_a_rule_comes_as_it_was_raised(self, store: Store, one: Session, clock: TestClock) -> None:
        clock.set_ms(one.expires_at_ms)
        with pytest.raises(SessionExpiredError) as caught:
            await store.apply(one.id, say())
        assert caught.value.details["sessionId"] == one.id

    async def test_read_your_writes(self, store: Store, clock: TestClock) -> None:
        for n in range(30):
            new = await self.added(store, T0 + n)
            assert await store.get_session(new.id) == new
            assert (await store.list_sessions(T0, limit=100)).total == n + 1
            outcome = await store.apply(new.id, say(f"{n}"))
            assert (await store.list_messages(new, limit=1)).messages == list(outcome.entries)
            assert (await store.counts(T0)).active == n + 1
            assert await store.next_due_ms() is not None
        await store.create_agent(agent())
        assert await store.list_agents(limit=5) == [agent()]

    # Many at a time.

    async def test_writes_on_one_session_happen_in_order_of_arrival(self, store: Store, one: Session) -> None:
        results = await self.together(store, (store.apply(one.id, say(f"{n}")) for n in range(MANY)))
        assert [result.entries[0].sequence for result in results] == list(range(1, MANY + 1))
        assert [result.session.renewal_count for result in results] == list(range(1, MANY + 1))
        assert contents(entry for result in results for entry in result.entries) == [f"{n}" for n in range(MANY)]
        assert await history(store, one) == [entry for result in results for entry in result.entries]
        assert await store.get_session(one.id) == results[-1].session

    async def test_writes_on_many_sessions(self, store: Store) -> None:
        many = [await self.added(store) for _ in range(20)]
        order = random.Random(7).choices(many, k=MANY)
        results = await self.together(store, (store.apply(target.id, say(f"{n}")) for n, target in enumerate(order)))
        for target in many:
            own = [(n, result) for n, (chosen, result) in enumerate(zip(order, results, strict=True)) if chosen is target]
            assert [result.entries[0].sequence for _, result in own] == list(range(1, len(own) + 1))
            assert contents(await history(store, target)) == [f"{n}" for n, _ in own]
            assert await store.get_session(target.id) == (own[-1][1].session if own else target)

    async def test_one_that_raises_does_not_disturb_the_others(self, store: Store, one: Session) -> None:
        other = await self.added(store)
        rules = [say("0"), refuse, say("1"), misbehave, say("2"), break_a_constraint, say("3"), say("")]
        results = await self.together(
            store, [store.apply(target.id, rule) for rule in rules for target in (one, other)] + [store.apply(UNKNOWN, say())]
        )
        *results, unknown = results
        assert isinstance(unknown, SessionNotFoundError)
        for target, own in ((one, results[::2]), (other, results[1::2])):
            good = [own[n] for n in (0, 2, 4, 6)]
            assert [result.entries[0].sequence for result in good] == [1, 2, 3, 4]
            assert [type(own[n]) for n in (1, 3, 7)] == [InvalidFieldError, Misbehaved, InvalidContentError]
            assert isinstance(own[5], Exception)
            assert contents(await history(store, target)) == ["0", "1", "2", "3"]
            assert await store.get_session(target.id) == own[6].session

    async def test_what_the_database_refuses_is_not_written_at_all(self, store: Store, one: Session) -> None:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - what it is, is the back end's
            await store.apply(one.id, break_a_constraint)
        assert not isinstance(caught.value, DomainError)
        assert await store.get_session(one.id) == one
        assert (await store.list_messages(one, limit=5)).messages == []
        assert contents((await store.apply(one.id, say("good"))).entries) == ["good"]

    async def test_text_that_cannot_be_stored_fails_alone(self, store: Store, one: Session) -> None:
        results = await self.together(store, [store.apply(one.id, rule) for rule in (say("0"), say("\ud800"), say("1"))])
        assert isinstance(results[1], Exception)
        assert contents(await history(store, one)) == ["0", "1"]
        assert [results[n].entries[0].sequence for n in (0, 2)] == [1, 2]

    async def test_a_delete_among_writes(self, store: Store, one: Session) -> None:
        other = await self.added(store)
        await store.apply(one.id, say("before"))
        results = await self.together(
            store,
            [
                store.apply(one.id, say("a")),
                store.apply(other.id, say("x")),
                store.delete_session(one.id),
                store.apply(one.id, say("b")),
                store.delete_session(one.id),
                store.apply(other.id, say("y")),
            ],
        )
        assert results[0].entries[0].sequence == 2
        assert results[2] is None
        assert [type(results[n]) for n in (3, 4)] == [SessionNotFoundError, SessionNotFoundError]
        with pytest.raises(SessionNotFoundError):
            await store.get_session(one.id)
        assert (await store.list_messages(one, limit=5)).messages == []
        assert contents(await history(store, other)) == ["x", "y"]

    async def test_a_life_within_one_moment(self, store: Store) -> None:
        new, stays = session(), session()
        results = await self.together(
            store,
            [
                store.apply(new.id, say("too early")),
                store.create_session(new),
                store.apply(new.id, say("a")),
                store.delete_session(new.id),
                store.create_session(stays),
                store.apply(stays.id, say("b")),
                store.apply(stays.id, heartbeat),
            ],
        )
        assert isinstance(results[0], SessionNotFoundError)
        assert (results[1], results[3], results[4]) == (Outcome(new), None, Outcome(stays))
        with pytest.raises(SessionNotFoundError):
            await store.get_session(new.id)
        assert await store.get_session(stays.id) == results[6].session
        assert contents(await history(store, stays)) == ["b"]

    async def test_creates_at_the_same_time(self, store: Store) -> None:
        new = [session(T0 + n) for n in range(300)]
        assert await self.together(store, map(store.create_session, new)) == list(map(Outcome, new))
        assert (await store.list_sessions(T0, limit=1000)).sessions == new

    async def test_cancelled_calls_leave_no_trace_of_half_a_write(self, store: Store, one: Session) -> None:
        async with self.held(store):
            tasks = [asyncio.ensure_future(store.apply(one.id, say(f"{n}"))) for n in range(MANY)]
            await asyncio.sleep(0)
            for task in tasks[::3]:
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        kept = [result.entries[0] for result in results if isinstance(result, Outcome)]
        assert len(kept) >= MANY - len(tasks[::3])
        log = await history(store, one)
        assert [entry.sequence for entry in log] == list(range(1, len(log) + 1))
        assert len(set(contents(log))) == len(log)
        assert [entry for entry in log if entry in kept] == kept
        assert (await store.get_session(one.id)).last_sequence == len(log)

    # Messages.

    async def test_every_page_of_messages_against_a_model(self, store: Store, one: Session, clock: TestClock) -> None:
        entries = []
        for gap in (0, 0, 1, 3, 0, 2, 5):
            clock.set_ms(clock.now_ms() + gap)
            for rule in (say(), heartbeat, answer(Reply(Draft("r")))):
                entries += (await store.apply(one.id, rule)).entries
        messages = [entry for entry in entries if entry.message]
        assert len(messages) == 14
        instants = range(messages[0].at_ms - 1, messages[-1].at_ms + 2)
        for before, after in itertools.product([None, *instants], repeat=2):
            matching = [m for m in messages if (before is None or m.at_ms < before) and (after is None or m.at_ms > after)]
            for limit in (1, 2, 3, 13, 14, 15):
                forward = after is not None and before is None
                expected = matching[:limit] if forward else matching[-limit:]
                page = await store.list_messages(one, limit=limit, before_ms=before, after_ms=after)
                assert page == MessagePage(expected[::-1], len(matching) > limit), (limit, before, after)

    @given(
        st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["say", "answer", "heartbeat"])), max_size=25),
        st.integers(1, 30),
    )
    @on_one_store
    async def test_following_the_cursors_meets_every_message_once(
        self, store: Store, clock: TestClock, steps: list[tuple[int, str]], limit: int
    ) -> None:
        of, rules = await self.added(store, clock.now_ms()), {"say": say(), "answer": answer(Reply(Draft("r"))), "heartbeat": heartbeat}
        sent: list[Entry] = []
        for gap, name in steps:
            clock.set_ms(clock.now_ms() + gap)
            sent += [entry for entry in (await store.apply(of.id, rules[name])).entries if entry.message]
        forward: list[Entry] = []
        while (page := await store.list_messages(of, limit=limit, after_ms=forward[-1].at_ms if forward else 0)).has_more:
            assert len(page.messages) == limit
            forward += page.messages[::-1]
        assert forward + page.messages[::-1] == sent
        back: list[Entry] = []
        while (page := await store.list_messages(of, limit=limit, before_ms=back[-1].at_ms if back else None)).has_more:
            assert len(page.messages) == limit
            back += page.messages
        assert (back + page.messages)[::-1] == sent

    async def test_messages_of_other_sessions_are_not_seen(self, store: Store, one: Session) -> None:
        other = await self.added(store)
        await store.apply(other.id, say())
        assert await store.list_messages(one, limit=5) == MessagePage([], False)

    @pytest.mark.parametrize("size", [PAGE_BYTES // 10, PAGE_BYTES // 3, PAGE_BYTES // 2 + 20, PAGE_BYTES + 20])
    @pytest.mark.parametrize("where", ["attachments", "content, thought and actions"])
    async def test_a_page_of_large_messages_stops_early(self, store: Store, one: Session, size: int, where: str) -> None:
        if where == "attachments":
            text = "x" * (size - 10)
            rule = partial(send_message, message_id="m", draft=Draft("m", attachments=f'["{text}"]'))
        else:
            rule = answer(Reply(Draft("x" * 95_000), thought="x" * 95_000, actions=("x" * 970,) * 30))
            size = 95_000 * 2 + 1000 * 30
        sent = [(await store.apply(one.id, rule)).entries[0] for _ in range(5)]
        fitting = max(1, min(5, PAGE_BYTES // size))
        back: list[Entry] = []
        forward: list[Entry] = []
        while len(back) < 5:
            page = await store.list_messages(one, limit=50, before_ms=back[-1].at_ms if back else None)
            back += page.messages
            assert len(page.messages) in {fitting, min(fitting, 5 - len(back) + len(page.messages))}
            assert page.has_more == (len(back) < 5)
        while len(forward) < 5:
            page = await store.list_messages(one, limit=50, after_ms=forward[-1].at_ms if forward else 0)
            forward += page.messages[::-1]
            assert page.has_more == (len(forward) < 5)
        assert back[::-1] == forward == sent

    async def test_the_sessions_metadata_counts_under_each_message(self, store: Store) -> None:
        of = await self.added(store, metadata='{"a":"' + "x" * 10_000 + '"}')
        await asyncio.gather(*(store.apply(of.id, say(f"{n}")) for n in range(100)))
        page = await store.list_messages(of, limit=100)
        assert page.has_more
        assert 55 <= len(page.messages) <= 65
        assert contents(await history(store, of)) == [f"{n}" for n in range(100)]

    async def test_a_page_stays_below_what_a_grpc_client_takes(self, store: Store) -> None:
        """At four bytes a character, and with what protobuf adds, which the bound leaves room for."""
        of = await self.added(store)
        text = "\U0001f600" * (PAGE_BYTES // 8)
        for _ in range(10):
            await store.apply(of.id, say("m", attachments=json.dumps([text], ensure_ascii=False)))
        page = await store.list_messages(of, limit=100)
        assert sum(len((entry.message.attachments or "").encode()) for entry in page.messages if entry.message) < 4 * 1024 * 1024

    # Lists and counts.

    async def test_every_page_of_sessions_against_a_model(self, store: Store, clock: TestClock) -> None:
        choose = random.Random(11)
        agents, users = [str(uuid.UUID(int=n)) for n in (1, 2)], [str(uuid.UUID(int=n)) for n in (3, 4)]
        stored: list[Session] = []
        for n in range(24):
            timeout = PartialTimeoutConfig(timeout_minutes=choose.choice([5.0, 30.0]))
            new = session(T0 + n // 3, timeout, agent_id=choose.choice(agents), user_id=choose.choice(users))
            await store.create_session(new)
            stored.append(new)
        clock.set_ms(T0 + 4 * MINUTE)
        for n in (3, 4):
            stored[n] = (await store.apply(stored[n].id, heartbeat)).session
        stored.sort(key=lambda one: (one.created_at_ms, one.id))
        instants = (T0, T0 + 5 * MINUTE + 4, T0 + 60 * MINUTE)
        for now, agent_id, user_id in itertools.product(instants, [None, *agents, UNKNOWN], [None, *users]):
            active = [one for one in stored if one.expires_at_ms > now]
            model = [one for one in active if agent_id in (None, one.agent_id) and user_id in (None, one.user_id)]
            for limit in (1, 2, 5, 23, 24, 25):
                met: list[Session] = []
                while True:
                    after = Position(met[-1].created_at_ms, met[-1].id) if met else None
                    page = await store.list_sessions(now, limit=limit, after=after, agent_id=agent_id, user_id=user_id)
                    assert page.total == len(model)
                    assert page.sessions == model[len(met) : len(met) + limit]
                    met += page.sessions
                    assert page.has_more == (len(met) < len(model))
                    if not page.has_more:
                        break
                assert met == model

    async def test_a_page_of_sessions_goes_on_behind_one_that_is_gone(self, store: Store) -> None:
        stored = [await self.added(store, T0 + n) for n in range(3)]
        await store.delete_session(stored[1].id)
        page = await store.list_sessions(T0, limit=5, after=Position(stored[1].created_at_ms, stored[1].id))
        assert (page.sessions, page.has_more, page.total) == ([stored[2]], False, 2)

    async def test_a_page_of_large_sessions_stops_early(self, store: Store) -> None:
        metadata = '{"a":"' + "x" * 10_000 + '"}'
        stored = [session(T0 + n, metadata=metadata) for n in range(100)]
        await asyncio.gather(*map(store.create_session, stored))
        first = await store.list_sessions(T0, limit=100)
        assert first.has_more
        assert first.total == 100
        assert 55 <= len(first.sessions) <= 65
        last = first.sessions[-1]
        second = await store.list_sessions(T0, limit=100, after=Position(last.created_at_ms, last.id))
        assert not second.has_more
        assert first.sessions + second.sessions == stored

    async def test_a_session_whose_expiry_is_in_the_log_is_not_active_even_if_the_clock_goes_back(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        clock.set_ms(one.expires_at_ms)
        await store.apply(one.id, fall_due)
        assert (await store.list_sessions(T0, limit=5)).total == 0
        assert await store.counts(T0) == Counts(0, 1, 0, 0)

    async def test_counts(self, store: Store) -> None:
        assert await store.counts(T0) == Counts(0, 0, 0, 0)
        await self.added(store)
        await self.added(store, T0, PartialTimeoutConfig(timeout_minutes=20.0))
        await self.added(store, T0, PartialTimeoutConfig(timeout_minutes=20.0, warning_threshold_minutes=15.5))
        at = {
            0: Counts(3, 0, 0, 0),
            4.5: Counts(3, 0, 1, 0),
            15: Counts(3, 0, 2, 0),
            20: Counts(1, 2, 0, 0),
            25: Counts(1, 2, 1, 0),
            30: Counts(0, 3, 0, 0),
        }
        for minutes, expected in at.items():
            assert await store.counts(T0 + round(minutes * MINUTE)) == expected, minutes
        assert await store.counts(T0 + 20 * MINUTE - 1) == Counts(3, 0, 2, 0)
        assert await store.counts(T0 + 25 * MINUTE - 1) == Counts(1, 2, 0, 0)

    # Deadlines and the purge.

    async def test_due(self, store: Store, clock: TestClock) -> None:
        assert await store.next_due_ms() is None
        assert await store.due(T0 + 10**12, 5) == []
        late, soon, middle = [await self.added(store, T0, PartialTimeoutConfig(timeout_minutes=minutes)) for minutes in (40.0, 20.0, 30.0)]
        assert await store.next_due_ms() == T0 + 15 * MINUTE
        assert await store.due(T0 + 15 * MINUTE - 1, 5) == []
        assert await store.due(T0 + 15 * MINUTE, 5) == [soon.id]
        assert await store.due(T0 + 90 * MINUTE, 5) == [soon.id, middle.id, late.id]
        assert await store.due(T0 + 90 * MINUTE, 2) == [soon.id, middle.id]
        clock.set_ms(T0 + 15 * MINUTE)
        await store.apply(soon.id, fall_due)
        assert await store.due(T0 + 20 * MINUTE - 1, 5) == []
        assert await store.next_due_ms() == T0 + 20 * MINUTE
        await store.apply(soon.id, heartbeat)
        assert await store.next_due_ms() == T0 + 25 * MINUTE
        clock.set_ms(T0 + 90 * MINUTE)
        for one in (soon, middle, late):
            await store.apply(one.id, fall_due)
        assert await store.next_due_ms() is None
        assert await store.due(T0 + 10**12, 5) == []

    @pytest.mark.parametrize("limit", [1, 2, 3, 5, 7, 100])
    async def test_purge_in_steps(self, store: Store, clock: TestClock, limit: int) -> None:
        old, older, live = await self.added(store, T0 + 1), await self.added(store), await self.added(store, T0 + 2)
        for target, count in ((old, 4), (older, 3), (live, 2)):
            for _ in range(count):
                await store.apply(target.id, patch(warning_threshold_minutes=2.0))
                await store.apply(target.id, answer(Reply(Draft("r"))))
        clock.set_ms(old.expires_at_ms)
        for target in (old, older):
            await store.apply(target.id, fall_due)
        removed, steps = 0, 0
        while step := await store.purge(old.expires_at_ms, limit):
            assert 1 <= step <= limit
            removed += step
            steps += 1
            for target, count in ((old, 4), (older, 3)):
                messages = await history(store, target)
                try:
                    assert (await store.get_session(target.id)).id == target.id
                    assert len(messages) <= count
                except SessionNotFoundError:
                    assert messages == []
        # Two entries and a delivery for each round; each session and the entry of its expiry.
        assert removed == 4 * 3 + 3 * 3 + 2 * 2
        assert steps >= removed / limit
        for target in (old, older):
            with pytest.raises(SessionNotFoundError):
                await store.get_session(target.id)
        assert len(await history(store, live)) == 2
        assert await store.counts(T0) == Counts(1, 0, 0, 0)
        assert await store.purge(old.expires_at_ms, limit) == 0

    async def test_purge_takes_what_expired_at_that_instant_or_before(self, store: Store, one: Session, clock: TestClock) -> None:
        clock.set_ms(one.expires_at_ms)
        expired = (await store.apply(one.id, fall_due)).session
        assert await store.purge(one.expires_at_ms - 1, 100) == 0
        assert await store.get_session(one.id) == expired
        # The session and the entry of its expiry.
        assert await store.purge(one.expires_at_ms, 100) == 2

    async def test_purge_leaves_a_session_whose_expiry_nobody_has_been_told(self, store: Store, one: Session, clock: TestClock) -> None:
        """A clock that jumps may bring the purge before the expiry. Contract: "Warnings and expiries happen when they fall due"."""
        await store.apply(one.id, say())
        clock.set_ms(one.expires_at_ms + 10**9)
        assert await store.purge(clock.now_ms(), 100) == 0
        assert [left.session_id for left in await store.list_open()] == [one.id]
        await store.apply(one.id, fall_due)
        assert await store.purge(clock.now_ms(), 100) > 0
        with pytest.raises(SessionNotFoundError):
            await store.get_session(one.id)

    async def test_clear_sessions(self, store: Store, one: Session) -> None:
        await store.create_agent(agent())
        await store.apply(one.id, say())
        await self.added(store)
        await store.clear_sessions()
        assert await store.counts(T0) == Counts(0, 0, 0, 0)
        assert await store.next_due_ms() is None
        assert (await store.list_messages(one, limit=5)).messages == []
        with pytest.raises(SessionNotFoundError):
            await store.apply(one.id, say())
        assert await store.list_agents(limit=5) == [agent()]
        await store.create_session(one)
        assert (await store.apply(one.id, say())).entries[0].sequence == 1

    # Deliveries.

    async def test_a_message_of_the_user_makes_a_delivery(self, store: Store, one: Session, clock: TestClock) -> None:
        clock.set_ms(T0 + 3)
        outcome = await store.apply(one.id, say("hi"))
        made = Delivery(one.id, 1, DeliveryState.PENDING, 0, T0 + 3)
        assert outcome.deliveries == (made,)
        assert await store.next_delivery(one.id) == OpenDelivery(outcome.session, outcome.entries[0], made)
        assert await store.list_open() == [OpenSession(one.id, one.agent_id, 1, T0 + 3, 1)]
        await store.apply(one.id, heartbeat)
        with pytest.raises(DeliveryNotFoundError) as caught:
            await delivery(store, one, 2)
        assert caught.value.details == {"deliveryId": f"{one.id}-2"}

    async def test_deliveries_that_are_not_there(self, store: Store, one: Session) -> None:
        other = await self.added(store)
        await store.apply(one.id, say())
        await store.apply_delivery(one.id, 1, respond())
        for sequence in (-1, 0, 2, 3, 10**17):
            with pytest.raises(DeliveryNotFoundError) as caught:
                await store.apply_delivery(one.id, sequence, respond())
            assert caught.value.details == {"deliveryId": f"{one.id}-{sequence}"}
        with pytest.raises(DeliveryNotFoundError):
            await store.apply_delivery(other.id, 1, respond())
        with pytest.raises(SessionNotFoundError) as caught:
            await store.apply_delivery(UNKNOWN, 1, respond())
        assert caught.value.details == {"sessionId": UNKNOWN}
        for session_id in (one.id, other.id, UNKNOWN, "", "nonsense"):
            assert await store.next_delivery(session_id) is None
        assert await store.list_open() == []

    async def test_apply_delivery_hands_the_rule_all_it_needs_and_persists_the_outcome(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        sent = await store.apply(one.id, say())
        model, made = sent.session, sent.deliveries[0]
        log = list(sent.entries)
        for ms, rule in enumerate((take, stumble, take, take, give_up, respond()), start=1):
            clock.set_ms(T0 + ms)
            expected = rule(model, made, T0 + ms)
            assert await store.apply_delivery(one.id, 1, rule) == expected
            model, (made,) = expected.session, expected.deliveries
            log += expected.entries
            assert await delivery(store, one, 1) == made
            assert await store.get_session(one.id) == model
            assert await store.list_entries(one.id, after_sequence=0, limit=9) == log
            found = await store.next_delivery(one.id)
            assert (found and (found.session, found.delivery)) == ((model, made) if made.due_at_ms else None)
        assert [entry.kind for entry in log] == [EntryKind.MESSAGE, EntryKind.REPLY_FAILURE, EntryKind.MESSAGE]

    @pytest.mark.parametrize("rule", [respond(""), mishandle], ids=["refused", "misbehaving"])
    async def test_a_rule_of_a_delivery_that_raises_writes_nothing(self, store: Store, one: Session, rule: DeliveryRule) -> None:
        sent = await store.apply(one.id, say())
        with pytest.raises((InvalidContentError, Misbehaved)):
            await store.apply_delivery(one.id, 1, rule)
        assert await store.next_delivery(one.id) == OpenDelivery(sent.session, sent.entries[0], sent.deliveries[0])

    async def test_a_session_is_served_in_order_whatever_is_answered_in_between(self, store: Store, one: Session) -> None:
        await asyncio.gather(*(store.apply(one.id, say(f"{n}")) for n in range(5)))
        await store.apply_delivery(one.id, 3, respond())
        met = []
        while found := await store.next_delivery(one.id):
            met.append(found.delivery.sequence)
            assert [(left.sequence, left.due_at_ms) for left in await store.list_open()] == [(met[-1], T0)]
            await store.apply_delivery(one.id, met[-1], give_up if met[-1] == 2 else respond())
        assert met == [1, 2, 4, 5]
        assert await store.list_open() == []

    async def test_list_open_has_the_first_of_each_session_and_when_it_may_be_given(self, store: Store, clock: TestClock) -> None:
        many = [await self.added(store, agent_id=str(uuid.UUID(int=n))) for n in range(5)]
        for one in many:
            for content in ("a", "b"):
                await store.apply(one.id, say(content))
        fresh, leased, resting, second, done = many
        await store.apply_delivery(leased.id, 1, take)
        for rule in (take, stumble):
            await store.apply_delivery(resting.id, 1, rule)
        clock.set_ms(T0 + 50)
        await store.apply_delivery(second.id, 1, respond())
        for rule in (take, stumble):
            await store.apply_delivery(second.id, 2, rule)
        for sequence in (1, 2):
            await store.apply_delivery(done.id, sequence, respond())
        expected = [(fresh, 1, T0, 2), (leased, 1, 0, 2), (resting, 1, T0 + 700, 2), (second, 2, T0 + 750, 1)]
        assert sorted(await store.list_open(), key=lambda left: left.agent_id) == [
            OpenSession(one.id, one.agent_id, *rest) for one, *rest in expected
        ]

    async def test_of_answers_at_the_same_time_one_is_stored(self, store: Store, one: Session) -> None:
        await store.apply(one.id, say())
        results = await self.together(store, [store.apply_delivery(one.id, 1, respond(f"{n}")) for n in range(MANY)])
        stored = [result for result in results if isinstance(result, Outcome)]
        assert stored == results[:1]
        assert {type(result) for result in results[1:]} == {DeliveryAnsweredError}
        assert contents(await history(store, one)) == ["hello", "0"]
        assert await store.get_session(one.id) == stored[0].session
        assert (await delivery(store, one, 1)).state is DeliveryState.ANSWERED

    async def test_a_life_of_a_delivery_within_one_moment(self, store: Store, one: Session) -> None:
        other = await self.added(store)
        results = await self.together(
            store,
            [
                store.apply_delivery(one.id, 1, take),
                store.apply(one.id, say("a")),
                store.apply(other.id, say("x")),
                *(store.apply_delivery(one.id, 1, rule) for rule in (take, stumble, take, respond("b"), respond("c"), stumble)),
                store.apply(one.id, say("d")),
                *(store.apply_delivery(one.id, 3, rule) for rule in (take, give_up, take, respond("e"))),
                store.apply_delivery(other.id, 2, take),
            ],
        )
        wrong = {n: type(result) for n, result in enumerate(results) if not isinstance(result, Outcome)}
        assert wrong == {
            0: DeliveryNotFoundError,
            7: DeliveryAnsweredError,
            8: DeliveryNotLeasedError,
            12: DeliveryNotLeasedError,
            14: DeliveryNotFoundError,
        }
        assert contents(await history(store, one)) == ["a", "b", "d", "e"]
        assert [await delivery(store, one, sequence) for sequence in (1, 3)] == [
            Delivery(one.id, 1, DeliveryState.ANSWERED, 2, None),
            Delivery(one.id, 3, DeliveryState.ANSWERED, 1, None),
        ]
        assert [left.session_id for left in await store.list_open()] == [other.id]

    async def test_one_that_misbehaves_does_not_disturb_the_deliveries_of_its_group(self, store: Store, one: Session) -> None:
        await store.apply(one.id, say())
        results = await self.together(
            store,
            [
                store.apply_delivery(one.id, 1, take),
                store.apply_delivery(one.id, 1, mishandle),
                store.apply(one.id, break_a_constraint),
                store.apply_delivery(one.id, 1, respond()),
            ],
        )
        assert [isinstance(result, Outcome) for result in results] == [True, False, False, True]
        assert await delivery(store, one, 1) == Delivery(one.id, 1, DeliveryState.ANSWERED, 1, None)

    async def test_the_expiry_of_a_session_closes_its_open_deliveries(self, store: Store, one: Session) -> None:
        other = await self.added(store)
        for n in range(4):
            await store.apply(one.id, say(f"{n}"))
        await store.apply(other.id, say())
        for sequence, rules in ((1, (respond(),)), (2, (take,)), (3, (take, stumble))):
            for rule in rules:
                await store.apply_delivery(one.id, sequence, rule)
        await store.apply(one.id, expire)
        assert await store.next_delivery(one.id) is None
        assert [left.session_id for left in await store.list_open()] == [other.id]
        states = [await delivery(store, one, sequence) for sequence in (1, 2, 3, 4)]
        assert [(found.state, found.attempts, found.due_at_ms) for found in states] == [
            (DeliveryState.ANSWERED, 0, None),
            (DeliveryState.FAILED, 1, None),
            (DeliveryState.FAILED, 1, None),
            (DeliveryState.FAILED, 0, None),
        ]
        for rule in (take, stumble, give_up, respond()):
            with pytest.raises(SessionExpiredError):
                await store.apply_delivery(one.id, 2, rule)

    async def test_an_expiry_among_deliveries(self, store: Store, one: Session) -> None:
        """All in one group: what is made or given out before the expiry is closed by it, and nothing comes after."""
        await store.apply(one.id, say("a"))
        await store.apply(one.id, say("b"))
        seen: list[Delivery] = []

        def look(start: Session, found: Delivery, now_ms: int) -> Outcome:
            seen.append(found)
            return Outcome(start)

        results = await self.together(
            store,
            [
                store.apply_delivery(one.id, 1, take),
                store.apply(one.id, say("c")),
                store.apply_delivery(one.id, 3, take),
                store.apply(one.id, expire),
                *(store.apply_delivery(one.id, 1, rule) for rule in (take, stumble, respond(), look)),
                *(store.apply_delivery(one.id, sequence, look) for sequence in (2, 3)),
            ],
        )
        assert [type(result) for result in results[4:7]] == [SessionExpiredError] * 3
        closed = [
            Delivery(one.id, 1, DeliveryState.FAILED, 1, None),
            Delivery(one.id, 2, DeliveryState.FAILED, 0, None),
            Delivery(one.id, 3, DeliveryState.FAILED, 1, None),
        ]
        assert seen == closed
        assert [await delivery(store, one, sequence) for sequence in (1, 2, 3)] == closed
        assert await store.list_open() == []
        assert contents(await history(store, one)) == ["a", "b", "c"]

    async def test_deliveries_go_with_their_session(self, store: Store, one: Session) -> None:
        await store.apply(one.id, say())
        results = await self.together(
            store,
            [
                store.apply(one.id, say()),
                store.apply_delivery(one.id, 1, take),
                store.delete_session(one.id),
                store.apply_delivery(one.id, 1, respond()),
            ],
        )
        assert isinstance(results[3], SessionNotFoundError)
        await store.create_session(one)
        for sequence in (1, 2):
            with pytest.raises(DeliveryNotFoundError):
                await delivery(store, one, sequence)
        assert await store.list_open() == []

    async def test_the_purge_and_a_clearing_take_deliveries_along(self, store: Store, one: Session, clock: TestClock) -> None:
        live = await self.added(store, T0 + 1)
        for target in (one, live):
            await store.apply(target.id, say())
        clock.set_ms((await store.get_session(one.id)).expires_at_ms)
        await store.apply(one.id, fall_due)
        # The delivery, the message, the expiry and the session.
        assert await store.purge(clock.now_ms(), 100) == 4
        assert [left.session_id for left in await store.list_open()] == [live.id]
        await store.clear_sessions()
        assert await store.list_open() == []
        for target in (one, live):
            await store.create_session(target)
            with pytest.raises(DeliveryNotFoundError):
                await delivery(store, target, 1)

    async def test_listeners_are_told_what_became_of_a_delivery_before_its_caller(self, store: Store, one: Session) -> None:
        sent, told = await store.apply(one.id, say()), []

        def listen(commit: Commit) -> None:
            told.extend(commit.outcomes)

        store.add_listener(listen)
        for rule in (take, respond()):
            outcome = await store.apply_delivery(one.id, 1, rule)
            assert told.pop() is outcome
        with pytest.raises(DeliveryAnsweredError):
            await store.apply_delivery(one.id, 1, respond())
        assert told == []
        assert sent.deliveries

    @given(
        st.lists(
            st.lists(
                st.tuples(
                    st.integers(0, 1), st.integers(1, 5), st.sampled_from(["say", "lease", "answer", "fail", "give up", "expire", "delete"])
                ),
                min_size=1,
                max_size=12,
            ),
            max_size=4,
        )
    )
    @on_one_store
    async def test_groups_of_whatever_happens_to_deliveries_against_a_model(
        self, store: Store, groups: list[list[tuple[int, int, str]]]
    ) -> None:
        """The model carries out one after the other what the store may carry out together."""
        targets = [await self.added(store) for _ in range(2)]
        sessions: dict[str, Session] = {one.id: one for one in targets}
        made: dict[tuple[str, int], Delivery] = {}
        rules = {"lease": take, "answer": respond("r", "r"), "fail": stumble, "give up": give_up}

        def expected(session_id: str, sequence: int, name: str) -> Outcome | type[Exception] | None:
            if session_id not in sessions:
                return SessionNotFoundError
            start = sessions[session_id]
            try:
                match name:
                    case "delete":
                        del sessions[session_id]
                        return None
                    case "say":
                        outcome = say(message_id="m")(start, T0)
                    case "expire":
                        outcome = expire(start, T0)
                        for key, found in made.items():
                            if key[0] == session_id and found.due_at_ms is not None:
                                made[key] = replace(found, state=DeliveryState.FAILED, due_at_ms=None)
                    case _ if (session_id, sequence) not in made:
                        return DeliveryNotFoundError
                    case _:
                        outcome = rules[name](start, made[session_id, sequence], T0)
            except DomainError as error:
                return type(error)
            sessions[session_id] = outcome.session
            made.update({(one.session_id, one.sequence): one for one in outcome.deliveries})
            return outcome

        def call(session_id: str, sequence: int, name: str) -> Awaitable[object]:
            match name:
                case "delete":
                    return store.delete_session(session_id)
                case "say" | "expire":
                    return store.apply(session_id, say(message_id="m") if name == "say" else expire)
                case _:
                    return store.apply_delivery(session_id, sequence, rules[name])

        for group in groups:
            steps = [(targets[number].id, sequence, name) for number, sequence, name in group]
            model = [expected(*step) for step in steps]
            results = await self.together(store, [call(*step) for step in steps])
            assert [type(result) if isinstance(result, Exception) else result for result in results] == model
            still = {key: found for key, found in made.items() if key[0] in sessions}
            for (session_id, sequence), found in still.items():
                assert await delivery(store, sessions[session_id], sequence) == found
            for one in targets:
                left = [found for (session_id, _), found in still.items() if session_id == one.id and found.due_at_ms is not None]
                first = await store.next_delivery(one.id)
                assert (first and first.delivery) == min(left, key=lambda found: found.sequence, default=None)
        for one in targets:
            if one.id in sessions:
                await store.delete_session(one.id)

    # The history that an agent is shown.

    async def test_a_reply_stands_behind_what_it_answers(self, store: Store, one: Session) -> None:
        for content in ("a", "b", "c", "d"):
            await store.apply(one.id, say(content))
        for sequence, content in ((1, "A"), (2, "B")):
            await store.apply_delivery(one.id, sequence, respond(content))
        assert contents(await store.list_history(one, before_sequence=3, limit=10)) == ["a", "A", "b", "B"]
        assert contents(await store.list_history(one, before_sequence=4, limit=10)) == ["a", "A", "b", "B", "c"]
        assert contents(await store.list_history(one, before_sequence=3, limit=3)) == ["A", "b", "B"]
        assert await store.list_history(one, before_sequence=1, limit=0) == []
        other = await self.added(store)
        assert await store.list_history(other, before_sequence=9, limit=9) == []

    async def test_what_is_no_message_and_what_had_no_reply(self, store: Store, one: Session) -> None:
        await store.apply(one.id, say("a"))
        await store.apply(one.id, heartbeat)
        await store.apply_delivery(one.id, 1, give_up)
        await store.apply(one.id, patch(timeout_minutes=60.0))
        last = (await store.apply(one.id, say("b"))).session.last_sequence
        assert contents(await store.list_history(one, before_sequence=last, limit=10)) == ["a"]
        # The late reply to what had failed goes to its place all the same.
        await store.apply_delivery(one.id, 1, respond("A"))
        assert contents(await store.list_history(one, before_sequence=last, limit=10)) == ["a", "A"]

    async def test_a_reply_to_a_later_message_does_not_belong_before(self, store: Store, one: Session) -> None:
        """One that came by AgentService.Reply, out of turn."""
        for content in ("a", "b"):
            await store.apply(one.id, say(content))
        await store.apply_delivery(one.id, 2, respond("B"))
        assert contents(await store.list_history(one, before_sequence=1, limit=10)) == []
        await store.apply_delivery(one.id, 1, respond("A"))
        assert contents(await store.list_history(one, before_sequence=2, limit=10)) == ["a", "A"]

    async def test_a_history_of_large_messages_stops_early(self, store: Store, one: Session) -> None:
        text = json.dumps(["x" * (PAGE_BYTES // 3)])
        for n in range(5):
            await store.apply(one.id, say(f"{n}", attachments=text))
        assert contents(await store.list_history(one, before_sequence=6, limit=10)) == ["3", "4"]
        await store.apply(one.id, say("large", attachments=json.dumps(["x" * PAGE_BYTES])))
        assert contents(await store.list_history(one, before_sequence=7, limit=10)) == ["large"]

    # Agents.

    async def test_an_agent_is_read_as_it_was_created(self, store: Store) -> None:
        settings_of = (NOTHING_NAMED, PartialTimeoutConfig(7.25, False, 100.5, 3.5), PartialTimeoutConfig(auto_renew=True))
        for n, timeout in enumerate(settings_of, start=1):
            new = agent(n, T0 + n, timeout=timeout, name="Zoë \U0001f600", updated_at_ms=T0 + 50)
            await store.create_agent(new)
            assert await store.get_agent(new.id) == new

    async def test_what_belongs_to_the_kind_of_an_agent_is_kept(self, store: Store) -> None:
        hook = WebhookSettings("https://a.example/Zoë?x=1", "env:X", 0.1, 7)
        model = OpenAiSettings("m\0", "http://b", "file:/k", "Be\n\U0001f600", 0.1, 1 / 3, 2**31 - 1, 1, 2, 3600.0)
        stored = [
            agent(1, kind=AgentKind.WEBHOOK, settings=hook),
            agent(2, kind=AgentKind.OPENAI, settings=model),
            agent(3, kind=AgentKind.OPENAI, settings=OpenAiSettings("m")),
            agent(4, kind=AgentKind.STREAM),
        ]
        for new in stored:
            await store.create_agent(new)
            assert await store.get_agent(new.id) == new
        assert await store.list_agents(limit=9) == stored
        for kind, settings_of in ((AgentKind.OPENAI, model), (AgentKind.ECHO, None), (AgentKind.WEBHOOK, hook)):
            changed = await store.update_agent(
                stored[0].id, lambda found, _, to=(kind, settings_of): replace(found, kind=to[0], settings=to[1])
            )
            assert changed == await store.get_agent(stored[0].id) == agent(1, kind=kind, settings=settings_of)

    async def test_an_agent_that_is_there_already(self, store: Store) -> None:
        await store.create_agent(agent())
        with pytest.raises(AgentAlreadyExistsError) as caught:
            await store.create_agent(agent(1, name="other"))
        assert caught.value.details == {"agentId": agent().id}
        assert await store.get_agent(agent().id) == agent()

    async def test_an_agent_that_is_not_there(self, store: Store) -> None:
        await store.create_agent(agent())
        for call in (store.get_agent, store.delete_agent, lambda unknown: store.update_agent(unknown, lambda stored, now_ms: stored)):
            with pytest.raises(AgentNotFoundError) as caught:
                await call(UNKNOWN)
            assert caught.value.details == {"agentId": UNKNOWN}

    async def test_update_agent(self, store: Store, clock: TestClock) -> None:
        await store.create_agent(agent(1))
        await store.create_agent(agent(2))
        clock.set_ms(T0 + 7)
        seen = []

        def change(stored: Agent, now_ms: int) -> Agent:
            seen.append((stored, now_ms))
            return replace(stored, name="new", timeout=PartialTimeoutConfig(10.5), updated_at_ms=now_ms)

        changed = await store.update_agent(agent(1).id, change)
        assert seen == [(agent(1), T0 + 7)]
        assert changed == agent(1, name="new", timeout=PartialTimeoutConfig(10.5), updated_at_ms=T0 + 7)
        assert await store.list_agents(limit=5) == [changed, agent(2)]

    @pytest.mark.parametrize("error", [InvalidFieldError("name", "x", "is bad"), Misbehaved()])
    async def test_a_change_of_an_agent_that_raises_writes_nothing(self, store: Store, error: Exception) -> None:
        await store.create_agent(agent())

        def change(stored: Agent, now_ms: int) -> Agent:
            raise error

        with pytest.raises(type(error)):
            await store.update_agent(agent().id, change)
        assert await store.get_agent(agent().id) == agent()

    async def test_changes_of_one_agent_do_not_lose_each_other(self, store: Store) -> None:
        await store.create_agent(agent(1, name=""))

        def change(stored: Agent, now_ms: int, mark: str) -> Agent:
            return replace(stored, name=stored.name + mark)

        await self.together(store, (store.update_agent(agent(1).id, partial(change, mark=mark)) for mark in "abcdefgh"))
        assert (await store.get_agent(agent(1).id)).name == "abcdefgh"

    async def test_delete_agent_leaves_its_sessions(self, store: Store) -> None:
        await store.create_agent(agent())
        of_it = await self.added(store, agent_id=agent().id)
        await store.delete_agent(agent().id)
        with pytest.raises(AgentNotFoundError):
            await store.get_agent(agent().id)
        with pytest.raises(AgentNotFoundError):
            await store.delete_agent(agent().id)
        assert await store.get_session(of_it.id) == of_it

    async def test_pages_of_agents_in_order_of_registration(self, store: Store) -> None:
        stored = [agent(n, T0 + order) for n, order in ((5, 0), (1, 1), (4, 1), (9, 1), (2, 2), (3, 3))]
        for new in random.Random(3).sample(stored, len(stored)):
            await store.create_agent(new)
        for limit in range(1, 8):
            met: list[Agent] = []
            while page := await store.list_agents(limit=limit, after=Position(met[-1].created_at_ms, met[-1].id) if met else None):
                assert page == stored[len(met) : len(met) + limit]
                met += page
            assert met == stored

    # Texts and numbers.

    @given(TEXT.filter(bool), TEXT, TEXT, st.none() | TEXT, st.lists(TEXT, max_size=3))
    @on_one_store
    async def test_text_is_kept_as_it_is(
        self, store: Store, content: str, key: str, value: str, thought: str | None, actions: list[str]
    ) -> None:
        for ascii_only in (True, False):
            metadata = json.dumps({key: value, "n": [1.5, None, True]}, ensure_ascii=ascii_only)
            of = await self.added(store, metadata=metadata)
            draft = Draft(content, metadata, json.dumps([value], ensure_ascii=ascii_only))
            first = await store.apply(of.id, partial(send_message, message_id="m1", draft=draft))
            second = await store.apply(of.id, answering(Reply(draft, thought, tuple(actions)), "m2"))
            assert await store.get_session(of.id) == second.session
            assert second.session.metadata == metadata
            messages = [entry.message for entry in await history(store, of)]
            assert messages == [first.entries[0].message, second.entries[0].message]
            assert messages[1] == Message("m2", True, content, metadata, draft.attachments, thought, tuple(actions), answers=1)

    @pytest.mark.parametrize(
        "text",
        [
            "\u2028\u2029\x7f\x01\x1f\b\f",
            "'; DROP TABLE sessions; --",
            '\\"\\\\u0041\\n{}[]',
            "\U0010ffff\U0001f600\uffff\ufffd",
            "e\u0301 é",
            " ",
            "x" * 4000,
            "\U0001f600" * 4000,
            '"' * 4000,
        ],
        ids=ascii,
    )
    async def test_text_that_databases_stumble_over(self, store: Store, one: Session, text: str) -> None:
        metadata = json.dumps({text[:2000]: text[:400]}, ensure_ascii=False)
        await store.apply(one.id, say(text, metadata=metadata))
        (entry,) = (await store.list_messages(one, limit=1)).messages
        assert entry.message is not None
        assert (entry.message.content, entry.message.metadata) == (text, metadata)

    async def test_a_nul_in_what_an_agent_says_beside_its_content(self, store: Store, one: Session) -> None:
        """Nothing forbids it there: it is kept, or refused, but not cut."""
        try:
            await store.apply(one.id, answer(Reply(Draft("hi"), "a\0b", ("c\0d",))))
        except Exception:  # noqa: BLE001
            assert (await store.list_messages(one, limit=1)).messages == []
        else:
            (entry,) = (await store.list_messages(one, limit=1)).messages
            assert entry.message is not None
            assert (entry.message.thought, entry.message.actions) == ("a\0b", ("c\0d",))

    async def test_metadata_is_not_rebuilt(self, store: Store) -> None:
        text = '{ "a" : 1.0, "a": 1e2, "\\u0041": "\\/", "big": 123456789012345678901234567890 }'
        of = await self.added(store, metadata=text)
        await store.apply(of.id, say(metadata=text, attachments=f"[{text}]"))
        (entry,) = (await store.list_messages(of, limit=1)).messages
        assert entry.message is not None
        assert (entry.message.metadata, entry.message.attachments) == (text, f"[{text}]")
        assert (await store.get_session(of.id)).metadata == text

    async def test_attachments_of_two_mebibytes(self, store: Store, one: Session) -> None:
        text = '["' + "é\\n" * ((2 * 1024 * 1024 - 4) // 4) + '"]'
        results = await self.together(store, [store.apply(one.id, say(attachments=text)) for _ in range(5)])
        assert [result.entries[0].sequence for result in results] == [1, 2, 3, 4, 5]
        assert all(entry.message and entry.message.attachments == text for entry in await history(store, one))

    @given(st.floats(5, 1440), st.floats(1440, 2880), st.floats(1, 1e6))
    @on_one_store
    async def test_minutes_are_kept_to_the_last_bit(self, store: Store, timeout: float, duration: float, warning: float) -> None:
        asked = PartialTimeoutConfig(timeout, True, duration, warning)
        of = await self.added(store, T0, asked)
        assert (await store.get_session(of.id)).timeout == TimeoutConfig(timeout, True, duration, warning)
        outcome = await store.apply(of.id, patch(warning_threshold_minutes=duration, timeout_minutes=timeout))
        assert await store.get_session(of.id) == outcome.session
        new = Agent(str(uuid.uuid4()), "a", AgentKind.ECHO, T0, T0, asked)
        await store.create_agent(new)
        assert await store.get_agent(new.id) == new

    @pytest.mark.parametrize("ms", [-(10**14), -1, 0, 2**31, 2**53 + 1, 4 * 10**15 + 1])
    async def test_instants_near_and_far(self, store: Store, clock: TestClock, ms: int) -> None:
        clock.set_ms(ms)
        of = await self.added(store, ms)
        outcome = await store.apply(of.id, say())
        assert await store.get_session(of.id) == outcome.session
        assert (await store.list_messages(of, limit=1)).messages == list(outcome.entries)
        assert await store.next_due_ms() == due_at_ms(outcome.session)

    # Requests that may be repeated.

    @staticmethod
    def asked(request_id: str = "r", content: str = "c", scope: str = "s") -> Request:
        made = request(scope, request_id, content)
        assert made is not None
        return made

    async def test_a_message_that_is_sent_again_is_the_first_one(self, store: Store, one: Session, clock: TestClock) -> None:
        first = await store.apply(one.id, say("hi"), self.asked())
        clock.set_ms(T0 + MINUTE)
        commits: list[Commit] = []
        store.add_listener(commits.append)
        again = await store.apply(one.id, say("hi"), self.asked())
        assert (first.replayed, again.replayed) == (False, True)
        assert again.entries == first.entries
        assert not any(commit.outcomes for commit in commits)
        assert await store.get_session(one.id) == first.session

    async def test_of_the_same_request_at_the_same_time_one_has_its_effect(self, store: Store, one: Session) -> None:
        results = await self.together(store, [store.apply(one.id, say("hi"), self.asked()) for _ in range(MANY)])
        assert sorted(result.replayed for result in results) == [False] + [True] * (MANY - 1)
        assert len({result.entries for result in results}) == 1
        assert contents(await history(store, one)) == ["hi"]

    async def test_a_request_id_with_other_content_is_refused(self, store: Store, one: Session) -> None:
        await store.apply(one.id, say("hi"), self.asked())
        for call in (store.apply(one.id, say("ho"), self.asked(content="d")), store.create_session(session(), self.asked(content="d"))):
            with pytest.raises(RequestIdReusedError):
                await call
        assert contents(await history(store, one)) == ["hi"]

    async def test_request_ids_are_of_their_scope(self, store: Store, one: Session) -> None:
        for scope in ("s", "t"):
            assert not await store.knows(self.asked(scope=scope))
            assert not (await store.apply(one.id, say(scope), self.asked(scope=scope, content=scope))).replayed
            assert await store.knows(self.asked(scope=scope))
        assert contents(await history(store, one)) == ["s", "t"]

    async def test_what_a_rule_refuses_is_not_remembered(self, store: Store, one: Session) -> None:
        with pytest.raises(InvalidContentError):
            await store.apply(one.id, say(""), self.asked())
        assert not (await store.apply(one.id, say("hi"), self.asked(content="other"))).replayed

    async def test_a_message_is_the_first_one_also_once_the_session_has_expired(self, store: Store, one: Session, clock: TestClock) -> None:
        first = await store.apply(one.id, say("hi"), self.asked())
        clock.set_ms(first.session.expires_at_ms)
        assert (await store.apply(one.id, say("hi"), self.asked())).entries == first.entries

    async def test_a_session_that_is_created_again_is_as_it_was_created(self, store: Store, clock: TestClock) -> None:
        new = session(metadata='{"a":1}')
        results = await self.together(store, [store.create_session(session(metadata="{}") if n else new, self.asked()) for n in range(5)])
        assert [(result.session, result.replayed) for result in results] == [(new, n > 0) for n in range(5)]
        await store.apply(new.id, say())
        assert await store.create_session(session(), self.asked()) == Outcome(new, replayed=True)
        await store.delete_session(new.id)
        assert (await store.create_session(session(), self.asked())).session == new
        with pytest.raises(SessionNotFoundError):
            await store.get_session(new.id)

    async def test_requests_are_forgotten_in_steps(self, store: Store, one: Session, clock: TestClock) -> None:
        for n in range(5):
            clock.set_ms(T0 + n)
            await store.apply(one.id, say(f"{n}"), self.asked(f"{n}"))
        assert [await store.forget_requests(T0 + 2, 2) for _ in range(3)] == [2, 1, 0]
        replayed = [(await store.apply(one.id, say("x"), self.asked(f"{n}"))).replayed for n in range(5)]
        assert replayed == [False, False, False, True, True]

    async def test_a_session_is_deleted_in_the_state_that_is_named(self, store: Store, one: Session) -> None:
        with pytest.raises(EtagMismatchError):
            await store.delete_session(one.id, '"other"')
        before = etag(await store.get_session(one.id))
        await store.apply(one.id, say())
        with pytest.raises(EtagMismatchError):
            await store.delete_session(one.id, before)
        await store.delete_session(one.id, f'"other", {etag(await store.get_session(one.id))}')

    async def test_what_became_of_a_message(self, store: Store, one: Session) -> None:
        for content in ("a", "b", "c"):
            await store.apply(one.id, say(content))
        answered = await store.apply_delivery(one.id, 2, respond("re b"))
        await store.apply_delivery(one.id, 1, take)
        failed = await store.apply_delivery(one.id, 1, give_up)
        assert [await store.find_answer(one.id, sequence) for sequence in (1, 2, 3, 9)] == [
            failed.entries[0],
            answered.entries[0],
            None,
            None,
        ]
        late = await store.apply_delivery(one.id, 1, respond("late"))
        assert await store.find_answer(one.id, 1) == late.entries[0]

    # The store itself.

    async def test_check_writable(self, store: Store, one: Session) -> None:
        assert await store.check_writable() is None
        assert await store.get_session(one.id) == one

    async def test_close_finishes_the_writes_that_were_accepted(self, store: Store, one: Session) -> None:
        tasks = [asyncio.ensure_future(store.apply(one.id, say(f"{n}"))) for n in range(MANY)]
        await asyncio.sleep(0)
        await self.close(store)
        results = await asyncio.gather(*tasks)
        assert [result.entries[0].sequence for result in results] == list(range(1, MANY + 1))

    @pytest.mark.parametrize("name", CALLS)
    async def test_a_closed_store_is_unavailable(self, store: Store, one: Session, name: str) -> None:
        await self.close(store)
        with pytest.raises(UnavailableError):
            await CALLS[name](store, one)

    async def test_a_count_has_seen_all_that_was_written_before_it(self, store: Store) -> None:
        async def create_and_count() -> None:
            await store.create_session(session())
            written = len([counted for counted in created if counted])
            created.append(True)
            assert (await store.counts(T0)).active > written

        created: list[bool] = []
        await asyncio.gather(*(create_and_count() for _ in range(50)))
        assert (await store.counts(T0)).active == 50

    async def test_reads_that_are_under_way_when_the_store_closes_end(self, store: Store) -> None:
        """They end with what they found or as unavailable, and with nothing else."""
        await asyncio.gather(*(store.create_session(session(T0 + n)) for n in range(200)))
        reads = [asyncio.ensure_future(call) for _ in range(20) for call in (store.counts(T0), store.list_sessions(T0, limit=200))]
        await asyncio.sleep(0)
        await self.close(store)
        for result in await asyncio.gather(*reads, return_exceptions=True):
            assert isinstance(result, UnavailableError) or getattr(result, "active", getattr(result, "total", 0)) == 200

    async def test_live_sessions_stay_live(self, store: Store, one: Session) -> None:
        """The rules' own view of what the store gave back."""
        require_live(await store.get_session(one.id), one.expires_at_ms - 1)
        with pytest.raises(SessionExpiredError):
            require_live(await store.get_session(one.id), one.expires_at_ms)
