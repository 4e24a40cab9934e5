"""The page and the backend of docs/access.md, as they are printed, in Chromium: over expiries of the page's
token no event is lost or doubled.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.service.docs.pages import example
from tests.support.clients import invoke
from tests.support.realtime.browser import Recorder, browser
from tests.support.realtime.programs import free_address
from tests.support.service import Serve, Start
from tests.support.waiting import until

TOKEN_SECONDS = 2
TYPED = 12
"""How many messages are typed into the page, with the reply of each awaited: that takes some expiries."""

PAUSE_SECONDS = 0.02
"""Between messages from elsewhere: they come faster than those typed, and leave the page some of the CPU."""

TYPIST = """
<script type="module">
  const recorder = location.hash.slice(1), sleep = (ms) => new Promise((done) => setTimeout(done, ms));
  performance.setResourceTimingBufferSize(100000);
  let number = 0;
  const tell = (what) => fetch(`${recorder}/record`,
    { method: "POST", mode: "no-cors", body: JSON.stringify({ number: number++, ...what }) });
  const tellAll = (changes) => changes.forEach((change) =>
    change.addedNodes.forEach((line) => tell({ text: line.textContent })));
  new MutationObserver(tellAll).observe(messages, { childList: true });
  const shown = (content) => [...messages.children].filter((line) => line.textContent === content).length;
  const fetched = (end) => performance.getEntriesByType("resource").filter(
    (entry) => new URL(entry.name).pathname.endsWith(end)).length;
  const type = (content) => { text.value = content; form.requestSubmit(); };
  while (!fetched("/chat-token")) await sleep(20);
  for (let typed = 1; typed <= TYPED; typed++) {
    type(`typed ${typed}`);
    while (shown(`typed ${typed}`) < 2) await sleep(20);
    await sleep(500);
  }
  tell({ tokens: fetched("/chat-token"), streams: fetched("/events") });
  // The session goes away meanwhile.
  for (let again = 1; ; again++) {
    type(`again ${again}`);
    await sleep(1000);
  }
</script>
"""


@contextmanager
def backend(directory: Path, service: Serve, address: str) -> Iterator[None]:
    """The backend of the page, with the addresses of a test, and its page with a script that types."""
    host, _, port = address.rpartition(":")
    code = example("backend.py").replace('"127.0.0.1", 8000', f'"{host}", {port}')
    assert port in code
    (directory / "backend.py").write_text(code.replace("127.0.0.1:3000", service.rest))
    page = example("page.html").replace("127.0.0.1:3000", service.rest)
    assert service.rest in page
    (directory / "page.html").write_text(page + TYPIST.replace("TYPED", str(TYPED)))
    with (directory / "backend.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "backend.py"],
            cwd=directory,
            env={**os.environ, "no_proxy": "*"},
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        process.kill()
        process.wait(timeout=30)


@pytest.mark.long
def test_a_page_hears_all_once_over_the_expiries_of_its_token(start: Start, tmp_path: Path) -> None:
    keys, address = tmp_path / "keys.toml", free_address()
    made = invoke("keys", "add", "--role", "service", "--id", "shop", "--file", str(keys))
    (tmp_path / "shop.key").write_text(made.out)
    origin = f"http://shop.example:{address.rpartition(':')[2]}"
    service = start(KEYS_FILE=str(keys), ACCESS_TOKEN_SECONDS=str(TOKEN_SECONDS), REST_ALLOWED_ORIGINS=origin)
    service.http.headers["X-API-KEY"] = made.out.strip()
    lead = f"<!doctype html><script>location = '{origin}/#' + location.origin</script>"
    with backend(tmp_path, service, address):
        until(lambda: _is_up(address), "the backend")
        with browser(lead, tmp_path / "profile") as recorder:
            until(lambda: _texts(recorder), "the first message in the page", 60)
            (session_id,) = _session_ids(service)
            messages = f"{service.url}/{session_id}/messages"
            sent = 0
            while not _said(recorder, "tokens"):
                sent += 1
                body = {"content": f"elsewhere {sent}", "transport": "http"}
                assert service.http.post(messages, json=body, timeout=30).status_code == 201
                time.sleep(PAUSE_SECONDS)
            until(lambda: len(_texts(recorder)) >= 2 * (TYPED + sent), "the last messages", 30)
            (fetched,) = _said(recorder, "tokens")
            assert fetched["tokens"] >= 3, fetched
            assert fetched["streams"] >= 2, fetched
            # What was typed meanwhile may be after it.
            heard = _texts(recorder)[: 2 * (TYPED + sent)]
            stored = _history(service, messages)[: 2 * (TYPED + sent)]
            assert heard == stored
            assert service.http.delete(f"{service.url}/{session_id}", timeout=10).status_code == 200
            new = until(lambda: _session_ids(service), "the page to go on in a new session", 60)[0]
            assert new != session_id
            messages = f"{service.url}/{new}/messages"

            def shows_all() -> bool:
                stored = _history(service, messages)
                return len(stored) >= 2 and _texts(recorder)[-len(stored) :] == stored

            until(shows_all, "the messages of the new session in the page")
    log = service.log() + (tmp_path / "backend.log").read_text()
    assert not re.search(r"\best_", log)
    assert made.out.strip() not in log


def _is_up(address: str) -> bool:
    try:
        return requests.get(f"http://{address}/", timeout=10).status_code == 200
    except requests.ConnectionError:
        return False


def _texts(recorder: Recorder) -> list[str]:
    """What the page has shown, in order."""
    return [one["text"] for one in recorder.records() if "text" in one]


def _said(recorder: Recorder, name: str) -> list[dict[str, Any]]:
    return [one for one in recorder.records() if name in one]


def _session_ids(service: Serve) -> list[str]:
    found = service.http.get(service.url, timeout=10).json()["sessions"]
    return [session["sessionId"] for session in found]


def _history(service: Serve, messages: str) -> list[str]:
    """The texts of a session, the oldest first."""
    texts: list[str] = []
    query: dict[str, Any] = {"limit": 100}
    while True:
        page = service.http.get(messages, params=query, timeout=10).json()
        texts += [message["content"] for message in page["messages"]]
        if not page["hasMore"]:
            return texts[::-1]
        query["before"] = page["cursors"]["before"]
