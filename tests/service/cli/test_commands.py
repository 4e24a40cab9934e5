"""The command line as a user meets it."""

import errno
import json
import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import grpc
import psutil
import pytest
import requests

from eliza.sessions.errors import error_info
from eliza.sessions.v1.message_service_pb2 import ConverseRequest, SendMessageRequest
from eliza.sessions.v1.session_service_pb2 import DeleteSessionRequest, UpdateTimeoutRequest
from eliza.sessions.v1.timeout_pb2 import TimeoutConfig
from server.settings import Settings
from tests.contract.raw_http import request
from tests.service.agents.worker import stream_agent
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
from tests.support.service import ECHO, USER, Serve, Start, environment
from tests.support.waiting import until

MINE = "44444444-4444-4444-8444-444444444444"
COMPLAINT = re.compile("error|warning|traceback", re.IGNORECASE)
NO_STORE = "none://"
ONE_PROCESS = (
    "1; for more, run several `eliza-sessions rest`, each with a REST_ADDRESS of its own, behind "
    "a balancer with sticky routing"
)
LOOPBACK = r"127\.0\.0\.1:\d+"


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


# The commands themselves.


def test_the_installed_command_knows_its_version(tmp_path: Path) -> None:
    command = [Path(sys.executable).with_name("eliza-sessions"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (
        0,
        f"eliza-sessions, version {metadata.version('eliza-sessions')}\n",
    )


def test_a_probe_does_not_wait_for_what_the_servers_are_made_of(tmp_path: Path) -> None:
    loaded = (
        "import sys; from server.cli import main; main(['probe', '--help'], standalone_mode=False); "
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, timeout=30, check=True, cwd=tmp_path
    )
    assert not {"flask", "socketio", "uvicorn", "server.service", "server.cli.serve"} & {*done.stdout.split()}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["serve", "rest", "probe", "agents", "migrate", "--version"]),
        (
            ("serve",),
            [
                "--database-url",
                "--grpc-address",
                "--rest-address",
                "--no-rest",
                "--rest-workers",
                "--agents-file",
            ],
        ),
        (("rest",), ["--server", "--rest-address", "--rest-workers"]),
        (
            ("probe",),
            [
                "--server",
                "--addr",
                "--version",
                "--service",
                "--connect-timeout",
                "--rpc-timeout",
                "--rpc-header",
                "--user-agent",
                "--tls",
            ],
        ),
        (("migrate",), ["--database-url"]),
        (("agents",), ["list", "add", "show", "update", "remove", "--server"]),
        (("agents", "list"), ["--server"]),
        (("agents", "show"), ["--server", "AGENT_ID"]),
        (
            ("agents", "add"),
            [
                "--id",
                "--name",
                "--kind",
                "--timeout-minutes",
                "--auto-renew",
                "--no-auto-renew",
                "--max-duration-minutes",
            ],
        ),
        (("agents", "update"), ["AGENT_ID", "--name", "--kind", "--warning-threshold-minutes"]),
        (("agents", "remove"), ["--server", "AGENT_ID"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_explains_itself(arguments: tuple[str, ...], words: list[str], flag: str) -> None:
    result = invoke(*arguments, flag)
    assert (result.status, result.errors) == (0, "")
    assert result.out.startswith(" ".join(["Usage: eliza-sessions", *arguments]))
    assert [word for word in words if word not in result.out] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("serve", "--nonsense"),
        ("serve", "extra"),
        ("rest", "--server", "nowhere"),
        ("agents", "show"),
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments: tuple[str, ...]) -> None:
    result = invoke(*arguments)
    assert (result.status, result.out) == (2, "")
    assert "Error: " in result.errors


# serve


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
    running = start(*rest)
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
        curl = shlex.split(rest[rest.index("curl") :].replace("\\\n", " "))
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


def bounds_of(name: str) -> tuple[str, str] | None:
    limits = {type(limit).__name__: limit for limit in Settings.model_fields[name.lower()].metadata}
    return (f"{limits['Ge'].ge:g}", f"{limits['Le'].le:g}") if "Ge" in limits else None


CONTRACT_BOUNDS = {
    "SESSION_DEFAULT_TIMEOUT_MINUTES": ("1", "10080"),
    "SESSION_MIN_TIMEOUT_MINUTES": ("1", "60"),
    "SESSION_MAX_TIMEOUT_MINUTES": ("60", "10080"),
    "SESSION_MAX_DURATION_MINUTES": ("60", "20160"),
    "SESSION_WARNING_THRESHOLD_MINUTES": ("1", "60"),
    "SESSION_CLEANUP_INTERVAL_MINUTES": ("1", "60"),
}


@pytest.mark.parametrize("side", [0, 1], ids=["below", "above"])
def test_every_setting_out_of_bounds_gets_a_line_of_its_own(side: int) -> None:
    bounded = {name.upper(): bounds for name in Settings.model_fields if (bounds := bounds_of(name))}
    assert {name: bounded[name] for name in CONTRACT_BOUNDS} == CONTRACT_BOUNDS
    step = (-1, 1)[side]
    wrong = {name: f"{float(bounds[side]) + step:g}" for name, bounds in bounded.items()}
    result = invoke("serve", **wrong, DATABASE_URL=NO_STORE)
    assert (result.status, result.out) == (1, "")
    lines = result.errors.removeprefix("Error: ").splitlines()
    assert len(lines) == len(wrong)
    for line in lines:
        name = line.split()[0]
        low, high = bounded.pop(name)
        whole = Settings.model_fields[name.lower()].annotation is int
        assert (
            line == f"{name} is '{wrong[name]}': it must be a {'whole ' * whole}number from {low} to {high}"
        )


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("SESSION_DEFAULT_TIMEOUT_MINUTES", "half an hour", "a number from 1 to 10080"),
        ("SESSION_DEFAULT_TIMEOUT_MINUTES", "nan", "a number from 1 to 10080"),
        ("SESSION_MAX_TIMEOUT_MINUTES", "inf", "a number from 60 to 10080"),
        ("SESSION_MIN_TIMEOUT_MINUTES", "5 minutes", "a number from 1 to 60"),
        ("REST_WORKERS", "2", ONE_PROCESS),
        ("REST_WORKERS", "none", ONE_PROCESS),
        ("CLEAR_SESSIONS_ON_SHUTDOWN", "perhaps", "true or false"),
        ("TEST_CLOCK", "2", "true or false"),
        ("LOG_LEVEL", "loud", "debug or info or warning or error"),
        ("LOG_FORMAT", "xml", "console or json"),
        ("GRPC_ADDRESS", "50051", "HOST:PORT with a port from 0 to 65535"),
        ("GRPC_ADDRESS", "localhost:65536", "HOST:PORT with a port from 0 to 65535"),
        ("REST_ADDRESS", "localhost:http", "HOST:PORT with a port from 0 to 65535"),
        ("REST_ADDRESS", "::1:3000", "HOST:PORT with a port from 0 to 65535"),
    ],
)
@pytest.mark.parametrize(
    "arguments",
    [("serve",), ("rest", "--server", "127.0.0.1:1"), ("migrate",)],
    ids=lambda arguments: arguments[0],
)
def test_a_setting_that_makes_no_sense_stops_every_command(
    arguments: tuple[str, ...], name: str, value: str, wanted: str
) -> None:
    # Should the setting be let through, the address of the other machine or the lack of a store stops the
    # command instead.
    others = {"DATABASE_URL": NO_STORE, "REST_ADDRESS": "192.0.2.1:0"}
    assert (
        clean_failure(invoke(*arguments, **{**others, name: value}))
        == f"Error: {name} is {value!r}: it must be {wanted}"
    )


def test_what_the_command_line_says_wrong_is_told_alike() -> None:
    for arguments, line in (
        (("serve", "--rest-workers", "2"), f"Error: REST_WORKERS is 2: it must be {ONE_PROCESS}"),
        (
            ("serve", "--grpc-address", "nowhere"),
            "Error: GRPC_ADDRESS is 'nowhere': it must be HOST:PORT with a port from 0 to 65535",
        ),
    ):
        assert clean_failure(invoke(*arguments, DATABASE_URL=NO_STORE)) == line


def test_a_token_that_nothing_would_check_stops_the_start() -> None:
    line = clean_failure(invoke("serve", ELIZA_SERVER_AUTH_TOKEN="secret", DATABASE_URL=NO_STORE))
    assert "ELIZA_SERVER_AUTH_TOKEN" in line
    assert "secret" not in line


def test_a_bad_setting_ends_the_process_with_one_line(tmp_path: Path) -> None:
    line = refused("serve", cwd=tmp_path, SESSION_MIN_TIMEOUT_MINUTES="0")
    assert line == "Error: SESSION_MIN_TIMEOUT_MINUTES is '0': it must be a number from 1 to 60"


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
        "REST_ADDRESS": [["serve"], ["rest", "--server", "127.0.0.1:1"]],
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
        # One address of IPv6 is that alone.
        only = Facade(running.grpc, "[::1]:0", tmp_path / "only")
        try:
            port = only.addresses["rest"].rpartition(":")[2]
            assert requests.get(f"http://[::1]:{port}/api/messaging/sessions", timeout=10).status_code == 200
            with socket.socket() as client:
                assert client.connect_ex(("127.0.0.1", int(port))) == errno.ECONNREFUSED
        finally:
            only.kill()
    finally:
        front.kill()


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
        "postgresql://user@db.example/eliza",
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


def test_postgresql_is_refused_by_serve_without_telling_the_password(tmp_path: Path) -> None:
    line = refused("serve", cwd=tmp_path, DATABASE_URL="postgresql://user:pa55word@db.example/eliza")
    assert "DATABASE_URL" in line
    assert "pa55word" not in line


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


# rest


def test_the_facade_alone_serves_what_its_server_has(start: Start, tmp_path: Path) -> None:
    running = start("--no-rest")
    process = subprocess.Popen(
        command("rest", "--server", running.grpc, "--rest-address", "127.0.0.1:0", "--rest-workers", "1"),
        env=environment(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            found = re.fullmatch(rf"ready rest=({LOOPBACK})\n", ready)
            assert found, ready
            url = f"http://{found[1]}/api/messaging/sessions"
            made = requests.post(url, json={"agentId": ECHO, "userId": USER}, timeout=10)
            assert made.status_code == 201
            session_id = made.json()["sessionId"]
            assert (
                requests.post(
                    f"{url}/{session_id}/messages", json={"content": "hello"}, timeout=10
                ).status_code
                == 201
            )
            replies(running, session_id, 1)
            running.kill()
            away = requests.get(f"{url}/{session_id}", timeout=20)
            assert (away.status_code, away.json()["code"]) == (503, "UNAVAILABLE")
            again = start("--no-rest", GRPC_ADDRESS=running.grpc)
            until(
                lambda: requests.get(f"{url}/{session_id}", timeout=20).status_code == 200, "the server again"
            )
            assert again.stop() == 0
            assert psutil.Process(process.pid).children() == []
            process.send_signal(signal.SIGTERM)
            out, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out) == (0, "")
    assert not COMPLAINT.search(errors), errors


def test_logs_are_json_when_wanted_and_never_on_standard_output(start: Start, tmp_path: Path) -> None:
    running = start("--no-rest", LOG_FORMAT="json", TEST_CLOCK="1", SESSION_RETENTION_MINUTES="0")
    create(running)
    running.advance(minutes=60)
    assert running.stop() == 0
    lines = [json.loads(line) for line in running.log().splitlines()]
    assert lines
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
