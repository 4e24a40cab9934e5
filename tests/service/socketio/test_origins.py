"""A page in a browser that would use a service on loopback: by fetch, EventSource and WebSocket, and by a
name that leads here.
"""

from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.realtime.browser import browser
from tests.support.service import ECHO, USER, Serve, Start
from tests.support.waiting import until

PAGE = """<!doctype html><title>origins</title><script>
let number = 0;
const tell = (what) => fetch("/record", { method: "POST", body: JSON.stringify({ number: number++, ...what }) });
const base = "http://ADDRESS", sessions = `${base}/api/messaging/sessions`;
const attempt = async (name, work) => {
  try { await tell({ name, result: await work() }); } catch (error) { await tell({ name, result: "refused" }); }
};
const asked = (url, options) => async () => (await fetch(url, options)).status;
const opened = (Source, url) => () => new Promise((resolve, reject) => {
  const source = new Source(url);
  source.onopen = () => { source.close(); resolve("open"); };
  source.onerror = reject;
});
(async () => {
  await attempt("read", asked(sessions));
  await attempt("write", asked(sessions, { method: "POST", body: '{"agentId": "ECHO", "userId": "USER"}',
                                           headers: { "Content-Type": "application/json" } }));
  await attempt("delete", asked(`${sessions}/SESSION`, { method: "DELETE" }));
  // Without leave to read the answer: only the service keeps it from being done.
  await attempt("blind", asked(sessions, { method: "POST", mode: "no-cors", body: "{}" }));
  await attempt("poll", asked(`${base}/socket.io/?EIO=4&transport=polling`));
  await attempt("events", opened(EventSource, `${sessions}/SESSION/events`));
  await attempt("websocket", opened(WebSocket, "ws://ADDRESS/socket.io/?EIO=4&transport=websocket"));
  await attempt("rebound", async () => {
    const frame = document.createElement("iframe");
    frame.src = `http://rebound.example:PORT/api/messaging/sessions`;
    const loaded = new Promise((resolve) => frame.onload = resolve);
    document.body.append(frame);
    await loaded;
    return "loaded";
  });
})();
</script><body></body>"""


def results(service: Serve, session_id: str, host: str, profile: Path) -> dict[str, Any]:
    """What a page of a host gets of each attempt."""
    page = PAGE.replace("ADDRESS", service.rest).replace("PORT", service.rest.rpartition(":")[2])
    page = page.replace("SESSION", session_id).replace("ECHO", ECHO).replace("USER", USER)
    with browser(page, profile, host) as recorder:
        until(lambda: len(recorder.records()) == 8, "the page to have tried all", 60)
        return {one["name"]: one["result"] for one in recorder.records()}


@pytest.fixture
def session(start: Start) -> tuple[Serve, str]:
    service = start()
    return service, service.create()["sessionId"]


def test_a_page_of_another_origin_is_refused(session: tuple[Serve, str], tmp_path: Path) -> None:
    service, session_id = session
    found = results(service, session_id, "evil.example", tmp_path / "profile")
    reading = ("read", "write", "delete", "poll", "events", "websocket")
    assert {name: found[name] for name in reading} == dict.fromkeys(reading, "refused")
    # The browser tells of it nothing at all.
    assert found["blind"] == 0
    assert [one["sessionId"] for one in requests.get(service.url, timeout=10).json()["sessions"]] == [
        session_id
    ]
    log = service.log()
    assert [
        line for line in log.splitlines() if "REST_ALLOWED_ORIGINS" in line and "http://evil.example:" in line
    ]
    # A name of others that leads here, as after a rebinding, is no name of the service.
    assert [line for line in log.splitlines() if "REST_ALLOWED_HOSTS" in line and "rebound.example" in line]


def test_a_page_of_this_machine_is_served(session: tuple[Serve, str], tmp_path: Path) -> None:
    service, session_id = session
    found = results(service, session_id, "localhost", tmp_path / "profile")
    wanted = {"read": 200, "write": 201, "delete": 200, "poll": 200, "websocket": "open"}
    assert {name: found[name] for name in wanted} == wanted


def test_a_page_that_is_allowed_is_served(start: Start, tmp_path: Path) -> None:
    # What the page's port will be is not known yet.
    service = start(REST_ALLOWED_ORIGINS="*")
    session_id = service.create()["sessionId"]
    found = results(service, session_id, "app.example", tmp_path / "profile")
    assert (found["read"], found["write"], found["delete"], found["websocket"]) == (200, 201, 200, "open")
