"""`eliza-sessions probe`: the flags and exit statuses of grpc_health_probe, also over TLS."""

import contextlib
import queue
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer, add_HealthServicer_to_server

from tests.service.health.health_clients import NOT_SERVING, PATIENCE, SERVICES, SERVING, TLS, probe
from tests.support.clients import Ended, run
from tests.support.service import Serve


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
