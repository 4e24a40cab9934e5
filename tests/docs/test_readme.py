"""The README is true: its tables are those of the code, and its examples run as they are printed, against a real service."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eliza.sessions.v1 import agent_pb2, agent_service_pb2
from server.agents.connectors import connect
from server.agents.registry import read_agents_file
from server.domain.agents import OpenAiSettings
from server.settings import load_settings
from tests import node
from tests.docs import tables
from tests.docs.walk import example, walk
from tests.harness import Serve

ROOT = tables.README.parent
TEXT = tables.README.read_text()


def against(service: Serve, code: str) -> str:
    """An example with the default addresses replaced by the service's."""
    return code.replace("127.0.0.1:3000", service.rest).replace("127.0.0.1:50051", service.grpc)


def test_tables_are_those_of_the_code() -> None:
    assert tables.written(TEXT) == TEXT, "run python -m tests.docs.tables"


def test_a_reader_gets_through_it(tmp_path: Path) -> None:
    """From the top to the end in one shell, with an installation of the reader's own; no command fails, and no answer is an error."""
    said = walk(tmp_path)
    check_the_conversation_by_curl(*said["A conversation by curl"])
    check_the_conversation(*said["The same from Python"])
    check_the_conversation(said["The same from another language"][1])
    first, again = map(json.loads, said["Safe retries"][0].splitlines())
    assert first == again
    assert first["content"] == "Hello!"
    added = "".join(said["Agents"])
    assert [name for name in ("Support", "GPT", "Llama") if name not in added] == []
    _, moved = said["Testing your own code against it"]
    before, after = map(json.loads, moved.splitlines())
    assert before["now"] < after["now"]


def check_the_conversation_by_curl(output: str) -> None:
    events = [json.loads(line.removeprefix("data: ")) for line in output.splitlines() if line.startswith("data: ")]
    created, sent, unanswered, history, renewed, patched, beaten, read, deleted = (
        json.loads(line) for line in output.splitlines() if line.startswith("{")
    )
    assert created["metadata"] == {"platform": "web"}
    assert (sent["content"], sent["agentResponse"]["text"], sent["metadata"]["mood"]) == ("Hello!", "Hello!", "curious")
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
def working(command: list[str], directory: Path) -> Iterator[None]:
    """A worker of the README, as long as the block lasts."""
    with subprocess.Popen(command, cwd=directory) as process:
        try:
            yield
        finally:
            process.kill()


def check_worker(service: Serve, command: list[str], directory: Path, said: str) -> None:
    """Registers an agent, has the worker serve it, and holds a conversation with it."""
    wanted = agent_pb2.Agent(name="of the README", kind=agent_pb2.AGENT_KIND_STREAM)
    agent_id = service.agents.CreateAgent(agent_service_pb2.CreateAgentRequest(agent=wanted), timeout=5).agent.agent_id
    session_id = service.create(agentId=agent_id)["sessionId"]
    with working([*command, agent_id], directory):
        body = {"content": "Hello!", "transport": "http"}
        answer = service.http.post(f"{service.url}/{session_id}/messages", json=body, timeout=60).json()
    assert answer["agentResponse"]["text"] == f"{said}Hello!", answer


def test_the_worker_in_python(service: Serve, tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(against(service, example("worker.py")))
    check_worker(service, [sys.executable, "worker.py"], tmp_path, "After 0 messages you say: ")


def test_the_worker_in_javascript(service: Serve, node_directory: Path) -> None:
    (node_directory / "worker.js").write_text(against(service, example("worker.js")))
    check_worker(service, [str(node.NODE), "worker.js"], node_directory, "You say: ")


def test_the_file_of_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test")
    path = tmp_path / "agents.toml"
    path.write_text(example("agents.toml"))
    connectors = connect(load_settings().timeout_policy, allowed_hosts=[], allowed_secrets=["OPENAI_API_KEY"])
    (agent,) = read_agents_file(path, 0, connectors)
    assert (agent.name, agent.timeout.timeout_minutes) == ("Support", 60)
    assert isinstance(agent.settings, OpenAiSettings)
    assert (agent.settings.model, agent.settings.temperature) == ("gpt-4o-mini", 0.2)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(((?!http)[^)#\s]+)\)", TEXT))))
def test_links_lead_somewhere(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("module", sorted(set(re.findall(r"-m (tests\.[\w.]+)", TEXT))))
def test_commands_of_the_repository_exist(module: str) -> None:
    path = ROOT / module.replace(".", "/")
    assert path.with_suffix(".py").exists() or (path / "__main__.py").exists()
