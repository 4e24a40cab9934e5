"""The standard health protocol, the probe, and reflection, as orchestrators and tools use them."""

import contextlib
import json
import queue
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import grpc
import pytest
import requests
from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest
from grpc_health.v1.health_pb2_grpc import HealthServicer, HealthStub, add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection_pb2

from eliza.sessions.errors import error_info
from eliza.sessions.v1.message_service_pb2 import SendMessageResponse
from eliza.sessions.v1.session_service_pb2 import CreateSessionResponse, GetSessionRequest
from eliza.sessions.v1.session_service_pb2_grpc import (
    SessionServiceServicer,
    add_SessionServiceServicer_to_server,
)
from tests.support.clients import Ended, create, ended, fails, history, invoke, replies, run, send
from tests.support.realtime.programs import Facade, free_address
from tests.support.service import ECHO, USER, Serve, Start
from tests.support.waiting import until

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
SERVICES = [f"eliza.sessions.v1.{name}" for name in ("SessionService", "MessageService", "AgentService")]
REFLECTION = [f"grpc.reflection.{version}.ServerReflection" for version in ("v1", "v1alpha")]
CLOCK = "eliza.sessions.v1.ClockService"
TLS = Path(__file__).parents[1] / "tls"


def check(service: Serve, name: str = "") -> int:
    return HealthStub(service.channel).Check(HealthCheckRequest(service=name), timeout=10).status


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


class Standin(HealthServicer):
    """A health service that answers as it is told, and remembers what it was sent."""

    def __init__(self, answer: int = SERVING) -> None:
        self.answer = answer
        self.headers: dict[str, list[str]] = {}
        self.asked: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.go = threading.Event()
        self.go.set()

    def Check(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> HealthCheckResponse:
        self.asked.put(request.service)
        for name, value in context.invocation_metadata():
            self.headers.setdefault(name, []).append(value)
        self.go.wait(10)
        return HealthCheckResponse(status=self.answer)


@contextlib.contextmanager
def served(
    standin: HealthServicer | None, credentials: grpc.ServerCredentials | None = None
) -> Iterator[int]:
    """A gRPC server with a health service, or with none; yields its port on 127.0.0.1."""
    server = grpc.server(ThreadPoolExecutor(2))
    if standin is not None:
        add_HealthServicer_to_server(standin, server)
    address = "127.0.0.1:0"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


PATIENCE = ("-connect-timeout", "10s", "-rpc-timeout", "10s")


def probe(*arguments: object, **settings: str) -> Ended:
    return invoke("probe", *PATIENCE, *map(str, arguments), **settings)


def probe_alone(*arguments: object) -> Ended:
    """A probe in a process of its own, where it fails to connect: grpcio's waiting thread may complain when
    its channel is closed.
    """
    return run("probe", *PATIENCE, *map(str, arguments), cwd=TLS)


def told(result: Ended) -> str:
    """What a probe that failed says on standard error, in one line."""
    assert result.out == ""
    (line,) = result.errors.splitlines()
    return line


def test_the_probe_as_a_command_of_its_own_has_the_documented_statuses(
    service: Serve, tmp_path: Path
) -> None:
    assert run("probe", "-addr", service.grpc, *PATIENCE, cwd=tmp_path) == (0, "status: SERVING\n", "")
    done = run("probe", "-addr", service.grpc, "-service", "nonsense", *PATIENCE, cwd=tmp_path)
    assert done.status == 3
    assert "NOT_FOUND" in told(done)


@pytest.mark.parametrize(
    "form",
    [("-addr", "{}"), ("-addr={}",), ("--addr", "{}"), ("--addr={}",)],
    ids=["dash", "dash=", "dashes", "dashes="],
)
def test_the_probe_takes_flags_as_go_programs_do(service: Serve, form: Sequence[str]) -> None:
    arguments = [part.format(service.grpc) for part in form]
    assert probe(*arguments).status == 0
    assert (
        probe(*arguments, *(part.replace("addr", "service").format(SERVICES[0]) for part in form)).status == 0
    )
    assert (
        probe(*arguments, *(part.replace("addr", "service").format("nonsense") for part in form)).status == 3
    )


@pytest.mark.parametrize("flag", ["-addr=", "-server=", "--server="])
@pytest.mark.parametrize(
    "host", ["", "localhost", "127.0.0.1", "0.0.0.0", "ipv4:127.0.0.1", "dns:///localhost"]
)
def test_the_probe_takes_an_address_of_all_for_this_machine(service: Serve, flag: str, host: str) -> None:
    assert probe(f"{flag}{host}:{service.grpc.rpartition(':')[2]}").status == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", ""])
def test_the_probe_has_its_server_from_the_environment(service: Serve, host: str) -> None:
    port = service.grpc.rpartition(":")[2]
    assert probe(GRPC_ADDRESS=f"{host}:{port}").status == 0
    assert probe("-addr", service.grpc, GRPC_ADDRESS="127.0.0.1:1").status == 0


def test_a_server_on_all_addresses_of_ip_6_is_reached_on_its_loopback() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    add_HealthServicer_to_server(Standin(), server)
    port = server.add_insecure_port("[::]:0")
    server.start()
    try:
        assert probe(f"-addr=[::]:{port}").status == 0
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("address", ["nowhere", "", "[::1]", "host:http", "host:65536"])
def test_an_address_that_the_probe_cannot_use_ends_it_with_1(address: str) -> None:
    result = probe(f"-addr={address}")
    assert (result.status, result.out) == (1, "")
    assert "HOST:PORT" in result.errors
    assert probe(GRPC_ADDRESS=address or "nowhere").status == 1


@pytest.mark.parametrize("flag", ["-version", "--version"])
def test_the_probe_knows_its_version(flag: str) -> None:
    result = probe(flag)
    assert (result.status, result.out) == (
        0,
        f"eliza-sessions, version {metadata.version('eliza-sessions')}\n",
    )


@pytest.mark.parametrize("flag", ["-tls=false", "-v=true"])
def test_the_probe_takes_switches_with_a_value_as_go_programs_do(service: Serve, flag: str) -> None:
    assert probe("-addr", service.grpc, flag).status == 0


@pytest.mark.parametrize("duration", ["5s", "5000ms", "0.1m", "1m30s", "5000000us", "1h"])
def test_the_probe_takes_durations_as_go_writes_them(service: Serve, duration: str) -> None:
    assert probe("-addr", service.grpc, "-connect-timeout", duration, f"-rpc-timeout={duration}").status == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("-nonsense",),
        ("-addr",),
        ("-connect-timeout", "soon"),
        ("-connect-timeout", "5"),
        ("-rpc-timeout", "5 s"),
        ("-rpc-timeout=",),
        ("-rpc-timeout", "-1s"),
        ("-rpc-header", "no colon"),
        ("-tls-ca-cert", str(TLS / "certificate.pem")),
        ("-tls-server-name", "localhost"),
        ("-tls", "-tls-ca-cert", str(TLS / "absent.pem")),
        ("-tls", "-tls-client-cert", str(TLS / "certificate.pem")),
        ("-tls", "-tls-client-key", str(TLS / "key.pem")),
    ],
    ids=" ".join,
)
def test_bad_arguments_of_the_probe_end_it_with_1(service: Serve, arguments: Sequence[str]) -> None:
    result = probe("-addr", service.grpc, *arguments)
    assert (result.status, result.out) == (1, "")
    assert result.errors
    assert "Traceback" not in result.errors


@pytest.mark.parametrize("flag", ["-rpc-timeout", "-connect-timeout"])
def test_the_probe_refuses_to_wait_for_no_time(service: Serve, flag: str) -> None:
    result = probe_alone("-addr", service.grpc, flag, "0s")
    assert (result.status, result.out) == (1, "")


def test_the_probe_refuses_to_trust_what_is_no_certificate(service: Serve) -> None:
    result = probe_alone(
        "-addr", service.grpc, "-tls", "-tls-ca-cert", TLS / "README.md", "-connect-timeout", "100ms"
    )
    assert (result.status, result.out) == (1, "")
    assert "README.md" in result.errors


def test_the_probe_ends_with_2_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    result = probe_alone("-addr", address, "-connect-timeout", "100ms")
    assert result.status == 2
    assert address in told(result)


def test_the_probe_ends_with_2_where_nobody_speaks_grpc() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = probe_alone("-addr", f"127.0.0.1:{silent.getsockname()[1]}", "-connect-timeout=100ms")
    assert result.status == 2
    assert "0.1s" in told(result)


def test_the_probe_ends_with_3_when_the_call_fails() -> None:
    standin = Standin()
    standin.go.clear()
    with served(standin) as port:
        result = probe("-addr", f"127.0.0.1:{port}", "-rpc-timeout", "250ms")
        standin.go.set()
        assert (result.status, standin.asked.get(timeout=10)) == (3, "")
        assert "DEADLINE_EXCEEDED" in told(result)
    with served(None) as port:
        result = probe("-addr", f"127.0.0.1:{port}")
        assert result.status == 3
        assert "UNIMPLEMENTED" in told(result)


@pytest.mark.parametrize(
    "answer", [NOT_SERVING, HealthCheckResponse.UNKNOWN, HealthCheckResponse.SERVICE_UNKNOWN]
)
def test_the_probe_ends_with_4_when_the_service_is_not_serving(answer: int) -> None:
    with served(Standin(answer)) as port:
        result = probe("-addr", f"127.0.0.1:{port}")
        assert result.status == 4
        assert HealthCheckResponse.ServingStatus.Name(answer) in told(result)


def test_the_probe_sends_headers_and_a_user_agent() -> None:
    standin = Standin()
    with served(standin) as port:
        assert probe("-addr", f"127.0.0.1:{port}", "-service", "a.Service").status == 0
        assert standin.headers["user-agent"][-1].startswith("eliza-sessions probe")
        arguments = (
            "-rpc-header",
            "X-Api-Key: a:b, c",
            "-rpc-header=x-api-key:second",
            "-user-agent",
            "kubelet/1.30",
        )
        assert probe("-addr", f"127.0.0.1:{port}", *arguments).status == 0
    assert standin.headers["x-api-key"] == ["a:b, c", "second"]
    assert standin.headers["user-agent"][-1].startswith("kubelet/1.30")
    assert [standin.asked.get(timeout=10) for _ in range(2)] == ["a.Service", ""]


@pytest.mark.parametrize("flag", ["-v", "-verbose", "--verbose"])
def test_a_verbose_probe_tells_how_long_it_took(service: Serve, flag: str) -> None:
    result = probe("-addr", service.grpc, flag)
    assert (result.status, result.out) == (0, "status: SERVING\n")
    assert "connected in" in result.errors


def test_a_proxy_for_the_web_is_not_between_the_probe_and_this_machine(
    service: Serve, tmp_path: Path
) -> None:
    done = run(
        "probe",
        "-addr",
        service.grpc,
        "-connect-timeout",
        "4s",
        cwd=tmp_path,
        http_proxy="http://127.0.0.1:9",
        no_proxy="",
    )
    assert (done.status, done.errors) == (0, "")


TRUST = ("-tls", "-tls-ca-cert", TLS / "certificate.pem")
OWN = ("-tls-client-cert", TLS / "certificate.pem", "-tls-client-key", TLS / "key.pem")
NAMED = ("-tls-server-name", "sessions.test")


def credentials(*, mutual: bool = False) -> grpc.ServerCredentials:
    """A server's side of TLS; with `mutual` it wants a certificate of its clients too."""
    certificate, key = (TLS / "certificate.pem").read_bytes(), (TLS / "key.pem").read_bytes()
    return grpc.ssl_server_credentials([(key, certificate)], certificate if mutual else None, mutual)


def test_the_probe_verifies_over_tls() -> None:
    with served(Standin(), credentials()) as port:
        assert probe("-addr", f"127.0.0.1:{port}", *TRUST, *NAMED).status == 0
        assert probe("-addr", f"localhost:{port}", *TRUST).status == 0
    with served(Standin(), credentials(mutual=True)) as port:
        assert probe("-addr", f"127.0.0.1:{port}", *TRUST, *NAMED, *OWN).status == 0


@pytest.mark.parametrize(
    "arguments",
    [(), ("-tls", *NAMED), (*TRUST, "-tls-server-name", "elsewhere.test"), TRUST],
    ids=["no TLS", "no trust", "another name", "no name"],
)
def test_the_probe_ends_with_2_when_tls_fails(arguments: Sequence[object]) -> None:
    with served(Standin(), credentials()) as port:
        assert probe_alone("-addr", f"127.0.0.1:{port}", *arguments, "-connect-timeout", "100ms").status == 2


def test_the_probe_without_a_certificate_of_its_own_is_turned_away() -> None:
    with served(Standin(), credentials(mutual=True)) as port:
        # In TLS 1.3 the client has connected before the server has seen that there is no certificate.
        assert probe_alone(
            "-addr", f"127.0.0.1:{port}", *TRUST, *NAMED, "-connect-timeout", "500ms"
        ).status in (2, 3)


def test_the_probe_skips_verification_when_told() -> None:
    with served(Standin(), credentials()) as port:
        assert probe("-addr", f"127.0.0.1:{port}", "-tls", "-tls-no-verify").status == 0


def grpcurl(*arguments: str) -> str:
    """What grpcurl says; it knows the API by reflection alone."""
    program = Path(sys.executable).with_name("grpcurl")
    done = subprocess.run(
        [program, "-plaintext", *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_reflection_lists_the_services(service: Serve) -> None:
    listed = grpcurl(service.grpc, "list").split()
    assert sorted(listed) == sorted([*SERVICES, CLOCK, "grpc.health.v1.Health", *REFLECTION])


@pytest.mark.parametrize("name", REFLECTION)
def test_each_version_of_reflection_describes_itself(service: Serve, name: str) -> None:
    ask = service.channel.stream_stream(
        f"/{name}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = ask(iter([reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)]), timeout=10)
    file = FileDescriptorProto.FromString(answer.file_descriptor_response.file_descriptor_proto[0])
    assert (file.package, file.service[0].name) == tuple(name.rsplit(".", 1))


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        (
            SERVICES[0],
            [
                *("CreateSession", "DeleteSession", "GetServiceStatus", "GetSession"),
                *(
                    "ListSessions",
                    "RenewSession",
                    "SendHeartbeat",
                    "UpdateTimeout",
                    "WatchSession",
                    "WatchSessions",
                ),
            ],
        ),
        (SERVICES[1], ["Converse", "ListMessages", "SendMessage"]),
        (
            SERVICES[2],
            ["Connect", "CreateAgent", "DeleteAgent", "GetAgent", "ListAgents", "Reply", "UpdateAgent"],
        ),
        (CLOCK, ["AdvanceClock", "GetClock", "SetClock"]),
    ],
)
def test_reflection_describes_a_service(service: Serve, name: str, methods: list[str]) -> None:
    assert sorted(grpcurl(service.grpc, "list", name).split()) == [f"{name}.{method}" for method in methods]
    described = grpcurl(service.grpc, "describe", name)
    for method in methods:
        assert (
            f"rpc {method} ( .eliza.sessions.v1.{method}Request ) returns ( "
            f".eliza.sessions.v1.{method}Response );" in described.replace("stream ", "")
        )


def test_grpcurl_holds_a_conversation(service: Serve) -> None:
    body = {
        "agentId": ECHO,
        "userId": USER,
        "metadata": {"platform": "shell"},
        "timeoutConfig": {"timeoutMinutes": 10},
    }
    answer = grpcurl("-d", json.dumps(body), service.grpc, f"{SERVICES[0]}/CreateSession")
    session = json_format.Parse(answer, CreateSessionResponse()).session
    assert (dict(session.metadata), session.timeout_config.timeout_minutes) == ({"platform": "shell"}, 10)
    body = {"session_id": session.session_id, "content": "hello", "attachments": [{"type": "image"}]}
    sent = json_format.Parse(
        grpcurl("-d", json.dumps(body), service.grpc, f"{SERVICES[1]}/SendMessage"), SendMessageResponse()
    )
    assert (sent.message.content, sent.message.attachments[0]["type"]) == ("hello", "image")
    assert sent.session_status.was_renewed
    assert json.loads(grpcurl(service.grpc, "grpc.health.v1.Health/Check")) == {"status": "SERVING"}
    until(lambda: len(history(service, session.session_id)) == 2, "the reply")


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
