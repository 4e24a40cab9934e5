"""EventSource of a real browser, over restarts and refusals."""

from collections.abc import Callable
from pathlib import Path

import requests

from tests.support.clients import create, replies, send
from tests.support.realtime.browser import browser
from tests.support.realtime.programs import Facade, Program, free_address
from tests.support.service import ECHO, USER, Start
from tests.support.waiting import until

PAGE = """<!doctype html><title>events</title><script>
let number = 0;
const tell = (what) => fetch("/record", { method: "POST", body: JSON.stringify({ number: number++, ...what }) });
const events = new EventSource("URL");
events.onopen = () => tell({ state: "open" });
events.onerror = () => tell({ state: events.readyState === EventSource.CLOSED ? "closed" : "lost" });
for (const type of ["messageBroadcast", "sessionRenewed", "sessionTimeoutChanged", "sessionExpirationWarning", "sessionExpired",
                    "messageStreamChunk", "message"])
  events.addEventListener(type, (event) => tell({ type, id: event.lastEventId, data: JSON.parse(event.data) }));
</script>"""


def test_a_browser_hears_everything_once_over_every_restart(
    start: Start, programs: Callable[[Program], Program], tmp_path: Path
) -> None:
    grpc_address, rest_address = free_address(), free_address()
    server = start("--no-rest", directory=tmp_path / "server", GRPC_ADDRESS=grpc_address, TEST_CLOCK="1")
    front = programs(Facade(grpc_address, rest_address, tmp_path / "facade"))
    base = f"http://{rest_address}/api/messaging/sessions"
    timeout = {"timeoutMinutes": 10, "warningThresholdMinutes": 2}
    made = requests.post(
        base, json={"agentId": ECHO, "userId": USER, "timeoutConfig": timeout}, timeout=10
    ).json()
    session_id = made["sessionId"]

    def say(content: str) -> None:
        response = requests.post(
            f"{base}/{session_id}/messages", json={"content": content, "transport": "http"}, timeout=15
        )
        assert response.status_code == 201, response.text

    say("before anyone listens")
    with browser(
        PAGE.replace("URL", f"{base}/{session_id}/events?after=0"), tmp_path / "profile"
    ) as recorder:

        def hears(count: int) -> None:
            until(
                lambda: len(recorder.ids()) >= count,
                f"{count} entries in the browser, not {recorder.records()}",
                30,
            )
            assert recorder.ids() == list(range(1, count + 1))

        hears(2)
        say("live in pieces")
        hears(4)

        front.kill()
        until(lambda: "lost" in recorder.states(), "the browser to see the facade gone")
        send(server, session_id, "while the facade is away")
        replies(server, session_id, 3)
        front = programs(Facade(grpc_address, rest_address, tmp_path / "facade"))
        hears(6)

        states = recorder.states()
        server.kill()
        server = start("--no-rest", directory=tmp_path / "server", GRPC_ADDRESS=grpc_address, TEST_CLOCK="1")
        send(server, session_id, "while the facade looks for the server")
        hears(8)
        assert recorder.states() == states, "the server's restart cost the browser its stream"

        # Both at once; the facade comes back first.
        server.kill()
        front.kill()
        programs(Facade(grpc_address, rest_address, tmp_path / "facade"))
        server = start("--no-rest", directory=tmp_path / "server", GRPC_ADDRESS=grpc_address, TEST_CLOCK="1")
        send(server, session_id, "after both were away")
        hears(10)

        assert requests.post(f"{base}/{session_id}/renew", timeout=10).status_code == 200
        assert (
            requests.patch(
                f"{base}/{session_id}/timeout", json={"timeoutMinutes": 20}, timeout=10
            ).status_code
            == 200
        )
        hears(12)
        server.advance(minutes=18, ms=500)
        hears(13)
        server.advance(minutes=3)
        hears(14)
        # With nothing left to hear the next request is answered 410, which ends the browser's attempts.
        until(lambda: recorder.states()[-1:] == ["closed"], "the browser to give up", 20)

    entries = [one for one in recorder.records() if one.get("type") not in (None, "messageStreamChunk")]
    assert [one["data"]["sequence"] for one in entries] == list(range(1, 15))
    names = ["messageBroadcast"] * 10 + [
        "sessionRenewed",
        "sessionTimeoutChanged",
        "sessionExpirationWarning",
        "sessionExpired",
    ]
    assert [one["type"] for one in entries] == names
    assert [one["data"]["text"] for one in entries[:10:2]] == [
        "before anyone listens",
        "live in pieces",
        "while the facade is away",
        "while the facade looks for the server",
        "after both were away",
    ]
    pieces = [one for one in recorder.records() if one.get("type") == "messageStreamChunk"]
    assert [one["data"]["chunk"] for one in pieces][:3] == ["live ", "in ", "pieces"]
    # A piece has no id of its own: the browser's stays that of the message it answers.
    assert [one["id"] for one in pieces][:3] == ["3"] * 3


def test_a_browser_that_is_refused_comes_back(
    start: Start, programs: Callable[[Program], Program], tmp_path: Path
) -> None:
    grpc_address = free_address()
    server = start("--no-rest", directory=tmp_path / "server", GRPC_ADDRESS=grpc_address)
    session_id = create(server).session_id
    server.kill()
    front = programs(Facade(grpc_address, "127.0.0.1:0", tmp_path / "facade", REST_DEADLINE_SECONDS="1"))
    events = f"http://{front.addresses['rest']}/api/messaging/sessions/{session_id}/events"
    with browser(PAGE.replace("URL", events), tmp_path / "profile") as recorder:
        until(lambda: "lost" in recorder.states(), "the browser to be refused", 30)
        assert recorder.states() == ["open", "lost"]
        server = start("--no-rest", directory=tmp_path / "server", GRPC_ADDRESS=grpc_address)
        send(server, session_id, "you are back")
        until(lambda: recorder.ids()[:1] == [1], "the browser to come back", 60)
        assert "closed" not in recorder.states()
