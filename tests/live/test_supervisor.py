"""The REST facade as a child of `serve`: started from anywhere, with its parent's settings, and told about when it cannot be."""

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest
import requests
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from eliza.sessions.v1.session_service_pb2 import GetServiceStatusRequest, GetServiceStatusResponse
from eliza.sessions.v1.session_service_pb2_grpc import SessionServiceStub
from server.cli.supervisor import Supervisor
from server.settings import Settings
from tests.harness import ABSENT, Serve, environment
from tests.live.support import Ended, clean_failure, command, until
from tests.realtime.clients.programs import Program, facade

FREE = ("--grpc-address", "127.0.0.1:0", "--rest-address", "127.0.0.1:0")
UP_SECONDS = 60


def health(address: str) -> requests.Response:
    return requests.get(f"http://{address}/api/messaging/sessions/health", timeout=20)


def test_files_of_the_working_directory_are_not_taken_for_its_own(tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'executed')!r}, 'a').write(__file__)\nprint('ready', flush=True)\n"
    (tmp_path / "server").mkdir()
    for name in ("server.py", "server/__init__.py", "types.py", "flask.py", "uvicorn.py", "sitecustomize.py"):
        (tmp_path / name).write_text(code)
    program = Program([str(Path(sys.executable).with_name("eliza-sessions")), "serve", *FREE], tmp_path)
    try:
        assert health(program.addresses["rest"]).status_code == 200
    finally:
        program.kill()
    assert not (tmp_path / "executed").exists()


def test_the_facade_is_given_what_its_parent_has_resolved(start: Callable[..., Serve]) -> None:
    """Each variable is one that no command could use, and the command line has another value for it."""
    running = start(*FREE, "--rest-workers", "1", REST_ADDRESS="3000", GRPC_ADDRESS="nowhere", REST_WORKERS="none")
    assert health(running.rest).json()["status"] == "healthy"
    assert running.stop() == 0


def test_the_facade_inherits_no_secret(start: Callable[..., Serve], tmp_path: Path) -> None:
    secret = "s3cret-of-the-operator"
    names = ("AGENT_SECRET_ONE", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "PYTHON_INDEX_TOKEN", "HTTPS_PROXY")
    needed = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    url = f"sqlite:///{tmp_path / 'store.db'}?password={secret}"
    running = start(**dict.fromkeys(names, secret), **needed)
    (child,) = psutil.Process(running.process.pid).children()
    given = child.environ()
    assert [name for name, value in given.items() if secret in value or name in names] == []
    assert {name: given.get(name) for name in needed} == needed
    # Its parent has them, and its settings come another way, without the store's address.
    assert psutil.Process(running.process.pid).environ()["OPENAI_API_KEY"] == secret
    assert not {"DATABASE_URL", "GRPC_ADDRESS", "REST_ADDRESS"} & given.keys()
    with socket.socket() as listener:
        supervisor = Supervisor(Settings(database_url=url), "127.0.0.1:1", listener, lambda _: None, grace_seconds=1)
    assert secret not in supervisor._given.decode()
    assert health(running.rest).json()["status"] == "healthy"


class Interpreter:
    """A Python for `serve` to start its child with: one that works until it is made to fail."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "python"
        self._mode, self._starts = directory / "mode", directory / "starts"
        self._mode.write_text(":")
        self._starts.write_text("")
        self.path.write_text(f'#!/bin/sh\necho >>"{self._starts}"\n. "{self._mode}"\nexec "{sys.executable}" "$@"\n')
        self.path.chmod(0o700)

    def starts(self) -> int:
        return self._starts.read_text().count("\n")

    def run_first(self, commands: str) -> None:
        """Has it run these commands of the shell before the real one."""
        self._mode.write_text(f"{commands}\n")

    def command(self) -> list[str]:
        """`serve` by the real Python, which takes this one for itself."""
        run = "import os, sys; os.execv(sys.argv[1], sys.argv[2:])"
        return [sys.executable, "-c", run, sys.executable, str(self.path), "-m", "server.cli", "serve", *FREE]

    @property
    def paths(self) -> str:
        """For PYTHONPATH: the real one looks for its environment beside its name, where there is none."""
        return os.pathsep.join([ABSENT, *(path for path in sys.path if path)])


@pytest.fixture
def interpreter(tmp_path: Path) -> Interpreter:
    return Interpreter(tmp_path)


@pytest.fixture
def running(interpreter: Interpreter, tmp_path: Path) -> Iterator[Program]:
    program = Program(interpreter.command(), tmp_path, PYTHONPATH=interpreter.paths)
    yield program
    program.kill()


def refusal(interpreter: Interpreter, directory: Path) -> str:
    """The line with which `serve` ends."""
    done = subprocess.run(
        interpreter.command(),
        env=environment(PYTHONPATH=interpreter.paths),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    return clean_failure(Ended(done.returncode, done.stdout, done.stderr))


@pytest.mark.parametrize(
    ("commands", "words"),
    [
        ("exit 7", "its process ended with status 7"),
        ("kill -9 $$", "its process ended with status -9"),
        # Enough for Python to load, not for the facade's sockets.
        ("ulimit -n 24", "Too many open files"),
    ],
    ids=["ends", "killed", "descriptors"],
)
def test_a_facade_that_ends_at_its_start_ends_serve_with_a_line(
    interpreter: Interpreter, tmp_path: Path, commands: str, words: str
) -> None:
    interpreter.run_first(commands)
    assert refusal(interpreter, tmp_path) == f"Error: the REST facade cannot be started: {words}"


def test_a_facade_that_cannot_be_loaded_ends_serve_with_a_line(interpreter: Interpreter, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "flask.py").write_text("raise RuntimeError('half installed')\n")
    interpreter.run_first(f"PYTHONPATH={tmp_path / 'broken'}:$PYTHONPATH")
    assert refusal(interpreter, tmp_path) == "Error: the REST facade cannot be started: RuntimeError: half installed"


def test_an_interpreter_that_is_not_executable_ends_serve_with_a_line(interpreter: Interpreter, tmp_path: Path) -> None:
    interpreter.path.chmod(0o600)
    line = refusal(interpreter, tmp_path)
    assert line == f"Error: the REST facade cannot be started: {interpreter.path}: Permission denied"


def kill_facade(running: Program) -> None:
    (child,) = psutil.Process(running.process.pid).children()
    child.send_signal(signal.SIGKILL)


def test_a_facade_that_cannot_be_started_again_degrades_health_until_it_can(
    running: Program, interpreter: Interpreter, tmp_path: Path
) -> None:
    other = facade(running.addresses["grpc"], "127.0.0.1:0", tmp_path / "other")
    with grpc.insecure_channel(running.addresses["grpc"]) as channel:

        def told() -> int:
            return SessionServiceStub(channel).GetServiceStatus(GetServiceStatusRequest(), timeout=20).health

        try:
            assert (told(), interpreter.starts()) == (GetServiceStatusResponse.HEALTH_HEALTHY, 1)
            interpreter.run_first("exit 7")
            kill_facade(running)
            until(lambda: told() == GetServiceStatusResponse.HEALTH_DEGRADED, "degraded health")
            until(lambda: interpreter.starts() >= 3, "two more starts", UP_SECONDS)
            answer = health(other.addresses["rest"])
            assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
            # What gRPC serves is served.
            assert HealthStub(channel).Check(HealthCheckRequest(), timeout=20).status == HealthCheckResponse.SERVING
            interpreter.run_first(":")
            until(lambda: told() == GetServiceStatusResponse.HEALTH_HEALTHY, "health", UP_SECONDS)
        finally:
            other.kill()
    assert health(running.addresses["rest"]).json()["status"] == "healthy"
    log = running.log_path.read_text()
    assert [log.count(words) for words in ("facade died", "cannot be started", "answers again")] == [1, 1, 1], log
    assert "Traceback" not in log


@pytest.mark.parametrize("what", ["descriptors", "interpreter"])
def test_a_facade_is_started_again_once_what_stood_in_the_way_is_gone(running: Program, interpreter: Interpreter, what: str) -> None:
    pid = running.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    if what == "descriptors":
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    else:
        interpreter.path.chmod(0o600)
    kill_facade(running)
    until(lambda: "cannot be started" in running.log_path.read_text(), "a failed start", UP_SECONDS)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    interpreter.path.chmod(0o700)
    until(lambda: "answers again" in running.log_path.read_text(), "a start", UP_SECONDS)
    assert health(running.addresses["rest"]).json()["status"] == "healthy"
    assert "Traceback" not in running.log_path.read_text()
    running.process.terminate()
    assert running.process.wait(timeout=30) == 0


@pytest.mark.parametrize("descriptors", [20, 21, 22])
def test_a_start_without_descriptors_ends_with_a_line(tmp_path: Path, descriptors: int) -> None:
    settings = {"GRPC_ADDRESS": "127.0.0.1:0", "REST_ADDRESS": "127.0.0.1:0"}
    done = subprocess.run(
        ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *command("serve")],
        env=environment(**settings),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    clean_failure(Ended(done.returncode, done.stdout, done.stderr))
