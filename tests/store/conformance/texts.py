"""Texts and numbers come back as they went in."""

import json
import uuid
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.agents import Agent, AgentKind
from server.domain.messages import AgentMessage, Draft, Reply
from server.domain.sessions import Session, due_at_ms, send_message
from server.domain.timeouts import PartialTimeoutConfig, TimeoutConfig
from server.store.contract import Store
from tests.store.conformance.common import OnStore, answer, history, on_one_store, patch, say
from tests.unit.samples import T0, TEXT, answering


class Texts(OnStore):
    @given(TEXT.filter(bool), TEXT, TEXT, st.none() | TEXT, st.lists(TEXT, max_size=3))
    @on_one_store
    async def test_text_is_kept_as_it_is(
        self, store: Store, content: str, key: str, value: str, thought: str | None, actions: list[str]
    ) -> None:
        for ascii_only in (True, False):
            metadata = json.dumps({key: value, "n": [1.5, None, True]}, ensure_ascii=ascii_only)
            of = await self.added(store, metadata=metadata)
            draft = Draft(content, metadata, json.dumps([value], ensure_ascii=ascii_only))
            first = await store.apply(
                of.id, partial(send_message, message_id="m1", draft=draft), scope=EVERYTHING
            )
            second = await store.apply(
                of.id, answering(Reply(draft, thought, tuple(actions)), "m2"), scope=EVERYTHING
            )
            assert await store.get_session(of.id, scope=EVERYTHING) == second.session
            assert second.session.metadata == metadata
            messages = [entry.message for entry in await history(store, of)]
            assert messages == [first.entry.message, second.entry.message]
            assert messages[1] == AgentMessage(
                "m2", content, metadata, draft.attachments, thought, tuple(actions), answers=1
            )

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
    async def test_text_that_databases_stumble_over_is_kept(
        self, store: Store, one: Session, text: str
    ) -> None:
        metadata = json.dumps({text[:2000]: text[:400]}, ensure_ascii=False)
        await store.apply(one.id, say(text, metadata=metadata), scope=EVERYTHING)
        (entry,) = (await store.list_messages(one, limit=1)).messages
        assert entry.message is not None
        assert (entry.message.content, entry.message.metadata) == (text, metadata)

    async def test_a_nul_in_what_an_agent_says_beside_its_content_is_left_out(
        self, store: Store, one: Session
    ) -> None:
        """It is left out, and nothing else with it."""
        await store.apply(one.id, answer(Reply(Draft("hi"), "a\0b", ("c\0d",))), scope=EVERYTHING)
        (entry,) = (await store.list_messages(one, limit=1)).messages
        assert entry.message is not None
        assert (entry.message.thought, entry.message.actions) == ("ab", ("cd",))

    async def test_metadata_is_not_rebuilt(self, store: Store) -> None:
        text = '{ "a" : 1.0, "a": 1e2, "\\u0041": "\\/", "big": 123456789012345678901234567890 }'
        of = await self.added(store, metadata=text)
        await store.apply(of.id, say(metadata=text, attachments=f"[{text}]"), scope=EVERYTHING)
        (entry,) = (await store.list_messages(of, limit=1)).messages
        assert entry.message is not None
        assert (entry.message.metadata, entry.message.attachments) == (text, f"[{text}]")
        assert (await store.get_session(of.id, scope=EVERYTHING)).metadata == text

    async def test_attachments_of_two_mebibytes_are_kept(self, store: Store, one: Session) -> None:
        text = '["' + "é\\n" * ((2 * 1024 * 1024 - 4) // 4) + '"]'
        results = await self.together(
            store, [store.apply(one.id, say(attachments=text), scope=EVERYTHING) for _ in range(5)]
        )
        assert [result.entry.sequence for result in results] == [1, 2, 3, 4, 5]
        assert all(entry.message and entry.message.attachments == text for entry in await history(store, one))

    @given(st.floats(5, 1440), st.floats(1440, 2880), st.floats(1, 1e6))
    @on_one_store
    async def test_minutes_are_kept_to_the_last_bit(
        self, store: Store, timeout: float, duration: float, warning: float
    ) -> None:
        asked = PartialTimeoutConfig(timeout, True, duration, warning)
        of = await self.added(store, T0, asked)
        assert (await store.get_session(of.id, scope=EVERYTHING)).timeout == TimeoutConfig(
            timeout, True, duration, warning
        )
        outcome = await store.apply(
            of.id, patch(warning_threshold_minutes=duration, timeout_minutes=timeout), scope=EVERYTHING
        )
        assert await store.get_session(of.id, scope=EVERYTHING) == outcome.session
        new = Agent(str(uuid.uuid4()), "a", AgentKind.ECHO, T0, T0, asked)
        await store.create_agent(new)
        assert await store.get_agent(new.id, scope=EVERYTHING) == new

    @pytest.mark.parametrize("ms", [-(10**14), -1, 0, 2**31, 2**53 + 1, 4 * 10**15 + 1])
    async def test_instants_near_and_far_are_kept(self, store: Store, clock: TestClock, ms: int) -> None:
        clock.set_ms(ms)
        of = await self.added(store, ms)
        outcome = await store.apply(of.id, say(), scope=EVERYTHING)
        assert await store.get_session(of.id, scope=EVERYTHING) == outcome.session
        assert (await store.list_messages(of, limit=1)).messages == [outcome.entry]
        assert await store.next_due_ms() == due_at_ms(outcome.session)
