"""A real `eliza-sessions serve` process for tests: started in a directory of its own, on free ports, and
ended or killed.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import grpc
import requests

from eliza.sessions.v1 import (
    agent_service_pb2_grpc,
    clock_service_pb2,
    clock_service_pb2_grpc,
    message_service_pb2_grpc,
    session_service_pb2_grpc,
)
from tests.support.forks import Forked, ForkServer

COMMAND = (sys.executable, "-m", "server.cli")
START_SECONDS = 90
HIDDEN_PACKAGES = str(Path(__file__).parent / "hidden_packages")
"""On a service's PYTHONPATH it hides what only the tests have installed: the service starts as it does for
its users, a fifth faster.
"""
SETTINGS = (
    *(
        "SESSION_",
        "GRPC_",
        "REST_",
        "DATABASE_",
        "POSTGRES_",
        "AGENTS_FILE",
        "TEST_CLOCK",
        "CLEAR_SESSIONS",
        "SHUTDOWN_",
        "LOG_",
        "ELIZA_",
        "SERVER_",
        "METRICS_",
        "TRACES",
        "OTEL_",
    ),
    *("ALLOW_OPEN", "TRUSTED_PROXIES", "CONSOLE"),
    *("KEYS_FILE", "ACCESS_TOKEN_", "JWT_", "USERS_MAY_CHANGE", "RATE_"),
)
ECHO = "00000000-0000-4000-8000-0000000000ec"
USER = "11111111-1111-4111-8111-111111111111"
UNKNOWN = "99999999-9999-4999-8999-999999999999"
"""The id of nothing: no session, agent or delivery has it."""


def environment(**settings: str) -> dict[str, str]:
    """The environment of a command: ours without any setting of the service, and these."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)},
        "PYTHONPATH": HIDDEN_PACKAGES,
        **settings,
    }


def back_end() -> str:
    """What the tests are run on: what TEST_STORE names."""
    return os.environ.get("TEST_STORE") or "sqlite"


def store_settings(directory: Path) -> dict[str, str]:
    """The settings of the store of a service in a directory, on the back end that TEST_STORE names.

    `sqlite`, where nothing is said. `postgres`; `unannounced`: there, and servers tell each other nothing;
    `pgbouncer`: there, through a pooler of transactions.
    """
    if back_end() == "sqlite":
        return {"DATABASE_URL": f"sqlite:///{directory / 'store.db'}"}
    if back_end() == "pgbouncer":
        from tests.support.pgbouncer import pooled_store

        return pooled_store(directory)
    from tests.support.postgres import database_of

    announces = {"postgres": "true", "unannounced": "false"}[back_end()]
    return {"DATABASE_URL": database_of(directory), "POSTGRES_ANNOUNCE": announces}


def direct_url(directory: Path) -> str:
    """Where the store of a service in a directory is, past any pooler."""
    settings = store_settings(directory)
    return settings.get("DATABASE_LISTEN_URL") or settings["DATABASE_URL"]


def store_fields(directory: Path) -> dict[str, str]:
    """The settings of the store as `Settings` takes them, for a service in this process."""
    return {name.lower(): value for name, value in store_settings(directory).items()}


fork_server: ForkServer | None = None
"""What starts processes, while tests run; campaigns that are run as commands start each anew."""


def start_command(
    arguments: Sequence[str],
    directory: Path,
    *,
    stderr: BinaryIO,
    stdout: BinaryIO | None = None,
    stdin: BinaryIO | None = None,
    fresh: bool = False,
    **settings: str,
) -> "subprocess.Popen[bytes] | Forked":
    """Starts `eliza-sessions …` in a directory. Without `stdout`, that of the process is a pipe; without
    `stdin` there is nothing to read.

    `fresh`: in a Python of its own, as users start it; else a fork will do.
    """
    wanted = environment(**settings)
    if fork_server and not fresh and fork_server.can_start(wanted):
        if arguments[0] == "rest":
            from server.cli.rest import select_inherited

            # It would start itself anew to get rid of the others.
            wanted = select_inherited(wanted)
        return fork_server.start(arguments, directory, wanted, stderr, stdout, stdin)
    return subprocess.Popen(
        [*COMMAND, *arguments],
        env=wanted,
        stdin=stdin or subprocess.DEVNULL,
        stdout=stdout or subprocess.PIPE,
        stderr=stderr,
        cwd=directory,
    )


class Serve:
    """A running service.

    `grpc` and `rest` are its addresses; `channel` and the stubs lead to the first, `http` and `url` to the
    second.
    """

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        command: Sequence[str] | None = None,
        fresh: bool = False,
        **settings: str,
    ) -> None:
        """Starts the service and waits until it is ready.

        `directory` holds its store; a later service there goes on with it. `command` starts another
        installation; `fresh` see `start_command`.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.log_path = directory / "serve.log"
        defaults = {
            **({} if "DATABASE_URL" in settings else store_settings(directory)),
            "GRPC_ADDRESS": "127.0.0.1:0",
            "REST_ADDRESS": "127.0.0.1:0",
            "SHUTDOWN_GRACE_SECONDS": "5",
        }
        with self.log_path.open("ab") as log:
            self.process = (
                subprocess.Popen(
                    [*command, "serve", *arguments],
                    env=environment(**{**defaults, **settings}),
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=directory,
                )
                if command
                else start_command(
                    ["serve", *arguments], directory, stderr=log, fresh=fresh, **{**defaults, **settings}
                )
            )
        ready = self._ready_line()
        if not ready.startswith("ready "):
            self.kill()
            raise RuntimeError(f"the service did not start: {ready!r}\n{self.log_path.read_text()}")
        addresses = dict(part.split("=", 1) for part in ready.split()[1:])
        self.grpc = addresses["grpc"]
        self.reach_rest(addresses.get("rest", ""))
        self.metrics = addresses.get("metrics", "")
        self.http = requests.Session()
        # Used from threads, too, while pytest changes the environment.
        self.http.trust_env = False
        self.channel = grpc.insecure_channel(self.grpc)
        self.sessions = session_service_pb2_grpc.SessionServiceStub(self.channel)
        self.messages = message_service_pb2_grpc.MessageServiceStub(self.channel)
        self.agents = agent_service_pb2_grpc.AgentServiceStub(self.channel)
        self.clock = clock_service_pb2_grpc.ClockServiceStub(self.channel)

    def reach_rest(self, address: str) -> None:
        """Takes this address for that of REST."""
        self.rest = address
        self.url = f"http://{address}/api/messaging/sessions"

    def advance(self, *, minutes: float = 0, ms: int = 0) -> None:
        """Moves the test clock (the service must have been started with TEST_CLOCK=1)."""
        self.clock.AdvanceClock(
            clock_service_pb2.AdvanceClockRequest(advance_ms=round(minutes * 60_000) + ms), timeout=10
        )

    def create(self, **body: object) -> dict:
        """Creates a session with the echo agent over REST; returns the response's body."""
        response = self.http.post(self.url, json={"agentId": ECHO, "userId": USER, **body}, timeout=10)
        assert response.status_code == 201, response.text
        return response.json()

    def log(self) -> str:
        """What the service has logged so far."""
        return self.log_path.read_text()

    def stop(self) -> int:
        """Ends the service with SIGTERM; returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self._close()

    def kill(self) -> None:
        """Kills the service with SIGKILL."""
        self.process.kill()
        self._close()

    def _close(self) -> int:
        status = self.process.wait(timeout=30)
        if self.process.stdout:
            self.process.stdout.close()
        if hasattr(self, "channel"):
            self.channel.close()
            self.http.close()
        return status

    def _ready_line(self) -> str:
        timer = threading.Timer(START_SECONDS, self.process.kill)
        timer.start()
        try:
            return self.process.stdout.readline().decode().strip()
        finally:
            timer.cancel()


Start = Callable[..., Serve]
"""The fixture `start`, which starts services of the test's own."""
