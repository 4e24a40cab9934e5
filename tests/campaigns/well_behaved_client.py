"""A well-behaved client in a process of its own: makes its calls one after the other, all the time, while
others misbehave.

`python -m tests.campaigns.well_behaved_client GRPC REST`: a line on standard input begins a phase of that
name. At its end it prints the figures of all phases as JSON.
"""

import json
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
import requests

from eliza.sessions.v1 import agent_pb2, agent_service_pb2, agent_service_pb2_grpc
from eliza.sessions.v1 import message_service_pb2 as messages
from eliza.sessions.v1 import message_service_pb2_grpc as messages_grpc
from eliza.sessions.v1 import session_service_pb2 as sessions
from eliza.sessions.v1 import session_service_pb2_grpc as sessions_grpc
from tests.support.service import Serve

PATIENCE_SECONDS: Final = 10
_PAUSE_SECONDS: Final = 0.01
_BASE: Final = 100
"""Calls that are made before anybody misbehaves, to compare with."""


class WellBehavedClient:
    """The client as its parent process sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.figures: dict[str, dict[str, Any]] = {}

    def phase(self, name: str) -> None:
        """What it does from now on counts for this phase."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()

    def problems(self) -> Iterator[str]:
        """Calls that failed, and phases in which there were none."""
        for name, figure in self.figures.items():
            if figure["failures"] or not figure["calls"]:
                yield f"the well-behaved client during {name}: {figure}"

    def line(self) -> str:
        """Its figures: calls, the median of a call, and how much slower that is than before anybody
        misbehaved.
        """
        base = self.figures["before"]["median_ms"]
        return "others served: " + ", ".join(
            f"{name} {figure['calls']} calls, {figure['failed']} failed, median {figure['median_ms']:.1f} ms"
            f" (x{figure['median_ms'] / base:.1f}), most {figure['most_ms']:.0f} ms"
            for name, figure in self.figures.items()
        )


@contextmanager
def well_behaved_client(service: Serve) -> Iterator[WellBehavedClient]:
    """Runs the client against a service. Its figures are there at the end of the block."""
    command = [sys.executable, "-m", "tests.campaigns.well_behaved_client", service.grpc, service.rest]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        client = WellBehavedClient(process)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield client
            client.figures = json.loads(process.communicate(timeout=60)[0])
        finally:
            process.kill()


def _calls(grpc_address: str, rest_address: str) -> list[Callable[[], None]]:
    """The calls of one round. The agent is its own: others may delete the one that there is."""
    channel = grpc.insecure_channel(grpc_address)
    session_stub, message_stub = (
        sessions_grpc.SessionServiceStub(channel),
        messages_grpc.MessageServiceStub(channel),
    )
    agent = agent_pb2.Agent(agent_id=str(uuid.uuid4()), name="polite", kind=agent_pb2.AGENT_KIND_ECHO)
    agents = agent_service_pb2_grpc.AgentServiceStub(channel)
    agents.CreateAgent(agent_service_pb2.CreateAgentRequest(agent=agent), timeout=PATIENCE_SECONDS)
    request = sessions.CreateSessionRequest(agent_id=agent.agent_id, user_id=str(uuid.uuid4()))
    session_id = session_stub.CreateSession(request, timeout=PATIENCE_SECONDS).session.session_id
    http = requests.Session()
    url = f"http://{rest_address}/api/messaging/sessions"

    def rest(method: str, path: str) -> None:
        http.request(method, url + path, timeout=PATIENCE_SECONDS).raise_for_status()

    def send() -> None:
        message_stub.SendMessage(
            messages.SendMessageRequest(session_id=session_id, content="Hello"), timeout=PATIENCE_SECONDS
        )

    def get() -> None:
        session_stub.GetSession(sessions.GetSessionRequest(session_id=session_id), timeout=PATIENCE_SECONDS)

    def read() -> None:
        rest("GET", f"/{session_id}")

    def keep() -> None:
        rest("POST", f"/{session_id}/heartbeat")

    def health() -> None:
        rest("GET", "/health")

    return [send, get, read, keep, health]


def main() -> None:
    """Makes calls until standard input ends."""
    calls = _calls(*sys.argv[1:3])
    took: dict[str, list[float]] = {"before": []}
    failures: dict[str, list[str]] = {}
    phase, ended, enough = "before", threading.Event(), threading.Event()

    def drive() -> None:
        made = 0
        while not ended.is_set():
            call, name = calls[made % len(calls)], phase
            began = time.monotonic()
            try:
                call()
            except (grpc.RpcError, requests.RequestException) as error:
                failures.setdefault(name, []).append(f"{call.__name__}: {error}"[:300])
            took[name].append(time.monotonic() - began)
            made += 1
            if made == _BASE:
                enough.set()
            ended.wait(_PAUSE_SECONDS)

    driver = threading.Thread(target=drive, daemon=True)
    driver.start()
    enough.wait()
    print("ready", flush=True)
    for line in sys.stdin:
        took.setdefault(line.strip(), [])
        phase = line.strip()
    ended.set()
    driver.join(2 * PATIENCE_SECONDS)
    figures = {
        name: {
            "calls": len(times),
            "failed": len(failures.get(name, [])),
            "failures": failures.get(name, [])[:3],
            "median_ms": statistics.median(times or [0]) * 1000,
            "most_ms": max(times, default=0) * 1000,
        }
        for name, times in took.items()
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
