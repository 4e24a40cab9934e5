"""The key: asked for where it is wanted, tried before it is kept, told nobody else, and forgotten."""

from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.service.console.conftest import Open, Running
from tests.service.console.fake import FakeServer
from tests.support.chromium import Watched

KEY = "es_admin_0123456789abcdefghij"
READER = "es_service_0123456789abcdefghij"
WRONG = "es_wrong_0123456789abcdefghij"
DATA = "#refusals >> text=RATE_LIMITED"


@pytest.fixture
def protected(server: FakeServer) -> FakeServer:
    server.keys = {KEY: "admin", READER: "service"}
    return server


def enter(page: Page, key: str) -> None:
    page.fill("#key-text", key)
    page.keyboard.press("Enter")


def kept(page: Page) -> str:
    """What the browser keeps of the page, but for the key in its place."""
    return str(
        page.evaluate("JSON.stringify([document.cookie, {...localStorage}, history.state, location.href])")
    )


@pytest.mark.usefixtures("protected")
def test_a_key_is_asked_for_and_a_wrong_one_is_told(running: Running, root: str, watch: Open) -> None:
    watched = watch(root)
    page = watched.go("/console")
    dialog = page.locator("#key-dialog")
    expect(dialog).to_be_visible()
    assert page.evaluate("document.activeElement.id") == "key-text"
    assert watched.barriers() == []
    enter(page, WRONG)
    expect(page.locator("#key-error")).to_have_text("The service does not know this key.")
    enter(page, "two words")
    expect(page.locator("#key-error")).to_contain_text("only letters, digits and signs")
    expect(dialog).to_be_visible()
    watched.shoot("key-1280")
    enter(page, KEY)
    expect(dialog).to_be_hidden()
    page.wait_for_selector(DATA)
    expect(page.locator("#key")).to_have_text("Forget the key")
    assert WRONG not in running.facade.log_path.read_text()


@pytest.mark.usefixtures("protected")
def test_the_key_stays_in_the_tab_until_it_is_forgotten(running: Running, root: str, watch: Open) -> None:
    watched = watch(root)
    page = watched.go("/console")
    enter(page, KEY)
    page.wait_for_selector(DATA)
    page.click("text=System")
    page.wait_for_selector("text=Health of each part")
    page.reload()
    page.wait_for_selector("text=Health of each part")
    assert page.evaluate("sessionStorage.getItem('eliza-sessions.key')") == KEY
    assert KEY not in kept(page)
    assert KEY not in page.content()
    assert [url for url in watched.requests if KEY in url] == []
    other = watched.open_tab()
    other.goto(f"{root}/console/system")
    expect(other.locator("#key-dialog")).to_be_visible()
    page.click("#key")
    expect(page.locator("#key-dialog")).to_be_visible()
    assert KEY not in page.evaluate("JSON.stringify(sessionStorage)")
    assert "Health of each part" not in page.content()
    told = [headers for headers in watched.headers if KEY in str(headers)]
    assert told
    assert {urlsplit(url).netloc for url in watched.requests} == {urlsplit(root).netloc}
    assert KEY not in running.facade.log_path.read_text()


@pytest.mark.usefixtures("protected")
def test_a_page_from_before_the_key_was_forgotten_does_not_come_back(root: str, watch: Open) -> None:
    page = watch(root).go("/console/system")
    enter(page, KEY)
    page.wait_for_selector("text=Health of each part")
    # What a browser does that keeps pages for its button "back"; the one of the tests does not.
    back = """(key) => {
      dispatchEvent(new PageTransitionEvent("pagehide", { persisted: true }));
      if (key) sessionStorage.removeItem(key);
      dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true }));
    }"""
    page.evaluate("isSame = true")
    page.evaluate(back, "")
    assert page.evaluate("isSame")
    expect(page.locator("text=Health of each part")).to_be_visible()
    page.evaluate(back, "eliza-sessions.key")
    expect(page.locator("#key-dialog")).to_be_visible()
    assert "Health of each part" not in page.content()


@pytest.mark.usefixtures("protected")
def test_whoever_gives_no_key_may_do_so_later(root: str, watch: Open) -> None:
    page = watch(root).go("/console/system")
    expect(page.locator("#key-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    page.click("text=Enter a key")
    enter(page, KEY)
    page.wait_for_selector("text=Health of each part")


@pytest.mark.usefixtures("protected")
def test_a_key_that_may_less_is_told_what_it_may_not(root: str, watch: Open) -> None:
    watched = watch(root)
    page = watched.go("/console/system")
    enter(page, READER)
    expect(page.locator("#key-dialog")).to_be_hidden()
    expect(page.locator("main .failure")).to_contain_text("Your key may not see this.")
    page.click("nav >> text=Overview")
    expect(page.locator("#failure")).to_contain_text("Your key may not see this.")
    expect(page.locator(".status")).to_contain_text("0.2.0")


def test_a_key_that_ends_is_asked_for_again_and_nothing_is_asked_meanwhile(
    protected: FakeServer, root: str, watch: Open
) -> None:
    watched = watch(root, has_clock=True)
    page = watched.go("/console")
    enter(page, KEY)
    page.wait_for_selector(DATA)
    protected.keys = {}
    watched.pass_time(seconds=6)
    expect(page.locator("#key-dialog")).to_be_visible()
    expect(page.locator("#key-why")).to_contain_text("does not take your key")
    calls = protected.calls
    watched.pass_time(seconds=600)
    assert protected.calls == calls
    protected.keys = {KEY: "admin"}
    enter(page, KEY)
    expect(page.locator("#key-dialog")).to_be_hidden()
    expect(page.locator("#failure")).to_be_hidden()


def test_an_open_service_asks_for_no_key(root: str, watch: Open) -> None:
    watched = watch(root)
    page = watched.go("/console")
    page.wait_for_selector(DATA)
    expect(page.locator("#key-dialog")).to_be_hidden()
    assert [headers for headers in watched.headers if "authorization" in headers] == []


def test_the_docs_authorize_with_the_key_of_the_console(
    protected: FakeServer, root: str, watch: Open
) -> None:
    watched: Watched = watch(root)
    page = watched.go("/console/system")
    enter(page, KEY)
    page.wait_for_selector("text=Health of each part")
    watched.problems.clear()
    page.click("nav >> text=API docs")
    page.click("text=Tells how the service is.")
    calls = protected.calls
    page.click("button:text-is('Execute')")
    expect(page.locator(".live-responses-table .response .response-col_status")).to_contain_text("200")
    assert protected.calls > calls
    assert KEY in str(watched.headers[-1])
    # What is shown may be photographed, and the command is there to be copied.
    expect(page.locator(".curl-command")).to_contain_text("Authorization: Bearer YOUR_KEY")
    assert KEY not in page.content()
    assert watched.problems == []
