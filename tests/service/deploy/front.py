"""What a proxy in front has to let through: REST, server-sent events, WebSocket and gRPC."""

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
import requests
import socketio

from eliza.sessions.v1 import (
    message_service_pb2,
    message_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)
from tests.support.realtime.programs import Facade
from tests.support.service import ECHO, USER, Serve
from tests.support.waiting import until

NAME = "sessions.example.com"
"""The name of the service that the samples use."""
FACADES = ("127.0.0.1:3001", "127.0.0.1:3002")
SERVER = "127.0.0.1:50051"
"""Where the samples have the facades and the server."""


class Behind(NamedTuple):
    """What stands behind a proxy: a server, and two facades of it."""

    service: Serve
    facades: tuple[Facade, ...]

    def placed(self, sample: str) -> str:
        """A proxy's configuration with the addresses of these."""
        for old, new in zip(
            (*FACADES, SERVER), (*(one.address for one in self.facades), self.service.grpc), strict=True
        ):
            assert old in sample
            sample = sample.replace(old, new)
        return sample


@contextmanager
def behind(service: Serve, directory: Path) -> Iterator[Behind]:
    """Two facades of a server, as the samples want them."""
    with ExitStack() as stack:
        facades = tuple(
            stack.enter_context(
                Facade(service.grpc, "127.0.0.1:0", directory / name, REST_ALLOWED_HOSTS=NAME)
            )
            for name in ("one", "two")
        )
        yield Behind(service, facades)


class Front(NamedTuple):
    """A proxy as clients see it: the base of its URLs, a client for it, a channel through it."""

    url: str
    http: requests.Session
    channel: grpc.Channel

    @property
    def sessions(self) -> str:
        """The URL of the sessions."""
        return f"{self.url}/api/messaging/sessions"

    def create(self) -> str:
        """Creates a session over REST; returns its id."""
        answer = self.http.post(self.sessions, json={"agentId": ECHO, "userId": USER}, timeout=30)
        assert answer.status_code == 201, answer.text
        return answer.json()["sessionId"]


def rest_works(front: Front) -> None:
    """A message and its reply, and an error of the service's own."""
    session = front.create()
    body = {"content": "Hello!", "transport": "http"}
    sent = front.http.post(f"{front.sessions}/{session}/messages", json=body, timeout=60)
    assert sent.json()["agentResponse"]["text"] == "Hello!"
    missing = front.http.get(f"{front.sessions}/{ECHO}", timeout=30)
    assert (missing.status_code, missing.json()["code"]) == (404, "SESSION_NOT_FOUND")


def events_come_at_once(front: Front) -> None:
    """An event stream that stays open: each event is there before the next message is sent."""
    session = front.create()
    url = f"{front.sessions}/{session}/events"
    with front.http.get(url, stream=True, timeout=30, headers={"Accept": "text/event-stream"}) as stream:
        assert stream.status_code == 200, stream.text
        lines = stream.iter_lines(chunk_size=1, decode_unicode=True)
        for content in ("one", "two"):
            sent = front.http.post(
                f"{front.sessions}/{session}/messages", json={"content": content}, timeout=30
            )
            assert sent.status_code == 201
            heard: list[str] = []
            while heard != [content, content]:
                line = next(lines)
                if line.startswith("data: ") and "text" in (event := json.loads(line[6:])):
                    heard.append(event["text"])


def websocket_works(front: Front) -> None:
    """A Socket.IO client by WebSocket alone, and one that begins with long-polling, hear the reply."""
    for transports in (["websocket"], ["polling", "websocket"], ["polling"]):
        session = front.create()
        heard: queue.Queue[str] = queue.Queue()
        joined = threading.Event()
        client = socketio.Client(
            http_session=front.http, reconnection=False, ssl_verify=front.http.verify is not False
        )
        client.on("messageBroadcast", lambda message, heard=heard: heard.put(message["text"]))
        client.on("channel_joined", lambda _, joined=joined: joined.set())
        client.connect(front.url, transports=transports, wait_timeout=15)
        try:
            client.emit("join", {"roomId": session})
            assert joined.wait(15)
            front.http.post(f"{front.sessions}/{session}/messages", json={"content": "hi"}, timeout=30)
            assert [heard.get(timeout=15), heard.get(timeout=15)] == ["hi", "hi"]
            if "websocket" in transports:
                until(lambda client=client: client.transport() == "websocket", "the upgrade")
        finally:
            client.disconnect()


def grpc_works(front: Front) -> None:
    """A call, an error with its details, and a watch whose entries come at once."""
    sessions = session_service_pb2_grpc.SessionServiceStub(front.channel)
    messages = message_service_pb2_grpc.MessageServiceStub(front.channel)
    wanted = session_service_pb2.CreateSessionRequest(agent_id=ECHO, user_id=USER)
    session = sessions.CreateSession(wanted, timeout=30).session.session_id
    with pytest.raises(grpc.RpcError) as raised:
        sessions.GetSession(session_service_pb2.GetSessionRequest(session_id=ECHO), timeout=30)
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    assert "grpc-status-details-bin" in dict(raised.value.trailing_metadata())
    watch = sessions.WatchSession(session_service_pb2.WatchSessionRequest(session_id=session), timeout=60)
    for content in ("one", "two"):
        said = message_service_pb2.SendMessageRequest(session_id=session, content=content)
        messages.SendMessage(said, timeout=30)
        heard: list[str] = []
        while heard != [content, content]:
            event = next(watch)
            if event.HasField("entry") and event.entry.HasField("message"):
                heard.append(event.entry.message.content)
    watch.cancel()
    converse = message_service_pb2.ConverseRequest(
        message=message_service_pb2.SendMessageRequest(session_id=session, content="three")
    )
    replies = [
        part.reply.content for part in messages.Converse(converse, timeout=30) if part.HasField("reply")
    ]
    assert replies == ["three"]


CHECKS = (rest_works, events_come_at_once, websocket_works, grpc_works)
"""What each proxy is tried with."""


def wait_until_it_answers(url: str, http: requests.Session) -> None:
    """Waits until the service is healthy through the proxy with this URL."""

    def answers() -> bool:
        try:
            return http.get(f"{url}/api/messaging/sessions/health", timeout=10).status_code == 200
        except requests.ConnectionError:
            return False

    until(answers, "the service behind the proxy")
