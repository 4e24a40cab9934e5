"""The README of the Python client is true: its blocks run as they are printed, and their types are right."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service.agents.worker import stream_agent
from tests.service.docs.pages import blocks
from tests.support.clients import create, replies, send
from tests.support.service import Serve

ROOT = Path(__file__).parents[3]
README = ROOT / "clients" / "python" / "README.md"
BLOCKS = blocks(README)
PATH = os.pathsep.join((str(ROOT / "clients" / "python" / "src"), str(ROOT / "protos")))
SAID = {
    "A conversation": (
        "agent Hello!\npiece Hello, \npiece echo!\nwhole Hello, echo!\nhistory: user Bye!\n",
        "1 Hello!\n2 Hello!\n",
    ),
    "Errors and retries": ("no session 99999999-9999-4999-8999-999999999999\n",),
}


def example(name: str) -> str:
    (code,) = [block.code for block in BLOCKS if block.name == name]
    return code


def run(code: str, service: Serve, directory: Path, *arguments: str) -> str:
    path = directory / "example.py"
    address = f'"{service.grpc}"'
    path.write_text(
        code.replace("Client()", f"Client({address})")
        .replace("Client(timeout", f"Client({address}, timeout")
        .replace("127.0.0.1:50051", service.grpc)
    )
    done = subprocess.run(
        [sys.executable, path.name, *arguments],
        cwd=directory,
        env={"PYTHONPATH": PATH},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PROGRAMS = [block for block in BLOCKS if block.language == "python" and not block.name]


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_an_example_says_what_it_should(service: Serve, tmp_path: Path, number: int) -> None:
    block = PROGRAMS[number]
    same = [one for one in PROGRAMS if one.section == block.section]
    expected = SAID[block.section][same.index(block)]
    # The reply to the last message may be there already.
    said = run(block.code, service, tmp_path).replace("history: agent Bye!\n", "")
    # The agent cuts its reply where it likes.
    assert without_pieces(said).startswith(without_pieces(expected))
    assert ("piece " in said) == ("piece " in expected)


def without_pieces(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("piece "))


def test_every_example_is_run() -> None:
    assert {block.name for block in BLOCKS} == {"", "agent.py", "test_agent.py"}
    assert {block.language for block in BLOCKS} == {"python", "bash"}
    assert {block.section for block in PROGRAMS} == SAID.keys()


def test_the_agent_answers_and_its_test_passes(service: Serve, tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(example("agent.py").replace("127.0.0.1:50051", service.grpc))
    (tmp_path / "test_agent.py").write_text(example("test_agent.py"))
    environment = {"PYTHONPATH": os.pathsep.join((PATH, str(tmp_path)))}
    agent_id = stream_agent(service)
    session_id = create(service, agent_id).session_id
    with subprocess.Popen([sys.executable, "agent.py", agent_id], cwd=tmp_path, env=environment) as worker:
        try:
            send(service, session_id, "Hello!")
            (reply,) = replies(service, session_id, 1)
        finally:
            worker.terminate()
    assert reply.content == "After 0 messages you say: Hello!"
    assert worker.returncode == 0
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv[1:] = ['id']; import test_agent as t; t.test_it_counts()",
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_their_types_are_right(tmp_path: Path) -> None:
    for number, block in enumerate(PROGRAMS):
        (tmp_path / f"example_{number}.py").write_text(block.code)
    for name in ("agent.py", "test_agent.py"):
        (tmp_path / name).write_text(example(name))
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from eliza_sessions_client import Client\nClient().get(7).user_id + 1\n")
    mypy = [sys.executable, "-m", "mypy", "--strict", "--explicit-package-bases", "--cache-dir", "cache"]
    done = subprocess.run(
        [*mypy, "."],
        cwd=tmp_path,
        env={"MYPYPATH": PATH},
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    complaints = done.stdout.splitlines()[:-1]
    assert [line for line in complaints if not line.startswith("wrong.py")] == []
    assert len(complaints) == 2, done.stdout + done.stderr
