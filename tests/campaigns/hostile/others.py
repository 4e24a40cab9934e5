"""Another client, in a process of its own: GetSession and a REST get again and again, each on its connection.

`python -m tests.campaigns.hostile.others GRPC REST`: a line on standard input begins a phase of that name; at
its end the times of all phases are printed as JSON.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
import requests

from eliza.sessions.v1 import session_service_pb2, session_service_pb2_grpc
from tests.support.service import ECHO, USER, Serve

PATIENCE_SECONDS: Final = 60
_PAUSE_SECONDS: Final = 0.005

CALLS: Final = ("GetSession", "REST get")


class Others:
    """The client as its parent process sees it.

    `phases` is there at the end: by phase and call, how many, how many failed, the worst s.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.phases: dict[str, dict[str, dict[str, Any]]] = {}

    def phase(self, name: str) -> None:
        """What it does from now on counts for this phase."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()

    def worst_s(self, phase: str, call: str) -> float:
        return float(self.phases[phase][call]["worst_s"])

    def failed(self, phase: str) -> int:
        return sum(figure["failed"] for figure in self.phases[phase].values())


@contextmanager
def watching(service: Serve) -> Iterator[Others]:
    """Runs the client against a service."""
    command = [sys.executable, "-m", "tests.campaigns.hostile.others", service.grpc, service.rest]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        others = Others(process)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield others
            others.phases = json.loads(process.communicate(timeout=2 * PATIENCE_SECONDS)[0])
        finally:
            process.kill()


def _calls(grpc_address: str, rest_address: str) -> dict[str, Callable[[], object]]:
    stub = session_service_pb2_grpc.SessionServiceStub(grpc.insecure_channel(grpc_address))
    created = stub.CreateSession(
        session_service_pb2.CreateSessionRequest(agent_id=ECHO, user_id=USER),
        timeout=PATIENCE_SECONDS,
        wait_for_ready=True,
    )
    request = session_service_pb2.GetSessionRequest(session_id=created.session.session_id)
    url = f"http://{rest_address}/api/messaging/sessions/{created.session.session_id}"
    http = requests.Session()

    def get() -> None:
        http.get(url, timeout=PATIENCE_SECONDS).raise_for_status()

    return dict(zip(CALLS, (lambda: stub.GetSession(request, timeout=PATIENCE_SECONDS), get), strict=True))


def main() -> None:
    """Makes calls until standard input ends."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    phase, ended = "", threading.Event()

    def begin(name: str) -> None:
        found[name] = {call: {"calls": 0, "failed": 0, "worst_s": 0.0, "why": ""} for call in CALLS}

    def drive(name: str, call: Callable[[], object]) -> None:
        while not ended.is_set():
            # A call belongs to the phase in which it began.
            figure = found[phase][name]
            begun = time.monotonic()
            try:
                call()
            except (grpc.RpcError, requests.RequestException) as error:
                figure["failed"] += 1
                figure["why"] = str(error)[:200]
            figure["calls"] += 1
            figure["worst_s"] = max(figure["worst_s"], time.monotonic() - begun)
            ended.wait(_PAUSE_SECONDS)

    begin(phase)
    calls = _calls(*sys.argv[1:3])
    for call in calls.values():
        # The first call on a connection opens it.
        call()
    threads = [threading.Thread(target=drive, args=each, daemon=True) for each in calls.items()]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    for line in sys.stdin:
        begin(line.strip())
        phase = line.strip()
    ended.set()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
