"""Two Socket.IO clients behind one face: the JavaScript ones in one node process, and the Python one in a
thread.
"""

import itertools
import json
import subprocess
import threading
from pathlib import Path
from typing import Any, Protocol

import requests
import socketio

from tests.support.node import NODE
from tests.support.waiting import until

SCRIPT = Path(__file__).with_name("socketio_client.cjs")
KINDS = ["javascript-websocket", "javascript-polling", "python-websocket", "python-polling"]

Payload = dict[str, Any]


class Client:
    """What a socket has heard, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Payload]] = []
        self.connects: list[str] = []
        self.disconnects: list[str] = []
        self.transport = ""

    def emit(self, name: object, *arguments: object) -> None:
        raise NotImplementedError

    def call(self, name: object, *arguments: object) -> Payload:
        """Emits an event and waits for its acknowledgement."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def named(self, name: str) -> list[Payload]:
        """The payloads of the events with this name."""
        return [payload for given, payload in list(self.events) if given == name]

    def wait(self, name: str, count: int = 1, seconds: float = 15) -> list[Payload]:
        """The payloads of the events with this name, once there are that many."""
        found = until(
            lambda: (got := self.named(name)) and len(got) >= count and got, f"{count} × {name}", seconds
        )
        return list(found)

    def sequences(self, session_id: str) -> list[int]:
        """The sequences of a session's entries, as they came: a message and the renewal by it
        are one entry.
        """
        entries: list[int] = []
        previous = ""
        for name, payload in list(self.events):
            if payload.get("sessionId") == session_id and "sequence" in payload:
                if not (
                    name == "sessionRenewed"
                    and previous == "messageBroadcast"
                    and entries[-1] == payload["sequence"]
                ):
                    entries.append(payload["sequence"])
                previous = name
        return entries


class NodeClients:
    """A node process that has clients of socket.io-client 4.x: each of its own would cost a start of node."""

    def __init__(self, modules: Path) -> None:
        self._process = subprocess.Popen(
            [str(NODE), str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"NODE_PATH": str(modules)},
        )
        self._clients: dict[int, JavaScript] = {}
        self._numbers = itertools.count()
        self._writing = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def open(self, client: "JavaScript", url: str, transport: str) -> int:
        """Has a client hear what its socket hears; returns its number."""
        number = next(self._numbers)
        self._clients[number] = client
        self.command("open", number, url, transport)
        return number

    def command(self, *words: object) -> None:
        """Sends a command."""
        with self._writing:
            self._process.stdin.write(json.dumps(words) + "\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """Ends the process, and all its clients."""
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=5)
        self._reader.join(timeout=10)
        self._process.stdout.close()

    def _read(self) -> None:
        for line in self._process.stdout:
            said = json.loads(line)
            self._clients[said["client"]].hear(said)


class JavaScript(Client):
    """socket.io-client 4.x."""

    def __init__(self, url: str, transport: str, node_clients: NodeClients) -> None:
        super().__init__()
        self._answers: dict[int, Payload] = {}
        self._numbers = itertools.count()
        self._node = node_clients
        self._number = node_clients.open(self, url, transport)

    def emit(self, name: object, *arguments: object) -> None:
        self._node.command("emit", self._number, name, arguments, None)

    def call(self, name: object, *arguments: object) -> Payload:
        number = next(self._numbers)
        self._node.command("emit", self._number, name, arguments, number)
        until(lambda: number in self._answers, f"the acknowledgement of {name}")
        return self._answers[number]

    def close(self) -> None:
        self._node.command("close", self._number)

    def hear(self, said: Payload) -> None:
        """Takes down what the socket has heard."""
        if "event" in said:
            self.events.append((said["event"], said["args"][0] if said["args"] else {}))
        elif "ack" in said:
            self._answers[said["ack"]] = said["answer"]
        elif said["state"] == "connect":
            self.transport = said["transport"]
            self.connects.append(said["id"])
        else:
            self.disconnects.append(said["reason"])


class Python(Client):
    """python-socketio's client."""

    def __init__(self, url: str, transport: str) -> None:
        super().__init__()
        http = requests.Session()
        # Its threads may outlive the test, and pytest changes the environment between tests, which must not
        # be read meanwhile.
        http.trust_env = False
        self._io = socketio.Client(reconnection_delay=0.05, reconnection_delay_max=0.2, http_session=http)
        # The library handles each packet on a thread of its own; here they are wanted in the order in which
        # they come.
        trigger = self._io.eio._trigger_event
        self._io.eio._trigger_event = lambda *arguments, **options: trigger(
            *arguments, **{**options, "run_async": False}
        )
        self._io.on("connect", lambda: self.connects.append(self._io.get_sid()))
        self._io.on("disconnect", self.disconnects.append)
        self._io.on("*", lambda name, payload=None: self.events.append((name, payload)))
        self._io.connect(url, transports=[transport], wait_timeout=15)
        self.transport = self._io.transport()

    def emit(self, name: object, *arguments: object) -> None:
        self._io.emit(name, arguments)

    def call(self, name: object, *arguments: object) -> Payload:
        return self._io.call(name, arguments, timeout=15)

    def close(self) -> None:
        # Not waited for: over polling the client ends with the answer to its last poll, which may be a ping
        # interval away.
        threading.Thread(target=self._io.shutdown, daemon=True).start()


class Connect(Protocol):
    """Opens clients that are closed after the test."""

    def __call__(self, url: str, kind: str = "") -> Client:
        """`kind` is one of KINDS; without it, that of the test's parameter."""


def connected(url: str, kind: str, node_clients: NodeClients | None = None) -> Client:
    """A client of this kind, connected and greeted."""
    language, transport = kind.split("-")
    if language == "javascript":
        assert node_clients
        client: Client = JavaScript(url, transport, node_clients)
    else:
        client = Python(url, transport)
    client.wait("connection_established")
    assert client.transport == transport
    return client
