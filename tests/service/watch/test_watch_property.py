"""Whatever happens, in whatever order: a watcher that resumes from its last entry sees the log, in order,
once.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.agents import ECHO_ID, Agent, AgentKind
from server.domain.errors import DomainError, SessionExpiredError, UnavailableError
from server.domain.log import Abort, Chunk, Entry, ExpirationWarning, Expiry, TimeoutChange
from server.domain.sessions import heartbeat, renew
from server.domain.timeouts import PartialTimeoutConfig
from server.lifecycle.expiry import ExpiryScheduler
from server.lifecycle.watch import PAGE_ENTRIES, End, Item, Watch
from server.lifecycle.watches import Watches
from server.store.sqlite.store import SqliteStore
from tests.store.conformance.common import patch, say
from tests.support.realtime.echo_dispatcher import delivered, echo_dispatcher
from tests.unit.samples import MINUTE, T0, put, session

pytestmark = pytest.mark.sqlite

SESSIONS = 3
WATCHERS = 3


class World:
    """A server in this process, which can be restarted, and its watchers."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "store.db"
        self.clock = TestClock()
        self.clock.set_ms(T0)
        self.ids: list[str] = []
        self.calls: list[asyncio.Task[Any]] = []
        self.watchers = [Watcher(self) for _ in range(WATCHERS)]

    async def open(self) -> None:
        self.store = await SqliteStore.open(self.path, self.clock)
        self.signals = Watches()
        self.store.add_listener(self.signals.on_commit)
        self.dispatcher = echo_dispatcher(self.store, self.clock, self.signals)
        self.deadlines = ExpiryScheduler(self.store, self.clock)
        await self.store.seed_agent(Agent(ECHO_ID, "echo", AgentKind.ECHO, T0, T0))
        await self.deadlines.run_due()
        await self.dispatcher.start()

    async def close(self) -> None:
        """Ends the server; replies under way are given up, and asked for again at the next start."""
        self.signals.close()
        await self.store.close()
        await self.settle()
        await self.dispatcher.abandon()
        for watcher in self.watchers:
            with contextlib.suppress(UnavailableError):
                await watcher.read()
            watcher.disconnect()

    async def settle(self) -> None:
        """Waits for the calls under way."""
        for outcome in await asyncio.gather(*self.calls, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, DomainError):
                raise outcome
        self.calls.clear()

    async def log(self, session_id: str) -> list[Entry]:
        found: list[Entry] = []
        while page := await self.store.list_entries(
            session_id, after_sequence=len(found), limit=7, scope=EVERYTHING
        ):
            found += page
        return found

    def call(self, work: Coroutine[Any, Any, Any]) -> None:
        self.calls.append(asyncio.create_task(work))

    async def advance(self, by_ms: int) -> None:
        self.clock.set_ms(self.clock.now_ms() + by_ms)
        await self.deadlines.run_due()


class Watcher:
    """Follows all sessions, with interruptions, and keeps what it saw of each."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._watch: Watch | None = None
        self.seen: dict[str, list[Entry]] = {}
        self._ended: set[str] = set()

    async def connect(self) -> None:
        if self._watch is not None:
            return
        self._watch = Watch(self._world.store, self._world.signals, scope=EVERYTHING)
        self._ended.clear()
        for session_id in self._world.ids:
            seen = self.seen.setdefault(session_id, [])
            try:
                await self._watch.join(session_id, seen[-1].sequence if seen else 0)
            except SessionExpiredError:
                assert seen, "an expired session has something to tell"
                assert isinstance(seen[-1].event, Expiry)

    def disconnect(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    async def read(self, most: int | None = None) -> None:
        """Takes what there is to read; or `most` items of it, and is cut off then."""
        while self._watch is not None and (items := await self._watch.next(0)):
            assert len(items) <= PAGE_ENTRIES * 2 + 1000
            for item in items[:most]:
                self._take(item)
            if most is not None:
                self.disconnect()

    def _take(self, item: Item) -> None:
        if isinstance(item, End):
            assert item.error is None
            assert isinstance(self.seen[item.session_id][-1].event, Expiry)
            self._ended.add(item.session_id)
            return
        assert isinstance(item, tuple), "nothing is deleted here"
        told, event = item
        assert not isinstance(event, Abort), "the echo never fails"
        assert told.id == event.session_id
        assert told.id not in self._ended, "something comes after the end"
        seen = self.seen[told.id]
        if isinstance(event, Chunk):
            assert seen[event.answers - 1].message, "a chunk comes before the message that it answers"
            assert event.message_id not in {entry.message.id for entry in seen if entry.message}, (
                "a chunk comes after its reply"
            )
        else:
            assert event.sequence == len(seen) + 1, "a gap or a repeat"
            seen.append(event)


RULES = st.one_of(
    st.sampled_from(["hello", "two words", "three of them"]).map(lambda content: ("send", content)),
    st.just(("heartbeat", None)),
    st.just(("renew", None)),
    st.builds(
        dict,
        timeout_minutes=st.none() | st.sampled_from([5.0, 30.0, 60.0]),
        auto_renew=st.none() | st.booleans(),
        max_duration_minutes=st.none() | st.sampled_from([30.0, 90.0]),
        warning_threshold_minutes=st.none() | st.sampled_from([1.0, 5.0, 20.0]),
    ).map(lambda change: ("patch", change)),
)
MADE = {
    "send": say,
    "heartbeat": lambda _: heartbeat,
    "renew": lambda _: renew,
    "patch": lambda change: patch(**change),
}

ACTIONS = st.one_of(
    st.tuples(st.just("rule"), st.integers(0, SESSIONS - 1), RULES, st.booleans()),
    st.tuples(st.just("burst"), st.integers(0, SESSIONS - 1), st.integers(1, 120)),
    st.tuples(
        st.just("advance"), st.sampled_from([1, MINUTE, 4 * MINUTE, 5 * MINUTE, 24 * MINUTE, 25 * MINUTE])
    ),
    st.tuples(st.just("connect"), st.integers(0, WATCHERS - 1)),
    st.tuples(st.just("disconnect"), st.integers(0, WATCHERS - 1)),
    st.tuples(st.just("cut"), st.integers(0, WATCHERS - 1), st.integers(0, 5)),
    st.tuples(st.just("read"), st.integers(0, WATCHERS - 1)),
    st.tuples(st.just("wait")),
    st.tuples(st.just("restart"), st.sampled_from([0, 3 * MINUTE, 26 * MINUTE])),
)


async def play(actions: list[Any], directory: Path) -> None:
    world = World(directory)
    await world.open()
    try:
        for minutes in (5.0, 30.0, 60.0):
            new = session(
                T0, PartialTimeoutConfig(timeout_minutes=minutes, max_duration_minutes=90.0), agent_id=ECHO_ID
            )
            await put(world.store, new)
            world.ids.append(new.id)
        for action in actions:
            await act(world, action)
        await world.settle()
        await delivered(world.store)
        await world.deadlines.run_due()
        await check(world)
        # All expire in the end.
        await world.advance(24 * 60 * MINUTE)
        await check(world)
        for watcher in world.watchers:
            assert all(isinstance(entries[-1].event, Expiry) for entries in watcher.seen.values())
    finally:
        await world.close()


async def act(world: World, action: Any) -> None:
    match action:
        case ("rule", index, (name, given), wait):
            world.call(world.store.apply(world.ids[index], MADE[name](given), scope=EVERYTHING))
            if wait:
                await world.settle()
        case ("burst", index, count):
            for number in range(count):
                world.call(world.store.apply(world.ids[index], say(f"{number} of many"), scope=EVERYTHING))
        case ("advance", by_ms):
            await world.advance(by_ms)
        case ("connect", index):
            await world.watchers[index].connect()
        case ("disconnect", index):
            world.watchers[index].disconnect()
        case ("cut", index, most):
            await world.watchers[index].read(most)
        case ("read", index):
            await world.watchers[index].read()
        case ("wait",):
            await world.settle()
            await delivered(world.store)
        case ("restart", away_ms):
            await world.close()
            world.clock.set_ms(world.clock.now_ms() + away_ms)
            await world.open()


async def check(world: World) -> None:
    """Every watcher, once it has caught up, has seen the log; and the log is as it must be."""
    logs = {session_id: await world.log(session_id) for session_id in world.ids}
    for watcher in world.watchers:
        await watcher.connect()
        await watcher.read()
        assert watcher.seen == logs
    for session_id, log in logs.items():
        stored = await world.store.get_session(session_id, scope=EVERYTHING)
        assert [entry.sequence for entry in log] == list(range(1, stored.last_sequence + 1))
        assert all(before.at_ms < after.at_ms for before, after in pairwise(log))
        assert all(not isinstance(entry.event, Expiry) for entry in log[:-1]), "an entry behind the expiry"
        assert (
            stored.expiry_logged
            == bool(log and isinstance(log[-1].event, Expiry))
            == (world.clock.now_ms() >= stored.expires_at_ms)
        )
        assert stored.renewal_count == sum(entry.was_renewed for entry in log)
        warned = False
        for entry in log:
            if isinstance(entry.event, ExpirationWarning):
                assert not warned, "two warnings for one crossing"
                assert entry.is_near_expiration
                warned = True
            elif entry.was_renewed or isinstance(entry.event, TimeoutChange):
                warned = warned and entry.is_near_expiration and not entry.was_renewed
        assert stored.expiry_logged or stored.warning_logged == (world.clock.now_ms() >= stored.warn_at_ms), (
            "a warning is missing"
        )


@pytest.mark.parametrize("examples", [12, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_watcher_that_resumes_sees_the_log_once(examples: int) -> None:
    @settings(deadline=None, max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(st.lists(ACTIONS, min_size=5, max_size=40))
    def run(actions: list[Any]) -> None:
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(play(actions, Path(directory)))

    run()
