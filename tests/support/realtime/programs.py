"""Programs that a test starts, kills and starts again on the same ports."""

import contextlib
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import BinaryIO, Self

import requests

from tests.support.forks import Forked
from tests.support.service import environment, start_command, store_settings
from tests.support.waiting import PATIENCE_SECONDS

SLOW_AGENT = Path(__file__).parent / "slow_agent.py"


def free_address() -> str:
    """An address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Program:
    """A running program that has said `ready NAME=ADDRESS…`."""

    def __init__(self, line: list[str], directory: Path, **settings: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.log_path = directory / "program.log"
        with self.log_path.open("ab") as log:
            self.process = self._start(line, directory, log, settings)
        timer = threading.Timer(30, self.process.kill)
        timer.start()
        ready = self.process.stdout.readline().decode()
        timer.cancel()
        assert ready.startswith("ready "), self.log_path.read_text()
        self.addresses = dict(part.split("=", 1) for part in ready.split()[1:])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _start(
        self, line: list[str], directory: Path, log: BinaryIO, settings: dict[str, str]
    ) -> "subprocess.Popen[bytes] | Forked":
        return subprocess.Popen(
            line, cwd=directory, env=environment(**settings), stdout=subprocess.PIPE, stderr=log
        )

    def stop(self) -> int:
        """Ends it with SIGTERM; returns its exit status."""
        self.process.terminate()
        status = self.process.wait(timeout=PATIENCE_SECONDS)
        self.kill()
        return status

    def kill(self) -> None:
        """Kills it with SIGKILL; again does nothing."""
        self.process.kill()
        self.process.wait(timeout=10)
        with contextlib.suppress(OSError):
            self.process.stdout.close()


class Command(Program):
    """A running `eliza-sessions …`, as a fork."""

    def __init__(self, line: list[str], directory: Path, *, fresh: bool = False, **settings: str) -> None:
        """`line` are its arguments; `fresh` see `start_command`."""
        self._fresh = fresh
        super().__init__(line, directory, **settings)

    def _start(
        self, line: list[str], directory: Path, log: BinaryIO, settings: dict[str, str]
    ) -> "subprocess.Popen[bytes] | Forked":
        return start_command(line, directory, stderr=log, fresh=self._fresh, **settings)


class Facade(Command):
    """A running `eliza-sessions rest`: `address` is where it listens, `url` leads to its sessions."""

    def __init__(
        self, server: str, rest_address: str, directory: Path, *, fresh: bool = False, **settings: str
    ) -> None:
        """`fresh` see `start_command`."""
        line = ["rest", "--server", server, "--rest-address", rest_address]
        super().__init__(line, directory, fresh=fresh, **settings)
        self.address = self.addresses["rest"]
        self.url = f"http://{self.address}/api/messaging/sessions"

    def health(self) -> requests.Response:
        """GET /sessions/health."""
        return requests.get(f"{self.url}/health", timeout=PATIENCE_SECONDS)


def slow_agent(directory: Path, **settings: str) -> Program:
    """`eliza-sessions serve` whose echo agent does what the message says."""
    addresses = ["--grpc-address", "127.0.0.1:0", "--rest-address", "127.0.0.1:0"]
    line = [sys.executable, str(SLOW_AGENT), "serve", *addresses]
    return Program(line, directory, **store_settings(directory), **settings)
