"""What the store tells its listeners, and what can be read of its log."""

import asyncio
import sqlite3
import uuid
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.agents import ECHO_ID
from server.domain.deliveries import RetryPolicy
from server.domain.errors import (
    AgentNotFoundError,
    SessionExpiredError,
    SessionNotFoundError,
)
from server.domain.log import (
    Entry,
    ExpirationWarning,
    Expiry,
    Renewal,
    ReplyFailure,
    TimeoutChange,
)
from server.domain.messages import Draft, UserMessage
from server.domain.replies import fail
from server.domain.sessions import (
    Outcome,
    Session,
    fall_due,
    heartbeat,
    renew,
    send_message,
    update_timeout,
)
from server.domain.timeouts import PartialTimeoutConfig
from server.store.contract import PAGE_BYTES
from server.store.sqlite.store import SqliteStore
from server.store.values import Commit
from tests.store.conformance.common import say
from tests.support.realtime.echo_dispatcher import ECHO_AGENT
from tests.unit.samples import MINUTE, POLICY, T0, logged, put, session

pytestmark = pytest.mark.sqlite


class TestListeners:
    async def test_they_hear_of_what_is_durable_before_the_caller_does(
        self, store: SqliteStore, one: Session, tmp_path: Path
    ) -> None:
        heard: list[tuple[Commit, bool]] = []
        call: asyncio.Task[Outcome]
        store.add_listener(lambda commit: heard.append((commit, call.done())))
        call = asyncio.create_task(store.apply(one.id, say(), scope=EVERYTHING))
        outcome = await call
        assert [([*commit.outcomes], [*commit.deleted], done) for commit, done in heard] == [
            ([outcome], [], False)
        ]
        assert await store.list_entries(one.id, after_sequence=0, limit=10, scope=EVERYTHING) == [
            outcome.entry
        ]

    async def test_outcomes_come_in_order_and_each_once(self, store: SqliteStore, one: Session) -> None:
        heard: list[int] = []
        store.add_listener(
            lambda commit: heard.extend(
                entry.sequence for outcome in commit.outcomes for entry in logged(outcome)
            )
        )
        await asyncio.gather(*(store.apply(one.id, say(f"{n}"), scope=EVERYTHING) for n in range(700)))
        assert heard == list(range(1, 701))

    async def test_all_of_them_hear(self, store: SqliteStore, one: Session) -> None:
        first: list[Commit] = []
        second: list[Commit] = []
        store.add_listener(first.append)
        store.add_listener(second.append)
        await store.apply(one.id, say(), scope=EVERYTHING)
        assert len(first) == 1
        assert first == second

    async def test_a_deletion_is_told(self, store: SqliteStore, one: Session) -> None:
        heard: list[Session] = []
        store.add_listener(lambda commit: heard.extend(commit.deleted))
        sent = await store.apply(one.id, say(), scope=EVERYTHING)
        await store.delete_session(one.id, scope=EVERYTHING)
        with pytest.raises(SessionNotFoundError):
            await store.delete_session(one.id, scope=EVERYTHING)
        assert heard == [sent.session]

    async def test_a_rule_that_fails_is_not_told(
        self, store: SqliteStore, one: Session, clock: TestClock
    ) -> None:
        heard: list[Outcome] = []
        store.add_listener(lambda commit: heard.extend(commit.outcomes))
        clock.set_ms(T0 + 30 * MINUTE)
        with pytest.raises(SessionExpiredError):
            await store.apply(one.id, say(), scope=EVERYTHING)
        with pytest.raises(SessionNotFoundError):
            await store.apply("nobody", say(), scope=EVERYTHING)
        assert heard == []

    async def test_they_hear_also_where_the_caller_is_gone(self, store: SqliteStore, one: Session) -> None:
        heard: list[int] = []
        store.add_listener(
            lambda commit: heard.extend(
                entry.sequence for outcome in commit.outcomes for entry in logged(outcome)
            )
        )
        calls = [asyncio.create_task(store.apply(one.id, say(f"{n}"), scope=EVERYTHING)) for n in range(100)]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        last = await store.apply(one.id, say("last"), scope=EVERYTHING)
        assert heard == list(range(1, last.session.last_sequence + 1))

    async def test_the_purge_and_clear_sessions_are_not_told(
        self, store: SqliteStore, one: Session, clock: TestClock
    ) -> None:
        clock.set_ms(T0 + 31 * MINUTE)
        await store.apply(one.id, lambda stored, now_ms: fall_due(stored, now_ms), scope=EVERYTHING)
        await put(store, session(clock.now_ms()))
        heard: list[Commit] = []
        store.add_listener(heard.append)
        while await store.purge(clock.now_ms(), 10):
            pass
        await store.clear_sessions()
        assert [
            (*commit.outcomes, *commit.deleted) for commit in heard if commit.outcomes or commit.deleted
        ] == []


class TestListEntries:
    async def test_every_kind_comes_back_as_it_was(
        self, store: SqliteStore, one: Session, clock: TestClock
    ) -> None:
        made: list[Entry] = []
        change = partial(
            update_timeout, change=PartialTimeoutConfig(timeout_minutes=31.5, auto_renew=False), policy=POLICY
        )
        for rule in (say("ünïcödé 😀"), heartbeat, renew, change):
            clock.set_ms(clock.now_ms() + MINUTE)
            made += logged(await store.apply(one.id, rule, scope=EVERYTHING))
        for minutes in (27, 60):
            clock.set_ms(clock.now_ms() + minutes * MINUTE)
            made += logged(await store.apply(one.id, fall_due, scope=EVERYTHING))
        assert [type(entry.event) for entry in made] == [
            UserMessage,
            Renewal,
            Renewal,
            TimeoutChange,
            ExpirationWarning,
            Expiry,
        ]
        assert await store.list_entries(one.id, after_sequence=0, limit=100, scope=EVERYTHING) == made

    @pytest.mark.parametrize(("after", "limit"), [(0, 1), (0, 10), (3, 4), (9, 5), (10, 5), (11, 5)])
    async def test_a_page_begins_behind_its_sequence_and_ends_at_its_limit(
        self, store: SqliteStore, one: Session, after: int, limit: int
    ) -> None:
        other = session(T0)
        await put(store, other)
        await asyncio.gather(
            *(store.apply(of.id, say(f"{n}"), scope=EVERYTHING) for n in range(10) for of in (one, other))
        )
        found = await store.list_entries(one.id, after_sequence=after, limit=limit, scope=EVERYTHING)
        assert [entry.sequence for entry in found] == list(range(after + 1, min(after + limit, 10) + 1))
        assert {entry.session_id for entry in found} <= {one.id}

    async def test_a_failure_of_an_earlier_version_names_no_reply(
        self, store: SqliteStore, one: Session, tmp_path: Path
    ) -> None:
        await store.apply(one.id, say(), scope=EVERYTHING)
        retries = RetryPolicy(5, 10, 100)
        rule = partial(
            fail, message_id="m", reason="no", final=True, backoff_ms=1, policy=retries, last_reply_id="r"
        )
        await store.apply_delivery(one.id, 1, rule, scope=EVERYTHING)
        (entry,) = await store.list_entries(one.id, after_sequence=1, limit=1, scope=EVERYTHING)
        assert entry.event == ReplyFailure("m", 1, "no", 0, "r")
        with closing(sqlite3.connect(tmp_path / "store.db")) as connection, connection:
            connection.execute("UPDATE log SET failure = json_remove(failure, '$.reply_message_id')")
        (entry,) = await store.list_entries(one.id, after_sequence=1, limit=1, scope=EVERYTHING)
        assert entry.event == ReplyFailure("m", 1, "no", 0)

    async def test_none_for_a_session_that_is_not_there(self, store: SqliteStore, one: Session) -> None:
        assert await store.list_entries("nobody", after_sequence=0, limit=5, scope=EVERYTHING) == []
        await store.apply(one.id, say(), scope=EVERYTHING)
        await store.delete_session(one.id, scope=EVERYTHING)
        assert await store.list_entries(one.id, after_sequence=0, limit=5, scope=EVERYTHING) == []

    async def test_a_page_of_large_entries_stops_early(self, store: SqliteStore, one: Session) -> None:
        large = Draft("x", "{}", '["' + "x" * (PAGE_BYTES // 2) + '"]')
        for _ in range(4):
            await store.apply(
                one.id, partial(send_message, message_id=str(uuid.uuid4()), draft=large), scope=EVERYTHING
            )
        found: list[Entry] = []
        while page := await store.list_entries(
            one.id, after_sequence=len(found), limit=100, scope=EVERYTHING
        ):
            assert len(page) == 1
            found += page
        assert [entry.sequence for entry in found] == [1, 2, 3, 4]


class TestChannelsAndSeeds:
    async def test_a_channel_leads_to_its_session(self, store: SqliteStore, one: Session) -> None:
        await put(store, session(T0))
        assert await store.find_channel(one.channel_id, scope=EVERYTHING) == one.id

    async def test_there_is_no_such_channel(self, store: SqliteStore, one: Session) -> None:
        for channel_id in (one.id, "nobody", ""):
            with pytest.raises(SessionNotFoundError):
                await store.find_channel(channel_id, scope=EVERYTHING)
        await store.delete_session(one.id, scope=EVERYTHING)
        with pytest.raises(SessionNotFoundError):
            await store.find_channel(one.channel_id, scope=EVERYTHING)

    async def test_a_seed_is_sown_once(self, store: SqliteStore, tmp_path: Path, clock: TestClock) -> None:
        await store.seed_agent(ECHO_AGENT)
        assert await store.get_agent(ECHO_ID, scope=EVERYTHING) == ECHO_AGENT
        renamed = await store.update_agent(
            ECHO_ID, lambda agent, now_ms: replace(agent, name="renamed"), scope=EVERYTHING
        )
        await store.seed_agent(ECHO_AGENT)
        assert await store.get_agent(ECHO_ID, scope=EVERYTHING) == renamed
        await store.delete_agent(ECHO_ID, scope=EVERYTHING)
        await store.seed_agent(ECHO_AGENT)
        await store.close()
        reopened = await SqliteStore.open(tmp_path / "store.db", clock)
        await reopened.seed_agent(ECHO_AGENT)
        with pytest.raises(AgentNotFoundError):
            await reopened.get_agent(ECHO_ID, scope=EVERYTHING)
        await reopened.close()

    async def test_a_seed_is_not_sown_over_another(self, store: SqliteStore) -> None:
        own = replace(ECHO_AGENT, name="my own")
        await store.create_agent(own)
        await store.seed_agent(ECHO_AGENT)
        assert await store.get_agent(ECHO_ID, scope=EVERYTHING) == own
