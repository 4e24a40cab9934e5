"""A browser, a server that says what the tests want, and the facade with the console in front of it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.service.console.fake import FakeServer
from tests.support.chromium import Watched, open_chromium
from tests.support.realtime.programs import Facade

Open = Callable[..., Watched]
"""The fixture `watch`, which opens pages: `watch(root, width=390, theme="dark")`."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def watch(chromium: Browser) -> Iterator[Open]:
    opened: list[Watched] = []

    def opener(root: str, **options: Any) -> Watched:
        opened.append(Watched(chromium, root, **options))
        return opened[-1]

    yield opener
    for one in opened:
        one.close()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


@pytest.fixture
def root(server: FakeServer, tmp_path: Path) -> Iterator[str]:
    """The address of the facade in front of the server."""
    with Facade(server.address, "127.0.0.1:0", tmp_path / "facade") as facade:
        yield f"http://{facade.address}"
