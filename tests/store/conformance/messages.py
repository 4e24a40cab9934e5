"""Messages, and the history that an agent is shown."""

import asyncio
import itertools
import json
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.log import Entry
from server.domain.messages import Draft, Reply
from server.domain.sessions import Session, heartbeat, send_message
from server.store.contract import PAGE_BYTES, Store
from server.store.values import MessagePage
from tests.store.conformance.common import (
    OnStore,
    answer,
    contents,
    give_up,
    history,
    on_one_store,
    patch,
    respond,
    say,
)
from tests.unit.samples import logged


class Messages(OnStore):
    async def test_every_page_of_messages_is_that_of_a_model(
        self, store: Store, one: Session, clock: TestClock
    ) -> None:
        entries = []
        for gap in (0, 0, 1, 3, 0, 2, 5):
            clock.set_ms(clock.now_ms() + gap)
            for rule in (say(), heartbeat, answer(Reply(Draft("r")))):
                entries += logged(await store.apply(one.id, rule, scope=EVERYTHING))
        messages = [entry for entry in entries if entry.message]
        assert len(messages) == 14
        instants = range(messages[0].at_ms - 1, messages[-1].at_ms + 2)
        for before, after in itertools.product([None, *instants], repeat=2):
            matching = [
                m
                for m in messages
                if (before is None or m.at_ms < before) and (after is None or m.at_ms > after)
            ]
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
        of, rules = (
            await self.added(store, clock.now_ms()),
            {"say": say(), "answer": answer(Reply(Draft("r"))), "heartbeat": heartbeat},
        )
        sent: list[Entry] = []
        for gap, name in steps:
            clock.set_ms(clock.now_ms() + gap)
            sent += [
                entry
                for entry in logged(await store.apply(of.id, rules[name], scope=EVERYTHING))
                if entry.message
            ]
        forward: list[Entry] = []
        while (
            page := await store.list_messages(of, limit=limit, after_ms=forward[-1].at_ms if forward else 0)
        ).has_more:
            assert len(page.messages) == limit
            forward += page.messages[::-1]
        assert forward + page.messages[::-1] == sent
        back: list[Entry] = []
        while (
            page := await store.list_messages(of, limit=limit, before_ms=back[-1].at_ms if back else None)
        ).has_more:
            assert len(page.messages) == limit
            back += page.messages
        assert (back + page.messages)[::-1] == sent

    async def test_messages_of_other_sessions_are_not_seen(self, store: Store, one: Session) -> None:
        other = await self.added(store)
        await store.apply(other.id, say(), scope=EVERYTHING)
        assert await store.list_messages(one, limit=5) == MessagePage([], False)

    @pytest.mark.parametrize(
        "size", [PAGE_BYTES // 10, PAGE_BYTES // 3, PAGE_BYTES // 2 + 20, PAGE_BYTES + 20]
    )
    @pytest.mark.parametrize("where", ["attachments", "content, thought and actions"])
    async def test_a_page_of_large_messages_stops_early(
        self, store: Store, one: Session, size: int, where: str
    ) -> None:
        if where == "attachments":
            text = "x" * (size - 10)
            rule = partial(send_message, message_id="m", draft=Draft("m", attachments=f'["{text}"]'))
        else:
            rule = answer(Reply(Draft("x" * 95_000), thought="x" * 95_000, actions=("x" * 970,) * 30))
            size = 95_000 * 2 + 1000 * 30
        sent = [(await store.apply(one.id, rule, scope=EVERYTHING)).entry for _ in range(5)]
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
        await asyncio.gather(*(store.apply(of.id, say(f"{n}"), scope=EVERYTHING) for n in range(100)))
        page = await store.list_messages(of, limit=100)
        assert page.has_more
        assert 55 <= len(page.messages) <= 65
        assert contents(await history(store, of)) == [f"{n}" for n in range(100)]

    async def test_a_page_stays_below_what_a_grpc_client_takes(self, store: Store) -> None:
        """At four bytes a character, and with what protobuf adds, which the bound leaves room for."""
        of = await self.added(store)
        text = "\U0001f600" * (PAGE_BYTES // 8)
        for _ in range(10):
            await store.apply(
                of.id, say("m", attachments=json.dumps([text], ensure_ascii=False)), scope=EVERYTHING
            )
        page = await store.list_messages(of, limit=100)
        assert (
            sum(len((entry.message.attachments or "").encode()) for entry in page.messages if entry.message)
            < 4 * 1024 * 1024
        )

    async def test_a_reply_stands_behind_what_it_answers(self, store: Store, one: Session) -> None:
        for content in ("a", "b", "c", "d"):
            await store.apply(one.id, say(content), scope=EVERYTHING)
        for sequence, content in ((1, "A"), (2, "B")):
            await store.apply_delivery(one.id, sequence, respond(content), scope=EVERYTHING)
        assert contents(await store.list_history(one, before_sequence=3, limit=10)) == ["a", "A", "b", "B"]
        assert contents(await store.list_history(one, before_sequence=4, limit=10)) == [
            "a",
            "A",
            "b",
            "B",
            "c",
        ]
        assert contents(await store.list_history(one, before_sequence=3, limit=3)) == ["A", "b", "B"]
        assert await store.list_history(one, before_sequence=1, limit=0) == []
        other = await self.added(store)
        assert await store.list_history(other, before_sequence=9, limit=9) == []
        assert [
            await store.count_history(one, before_sequence=before, limit=10) for before in (1, 3, 4, 9)
        ] == [0, 4, 5, 6]
        assert await store.count_history(one, before_sequence=9, limit=3) == 3
        assert await store.count_history(other, before_sequence=9, limit=9) == 0

    async def test_what_is_no_message_and_what_had_no_reply(self, store: Store, one: Session) -> None:
        await store.apply(one.id, say("a"), scope=EVERYTHING)
        await store.apply(one.id, heartbeat, scope=EVERYTHING)
        await store.apply_delivery(one.id, 1, give_up, scope=EVERYTHING)
        await store.apply(one.id, patch(timeout_minutes=60.0), scope=EVERYTHING)
        last = (await store.apply(one.id, say("b"), scope=EVERYTHING)).session.last_sequence
        assert contents(await store.list_history(one, before_sequence=last, limit=10)) == ["a"]
        # The late reply to what had failed goes to its place all the same.
        await store.apply_delivery(one.id, 1, respond("A"), scope=EVERYTHING)
        assert contents(await store.list_history(one, before_sequence=last, limit=10)) == ["a", "A"]
        assert await store.count_history(one, before_sequence=last, limit=10) == 2

    async def test_a_reply_to_a_later_message_does_not_belong_before(
        self, store: Store, one: Session
    ) -> None:
        """One that came by AgentService.Reply, out of turn."""
        for content in ("a", "b"):
            await store.apply(one.id, say(content), scope=EVERYTHING)
        await store.apply_delivery(one.id, 2, respond("B"), scope=EVERYTHING)
        assert contents(await store.list_history(one, before_sequence=1, limit=10)) == []
        await store.apply_delivery(one.id, 1, respond("A"), scope=EVERYTHING)
        assert contents(await store.list_history(one, before_sequence=2, limit=10)) == ["a", "A"]

    async def test_a_history_of_large_messages_stops_early(self, store: Store, one: Session) -> None:
        text = json.dumps(["x" * (PAGE_BYTES // 3)])
        for n in range(5):
            await store.apply(one.id, say(f"{n}", attachments=text), scope=EVERYTHING)
        assert contents(await store.list_history(one, before_sequence=6, limit=10)) == ["3", "4"]
        await store.apply(one.id, say("large", attachments=json.dumps(["x" * PAGE_BYTES])), scope=EVERYTHING)
        assert contents(await store.list_history(one, before_sequence=7, limit=10)) == ["large"]
        assert await store.count_history(one, before_sequence=7, limit=10) == 6
