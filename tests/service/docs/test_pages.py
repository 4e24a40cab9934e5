"""The README and docs/ are true: tables are those of the code, and examples run as they are printed, against
a real service.
"""

import asyncio
import base64
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eliza.sessions.errors import TABLE
from eliza.sessions.v1 import agent_pb2, agent_service_pb2
from server.agents.agents_file import read_agents_file
from server.agents.connectors import build_connectors
from server.agents.webhook import signed_headers, signing_key
from server.domain.agents import OpenAiSettings
from server.environment import load_settings
from server.setting_types import split_list
from tests.service.agents.webhook_server import Server, reply
from tests.service.docs import tables
from tests.service.docs.pages import DOCS, PAGES, README, ROOT, blocks, example
from tests.service.docs.walk import COMMANDS, WALKED, walk
from tests.support import node
from tests.support.realtime.programs import free_address
from tests.support.service import Serve, Start
from tests.support.waiting import until

AGENTS = (DOCS / "agents.md").read_text()
GUIDES = (
    *PAGES,
    ROOT / ".github" / "CONTRIBUTING.md",
    ROOT / ".github" / "SECURITY.md",
    ROOT / "tests" / "campaigns" / "README.md",
)
"""All pages: those for users, and those for contributors."""


def against(service: Serve, code: str) -> str:
    """An example with the default addresses replaced by the service's."""
    return code.replace("127.0.0.1:3000", service.rest).replace("127.0.0.1:50051", service.grpc)


@pytest.mark.parametrize("page", tables.TABLES, ids=lambda page: page.name)
def test_tables_are_those_of_the_code(page: Path) -> None:
    assert tables.written(page) == page.read_text(), "run python -m tests.service.docs.tables"


def test_the_reference_has_the_errors_and_the_settings_of_the_code() -> None:
    reference = (DOCS / "sessions-api.md").read_text()
    errors = re.findall(r"^\| (\w+Error) \| (\w+) \| (\d+) \| (.*) \|$", reference, re.MULTILINE)
    assert len(errors) == 12
    for error_class, reason, status, details in errors:
        row = TABLE[reason]
        assert (row.error_class, str(row.http_status)) == (error_class, status), reason
        assert re.findall(r"`(\w+)`", details) == list(row.details), reason
    settings = re.findall(r"^\| ([A-Z_]+) \| (\S+) \| (.*?) ?\| .* \|$", reference, re.MULTILINE)
    assert len(settings) == 7
    for name, default, bounds in settings:
        row = re.search(
            rf"^\| `{name}` \| `(.*?)` \| (.*?) \|", (DOCS / "settings.md").read_text(), re.MULTILINE
        )
        assert row
        assert row.groups() == (default, bounds or "true or false"), name


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) < 150


def test_the_tests_that_reproduce_bugs_exist() -> None:
    named = set(re.findall(r"`(test_\w+|Test\w+)`", (ROOT / "tests" / "campaigns" / "README.md").read_text()))
    assert len(named) > 20
    defined = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"(?:def|class) ([tT]est\w+)", path.read_text())
    }
    assert named - defined == set()


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_lines_are_narrow_but_for_tables(page: Path) -> None:
    assert [
        line for line in page.read_text().splitlines() if len(line) > 110 and not line.startswith("|")
    ] == []


@pytest.mark.parametrize("page", [*GUIDES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_tables_are_shown_as_tables(page: Path) -> None:
    tables = re.findall(r"(?:^\|.*\n?)+", page.read_text(), re.MULTILINE)
    assert [table for table in tables if not re.match(r"\|.*\n\|[-| ]+\|\n", table)] == []


def test_every_example_is_run() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for page in PAGES:
        for block in blocks(page):
            if block.name:
                assert f'example("{block.name}")' in tests, block
            else:
                # The picture of the architecture is no code.
                assert block.language == "text" or (page in WALKED and block.language in COMMANDS), block


@pytest.mark.long
def test_a_reader_gets_through_them(tmp_path: Path) -> None:
    """From the README to the agents in one shell, with an installation of the reader's own; no command fails,
    and no answer is an error.
    """
    said = walk(tmp_path)
    check_the_conversation_with_curl(*said["A conversation with curl"])
    check_the_conversation(said["The same from Python"][1])
    check_the_conversation(said["gRPC from other languages"][1])
    first, again = map(json.loads, said["Repeating a call safely"][0].splitlines())
    assert first == again
    assert first["content"] == "Hello!"
    added = "".join(said[""] + said["A webhook"] + said["An OpenAI-compatible endpoint"])
    assert [name for name in ("Support", "GPT", "Llama") if name not in added] == []
    _, moved = said["The test clock"]
    before, after = map(json.loads, moved.splitlines())
    assert before["now"] < after["now"]


def check_the_conversation_with_curl(output: str) -> None:
    events = [
        json.loads(line.removeprefix("data: ")) for line in output.splitlines() if line.startswith("data: ")
    ]
    created, sent, unanswered, history, renewed, patched, beaten, read, deleted = (
        json.loads(line) for line in output.splitlines() if line.startswith("{")
    )
    assert created["metadata"] == {"platform": "web"}
    assert (sent["content"], sent["agentResponse"]["text"], sent["metadata"]["mood"]) == (
        "Hello!",
        "Hello!",
        "curious",
    )
    assert (events[0]["content"], events[-1]["text"]) == ("Hello again!", "Hello again!")
    assert len(events) > 2
    assert unanswered["content"] == "Bye!"
    assert {"Hello!", "Hello again!", "Bye!"} == {message["content"] for message in history["messages"]}
    assert renewed["renewalCount"] == 4
    assert patched["timeoutConfig"]["timeoutMinutes"] == 60
    assert beaten["renewalCount"] == 5
    assert read["sessionId"] == created["sessionId"]
    assert deleted["success"] is True


def check_the_conversation(output: str) -> None:
    lines = output.splitlines()
    pieces = [line.removeprefix("piece ") for line in lines if line.startswith("piece ")]
    assert len(pieces) > 1
    assert "".join(pieces) == "Hello, echo!"
    assert lines[len(pieces) : len(pieces) + 4] == [
        "agent Hello, echo!",
        "history: user Hello, echo!",
        "history: agent Hello, echo!",
        "history: user Bye!",
    ]


@pytest.fixture(scope="module")
def node_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README's JavaScript finds what it wants: its packages, and the protos."""
    directory = tmp_path_factory.mktemp("node")
    (directory / "node_modules").symlink_to(node.install())
    (directory / "protos").symlink_to(ROOT / "protos")
    return directory


@contextmanager
def working(command: list[str], directory: Path, **variables: str) -> Iterator[None]:
    """A worker or a webhook of the README, as long as the block lasts."""
    with subprocess.Popen(command, cwd=directory, env={**os.environ, **variables}) as process:
        try:
            yield
        finally:
            process.kill()


def check_worker(service: Serve, command: list[str], directory: Path, said: str, failure: str) -> None:
    """Registers an agent, has the worker serve it, and holds a conversation with it: also after a message at
    which it fails.
    """
    wanted = agent_pb2.Agent(name="of the README", kind=agent_pb2.AGENT_KIND_STREAM)
    agent_id = service.agents.CreateAgent(
        agent_service_pb2.CreateAgentRequest(agent=wanted), timeout=5
    ).agent.agent_id
    session_id, failing = (
        service.create(agentId=agent_id)["sessionId"],
        service.create(agentId=agent_id)["sessionId"],
    )
    request = agent_service_pb2.GetAgentRequest(agent_id=agent_id, view=agent_pb2.AGENT_VIEW_STATUS)

    def last_failure() -> agent_pb2.DeliveryFailure | None:
        status = service.agents.GetAgent(request, timeout=10).agent.status
        return status.last_failure if status.HasField("last_failure") else None

    with working([*command, agent_id], directory):
        service.http.post(f"{service.url}/{failing}/messages", json={"content": "Fail!"}, timeout=60)
        found = until(last_failure, "the failure", 60)
        assert (found.session_id, found.reason) == (failing, failure)
        body = {"content": "Hello!", "transport": "http"}
        answer = service.http.post(f"{service.url}/{session_id}/messages", json=body, timeout=60).json()
    assert answer["agentResponse"]["text"] == f"{said}Hello!", answer


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("worker.py", example("worker.py"), "After 0 messages you say: "),
        ("reply.py", example("reply.py"), "You say: "),
    ],
)
def test_the_worker_in_python_replies(
    service: Serve, tmp_path: Path, name: str, code: str, said: str
) -> None:
    line = "-> AsyncIterator[str]:\n"
    failing = line + '    if turn.text == "Fail!":\n        raise ValueError("no")\n'
    assert line in code
    (tmp_path / name).write_text(against(service, code.replace(line, failing)))
    check_worker(service, [sys.executable, name], tmp_path, said, "the agent could not answer")


def test_the_worker_in_javascript_replies(service: Serve, node_directory: Path) -> None:
    line = '  send("You say: ");\n'
    failing = line + '  if (delivery.message.content === "Fail!") throw new TypeError("no");\n'
    code = example("worker.js")
    assert line in code
    (node_directory / "worker.js").write_text(against(service, code.replace(line, failing)))
    check_worker(
        service, [str(node.NODE), "worker.js"], node_directory, "You say: ", "the agent threw TypeError"
    )


def test_the_webhook_in_python_replies(start: Start, tmp_path: Path) -> None:
    address = free_address()
    host, _, port = address.partition(":")
    secret = "whsec_" + base64.b64encode(b"of a test, and long enough").decode()
    service = start(AGENT_ALLOWED_HOSTS=host, AGENT_SECRET_SUPPORT=secret)
    (tmp_path / "webhook.py").write_text(
        example("webhook.py").replace('"127.0.0.1", 8000', f'"{host}", {port}')
    )
    settings = agent_pb2.WebhookSettings(
        url=f"http://{address}/", secret="env:AGENT_SECRET_SUPPORT", history_messages=5
    )
    wanted = agent_pb2.Agent(name="of the README", kind=agent_pb2.AGENT_KIND_WEBHOOK, webhook=settings)
    agent_id = service.agents.CreateAgent(
        agent_service_pb2.CreateAgentRequest(agent=wanted), timeout=5
    ).agent.agent_id
    messages = f"{service.url}/{service.create(agentId=agent_id)['sessionId']}/messages"
    with working([sys.executable, "webhook.py"], tmp_path, AGENT_SECRET_SUPPORT=secret):
        replies = []
        for content in ("Hello!", "Bye!"):
            answer = service.http.post(
                messages, json={"content": content, "transport": "http"}, timeout=60
            ).json()
            replies.append(answer["agentResponse"]["text"])
        assert replies == ["After [] you say: Hello!", "After ['Hello!'] you say: Bye!"]
        # Whoever does not know the secret, or repeats an old message, is not answered.
        body, now_s = b'{"data": {"message": {"content": "x"}, "history": []}}', int(time.time())
        key = signing_key(secret)
        for signed, status in (
            (signed_headers(key, "d", now_s, body), 200),
            (signed_headers(key[:-1], "d", now_s, body), 401),
            (signed_headers(key, "d", now_s - 1000, body), 401),
            (signed_headers(key, "d", now_s, body + b" "), 401),
            ({}, 401),
        ):
            assert (
                service.http.post(f"http://{address}/", data=body, headers=signed, timeout=10).status_code
                == status
            ), signed


def test_a_webhook_gets_the_fields_that_are_described(start: Start) -> None:
    secret = base64.b64encode(b"of a test, and long enough").decode()
    service = start(AGENT_ALLOWED_HOSTS="127.0.0.1", AGENT_SECRET_SUPPORT=secret)
    with Server(reply(thought="hm", actions=["WAVE"], attachments=[1])) as server:
        settings = agent_pb2.WebhookSettings(
            url=server.url, secret="env:AGENT_SECRET_SUPPORT", history_messages=5
        )
        wanted = agent_pb2.Agent(name="told all", kind=agent_pb2.AGENT_KIND_WEBHOOK, webhook=settings)
        agent_id = service.agents.CreateAgent(
            agent_service_pb2.CreateAgentRequest(agent=wanted), timeout=5
        ).agent.agent_id
        session_id = service.create(agentId=agent_id, metadata={"plan": "free"})["sessionId"]
        messages = f"{service.url}/{session_id}/messages"
        for content in ("Hello!", "Bye!"):
            body = {"content": content, "transport": "http", "metadata": {"plan": "admin"}}
            assert service.http.post(messages, json=body, timeout=60).status_code == 201
        last = server.requests[-1].json["data"]
    table = AGENTS.partition("A message has:")[2].partition("The response holds")[0]
    described = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\|([^|]+)\|", table, re.MULTILINE))))
    assert last["history"][1].keys() == described
    assert last["metadata"] == {"plan": "free"}
    assert last["message"]["metadata"] == last["message"]["ownMetadata"] == {"plan": "admin"}
    assert last["history"][1]["metadata"] == last["history"][1]["ownMetadata"] == {}
    assert described - last["message"].keys() == {"attachments", "thought", "actions"}
    assert json.loads(example("envelope.json"))["data"].keys() == last.keys()


def test_the_event_stream_in_javascript_hears_the_reply(service: Serve, tmp_path: Path) -> None:
    session_id = service.create()["sessionId"]
    body = {"content": "Hello!", "transport": "http"}
    assert service.http.post(f"{service.url}/{session_id}/messages", json=body, timeout=60).status_code == 201
    head = f"const sessionId = '{session_id}';\n"
    end = "let left = 2;\nevents.addEventListener('messageBroadcast', () => --left || events.close());"
    (tmp_path / "events.js").write_text(head + against(service, example("event-source.js")) + end)
    command = [node.NODE, "--experimental-eventsource", "--no-warnings", "events.js"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "Hello!\n" * 2), done.stderr


def test_the_file_of_agents_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test")
    path = tmp_path / "agents.toml"
    path.write_text(example("agents.toml"))
    settings = load_settings()
    connectors = build_connectors(
        settings.timeout_policy, allowed_hosts=[], allowed_secrets=split_list(settings.agent_secrets)
    )
    (agent,) = asyncio.run(read_agents_file(path, 0, connectors))
    assert (agent.name, agent.timeout.timeout_minutes) == ("Support", 60)
    assert isinstance(agent.settings, OpenAiSettings)
    assert (agent.settings.model, agent.settings.temperature) == ("gpt-4o-mini", 0.2)


LINKS = [(page, link) for page in GUIDES for link in re.findall(r"\]\(((?!http)[^)\s]+)\)", page.read_text())]


@pytest.mark.parametrize(
    ("page", "link"), LINKS, ids=lambda part: part.name if isinstance(part, Path) else part
)
def test_links_lead_somewhere(page: Path, link: str) -> None:
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    assert target.exists()
    if anchor:
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
        anchors = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
        # Of two that are the same a browser shows the first.
        assert anchors.count(anchor) == 1


@pytest.mark.parametrize(
    "module",
    sorted({module for page in GUIDES for module in re.findall(r"-m (tests\.[\w.]+)", page.read_text())}),
)
def test_commands_of_the_repository_exist(module: str) -> None:
    path = ROOT / module.replace(".", "/")
    assert path.with_suffix(".py").exists() or (path / "__main__.py").exists()
