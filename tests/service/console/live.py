"""Pages over a service that runs: their data are the real ones."""

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, expect

from eliza.sessions.v1 import message_service_pb2
from tests.support.chromium import PATIENCE_MS, Watched
from tests.support.service import Serve
from tests.support.waiting import until

expect.set_options(timeout=PATIENCE_MS)

AWAY = (
    *("ERR_CONNECTION_REFUSED", "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_RESET", "ERR_INCOMPLETE_CHUNKED"),
    *("status of 503", "htmx:"),
)
"""How Chromium tells in its console that a service is away."""

HOSTILE = (
    "<script>window.pwned = 1</script>",
    '<img src=x onerror="window.pwned = 2">',
    "{{ 7 * 7 }} ${7 * 7} </textarea></ol>",
    "\u202eright to left over all\u2066 and isolated",
    "שלום, العربية, and left again",
    "long" * 1000,
    "one\ttab\n\n\nthree lines\r\nand a bell \u0007",
    "👩‍👩‍👧‍👦 e\u0301 \ufeff\u200b",
)
"""Texts of which nothing may be more than a text."""


def say(service: Serve, session_id: str, content: str, **parts: Any) -> dict[str, Any]:
    """Sends a message over REST."""
    url = f"{service.url}/{session_id}/messages"
    response = service.http.post(url, json={"content": content, **parts}, timeout=30)
    assert response.status_code == 201, response.text
    told: dict[str, Any] = response.json()
    return told


def fill(service: Serve, session_id: str, count: int, metadata: Any = ()) -> None:
    """Sends many messages, without waiting for replies."""
    calls = [
        service.messages.SendMessage.future(
            message_service_pb2.SendMessageRequest(session_id=session_id, content=f"message {number}"),
            timeout=60,
            metadata=metadata,
        )
        for number in range(count)
    ]
    for call in calls:
        call.result()


def last_sequence(service: Serve, session_id: str) -> int:
    """The sequence of the newest entry, by the transcript."""
    text = service.http.get(f"{service.url}/{session_id}/transcript", timeout=60).text
    return text.count("\n") - 1


def shown(page: Page) -> list[int]:
    """The sequences of the entries that the page shows, in its order."""
    found: list[int] = page.eval_on_selector_all(
        "#entries > li", "(items) => items.map((item) => Number(item.dataset.sequence))"
    )
    return found


def open_session(watched: Watched, session_id: str, query: str = "") -> Page:
    """Opens the page of a session and waits until it follows it."""
    page = watched.go(f"/console/sessions/{session_id}{query}")
    expect(page.locator("#stream")).to_have_text("live")
    return page


def await_shown(page: Page, condition: Callable[[list[int]], bool], what: str) -> list[int]:
    """Waits for a condition of the entries that are shown; returns these."""
    until(lambda: condition(shown(page)), what)
    return shown(page)


def unexpected(watched: Watched, *expected: str) -> list[str]:
    """What the page complained of, but for what was to be expected."""
    return [one for one in watched.problems if not any(words in one for words in expected)]
