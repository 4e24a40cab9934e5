"""The client against a running service, in Node and in Chromium, also while the service is killed."""

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.contract.openapi import DOCUMENT
from tests.service.typescript_client.files import Files
from tests.service.typescript_client.project import run
from tests.support.node import NODE
from tests.support.realtime.browser import browser
from tests.support.realtime.programs import free_address
from tests.support.service import ECHO, Serve, Start
from tests.support.waiting import until

HERE = Path(__file__).parent
COUNT = 16
"""How many messages each client sends."""

PAGE = """<script type="module">
import { SessionsClient } from "@eliza-sessions/client";
import { talk } from "FILES/talking.js";
await talk(new SessionsClient("URL", { retries: 20 }), "SESSION", COUNT, tell);
</script>"""
PROGRAM = """
import { SessionsClient } from "@eliza-sessions/client";
import { talk } from "./talking.js";
const [url, sessionId, count] = process.argv.slice(2);
const client = new SessionsClient(url ?? "", { retries: 20 });
await talk(client, sessionId ?? "", Number(count), (what) => console.log(JSON.stringify(what)));
"""

Records = Callable[[], list[dict[str, Any]]]


def test_a_program_in_typescript_makes_every_call(service: Serve, project: Path) -> None:
    shutil.copy(HERE / "conversation.mts", project)
    said = run(project, NODE, "--no-warnings", "conversation.mts", f"http://{service.rest}", ECHO)
    assert said == "all as typed\n"


@pytest.mark.skipif(
    "/api/messaging/sessions/{sessionId}/tokens" not in DOCUMENT["paths"], reason="waits for access control"
)
def test_a_page_outlives_its_tokens(start: Start, project: Path) -> None:
    key = "a key of a test, and long enough"
    service = start(ELIZA_SERVER_AUTH_TOKEN=key)
    shutil.copy(HERE / "tokens.mjs", project)
    said = run(project, NODE, "tokens.mjs", f"http://{service.rest}", key, ECHO)
    assert said == "all tokens were renewed\n"


def restart_while_they_talk(
    start: Start, directory: Path, records: Records, service: Serve, ends: Sequence[Callable[[Serve], object]]
) -> Serve:
    """Ends the service in each of these ways, in the middle of the conversation, and starts it again."""
    addresses = {"GRPC_ADDRESS": service.grpc, "REST_ADDRESS": service.rest}

    def answered() -> int:
        return sum("answered" in one for one in records())

    for round_, end in enumerate(ends, 1):
        until(lambda count=round_ * 4: answered() >= count, "some answers")
        end(service)
        until(lambda count=round_: records().count({"state": "lost"}) >= count, "the watch to be lost")
        service = start(directory=directory, **addresses)
    until(lambda: answered() == COUNT, "all answers", 60)
    return service


def check_nothing_is_lost_or_doubled(service: Serve, session_id: str, records: Records) -> None:
    """Each message was stored and heard once, in order; the watch ends with the session."""
    until(lambda: sum("id" in one for one in records()) >= 2 * COUNT, "all events")
    assert service.http.delete(f"{service.url}/{session_id}", timeout=10).status_code == 200
    until(lambda: {"state": "ended"} in records(), "the end of the watch")
    heard = [one for one in records() if "id" in one]
    assert [one["id"] for one in heard] == list(range(1, 2 * COUNT + 1))
    assert [one["data"]["sequence"] for one in heard] == [one["id"] for one in heard]
    texts = [f"message {number}" for number in range(1, COUNT + 1)]
    for is_agent in (False, True):
        assert [one["data"]["text"] for one in heard if one["data"]["isAgent"] is is_agent] == texts
    assert [one["answered"] for one in records() if "answered" in one] == texts
    states = [one["state"] for one in records() if "state" in one]
    assert states == ["open", *["lost", "open"] * (len(states) // 2 - 1), "ended"]
    assert "lost" in states
    assert [one for one in records() if "error" in one] == []


def test_a_conversation_in_chromium_goes_on_over_kills_and_restarts(
    start: Start, project: Path, files: Files, tmp_path: Path
) -> None:
    directory = tmp_path / "service"
    service = start(directory=directory, GRPC_ADDRESS=free_address(), REST_ADDRESS=free_address())
    session_id = service.create()["sessionId"]
    shutil.copy(HERE / "talking.js", project)
    page = files.page(PAGE, URL=f"http://{service.rest}", SESSION=session_id, COUNT=str(COUNT))
    with browser(page, tmp_path / "profile") as recorder:

        def records() -> list[dict[str, Any]]:
            # What the page tells comes on several connections: up to the first that is missing, it is whole.
            heard = dict(recorder.heard)
            return [heard[number] for number in range(len(heard)) if number in heard]

        ends = (Serve.kill, Serve.stop, Serve.kill)
        service = restart_while_they_talk(start, directory, records, service, ends)
        check_nothing_is_lost_or_doubled(service, session_id, records)


def test_a_conversation_in_node_goes_on_over_a_kill(start: Start, project: Path, tmp_path: Path) -> None:
    directory = tmp_path / "service"
    service = start(directory=directory, GRPC_ADDRESS=free_address(), REST_ADDRESS=free_address())
    session_id = service.create()["sessionId"]
    shutil.copy(HERE / "talking.js", project)
    (project / "program.mjs").write_text(PROGRAM)
    lines: list[str] = []
    command = [NODE, "program.mjs", f"http://{service.rest}", session_id, str(COUNT)]
    process = subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True)
    reader = threading.Thread(target=lambda: lines.extend(process.stdout))
    with process:
        try:
            reader.start()

            def records() -> list[dict[str, Any]]:
                return [json.loads(line) for line in lines]

            service = restart_while_they_talk(start, directory, records, service, [Serve.kill])
            check_nothing_is_lost_or_doubled(service, session_id, records)
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
            reader.join(timeout=10)
