"""The README of the client is true: its examples have right types, and run as they are printed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.service.docs.pages import blocks
from tests.service.typescript_client.files import Files
from tests.service.typescript_client.project import CLIENT, run
from tests.support.node import NODE
from tests.support.realtime.browser import browser
from tests.support.realtime.programs import free_address
from tests.support.service import Serve
from tests.support.waiting import until

README = CLIENT / "README.md"
EXAMPLES = {block.name: block.code for block in blocks(README)}

PAGE = """<script>
history.replaceState(null, "", "/?session=SESSION");
const show = () => tell({ text: document.body.innerText });
new MutationObserver(show).observe(document.body, { childList: true });
</script>
<script type="module" src="FILES/page.js"></script>"""
REACT = """<script src="FILES/node_modules/react/umd/react.development.js"></script>
<script src="FILES/node_modules/react-dom/umd/react-dom.development.js"></script>
<div id="root"></div>
<script type="module">
import { SessionsClient } from "@eliza-sessions/client";
import { useSession } from "FILES/use-session.js";
const { createElement, useEffect, StrictMode } = React;
const client = new SessionsClient("URL");
function Page() {
  const { messages, pieces, isConnected, isOver, send } = useSession(client, "SESSION");
  const texts = messages.map((message) => message.text);
  useEffect(() => { tell({ texts, pieces, isConnected, isOver }); });
  return createElement("button", { onClick: () => send("Hello, React!") }, "send");
}
ReactDOM.createRoot(document.getElementById("root")).render(
  createElement(StrictMode, null, createElement(Page)));
const { promise, resolve } = Promise.withResolvers();
new MutationObserver((_, seen) => document.querySelector("button") && (seen.disconnect(), resolve()))
  .observe(document.getElementById("root"), { childList: true });
await promise;
document.querySelector("button").click();
</script>"""
TOKENS = """
import { createServer } from "node:http";
createServer((request, response) => {
  const isKnown = request.headers.authorization === "Bearer of a test" && request.method === "POST";
  console.log(request.url);
  response.writeHead(isKnown ? 201 : 401, { "Content-Type": "application/json" });
  response.end(JSON.stringify({ accessToken: "est_1", expiresAt: "", sessionId: "s", verbs: ["read"] }));
}).listen(Number(process.argv[2]), "127.0.0.1", () => console.log("ready"));
"""


@pytest.fixture
def examples(project: Path) -> Path:
    """A project with all examples."""
    for name, code in EXAMPLES.items():
        (project / name).write_text(code)
    shutil.copy(CLIENT / "examples" / "use-session.js", project)
    return project


def aim(directory: Path, name: str, **addresses: str) -> Path:
    """The example, with its default addresses replaced."""
    text = EXAMPLES[name]
    for default, address in addresses.items():
        old = {"service": "127.0.0.1:3000", "tokens": "127.0.0.1:8080", "port": "listen(8080)"}[default]
        assert old in text
        text = text.replace(old, address)
    (directory / name).write_text(text)
    return directory / name


def test_every_example_is_run_and_lines_are_narrow() -> None:
    tests = Path(__file__).read_text()
    assert all(f'"{name}"' in tests for name in EXAMPLES)
    assert "" not in EXAMPLES
    pages = (README, CLIENT / "examples" / "use-session.js")
    lines = [line for path in pages for line in path.read_text().splitlines()]
    assert [line for line in lines if len(line) > 110 and not line.startswith("|")] == []


def test_the_options_are_those_of_the_client() -> None:
    source = (CLIENT / "src" / "transport.js").read_text()
    assert re.findall(r"^\| `(\w+)` \|", README.read_text(), re.MULTILINE) == re.findall(
        r"^ \* @property \{.*\} \[(\w+)\] (?!Call)",
        source.partition("@typedef {object} Call\n")[0],
        re.MULTILINE,
    )


def test_the_conversation_and_the_errors(service: Serve, examples: Path) -> None:
    said = run(examples, NODE, aim(examples, "conversation.mjs", service=service.rest)).splitlines()
    pieces = [line.removeprefix("piece: ") for line in said if line.startswith("piece: ")]
    assert said[0] == "agent: Hello!"
    assert "".join(pieces) == "Hello again!"
    assert said[-5:] == [
        "agent: Hello again!",
        *["history: Hello again!"] * 2,
        *["history: Hello!"] * 2,
    ]
    said = run(examples, NODE, aim(examples, "errors.mjs", service=service.rest)).splitlines()
    assert said == ["There is no session 00000000-0000-4000-8000-000000000000"]


def test_the_watch_tells_messages_the_warning_and_the_end(service: Serve, examples: Path) -> None:
    session_id = service.create(timeoutConfig={"timeoutMinutes": 10, "warningThresholdMinutes": 2})[
        "sessionId"
    ]
    body = {"content": "Hello!", "transport": "http"}
    assert service.http.post(f"{service.url}/{session_id}/messages", json=body, timeout=60).status_code == 201
    command = [NODE, aim(examples, "watch.mjs", service=service.rest), session_id]
    with subprocess.Popen(command, cwd=examples, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert [process.stdout.readline() for _ in range(3)] == ["open\n", "1 Hello!\n", "2 Hello!\n"]
            service.advance(minutes=8, ms=500)
            warning = process.stdout.readline()
            assert re.fullmatch(r"[12](\.\d+)? minutes left\n", warning), warning
            service.advance(minutes=3)
            assert process.stdout.readline() == "the session is over\n"
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()


def test_the_back_end_makes_a_token(examples: Path, service: Serve) -> None:
    """Against a service of the test, since only one with access control has tokens."""
    fake, own = free_address(), free_address()
    (examples / "fake.mjs").write_text(TOKENS)
    backend = aim(examples, "backend.mjs", service=fake, port=f"listen({own.rpartition(':')[2]})")
    environment = {"SESSIONS_KEY": "of a test"}
    with (
        subprocess.Popen(
            [NODE, "fake.mjs", fake.rpartition(":")[2]], cwd=examples, stdout=subprocess.PIPE, text=True
        ) as tokens,
        subprocess.Popen([NODE, backend], cwd=examples, env=environment) as process,
    ):
        try:
            assert tokens.stdout.readline() == "ready\n"

            def answer() -> str | None:
                try:
                    return service.http.get(f"http://{own}/?session=s", timeout=20).text
                except OSError:
                    return None

            assert until(answer, "the back end") == "est_1"
            assert tokens.stdout.readline() == "/api/messaging/sessions/s/tokens\n"
        finally:
            process.kill()
            tokens.kill()


def test_the_page_converses_in_chromium(service: Serve, examples: Path, files: Files, tmp_path: Path) -> None:
    session_id = service.create()["sessionId"]
    aim(examples, "page.js", service=service.rest, tokens=files.url.removeprefix("http://"))
    # What the page's back end answers at `/`.
    made = service.http.post(f"{service.url}/{session_id}/tokens", timeout=20).json()
    (examples / "index.html").write_text(made["accessToken"])
    page = files.page(PAGE, SESSION=session_id)
    with browser(page, tmp_path / "profile") as recorder:

        def texts() -> list[str]:
            return [one.get("text", "") for one in recorder.records()]

        until(lambda: any(text.count("Hello from the page!") == 2 for text in texts()), "both messages")
        assert [one for one in recorder.records() if "error" in one] == []


def test_the_react_hook_shows_the_conversation(
    service: Serve, examples: Path, files: Files, tmp_path: Path
) -> None:
    session_id = service.create()["sessionId"]
    (examples / "react.js").write_text("export const { useCallback, useEffect, useState } = React;\n")
    page = files.page(REACT, URL=f"http://{service.rest}", SESSION=session_id)
    with browser(page, tmp_path / "profile") as recorder:
        shown = {"texts": ["Hello, React!"] * 2, "pieces": "", "isConnected": True, "isOver": False}
        until(lambda: shown in recorder.records(), "both messages")
        assert service.http.delete(f"{service.url}/{session_id}", timeout=10).status_code == 200
        over = {**shown, "isConnected": False, "isOver": True}
        until(lambda: over in recorder.records(), "the end of the session")
        assert [one for one in recorder.records() if "error" in one] == []
