"""Conversations watched live: over restarts of the service, ends of tokens, and tabs out of sight."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from tests.service.access.world import key_lines, make_key, write_keys
from tests.service.console.conftest import Open
from tests.service.console.live import AWAY, await_shown, open_session, say, shown, unexpected
from tests.support.service import ECHO, USER, Serve, Start
from tests.support.waiting import until


@pytest.mark.parametrize("end", [Serve.kill, Serve.stop])
def test_nothing_is_missed_or_doubled_over_restarts(
    start: Start, watch: Open, end: object, tmp_path: Path
) -> None:
    service = start()
    addresses = {"GRPC_ADDRESS": service.grpc, "REST_ADDRESS": service.rest}
    session_id = service.create()["sessionId"]
    watched = watch(f"http://{service.rest}")
    page = open_session(watched, session_id)
    for round_ in range(1, 4):
        say(service, session_id, f"before {round_}", transport="http")
        count = len(await_shown(page, lambda there, n=4 * round_ - 2: len(there) >= n, "both messages"))
        end(service)  # type: ignore[operator]
        expect(page.locator("#stream")).to_have_text("reconnecting")
        service = start(directory=tmp_path, **addresses)
        # It is said before the page is back, so that it has to ask for what it has missed.
        say(service, session_id, f"while away {round_}", transport="http")
        await_shown(page, lambda there, n=count + 2: len(there) >= n, "what was missed")
        expect(page.locator("#stream")).to_have_text("live")
    assert shown(page) == list(range(1, len(shown(page)) + 1))
    texts = page.locator(".said.user .text").all_text_contents()
    assert texts == [f"{when} {round_}" for round_ in (1, 2, 3) for when in ("before", "while away")]
    assert unexpected(watched, *AWAY) == []


def test_tokens_are_fetched_anew_and_the_key_is_in_no_address(start: Start, watch: Open) -> None:
    key = make_key("admin")
    service = start(ELIZA_SERVER_AUTH_TOKEN=key, ACCESS_TOKEN_SECONDS="4")
    service.http.headers["X-API-KEY"] = key
    session_id = service.create()["sessionId"]
    watched = watch(f"http://{service.rest}")
    watched.go("/console/sessions").wait_for_selector("#key-dialog[open]")
    watched.page.fill("#key-text", key)
    watched.page.keyboard.press("Enter")
    expect(watched.page.locator("#key-dialog")).to_be_hidden()
    page = open_session(watched, session_id)

    def tokens() -> set[str]:
        return {url for url in watched.requests if "/events?" in url}

    for number in (1, 2, 3):
        # The browser's requests are heard of only while something is asked of it.
        until(lambda n=number: page.wait_for_timeout(100) or len(tokens()) >= n, "a further token")
        say(service, session_id, f"message {number}", transport="http")
        await_shown(page, lambda there, n=2 * number: len(there) >= n, "the message and its reply")
    assert shown(page) == list(range(1, 7))
    assert all("access_token=" in url for url in tokens())
    assert [url for url in watched.requests if key in url] == []
    # Before there was a key.
    assert unexpected(watched, "401", "htmx:") == []


def test_a_tab_out_of_sight_lets_its_connection_go_and_catches_up(plain: Serve, watch: Open) -> None:
    session_id = plain.create()["sessionId"]
    watched = watch(f"http://{plain.rest}")
    page = open_session(watched, session_id)
    hide = """(hidden) => {
      Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(hide, True)
    expect(page.locator("#stream")).to_have_text("paused")
    say(plain, session_id, "out of sight", transport="http")
    assert shown(page) == []
    page.evaluate(hide, False)
    await_shown(page, lambda there: there == [1, 2], "what came meanwhile")


def test_a_tenants_key_shows_what_is_the_tenants(start: Start, watch: Open, tmp_path: Path) -> None:
    keys = {tenant: make_key(tenant) for tenant in ("acme", "beta")}
    lines = [key_lines(tenant, key, role="admin", tenant=tenant) for tenant, key in keys.items()]
    path = tmp_path / "keys.toml"
    write_keys(path, "\n".join(lines))
    service = start(KEYS_FILE=str(path))
    made = {}
    for tenant, key in keys.items():
        service.http.headers["X-API-KEY"] = key
        made[tenant] = service.create(agentId=ECHO, userId=USER)["sessionId"]
    watched = watch(f"http://{service.rest}")
    page = watched.go("/console/sessions")
    page.fill("#key-text", keys["acme"])
    page.keyboard.press("Enter")
    expect(page.locator(f"text={made['acme']}")).to_be_visible()
    assert made["beta"] not in page.content()
    page.click(f"text={made['acme']}")
    expect(page.locator("#stream")).to_have_text("live")
    page.fill("#text", "ours")
    page.click("#send")
    await_shown(page, lambda there: there == [1, 2], "the message and its reply")
    watched.go(f"/console/sessions/{made['beta']}")
    expect(page.locator("#missing")).to_contain_text("There is no session")
    watched.go("/console/system")
    expect(page.locator("text=Your key may not see this")).to_be_visible()
    assert {urlsplit(url).netloc for url in watched.requests} == {service.rest}
    log = until(service.log, "the log")
    assert not any(key in log for key in keys.values())
