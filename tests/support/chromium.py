"""Chromium under a test's control, by Playwright: pages that take down what they complain of.

Playwright brings no browser: it drives Debian's, as the other tests do.
"""

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.support import node
from tests.support.realtime.browser import CHROMIUM, FLAGS

SHOTS: Final = os.environ.get("CONSOLE_SHOTS", "")
"""A directory for screenshots of what the tests look at; empty: none are made."""

PATIENCE_MS: Final = 30_000
SERIOUS: Final = ("serious", "critical")

_TELL_VIOLATIONS: Final = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP ${event.violatedDirective} blocks ${event.blockedURI || event.sample}`));
"""

_END_TRANSITIONS: Final = """() => document.getAnimations()
  .filter((one) => one.effect.getComputedTiming().endTime !== Infinity)
  .forEach((one) => one.finish())
"""

_FIND_VIOLATIONS: Final = """(rules) =>
  axe.run(document, { resultTypes: ["violations"], ...(rules.length && { runOnly: rules }) })
    .then((found) => found.violations)
"""


@functools.cache
def _axe() -> str:
    """The source of axe-core."""
    return (node.install() / "axe-core" / "axe.min.js").read_text()


@contextlib.contextmanager
def open_chromium() -> Iterator[Browser]:
    """A browser. Only tests without an event loop of their own may run meanwhile."""
    with sync_playwright() as playwright:
        arguments = [flag for flag in FLAGS if flag != "--headless"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page in a context of its own. `problems` holds errors of scripts, of the console and of the content
    security policy; `hosts` whom it asked; `requests` the addresses.
    """

    def __init__(self, browser: Browser, root: str, *, has_clock: bool = False) -> None:
        """`has_clock`: its time can be moved on by `pass_time`."""
        self.root = root
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.context = browser.new_context(
            viewport={"width": 1280, "height": 900},
        )
        self.context.set_default_timeout(PATIENCE_MS)
        self.context.add_init_script(_TELL_VIOLATIONS)
        if has_clock:
            self.context.clock.install()
        self.page = self.open_tab()

    def open_tab(self) -> Page:
        """One more page of the same context."""
        page = self.context.new_page()
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", self._on_request)
        return page

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text}")

    def _on_request(self, request: Any) -> None:
        self.requests.append(request.url)
        self.headers.append(request.headers)

    def go(self, path: str) -> Page:
        """Opens a path of the service."""
        self.page.goto(f"{self.root}{path}")
        return self.page

    @property
    def hosts(self) -> set[str]:
        """Whom the page asked for anything."""
        return {
            parts.netloc for parts in map(urlsplit, self.requests) if parts.scheme not in ("data", "blob")
        }

    def look(self, width: int, theme: str) -> None:
        """Sets the width of the window, and light or dark. Colours that change by and by are at their ends
        then.
        """
        self.page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.evaluate(_END_TRANSITIONS)

    def pass_time(self, *, seconds: int) -> None:
        """Moves the page's clock on: each timer that falls due runs once."""
        self.context.clock.fast_forward(seconds * 1000)

    def sticks_out(self) -> list[str]:
        """The elements by which the page could be scrolled sideways."""
        found: list[str] = self.page.evaluate(
            """() => {
              const width = document.documentElement.clientWidth;
              const wide = Math.max(document.documentElement.scrollWidth, document.body.scrollWidth);
              if (wide <= width) return [];
              const found = [...document.querySelectorAll("body *")]
                .filter((element) => element.getBoundingClientRect().right > width + 0.5)
                .map((element) => element.outerHTML.slice(0, 120));
              return [`the page is ${wide} wide`, ...found];
            }"""
        )
        return found

    def barriers(self, rules: Sequence[str] = ()) -> list[str]:
        """What axe-core finds serious: the rule, and where. It looks for all, or for these rules alone."""
        # Reading it costs as much as a run, and a page keeps it.
        if self.page.evaluate("typeof axe === 'undefined'"):
            self.page.evaluate(_axe())
        return [
            f"{one['id']}: {', '.join(str(node_['target']) for node_ in one['nodes'][:5])}"
            for one in self.page.evaluate(_FIND_VIOLATIONS, list(rules))
            if one["impact"] in SERIOUS
        ]

    def shoot(self, name: str) -> None:
        """Makes a screenshot, if CONSOLE_SHOTS says where to."""
        if SHOTS:
            Path(SHOTS).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)

    def close(self) -> None:
        """Closes the page and its context."""
        self.context.close()
