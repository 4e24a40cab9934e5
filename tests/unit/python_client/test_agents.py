"""Agents of the Python client, asked without a service."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from eliza_sessions_client import Reply, TestWorker, Turn, agent, converse_with
from eliza_sessions_client.agent import MAX_PIECE_CHARACTERS
from tests.support.service import ECHO, USER


def of(*pieces: Any) -> Any:
    """An agent that yields these."""

    @agent(ECHO)
    async def reply(turn: Turn) -> AsyncIterator[Any]:
        for piece in pieces:
            yield piece

    return reply


def test_the_reply_is_all_its_pieces() -> None:
    (answer,) = converse_with(of("a", "", "b"), "Hello!")
    assert (answer.text, answer.pieces, answer.reply) == ("ab", ["a", "b"], Reply("ab"))


def test_a_reply_at_the_end_has_the_rest_or_another_text() -> None:
    (answer,) = converse_with(of("a", Reply(metadata={"a": 1}, thought="hm", actions=["WAVE"])), "Hello!")
    assert answer.reply == Reply("a", {"a": 1}, None, "hm", ["WAVE"])
    assert answer.metadata == {"a": 1}
    (answer,) = converse_with(of("draft", Reply("final", attachments=[1])), "Hello!")
    assert (answer.text, answer.pieces, answer.attachments) == ("final", ["draft"], [1])


def test_an_agent_may_return_its_reply() -> None:
    @agent(ECHO)
    async def text(turn: Turn) -> str:
        return turn.text.upper()

    @agent(ECHO)
    async def more(turn: Turn) -> Reply:
        return Reply(turn.text, actions=["WAVE"])

    (answer,) = converse_with(text, "Hello!")
    assert (answer.text, answer.pieces) == ("HELLO!", [])
    assert converse_with(more, "Hello!")[0].reply.actions == ["WAVE"]


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (("\ud83d", "\ude00!"), "😀!"),
        (("a\ud83d\ude00",), "a😀"),
        (("\ud83d", "b"), "\ufffdb"),
        (("b\ud83d",), "b\ufffd"),
        (("\ude00", "\ud83d", "\ud83d\ude00"), "\ufffd\ufffd😀"),
        ((Reply("\ud83d"),), "\ufffd"),
    ],
)
def test_halves_of_a_character_are_joined_or_replaced(pieces: tuple[Any, ...], text: str) -> None:
    (answer,) = converse_with(of(*pieces), "Hello!")
    assert answer.text == text
    assert "".join(answer.pieces) in (text, "")
    "".join(answer.pieces).encode()


def test_a_long_piece_goes_out_in_several() -> None:
    (answer,) = converse_with(of("x" * (2 * MAX_PIECE_CHARACTERS + 1)), "Hello!")
    assert [len(piece) for piece in answer.pieces] == [MAX_PIECE_CHARACTERS, MAX_PIECE_CHARACTERS, 1]


@pytest.mark.parametrize("pieces", [(1,), (None,), (Reply("a"), "b"), (b"a",)])
def test_what_is_no_reply_is_an_error(pieces: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match="agent"):
        converse_with(of(*pieces), "Hello!")


def test_a_reply_without_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="no text"):
        converse_with(of(), "Hello!")


def test_only_asynchronous_functions_are_agents() -> None:
    with pytest.raises(TypeError, match="to_thread"):
        agent(ECHO)(lambda turn: turn.text)


async def test_a_turn_tells_who_says_what_and_what_was_said_before() -> None:
    turns: list[Turn] = []

    @agent(ECHO, history_messages=3)
    async def reply(turn: Turn) -> str:
        turns.append(turn)
        return f"re: {turn.text}"

    worker = TestWorker(reply, metadata={"plan": "free", "level": 2}, user_id=USER)
    for text in ("one", "two", "three"):
        await worker.say(text, metadata={"plan": "admin"}, attempt=2)
    last = turns[-1]
    assert [message.content for message in last.history] == ["re: one", "two", "re: two"]
    assert (last.metadata, last.own_metadata) == ({"plan": "free", "level": 2}, {"plan": "admin"})
    assert (last.user_id, last.attempt, last.attachments) == (USER, 2, [])
    assert last.session.agent_id == reply.agent_id


def test_what_an_agent_raises_its_test_sees() -> None:
    @agent(ECHO)
    async def reply(turn: Turn) -> str:
        raise LookupError(turn.text)

    with pytest.raises(LookupError, match="Hello"):
        converse_with(reply, "Hello!")
