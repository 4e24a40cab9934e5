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
from server.domain.agents import Agent, AgentKind
from server.domain.errors import (
    AgentAlreadyExistsError,
    AgentNotFoundError,
    DomainError,
    InvalidContentError,
    InvalidFieldError,
    SessionExpiredError,
    SessionNotFoundError,
    UnavailableError,
)
from server.domain.events import Entry, EntryKind
from server.domain.messages import Draft, Message, Reply
from server.domain.sessions import (
    Outcome,
    Rule,
    Session,
    due_at_ms,
    fall_due,
    heartbeat,
    renew,
    require_live,
    send_message,
    store_reply,
    update_timeout,
)
from server.domain.timeouts import NOTHING_NAMED, PartialTimeoutConfig, TimeoutConfig
from server.store.base import PAGE_BYTES, Counts, MessagePage, Position, Store
from tests.unit.samples import AGENT, MINUTE, POLICY, T0, TEXT, USER, session

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
    return partial(store_reply, message_id=str(uuid.uuid4()), reply=reply)


def misbehave(start: Session, now_ms: int) -> Outcome:
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
        assert (results[1], results[3], results[4]) == (None, None, None)
        with pytest.raises(SessionNotFoundError):
            await store.get_session(new.id)
        assert await store.get_session(stays.id) == results[6].session
        assert contents(await history(store, stays)) == ["b"]

    async def test_creates_at_the_same_time(self, store: Store) -> None:
        new = [session(T0 + n) for n in range(300)]
        assert await self.together(store, map(store.create_session, new)) == [None] * 300
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
    @pytest.mark.parametrize("where", ["attachments", "thought", "actions"])
    async def test_a_page_of_large_messages_stops_early(self, store: Store, one: Session, size: int, where: str) -> None:
        text = "x" * (size - 10)
        match where:
            case "attachments":
                rule = partial(send_message, message_id="m", draft=Draft("m", attachments=f'["{text}"]'))
            case "thought":
                rule = answer(Reply(Draft("m"), thought=text))
            case _:
                rule = answer(Reply(Draft("m"), actions=(text,)))
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
        rows = 0
        for target, count in ((old, 4), (older, 3), (live, 2)):
            for _ in range(count):
                await store.apply(target.id, patch(warning_threshold_minutes=2.0))
                await store.apply(target.id, answer(Reply(Draft("r"))))
            rows += 2 * count + 1
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
        assert removed == 4 * 2 + 3 * 2 + 2
        assert steps >= removed / limit
        for target in (old, older):
            with pytest.raises(SessionNotFoundError):
                await store.get_session(target.id)
        assert len(await history(store, live)) == 2
        assert await store.counts(T0) == Counts(1, 0, 0, 0)
        assert await store.purge(old.expires_at_ms, limit) == 0

    async def test_purge_takes_what_expired_at_that_instant_or_before(self, store: Store, one: Session) -> None:
        assert await store.purge(one.expires_at_ms - 1, 100) == 0
        assert await store.get_session(one.id) == one
        assert await store.purge(one.expires_at_ms, 100) == 1

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

    # Agents.

    async def test_an_agent_is_read_as_it_was_created(self, store: Store) -> None:
        settings_of = (NOTHING_NAMED, PartialTimeoutConfig(7.25, False, 100.5, 3.5), PartialTimeoutConfig(auto_renew=True))
        for n, timeout in enumerate(settings_of, start=1):
            new = agent(n, T0 + n, timeout=timeout, name="Zoë \U0001f600", updated_at_ms=T0 + 50)
            await store.create_agent(new)
            assert await store.get_agent(new.id) == new

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
            second = await store.apply(of.id, partial(store_reply, message_id="m2", reply=Reply(draft, thought, tuple(actions))))
            assert await store.get_session(of.id) == second.session
            assert second.session.metadata == metadata
            messages = [entry.message for entry in await history(store, of)]
            assert messages == [first.entries[0].message, second.entries[0].message]
            assert messages[1] == Message("m2", True, content, metadata, draft.attachments, thought, tuple(actions))

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
