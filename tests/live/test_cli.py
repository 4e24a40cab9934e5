"""The command line as a user meets it."""

import json
import os
import pty
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib import metadata
from pathlib import Path

import grpc
import psutil
import pytest
import requests

from eliza.sessions.v1.agent_service_pb2 import GetAgentRequest
from eliza.sessions.v1.errors import error_info
from eliza.sessions.v1.message_service_pb2 import ConverseRequest, SendMessageRequest
from eliza.sessions.v1.session_service_pb2 import DeleteSessionRequest, UpdateTimeoutRequest
from eliza.sessions.v1.timeout_pb2 import TimeoutConfig
from server.settings import Settings
from tests.agents.worker import stream_agent
from tests.harness import ECHO, USER, Serve
from tests.live.support import (
    agent_ids,
    clean_failure,
    command,
    create,
    ended,
    environment,
    fails,
    history,
    invoke,
    replies,
    run,
    send,
    until,
)

Start = Callable[..., Serve]
MINE = "44444444-4444-4444-8444-444444444444"
COMPLAINT = re.compile("error|warning|traceback", re.IGNORECASE)
NO_STORE = "none://"
LOOPBACK = r"127\.0\.0\.1:\d+"


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def refused(*arguments: str, cwd: Path, **settings: str) -> str:
    """The one line with which a command refuses to start."""
    free = {"GRPC_ADDRESS": "127.0.0.1:0", "REST_ADDRESS": "127.0.0.1:0"}
    return clean_failure(run(*arguments, cwd=cwd, **{**free, **settings}))


# The commands themselves.


def test_the_installed_command_knows_its_version(tmp_path: Path) -> None:
    command = [Path(sys.executable).with_name("eliza-sessions"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"eliza-sessions, version {metadata.version('eliza-sessions')}\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["serve", "rest", "probe", "agents", "migrate", "--version"]),
        (("serve",), ["--database-url", "--grpc-address", "--rest-address", "--no-rest", "--rest-workers", "--agents-file"]),
        (("rest",), ["--server", "--rest-address", "--rest-workers"]),
        (("probe",), ["--addr", "--service", "--connect-timeout", "--rpc-timeout", "--rpc-header", "--user-agent", "--tls"]),
        (("migrate",), ["--database-url"]),
        (("agents",), ["list", "add", "show", "update", "remove", "--server"]),
        (("agents", "list"), []),
        (("agents", "show"), ["AGENT_ID"]),
        (("agents", "add"), ["--id", "--name", "--kind", "--timeout-minutes", "--auto-renew", "--no-auto-renew", "--max-duration-minutes"]),
        (("agents", "update"), ["AGENT_ID", "--name", "--kind", "--warning-threshold-minutes"]),
        (("agents", "remove"), ["AGENT_ID"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_explains_itself(arguments: tuple[str, ...], words: list[str], flag: str) -> None:
    result = invoke(*arguments, flag)
    assert (result.status, result.errors) == (0, "")
    assert result.out.startswith(" ".join(["Usage: eliza-sessions", *arguments]))
    assert [word for word in words if word not in result.out] == []


@pytest.mark.parametrize("arguments", [("nonsense",), ("serve", "--nonsense"), ("serve", "extra"), ("rest",), ("agents", "show")])
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
    listening = [c.laddr.port for c in psutil.Process(running.process.pid).net_connections() if c.status == psutil.CONN_LISTEN]
    assert listening == [int(running.grpc.rpartition(":")[2])]


@pytest.mark.parametrize("rest", [(), ("--no-rest",)], ids=["whole", "no-rest"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(start: Start, tmp_path: Path, number: signal.Signals, rest: tuple[str, ...]) -> None:
    running = start(*rest)
    children = psutil.Process(running.process.pid).children(recursive=True)
    assert bool(children) is not bool(rest)
    running.process.send_signal(number)
    until(lambda: running.process.poll() is not None, "the end")
    assert running.process.stdout is not None
    assert running.process.stdout.read() == b""
    assert ended(running) == 0
    assert not COMPLAINT.search(running.log()), running.log()
    until(lambda: not any(child.is_running() for child in children), "the end of the workers")
    assert not (tmp_path / "store.db-wal").exists()


def test_a_ctrl_c_ends_the_workers_too_and_nobody_complains(tmp_path: Path) -> None:
    """A terminal sends SIGINT to every process of the foreground group, not to the first one alone."""
    process = subprocess.Popen(
        command("serve", "--rest-workers", "2"),
        env=environment(GRPC_ADDRESS="127.0.0.1:0", REST_ADDRESS="127.0.0.1:0"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready ")
            assert len(psutil.Process(process.pid).children()) == 2
            os.killpg(process.pid, signal.SIGINT)
            out, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out) == (0, "")
    assert not COMPLAINT.search(errors), errors


def test_an_end_leaves_nobody_without_an_answer(start: Start) -> None:
    """Two wait for an agent's reply that does not come, by REST and by gRPC: the grace has time for both, one after the other."""
    running = start(SHUTDOWN_GRACE_SECONDS="2")
    agent_id = stream_agent(running)
    by_rest, by_grpc = running.create(agentId=agent_id)["sessionId"], running.create(agentId=agent_id)["sessionId"]

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
        posted = pool.submit(requests.post, f"{running.url}/{by_rest}/messages", json={"content": "hello", "transport": "http"}, timeout=60)
        told = pool.submit(converse)
        for session_id in (by_rest, by_grpc):
            until(lambda session_id=session_id: len(history(running, session_id)) == 1, "the message")
        running.process.send_signal(signal.SIGTERM)
        assert (posted.result().status_code, posted.result().json()["code"]) == (503, "UNAVAILABLE")
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
        assert line == f"{name} is '{wrong[name]}': it must be a {'whole ' * whole}number from {low} to {high}"


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("SESSION_DEFAULT_TIMEOUT_MINUTES", "half an hour", "a number from 1 to 10080"),
        ("SESSION_DEFAULT_TIMEOUT_MINUTES", "nan", "a number from 1 to 10080"),
        ("SESSION_MAX_TIMEOUT_MINUTES", "inf", "a number from 60 to 10080"),
        ("SESSION_MIN_TIMEOUT_MINUTES", "5 minutes", "a number from 1 to 60"),
        ("REST_WORKERS", "1.5", "a whole number from 1 to 64"),
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
@pytest.mark.parametrize("arguments", [("serve",), ("rest", "--server", "127.0.0.1:1"), ("migrate",)], ids=lambda arguments: arguments[0])
def test_a_setting_that_makes_no_sense_stops_every_command(arguments: tuple[str, ...], name: str, value: str, wanted: str) -> None:
    # Should the setting be let through, the address of the other machine or the lack of a store stops the command instead.
    others = {"DATABASE_URL": NO_STORE, "REST_ADDRESS": "192.0.2.1:0"}
    assert clean_failure(invoke(*arguments, **{**others, name: value})) == f"Error: {name} is {value!r}: it must be {wanted}"


def test_what_the_command_line_says_wrong_is_told_alike() -> None:
    for arguments, line in (
        (("serve", "--rest-workers", "0"), "Error: REST_WORKERS is 0: it must be a whole number from 1 to 64"),
        (("serve", "--grpc-address", "nowhere"), "Error: GRPC_ADDRESS is 'nowhere': it must be HOST:PORT with a port from 0 to 65535"),
    ):
        assert clean_failure(invoke(*arguments, DATABASE_URL=NO_STORE)) == line


def test_a_token_that_nothing_would_check_stops_the_start() -> None:
    line = clean_failure(invoke("serve", ELIZA_SERVER_AUTH_TOKEN="secret", DATABASE_URL=NO_STORE))
    assert "ELIZA_SERVER_AUTH_TOKEN" in line
    assert "secret" not in line


def test_a_bad_setting_in_a_process_of_its_own(tmp_path: Path) -> None:
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
    assert "192.0.2.1:0" in refused("serve", cwd=tmp_path, REST_ADDRESS="192.0.2.1:0")
    line = refused("serve", "--no-rest", cwd=tmp_path, GRPC_ADDRESS="192.0.2.1:0")
    assert "192.0.2.1:0" in line
    assert "in use" not in line


def test_an_address_without_a_host_means_all_addresses(start: Start, tmp_path: Path) -> None:
    running = start(GRPC_ADDRESS=":0", REST_ADDRESS=":0")
    grpc_port, rest_port = running.grpc.rpartition(":")[2], running.rest.rpartition(":")[2]
    assert requests.get(f"http://127.0.0.1:{rest_port}/api/messaging/sessions", timeout=10).status_code == 200
    done = run("agents", "list", cwd=tmp_path, GRPC_ADDRESS=f":{grpc_port}")
    assert (done.status, done.errors) == (0, "")


def test_a_second_service_on_the_same_file_is_refused(start: Start, tmp_path: Path) -> None:
    running = start("--no-rest")
    url = f"sqlite:///{tmp_path / 'store.db'}"
    for line in (refused("serve", cwd=tmp_path, DATABASE_URL=url), clean_failure(invoke("migrate", DATABASE_URL=url))):
        assert str(tmp_path / "store.db") in line
        assert str(running.process.pid) in line
    assert create(running).agent_id == ECHO


@pytest.mark.parametrize(
    "url", ["postgresql://user@db.example/eliza", "mysql://db.example/eliza", "store.db", "sqlite:///", "sqlite://store.db"]
)
def test_a_database_that_cannot_be_opened_is_refused(url: str) -> None:
    line = clean_failure(invoke("migrate", DATABASE_URL=url))
    assert [word for word in ("DATABASE_URL", url, "sqlite:///PATH") if word not in line] == []


def test_postgresql_is_refused_by_serve_without_telling_the_password(tmp_path: Path) -> None:
    line = refused("serve", cwd=tmp_path, DATABASE_URL="postgresql://user:pa55word@db.example/eliza")
    assert "DATABASE_URL" in line
    assert "pa55word" not in line


def test_sessions_are_cleared_by_an_orderly_shutdown_alone_and_only_when_wanted(start: Start) -> None:
    first = start("--no-rest", CLEAR_SESSIONS_ON_SHUTDOWN="true")
    kept = create(first)
    first.kill()
    second = start("--no-rest", CLEAR_SESSIONS_ON_SHUTDOWN="false")
    assert second.sessions.DeleteSession(DeleteSessionRequest(session_id=kept.session_id), timeout=10) is not None
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
    wanted = TimeoutConfig(timeout_minutes=12.5, auto_renew=True, max_duration_minutes=100, warning_threshold_minutes=3)
    assert made.timeout_config == wanted
    assert made.expires_at.ToMilliseconds() - made.created_at.ToMilliseconds() == 12.5 * 60_000
    assert create(running, timeout_minutes=1).timeout_config.timeout_minutes == 7
    assert create(running, timeout_minutes=5000).timeout_config.timeout_minutes == 90
    assert create(running, max_duration_minutes=5000).timeout_config.max_duration_minutes == 180
    assert create(running, timeout_minutes=80, max_duration_minutes=1).timeout_config.max_duration_minutes == 80
    for minutes in (6.9, 91):
        request = UpdateTimeoutRequest(session_id=made.session_id, timeout_config=TimeoutConfig(timeout_minutes=minutes))
        details = fails(lambda request=request: running.sessions.UpdateTimeout(request, timeout=10), "INVALID_TIMEOUT_CONFIG")
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
    running = start("--no-rest", SESSION_DEFAULT_TIMEOUT_MINUTES="", AGENTS_FILE="", CLEAR_SESSIONS_ON_SHUTDOWN="")
    assert create(running).timeout_config.timeout_minutes == 30


def test_a_rest_worker_that_hangs_does_not_hold_the_end_up(start: Start) -> None:
    running = start(SHUTDOWN_GRACE_SECONDS="1")
    (worker,) = psutil.Process(running.process.pid).children()
    worker.suspend()
    running.process.terminate()
    assert ended(running) == 0
    assert "did not end in time" in running.log()


def test_workers_that_never_come_up_do_not_hold_the_end_up(tmp_path: Path) -> None:
    # A package before the real one in which a worker waits for ever.
    package = tmp_path / "rest_facade" / "__init__.py"
    package.parent.mkdir()
    real = Path(__file__).parents[2] / "rest_facade"
    package.write_text(f"import sys, time\nif '--worker-of' in sys.argv:\n    time.sleep(1000)\n__path__.append({str(real)!r})\n")
    settings = {"DATABASE_URL": f"sqlite:///{tmp_path / 'store.db'}", "GRPC_ADDRESS": "127.0.0.1:0", "REST_ADDRESS": "127.0.0.1:0"}
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(
            command("serve"), env=environment(PYTHONPATH=str(tmp_path), SHUTDOWN_GRACE_SECONDS="2", **settings), cwd=tmp_path, stderr=log
        )
    try:
        until(lambda: psutil.Process(running.pid).children(), "a worker")
        running.terminate()
        assert running.wait(timeout=15) == 0
    finally:
        running.kill()
        running.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()


# The test clock over REST.


def test_the_test_clock_over_rest(service: Serve) -> None:
    url = f"http://{service.rest}/test/clock"
    before = requests.get(url, timeout=10).json()
    assert list(before) == ["now"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", before["now"])
    assert requests.get(url, timeout=10).json() == before
    session = service.create()
    assert session["createdAt"] == before["now"]
    assert requests.post(url, json={"advanceMs": 0}, timeout=10).json() == before
    moved = requests.post(url, json={"advanceMs": 61_001}, timeout=10)
    assert moved.status_code == 200
    found = requests.get(f"{service.url}/{session['sessionId']}", timeout=10).json()
    assert found["timeRemaining"] == 30 * 60_000 - 61_001
    assert requests.post(url, json={"now": session["expiresAt"]}, timeout=10).json() == {"now": session["expiresAt"]}
    assert requests.get(f"{service.url}/{session['sessionId']}", timeout=10).status_code == 410


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "MISSING_FIELDS"),
        ({"now": "tomorrow"}, "INVALID_FIELD"),
        ({"now": "9999-01-01T00:00:00.000Z"}, "INVALID_FIELD"),
        ({"advanceMs": -1}, "INVALID_FIELD"),
        ({"advanceMs": 0.5}, "INVALID_FIELD"),
        ({"advanceMs": "1"}, "INVALID_FIELD"),
        ({"advanceMs": 2**70}, "INVALID_FIELD"),
        ({"advanceMs": 1, "now": "2040-01-01T00:00:00.000Z"}, "INVALID_FIELD"),
        ([], "INVALID_REQUEST"),
    ],
)
def test_a_move_of_the_test_clock_that_makes_no_sense_is_refused(service: Serve, body: object, code: str) -> None:
    url = f"http://{service.rest}/test/clock"
    before = requests.get(url, timeout=10).json()
    answer = requests.post(url, json=body, timeout=10)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert requests.get(url, timeout=10).json() == before


# rest


def test_the_facade_alone_against_a_server(start: Start, tmp_path: Path) -> None:
    running = start("--no-rest")
    process = subprocess.Popen(
        command("rest", "--server", running.grpc, "--rest-address", "127.0.0.1:0", "--rest-workers", "2"),
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
            assert requests.post(f"{url}/{session_id}/messages", json={"content": "hello"}, timeout=10).status_code == 201
            replies(running, session_id, 1)
            running.kill()
            away = requests.get(f"{url}/{session_id}", timeout=20)
            assert (away.status_code, away.json()["code"]) == (503, "UNAVAILABLE")
            again = start("--no-rest", GRPC_ADDRESS=running.grpc)
            until(lambda: requests.get(f"{url}/{session_id}", timeout=20).status_code == 200, "the server again")
            assert again.stop() == 0
            workers = psutil.Process(process.pid).children()
            assert len(workers) == 2
            process.send_signal(signal.SIGTERM)
            out, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out) == (0, "")
    assert not COMPLAINT.search(errors), errors
    assert not any(worker.is_running() for worker in workers)


# migrate


def test_migrate_makes_a_store_and_leaves_it_alone_afterwards(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "new" / "store.db"
    for _ in range(2):
        done = invoke("migrate", "--database-url", f"sqlite:///{path}")
        assert (done.status, done.errors) == (0, "")
        assert re.fullmatch(rf"{re.escape(str(path))} is at schema \d+\n", done.out)
        content = path.read_bytes()
    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o600
    assert agent_ids(start("--no-rest", DATABASE_URL=f"sqlite:///{path}")) == [ECHO]


def test_migrate_keeps_what_is_in_the_store(start: Start, tmp_path: Path) -> None:
    first = start("--no-rest")
    session_id = create(first).session_id
    send(first, session_id, "kept")
    replies(first, session_id, 1)
    first.kill()
    assert invoke("migrate", DATABASE_URL=f"sqlite:///{tmp_path / 'store.db'}").status == 0
    assert [message.content for message in history(start("--no-rest"), session_id)] == ["kept", "kept"]


def test_migrate_takes_a_relative_path(tmp_path: Path) -> None:
    assert run("migrate", cwd=tmp_path).out.startswith("eliza-sessions.db is at schema ")
    assert (tmp_path / "eliza-sessions.db").exists()


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE customers (name TEXT)")


def newer(path: Path) -> None:
    assert invoke("migrate", DATABASE_URL=f"sqlite:///{path}").status == 0
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def damaged(path: Path) -> None:
    path.write_text("Dear diary, today I became a database.\n" * 100)


@pytest.mark.parametrize(("make", "word"), [(foreign, "another program"), (newer, "newer"), (damaged, "no SQLite database")])
def test_a_file_that_is_not_ours_is_refused_and_left_alone(tmp_path: Path, make: Callable[[Path], None], word: str) -> None:
    path = tmp_path / "file.db"
    make(path)
    content = path.read_bytes()
    url = f"sqlite:///{path}"
    for line in (clean_failure(invoke("migrate", DATABASE_URL=url)), refused("serve", cwd=tmp_path, DATABASE_URL=url)):
        assert [part for part in (str(path), word) if part not in line] == []
    assert path.read_bytes() == content


def test_a_place_that_cannot_hold_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "store.db"):
        assert str(path) in clean_failure(invoke("migrate", DATABASE_URL=f"sqlite:///{path}"))


# agents


def agents(service: Serve, *arguments: str) -> str:
    """What `eliza-sessions agents …` prints."""
    result = invoke("agents", "--server", service.grpc, *arguments)
    assert (result.status, result.errors) == (0, "")
    return result.out


def fields(shown: str) -> dict[str, str]:
    """What is shown of an agent, by the names on the left."""
    return dict(re.split(r":\s+", line, maxsplit=1) for line in shown.splitlines())


def test_the_life_of_an_agent_on_the_command_line(service: Serve) -> None:
    added = fields(agents(service, "add", "--name", "A name", "--kind", "echo", "--timeout-minutes", "7.5", "--no-auto-renew"))
    assert list(added) == ["id", "name", "kind", "timeout", "created", "updated"]
    agent_id = added["id"]
    assert (added["name"], added["kind"], added["timeout"]) == ("A name", "echo", "timeout_minutes=7.5, auto_renew=False")
    assert added["created"] == added["updated"]
    assert fields(agents(service, "show", agent_id)) == added

    service.advance(ms=1)
    changes = ("--auto-renew", "--max-duration-minutes", "100", "--warning-threshold-minutes", "2")
    updated = fields(agents(service, "update", agent_id.upper(), *changes))
    assert updated["timeout"] == "timeout_minutes=7.5, auto_renew=True, max_duration_minutes=100, warning_threshold_minutes=2"
    assert (updated["id"], updated["name"], updated["created"]) == (agent_id, "A name", added["created"])
    assert updated["updated"] > added["updated"]
    assert fields(agents(service, "update", agent_id, "--name", "Renamed"))["name"] == "Renamed"

    table = agents(service, "list").splitlines()
    assert re.split(r"\s{2,}", table[0]) == ["ID", "NAME", "KIND", "WHERE", "TIMEOUT SETTINGS"]
    assert f"{ECHO}  echo" in "\n".join(table)
    (row,) = (line for line in table if line.startswith(agent_id))
    assert re.split(r"\s{2,}", row) == [agent_id, "Renamed", "echo", "-", updated["timeout"]]
    columns = [table[0].index(heading) for heading in ("NAME", "KIND", "WHERE", "TIMEOUT SETTINGS")]
    assert all(line[column - 1] == " " != line[column] for line in table for column in columns)

    assert agents(service, "remove", agent_id) == f"removed {agent_id}\n"
    assert agent_id not in agents(service, "list")


def test_an_agent_is_added_under_an_id_of_ones_own(plain: Serve) -> None:
    added = fields(agents(plain, "add", "--id", MINE, "--name", "mine", "--kind", "echo"))
    assert (added["id"], added["timeout"]) == (MINE, "default")
    result = invoke("agents", "--server", plain.grpc, "add", "--id", MINE, "--name", "mine", "--kind", "echo")
    assert clean_failure(result).startswith("Error: ALREADY_EXISTS: ")
    agents(plain, "remove", MINE)


@pytest.mark.parametrize("arguments", [("show", MINE), ("remove", MINE), ("update", MINE, "--name", "x"), ("show", "no-uuid")])
def test_an_unknown_agent_is_told_in_a_line(service: Serve, arguments: tuple[str, ...]) -> None:
    result = invoke("agents", "--server", service.grpc, *arguments)
    assert clean_failure(result).startswith("Error: NOT_FOUND: ")


@pytest.mark.parametrize(
    ("options", "status", "word"),
    [
        (("--id", "7", "--name", "x", "--kind", "echo"), 1, "agent_id"),
        (("--name", "", "--kind", "echo"), 1, "name"),
        (("--name", "x" * 101, "--kind", "echo"), 1, "name"),
        (("--name", "x", "--kind", "echo", "--timeout-minutes", "4"), 1, "between 5 and 1440"),
        (("--name", "x", "--kind", "echo", "--timeout-minutes", "nan"), 1, "timeout_minutes"),
        (("--name", "x", "--kind", "echo", "--max-duration-minutes", "inf"), 1, "max_duration_minutes"),
        (("--name", "x", "--kind", "echo", "--timeout-minutes", "soon"), 2, "--timeout-minutes"),
        (("--name", "x", "--kind", "human"), 2, "--kind"),
        (("--name", "x"), 2, "--kind"),
        (("--kind", "echo"), 2, "--name"),
    ],
)
def test_an_agent_that_cannot_be_is_not_added(service: Serve, options: tuple[str, ...], status: int, word: str) -> None:
    before = agent_ids(service)
    result = invoke("agents", "--server", service.grpc, "add", *options)
    assert (result.status, result.out) == (status, "")
    assert word in result.errors.partition("Error: ")[2]
    assert "Traceback" not in result.errors
    assert agent_ids(service) == before


def test_the_agents_of_a_server_that_is_away() -> None:
    assert clean_failure(invoke("agents", "--server", "127.0.0.1:1", "list")).startswith("Error: UNAVAILABLE: ")


def test_the_server_of_the_agents_comes_from_the_environment_too(service: Serve) -> None:
    done = invoke("agents", "list", GRPC_ADDRESS=service.grpc)
    assert (done.status, done.errors) == (0, "")
    assert ECHO in done.out


def test_a_proxy_for_the_web_is_not_between_the_command_and_this_machine(service: Serve, tmp_path: Path) -> None:
    done = run("agents", "--server", service.grpc, "list", cwd=tmp_path, http_proxy="http://127.0.0.1:9", no_proxy="")
    assert (done.status, done.errors) == (0, "")


# The agents that a start registers.

AGENTS = f"""
[[agents]]
id = "{MINE.upper()}"
name = "from the file"
kind = "echo"

[agents.timeout]
timeout_minutes = 42
auto_renew = false

[[agents]]
id = "55555555-5555-4555-8555-555555555555"
name = "another"
kind = "echo"
"""


def test_the_agents_of_a_file_are_registered_and_win(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "agents.toml"
    path.write_text(AGENTS)
    ids = [MINE, tomllib.loads(AGENTS)["agents"][1]["id"]]
    first = start("--no-rest", AGENTS_FILE=str(path))
    assert sorted(agent_ids(first)) == sorted([ECHO, *ids])
    config = create(first, MINE).timeout_config
    assert config == TimeoutConfig(timeout_minutes=42, auto_renew=False, max_duration_minutes=720, warning_threshold_minutes=5)
    session_id = create(first, MINE).session_id
    send(first, session_id, "hello")
    assert replies(first, session_id, 1)[0].author_id == MINE
    agents(first, "update", MINE, "--name", "changed by hand", "--timeout-minutes", "99", "--warning-threshold-minutes", "9")
    agents(first, "remove", ids[1])
    created = fields(agents(first, "show", MINE))["created"]
    first.kill()

    second = start("--no-rest", "--agents-file", "agents.toml")
    shown = fields(agents(second, "show", MINE))
    assert (shown["name"], shown["timeout"], shown["created"]) == ("from the file", "timeout_minutes=42, auto_renew=False", created)
    assert ids[1] in agent_ids(second)
    second.kill()

    # What is no longer in the file stays registered.
    path.write_text("")
    third = start("--no-rest", AGENTS_FILE=str(path))
    assert sorted(agent_ids(third)) == sorted([ECHO, *ids])


ONE = f'[[agents]]\nid = "{MINE}"\nname = "x"\nkind = "echo"\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["No such file"]),
        (b"[[agents]\n", ["line 1"]),
        (b'[[agents]]\nname = "x"\n', ["agents.0.id", "agents.0.kind"]),
        (ONE.replace("echo", "human").encode(), ["agents.0.kind", "echo"]),
        (ONE.replace(MINE, "7").encode(), ["id", "UUID"]),
        ((ONE + "colour = 3\n").encode(), ["agents.0.colour"]),
        ((ONE + "[agents.timeout]\ntimeout_minutes = 1\n").encode(), ["timeout_minutes", "between 5 and 1440"]),
        ((ONE + "[agents.timeout]\nauto_renew = 1\n").encode(), ["agents.0.timeout.auto_renew"]),
    ],
    ids=["absent", "malformed", "missing", "kind", "id", "extra", "range", "type"],
)
def test_a_wrong_file_of_agents_stops_the_start(tmp_path: Path, content: bytes | None, words: list[str]) -> None:
    path = tmp_path / "agents.toml"
    if content is not None:
        path.write_bytes(content)
    line = refused("serve", "--no-rest", "--agents-file", str(path), cwd=tmp_path)
    assert [word for word in [str(path), *words] if word not in line] == []


def test_a_removed_echo_stays_removed(start: Start) -> None:
    first = start("--no-rest")
    assert agent_ids(first) == [ECHO]
    agents(first, "remove", ECHO)
    assert first.stop() == 0
    second = start("--no-rest")
    assert agent_ids(second) == []
    assert fails(lambda: create(second), "AGENT_NOT_FOUND") == {"agentId": ECHO}


def test_a_removed_echo_stays_removed_where_another_agent_is(start: Start) -> None:
    first = start("--no-rest")
    agents(first, "add", "--id", MINE, "--name", "mine", "--kind", "echo")
    agents(first, "remove", ECHO)
    first.kill()
    second = start("--no-rest")
    assert agent_ids(second) == [MINE]
    fails(lambda: second.agents.GetAgent(GetAgentRequest(agent_id=ECHO), timeout=10), "AGENT_NOT_FOUND")


def test_logs_are_json_when_wanted_and_never_on_standard_output(start: Start, tmp_path: Path) -> None:
    running = start("--no-rest", LOG_FORMAT="json", TEST_CLOCK="1", SESSION_RETENTION_MINUTES="0")
    create(running)
    running.advance(minutes=60)
    assert running.stop() == 0
    lines = [json.loads(line) for line in running.log().splitlines()]
    assert lines
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
