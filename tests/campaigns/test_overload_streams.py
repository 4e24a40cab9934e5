"""Streams past their bound are refused, and an event source is told to come back."""

import http.client
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
import requests

from eliza.sessions.v1 import session_service_pb2
from tests.campaigns.refusals import SECONDS, beat, healthy, held
from tests.contract.raw_http import Response, exchange, request
from tests.service.agents.worker import Worker, stream_agent
from tests.support.clients import create, send
from tests.support.realtime.programs import Facade, free_address
from tests.support.service import Start
from tests.support.waiting import until

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
    service = start(MAX_STREAMS="1")
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
    service = start(MAX_STREAMS="1")
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
