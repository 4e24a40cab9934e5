"""What takes memory: requests that are refused, or too large to be looked at, answers that nobody reads,
connections that stay.
"""

import http.client
import json
import time
import uuid
from collections.abc import Callable
from typing import Final

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from eliza.sessions import values
from eliza.sessions.v1 import message_service_pb2, session_service_pb2
from tests.campaigns.hostile.half_sent import HalfSent
from tests.campaigns.hostile.playing import SEND, Playing, ask_streams, begin_messages, field_bytes, quietly
from tests.campaigns.http_attack import SESSIONS
from tests.contract.raw_http import request
from tests.service.agents.worker import stream_agent
from tests.support.service import ECHO, USER

SESSION_SERVICE: Final = "/eliza.sessions.v1.SessionService/"
AGENT_SERVICE: Final = "/eliza.sessions.v1.AgentService/"
CONVERSE: Final = "/eliza.sessions.v1.MessageService/Converse"
HANDSHAKE: Final = "/socket.io/?EIO=4&transport=polling"
UPGRADE: Final = (
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
)
WEBSOCKET: Final = request("GET", "/socket.io/?EIO=4&transport=websocket", headers=UPGRADE)
JSON: Final = ("Content-Type", "application/json")
LARGE: Final = 1_900_000
"""Of attachments in bytes, a little below what a message may have."""
STREAMS: Final = 200
"""That one connection may have open by default."""


def refused_sends(play: Playing) -> None:
    """Large messages to a session that is not there, or that are wrong in themselves, over gRPC and REST."""
    picture = ["x" * LARGE]
    attachments = values.list_value(picture)
    session_id = play.once("session", lambda: play.service.create()["sessionId"])
    send = message_service_pb2.SendMessageRequest
    refused = [
        send(session_id=str(uuid.UUID(int=2)), content="hello", attachments=attachments).SerializeToString(),
        send(session_id="not a UUID", content="hello", attachments=attachments).SerializeToString(),
        send(session_id=session_id, content="x" * 4001, attachments=attachments).SerializeToString(),
        send(
            session_id=session_id, content="hello", attachments=attachments, request_id="é"
        ).SerializeToString(),
    ]
    chosen = [play.random.choice((refused[0], *refused)) for _ in range(play.scaled(400))]
    play.at_once(lambda n: play.call(SEND, chosen[n]), len(chosen))
    bodies = [
        (f"/{uuid.UUID(int=2)}", json.dumps({"content": "hello", "attachments": picture}).encode()),
        (f"/{session_id}", json.dumps({"content": "x" * 4001, "attachments": picture}).encode()),
        (f"/{session_id}", json.dumps({"content": "hello", "attachments": picture})[:-2].encode()),
    ]
    posts = [play.random.choice((bodies[0], *bodies)) for _ in range(play.scaled(300))]
    play.at_once(lambda n: play.rest("POST", f"{posts[n][0]}/messages", posts[n][1]), len(posts))
    play.require(play.answers["OK"] == play.answers["201"] == 0, "what must be refused was taken")


def empty_values(play: Playing) -> None:
    """Messages of very many values, as they are and compressed, and requests of other methods that have no
    room for them.
    """
    session_id = play.once("session", lambda: play.service.create()["sessionId"])
    count = play.scaled(8_000_000, 1_000_000)
    message = field_bytes(1, session_id.encode()) + field_bytes(2, b"hello")
    values_of_none = field_bytes(4, b"\x0a\x00" * count)
    # An entry of a map: a key and an empty value.
    pairs = field_bytes(3, b"\x0a\x05\x0a\x01k\x12\x00" * (count // 4))
    below = field_bytes(4, b"\x0a\x00" * 1_900_000)
    zipped = grpc.Compression.Gzip
    calls: list[tuple[str, bytes, grpc.Compression | None]] = [
        (SEND, message + values_of_none, None),
        (SEND, message + values_of_none, zipped),
        (SEND, message + below, None),
        (SEND, message + below, zipped),
        (
            f"{SESSION_SERVICE}CreateSession",
            field_bytes(1, ECHO.encode()) + field_bytes(2, USER.encode()) + pairs,
            None,
        ),
        (
            f"{SESSION_SERVICE}GetSession",
            field_bytes(1, session_id.encode()) + field_bytes(99, b"x" * 4_000_000),
            zipped,
        ),
        (f"{AGENT_SERVICE}UpdateAgent", field_bytes(2, b"\x0a\x00" * 1_900_000), None),
        (f"{AGENT_SERVICE}Reply", field_bytes(2, field_bytes(5, b"") * 100_000), zipped),
    ]
    play.random.shuffle(calls)
    for path, content, compression in calls:
        play.at_once(
            lambda _, path=path, content=content, compression=compression: play.call(
                path, content, compression=compression
            ),
            play.scaled(8, 4),
        )
    play.require(not play.answers["OK"], "what must be refused was taken")


def half_sent_messages(play: Playing) -> None:
    """Calls on many connections, each with the beginning of a message that never goes on; and on some, all
    that the core takes of it.
    """
    half = begin_messages(SEND, 4_000_000, 500, 100)
    opened = [play.open(play.service.grpc, half) for _ in range(play.scaled(50))]
    for _ in range(play.scaled(2)):
        begun = HalfSent(play.connect(play.service.grpc), SEND, play.scaled(STREAMS, 16), 3_900_000)
        begun.run(4)
        play.answers["calls ended by the service"] += begun.ended
    play.linger(3)
    play.answers["connection closed by the service"] += play.closed(opened)


def heavy_session(play: Playing) -> None:
    """Makes a session of an agent that nobody works for, with a page of large messages."""
    session_id: str = play.service.create(agentId=stream_agent(play.service, "nobodys"))["sessionId"]
    attachments = values.list_value(["x" * LARGE])
    send = message_service_pb2.SendMessageRequest(
        session_id=session_id, content="look", attachments=attachments
    ).SerializeToString()
    for _ in range(play.scaled(50, 12)):
        assert play.call(SEND, send) == "OK", "a large message is refused"
    play.kept["heavy session"] = session_id


def answers_unread(play: Playing) -> None:
    """Pages, event streams, watches and conversations that are asked for and never read, and sockets that
    only send.
    """
    session_id = play.kept["heavy session"]
    page = request("GET", f"{SESSIONS}/{session_id}/messages?limit=100")
    events = request("GET", f"{SESSIONS}/{session_id}/events", headers=[("Accept", "text/event-stream")])
    watch = session_service_pb2.WatchSessionRequest(session_id=session_id).SerializeToString()
    join = session_service_pb2.WatchSessionsRequest.Join(session_id=session_id, after_sequence=0)
    watches = session_service_pb2.WatchSessionsRequest(join=join).SerializeToString()
    rest, rpc = play.service.rest, play.service.grpc
    unread = [
        *[(rest, page)] * play.scaled(10, 4),
        *[(rest, events)] * play.scaled(100),
        *[(rpc, ask_streams(f"{SESSION_SERVICE}WatchSession", watch, 10))] * play.scaled(10),
        *[(rpc, ask_streams(f"{SESSION_SERVICE}WatchSessions", watches, 10))] * play.scaled(10),
    ]
    play.random.shuffle(unread)
    opened = [play.open(address, content, receive_bytes=4096) for address, content in unread]
    for _ in range(play.scaled(8, 2)):
        _only_send(play)
    play.linger(3)
    play.answers["connection closed by the service"] += play.closed(opened)


def _only_send(play: Playing) -> None:
    """A WebSocket that sends events, each of which has an answer, and reads none."""
    socket = play.open(play.service.rest, WEBSOCKET, receive_bytes=4096)
    if socket is None:
        return
    # Whatever it says to that: what follows is sent to a connection that has been upgraded.
    socket.recv(1024)
    play.flood(socket, _frame(b"40"), 6)
    play.flood(
        socket,
        _frame(b'42["message",{"type":2,"payload":{"roomId":"x","message":"y"}}]') * 100,
        play.scaled(8_000_000),
    )


def _frame(content: bytes, kind: int = 1) -> bytes:
    """A WebSocket frame with a mask of zeros."""
    size = (
        bytes([128 | len(content)])
        if len(content) < 126
        else bytes([128 | 126]) + len(content).to_bytes(2, "big")
    )
    return bytes([128 | kind]) + size + b"\0\0\0\0" + content


def endless_input(play: Playing) -> None:
    """Trailers without end, binary packets without end, handshakes that nobody goes on with, connections that
    say nothing or half of it.
    """
    rest, rpc = play.service.rest, play.service.grpc
    trailers = (
        request("POST", SESSIONS, headers=[JSON, ("Transfer-Encoding", "chunked")]) + b"2\r\n{}\r\n0\r\n"
    )
    play.flood(play.open(rest, trailers, b"X-Trailer: "), b"y" * 60_000, play.scaled(300_000_000))
    play.flood(play.open(rest, trailers), b"X: y\r\n" * 10_000, play.scaled(30_000_000))
    if socket := play.open(rest, WEBSOCKET):
        socket.recv(1024)
        placeholders = ",".join(f'{{"_placeholder":true,"num":{number}}}' for number in range(10))
        # As many as the library takes, sent whole each time but for the last.
        begun = _frame(b"40") + _frame(f'4510-["message",{placeholders}]'.encode())
        play.flood(socket, begun, len(begun))
        play.flood(
            socket,
            _frame(b"x" * 60_000, kind=2) * 9 + _frame(f'4510-["message",{placeholders}]'.encode()),
            play.scaled(60_000_000),
        )
    each = 200

    def shake(_: int) -> str:
        """Handshakes on one connection, which stays; the first that is refused ends them."""
        connection = http.client.HTTPConnection(*rest.rsplit(":", 1), timeout=10)
        play.held.callback(connection.close)
        try:
            for _ in range(each):
                connection.request("GET", HANDSHAKE)
                with connection.getresponse() as answer:
                    answer.read()
                    if answer.status != 200:
                        return f"handshakes {answer.status}"
        except (OSError, http.client.HTTPException) as error:
            return f"handshakes {type(error).__name__}"
        return "handshakes taken"

    play.at_once(shake, play.scaled(20_000 // each))
    handshake = request("GET", HANDSHAKE)
    half_head, half_body = (
        handshake[:20],
        request("POST", SESSIONS, b'{"agentId": ', [JSON, ("Content-Length", "4000")]),
    )
    silent = [
        (rest, b""),
        (rest, half_head),
        (rest, half_body),
        (rpc, b""),
        (rpc, b"PRI * HTTP"),
        (rpc, ask_streams(SEND, None, 1)),
    ]
    opened = [play.open(address, content) for address, content in silent * play.scaled(200)]
    # Head and first `40` have 10 s.
    play.linger(12 if play.size == 1 else 3)
    play.answers["connection closed by the service"] += play.closed(opened)


def silent_streams(play: Playing) -> None:
    """Workers that never say hello, health watches, reflections, watches without a first message: as many as
    there is room for.
    """
    watched = health_pb2.HealthCheckRequest().SerializeToString()
    reflected = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    kinds: list[Callable[[], bytes]] = [
        lambda: ask_streams(f"{AGENT_SERVICE}Connect", None, STREAMS),
        lambda: ask_streams("/grpc.health.v1.Health/Watch", watched, STREAMS),
        lambda: ask_streams(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", reflected, STREAMS
        ),
        lambda: ask_streams("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", None, STREAMS),
        lambda: ask_streams(f"{SESSION_SERVICE}WatchSessions", None, STREAMS),
    ]
    opened = []
    for number in range(play.scaled(60, len(kinds))):
        opened.append(play.open(play.service.grpc, kinds[number % len(kinds)]()))
        if play.is_over():
            break
    play.linger(12 if play.size == 1 else 2)
    # The facade has its place all the same: a conversation and an event stream begin.
    begun_s = time.monotonic()
    session_id = play.service.create()["sessionId"]
    with play.service.http.get(f"{play.service.url}/{session_id}/events", stream=True, timeout=10) as answer:
        play.require(
            answer.status_code == 200,
            f"an event stream is refused: {answer.status_code} after {time.monotonic() - begun_s:.1f} s",
        )
    for connection in filter(None, opened):
        quietly(connection.close)
