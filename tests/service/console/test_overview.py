"""The overview asks for new points alone, rests while nobody looks, and catches up after an absence."""

import re
from typing import Any

from playwright.sync_api import Page, expect

from eliza.sessions import values
from tests.service.console.conftest import Open
from tests.service.console.fake import HOUR_POINTS, POINT_MS, FakeServer, make_point
from tests.support.waiting import until

HIDE = """(isHidden) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => isHidden });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def asked_after(server: FakeServer) -> list[int]:
    """The instants behind which points were asked for; 0 for all."""
    return [values.ms_floor(one.after) if one.HasField("after") else 0 for one in server.overviews]


def shown(page: Page, name: str) -> str:
    return str(page.text_content(f"[data-figure={name}]"))


def shows_newest(page: Page, server: FakeServer) -> None:
    """Waits until the page has the newest point."""
    newest = make_point(server.newest_ms)
    expect(page.locator("[data-figure=liveSessions]")).to_have_text(f"{newest.live_sessions:,}")


def answers_to(page: Page) -> list[Any]:
    """The answers with figures that a page gets from now on."""
    found: list[Any] = []

    def keep(response: Any) -> None:
        if "/data/overview" in response.url and response.ok:
            found.append(response.json())

    page.on("response", keep)
    return found


def test_it_shows_the_figures_and_draws_an_hour(server: FakeServer, root: str, watch: Open) -> None:
    page = watch(root).go("/console")
    page.wait_for_selector("#refusals >> text=RATE_LIMITED")
    now = make_point(server.newest_ms)
    assert shown(page, "liveSessions") == f"{now.live_sessions:,}"
    assert shown(page, "openDeliveries") == str(now.open_deliveries)
    assert page.text_content("[data-note=openDeliveries]") == "the oldest 12.4 s"
    assert re.fullmatch(r"\d+(\.\d)? (ms|s)", shown(page, "firstChunk"))
    assert page.text_content("[data-note=refusals]") == "1,244 in all"
    assert page.locator("#refusals td").all_text_contents()[:2] == ["RATE_LIMITED", "1,204"]
    drawn = page.evaluate(
        """() => [...document.querySelectorAll(".plot canvas")].map((canvas) => {
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          return new Set(new Uint32Array(data.buffer)).size;
        })"""
    )
    assert len(drawn) == 9
    assert min(drawn) > 3, "a plot is empty"
    assert f"now messages {now.messages_per_second:.1f}" in page.get_attribute(".plot >> nth=0", "aria-label")


def test_it_asks_for_what_is_new_alone(server: FakeServer, root: str, watch: Open) -> None:
    watched = watch(root, has_clock=True)
    page = watched.go("/console")
    page.wait_for_selector("#refusals >> text=RATE_LIMITED")
    instants = []
    for _ in range(3):
        instants.append(server.newest_ms)
        server.newest_ms += POINT_MS
        watched.pass_time(seconds=6)
        shows_newest(page, server)
    assert asked_after(server) == [0, *instants]


def test_a_clock_that_is_set_back_does_not_stop_the_curves(
    server: FakeServer, root: str, watch: Open
) -> None:
    watched = watch(root, has_clock=True)
    page = watched.go("/console")
    page.wait_for_selector("#refusals >> text=RATE_LIMITED")
    before = server.newest_ms
    server.newest_ms -= 100 * POINT_MS
    answers = answers_to(page)
    until(lambda: watched.pass_time(seconds=6) or len(answers) > 2, "more figures")
    assert asked_after(server)[:4] == [0, before, 0, server.newest_ms]
    assert [len(one["at"]) for one in answers[:3]] == [0, HOUR_POINTS, 0]
    assert watched.problems == []


def test_it_rests_while_nobody_looks(server: FakeServer, root: str, watch: Open) -> None:
    watched = watch(root, has_clock=True)
    page = watched.go("/console")
    page.wait_for_selector("#refusals >> text=RATE_LIMITED")
    page.evaluate(HIDE, True)
    calls = server.calls
    watched.pass_time(seconds=600)
    assert server.calls == calls
    server.newest_ms += 30 * POINT_MS
    page.evaluate(HIDE, False)
    shows_newest(page, server)
    assert len(server.overviews) == 2


def test_it_catches_up_when_the_service_is_back(server: FakeServer, root: str, watch: Open) -> None:
    watched = watch(root, has_clock=True)
    page = watched.go("/console")
    page.wait_for_selector("#refusals >> text=RATE_LIMITED")
    newest, figure = server.newest_ms, shown(page, "liveSessions")
    server.stop()
    watched.pass_time(seconds=6)
    notice = page.locator("#notice")
    expect(notice).to_contain_text("The service does not answer")
    assert shown(page, "liveSessions") == figure
    assert page.text_content(".status .badge") == "degraded"
    watched.shoot("overview-away-1280")
    answers = answers_to(page)
    server.newest_ms += 50 * POINT_MS
    server.start()
    until(lambda: watched.pass_time(seconds=31) or answers, "the figures of the service that is back")
    shows_newest(page, server)
    expect(notice).to_be_hidden()
    assert newest in asked_after(server)
    assert len(answers[0]["at"]) == 50


def test_a_long_absence_fills_no_more_than_the_hour(server: FakeServer, root: str, watch: Open) -> None:
    page = watch(root).go("/console")
    page.wait_for_selector("#refusals >> text=RATE_LIMITED")
    page.evaluate(HIDE, True)
    server.newest_ms += 3 * HOUR_POINTS * POINT_MS
    answers = answers_to(page)
    page.evaluate(HIDE, False)
    until(lambda: page.wait_for_timeout(50) or answers, "an answer")
    assert len(answers[0]["at"]) == HOUR_POINTS
    shows_newest(page, server)


def test_parts_are_refreshed_and_keep_what_they_show_while_the_service_is_away(
    server: FakeServer, root: str, watch: Open
) -> None:
    watched = watch(root, has_clock=True)
    page = watched.go("/console/system")
    page.wait_for_selector("text=Health of each part")
    server.system.version = "0.3.0"
    watched.pass_time(seconds=11)
    expect(page.locator(".facts").first).to_contain_text("0.3.0")
    server.stop()
    watched.pass_time(seconds=16)
    expect(page.locator("#notice")).to_contain_text("The service does not answer")
    expect(page.locator(".facts").first).to_contain_text("0.3.0")
    server.system.version = "0.4.0"
    server.start()
    facts = page.locator(".facts").first
    until(lambda: watched.pass_time(seconds=31) or "0.4.0" in (facts.text_content() or ""), "the new version")
    expect(page.locator("#notice")).to_be_hidden()
