"""Packets of Engine.IO as raw clients send them: many at once, unreadable ones, and those no
client may send.
"""

import asyncio
import contextlib
import http.client
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import socketio
from structlog.testing import capture_logs
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_websocket

from eliza.sessions.limits import MAX_BODY_BYTES
from rest_facade.socketio.engine import MAX_PACKETS, MAX_WAITING, SLICE, Engine
from tests.support.clients import history
from tests.support.service import Serve
from tests.support.waiting import until

SEPARATOR = "\x1e"

UNREADABLE = {
    "no digit": "x",
    "another digit": "\u0664",
    "no such type": "9",
    "open": "0{}",
    "ping": "2",
    "noop": "6",
    "base64": "b!",
    "a message without anything": "4",
    "a message of no type": "4x",
    "a message of no such type": "49",
    "no JSON": '42["join"',
    "no event": "42",
    "an event without a name": "42[]",
    "an event that is no array": "42{}",
    "a name that is no name": '42[{"a":1}]',
    "nested": "42" + "[" * 100_000,
    "a number too long": "42" + "1" * 200 + "[]",
    "no attachments": '450-["join",{}]',
    "too many attachments": '4599-["join",{"_placeholder":true,"num":0}]',
    "an attachment": '451-["join",{"_placeholder":true,"num":0}]',
    "an attachment to an acknowledgement": '461-1[{"_placeholder":true,"num":0}]',
    "an error": '44{"message":"no"}',
    "a binary message that nobody announced": "bAAAA",
}
"""What comes behind a join, which is readable."""


class Polling:
    """A client of long-polling that is connected."""

    def __init__(self, service: Serve) -> None:
        self.http = requests.Session()
        self.http.trust_env = False
        self.address = service.rest
        self.path = "/socket.io/?EIO=4&transport=polling"
        self.path += "&sid=" + json.loads(self.get().text[1:])["sid"]
        self.counts: list[int] = []
        assert self.post("40").text == "OK"
        self.heard: list[tuple[str, Any]] = []

    def get(self) -> requests.Response:
        return self.http.get(f"http://{self.address}{self.path}", timeout=15)

    def post(self, *packets: str, **options: Any) -> requests.Response:
        data = options.pop("data", SEPARATOR.join(packets).encode("utf-8", "surrogatepass"))
        return self.http.post(f"http://{self.address}{self.path}", data=data, timeout=30, **options)

    def poll(self) -> None:
        """Polls once; keeps the events, and how many packets came."""
        answer = self.get()
        assert answer.status_code == 200, answer.text
        packets = answer.content.decode().split(SEPARATOR)
        self.counts.append(len(packets))
        self.heard += [tuple(json.loads(packet[2:])) for packet in packets if packet.startswith("42")]

    def named(self, name: str, count: int) -> list[Any]:
        """The payloads of so many events of a name."""

        def enough() -> list[Any] | None:
            found = [event[1] for event in self.heard if event[0] == name]
            if len(found) < count:
                self.poll()
            return found if len(found) >= count else None

        return until(enough, f"{count} × {name}", 30)


def event(name: str, payload: object) -> str:
    return "42" + json.dumps([name, payload])


@contextlib.contextmanager
def websocket(service: Serve) -> Iterator[ClientConnection]:
    """A WebSocket that is connected."""
    with connect_websocket(f"ws://{service.rest}/socket.io/?EIO=4&transport=websocket", proxy=None) as client:
        assert client.recv(timeout=10).startswith("0")
        client.send("40")
        assert client.recv(timeout=10).startswith("40")
        yield client


def read_to_the_end(client: ClientConnection) -> None:
    """Reads until the server closes; a TimeoutError when it does not."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            client.recv(timeout=10)


@pytest.fixture
def quiet(service: Serve) -> Iterator[None]:
    """Nothing that a client does ends in a stack trace."""
    before = len(service.log())
    yield
    assert "Traceback" not in service.log()[before:]


pytestmark = pytest.mark.usefixtures("quiet")


# Many at once.


@pytest.mark.parametrize("count", [16, 100])
def test_a_join_and_many_messages_in_one_post_are_done_in_order(service: Serve, count: int) -> None:
    room = service.create()["sessionId"]
    client = Polling(service)
    sends = [
        event("2", {"roomId": room, "message": f"message {n}", "messageId": str(n)}) for n in range(count)
    ]
    answer = client.post(event("join", {"roomId": room}), *sends)
    assert (answer.status_code, answer.text) == (200, "OK")
    acks = client.named("messageAck", count)
    assert [ack["clientMessageId"] for ack in acks] == [str(n) for n in range(count)]
    heard = client.named("messageBroadcast", 2 * count)
    assert [got["text"] for got in heard if not got["isAgent"]] == [f"message {n}" for n in range(count)]
    mine = [message.content for message in history(service, room) if not message.is_agent]
    assert mine == [f"message {n}" for n in range(count)]
    # The Python client reads no more of an answer.
    assert max(client.counts) <= 16


def test_as_many_packets_as_there_may_be(service: Serve) -> None:
    client = Polling(service)
    answer = client.post(*[event("leave", {})] * MAX_PACKETS)
    assert (answer.status_code, answer.text) == (200, "OK")
    assert len(client.named("messageError", MAX_PACKETS)) == MAX_PACKETS
    assert max(client.counts) <= 16


def test_a_payload_whose_length_nobody_said_is_taken(service: Serve) -> None:
    room = service.create()["sessionId"]
    client = Polling(service)
    packet = event("join", {"roomId": room}).encode()
    assert client.post(data=iter([packet[:9], packet[9:]])).text == "OK"
    client.named("room_joined", 1)


def test_others_are_served_between_the_packets_of_one() -> None:
    """The loop turns at least once for each slice, however fast packets are handled."""

    class Transport:
        closed = False
        queue: asyncio.Queue[object]
        received = 0

        async def receive(self, packet: object) -> None:
            self.received += 1

    async def run() -> tuple[int, int]:
        engine = Engine(socketio.AsyncServer(async_mode="asgi"), "/socket.io", 1000)
        transport, turns = Transport(), 0
        transport.queue = asyncio.Queue()

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        await engine._handle(transport, ["42"] * MAX_PACKETS)
        task.cancel()
        return transport.received, turns

    received, turns = asyncio.run(run())
    assert received == MAX_PACKETS
    assert turns >= MAX_PACKETS // SLICE


# Too many, or not to be read.


def ended(client: Polling, answer: requests.Response) -> None:
    """A 400 with the body of an error, and the connection is over."""
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "INVALID_REQUEST"
    assert answer.json()["details"]["reason"]
    assert client.get().status_code == 400
    assert client.post("3").status_code == 400


def test_more_packets_than_there_may_be(service: Serve) -> None:
    room = service.create()["sessionId"]
    client = Polling(service)
    ended(client, client.post(*[event("2", {"roomId": room, "message": "x"})] * (MAX_PACKETS + 1)))
    assert history(service, room) == []


@pytest.mark.parametrize("length", ["told", "chunked"])
def test_a_payload_larger_than_told_at_the_handshake_ends_the_client(service: Serve, length: str) -> None:
    client = Polling(service)
    body = b"4" + b"x" * MAX_BODY_BYTES
    ended(client, client.post(data=body if length == "told" else iter([body])))


def test_who_does_not_poll_is_not_kept_for(service: Serve) -> None:
    """What waits for a client has a bound: whoever speaks without end and never polls is sent away."""
    client = Polling(service)
    for _ in range(2 * MAX_WAITING // MAX_PACKETS):
        answer = client.post(*[event("leave", {})] * MAX_PACKETS)
        if answer.status_code != 200:
            break
    ended(client, answer)


@pytest.mark.parametrize("packet", UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_ends_polling(service: Serve, packet: str) -> None:
    room = service.create()["sessionId"]
    client = Polling(service)
    more = ["bAAAA"] if packet.startswith("450") else []
    ended(client, client.post(event("join", {"roomId": room}), packet, *more))


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"d", b"d=", b"{}", b"3\x1e", b"4\xed\xa0\x80"])
def test_a_body_that_is_no_payload(service: Serve, body: bytes) -> None:
    client = Polling(service)
    ended(client, client.post(data=body))


@pytest.mark.parametrize("packet", UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_ends_a_websocket(service: Serve, packet: str) -> None:
    with websocket(service) as client:
        client.send(packet)
        if packet.startswith("450"):
            client.send(b"\0")
        read_to_the_end(client)


@pytest.mark.parametrize("name", ["messageId", "requestId", "metadata", "roomId", "message"])
def test_a_value_nested_deeply_is_refused_wherever_it_stands(service: Serve, name: str) -> None:
    room = service.create()["sessionId"]
    with websocket(service) as client:
        for depth in (600, 940):
            nested = json.dumps({"roomId": room, "message": "x", name: 0}).replace(
                f'"{name}": 0', f'"{name}": {"[" * depth}{"]" * depth}'
            )
            client.send(f'42["2",{nested}]')
            while "messageError" not in (heard := client.recv(timeout=10)):
                assert "messageAck" not in heard
    assert history(service, room) == []


@pytest.mark.parametrize("begin", ["4", "3", "1", "40", "44", "431", '42["join",', '42["nobody knows",'])
def test_packets_nested_as_deep_as_python_can_hardly_read(service: Serve, begin: str) -> None:
    """One place reads a little deeper than the next, so that where the first can, the next cannot."""
    end = "]" if begin.startswith("42") else ""
    for depth in range(sys.getrecursionlimit() - 100, sys.getrecursionlimit(), 2):
        with contextlib.suppress(ConnectionClosed), websocket(service) as client:
            client.send(begin + "[" * depth + "]" * depth + end)
            client.send(event("nobody knows this", {}))
            while "nobody knows this" not in client.recv(timeout=10):
                pass


def test_a_frame_without_anything_ends_a_websocket(service: Serve) -> None:
    for frame in ("", b"", b"\0"):
        with websocket(service) as client:
            client.send(frame)
            read_to_the_end(client)


def test_an_answer_to_a_foreign_page_can_be_read_there(service: Serve) -> None:
    client = Polling(service)
    answer = client.post("x", headers={"Origin": "http://localhost:5173"})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (
        400,
        "http://localhost:5173",
    )


def test_who_says_goodbye_among_other_things_is_heard_until_then(service: Serve) -> None:
    room = service.create()["sessionId"]
    client = Polling(service)
    said, unsaid = (event("2", {"roomId": room, "message": text}) for text in ("said", "unsaid"))
    assert client.post(said, "1", unsaid).text == "OK"
    assert [message.content for message in history(service, room) if not message.is_agent] == ["said"]
    assert client.post(said).status_code == 400


# What is not polling.


@pytest.mark.parametrize("frames", [[], ["x"], ["2"], ["2probe"], ["2probe", ""], ["2probe", "6"]], ids=repr)
def test_polling_goes_on_when_a_websocket_does_not_take_over(service: Serve, frames: list[str]) -> None:
    client = Polling(service)
    client.named("connection_established", 1)
    with connect_websocket(
        f"ws://{client.address}{client.path.replace('polling', 'websocket')}", proxy=None
    ) as upgrade:
        for frame in frames:
            upgrade.send(frame)
    room = service.create()["sessionId"]
    assert client.post(event("join", {"roomId": room})).text == "OK"
    client.named("room_joined", 1)
    # Nothing waits now: a poll is answered when something happens, not at once, over and over.
    before = len(client.counts)
    client.post(event("leave", {}))
    client.named("messageError", 1)
    assert len(client.counts) - before <= 2


def test_the_body_of_a_poll_is_not_kept(service: Serve) -> None:
    connection = http.client.HTTPConnection(*service.rest.split(":"), timeout=10)
    connection.request("GET", "/socket.io/?EIO=4&transport=polling", body=b"x" * 100)
    assert connection.getresponse().status == 200
    connection.close()


def test_a_library_that_lacks_a_name_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service starts all the same, and says what it cannot do."""
    monkeypatch.delattr("engineio.async_socket.AsyncSocket.poll")
    with capture_logs() as logs:
        Engine(socketio.AsyncServer(async_mode="asgi"), "/socket.io", 1000)
    assert [line["missing"] for line in logs] == [["AsyncSocket.poll"]]
