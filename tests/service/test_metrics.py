"""Metrics of a real service: scraped during load, of `rest` alone, and none where nobody asks for them."""

import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import pytest
import requests
import socketio
import yaml

from eliza.sessions.errors import TABLE
from eliza.sessions.v1 import agent_pb2, agent_service_pb2, session_service_pb2
from server.domain.deliveries import DeliveryState
from server.telemetry.endpoint import MAX_CONNECTIONS
from tests.service.docs.pages import DOCS, example
from tests.service.metric_names import CONFIGURATION, Selector, expressions, grouped_labels, selectors
from tests.support.clients import command
from tests.support.metrics import Scrape, scrape
from tests.support.realtime.programs import Facade, Program, free_address
from tests.support.service import ECHO, UNKNOWN, USER, Serve, Start, environment, store_settings
from tests.support.waiting import PATIENCE_SECONDS, until

FREE = "127.0.0.1:0"
SESSION = "/api/messaging/sessions/{sessionId}"
MESSAGES = f"{SESSION}/messages"
CALLS = "rpc_server_call_duration_seconds"
REQUESTS = "http_server_request_duration_seconds"
SEND = "eliza.sessions.v1.MessageService/SendMessage"
GET = "eliza.sessions.v1.SessionService/GetSession"

# The file's size, its log of writes and notes beside it are metrics of SQLite's.
pytestmark = pytest.mark.sqlite

VALUES = {
    "reason": set(TABLE),
    "rpc_response_status_code": {code.name for code in grpc.StatusCode},
    "http_response_status_code": {str(row.http_status) for row in TABLE.values()} | {"200", "201"},
    "state": {state.value for state in DeliveryState} | {"ended", "waiting", "in_hand"},
    "outcome": {"answered", "failed", "closed", "cancelled"},
    "part": {"data", "wal"},
    "command": {"backup", "check"},
    "kind": {"client", "worker"},
}
"""The values that labels may have."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A service with metrics, for the tests of this module."""
    running = Serve(tmp_path_factory.mktemp("measured"), METRICS_ADDRESS=FREE)
    yield running
    assert running.stop() == 0, running.log()


def send(service: Serve, session_id: str) -> None:
    """Sends a message, and waits for its reply."""
    body = {"content": "Hello", "transport": "http"}
    answer = service.http.post(f"{service.url}/{session_id}/messages", json=body, timeout=PATIENCE_SECONDS)
    assert answer.status_code == 201, answer.text


@pytest.fixture(scope="module")
def seen(measured: Serve) -> Scrape:
    """A scrape of a service in which everything has happened that is counted."""
    session_id = measured.create()["sessionId"]
    send(measured, session_id)
    assert measured.http.get(f"{measured.url}/{UNKNOWN}", timeout=10).status_code == 404

    def has_all() -> Scrape | None:
        found = scrape(measured.metrics)
        return None if found.empty else found

    return until(has_all, "a scrape in which each metric has a sample")


ASKED = [one for where, expression in expressions() for one in selectors(where, expression)]


def test_the_dashboard_and_the_rules_ask_for_much() -> None:
    assert len(ASKED) > 50
    assert Selector("alert ElizaDiskFull", "eliza_store_free_bytes", ()) in ASKED
    assert Selector("alert ElizaWalLarge", "eliza_store_bytes", (("part", ("wal",)),)) in ASKED


@pytest.mark.parametrize("asked", ASKED, ids=lambda one: f"{one.where}: {one.name}")
def test_each_metric_that_deploy_names_is_there_with_its_labels(seen: Scrape, asked: Selector) -> None:
    assert asked.name in seen.labels
    for label, values in asked.labels:
        assert label in seen.labels[asked.name]
        assert set(values) <= VALUES.get(label, set(values)), label


@pytest.mark.parametrize("expression", [one for _, one in expressions()])
def test_what_deploy_groups_by_are_labels_of_its_metrics(seen: Scrape, expression: str) -> None:
    for one in selectors("", expression):
        assert grouped_labels(expression) <= seen.labels[one.name]


def test_each_metric_is_on_the_dashboard(seen: Scrape) -> None:
    """Those of the process itself are the library's."""
    named = {one.name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for one in ASKED}
    there = {
        name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
        for name in seen.labels
        if not name.startswith("process_")
    }
    assert there - named == set()


def test_a_call_and_its_request_are_counted(seen: Scrape) -> None:
    assert seen.sum(f"{CALLS}_count", rpc_method=SEND, rpc_response_status_code="OK") >= 1
    assert seen.sum(f"{CALLS}_count", rpc_method=GET, rpc_response_status_code="NOT_FOUND") >= 1
    assert seen.sum(f"{REQUESTS}_count", http_route=MESSAGES, http_response_status_code="201") >= 1
    assert seen.sum(f"{REQUESTS}_count", http_route=SESSION, http_response_status_code="404") >= 1
    assert seen.sum("eliza_refusals_total", reason="SESSION_NOT_FOUND") >= 1
    assert seen.sum("eliza_attempts_total", agent_kind="echo", agent_id=ECHO, outcome="answered") >= 1
    assert seen.sum("eliza_live_sessions") >= 1
    assert seen.sum("eliza_store_bytes", part="data") > 0


def test_no_label_has_the_id_of_a_session_or_a_user(measured: Serve, seen: Scrape) -> None:
    ids = {session["sessionId"] for session in measured.http.get(measured.url, timeout=10).json()["sessions"]}
    assert ids
    for one in (*ids, USER, UNKNOWN):
        assert one not in seen.text


def test_a_scrape_during_load_is_whole_and_no_call_is_missed(measured: Serve) -> None:
    session_ids = [measured.create()["sessionId"] for _ in range(4)]

    def count(found: Scrape) -> tuple[float, float]:
        return (
            found.sum(f"{REQUESTS}_count", http_route=SESSION, http_request_method="GET"),
            found.sum(f"{CALLS}_count", rpc_method=SEND, rpc_response_status_code="OK"),
        )

    before, rounds, scrapes = count(scrape(measured.metrics)), 12, 0

    def load(session_id: str) -> None:
        with requests.Session() as http:
            for _ in range(rounds):
                url = f"{measured.url}/{session_id}"
                body = {"content": "Hello", "transport": "http"}
                http.post(f"{url}/messages", json=body, timeout=PATIENCE_SECONDS).raise_for_status()
                http.get(url, timeout=PATIENCE_SECONDS).raise_for_status()

    last: dict[object, float] = {}
    with ThreadPoolExecutor(len(session_ids)) as pool:
        running = [pool.submit(load, one) for one in session_ids]
        while not all(one.done() for one in running):
            found = scrape(measured.metrics)
            scrapes += 1
            for (name, labels), value in found.samples.items():
                if name.endswith("_count"):
                    assert found.samples[name[:-6] + "_bucket", labels | {("le", "+Inf")}] == value
                if name.endswith(("_count", "_bucket", "_total")):
                    assert value >= last.get((name, labels), 0), "it goes down"
                    last[name, labels] = value
        for one in running:
            one.result()
    assert scrapes >= 1
    done = len(session_ids) * rounds
    expected = before[0] + done, before[1] + done
    until(lambda: count(scrape(measured.metrics)) == expected, f"{expected}")


def test_what_is_open_is_told_and_how_it_ends(measured: Serve) -> None:
    session_id = measured.create()["sessionId"]
    events = f"{SESSION}/events"

    def streams() -> float:
        return scrape(measured.metrics).sum("eliza_open_streams", kind="client")

    def ended() -> float:
        return scrape(measured.metrics).sum(f"{REQUESTS}_count", http_route=events)

    assert ended() == 0
    client = socketio.Client()
    client.connect(f"http://{measured.rest}", transports=["websocket"])
    url = f"{measured.url}/{session_id}/events"
    with requests.get(url, stream=True, timeout=PATIENCE_SECONDS) as stream:
        assert stream.status_code == 200
        until(lambda: streams() >= 1, "the stream")
        until(lambda: scrape(measured.metrics).sum("eliza_open_sockets") == 1, "the socket")
        assert ended() == 0
    # Its client goes: the request ends with the status that it had.
    until(lambda: ended() == 1, "the end of the stream")
    client.disconnect()
    found = until(
        lambda: (one := scrape(measured.metrics)).sum("eliza_open_sockets") == 0 and one, "the socket's end"
    )
    assert found.sum(f"{REQUESTS}_count", http_route=events, http_response_status_code="200") == 1


def test_a_request_whose_client_leaves_first_is_counted(measured: Serve) -> None:
    agent = agent_pb2.Agent(name="silent", kind=agent_pb2.AGENT_KIND_STREAM)
    made = measured.agents.CreateAgent(agent_service_pb2.CreateAgentRequest(agent=agent), timeout=10)
    session_id = measured.create(agentId=made.agent.agent_id)["sessionId"]
    body = b'{"content": "Hello", "transport": "http"}'
    with connect(measured.rest) as connection:
        connection.sendall(
            f"POST /api/messaging/sessions/{session_id}/messages HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        until(
            lambda: scrape(measured.metrics).sum("eliza_deliveries_open", state="waiting") == 1, "the message"
        )
    until(
        lambda: scrape(measured.metrics).sum(f"{REQUESTS}_count", http_response_status_code="499") == 1,
        "the end of the request",
    )
    found = scrape(measured.metrics)
    assert found.sum(f"{CALLS}_count", rpc_method=SEND, rpc_response_status_code="CANCELLED") == 1
    assert found.sum("eliza_delivery_oldest_age_seconds") > 0
    measured.sessions.DeleteSession(
        session_service_pb2.DeleteSessionRequest(session_id=session_id), timeout=10
    )
    until(
        lambda: scrape(measured.metrics).sum("eliza_deliveries_closed_total", state="ended") == 1, "its end"
    )


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
        (b"GET /metrics?name[]=up HTTP/1.0\r\n\r\n", b"200"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b"405"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET http://x/metrics HTTP/1.1\r\n\r\n", b"404"),
        (b"nonsense\r\n\r\n", b"400"),
    ],
)
def test_only_metrics_are_served(measured: Serve, request_bytes: bytes, status: bytes) -> None:
    head, _, body = exchange(measured.metrics, request_bytes).partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == status
    assert (b"\neliza_build_info{" in body) == (request_bytes.startswith(b"GET") and status == b"200")


@pytest.mark.parametrize("request_bytes", [b"GET /metrics", b"GET /" + b"a" * 70_000], ids=["little", "much"])
def test_who_says_too_little_or_too_much_is_let_go_of(measured: Serve, request_bytes: bytes) -> None:
    with connect(measured.metrics) as connection:
        connection.sendall(request_bytes)
        assert scrape(measured.metrics).samples
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""


def test_a_connection_too_many_is_closed_at_once(measured: Serve) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(measured.metrics)) for _ in range(MAX_CONNECTIONS + 10)]
        with suppress(ConnectionResetError):
            assert idle[-1].recv(1) == b""
        # The first ones are still waited for.
        idle[0].sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert idle[0].recv(65_536).startswith(b"HTTP/1.1 404 ")
    until(lambda: is_served(measured.metrics), "a scrape once there is room")


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), PATIENCE_SECONDS)


def is_served(address: str) -> bool:
    try:
        return requests.get(f"http://{address}/metrics", timeout=PATIENCE_SECONDS).ok
    except requests.ConnectionError:
        return False


def exchange(address: str, request_bytes: bytes) -> bytes:
    """Sends bytes, and reads until the connection ends."""
    answer = bytearray()
    with connect(address) as connection:
        connection.sendall(request_bytes)
        while part := connection.recv(65_536):
            answer += part
    return bytes(answer)


def test_without_an_address_nothing_is_served_nor_loaded(plain: Serve) -> None:
    assert plain.metrics == ""
    assert requests.get(f"http://{plain.rest}/metrics", timeout=PATIENCE_SECONDS).status_code == 404
    code = "import sys, server.cli.serve, server.cli.rest; print('prometheus_client' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert found.stdout == "False\n"


def test_the_page_says_how(tmp_path: Path) -> None:
    (line,) = example("metrics").splitlines()
    assignment, *words = line.split()
    name, _, address = assignment.partition("=")
    here = free_address()
    program = Program(command(*words[1:]), tmp_path, GRPC_ADDRESS=FREE, REST_ADDRESS=FREE, **{name: here})
    with program:
        assert words[0] == "eliza-sessions"
        assert address.startswith("127.0.0.1:")
        assert scrape(here).samples
    targets = yaml.safe_load(CONFIGURATION.read_text())["scrape_configs"][0]["static_configs"][0]["targets"]
    assert targets == [address]


def test_the_page_names_each_series_and_its_labels(seen: Scrape) -> None:
    """The table of docs/metrics.md, and what the service tells."""
    page = (DOCS / "metrics.md").read_text().partition("## Series")[2].partition("## Alerts")[0]
    told: dict[str, set[str]] = {}
    for names, labels in re.findall(r"^\| (`[^|]+) \|([^|]*)\|", page, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            told[name] = set(re.findall(r"`(\w+)`", labels))
    there: dict[str, set[str]] = {}
    for name, labels in seen.labels.items():
        if not name.startswith("process_"):
            there.setdefault(re.sub(r"_(bucket|count|sum)$", "", name), set()).update(labels - {"le"})
    told["eliza_store_free_bytes"] = set()
    assert told == there


def test_the_facade_alone_has_metrics_of_its_own(measured: Serve, tmp_path: Path) -> None:
    with Facade(measured.grpc, FREE, tmp_path / "facade", METRICS_ADDRESS=FREE) as front:
        assert front.health().status_code == 200
        address = front.addresses["metrics"]
        found = until(lambda: (one := scrape(address)).sum(f"{REQUESTS}_count") and one, "the request")
        route = "/api/messaging/sessions/health"
        assert found.sum(f"{REQUESTS}_count", http_route=route, http_response_status_code="200") == 1
        assert found.sum("eliza_open_connections") >= 0
        assert not any(name in found.labels for name in ("eliza_live_sessions", f"{CALLS}_count"))
        assert front.stop() == 0


def test_a_taken_address_stops_the_start(measured: Serve, tmp_path: Path) -> None:
    found = subprocess.run(
        command("serve"),
        env=environment(
            **store_settings(tmp_path),
            GRPC_ADDRESS=FREE,
            REST_ADDRESS=FREE,
            METRICS_ADDRESS=measured.metrics,
        ),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert found.returncode == 1
    assert found.stderr.startswith(f"Error: METRICS_ADDRESS {measured.metrics} cannot be listened on: ")


def test_an_address_that_others_can_reach_is_warned_of(start: Start) -> None:
    service = start(METRICS_ADDRESS="0.0.0.0:0")
    assert service.metrics.startswith("0.0.0.0:")
    assert scrape(service.metrics.replace("0.0.0.0", "127.0.0.1")).samples
    assert "others can reach the metrics, which need no credential" in service.log()


def test_a_service_that_stops_ends_its_scrapes(start: Start) -> None:
    service = start(METRICS_ADDRESS=FREE)
    stopped = threading.Event()

    def keep_scraping() -> None:
        while not stopped.is_set():
            is_served(service.metrics)

    scraping = threading.Thread(target=keep_scraping)
    scraping.start()
    try:
        with connect(service.metrics):
            assert service.stop() == 0
    finally:
        stopped.set()
        scraping.join()
    assert "Traceback" not in service.log()


def test_agents_cannot_be_on_the_port_of_the_metrics(start: Start) -> None:
    service = start(METRICS_ADDRESS=FREE, AGENT_ALLOWED_HOSTS="127.0.0.1")
    model = agent_pb2.OpenAiSettings(base_url=f"http://{service.metrics}/metrics", model="curious")
    agent = agent_pb2.Agent(name="curious", kind=agent_pb2.AGENT_KIND_OPENAI, openai=model)
    with pytest.raises(grpc.RpcError, match="AGENT_ALLOWED_HOSTS does not allow"):
        service.agents.CreateAgent(agent_service_pb2.CreateAgentRequest(agent=agent), timeout=10)
