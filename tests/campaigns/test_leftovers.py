"""Nothing of a call outlives its answer: after each kind of refusal, no cycle holds a request, nor a frame
that might.
"""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import requests
import socketio

from eliza.sessions.v1.agent_pb2 import Agent
from eliza.sessions.v1.agent_service_pb2 import (
    AgentReply,
    ConnectRequest,
    CreateAgentRequest,
    GetAgentRequest,
    ReplyRequest,
)
from eliza.sessions.v1.agent_service_pb2_grpc import AgentServiceStub
from eliza.sessions.v1.clock_service_pb2 import AdvanceClockRequest
from eliza.sessions.v1.clock_service_pb2_grpc import ClockServiceStub
from eliza.sessions.v1.message_service_pb2 import ConverseRequest, SendMessageRequest
from eliza.sessions.v1.message_service_pb2_grpc import MessageServiceStub
from eliza.sessions.v1.session_service_pb2 import (
    CreateSessionRequest,
    WatchSessionRequest,
    WatchSessionsRequest,
)
from eliza.sessions.v1.session_service_pb2_grpc import SessionServiceStub
from tests.campaigns import leftovers
from tests.campaigns.process_usage import ProcessUsage
from tests.support.realtime.programs import free_address
from tests.support.service import ECHO, UNKNOWN, USER, Start, environment
from tests.support.waiting import until

START_SECONDS = 120
LARGE = "x" * (leftovers.LARGE_BYTES + 1)
TIMES = 3
GROWTH_MIB = 20
PREFIX = "/eliza.sessions.v1."


class Looked:
    """A program that tells what its collector would find."""

    def __init__(self, directory: Path, *arguments: str, **settings: str) -> None:
        self._told = directory / "leftovers.json"
        self.log_path = directory / "program.log"
        settings |= {"LEFTOVERS": str(self._told), "PYTHONPATH": str(Path(__file__).parents[2])}
        line = [sys.executable, "-m", "tests.campaigns.leftovers", *arguments]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                line, cwd=directory, env=environment(**settings), stdout=log, stderr=log
            )

    def leftovers(self) -> list[str]:
        """What has come into cycles since it was last asked."""
        self._told.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        until(self._told.exists, "what the collector would find", START_SECONDS)
        return list(json.loads(self._told.read_text()))


class Pair:
    """A server and a facade, the ways to call them, and two sessions: one that lives and has room, one that
    has expired.
    """

    def __init__(self, root: Path) -> None:
        address, rest = free_address(), free_address()
        for name in ("server", "facade"):
            (root / name).mkdir()
        self.server = Looked(
            root / "server",
            *("serve", "--no-rest", "--grpc-address", address),
            DATABASE_URL=f"sqlite:///{root / 'store.db'}",
            TEST_CLOCK="1",
            MAX_OPEN_DELIVERIES="1",
            REPLY_DEADLINE_SECONDS="0.1",
            MAX_STREAMS="20",
        )
        self.facade = Looked(
            root / "facade", "rest", "--server", address, "--rest-address", rest, REPLY_DEADLINE_SECONDS="0.1"
        )
        for one in (self.server, self.facade):
            until(lambda one=one: "ready" in one.log_path.read_text(), "the start", START_SECONDS)
        self.channel = grpc.insecure_channel(address)
        self.messages, self.sessions = MessageServiceStub(self.channel), SessionServiceStub(self.channel)
        self.agents = AgentServiceStub(self.channel)
        self.url = f"http://{rest}"
        self.base = f"{self.url}/api/messaging/sessions"
        # One for all: what the library does when a socket goes is not looked at.
        self.socket = socketio.SimpleClient()
        self.socket.connect(self.url, transports=["websocket"], wait_timeout=60)
        self.expired = self.create_session(ECHO)
        ClockServiceStub(self.channel).AdvanceClock(AdvanceClockRequest(advance_ms=3_600_000), timeout=30)
        self.live = self.create_session(ECHO)
        agent = Agent(name="Away", kind="AGENT_KIND_STREAM")
        self.away = self.agents.CreateAgent(CreateAgentRequest(agent=agent), timeout=30).agent.agent_id
        self.full = self.create_session(self.away)
        self.send(self.full, "hi")

    def create_session(self, agent_id: str) -> str:
        return self.sessions.CreateSession(
            CreateSessionRequest(agent_id=agent_id, user_id=USER), timeout=30
        ).session.session_id

    def send(self, session_id: str, content: str, timeout: float = 30) -> None:
        """Sends a message over gRPC."""
        self.messages.SendMessage(SendMessageRequest(session_id=session_id, content=content), timeout=timeout)

    def converse(self, session_id: str, content: str) -> None:
        """Sends a message and waits for its reply."""
        request = ConverseRequest(message=SendMessageRequest(session_id=session_id, content=content))
        list(self.messages.Converse(request, timeout=30))

    def ask(self, session_id: str, content: str, timeout: float = 30) -> None:
        """Sends a message, in a call that waits for its reply."""
        request = SendMessageRequest(session_id=session_id, content=content)
        request.reply_wait.seconds = 20
        self.messages.SendMessage(request, timeout=timeout)

    def raw(self, method: str) -> None:
        """Makes a call of something that is no message."""
        self.channel.unary_unary(method)(b"\xff" * 2 * leftovers.LARGE_BYTES, timeout=30)

    def say(self, *said: ConnectRequest) -> None:
        """Speaks as a worker until the server ends it."""
        list(self.agents.Connect(iter(said), timeout=30))

    def post(self, path: str, **body: object) -> int:
        """Makes a POST."""
        return requests.post(
            f"{self.base}{path}", timeout=60, **(body if "data" in body else {"json": body})
        ).status_code

    def emit(self, name: str, payload: object) -> None:
        """Emits an event over a socket, and waits for its answer."""
        self.socket.call(name, payload, timeout=60)

    def close(self) -> None:
        """Ends both."""
        self.socket.disconnect()
        self.channel.close()
        for one in (self.facade, self.server):
            one.process.kill()
            one.process.wait(timeout=30)


# Of the session: xdist may come back to this module.
@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with contextlib.closing(Pair(tmp_path_factory.mktemp("pair"))) as one:
        yield one


def _abandon(pair: Pair) -> None:
    """Goes away in the midst of a conversation."""
    session_id = pair.create_session(pair.away)
    request = ConverseRequest(message=SendMessageRequest(session_id=session_id, content=LARGE))
    call = pair.messages.Converse(request, timeout=30)
    next(call)
    call.cancel()


def _cancel(pair: Pair) -> None:
    """Goes away while its call waits for a reply."""
    request = SendMessageRequest(session_id=pair.create_session(pair.away), content=LARGE)
    request.reply_wait.seconds = 20
    method = pair.channel.unary_stream(
        f"{PREFIX}MessageService/SendMessage", SendMessageRequest.SerializeToString
    )
    call = method(request, timeout=30)
    call.initial_metadata()
    call.cancel()


def _give_up(pair: Pair) -> None:
    """Goes away while its request waits for a reply."""
    with contextlib.suppress(requests.Timeout):
        requests.post(
            f"{pair.base}/{pair.create_session(pair.away)}/messages",
            json={"content": LARGE, "transport": "http"},
            timeout=0.05,
        )


def _leave(pair: Pair) -> None:
    """Follows a session's events, and goes away."""
    with requests.get(f"{pair.base}/{pair.live}/events", stream=True, timeout=60) as answer:
        assert next(answer.iter_content(1))


def _hello(agent_id: str) -> ConnectRequest:
    return ConnectRequest(hello=ConnectRequest.Hello(agent_id=agent_id))


CALLS: dict[str, Callable[[Pair], object]] = {
    "sent": lambda pair: pair.send(pair.live, LARGE),
    "not found": lambda pair: pair.send(UNKNOWN, LARGE),
    "expired": lambda pair: pair.send(pair.expired, LARGE),
    "invalid": lambda pair: pair.send(pair.live, LARGE * 20),
    "overload": lambda pair: pair.send(pair.full, LARGE),
    "unforeseen": lambda pair: pair.send(pair.live, f"fail in the store {LARGE}"),
    "deadline": lambda pair: pair.send(pair.live, LARGE, timeout=0.001),
    "unreadable": lambda pair: pair.raw(f"{PREFIX}MessageService/SendMessage"),
    "unreadable health": lambda pair: pair.raw("/grpc.health.v1.Health/Check"),
    "unknown health": lambda pair: pair.channel.unary_unary("/grpc.health.v1.Health/Check")(
        b"\x0a\x02no", timeout=30
    ),
    "no such method": lambda pair: pair.raw("/no.such.Service/Method"),
    "converse not found": lambda pair: pair.converse(UNKNOWN, LARGE),
    "converse overload": lambda pair: pair.converse(pair.full, LARGE),
    "converse without reply": lambda pair: pair.converse(pair.create_session(pair.away), LARGE),
    "converse cancelled": _abandon,
    "converse replied": lambda pair: pair.converse(pair.live, LARGE),
    "wait not found": lambda pair: pair.ask(UNKNOWN, LARGE),
    "wait overload": lambda pair: pair.ask(pair.full, LARGE),
    "wait without reply": lambda pair: pair.ask(pair.create_session(pair.away), LARGE),
    "wait out of time": lambda pair: pair.ask(pair.create_session(pair.away), LARGE, timeout=0.05),
    "wait cancelled": _cancel,
    "wait replied": lambda pair: pair.ask(pair.live, LARGE),
    "watch not found": lambda pair: list(
        pair.sessions.WatchSession(WatchSessionRequest(session_id=UNKNOWN), timeout=30)
    ),
    "watch out of time": lambda pair: list(
        pair.sessions.WatchSession(WatchSessionRequest(session_id=pair.live), timeout=0.2)
    ),
    "watches not found": lambda pair: list(
        pair.sessions.WatchSessions(
            iter([WatchSessionsRequest(join=WatchSessionsRequest.Join(session_id=UNKNOWN))]), timeout=30
        )
    ),
    "agent not found": lambda pair: pair.agents.GetAgent(GetAgentRequest(agent_id=UNKNOWN), timeout=30),
    "reply not found": lambda pair: pair.agents.Reply(
        ReplyRequest(delivery_id=f"{UNKNOWN}-1", reply=AgentReply(content=LARGE)), timeout=30
    ),
    "worker without agent": lambda pair: pair.say(_hello(UNKNOWN)),
    "worker without hello": lambda pair: pair.say(
        ConnectRequest(chunk=ConnectRequest.Chunk(delivery_id="x", chunk=LARGE))
    ),
    "worker refused": lambda pair: pair.say(
        _hello(pair.away),
        ConnectRequest(
            reply=ConnectRequest.Reply(delivery_id=f"{UNKNOWN}-1", reply=AgentReply(content=LARGE))
        ),
    ),
    "worker unreadable": lambda pair: list(
        pair.channel.stream_stream(f"{PREFIX}AgentService/Connect")(
            iter([b"\xff" * 2 * leftovers.LARGE_BYTES]), timeout=30
        )
    ),
}

REQUESTS: dict[str, Callable[[Pair], object]] = {
    "sent": lambda pair: pair.post(f"/{pair.live}/messages", content=LARGE),
    "not found": lambda pair: pair.post(f"/{UNKNOWN}/messages", content=LARGE),
    "expired": lambda pair: pair.post(f"/{pair.expired}/messages", content=LARGE),
    "invalid": lambda pair: pair.post(f"/{pair.live}/messages", content=LARGE * 20),
    "overload": lambda pair: pair.post(f"/{pair.full}/messages", content=LARGE),
    "unforeseen there": lambda pair: pair.post(
        f"/{pair.live}/messages", content=f"fail in the store {LARGE}"
    ),
    "unforeseen here": lambda pair: pair.post(
        f"/{pair.live}/messages", content=f"fail in the facade {LARGE}"
    ),
    "no JSON": lambda pair: pair.post(f"/{pair.live}/messages", data=f"{{{LARGE}"),
    "too large": lambda pair: pair.post(f"/{pair.live}/messages", data="x" * 2**22),
    "no UUID": lambda pair: pair.post("", agentId=LARGE, userId=USER),
    "no reply": lambda pair: pair.post(
        f"/{pair.create_session(pair.away)}/messages", content=LARGE, transport="http"
    ),
    "reply": lambda pair: pair.post(f"/{pair.live}/messages", content=LARGE, transport="http"),
    "reply not waited for": _give_up,
    "not found, with reply": lambda pair: pair.post(f"/{UNKNOWN}/messages", content=LARGE, transport="http"),
    "not found, streamed": lambda pair: pair.post(f"/{UNKNOWN}/messages", content=LARGE, transport="sse"),
    "no events": lambda pair: requests.get(f"{pair.base}/{UNKNOWN}/events", timeout=60),
    "events left": _leave,
    "polled by nobody": lambda pair: requests.get(
        f"{pair.url}/socket.io/?EIO=4&transport=polling&sid={LARGE}", timeout=60
    ),
    "no path": lambda pair: requests.get(f"{pair.url}/{LARGE}", timeout=60),
    "no method": lambda pair: requests.put(f"{pair.base}/{LARGE}", timeout=60),
}

EVENTS: dict[str, Callable[[Pair], object]] = {
    "sent": lambda pair: pair.emit(
        "message", {"type": 2, "payload": {"roomId": pair.live, "message": LARGE}}
    ),
    "not found": lambda pair: pair.emit(
        "message", {"type": 2, "payload": {"roomId": UNKNOWN, "message": LARGE}}
    ),
    "expired": lambda pair: pair.emit(
        "message", {"type": 2, "payload": {"roomId": pair.expired, "message": LARGE}}
    ),
    "invalid": lambda pair: pair.emit(
        "message", {"type": 2, "payload": {"roomId": pair.live, "message": LARGE * 20}}
    ),
    "no payload": lambda pair: pair.emit("message", LARGE),
    "no such event": lambda pair: pair.emit("nothing", LARGE),
    "join not found": lambda pair: pair.emit("join", {"roomId": UNKNOWN}),
    "join expired": lambda pair: pair.emit("join", {"roomId": pair.expired}),
}


@pytest.mark.parametrize("kind", CALLS)
def test_a_call_leaves_nothing_behind(pair: Pair, kind: str) -> None:
    _leaves_nothing(pair, CALLS[kind])


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_leaves_nothing_behind(pair: Pair, kind: str) -> None:
    _leaves_nothing(pair, REQUESTS[kind])


@pytest.mark.parametrize("kind", EVENTS)
def test_an_event_leaves_nothing_behind(pair: Pair, kind: str) -> None:
    _leaves_nothing(pair, EVENTS[kind])


def _leaves_nothing(pair: Pair, deed: Callable[[Pair], object]) -> None:
    both = {"server": pair.server, "facade": pair.facade}
    for side in both.values():
        side.leftovers()
    for _ in range(TIMES):
        with contextlib.suppress(grpc.RpcError):
            deed(pair)
    # What is still on its way out leaves by itself, and so is never found.
    assert {name: side.leftovers() for name, side in both.items()} == {"server": [], "facade": []}


def test_refused_messages_of_2_mb_leave_no_memory_behind(start: Start) -> None:
    service = start()
    body = {"content": "hi", "attachments": ["x" * 2_000_000]}
    request = SendMessageRequest(session_id=UNKNOWN, content="hi")
    request.attachments.extend(body["attachments"])

    def refuse(count: int) -> None:
        for _ in range(count):
            with pytest.raises(grpc.RpcError):
                service.messages.SendMessage(request, timeout=60)
            assert (
                service.http.post(f"{service.url}/{UNKNOWN}/messages", json=body, timeout=60).status_code
                == 404
            )

    refuse(10)
    with ProcessUsage(service) as watched:
        refuse(50)
        # Of what was refused alone it would be 400 MiB in the server, and 200 in the facade.
        assert watched.growth_mib(GROWTH_MIB, patience_seconds=1) <= GROWTH_MIB
