"""Past each bound the next one is refused at once, in words that say when to try again; health answers all
the while; and it recovers.

And the short form of the campaign (see `overload`): more callers than there is room for, none of whom waits
for more than an answer.
"""

import asyncio
import http.client
import signal
import socket
import sqlite3
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import grpc
import orjson
import pytest
import requests
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from eliza.sessions.errors import error_info
from eliza.sessions.v1 import message_service_pb2, session_service_pb2
from tests.campaigns.http2_frames import SETTINGS, frame
from tests.campaigns.open_loop import Spec, offer
from tests.campaigns.overload import CONTENT, METHOD, sessions
from tests.contract.raw_http import Response, exchange, request
from tests.service.agents.worker import Worker, stream_agent
from tests.support.clients import create, history, send
from tests.support.realtime.programs import Facade, free_address
from tests.support.service import Serve, Start
from tests.support.waiting import until

SECONDS = 10
PAGE = "http://localhost:5173"

MAX_CONCURRENT_STREAMS = 3
"""The number of that setting in HTTP/2."""


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """The store is locked, for less than the service waits for it: writes wait meanwhile."""
    with closing(sqlite3.connect(directory / "store.db", isolation_level=None)) as outsider:
        outsider.execute("BEGIN IMMEDIATE")
        yield
        outsider.execute("ROLLBACK")


def refused(call: Callable[[], object]) -> bool:
    """Whether a call is refused for an overload, which must say when to try again."""
    caught = None
    try:
        call()
    except grpc.RpcError as error:
        caught = error
    if caught is None:
        return False
    info, retry = error_info(caught), error_details_pb2.RetryInfo()
    assert info is not None, caught
    assert (caught.code(), info.reason, dict(info.metadata)) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "OVERLOADED",
        {"retryAfterSeconds": "1"},
    )
    assert any(packed.Unpack(retry) for packed in rpc_status.from_call(caught).details)
    assert retry.retry_delay.seconds == 1
    return True


def healthy(service: Serve) -> bool:
    """Whether both kinds of health say that it serves."""
    check = health_pb2_grpc.HealthStub(service.channel).Check(
        health_pb2.HealthCheckRequest(), timeout=SECONDS
    )
    status = service.sessions.GetServiceStatus(session_service_pb2.GetServiceStatusRequest(), timeout=SECONDS)
    serving = session_service_pb2.GetServiceStatusResponse.HEALTH_HEALTHY
    return check.status == health_pb2.HealthCheckResponse.SERVING and status.health == serving


def read(service: Serve, session_id: str) -> Callable[[], object]:
    request = session_service_pb2.GetSessionRequest(session_id=session_id)
    return lambda: service.sessions.GetSession(request, timeout=SECONDS)


def test_calls_beyond_the_bound_are_refused(start: Start, tmp_path: Path) -> None:
    """The calls that have room wait for a store that is locked; of these, two are given up before their turn,
    and never happen.
    """
    service = start("--no-rest", MAX_CALLS="3")
    session_id = create(service).session_id
    beat = session_service_pb2.SendHeartbeatRequest(session_id=session_id)
    never = message_service_pb2.SendMessageRequest(session_id=session_id, content="never")
    with held(tmp_path):
        first = service.sessions.SendHeartbeat.future(beat, timeout=SECONDS)
        # Once these are answered, the first is in the writer's hands.
        for _ in range(20):
            assert not refused(read(service, session_id))
        given_up = [service.messages.SendMessage.future(never, timeout=SECONDS) for _ in range(2)]
        until(lambda: refused(read(service, session_id)), "a refusal")
        assert healthy(service)
        for call in given_up:
            call.cancel()
        until(lambda: not refused(read(service, session_id)), "room for another call")
    assert first.result().session.renewal_count == 1
    send(service, session_id, "after")
    assert {message.content for message in history(service, session_id)} == {"after"}
    assert service.stop() == 0


def test_streams_and_deliveries_beyond_the_bound_are_refused(start: Start) -> None:
    service = start("--no-rest", MAX_STREAMS="1", MAX_OPEN_DELIVERIES="2")
    agent_id = stream_agent(service)
    session_id, other_id = (create(service, agent_id).session_id for _ in range(2))
    for content in ("one", "two"):
        send(service, session_id, content)
    assert refused(lambda: send(service, session_id, "three"))
    assert healthy(service)
    send(service, other_id, "another session's")

    watch = service.sessions.WatchSession(
        session_service_pb2.WatchSessionRequest(session_id=session_id), timeout=SECONDS
    )
    assert next(watch).entry.sequence == 1
    for stream in (
        lambda: next(
            service.sessions.WatchSession(
                session_service_pb2.WatchSessionRequest(session_id=other_id), timeout=SECONDS
            )
        ),
        lambda: next(
            service.messages.Converse(
                message_service_pb2.ConverseRequest(
                    message=message_service_pb2.SendMessageRequest(session_id=other_id, content="never")
                ),
                timeout=SECONDS,
            )
        ),
    ):
        assert refused(stream)
    assert healthy(service)
    watch.cancel()

    def connected() -> Worker | None:
        found: list[Worker] = []
        return None if refused(lambda: found.append(Worker(service.channel, agent_id))) else found[0]

    with until(connected, "room for a stream") as worker:
        delivery = worker.next()
        worker.answer(delivery, "answered")
        until(
            lambda: not refused(lambda: send(service, delivery.message.session_id, "three")),
            "room for a message",
        )
    assert [message.content for message in history(service, other_id) if message.content == "never"] == []
    assert service.stop() == 0


def beat(url: str) -> int:
    """Sends a session a heartbeat, once there is room for it: the question whether one more is refused may
    itself take the place.
    """
    while (status := requests.post(f"{url}/heartbeat", timeout=SECONDS).status_code) == 503:
        pass
    return status


def test_requests_beyond_the_bound_are_refused(start: Start, tmp_path: Path) -> None:
    service = start(REST_MAX_REQUESTS="2")
    session_id = service.create()["sessionId"]
    url = f"{service.url}/{session_id}"

    def is_refused() -> bool:
        response = requests.get(url, headers={"Origin": PAGE}, timeout=SECONDS)
        if response.status_code == 200:
            return False
        assert (response.status_code, response.json()["code"], response.headers["Retry-After"]) == (
            503,
            "OVERLOADED",
            "1",
        )
        # A page sees it, too.
        assert response.headers["Access-Control-Allow-Origin"] == PAGE
        return True

    with ThreadPoolExecutor(2) as pool:
        with held(tmp_path):
            waiting = [pool.submit(beat, url) for _ in range(2)]
            until(is_refused, "a refusal")
            health = requests.get(f"{service.url}/health", timeout=SECONDS)
            assert (health.status_code, health.json()["status"]) == (200, "healthy")
        assert [future.result() for future in waiting] == [200, 200]
    assert not is_refused()
    assert service.stop() == 0


def test_how_a_request_beyond_the_bound_is_refused(start: Start, tmp_path: Path) -> None:
    """The connection stays, where all of the request was read; each request of it has its answer, in order,
    and none has two.
    """
    service = start(REST_MAX_REQUESTS="1")
    path = f"/api/messaging/sessions/{service.create()['sessionId']}"
    host, _, port = service.rest.rpartition(":")
    get, post = request("GET", path), request("POST", f"{path}/heartbeat")
    health = request("GET", "/api/messaging/sessions/health?x")
    with (
        ThreadPoolExecutor(1) as pool,
        socket.create_connection((host, int(port)), timeout=SECONDS) as connection,
    ):
        with held(tmp_path):
            waiting = pool.submit(beat, f"http://{service.rest}{path}")
            until(
                lambda: requests.get(f"http://{service.rest}{path}", timeout=SECONDS).status_code == 503,
                "a refusal",
            )
            answers = connection.makefile("rb")
            for content, method, statuses in (
                (get, "GET", [503]),
                # The next one begins before it is refused.
                (request("HEAD", path) + get[:20], "HEAD", [503]),
                (get[20:], "GET", [503]),
                (health + get + health, "GET", [200, 503, 200]),
                (
                    request(
                        "POST",
                        f"{path}/messages",
                        b'{"content": "x"}',
                        [("Content-Type", "application/json")],
                    ),
                    "POST",
                    [503],
                ),
                # What it offers is ignored, and its body begins no request.
                (
                    request("POST", f"{path}/messages", get, [("Connection", "Upgrade"), ("Upgrade", "h2c")]),
                    "POST",
                    [503],
                ),
                (
                    request(
                        "POST",
                        f"{path}/messages",
                        health,
                        [("Connection", "Upgrade"), ("Upgrade", "websocket")],
                    ),
                    "POST",
                    [503],
                ),
                # Of an ancient client, who is told that the connection ends.
                (get.replace(b"HTTP/1.1", b"HTTP/1.0"), "GET", [503]),
            ):
                connection.sendall(content)
                for status in statuses:
                    assert int(answers.readline().split()[1]) == status, content
                    headers = http.client.parse_headers(answers)
                    body = b"" if method == "HEAD" else answers.read(int(headers["Content-Length"]))
                    if status == 503:
                        assert headers["Retry-After"] == "1"
                        assert method == "HEAD" or orjson.loads(body)["code"] == "OVERLOADED"
            assert answers.read() == b""
            # Who sends on and on without waiting for answers has one to each, in order.
            last = request("GET", path, None, [("Connection", "close")])
            with socket.create_connection((host, int(port)), timeout=SECONDS) as pipelining:
                pipelining.sendall(get * 99 + last)
                assert pipelining.makefile("rb").read().count(b"HTTP/1.1 503 ") == 100
            # What is not there as a whole is not waited for; what comes of it yet is read past, and the
            # connection goes on behind it.
            large = request("POST", f"{path}/messages", b"x" * 1_000_000)
            with socket.create_connection((host, int(port)), timeout=SECONDS) as slow:
                said = slow.makefile("rb")
                slow.sendall(large[:300])
                assert int(said.readline().split()[1]) == 503
                headers = http.client.parse_headers(said)
                assert orjson.loads(said.read(int(headers["Content-Length"])))["code"] == "OVERLOADED"
                slow.sendall(large[300:])
                slow.sendall(health)
                assert int(said.readline().split()[1]) == 200
            # Who waits for leave to send the body may never send it, and so has to open another connection.
            asking = request(
                "POST", f"{path}/messages", None, [("Content-Length", "10"), ("Expect", "100-continue")]
            )
            half = exchange(service.rest, [asking], method="POST")
            assert half is not None
            assert (half.status, half.headers["connection"]) == (503, "close")
            # Health is health however its path is written.
            assert exchange(service.rest, [request("GET", "/api/messaging/sessions/%68ealth")]).status == 200
            assert (
                service.http.get(
                    f"http://{service.rest}/socket.io/?EIO=4&transport=polling", timeout=SECONDS
                ).status_code
                == 200
            )
        assert waiting.result() == 200
    assert exchange(service.rest, [post], method="POST") is not None
    assert service.stop() == 0


STREAM = [("Accept", "text/event-stream")]
NO_STREAMS = (
    "*/*",
    "text/*",
    "application/json",
    "text/event-stream;q=0",
    "text/event-streams",
    "text/html, text/event-stream; q=0.0",
)
STREAMS = (
    "text/event-stream",
    "TEXT/Event-Stream ; charset=utf-8;q=0.1",
    "application/json, text/event-stream",
    "text/html,,text/event-stream",
)


def comes_back(response: Response | None) -> bool:
    """Whether an answer has an EventSource come back in 3 to 10 seconds, and ends."""
    assert response is not None
    if response.status == 503:
        return False
    assert response.status == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["connection"] == "close"
    assert response.headers["vary"] == "Origin"
    retry = response.content.decode()
    assert retry.startswith("retry: ")
    assert retry.endswith("\n\n")
    assert 3000 <= int(retry.split()[1]) <= 10_000
    return True


def test_an_event_source_beyond_the_bound_is_told_to_come_back(start: Start, tmp_path: Path) -> None:
    service = start(REST_MAX_REQUESTS="1")
    path = f"/api/messaging/sessions/{service.create()['sessionId']}"
    events = f"{path}/events"

    def ask(target: str, *headers: tuple[str, str], method: str = "GET") -> Response | None:
        return exchange(
            service.rest, [request(method, target, None, headers)], method=method, timeout=SECONDS
        )

    with ThreadPoolExecutor(1) as pool:
        with held(tmp_path):
            waiting = pool.submit(beat, f"http://{service.rest}{path}")
            until(
                lambda: requests.get(f"http://{service.rest}{path}", timeout=SECONDS).status_code == 503,
                "a refusal",
            )
            # The second is refused where its path has been decoded.
            for target in (events, f"{path}/%65vents", f"{events}/?after=1"):
                for accept in STREAMS:
                    assert comes_back(ask(target, ("Accept", accept))), (target, accept)
                for accept in NO_STREAMS:
                    assert not comes_back(ask(target, ("Accept", accept))), (target, accept)
            assert comes_back(ask(events, ("Accept", "text/html"), *STREAM))
            assert not comes_back(ask(events, *STREAM, method="HEAD"))
            assert not comes_back(ask(events))
            assert not comes_back(ask(path, *STREAM))
            assert not comes_back(ask(f"{path}/messages", *STREAM, method="POST"))
        assert waiting.result() == 200
    assert service.stop() == 0


def test_an_event_source_that_the_server_cannot_serve_is_told_to_come_back(
    start: Start, tmp_path: Path
) -> None:
    service = start(MAX_STREAMS="2")
    url = f"{service.url}/{create(service).session_id}/events"
    events = url.removeprefix(f"http://{service.rest}")
    with requests.get(url, stream=True, timeout=SECONDS):
        until(lambda: requests.get(url, stream=True, timeout=SECONDS).status_code == 503, "a refusal")
        assert comes_back(exchange(service.rest, [request("GET", events, None, STREAM)], timeout=SECONDS))
    assert service.stop() == 0
    # Nobody is there who could be asked.
    front = Facade(free_address(), "127.0.0.1:0", tmp_path / "facade", REST_DEADLINE_SECONDS="1")
    try:
        for accept, back in ((STREAM, True), ([], False)):
            answer = exchange(
                front.addresses["rest"], [request("GET", events, None, accept)], timeout=SECONDS
            )
            assert answer is not None
            assert answer.status in ((200,) if back else (503, 504))
            assert not back or comes_back(answer)
    finally:
        front.kill()


def test_what_is_asked_on_an_idle_connection_is_answered_when_the_service_ends(
    start: Start, tmp_path: Path
) -> None:
    service = start(REST_MAX_REQUESTS="1")
    path = f"/api/messaging/sessions/{service.create()['sessionId']}"
    host, _, port = service.rest.rpartition(":")
    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        with held(tmp_path):
            waiting = pool.submit(beat, f"http://{service.rest}{path}")
            until(
                lambda: requests.get(f"http://{service.rest}{path}", timeout=SECONDS).status_code == 503,
                "a refusal",
            )
            # So many that most of them are yet to be refused when the end comes.
            asked = [
                stack.enter_context(socket.create_connection((host, int(port)), timeout=SECONDS))
                for _ in range(500)
            ]
            for connection in asked:
                connection.sendall(request("GET", path))
            answers = [connection.makefile("rb") for connection in asked]
            for answer in answers:
                assert int(answer.readline().split()[1]) == 503
                answer.read(int(http.client.parse_headers(answer)["Content-Length"]))
            for index, connection in enumerate(asked):
                connection.sendall(
                    request("GET", f"{path}/events", None, STREAM) if index % 2 else request("GET", path)
                )
            service.process.send_signal(signal.SIGTERM)
            for index, answer in enumerate(answers):
                assert int(answer.readline().split()[1]) == (200 if index % 2 else 503)
                headers = http.client.parse_headers(answer)
                assert answer.read(int(headers["Content-Length"])).startswith(
                    b"retry: " if index % 2 else b"{"
                )
        assert waiting.result() == 200
    assert service.stop() == 0
    assert "Traceback" not in service.log()


def test_who_only_waits_for_an_agent_takes_nobodys_place(start: Start) -> None:
    service = start(REST_MAX_REQUESTS="1")
    agent_id = stream_agent(service)
    ids = [create(service, agent_id).session_id for _ in range(3)]

    def ask(session_id: str) -> requests.Response:
        # The place of the one before may not be free yet at the moment when the agent has its message.
        while True:
            response = requests.post(
                f"{service.url}/{session_id}/messages",
                json={"content": "x", "transport": "http"},
                timeout=SECONDS,
            )
            if response.status_code != 503:
                return response

    with ThreadPoolExecutor(3) as pool, Worker(service.channel, agent_id, max_deliveries=3) as worker:
        # One after the other, because while a message is stored its sender does have a place.
        asked = [(pool.submit(ask, session_id), worker.next()) for session_id in ids]
        for _, delivery in asked:
            worker.answer(delivery, "answered")
        for future, _ in asked:
            assert (future.result().status_code, future.result().json()["agentResponse"]["content"]) == (
                201,
                "answered",
            )
    assert service.stop() == 0


def test_event_streams_beyond_the_bound_are_refused(start: Start) -> None:
    # One is the facade's own, for all sockets.
    service = start(MAX_STREAMS="2")
    url = f"{service.url}/{create(service).session_id}/events"
    with requests.get(url, stream=True, timeout=SECONDS) as first:
        assert first.status_code == 200

        def another() -> tuple[int, str, str] | None:
            """How another one is refused; None while the facade's own is still to come."""
            with requests.get(url, stream=True, timeout=SECONDS) as response:
                if response.status_code == 200:
                    return None
                return response.status_code, response.json()["code"], response.headers["Retry-After"]

        assert until(another, "a refusal") == (503, "OVERLOADED", "1")
        assert healthy(service)
    assert service.stop() == 0


def test_one_connection_has_so_many_streams_and_holds_back_more(start: Start) -> None:
    """A client over gRPC is held back, not refused; the facade has a connection for every hundred streams."""
    service = start(MAX_CONNECTION_STREAMS="100")
    session_id = create(service).session_id
    send(service, session_id, "x")
    with ExitStack() as stack:
        for _ in range(130):
            response = stack.enter_context(
                requests.get(f"{service.url}/{session_id}/events", stream=True, timeout=SECONDS)
            )
            assert next(response.iter_lines()) == b"retry: 1000"
        watches = [
            service.sessions.WatchSession(session_service_pb2.WatchSessionRequest(session_id=session_id))
            for _ in range(100)
        ]
        for watch in watches:
            stack.callback(watch.cancel)
            assert next(watch).entry.sequence == 1
        read_once = service.sessions.GetSession.future(
            session_service_pb2.GetSessionRequest(session_id=session_id), timeout=SECONDS
        )
        with pytest.raises(grpc.FutureTimeoutError):
            read_once.result(timeout=0.3)
        assert service.http.get(f"{service.url}/{session_id}", timeout=SECONDS).status_code == 200
        watches[0].cancel()
        assert read_once.result().session.session_id == session_id
    assert service.stop() == 0


async def test_the_generator_of_load_keeps_to_the_bound_of_a_connection() -> None:
    """A server that allows a hundred streams, as many do, and answers none of them."""
    seen = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(SETTINGS, 0, 0, struct.pack(">HI", MAX_CONCURRENT_STREAMS, 100)))
        while data := await reader.read(65_536):
            seen.extend(data)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        host, port = server.sockets[0].getsockname()
        spec = Spec(
            f"{host}:{port}", [("/path", b"")], seconds=0.5, in_flight=150, connections=1, deadline_s=30
        )
        await asyncio.to_thread(offer, spec)
    assert seen.count(b"\x04\x05/path") == 100


@pytest.mark.parametrize("rest", [False, True], ids=["gRPC", "REST"])
async def test_more_callers_than_there_is_room_for(start: Start, rest: bool) -> None:
    """Everyone is answered: with the message stored, or with a refusal that says when to try again.

    What was acknowledged is stored.
    """
    service = await asyncio.to_thread(start, MAX_CALLS="8", REST_MAX_REQUESTS="8")
    ids = sessions(service, 4)
    if rest:
        calls = [
            (f"/api/messaging/sessions/{session_id}/messages", orjson.dumps({"content": CONTENT}))
            for session_id in ids
        ]
    else:
        message = message_service_pb2.SendMessageRequest
        calls = [
            (METHOD, message(session_id=session_id, content=CONTENT).SerializeToString())
            for session_id in ids
        ]
    spec = Spec(
        service.rest if rest else service.grpc,
        calls,
        seconds=1,
        in_flight=32,
        connections=32 if rest else 2,
        deadline_s=30,
        rest=rest,
    )
    found = await asyncio.to_thread(offer, spec)
    print({outcome: len(latencies) for outcome, latencies in found.latencies_ms.items()}, found.statuses)
    assert set(found.latencies_ms) == {"ok", "refused"}
    assert set(found.statuses) == {"with Retry-After" if rest else "with RetryInfo"}
    stored = sum(len(history(service, session_id)) for session_id in ids)
    assert stored >= len(found.latencies_ms["ok"])
    assert service.stop() == 0
