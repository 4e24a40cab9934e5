"""Each page as people see it: nothing sticks out, nothing is refused or foreign, nobody is shut out."""

from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from tests.service.console.conftest import Open
from tests.service.console.looking import check_keyboard, check_whole, ground
from tests.service.console.pages import PAGES, Looked


@pytest.mark.parametrize("looked", PAGES, ids=lambda looked: looked.name)
def test_a_page_is_whole_and_the_keyboard_is_enough(looked: Looked, root: str, watch: Open) -> None:
    """In light and dark, on a desk and on a phone."""
    watched = watch(root)
    page = watched.go(looked.path)
    page.wait_for_selector(looked.shows)
    # The first page has no navigation.
    if looked.name != "root":
        check_keyboard(page, f"{root}{looked.path}")
    check_whole(watched, looked)


def test_the_theme_is_chosen_and_kept(root: str, watch: Open) -> None:
    watched = watch(root)
    page = watched.go("/console/system")
    button = page.locator("#theme")
    seen = []
    for _ in range(3):
        seen.append((button.get_attribute("aria-label"), ground(page)))
        button.click()
    (system, light), (named, same), (dark, other) = seen
    assert (system, named, dark) == ("Theme: system", "Theme: light", "Theme: dark")
    assert light == same != other
    button.click()
    button.click()
    page.reload()
    expect(button).to_have_attribute("aria-label", "Theme: dark")
    assert ground(page) == other


def test_pages_work_below_a_path_of_a_proxy(root: str, watch: Open) -> None:
    """And with a slash behind them."""
    watched = watch("http://proxy.localhost")

    def forward(route: object) -> None:
        url = route.request.url.replace("http://proxy.localhost/below", root)  # type: ignore[attr-defined]
        route.fulfill(response=route.fetch(url=url))  # type: ignore[attr-defined]

    watched.context.route("http://proxy.localhost/below/**", forward)
    for path in ("/below/console/", "/below/console"):
        page = watched.go(path)
        page.wait_for_selector("#refusals >> text=RATE_LIMITED")
    page.click("text=System")
    page.wait_for_selector("text=Health of each part")
    assert page.url == "http://proxy.localhost/below/console/system"
    page.click("text=API docs")
    page.wait_for_selector(".opblock >> nth=5")
    assert watched.hosts == {"proxy.localhost"}
    assert all(urlsplit(url).path.startswith("/below/") for url in watched.requests)
    assert watched.problems == []
