"""Answers that are bytes already: the same as protobuf would make of them, each made once, and kept within
bounds.
"""

import asyncio
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

from eliza.sessions.v1 import agent_service_pb2, log_pb2, message_service_pb2, session_service_pb2
from server.domain.log import (
    Chunk,
    Entry,
    Event,
    ExpirationWarning,
    Expiry,
    Renewal,
    ReplyFailure,
    TimeoutChange,
)
from server.domain.messages import AgentMessage, UserMessage
from server.domain.sessions import Session
from server.domain.timeouts import TimeoutConfig
from server.rpc import encoding, to_proto
from server.rpc.encoding import Entries, in_slices, join

TIMEOUT = TimeoutConfig(30, True, 720, 5)
SESSION = Session(
    "s", "c", "a", "u", '{"plan":"é\u2028"}', TIMEOUT, 0, 0, 0, 1_800_000, 0, False, False, 0, 0
)
MESSAGE = UserMessage("m", "hi", '{"own":[1,{}]}', '[{"x":1}]')
REPLY = AgentMessage("r", "ho", "{}", None, "a thought", ("GO",), answers=1)


def entry(sequence: int, event: Event) -> Entry:
    return Entry("s", sequence, 1000 + sequence, event, 1_800_000, 0, True, False)


ENTRIES = [
    entry(1, MESSAGE),
    entry(2, REPLY),
    entry(3, Renewal()),
    entry(4, TimeoutChange(TIMEOUT)),
    entry(5, ExpirationWarning()),
    entry(6, ReplyFailure("m", 1, "why", 3, "r")),
    entry(7, Expiry()),
]
CHUNK = Chunk("s", "a", "r", "text ", 3, 1, 1, 1)
ANSWERS = [session_service_pb2.WatchSessionResponse, session_service_pb2.WatchSessionsResponse]


def whole(one: Entry, as_text: bool) -> log_pb2.LogEntry:
    made = to_proto.entry_head(one)
    if one.message:
        made.message.CopyFrom(to_proto.message(SESSION, one, one.message, as_text))
    return made


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("answer", ANSWERS)
def test_entries_and_chunks_are_encoded_as_protobuf_would(answer: Any, as_text: bool) -> None:
    entries = Entries()
    for one in (*ENTRIES, *ENTRIES):
        raw = entries.encode_entry(answer, SESSION, one, as_text)
        assert answer.FromString(raw) == answer(entry=whole(one, as_text))
    assert answer.FromString(entries.encode_chunk(answer, CHUNK)) == answer(chunk=to_proto.chunk(CHUNK))
    part = message_service_pb2.ConverseResponse.FromString(entries.encode_reply(SESSION, ENTRIES[1], as_text))
    assert part.reply == to_proto.message(SESSION, ENTRIES[1], REPLY, as_text)


def test_large_entries_are_encoded_as_protobuf_would() -> None:
    large = ENTRIES[0]._replace(event=MESSAGE._replace(attachments=f'["{"x" * 300_000}"]'))
    answer = ANSWERS[0].FromString(Entries().encode_entry(ANSWERS[0], SESSION, large, False))
    assert answer.entry == whole(large, False)


def test_each_is_made_once_in_each_form_however_many_are_told() -> None:
    entries = Entries()
    with (
        mock.patch.object(to_proto, "message", wraps=to_proto.message) as messages,
        mock.patch.object(to_proto, "entry_head", wraps=to_proto.entry_head) as heads,
        mock.patch.object(to_proto, "chunk", wraps=to_proto.chunk) as chunks,
    ):
        for _ in range(50):
            for answer in ANSWERS:
                for as_text in (False, True):
                    for one in ENTRIES:
                        # As each reader gets it from the store.
                        entries.encode_entry(answer, SESSION, one._replace(), as_text)
                    entries.encode_reply(SESSION, ENTRIES[1], as_text)
                entries.encode_chunk(answer, replace(CHUNK))
    assert (messages.call_count, heads.call_count, chunks.call_count) == (4, 2 * len(ENTRIES), 1)


def test_another_session_another_sequence_and_a_longer_chunk_are_others() -> None:
    entries = Entries()
    other = SESSION._replace(id="t", metadata='{"plan":"another"}')
    for session, one in (
        (SESSION, ENTRIES[0]),
        (other, ENTRIES[0]._replace(session_id="t")),
        (SESSION, entry(8, MESSAGE)),
    ):
        answer = ANSWERS[0].FromString(entries.encode_entry(ANSWERS[0], session, one, True))
        assert (answer.entry.session_id, answer.entry.sequence) == (session.id, one.sequence)
        assert session.metadata[2:9] in answer.entry.message.metadata_json
    for text in ("a", "ab", "a"):
        assert (
            ANSWERS[0].FromString(entries.encode_chunk(ANSWERS[0], replace(CHUNK, text=text))).chunk.chunk
            == text
        )


def test_what_is_kept_has_a_bound_in_bytes() -> None:
    entries = Entries(kept_bytes=10_000)
    cached = entries._kept
    for number in range(1, 500):
        one = entry(number, MESSAGE._replace(content="x" * (number % 5) * 900))
        assert (
            ANSWERS[0].FromString(entries.encode_entry(ANSWERS[0], SESSION, one, True)).entry.sequence
            == number
        )
        kept = sum(len(head) + len(message) for head, message in cached.values())
        assert kept <= 10_000
        assert len(cached) <= 20
    # The latest are there, and one that is larger than all the room is not kept.
    last = next(reversed(cached))
    assert last[1] == 499
    entries.encode_entry(ANSWERS[0], SESSION, entry(500, MESSAGE._replace(content="x" * 20_000)), True)
    assert not cached
    assert entries._room == 10_000


async def test_a_page_is_made_a_little_at_a_time() -> None:
    loop = asyncio.get_running_loop()
    turns, now_s = 0, 0.0

    def count() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(count)

    made = []
    loop.call_soon(count)
    with mock.patch.object(loop, "time", side_effect=lambda: now_s):
        async for number in in_slices(range(100)):
            now_s += encoding.SLICE_SECONDS / 2
            made.append(number)
    assert made == list(range(100))
    assert turns > 40


def test_repeated_messages_are_joined_to_the_rest() -> None:
    rest = message_service_pb2.ListMessagesResponse(has_more=True, next_page_token="t")
    made = [to_proto.message(SESSION, one, one.message, True) for one in ENTRIES[:2] if one.message]
    joined = message_service_pb2.ListMessagesResponse.FromString(
        join(rest, {"messages": [one.SerializeToString() for one in made]})
    )
    assert joined == message_service_pb2.ListMessagesResponse(
        messages=made, has_more=True, next_page_token="t"
    )
    head = agent_service_pb2.Delivery(delivery_id="d", message=made[0])
    delivery = join(head, {"history": [made[1].SerializeToString()]})
    response = agent_service_pb2.ConnectResponse.FromString(
        join(agent_service_pb2.ConnectResponse(), {"delivery": [delivery]})
    )
    assert response.delivery == agent_service_pb2.Delivery(
        delivery_id="d", message=made[0], history=[made[1]]
    )
