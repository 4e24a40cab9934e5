"""A real browser: Chromium, which opens a page that records what it hears."""

import contextlib
import itertools
import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.service.watch.event_stream import Body

_HEADLESS = Path("/usr/lib/chromium/chromium-headless-shell")
"""Chromium without the parts of a desktop browser: the same engine, for a third of the CPU.

Of the package chromium-headless-shell, whose command is a script that would not pass on a signal.
"""

CHROMIUM = str(_HEADLESS if _HEADLESS.exists() else "/usr/bin/chromium")
FLAGS = [
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-dev-shm-usage",
    ),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


# The browser.


class Recorder(ThreadingHTTPServer):
    """Serves the page, and takes down what it reports."""

    daemon_threads = True

    def __init__(self, page: str) -> None:
        self.page = page.encode()
        self.heard: dict[int, Body] = {}
        super().__init__(("127.0.0.1", 0), _Handler)

    def records(self) -> list[Body]:
        """What the page reported, in its order, up to the first report that is still on its way."""
        return [
            self.heard[number] for number in itertools.takewhile(self.heard.__contains__, itertools.count())
        ]

    def ids(self) -> list[int]:
        return [
            int(one["id"]) for one in self.records() if "id" in one and one["type"] != "messageStreamChunk"
        ]

    def states(self) -> list[str]:
        return [one["state"] for one in self.records() if "state" in one]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Recorder

    def do_GET(self) -> None:
        self._answer(self.server.page if self.path == "/" else b"")

    def do_POST(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.heard[said.pop("number")] = said
        self._answer(b"")

    def log_message(self, *_arguments: object) -> None:
        pass

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def browser(page: str, profile: Path, host: str = "127.0.0.1") -> Iterator[Recorder]:
    """A browser with a page open that comes from a host, which leads to this machine."""
    recorder = Recorder(page)
    thread = threading.Thread(target=recorder.serve_forever)
    thread.start()
    url = f"http://{host}:{recorder.server_address[1]}/"
    with (profile.parent / "chromium.log").open("wb") as log:
        chromium = subprocess.Popen(
            [
                CHROMIUM,
                *FLAGS,
                "--host-resolver-rules=MAP *.example 127.0.0.1",
                f"--user-data-dir={profile}",
                url,
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield recorder
    finally:
        chromium.terminate()
        try:
            chromium.wait(timeout=10)
        except subprocess.TimeoutExpired:
            chromium.kill()
            chromium.wait(timeout=10)
        recorder.shutdown()
        recorder.server_close()
        thread.join()
