"""What a service logs: its start, its failed and slow calls, what libraries say, and nothing without end."""

import json
from pathlib import Path

import pytest
import requests
import websockets.sync.client

from eliza.sessions.v1.session_service_pb2 import GetServiceStatusRequest, GetSessionRequest
from server.logs import KIND_LINES
from server.version import VERSION
from tests.support.clients import create, fails, run
from tests.support.service import UNKNOWN, USER, Serve, Start
from tests.support.waiting import until


def lines(service: Serve, event: str) -> list[dict]:
    """The lines of an event in a log of JSON, every line of which must be JSON with an event, a level and a
    time.
    """
    found = [json.loads(line) for line in service.log().splitlines()]
    assert all({"event", "level", "timestamp"} <= line.keys() for line in found)
    return [line for line in found if line["event"] == event]


def get(service: Serve, session_id: str = UNKNOWN) -> None:
    fails(
        lambda: service.sessions.GetSession(GetSessionRequest(session_id=session_id), timeout=10),
        "SESSION_NOT_FOUND",
    )


def test_the_start_says_the_version_and_what_differs_from_the_defaults(start: Start) -> None:
    service = start("--no-rest", LOG_FORMAT="json", MAX_STREAMS="77", SESSION_DEFAULT_TIMEOUT_MINUTES="30")
    (line,) = lines(service, "started")
    assert line["version"] == VERSION
    assert (line["settings"]["MAX_STREAMS"], line["settings"]["LOG_FORMAT"]) == (77, "json")
    assert "SESSION_DEFAULT_TIMEOUT_MINUTES" not in line["settings"]


def test_a_variable_that_is_no_setting_is_warned_of_with_the_one_that_may_be_meant(start: Start) -> None:
    service = start(
        "--no-rest",
        LOG_FORMAT="json",
        SESSION_TIMEOUT_MINUTE="60",
        SESSION_MAX_TIMEOUT_MINUTES="120",
        MAX_WRITES="2",
    )
    warned = lines(service, "the environment has a variable that is no setting")
    assert {line["level"] for line in warned} == {"warning"}
    meant = {line["variable"]: line["meant"] for line in warned}
    assert meant.pop("MAX_WRITES") == "MAX_CALLS"
    assert meant.pop("SESSION_TIMEOUT_MINUTE").endswith("_TIMEOUT_MINUTES")
    assert not meant


def test_the_running_version_is_told_over_grpc_and_rest(plain: Serve) -> None:
    assert plain.sessions.GetServiceStatus(GetServiceStatusRequest(), timeout=10).version == VERSION
    assert plain.http.get(f"{plain.url}/health", timeout=10).json()["version"] == VERSION


def test_a_failed_call_is_one_line_with_its_code_and_session(start: Start) -> None:
    service = start("--no-rest", LOG_FORMAT="json")
    get(service)
    (line,) = until(lambda: lines(service, "failed call"), "the line")
    assert (line["method"], line["code"]) == (
        "eliza.sessions.v1.SessionService/GetSession",
        "SESSION_NOT_FOUND",
    )
    assert (line["level"], line["session_id"]) == ("info", UNKNOWN)


def test_a_request_that_rest_refuses_by_itself_is_one_line(start: Start) -> None:
    service = start(LOG_FORMAT="json")
    assert (
        service.http.post(
            service.url, data="{", headers={"Content-Type": "application/json"}, timeout=10
        ).status_code
        == 400
    )
    assert service.http.get(f"{service.url}/{UNKNOWN}", timeout=10).status_code == 404
    (line,) = until(lambda: lines(service, "failed request"), "the line")
    assert (line["method"], line["code"]) == ("POST", "INVALID_REQUEST")
    assert len(lines(service, "failed call")) == 1


def test_what_a_client_sent_is_not_in_the_log(start: Start) -> None:
    service = start(LOG_FORMAT="json")
    body = {"agentId": "hunter2", "userId": USER}
    assert service.http.post(service.url, json=body, timeout=10).status_code == 400
    until(lambda: lines(service, "failed call"), "the line")
    assert "hunter2" not in service.log()


def test_a_slow_call_is_one_line(start: Start) -> None:
    service = start("--no-rest", LOG_FORMAT="json", SLOW_CALL_SECONDS="0")
    session_id = create(service).session_id
    service.sessions.GetSession(GetSessionRequest(session_id=session_id), timeout=10)
    found = until(lambda: lines(service, "slow call")[1:], "the line")
    assert (found[0]["level"], found[0]["session_id"]) == ("warning", session_id)
    assert found[0]["seconds"] >= 0


def test_failures_without_end_leave_a_bounded_log(start: Start) -> None:
    service = start("--no-rest", LOG_FORMAT="json")
    for _ in range(KIND_LINES + 50):
        get(service)
    assert service.stop() == 0
    assert len(lines(service, "failed call")) == KIND_LINES


def test_lines_of_libraries_are_json_too_and_stand_once(start: Start) -> None:
    service = start(LOG_FORMAT="json")
    with websockets.sync.client.connect(
        f"ws://{service.rest}/socket.io/?EIO=4&transport=websocket"
    ) as socket:
        assert socket.recv(timeout=10).startswith("0")
        socket.send("40")
        socket.send("42{}")
        socket.send("9")
    requests.get(f"http://{service.rest}/socket.io/?EIO=4&transport=polling&sid=nobody", timeout=10)
    assert service.stop() == 0
    texts = [json.loads(line)["event"] for line in service.log().splitlines()]
    assert len([text for text in texts if "nobody" in text]) <= 1


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        pytest.param((), {"MAX_CALLS": "many"}, id="a setting"),
        pytest.param((), {"LOG_LEVEL": "loud"}, id="the level of the log"),
        pytest.param(("--port", "1"), {}, id="an option"),
        pytest.param((), {"DATABASE_URL": "sqlite:////dev/null/x.db"}, id="a store"),
        pytest.param((), {"GRPC_ADDRESS": "192.0.2.1:1"}, id="an address"),
        pytest.param((), {"AGENTS_FILE": "/nowhere.toml"}, id="a file of agents"),
    ],
)
def test_a_start_that_fails_says_so_in_json(
    tmp_path: Path, arguments: tuple[str, ...], settings: dict[str, str]
) -> None:
    done = run(
        "serve",
        *arguments,
        cwd=tmp_path,
        LOG_FORMAT="json",
        **{"DATABASE_URL": f"sqlite:///{tmp_path}/s.db", **settings},
    )
    found = [json.loads(line) for line in done.errors.splitlines()]
    assert (done.out, done.status > 0) == ("", True)
    assert found[-1]["event"] == "the start failed"
    assert found[-1]["reason"]
