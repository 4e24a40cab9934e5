"""A delivery fits what a gRPC client receives by default, whatever is in the session, and so does the body of
a webhook.
"""

import asyncio
import json
import uuid
from dataclasses import replace

import pytest

from eliza.sessions import values
from eliza.sessions.limits import MAX_ATTACHMENTS_BYTES, MAX_CONTENT_CODE_POINTS, MAX_METADATA_BYTES
from eliza.sessions.v1 import agent_service_pb2
from server.agents.connector import MAX_DELIVERY_BYTES, History, Work, count_fitting
from server.agents.webhook import delivery_body
from server.domain.agents import Agent, AgentKind
from server.domain.messages import Draft, check_draft, check_metadata
from server.domain.sessions import send_message
from server.rpc.encoding import encode_delivery
from tests.unit.samples import AGENT, T0, session

RECEIVED_BYTES = 4 * 1024 * 1024
"""What a gRPC client receives by default."""

MOST_VALUES = 20_000
"""How many values stored attachments may hold, at most."""


def metadata(key: str) -> str:
    """As many values as metadata can have: they take most room as a Struct."""
    return json.dumps({key: [0] * ((MAX_METADATA_BYTES - 10) // 2)}, separators=(",", ":"))


def attachments() -> str:
    """As many values as attachments can have, in as many bytes."""
    numbers = [0] * (MOST_VALUES - 1)
    return json.dumps([*numbers, "x" * (MAX_ATTACHMENTS_BYTES - 2 * len(numbers) - 4)], separators=(",", ":"))


LARGEST = Draft("\U0001f600" * MAX_CONTENT_CODE_POINTS, metadata("own"), attachments())
"""The message of a user that takes most room."""


def work(draft: Draft, history: list[Draft]) -> Work:
    """What an agent is asked in a session with the largest metadata, after these messages."""
    of = session(metadata=metadata("of"))
    check_metadata(of.metadata)
    entries = []
    for said in (*history, draft):
        check_draft(said)
        outcome = send_message(of, T0, message_id=str(uuid.uuid4()), draft=said)
        of = outcome.session
        entries.append(outcome.entry)
    agent = Agent(AGENT, "asked", AgentKind.STREAM, T0, T0)
    return Work(agent, of, entries[-1], outcome.delivery, str(uuid.uuid4()), History(entries[:-1]))


def delivered(asked: Work, *, as_text: bool = False) -> agent_service_pb2.Delivery:
    """The delivery as a worker reads it."""
    return agent_service_pb2.Delivery.FromString(asyncio.run(encode_delivery(asked, T0, as_text)))


@pytest.mark.parametrize(
    ("draft", "history", "least", "most"),
    [
        (Draft("hello"), [], 0, 0),
        (LARGEST, [], 0, 0),
        # The session's metadata alone, under each message, is more than fits.
        (Draft("hello"), [Draft("hi")] * 100, 60, 80),
        (LARGEST, [Draft("hi")] * 100, 20, 40),
        (Draft("hello"), [LARGEST] * 3, 1, 1),
        (LARGEST, [LARGEST], 0, 0),
        # What stands before something that does not fit is left out, too.
        (LARGEST, [Draft("hi"), LARGEST, Draft("ho")], 1, 1),
    ],
)
def test_a_delivery_fits_a_default_client(draft: Draft, history: list[Draft], least: int, most: int) -> None:
    asked = work(draft, history)
    for left_out_before in (0, 7):
        delivery = delivered(replace(asked, history=replace(asked.history, left_out=left_out_before)))
        assert len(agent_service_pb2.ConnectResponse(delivery=delivery).SerializeToString()) <= RECEIVED_BYTES
        assert delivery.message.content == draft.content
        assert delivery.message.HasField("attachments") == (draft.attachments is not None)
        assert least <= len(delivery.history) <= most
        assert delivery.history_left_out == len(history) - len(delivery.history) + left_out_before
        ids = [entry.message.id for entry in asked.history.entries if entry.message]
        assert [message.message_id for message in delivery.history] == ids[
            len(history) - len(delivery.history) :
        ]


def test_a_delivery_as_text_has_the_same_bound() -> None:
    delivery = delivered(work(LARGEST, [Draft("hi"), LARGEST, Draft("ho")]), as_text=True)
    assert delivery.ByteSize() <= MAX_DELIVERY_BYTES
    assert delivery.message.attachments_json == LARGEST.attachments
    assert ([message.content for message in delivery.history], delivery.history_left_out) == (["ho"], 2)


def test_no_more_is_left_out_than_must_be() -> None:
    delivery = delivered(work(Draft("hello"), [Draft("hi")] * 100))
    one_more = delivery.ByteSize() + delivery.history[0].ByteSize()
    assert delivery.ByteSize() <= MAX_DELIVERY_BYTES < one_more + 1000


@pytest.mark.parametrize(
    ("draft", "history", "shown"),
    [
        (LARGEST, [], 0),
        (Draft("hello"), [Draft("hi")] * 100, 100),
        (LARGEST, [LARGEST], 0),
        (Draft("hello"), [LARGEST, LARGEST], 1),
        (LARGEST, [Draft("hi"), LARGEST, Draft("ho")], 1),
    ],
)
def test_the_body_of_a_webhook_has_the_same_bound(draft: Draft, history: list[Draft], shown: int) -> None:
    asked = work(draft, history)
    body = delivery_body(replace(asked, history=replace(asked.history, left_out=7)))
    assert len(body) <= RECEIVED_BYTES
    data = json.loads(body)["data"]
    assert data["message"].get("attachments") == (
        None if draft.attachments is None else json.loads(draft.attachments)
    )
    assert data["historyLeftOut"] == 7 + len(history) - shown
    ids = [entry.message.id for entry in asked.history.entries if entry.message]
    assert [message["id"] for message in data["history"]] == ids[len(history) - shown :]


@pytest.mark.parametrize(
    ("sizes", "room", "count"),
    [
        ([], 0, 0),
        ([1], 0, 0),
        ([1], 1, 1),
        ([9, 1, 2], 3, 2),
        ([1, 9, 2], 3, 1),
        ([1, 2, 3], 6, 3),
        ([1], -5, 0),
        ([0], -5, 0),
    ],
)
def test_what_fits_is_counted_from_the_last(sizes: list[int], room: int, count: int) -> None:
    assert count_fitting(sizes, room) == count


def test_an_agent_is_told_what_the_author_attached_himself() -> None:
    asked = work(Draft("hello", '{"of":"mine"}'), [])
    told = delivered(asked).message
    assert values.plain(told.own_metadata) == {"of": "mine"}
    assert values.plain(told.metadata) == {"of": "mine", "sessionId": asked.session.id}
    as_text = delivered(asked, as_text=True).message
    assert not as_text.HasField("own_metadata")
    assert json.loads(as_text.own_metadata_json) == {"of": "mine"}
