"""A browser, a server that says what the tests want, and the facade with the console in front of it."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, expect

from tests.service.console.fake import FakeServer
from tests.support.chromium import PATIENCE_MS, Watched, open_chromium
from tests.support.realtime.programs import Facade

Open = Callable[..., Watched]
"""The fixture `watch`, which opens pages: `watch(root, width=390, theme="dark")`."""


expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """One for the tests of this folder that run one after the other: others may have event loops."""
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


class Running(NamedTuple):
    """A server, and the facade in front of it."""

    server: FakeServer
    facade: Facade


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Both, for as many tests as the browser."""
    with (
        FakeServer() as server,
        Facade(server.address, "127.0.0.1:0", tmp_path_factory.mktemp("facade")) as facade,
    ):
        yield Running(server, facade)


@pytest.fixture
def server(running: Running) -> FakeServer:
    """The server as it is at first: open, and there."""
    running.server.reset()
    return running.server


@pytest.fixture
def root(server: FakeServer, running: Running) -> str:
    """The address of the facade in front of the server."""
    return f"http://{running.facade.address}"
