"""Going on where one left off, also when the service was killed, alone or behind the facade."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import requests

from eliza.sessions.v1.message_service_pb2 import SendMessageRequest
from tests.service.agents.worker import Worker, stream_agent
from tests.service.socketio.rooms import joined, origin
from tests.support.clients import create, history, replies, send
from tests.support.realtime.programs import Facade, Program, free_address
from tests.support.realtime.sockets import KINDS, Connect
from tests.support.service import ECHO, USER, Serve, Start
from tests.support.waiting import until


def test_joining_again_and_again_takes_no_streams(start: Start, connect: Connect) -> None:
    """A socket that has missed nothing needs no stream of its own to catch up: that one must be closed."""
    service = start(MAX_STREAMS="12")
    session = service.create()
    present = joined(connect(origin(service)), session["sessionId"])
    for _ in range(30):
        assert present.call("join", {"roomId": session["sessionId"], "after": 0}) == {"success": True}
    with requests.get(f"{service.url}/{session['sessionId']}/events", stream=True, timeout=15) as response:
        assert response.status_code == 200


@pytest.mark.parametrize("after", [0, 1, 3, 4, "2"])
def test_joining_replays_what_was_missed(
    service: Serve, connect: Connect, kind: str, after: int | str
) -> None:
    session_id = service.create()["sessionId"]
    for number in range(2):
        send(service, session_id, f"missed {number}")
        replies(service, session_id, number + 1)
    client = joined(connect(origin(service), kind), session_id, after=after)
    send(service, session_id, "live")
    ids = [
        message.message_id for message in (replies(service, session_id, 3) and history(service, session_id))
    ]
    until(lambda: len(client.sequences(session_id)) == 6 - int(after), "what was missed and what is live")
    assert client.sequences(session_id) == list(range(int(after) + 1, 7))
    assert [payload["id"] for payload in client.named("messageBroadcast")] == ids[int(after) :]
    welcomes = [name for name, payload in client.events if name in ("room_joined", "messageBroadcast")]
    assert welcomes[0] == "room_joined"


def test_replay_while_the_session_goes_on(service: Serve, connect: Connect) -> None:
    """600 entries are more than a socket's backlog may be; more are made while each kind catches up."""
    session_id = service.create()["sessionId"]
    for number in range(300):
        send(service, session_id, f"missed {number}")
    replies(service, session_id, 300)
    clients = [connect(origin(service), kind) for kind in KINDS]
    have_joined, sent = threading.Event(), []

    def go_on() -> None:
        while not have_joined.is_set() or len(sent) < 100:
            send(service, session_id, f"live {len(sent)}")
            sent.append(len(sent))

    speaker = threading.Thread(target=go_on)
    speaker.start()
    try:
        for client in clients:
            joined(client, session_id, after=10)
    finally:
        have_joined.set()
        speaker.join()
    count = 2 * (300 + len(sent))
    for client in clients:
        until(
            lambda client=client: len(client.sequences(session_id)) >= count - 10 or client.disconnects,
            "everything",
        )
        assert client.disconnects == []
        assert client.sequences(session_id) == list(range(11, count + 1))
    clients[0].call("2", {"roomId": session_id, "message": "the end"})
    for client in clients:
        until(lambda client=client: len(client.sequences(session_id)) >= count - 8, "the end")
        assert client.sequences(session_id) == list(range(11, count + 3))


def test_who_joined_with_nothing_missed_gets_the_pieces_of_the_next_reply(
    service: Serve, connect: Connect
) -> None:
    """A client that has everything and says so follows as live as any other: it gets the pieces of the next
    reply.
    """
    client = connect(origin(service))
    for _ in range(20):
        session_id = service.create()["sessionId"]
        joined(client, session_id, after=0)
        send(service, session_id, "one two three")
        until(lambda session_id=session_id: len(client.sequences(session_id)) == 2, "the reply")
        pieces = [
            piece["chunk"] for piece in client.named("messageStreamChunk") if piece["sessionId"] == session_id
        ]
        assert pieces == ["one ", "two ", "three"]


def persistently(service: Callable[[], Serve], session_id: str, content: str) -> None:
    """Sends a message to a server that may be away, until it says that it has it."""

    def sent() -> bool:
        try:
            service().messages.SendMessage(
                SendMessageRequest(session_id=session_id, content=content), timeout=5
            )
        except (grpc.RpcError, ValueError):
            return False
        return True

    until(sent, content)


def test_a_server_that_is_killed_behind_the_facade_loses_no_entry_for_its_sockets(
    start: Start, connect: Connect, tmp_path: Path, run_program: Callable[[Program], Program]
) -> None:
    address, directory = free_address(), tmp_path / "server"
    running = [start("--no-rest", directory=directory, GRPC_ADDRESS=address)]
    front = run_program(Facade(address, "127.0.0.1:0", tmp_path / "facade"))
    url = f"http://{front.addresses['rest']}"
    made = (
        running[0]
        .http.post(f"{url}/api/messaging/sessions", json={"agentId": ECHO, "userId": USER}, timeout=10)
        .json()
    )
    session_id = made["sessionId"]
    clients = [connect(url, kind) for kind in KINDS]
    for client, more in zip(clients, ({}, {"after": 0}, {}, {"after": 0}), strict=True):
        joined(client, session_id, **more)

    stop, sent = threading.Event(), []

    def talk() -> None:
        while not stop.is_set():
            persistently(lambda: running[-1], session_id, f"message {len(sent)}")
            sent.append(len(sent))

    speaker = threading.Thread(target=talk)
    speaker.start()
    try:
        for round_number in range(2):
            goal = len(sent) + 20
            until(lambda goal=goal: len(sent) >= goal, "20 messages")
            running[-1].kill()
            if round_number:
                # A socket that speaks in the meantime hears that it cannot, and stays.
                assert (
                    clients[0].call("2", {"roomId": session_id, "message": "anyone?"})["code"]
                    == "UNAVAILABLE"
                )
            running.append(start("--no-rest", directory=directory, GRPC_ADDRESS=address))
        goal = len(sent) + 20
        until(lambda: len(sent) >= goal, "20 messages")
    finally:
        stop.set()
        speaker.join()
    # The facade looks for its server once a second.
    until(
        lambda: clients[1].call("2", {"roomId": session_id, "message": "the end"})["success"],
        "the facade to find the server",
    )
    until(
        lambda: (
            history(running[-1], session_id)[-1].content == "the end"
            and history(running[-1], session_id)[-1].is_agent
        ),
        "the reply",
    )
    log = [message.message_id for message in history(running[-1], session_id)]
    for client in clients:
        until(lambda client=client: len(client.sequences(session_id)) >= len(log), "every entry")
        assert client.sequences(session_id) == list(range(1, len(log) + 1))
        assert [payload["id"] for payload in client.named("messageBroadcast")] == log
        assert client.disconnects == []
        assert len(client.connects) == 1
    assert "Traceback" not in front.log_path.read_text()


def test_pieces_are_void_when_the_server_behind_the_facade_is_gone(
    start: Start, connect: Connect, tmp_path: Path, run_program: Callable[[Program], Program]
) -> None:
    """Nobody is left who could say so but the facade: the next server knows nothing of them."""
    address, directory = free_address(), tmp_path / "server"
    server = start("--no-rest", directory=directory, GRPC_ADDRESS=address)
    front = run_program(Facade(address, "127.0.0.1:0", tmp_path / "facade"))
    url = f"http://{front.addresses['rest']}"
    agent_id = stream_agent(server)
    session_id = create(server, agent_id).session_id
    members = [joined(connect(url), session_id), joined(connect(url, "python-polling"), session_id)]
    with requests.get(
        f"{url}/api/messaging/sessions/{session_id}/events", stream=True, timeout=30
    ) as response:
        lines = (line.decode() for line in response.iter_lines(chunk_size=1))
        with Worker(server.channel, agent_id) as worker:
            send(server, session_id, "hello")
            delivery = worker.next()
            worker.chunk(delivery, "half a ")
            for member in members:
                member.wait("messageStreamChunk")
            assert "event: messageStreamChunk" in lines
            server.kill()
            void = {"messageId": delivery.reply_message_id, "sessionId": session_id, "attempt": 1}
            for member in members:
                assert member.wait("messageStreamAborted") == [void]
            assert "event: messageStreamAborted" in lines
            assert json.loads(next(lines).removeprefix("data: ")) == void
