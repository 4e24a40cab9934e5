"""What Socket.IO's own library refuses: told and logged like everything else that the API refuses."""

import base64
import json
from collections.abc import Iterator
from typing import Final

import pytest

from tests.contract.raw_http import exchange, request
from tests.support.service import Serve
from tests.support.waiting import until

KEY: Final = base64.b64encode(bytes(16)).decode()
HANDSHAKE: Final = (
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", KEY),
)

REFUSED: Final = {
    "GET transport=polling&sid=none": "Invalid session none",
    "POST transport=polling&sid=none": "Invalid session none",
    "POST transport=polling": "Invalid session None",
    "GET transport=carrier": "Invalid transport",
    "GET transport=websocket": "Invalid websocket upgrade",
    "GET transport=polling&j=x": "Invalid JSONP index number",
}
"""Method and query, and what is told."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """One of its own: a service logs few lines of one kind, and other tests may have used them up."""
    running = Serve(tmp_path_factory.mktemp("refused"))
    yield running
    running.kill()


@pytest.mark.parametrize("asked", REFUSED)
@pytest.mark.parametrize("is_websocket", [False, True], ids=["http", "websocket"])
def test_a_refusal_has_the_body_and_the_headers_of_the_api(
    service: Serve, asked: str, is_websocket: bool
) -> None:
    method, _, query = asked.partition(" ")
    if is_websocket and (method == "POST" or query == "transport=websocket"):
        pytest.skip("that is no refused handshake")
    before = len(service.log())
    sent = request(
        method,
        f"/socket.io/?EIO=4&{query}",
        b"40" if method == "POST" else None,
        HANDSHAKE if is_websocket else (),
    )
    answer = exchange(service.rest, [sent], method=method)
    assert answer is not None
    reason = REFUSED[asked]
    assert answer.status == 400
    assert json.loads(answer.content) == {
        "error": f"Invalid request: {reason}",
        "details": {"reason": reason},
        "code": "INVALID_REQUEST",
    }
    assert (answer.headers["x-content-type-options"], answer.headers["vary"]) == ("nosniff", "Origin")
    assert answer.headers["content-type"] == "application/json"
    until(lambda: reason in service.log()[before:], "the line in the log")
    (line,) = [line for line in service.log()[before:].splitlines() if reason in line]
    assert "[info" in line
    assert "[error" not in service.log()[before:]


def test_another_version_of_the_protocol_is_refused(service: Serve) -> None:
    answer = exchange(service.rest, [request("GET", "/socket.io/?EIO=3&transport=polling")])
    assert answer is not None
    assert (answer.status, json.loads(answer.content)["code"]) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_another_method_is_refused(service: Serve, method: str) -> None:
    answer = exchange(service.rest, [request(method, "/socket.io/?EIO=4&transport=polling")], method=method)
    assert answer is not None
    assert (answer.status, answer.headers["allow"]) == (405, "GET, OPTIONS, POST")
    assert json.loads(answer.content)["code"] == "METHOD_NOT_ALLOWED"


def test_a_long_id_is_not_repeated_as_a_whole(service: Serve) -> None:
    answer = exchange(
        service.rest, [request("GET", f"/socket.io/?EIO=4&transport=polling&sid={'x' * 10_000}")]
    )
    assert answer is not None
    assert answer.status == 400
    assert len(answer.content) < 1000
