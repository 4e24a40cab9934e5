"""The command line as a user meets it: all commands, wrong settings, `rest`."""

import json
import re
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import psutil
import pytest
import requests

from server.settings import Settings
from tests.support.clients import (
    clean_failure,
    command,
    create,
    invoke,
    refused,
    replies,
)
from tests.support.service import ECHO, USER, Start, environment
from tests.support.waiting import until

MINE = "44444444-4444-4444-8444-444444444444"
COMPLAINT = re.compile("error|warning|traceback", re.IGNORECASE)
NO_STORE = "none://"
ONE_PROCESS = (
    "1; for more, run several `eliza-sessions rest`, each with a REST_ADDRESS of its own, behind "
    "a balancer with sticky routing"
)
LOOPBACK = r"127\.0\.0\.1:\d+"


# The commands themselves.


def test_the_installed_command_knows_its_version(tmp_path: Path) -> None:
    command = [Path(sys.executable).with_name("eliza-sessions"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (
        0,
        f"eliza-sessions, version {metadata.version('eliza-sessions')}\n",
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_is_full_is_told_in_a_line(start: Start, unbuffered: str) -> None:
    service = start("--no-rest")
    session_id = create(service).session_id
    for arguments in (["agents", "list"], ["sessions", "show", session_id, "--json"], ["status"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                command(*arguments, "--server", service.grpc),
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                check=False,
                env=environment(PYTHONUNBUFFERED=unbuffered),
            )
        assert (done.returncode, done.stderr) == (
            1,
            "Error: the output cannot be written: No space left on device\n",
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
        (("status",), ["--server", "--json", "--key-file", "--tls"]),
        (("sessions",), ["list", "show", "tail", "redeliver", "end"]),
        (("sessions", "list"), ["--user", "--agent", "--status", "--created-after", "--id-prefix"]),
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
        (("keys",), ["add", "list", "revoke"]),
        (
            ("keys", "add"),
            [
                "--role",
                "--id",
                "--tenant",
                "--user",
                "--agent",
                "--not-after",
                "--share",
                "--certificate",
                "--file",
            ],
        ),
        (("keys", "list"), ["--file"]),
        (("keys", "revoke"), ["ID", "--older", "--file"]),
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


@pytest.mark.parametrize("token", ["", "too short"])
def test_a_token_that_is_no_secret_stops_the_start(token: str) -> None:
    line = clean_failure(invoke("serve", ELIZA_SERVER_AUTH_TOKEN=token, DATABASE_URL=NO_STORE))
    assert "ELIZA_SERVER_AUTH_TOKEN" in line
    assert not token or token not in line


def test_a_bad_setting_ends_the_process_with_one_line(tmp_path: Path) -> None:
    line = refused("serve", cwd=tmp_path, SESSION_MIN_TIMEOUT_MINUTES="0")
    assert line == "Error: SESSION_MIN_TIMEOUT_MINUTES is '0': it must be a number from 1 to 60"


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
