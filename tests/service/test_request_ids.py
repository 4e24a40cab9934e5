"""The id of a request: taken or made, in each line that the logs have of it, and back with the answer."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import requests

from eliza.sessions.call_metadata import MAX_REQUEST_ID, take_request_id
from eliza.sessions.v1 import session_service_pb2
from tests.support.realtime.programs import Facade
from tests.support.service import UNKNOWN, Serve
from tests.support.waiting import until

FRESH = re.compile(r"[0-9a-f]{32}")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    running = Serve(tmp_path_factory.mktemp("ids"), LOG_FORMAT="json", SLOW_CALL_SECONDS="0")
    yield running
    assert running.stop() == 0, running.log()


def lines_of(text: str, request_id: str) -> list[str]:
    """The events of the lines that a log has of a request."""
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line["event"] for line in lines if line.get("request_id") == request_id]


def get(service: Serve, *headers: tuple[str, str], path: str = "") -> requests.Response:
    return requests.get(f"{service.url}{path}", headers=dict(headers), timeout=10)


@pytest.mark.parametrize("given", ["a", "req-1/x:y z", "~" * MAX_REQUEST_ID])
def test_a_good_one_is_taken(service: Serve, given: str) -> None:
    answer = get(service, ("X-Request-Id", given), path=f"/{UNKNOWN}")
    assert (answer.status_code, answer.headers["X-Request-Id"]) == (404, given)
    assert sorted(lines_of(service.log(), given)) == ["failed call"]
    assert get(service, ("X-Request-Id", given)).headers["X-Request-Id"] == given
    assert "slow call" in lines_of(service.log(), given)


@pytest.mark.parametrize("given", ["", "~" * (MAX_REQUEST_ID + 1), "caf\xe9", "tab\tin it"])
def test_a_bad_one_is_replaced(service: Serve, given: str) -> None:
    answer = get(service, ("X-Request-Id", given), path=f"/{UNKNOWN}")
    assert FRESH.fullmatch(answer.headers["X-Request-Id"])
    assert lines_of(service.log(), answer.headers["X-Request-Id"]) == ["failed call"]


def test_several_are_none() -> None:
    assert FRESH.fullmatch(take_request_id(["a", "b"]))
    assert take_request_id(["a"]) == "a"
    assert take_request_id([]) != take_request_id([])


def test_every_answer_has_one(service: Serve) -> None:
    answers = [
        get(service),
        get(service, path="/health"),
        get(service, ("Host", "other.example.com")),
        requests.get(f"http://{service.rest}/nowhere", timeout=10),
        requests.get(f"http://{service.rest}/socket.io/?EIO=4&transport=polling", timeout=10),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 421, 404, 200]
    ids = {answer.headers["X-Request-Id"] for answer in answers}
    assert len(ids) == len(answers)
    assert all(map(FRESH.fullmatch, ids))
    # What the facade refuses by itself is in the log, too.
    assert lines_of(service.log(), answers[3].headers["X-Request-Id"]) == ["failed request"]


def test_a_call_of_grpc_has_one(service: Serve) -> None:
    for given in ("call-7", ""):
        pairs = (("x-request-id", given),) if given else ()
        request = session_service_pb2.GetSessionRequest(session_id=UNKNOWN)
        with pytest.raises(grpc.RpcError) as refused:
            service.sessions.GetSession(request, metadata=pairs, timeout=10)
        told = dict(refused.value.trailing_metadata())["x-request-id"]
        assert told == given if given else FRESH.fullmatch(told)
        assert lines_of(service.log(), told) == ["failed call"]


def test_it_goes_through_a_facade_of_its_own(service: Serve, tmp_path: Path) -> None:
    program = Facade(service.grpc, "127.0.0.1:0", tmp_path / "facade", LOG_FORMAT="json")
    try:
        url = f"http://{program.address}/api/messaging/sessions/{UNKNOWN}"
        answer = requests.get(url, headers={"X-Request-Id": "through"}, timeout=10)
        assert answer.headers["X-Request-Id"] == "through"
        until(lambda: lines_of(service.log(), "through") == ["failed call"], "the server's line")
    finally:
        program.kill()
