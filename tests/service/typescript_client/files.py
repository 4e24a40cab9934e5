"""Pages that import the client from a directory of files, which is served to any origin."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

HEAD = """<!doctype html><title>a test</title><body>
<script type="importmap">{"imports": {
  "@eliza-sessions/client": "FILES/node_modules/@eliza-sessions/client/src/index.js",
  "react": "FILES/react.js"}}</script>
<script>
let number = 0;
function tell(what) {
  fetch("/record", { method: "POST", body: JSON.stringify({ number: number++, ...what }) });
}
addEventListener("error", (event) => tell({ error: event.message }));
addEventListener("unhandledrejection", (event) => tell({ error: String(event.reason) }));
</script>
"""
"""What each page begins with: `tell` reports to the test."""


class _Handler(SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        self.send_header("Access-Control-Allow-Origin", "*")
        super().end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


class Files:
    """A running server; `url` leads to the directory."""

    def __init__(self, directory: Path) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(directory)))
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def page(self, body: str, **values: str) -> str:
        """A page with this body, in which names in capitals are replaced by their values."""
        page = HEAD + body
        for name, value in {**values, "FILES": self.url}.items():
            page = page.replace(name, value)
        return page

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
