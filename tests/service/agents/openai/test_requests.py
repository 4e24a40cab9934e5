"""What an endpoint of OpenAI's kind is asked."""

import threading

import pytest

from tests.service.agents.asking import Asking
from tests.service.agents.openai.settings import KEY, says, settings
from tests.service.agents.openai_server import (
    Endpoint,
    completion,
    problem,
)
from tests.support.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_conversation_is_asked_for_and_its_completion_is_the_reply(here: Asking) -> None:
    with Endpoint(completion("Hel", "lo ", "🤖"), completion("again")) as endpoint:
        session_id = await here.session(
            settings(endpoint.base_url, api_key="env:AGENT_SECRET_OPENAI", system_prompt="Be kind.")
        )
        first = await here.ask(session_id, "hi")
        second = await here.ask(session_id, "ünï")
    assert (first.message.content, first.chunks) == ("Hello 🤖", ["Hel", "lo ", "🤖"])
    assert (second.message.content, second.message.metadata, second.message.thought) == ("again", "{}", None)
    system = {"role": "system", "content": "Be kind."}
    asked = [request.json for request in endpoint.requests]
    assert asked == [
        {"model": "m", "stream": True, "messages": [system, *says("hi")]},
        {"model": "m", "stream": True, "messages": [system, *says("hi", "Hello 🤖", "ünï")]},
    ]
    assert {request.headers["authorization"] for request in endpoint.requests} == {f"Bearer {KEY}"}
    assert [problem(request) for request in endpoint.requests] == [None, None]


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0.0}, {"temperature": 1.5, "top_p": 0.25, "max_tokens": 7}], ids=str
)
async def test_only_the_sampling_that_is_set_is_asked_for(here: Asking, sampling: dict[str, float]) -> None:
    with Endpoint(completion("x")) as endpoint:
        await here.ask(await here.session(settings(endpoint.base_url, **sampling)))
    assert endpoint.requests[0].json == {"model": "m", "stream": True, "messages": says("hello"), **sampling}


async def test_without_a_key_none_is_sent_not_even_that_of_the_environment(here: Asking) -> None:
    with Endpoint(completion("x")) as endpoint:
        await here.ask(await here.session(settings(endpoint.base_url)))
    assert endpoint.requests[0].headers["authorization"] == "Bearer none"


@pytest.mark.parametrize(
    ("window", "shown"),
    [
        ({}, ["one", "first", "two", "second", "three"]),
        ({"history_messages": 1}, ["three"]),
        ({"history_messages": 2}, ["second", "three"]),
        ({"history_messages": 5}, ["one", "first", "two", "second", "three"]),
        ({"history_characters": 1}, ["three"]),
        ({"history_characters": 5}, ["three"]),
        ({"history_characters": 10}, ["three"]),
        ({"history_characters": 11}, ["second", "three"]),
        ({"history_characters": 14}, ["two", "second", "three"]),
        ({"history_characters": 18}, ["two", "second", "three"]),
        ({"history_characters": 19}, ["first", "two", "second", "three"]),
    ],
    ids=str,
)
async def test_the_window_is_in_messages_and_in_characters(
    here: Asking, window: dict[str, int], shown: list[str]
) -> None:
    with Endpoint(completion("first"), completion("second"), completion("third")) as endpoint:
        session_id = await here.session(settings(endpoint.base_url, system_prompt="s" * 100, **window))
        for content in ("one", "two", "three"):
            await here.ask(session_id, content)
    system, *messages = endpoint.requests[-1].json["messages"]
    assert system["role"] == "system"
    assert [message["content"] for message in messages] == shown
    # From the last back they take turns, and the last is the user's.
    assert [message["role"] for message in messages[::-1]] == [
        "user" if index % 2 == 0 else "assistant" for index in range(len(shown))
    ]


async def test_each_piece_is_told_before_the_next_is_sent(here: Asking) -> None:
    seen = threading.Semaphore(0)
    with Endpoint(
        completion("one ", "two ", "three", pace=lambda: seen.acquire(timeout=PATIENCE_SECONDS))
    ) as endpoint:
        answered = await here.ask(
            await here.session(settings(endpoint.base_url)), seen=lambda _: seen.release()
        )
    assert (answered.chunks, answered.message.content) == (["one ", "two ", "three"], "one two three")
