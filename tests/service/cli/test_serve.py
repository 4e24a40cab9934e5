"""`eliza-sessions serve`: its addresses, its store, its end."""

import json
import os
import pty
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil
import pytest
import requests

from eliza.sessions.errors import error_info
from eliza.sessions.v1.message_service_pb2 import ConverseRequest, SendMessageRequest
from eliza.sessions.v1.session_service_pb2 import DeleteSessionRequest, UpdateTimeoutRequest
from eliza.sessions.v1.timeout_pb2 import TimeoutConfig
from tests.contract.raw_http import request
from tests.service.agents.worker import stream_agent
from tests.service.cli.test_commands import COMPLAINT, LOOPBACK
from tests.support.clients import (
    agent_ids,
    clean_failure,
    command,
    create,
    ended,
    fails,
    history,
    invoke,
    refused,
    replies,
    run,
    send,
)
from tests.support.realtime.programs import Facade
from tests.support.service import ECHO, Serve, Start, environment
from tests.support.waiting import until


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_the_ready_line_names_both_addresses(plain: Serve) -> None:
    # The harness has read the line already, and takes nothing else for one.
    assert re.fullmatch(LOOPBACK, plain.grpc)
    assert re.fullmatch(LOOPBACK, plain.rest)
    assert plain.grpc != plain.rest
    assert requests.get(f"{plain.url}/health", timeout=10).status_code == 200


def test_without_rest_there_is_none(start: Start, taken: str) -> None:
    running = start("--no-rest", REST_ADDRESS=taken)
    assert running.rest == ""
    assert [child.cmdline() for child in psutil.Process(running.process.pid).children(recursive=True)] == []
    listening = [
        c.laddr.port
        for c in psutil.Process(running.process.pid).net_connections()
        if c.status == psutil.CONN_LISTEN
    ]
    assert listening == [int(running.grpc.rpartition(":")[2])]


@pytest.mark.parametrize("rest", [(), ("--no-rest",)], ids=["whole", "no-rest"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(
    start: Start, tmp_path: Path, number: signal.Signals, rest: tuple[str, ...]
) -> None:
    running = start(*rest, fresh=True)
    assert psutil.Process(running.process.pid).children(recursive=True) == []
    running.process.send_signal(number)
    until(lambda: running.process.poll() is not None, "the end")
    assert running.process.stdout is not None
    assert running.process.stdout.read() == b""
    assert ended(running) == 0
    assert not COMPLAINT.search(running.log()), running.log()
    assert not (tmp_path / "store.db-wal").exists()


def test_an_end_leaves_nobody_without_an_answer(start: Start) -> None:
    """Two wait for an agent's reply that does not come, by REST and by gRPC: the grace has time for both, one
    after the other.
    """
    running = start(SHUTDOWN_GRACE_SECONDS="2")
    agent_id = stream_agent(running)
    by_rest, by_grpc = (
        running.create(agentId=agent_id)["sessionId"],
        running.create(agentId=agent_id)["sessionId"],
    )

    def converse() -> list[str | None]:
        request = ConverseRequest(message=SendMessageRequest(session_id=by_grpc, content="hello"))
        parts: list[str | None] = []
        try:
            parts.extend(part.WhichOneof("part") for part in running.messages.Converse(request, timeout=60))
        except grpc.RpcError as error:
            info = error_info(error)
            parts.append(info and info.reason)
        return parts

    with ThreadPoolExecutor(2) as pool:
        posted = pool.submit(
            requests.post,
            f"{running.url}/{by_rest}/messages",
            json={"content": "hello", "transport": "http"},
            timeout=60,
        )
        told = pool.submit(converse)
        for session_id in (by_rest, by_grpc):
            until(lambda session_id=session_id: len(history(running, session_id)) == 1, "the message")
        running.process.send_signal(signal.SIGTERM)
        assert (posted.result().status_code, posted.result().json()["code"]) == (504, "AGENT_REPLY_TIMEOUT")
        assert told.result() == ["user_message", "AGENT_REPLY_TIMEOUT"]
    assert ended(running) == 0
    assert "Traceback" not in running.log()


def test_on_a_terminal_it_shows_a_command_that_works(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command("serve"),
        env=environment(GRPC_ADDRESS="127.0.0.1:0", REST_ADDRESS="127.0.0.1:0"),
        cwd=tmp_path,
        stdout=follower,
        stderr=subprocess.DEVNULL,
    )
    os.close(follower)
    try:
        shown = ""
        while "}'" not in shown:
            shown += os.read(leader, 4096).decode().replace("\r\n", "\n")
        ready, _, rest = shown.partition("\n")
        assert re.fullmatch(f"ready grpc={LOOPBACK} rest={LOOPBACK}", ready)
        typed = rest[rest.index("curl") : rest.index("}'") + 2]
        curl = shlex.split(typed.replace("\\\n", " "))
        assert curl[:3] == ["curl", "-X", "POST"]
        options = dict(zip(curl[4::2], curl[5::2], strict=True))
        assert options.keys() == {"-H", "-d"}
        name, _, value = options["-H"].partition(": ")
        answer = requests.post(curl[3], data=options["-d"], headers={name: value}, timeout=10)
        assert (answer.status_code, answer.json()["agentId"]) == (201, ECHO)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def test_a_taken_grpc_address_is_named(tmp_path: Path, taken: str) -> None:
    line = refused("serve", cwd=tmp_path, GRPC_ADDRESS=taken)
    assert "GRPC_ADDRESS" in line
    assert taken in line
    assert "in use" in line


def test_a_taken_rest_address_is_named(tmp_path: Path, taken: str) -> None:
    for arguments in (("serve",), ("rest", "--server", "127.0.0.1:1")):
        line = refused(*arguments, cwd=tmp_path, REST_ADDRESS=taken)
        assert line.startswith(f"Error: REST_ADDRESS {taken} cannot be listened on: Address already in use")


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    assert "192.0.2.1:0" in refused("serve", cwd=tmp_path, REST_ADDRESS="192.0.2.1:0", ALLOW_OPEN="true")
    line = refused("serve", "--no-rest", cwd=tmp_path, GRPC_ADDRESS="192.0.2.1:0", ALLOW_OPEN="true")
    assert "192.0.2.1:0" in line
    assert "in use" not in line


@pytest.mark.parametrize("address", ["0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "[::ffff:192.0.2.1]:0"])
def test_an_address_that_others_can_reach_wants_to_be_allowed(tmp_path: Path, address: str) -> None:
    commands = {
        "GRPC_ADDRESS": [["serve"], ["serve", "--no-rest"]],
        "REST_ADDRESS": [["serve"]],
    }
    for setting, lines in commands.items():
        for line in lines:
            # An address of nobody: whoever tried to listen on the other one would fail with its name.
            other = dict.fromkeys(commands.keys() - {setting}, "127.0.0.1:0")
            told = refused(*line, cwd=tmp_path, **other, **{setting: address})
            assert told.startswith(f"Error: {setting} is {address}, which others can reach")
            assert "ALLOW_OPEN=true" in told
    assert not list(tmp_path.glob("*.db"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.3.2.1"])
def test_an_address_that_nobody_else_can_reach_is_open(start: Start, host: str) -> None:
    start(GRPC_ADDRESS=f"{host}:0", REST_ADDRESS=f"{host}:0")


def test_an_address_without_a_host_means_all_addresses(start: Start, tmp_path: Path) -> None:
    running = start(GRPC_ADDRESS=":0", REST_ADDRESS=":0", ALLOW_OPEN="true")
    grpc_port, rest_port = running.grpc.rpartition(":")[2], running.rest.rpartition(":")[2]
    assert requests.get(f"http://127.0.0.1:{rest_port}/api/messaging/sessions", timeout=10).status_code == 200
    done = run("agents", "list", cwd=tmp_path, GRPC_ADDRESS=f":{grpc_port}")
    assert (done.status, done.errors) == (0, "")


def test_all_addresses_of_ipv6_are_those_of_ipv4_too(start: Start, tmp_path: Path) -> None:
    running = start(GRPC_ADDRESS="[::]:0", REST_ADDRESS="[::]:0", ALLOW_OPEN="true")
    assert running.rest.startswith("[::]:")
    front = Facade(running.grpc, "[::]:0", tmp_path / "facade", ALLOW_OPEN="true")
    try:
        for address in (running.rest, front.addresses["rest"]):
            port = address.rpartition(":")[2]
            for host in ("127.0.0.1", "[::1]"):
                assert (
                    requests.get(f"http://{host}:{port}/api/messaging/sessions", timeout=10).status_code
                    == 200
                )
                done = run(
                    "agents", "list", cwd=tmp_path, GRPC_ADDRESS=f"{host}:{running.grpc.rpartition(':')[2]}"
                )
                assert (done.status, done.errors) == (0, "")
    finally:
        front.kill()


def test_one_address_of_ipv6_is_that_alone(start: Start, tmp_path: Path) -> None:
    # The same port of IPv4 is somebody else's.
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        only = Facade(start().grpc, f"[::1]:{port}", tmp_path / "only")
        try:
            assert requests.get(f"http://[::1]:{port}/api/messaging/sessions", timeout=10).status_code == 200
        finally:
            only.kill()


def test_an_idle_connection_is_kept_as_long_as_the_setting_says(start: Start) -> None:
    """Longer than ten minutes, too, because balancers keep theirs so long."""
    for seconds in ("1", "86400"):
        running = start(REST_KEEP_ALIVE_SECONDS=seconds)
        host, _, port = running.rest.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(request("GET", "/api/messaging/sessions/health"))
            if seconds == "1":
                # All there is to read comes to an end.
                assert b'"status":"healthy"' in client.makefile("rb").read()
        assert running.stop() == 0


@pytest.mark.sqlite
def test_a_second_service_on_the_same_file_is_refused(start: Start, tmp_path: Path) -> None:
    running = start("--no-rest")
    url = f"sqlite:///{tmp_path / 'store.db'}"
    for line in (
        refused("serve", cwd=tmp_path, DATABASE_URL=url),
        clean_failure(invoke("migrate", DATABASE_URL=url)),
    ):
        assert str(tmp_path / "store.db") in line
        assert str(running.process.pid) in line
    assert create(running).agent_id == ECHO


@pytest.mark.parametrize(
    "url",
    [
        "mysql://db.example/eliza",
        "store.db",
        "sqlite:///",
        "sqlite://store.db",
    ],
)
def test_a_database_that_cannot_be_opened_is_refused(url: str) -> None:
    line = clean_failure(invoke("migrate", DATABASE_URL=url))
    assert [word for word in ("DATABASE_URL", url, "sqlite:///PATH") if word not in line] == []


@pytest.mark.parametrize(
    "address",
    ["sqlite:///x.db?mode=ro", "sqlite:///x.db#here", "sqlite:///no/such/dir/x.db", "sqlite:///:memory:"],
)
@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_a_database_that_cannot_be_meant_is_refused_and_nothing_is_made(
    tmp_path: Path, command: str, address: str
) -> None:
    line = refused(command, cwd=tmp_path, DATABASE_URL=address)
    assert ("there is no directory" if "dir" in address else f"DATABASE_URL is '{address}'") in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.sqlite
def test_the_start_says_which_file_is_served_and_how_many_sessions_are_in_it(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "store.db")
    for level, sessions in (("INFO", 0), ("info", 1)):
        service = start("--no-rest", DATABASE_URL="sqlite:///link.db", LOG_LEVEL=level, LOG_FORMAT="json")
        (line,) = [
            found
            for found in map(json.loads, service.log().splitlines())
            if found["event"] == "serving the store"
        ][-1:]
        assert (line["file"], line["sessions"]) == (str(tmp_path / "store.db"), sessions)
        create(service)
        assert service.stop() == 0


def test_a_postgresql_that_is_not_there_is_told_without_the_password(tmp_path: Path) -> None:
    line = refused("serve", cwd=tmp_path, DATABASE_URL="postgresql://user:pa55word@127.0.0.1:1/eliza")
    assert "DATABASE_URL" in line
    assert "pa55word" not in line


@pytest.mark.sqlite
def test_sessions_are_cleared_by_an_orderly_shutdown_alone_and_only_when_wanted(start: Start) -> None:
    first = start("--no-rest", CLEAR_SESSIONS_ON_SHUTDOWN="true")
    kept = create(first)
    first.kill()
    second = start("--no-rest", CLEAR_SESSIONS_ON_SHUTDOWN="false")
    assert (
        second.sessions.DeleteSession(DeleteSessionRequest(session_id=kept.session_id), timeout=10)
        is not None
    )
    kept = create(second)
    send(second, kept.session_id, "hello")
    assert second.stop() == 0
    third = start("--no-rest", CLEAR_SESSIONS_ON_SHUTDOWN="true")
    # The reply that the second one had no time for is given by the third.
    assert [message.content for message in replies(third, kept.session_id, 1)] == ["hello"]
    agents = agent_ids(third)
    assert third.stop() == 0
    fourth = start("--no-rest")
    fails(lambda: history(fourth, kept.session_id), "SESSION_NOT_FOUND")
    assert agent_ids(fourth) == agents


def test_the_settings_of_sessions_take_effect(start: Start) -> None:
    running = start(
        "--no-rest",
        TEST_CLOCK="1",
        SESSION_DEFAULT_TIMEOUT_MINUTES="12.5",
        SESSION_MIN_TIMEOUT_MINUTES="7",
        SESSION_MAX_TIMEOUT_MINUTES="90",
        SESSION_MAX_DURATION_MINUTES="100",
        SESSION_WARNING_THRESHOLD_MINUTES="3",
        SESSION_RETENTION_MINUTES="10",
    )
    made = create(running)
    wanted = TimeoutConfig(
        timeout_minutes=12.5, auto_renew=True, max_duration_minutes=100, warning_threshold_minutes=3
    )
    assert made.timeout_config == wanted
    assert made.expires_at.ToMilliseconds() - made.created_at.ToMilliseconds() == 12.5 * 60_000
    assert create(running, timeout_minutes=1).timeout_config.timeout_minutes == 7
    assert create(running, timeout_minutes=5000).timeout_config.timeout_minutes == 90
    assert create(running, max_duration_minutes=5000).timeout_config.max_duration_minutes == 180
    assert (
        create(running, timeout_minutes=80, max_duration_minutes=1).timeout_config.max_duration_minutes == 80
    )
    for minutes in (6.9, 91):
        request = UpdateTimeoutRequest(
            session_id=made.session_id, timeout_config=TimeoutConfig(timeout_minutes=minutes)
        )
        details = fails(
            lambda request=request: running.sessions.UpdateTimeout(request, timeout=10),
            "INVALID_TIMEOUT_CONFIG",
        )
        assert re.search(r"\b7\b.*\b90\b", details["reason"])
    # Its record is kept for the retention, to the millisecond.
    running.advance(minutes=12.5, ms=-1)
    assert history(running, made.session_id) == []
    running.advance(ms=1)
    fails(lambda: history(running, made.session_id), "SESSION_EXPIRED")
    running.advance(minutes=10, ms=-1)
    fails(lambda: history(running, made.session_id), "SESSION_EXPIRED")
    running.advance(ms=1)
    fails(lambda: history(running, made.session_id), "SESSION_NOT_FOUND")


def test_an_empty_setting_counts_as_unset(start: Start) -> None:
    running = start(
        "--no-rest", SESSION_DEFAULT_TIMEOUT_MINUTES="", AGENTS_FILE="", CLEAR_SESSIONS_ON_SHUTDOWN=""
    )
    assert create(running).timeout_config.timeout_minutes == 30
