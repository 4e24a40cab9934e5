"""The standard health protocol, as orchestrators use it, and health over REST."""

import contextlib
import resource
import signal
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import requests
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from eliza.sessions.errors import error_info
from eliza.sessions.v1.session_service_pb2 import GetSessionRequest
from eliza.sessions.v1.session_service_pb2_grpc import (
    SessionServiceServicer,
    add_SessionServiceServicer_to_server,
)
from tests.service.health.health_clients import CLOCK, NOT_SERVING, SERVICES, SERVING, check, grpcurl, probe
from tests.support.clients import create, ended, fails, history, replies, send
from tests.support.realtime.programs import Facade, free_address
from tests.support.service import ECHO, USER, Serve, Start
from tests.support.waiting import until


class Watch:
    """The statuses that a Watch tells of a service, and how it ended."""

    def __init__(self, service: Serve, name: str = "") -> None:
        self.statuses: list[int] = []
        self.end: grpc.StatusCode | None = None
        self._call = HealthStub(service.channel).Watch(HealthCheckRequest(service=name))
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self._call.cancel()
        self._thread.join()

    def sees(self, *statuses: int) -> None:
        until(lambda: self.statuses == list(statuses), f"the statuses {statuses}, not {self.statuses}")

    def _follow(self) -> None:
        try:
            for response in self._call:
                self.statuses.append(response.status)
            self.end = grpc.StatusCode.OK
        except grpc.RpcError as error:
            self.end = error.code()


@pytest.mark.parametrize("name", ["", *SERVICES, CLOCK])
def test_every_service_is_serving(service: Serve, name: str) -> None:
    assert check(service, name) == SERVING
    with Watch(service, name) as watch:
        watch.sees(SERVING)


@pytest.mark.parametrize(
    "name", ["nonsense", "SessionService", "eliza.sessions.v1", "eliza.sessions.v1.sessionservice"]
)
def test_an_unknown_service_is_told_as_the_protocol_has_it(service: Serve, name: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        check(service, name)
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    with Watch(service, name) as watch:
        watch.sees(HealthCheckResponse.SERVICE_UNKNOWN)
        assert watch.end is None


def test_list_tells_of_every_service(service: Serve) -> None:
    listed = HealthStub(service.channel).List(HealthListRequest(), timeout=10).statuses
    assert {name: response.status for name, response in listed.items()} == dict.fromkeys(
        ["", *SERVICES, CLOCK], SERVING
    )


def test_a_shutdown_is_told_to_watchers_before_it_happens(start: Start) -> None:
    running = start("--no-rest", SHUTDOWN_GRACE_SECONDS="1")
    with contextlib.ExitStack() as stack:
        watches = [stack.enter_context(Watch(running, name)) for name in ("", *SERVICES)]
        for watch in watches:
            watch.sees(SERVING)
        running.process.send_signal(signal.SIGTERM)
        for watch in watches:
            watch.sees(SERVING, NOT_SERVING)
        until(lambda: all(watch.end for watch in watches), "the end of the streams")
        assert [watch.statuses for watch in watches] == [[SERVING, NOT_SERVING]] * len(watches)
    assert ended(running) == 0


def test_a_watcher_does_not_hold_a_shutdown_up(start: Start) -> None:
    running = start("--no-rest", SHUTDOWN_GRACE_SECONDS="600")
    with Watch(running) as watch:
        watch.sees(SERVING)
        running.process.send_signal(signal.SIGTERM)
        watch.sees(SERVING, NOT_SERVING)
        # Nothing is in flight but the watch, which has been told all there will ever be to tell. Far less
        # than the grace period will do.
        until(lambda: running.process.poll() is not None, "the end of the service", seconds=15)
    assert ended(running) == 0


def test_a_shutdown_under_load_keeps_every_acknowledged_message_and_its_reply(
    start: Start,
) -> None:
    running = start("--no-rest")
    session_ids = [create(running).session_id for _ in range(4)]
    acknowledged: dict[str, list[str]] = {session_id: [] for session_id in session_ids}
    ends: list[grpc.StatusCode] = []

    def talk(session_id: str) -> None:
        number = 0
        while True:
            try:
                acknowledged[session_id].append(send(running, session_id, f"message {number}").content)
            except grpc.RpcError as error:
                ends.append(error.code())
                return
            number += 1

    threads = [threading.Thread(target=talk, args=(session_id,)) for session_id in session_ids]
    for thread in threads:
        thread.start()
    until(lambda: all(len(contents) > 20 for contents in acknowledged.values()), "a conversation")
    running.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert ended(running) == 0
    # gRPC itself ends a call with CANCELLED that arrives just when it closes the port.
    assert len(ends) == len(session_ids)
    assert set(ends) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    again = start("--no-rest")
    for session_id, contents in acknowledged.items():
        log = history(again, session_id)
        asked = [message.content for message in log if not message.is_agent]
        assert asked[: len(contents)] == contents
        assert len(asked) <= len(contents) + 1
        # What was still open is answered after the restart.
        assert [message.content for message in replies(again, session_id, len(asked))] == asked


def limit_files(running: Serve, size: int) -> Callable[[], None]:
    """Has every write of the service beyond a file's first `size` bytes fail, as on a full disk; returns what
    lifts the limit.
    """
    before = resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (size, before[1]))
    return lambda: resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, before)


@pytest.mark.sqlite
def test_a_store_that_cannot_write_is_told_everywhere_and_recovers(start: Start) -> None:
    running = start()
    session_id = create(running).session_id
    acknowledged = [send(running, session_id, f"message {number}").content for number in range(20)]
    until(lambda: len(history(running, session_id)) == 40, "the replies")
    with Watch(running) as watch, Watch(running, SERVICES[1]) as other:
        watch.sees(SERVING)
        other.sees(SERVING)
        # The log is far smaller than this, the write-ahead log larger: only the store fails.
        lift = limit_files(running, 65_536)
        with pytest.raises(grpc.RpcError) as raised:
            send(running, session_id, "refused over gRPC")
        assert raised.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
        info = error_info(raised.value)
        assert info is not None
        assert info.reason in ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
        assert int(info.metadata["retryAfterSeconds"]) > 0
        for seen in (watch, other):
            seen.sees(SERVING, NOT_SERVING)
        assert check(running) == check(running, SERVICES[0]) == NOT_SERVING

        health = running.http.get(f"{running.url}/health", timeout=10)
        assert (health.status_code, health.json()["status"], health.json()["activeSessions"]) == (
            503,
            "unhealthy",
            1,
        )
        assert int(health.headers["Retry-After"]) > 0
        refused = running.http.post(
            f"{running.url}/{session_id}/messages", json={"content": "refused over REST"}, timeout=10
        )
        assert (refused.status_code, refused.json()["code"]) == (503, info.reason)
        assert int(refused.headers["Retry-After"]) == refused.json()["details"]["retryAfterSeconds"]
        assert (
            running.http.post(running.url, json={"agentId": ECHO, "userId": USER}, timeout=10).status_code
            == 503
        )
        assert probe("-addr", running.grpc).status == 4

        assert running.http.get(f"{running.url}/{session_id}", timeout=10).status_code == 200
        assert running.http.get(running.url, timeout=10).json()["total"] == 1
        assert [
            message.content for message in history(running, session_id) if not message.is_agent
        ] == acknowledged

        lift()
        for seen in (watch, other):
            seen.sees(SERVING, NOT_SERVING, SERVING)
    assert running.http.get(f"{running.url}/health", timeout=10).json()["status"] == "healthy"
    acknowledged.append(send(running, session_id, "accepted again").content)
    until(lambda: len(history(running, session_id)) == 42, "the reply")
    running.kill()
    again = start()
    for one_is_agent in (False, True):
        assert [m.content for m in history(again, session_id) if m.is_agent is one_is_agent] == acknowledged


@pytest.mark.sqlite
def test_a_store_that_somebody_locks_is_told_with_the_first_write_that_fails(
    start: Start, tmp_path: Path
) -> None:
    running = start("--no-rest")
    session_id = create(running).session_id
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as outsider:
        outsider.execute("BEGIN IMMEDIATE")
        fails(lambda: send(running, session_id, "refused"), "UNAVAILABLE")
        # As long as the lock lasts: looking whether it is over takes seconds, too.
        assert check(running) == NOT_SERVING
        outsider.execute("ROLLBACK")
    until(lambda: check(running) == SERVING, "the recovery")
    assert [message.content for message in history(running, session_id)] == []
    assert running.stop() == 0


@pytest.mark.sqlite
def test_a_log_that_cannot_be_written_harms_nothing_else(start: Start) -> None:
    running = start("--no-rest")
    session_id = create(running).session_id
    send(running, session_id, "before")
    until(lambda: len(history(running, session_id)) == 2, "the reply")
    # A full disk, which often holds the log too: now nothing can be written anywhere.
    lift = limit_files(running, 1)
    for _ in range(3):
        with pytest.raises(grpc.RpcError) as raised:
            send(running, session_id, "refused")
        assert raised.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
    until(lambda: check(running) == NOT_SERVING, "NOT_SERVING")
    lift()
    until(lambda: check(running) == SERVING, "SERVING")
    send(running, session_id, "after")
    assert [m.content for m in history(running, session_id) if not m.is_agent] == ["before", "after"]
    assert running.stop() == 0


def test_the_test_clock_is_not_there_when_it_is_off(plain: Serve) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        plain.advance(ms=1)
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert CLOCK not in grpcurl(plain.grpc, "list").split()
    assert sorted(HealthStub(plain.channel).List(HealthListRequest(), timeout=10).statuses) == sorted(
        ["", *SERVICES]
    )
    with pytest.raises(grpc.RpcError) as raised:
        check(plain, CLOCK)
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    url = f"http://{plain.rest}/test/clock"
    for response in (
        requests.get(url, timeout=10),
        requests.post(url, json={"advanceMs": 1}, timeout=10),
        requests.post(url, timeout=10),
    ):
        assert (response.status_code, response.json()["code"]) == (404, "PATH_NOT_FOUND")


def test_the_facade_tells_that_its_server_is_away(tmp_path: Path) -> None:
    with Facade(free_address(), "127.0.0.1:0", tmp_path) as front:
        response = front.health()
        assert (response.status_code, response.json()["status"], response.json()["code"]) == (
            503,
            "unhealthy",
            "UNAVAILABLE",
        )
        response = requests.get(f"{front.url}/{ECHO}", timeout=20)
        assert (response.status_code, response.json()["code"]) == (503, "UNAVAILABLE")
        assert int(response.headers["Retry-After"]) > 0


class Stopping(SessionServiceServicer):
    """Ends every call as gRPC does those that arrive just when a server closes its port."""

    def GetSession(self, request: GetSessionRequest, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.CANCELLED, "CANCELLED")


def test_the_facade_tells_that_its_server_was_stopping(tmp_path: Path) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    add_SessionServiceServicer_to_server(Stopping(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Facade(f"127.0.0.1:{port}", "127.0.0.1:0", tmp_path) as front:
            response = requests.get(f"{front.url}/{ECHO}", timeout=20)
    finally:
        server.stop(None).wait()
    assert (response.status_code, response.json()["code"]) == (503, "UNAVAILABLE")
