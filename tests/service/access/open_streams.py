"""Streams that are open while something happens to their credentials: how each ends, and what it hears."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc
import requests
import socketio

from eliza.sessions.v1 import (
    agent_service_pb2,
    message_service_pb2,
    session_service_pb2,
)
from tests.service.access.world import Metadata, World, outcome_of
from tests.support.waiting import until

SECONDS: Final = 60.0
END_SECONDS: Final = 5.0
"""A stream ends within a second, on a machine that has nothing else to do."""

Heard = list[Any]


class Open:
    """A stream. `heard` is what came, in order; `end` says why it ended, once it has."""

    def __init__(self) -> None:
        self.heard: Heard = []
        self.end = ""

    def read(self, answers: Iterator[Any]) -> None:
        """Reads a stream of gRPC in a thread."""

        def run() -> None:
            try:
                for answer in answers:
                    self.heard.append(answer)
                self.end = "OK"
            except grpc.RpcError as error:
                self.end = outcome_of(error)

        threading.Thread(target=run, daemon=True).start()

    def wait(self, count: int = 1) -> Heard:
        """What came, once there is that much."""
        until(lambda: len(self.heard) >= count or self.end, f"{count} answers, {self.heard}")
        assert len(self.heard) >= count, (self.end, self.heard)
        return self.heard

    def wait_end(self) -> str:
        """Why it ended, soon."""
        return until(lambda: self.end, "the end of the stream", END_SECONDS)

    def close(self) -> None:
        """Ends it from this side."""


def watch(world: World, session_id: str, headers: Metadata) -> Open:
    """WatchSession."""
    request = session_service_pb2.WatchSessionRequest(session_id=session_id)
    return _rpc(world.service.sessions.WatchSession(request, metadata=headers, timeout=SECONDS))


def watch_many(world: World, session_id: str, headers: Metadata) -> Open:
    """WatchSessions, which has joined the session."""
    join = session_service_pb2.WatchSessionsRequest.Join(session_id=session_id)
    changes: queue.SimpleQueue[Any] = queue.SimpleQueue()
    changes.put(session_service_pb2.WatchSessionsRequest(join=join))
    call = world.service.sessions.WatchSessions(iter(changes.get, None), metadata=headers, timeout=SECONDS)
    return _rpc(call)


def converse(world: World, session_id: str, headers: Metadata) -> Open:
    """Converse, whose message nobody answers."""
    message = message_service_pb2.SendMessageRequest(session_id=session_id, content="Anybody?")
    request = message_service_pb2.ConverseRequest(message=message)
    return _rpc(world.service.messages.Converse(request, metadata=headers, timeout=SECONDS))


def _rpc(call: Any) -> Open:
    stream = Open()
    stream.read(call)
    stream.close = call.cancel  # type: ignore[method-assign]
    return stream


def events(world: World, session_id: str, headers: Metadata) -> Open:
    """Server-sent events; one for a token in the query, where that is given as a header of that name."""
    named = dict(headers)
    token = named.pop("access_token", "")
    query = f"?access_token={token}" if token else ""
    response = requests.get(
        f"{world.service.url}/{session_id}/events{query}", headers=named, stream=True, timeout=SECONDS
    )
    stream = Open()
    stream.close = response.close  # type: ignore[method-assign]
    if response.status_code != 200:
        stream.end = response.json()["code"]
        return stream

    def run() -> None:
        last = ""
        try:
            for line in response.iter_lines(chunk_size=1):
                name, _, value = line.decode().partition(": ")
                if name == "event":
                    last = value
                    stream.heard.append(value)
            stream.end = {"credentialExpired": "CREDENTIAL_EXPIRED"}.get(last, f"after {last}")
        except (OSError, requests.RequestException) as error:
            stream.end = repr(error)

    threading.Thread(target=run, daemon=True).start()
    return stream


def socket(transport: str) -> Callable[[World, str, Metadata], Open]:
    """A socket over a transport, which has joined the session."""

    def connect(world: World, session_id: str, headers: Metadata) -> Open:
        http = requests.Session()
        # The library sends the headers that it is given with the first poll only.
        http.headers.update(dict(headers))
        client, stream, errors = socketio.Client(reconnection=False, http_session=http), Open(), []
        client.on("messageError", lambda payload: errors.append(payload["code"]))
        client.on("messageBroadcast", stream.heard.append)
        client.on("disconnect", lambda *_: setattr(stream, "end", errors[-1] if errors else "disconnect"))
        client.connect(
            f"http://{world.service.rest}", headers=dict(headers), transports=[transport], wait_timeout=15
        )
        stream.close = client.disconnect  # type: ignore[method-assign]
        assert client.call("join", {"roomId": session_id}, timeout=15) == {"success": True}
        return stream

    return connect


KINDS: Final[dict[str, Callable[[World, str, Metadata], Open]]] = {
    "watch": watch,
    "watch_many": watch_many,
    "converse": converse,
    "events": events,
    "websocket": socket("websocket"),
    "polling": socket("polling"),
}


class Worker(Open):
    """A worker of an agent: `deliveries` are those that it was given."""

    def __init__(self, world: World, agent_id: str, headers: Metadata, capacity: int = 1) -> None:
        super().__init__()
        self._said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        hello = agent_service_pb2.ConnectRequest.Hello(agent_id=agent_id, max_deliveries=capacity)
        self._said.put(agent_service_pb2.ConnectRequest(hello=hello))
        call = world.service.agents.Connect(iter(self._said.get, None), metadata=headers, timeout=SECONDS)
        self.read(call)
        self.close = call.cancel  # type: ignore[method-assign]
        self.wait()

    @property
    def deliveries(self) -> list[Any]:
        return [answer.delivery for answer in list(self.heard) if answer.HasField("delivery")]

    def wait_delivery(self, count: int = 1) -> Any:
        """The latest delivery, once there are that many."""
        return until(
            lambda: len(found := self.deliveries) >= count and found[-1],
            f"a delivery; {self.end!r} {self.heard}",
        )

    def told(self, kind: str) -> list[str]:
        """The deliveries that were `accepted`, `refused` or `revoked`."""
        return [getattr(one, kind).delivery_id for one in list(self.heard) if one.HasField(kind)]

    def chunk(self, delivery_id: str, text: str) -> None:
        chunk = agent_service_pb2.ConnectRequest.Chunk(delivery_id=delivery_id, chunk=text)
        self._said.put(agent_service_pb2.ConnectRequest(chunk=chunk))

    def fail(self, delivery_id: str, reason: str) -> None:
        """Says that there will be no reply."""
        failure = agent_service_pb2.ConnectRequest.Failure(delivery_id=delivery_id, reason=reason, final=True)
        self._said.put(agent_service_pb2.ConnectRequest(failure=failure))

    def reply(self, delivery_id: str, text: str) -> None:
        reply = agent_service_pb2.ConnectRequest.Reply(
            delivery_id=delivery_id, reply=agent_service_pb2.AgentReply(content=text)
        )
        self._said.put(agent_service_pb2.ConnectRequest(reply=reply))


def send(world: World, session_id: str, content: str = "Hello") -> None:
    """Sends a message by the service."""
    request = message_service_pb2.SendMessageRequest(session_id=session_id, content=content)
    world.service.messages.SendMessage(request, metadata=world.metadata("service"), timeout=20)


def goes_on(world: World, session_id: str, witness: Open) -> None:
    """Asserts that a stream still hears of messages."""
    count = len(witness.heard)
    send(world, session_id, "Still there?")
    until(lambda: len(witness.heard) > count or witness.end, "a witness to hear of a message")
    assert not witness.end


def ends(stream: Open) -> None:
    """Asserts that a stream ends soon, by its credential."""
    assert stream.wait_end() == "CREDENTIAL_EXPIRED", stream.heard
