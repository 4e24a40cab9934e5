"""How a page is looked at: whether it is whole, and whether a keyboard is enough."""

from typing import Final
from urllib.parse import urlsplit

from playwright.sync_api import Page

from tests.service.console.pages import THEMES, WIDTHS, Looked
from tests.support.chromium import Watched

REFUSED: Final = ("Failed to load resource", "htmx:", "Response Status Error")
"""What Chromium and htmx write into the console where an answer is an error."""
OF_COLOURS: Final = ("color-contrast", "link-in-text-block")
"""The rules of axe-core that look at colours."""


def ground(page: Page) -> str:
    """The colour behind a page."""
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def check_whole(watched: Watched, looked: Looked) -> None:
    """Nothing sticks out, nothing is refused or foreign, nobody is shut out: in light and dark, on a desk and
    on a phone.
    """
    grounds = set()
    for theme in THEMES:
        # Nothing but colours depends on the theme.
        rules = () if theme == THEMES[0] else OF_COLOURS
        for width in WIDTHS:
            watched.look(width, theme)
            watched.page.wait_for_load_state("networkidle" if looked.name == "root" else "load")
            watched.shoot(f"{looked.name}-{theme}-{width}")
            assert watched.sticks_out() == [], (theme, width)
            assert watched.barriers(rules) == [], (theme, width)
        grounds.add(ground(watched.page))
    assert len(grounds) == len(THEMES), "light and dark look the same"
    expected = REFUSED if looked.name.endswith(("missing", "wrong")) else ()
    unexpected = [one for one in watched.problems if not any(words in one for words in expected)]
    assert unexpected == []
    assert watched.hosts == {urlsplit(watched.root).netloc}


def check_keyboard(page: Page, url: str) -> None:
    """The first stop skips the navigation, and each stop is seen."""
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    assert page.url == url
    page.keyboard.press("Shift+Tab")
    for _ in range(12):
        focused = page.evaluate(
            """() => {
              const style = getComputedStyle(document.activeElement);
              return [document.activeElement.tagName, style.outlineStyle !== "none"];
            }"""
        )
        assert focused[0] == "BODY" or focused[1], f"the focus is not seen on {focused[0]}"
        page.keyboard.press("Shift+Tab")
    page.evaluate("document.activeElement.blur()")
