"""The Watch itself, in this process."""

import asyncio
import json
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from server.clock import TestClock
from server.domain import replies
from server.domain.access import EVERYTHING
from server.domain.agents import ECHO_ID
from server.domain.deliveries import RetryPolicy
from server.domain.errors import (
    InvalidFieldError,
    OverloadedError,
    SessionExpiredError,
    SessionNotFoundError,
    UnavailableError,
)
from server.domain.log import (
    Abort,
    Chunk,
    Entry,
)
from server.domain.messages import Draft, Reply
from server.domain.replies import fail
from server.domain.sessions import (
    Session,
    send_message,
    update_timeout,
)
from server.domain.timeouts import NOTHING_NAMED
from server.lifecycle import watch as watch_module
from server.lifecycle.expiry import ExpiryScheduler
from server.lifecycle.pieces import PIECES_APART, WAITING_CHUNKS, WAITING_CODE_POINTS
from server.lifecycle.watch import PAGE_ENTRIES, SMALL_BYTES, Deleted, End, Watch
from server.lifecycle.watches import WAKES_PER_TURN, Watches
from server.rpc.sending import MAX_UNREAD_BYTES, Sending
from server.store.calls import answer
from server.store.sqlite import writer
from server.store.sqlite.store import SqliteStore
from tests.store.conformance.common import say
from tests.support.realtime.echo_dispatcher import ECHO_AGENT, delivered, echo_dispatcher
from tests.support.waiting import PATIENCE_SECONDS
from tests.unit.samples import MINUTE, POLICY, T0, logged, put, session

pytestmark = pytest.mark.sqlite


class TestWatch:
    @pytest.fixture
    def signals(self, store: SqliteStore) -> Watches:
        signals = Watches()
        store.add_listener(signals.on_commit)
        return signals

    @pytest.fixture
    def watch(self, store: SqliteStore, signals: Watches) -> Watch:
        return Watch(store, signals, scope=EVERYTHING)

    @staticmethod
    async def all(watch: Watch) -> list[object]:
        """All that there is to tell now."""
        # Watches are woken in the next turn of the loop.
        await asyncio.sleep(0)
        found: list[object] = []
        while items := await watch.next(0):
            found += [item[1] if isinstance(item, tuple) else item for item in items]
        return found

    @staticmethod
    def chunk(of: Session, answers: int, index: int = 0, attempt: int = 1, after: int | None = None) -> Chunk:
        """A piece of an attempt that began `after` a sequence; None: that of the message."""
        after = answers if after is None else after
        return Chunk(
            of.id, of.agent_id, f"reply {answers} {attempt}", f"{index} ", index, answers, attempt, after
        )

    @staticmethod
    def abort(of: Session, answers: int, attempt: int = 1) -> Abort:
        return Abort(of.id, of.agent_id, f"reply {answers} {attempt}", answers, attempt, answers)

    async def test_more_than_a_page_is_read_to_its_end(
        self, store: SqliteStore, one: Session, watch: Watch
    ) -> None:
        await asyncio.gather(
            *(store.apply(one.id, say(f"{n}"), scope=EVERYTHING) for n in range(2 * PAGE_ENTRIES + 1))
        )
        await watch.join(one.id, 0)
        assert [getattr(entry, "sequence", None) for entry in await self.all(watch)] == list(
            range(1, 2 * PAGE_ENTRIES + 2)
        )

    async def test_a_reader_that_waits_is_woken(self, store: SqliteStore, one: Session, watch: Watch) -> None:
        await watch.join(one.id, None)
        waiting = asyncio.create_task(watch.next(600))
        outcome = await store.apply(one.id, say(), scope=EVERYTHING)
        assert await waiting == [(one, outcome.entry)]

    async def test_a_reader_that_waits_is_woken_by_the_end_of_the_service(
        self, one: Session, watch: Watch, signals: Watches
    ) -> None:
        await watch.join(one.id, None)
        waiting = asyncio.create_task(watch.next(600))
        await asyncio.sleep(0)
        signals.close()
        with pytest.raises(UnavailableError):
            await waiting

    async def test_a_watch_that_is_closed_is_forgotten(
        self, store: SqliteStore, one: Session, watch: Watch
    ) -> None:
        await watch.join(one.id, 0)
        watch.close()
        await store.apply(one.id, say(), scope=EVERYTHING)
        assert await self.all(watch) == []
        assert not watch.leave(one.id)

    async def test_what_cannot_be_joined_is_refused(
        self, store: SqliteStore, one: Session, watch: Watch, clock: TestClock
    ) -> None:
        for after in (-1, 1):
            with pytest.raises(InvalidFieldError):
                await watch.join(one.id, after)
        with pytest.raises(SessionNotFoundError):
            await watch.join("nobody", 0)
        clock.set_ms(T0 + 31 * MINUTE)
        await ExpiryScheduler(store, clock).run_due()
        for after in (None, 1):
            with pytest.raises(SessionExpiredError):
                await watch.join(one.id, after)

    async def test_chunks_find_their_place_however_late_the_reader_comes(
        self, store: SqliteStore, one: Session, watch: Watch, signals: Watches
    ) -> None:
        await watch.join(one.id, 0)
        await store.apply(one.id, say("first"), scope=EVERYTHING)
        signals.piece(self.chunk(one, 1))
        await store.apply(one.id, say("second"), scope=EVERYTHING)
        signals.piece(self.chunk(one, 2))
        assert [type(event) for event in await self.all(watch)] == [Entry, Chunk, Entry, Chunk]
        signals.piece(self.chunk(one, 2, 1))
        assert await self.all(watch) == [self.chunk(one, 2, 1)]

    async def test_the_end_of_a_reply_comes_before_the_chunks_of_the_next(
        self,
        store: SqliteStore,
        one: Session,
        watch: Watch,
        signals: Watches,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Also to a reader who is behind: it has read both messages, and not yet that there is no reply to
        the first.
        """
        monkeypatch.setattr(watch_module, "PAGE_ENTRIES", 2)
        await watch.join(one.id, 0)
        asked = [(await store.apply(one.id, say(), scope=EVERYTHING)).entry for _ in range(2)]
        rule = partial(
            fail, message_id="first", reason="why", final=True, backoff_ms=1, policy=RetryPolicy(1, 1, 1)
        )
        failure = (await store.apply_delivery(one.id, 1, rule, scope=EVERYTHING)).entry
        chunk = self.chunk(one, 2, after=failure.sequence)
        signals.piece(chunk)
        assert await self.all(watch) == [*asked, failure, chunk]

    async def test_the_oldest_of_too_many_chunks_are_let_go(
        self, store: SqliteStore, one: Session, watch: Watch, signals: Watches
    ) -> None:
        await watch.join(one.id, 0)
        outcome = await store.apply(one.id, say(), scope=EVERYTHING)
        # Of one reply they would be put together.
        for answers in range(WAITING_CHUNKS + 5):
            signals.piece(self.chunk(one, answers, after=1))
        entry, *chunks = await self.all(watch)
        assert entry == outcome.entry
        assert chunks == [self.chunk(one, answers, after=1) for answers in range(5, WAITING_CHUNKS + 5)]

    async def test_the_oldest_of_too_much_text_is_let_go(
        self, store: SqliteStore, one: Session, watch: Watch, signals: Watches
    ) -> None:
        await watch.join(one.id, 0)
        outcome = await store.apply(one.id, say(), scope=EVERYTHING)
        chunks = [
            replace(self.chunk(one, answers, after=1), text="x" * (WAITING_CODE_POINTS // 4))
            for answers in range(6)
        ]
        for chunk in chunks:
            signals.piece(chunk)
        assert await self.all(watch) == [outcome.entry, *chunks[2:]]

    async def test_chunks_are_put_together_where_many_wait_for_all_who_watch(
        self, store: SqliteStore, one: Session, watch: Watch, signals: Watches
    ) -> None:
        slow, late = Watch(store, signals, scope=EVERYTHING), Watch(store, signals, scope=EVERYTHING)
        for early in (watch, slow):
            await early.join(one.id, 0)
        asked = (await store.apply(one.id, say(), scope=EVERYTHING)).entry
        apart = [self.chunk(one, 1, index) for index in range(PIECES_APART)]
        for index in range(PIECES_APART + 2):
            signals.piece(self.chunk(one, 1, index))
        # The last that waits apart, and those after it.
        together = replace(apart[-1], text=f"{PIECES_APART - 1} {PIECES_APART} {PIECES_APART + 1} ")
        first = [asked, *apart[:-1], together]
        assert await self.all(watch) == first
        signals.piece(self.chunk(one, 1, 20))
        await late.join(one.id, None)
        rest = [self.chunk(one, 1, index) for index in range(21, 21 + PIECES_APART)]
        for chunk in rest:
            signals.piece(chunk)
        assert await self.all(late) == rest
        assert await self.all(watch) == [self.chunk(one, 1, 20), *rest]
        assert await self.all(slow) == [*first, self.chunk(one, 1, 20), *rest]
        for index in range(PIECES_APART):
            signals.piece(self.chunk(one, 1, index))
        signals.piece(self.chunk(one, 1, 0, attempt=2))
        second = self.chunk(one, 1, 0, attempt=2)
        assert (await self.all(watch))[-3:] == [apart[-1], self.abort(one, 1), second]

    @pytest.mark.parametrize("sends_pieces", [True, False])
    async def test_told_chunks_are_taken_back_where_their_server_cannot_say_so(
        self, store: SqliteStore, one: Session, watch: Watch, signals: Watches, sends_pieces: bool
    ) -> None:
        await watch.join(one.id, 0)
        asked = (await store.apply(one.id, say(), scope=EVERYTHING)).entry
        signals.piece(self.chunk(one, 1))
        assert await self.all(watch) == [asked, self.chunk(one, 1)]
        second = [self.chunk(one, 1, attempt=2)] * sends_pieces
        for chunk in second:
            signals.piece(chunk)
        rule = partial(replies.answer, reply_id="reply 1 2", reply=Reply(Draft("text")))
        replied = (await store.apply_delivery(one.id, 1, rule, scope=EVERYTHING)).entry
        assert await self.all(watch) == [self.abort(one, 1), *second, replied]

    async def test_many_are_woken_some_at_a_time_however_much_there_is_to_tell(
        self, store: SqliteStore, one: Session, signals: Watches
    ) -> None:
        other = (await put(store, one._replace(id="other", channel_id="other channel"))).session
        crowd = [Watch(store, signals, scope=EVERYTHING) for _ in range(10 * WAKES_PER_TURN)]
        alone = Watch(store, signals, scope=EVERYTHING)
        await asyncio.gather(*(watch.join(one.id, None) for watch in crowd), alone.join(other.id, None))
        for watch in (*crowd, alone):
            assert await self.all(watch) == []
        for index in range(500):
            signals.piece(self.chunk(one, 0, index))
        signals.piece(self.chunk(other, 0))
        counts = [0]
        while counts[-1] < len(crowd) + 1:
            await asyncio.sleep(0)
            counts.append(sum(watch.is_woken for watch in (*crowd, alone)))
            # One who watches another session does not wait for the crowd.
            assert alone.is_woken
        assert max(after - before for before, after in pairwise(counts)) <= WAKES_PER_TURN
        for watch in crowd:
            told = await self.all(watch)
            assert len(told) == PIECES_APART
            assert "".join(getattr(chunk, "text", "") for chunk in told).split() == [
                str(index) for index in range(500)
            ]

    async def test_what_is_large_waits_for_room_and_holds_up_nothing_else(
        self, store: SqliteStore, one: Session, signals: Watches
    ) -> None:
        other = (await put(store, one._replace(id="other", channel_id="other channel"))).session
        large = Draft("large", "{}", json.dumps(["x" * SMALL_BYTES]))
        await store.apply(one.id, partial(send_message, message_id="large", draft=large), scope=EVERYTHING)
        await store.apply(one.id, say("behind it"), scope=EVERYTHING)
        sending = Sending()
        watch = Watch(store, signals, sending, scope=EVERYTHING)
        sending.reserve("somebody else", MAX_UNREAD_BYTES)
        await watch.join(one.id, 0)
        await watch.join(other.id, 0)
        assert await self.all(watch) == []
        (small,) = logged(await store.apply(other.id, say("small"), scope=EVERYTHING))
        assert await self.all(watch) == [small]
        waiting = asyncio.create_task(watch.next(PATIENCE_SECONDS))
        await asyncio.sleep(0)
        sending.release("somebody else")
        ((_, first),) = await waiting
        assert first.message.content == "large"
        # It counts until it is sent.
        sending.reserve("all but a byte", MAX_UNREAD_BYTES - 1)
        assert sending.is_full
        sending.release("all but a byte")
        assert [entry.message.content for entry in await self.all(watch)] == ["behind it"]
        watch.close()
        sending.reserve("all but a byte", MAX_UNREAD_BYTES - 1)
        assert not sending.is_full

    async def test_what_comes_while_some_are_woken_reaches_all(
        self, store: SqliteStore, one: Session, signals: Watches
    ) -> None:
        crowd = [Watch(store, signals, scope=EVERYTHING) for _ in range(3 * WAKES_PER_TURN)]
        await asyncio.gather(*(watch.join(one.id, None) for watch in crowd))
        readers = [asyncio.create_task(self.until(watch, "9 ")) for watch in crowd]
        for index in range(10):
            signals.piece(self.chunk(one, 0, index))
            await asyncio.sleep(0)
        told = await asyncio.gather(*readers)
        assert {"".join(texts) for texts in told} == {"0 1 2 3 4 5 6 7 8 9 "}

    @staticmethod
    async def until(watch: Watch, end: str) -> list[str]:
        """The texts of the chunks that are told, up to one with this end."""
        texts: list[str] = []
        while not texts or not texts[-1].endswith(end):
            texts += [
                item[1].text
                for item in await watch.next(PATIENCE_SECONDS)
                if isinstance(item, tuple) and isinstance(item[1], Chunk)
            ]
        return texts

    async def test_a_deletion_ends_it(self, store: SqliteStore, one: Session, watch: Watch) -> None:
        await watch.join(one.id, 0)
        await store.delete_session(one.id, scope=EVERYTHING)
        deleted, end = await self.all(watch)
        assert deleted == Deleted(one.id)
        assert isinstance(end, End)
        assert isinstance(end.error, SessionNotFoundError)

    async def test_an_expired_session_is_deleted_under_a_watch_that_has_not_read_it(
        self, store: SqliteStore, clock: TestClock, one: Session, watch: Watch
    ) -> None:
        await store.apply(one.id, say(), scope=EVERYTHING)
        clock.set_ms(T0 + 31 * MINUTE)
        await ExpiryScheduler(store, clock).run_due()
        await watch.join(one.id, 0)
        await store.delete_session(one.id, scope=EVERYTHING)
        assert list(map(type, await self.all(watch))) == [Deleted, End]

    @pytest.mark.parametrize("left", [0, 1])
    async def test_a_session_that_the_purge_takes_was_not_deleted(
        self, store: SqliteStore, clock: TestClock, one: Session, watch: Watch, left: int
    ) -> None:
        """Wholly, or all but its last entry."""
        await store.apply(one.id, say(), scope=EVERYTHING)
        clock.set_ms(T0 + 31 * MINUTE)
        await ExpiryScheduler(store, clock).run_due()
        await watch.join(one.id, 0)
        while len(await store.list_entries(one.id, after_sequence=0, limit=10, scope=EVERYTHING)) > left:
            assert await store.purge(clock.now_ms(), 1)
        (end,) = await watch.next(PATIENCE_SECONDS)
        assert isinstance(end, End)
        assert isinstance(end.error, SessionNotFoundError)

    async def test_a_deletion_that_is_seen_before_it_is_told_is_one(
        self,
        store: SqliteStore,
        clock: TestClock,
        one: Session,
        watch: Watch,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A reader that is behind may find nothing while the writer, which is a thread, has yet to tell."""
        await store.apply(one.id, say("hello"), scope=EVERYTHING)
        await watch.join(one.id, 0)
        held: list[tuple[Any, ...]] = []
        monkeypatch.setattr(writer, "answer", lambda *told: held.append(told))
        call = asyncio.create_task(store.delete_session(one.id, scope=EVERYTHING))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not held:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.001)
        watch.wake(one.id)
        reading = asyncio.create_task(watch.next(PATIENCE_SECONDS))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(held) < 2:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.001)
        assert not reading.done()
        for told in held:
            answer(*told)
        assert list(map(type, await reading)) == [Deleted, End]
        await call

    async def test_a_deletion_while_it_is_joined_is_told(
        self, store: SqliteStore, one: Session, watch: Watch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read = store.get_session

        async def read_and_delete(session_id: str, **named: Any) -> Session:
            found = await read(session_id, **named)
            await store.delete_session(session_id, scope=EVERYTHING)
            return found

        monkeypatch.setattr(store, "get_session", read_and_delete)
        await watch.join(one.id, 0)
        assert list(map(type, await self.all(watch))) == [Deleted, End]

    async def test_a_reader_that_is_cancelled_at_the_end_hears_of_it_when_it_comes_again(
        self, store: SqliteStore, clock: TestClock, one: Session, watch: Watch
    ) -> None:
        await store.apply(one.id, say(), scope=EVERYTHING)
        clock.set_ms(T0 + 31 * MINUTE)
        await ExpiryScheduler(store, clock).run_due()
        await watch.join(one.id, 0)
        while await store.purge(clock.now_ms(), 1000):
            pass
        reading = asyncio.create_task(watch.next(PATIENCE_SECONDS))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert list(map(type, await watch.next(PATIENCE_SECONDS))) == [End]

    async def test_void_chunks_are_not_told_and_told_ones_are_taken_back(
        self, store: SqliteStore, one: Session, watch: Watch, signals: Watches
    ) -> None:
        await watch.join(one.id, 0)
        asked = (await store.apply(one.id, say(), scope=EVERYTHING)).entry
        signals.piece(self.chunk(one, 1, 0))
        assert await self.all(watch) == [asked, self.chunk(one, 1, 0)]
        signals.piece(self.chunk(one, 1, 1))
        signals.piece(self.abort(one, 1))
        signals.piece(self.chunk(one, 1, 0, attempt=2))
        signals.piece(self.abort(one, 1, 2))
        signals.piece(self.chunk(one, 1, 0, attempt=3))
        assert await self.all(watch) == [self.abort(one, 1), self.chunk(one, 1, 0, attempt=3)]
        signals.piece(self.abort(one, 1, 3))
        assert await self.all(watch) == [self.abort(one, 1, 3)]

    async def test_an_abort_outlasts_more_chunks_than_are_kept(
        self, store: SqliteStore, one: Session, watch: Watch, signals: Watches
    ) -> None:
        await watch.join(one.id, 0)
        await store.apply(one.id, say(), scope=EVERYTHING)
        signals.piece(self.chunk(one, 1))
        await self.all(watch)
        signals.piece(self.abort(one, 1))
        for attempt in range(2, WAITING_CHUNKS + 5):
            signals.piece(self.chunk(one, 1, 0, attempt))
            signals.piece(self.abort(one, 1, attempt))
        signals.piece(self.chunk(one, 1, 0, 0))
        assert await self.all(watch) == [self.abort(one, 1), self.chunk(one, 1, 0, 0)]

    async def test_an_abort_waits_for_the_message_and_comes_before_what_follows(
        self, store: SqliteStore, one: Session, watch: Watch, signals: Watches
    ) -> None:
        await watch.join(one.id, 0)
        entries = [(await store.apply(one.id, say(f"{n}"), scope=EVERYTHING)).entry for n in range(3)]
        signals.piece(self.chunk(one, 1))
        signals.piece(self.chunk(one, 2))
        signals.piece(self.abort(one, 2))
        assert await self.all(watch) == [
            entries[0],
            self.chunk(one, 1),
            entries[1],
            self.abort(one, 2),
            entries[2],
        ]

    async def test_a_deletion_ends_it_where_chunks_wait_for_a_message_that_is_gone(
        self, store: SqliteStore, clock: TestClock, one: Session, watch: Watch, signals: Watches
    ) -> None:
        await store.seed_agent(ECHO_AGENT)
        echo_dispatcher(store, clock, signals)
        await watch.join(one.id, 0)
        await store.apply(one.id, say("a b c"), scope=EVERYTHING)
        await delivered(store)
        await store.delete_session(one.id, scope=EVERYTHING)
        told = await self.all(watch)
        assert [type(event) for event in told] == [Deleted, End], told

    async def test_a_hint_without_news_tells_nothing(
        self, store: SqliteStore, one: Session, signals: Watches, watch: Watch
    ) -> None:
        await watch.join(one.id, 0)
        sent = await store.apply(one.id, say(), scope=EVERYTHING)
        assert await self.all(watch) == [sent.entry]
        signals.changed([one.id, "a session that nobody watches"])
        assert await self.all(watch) == []

    async def test_nothing_named_makes_no_entry_and_wakes_nobody(
        self, store: SqliteStore, one: Session, watch: Watch
    ) -> None:
        await watch.join(one.id, 0)
        await store.apply(
            one.id, partial(update_timeout, change=NOTHING_NAMED, policy=POLICY), scope=EVERYTHING
        )
        assert await self.all(watch) == []


async def test_one_watch_follows_only_so_many_sessions(
    store: SqliteStore, one: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "MAX_JOINED", 1)
    other = session(T0, agent_id=ECHO_ID)
    await put(store, other)
    with closing(Watch(store, Watches(), scope=EVERYTHING)) as watch:
        await watch.join(one.id, None)
        with pytest.raises(OverloadedError):
            await watch.join(other.id, None)
        # What it follows already it may join anew, and what it leaves makes room.
        await watch.join(one.id, 0)
        watch.leave(one.id)
        assert (await watch.join(other.id, None)).id == other.id
