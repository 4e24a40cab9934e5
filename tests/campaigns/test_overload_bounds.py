"""Past each bound the next one is refused at once, in words that say when to try again; health answers all
the while; and it recovers.
"""

import http.client
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import requests

from eliza.sessions.v1 import message_service_pb2, session_service_pb2
from tests.campaigns.refusals import SECONDS, beat, healthy, held, refused
from tests.contract.raw_http import exchange, request
from tests.service.agents.worker import Worker, stream_agent
from tests.support.clients import create, history, send
from tests.support.service import Serve, Start
from tests.support.waiting import until

PAGE = "http://localhost:5173"


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
