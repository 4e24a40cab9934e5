"""The manners of HTTP: HEAD, OPTIONS, trailing slashes, bodies where none are expected, connections that stay
open.
"""

import json
import socket
from typing import Any

import pytest

from tests.contract.answers import read_error
from tests.contract.contract import ENDPOINTS, PREFIX
from tests.contract.drivers import PATIENCE_SECONDS
from tests.contract.raw_http import request
from tests.support.service import ECHO, USER, Serve

GETS = (
    "/api/messaging/sessions",
    "/api/messaging/sessions/health",
    "/api/messaging/sessions/$sid",
    "/api/messaging/sessions/$sid/messages",
    "/test/clock",
)
PATHS = (
    *dict.fromkeys(PREFIX + endpoint.path.replace("{sessionId}", "$sid") for endpoint in ENDPOINTS),
    "/test/clock",
)
CALLS: list[tuple[str, str, Any]] = [
    ("POST", "", {"agentId": ECHO, "userId": USER}),
    ("GET", "", None),
    ("GET", "/health", None),
    ("GET", "/$sid", None),
    ("POST", "/$sid/messages", {"content": "Hello"}),
    ("GET", "/$sid/messages", None),
    ("POST", "/$sid/renew", None),
    ("PATCH", "/$sid/timeout", {"timeoutMinutes": 20}),
    ("POST", "/$sid/heartbeat", None),
    ("DELETE", "/$sid", None),
]


@pytest.fixture
def service(rest_service: Serve) -> Serve:
    """REST is asked both ways."""
    return rest_service


@pytest.fixture
def session(service: Serve) -> str:
    return service.create()["sessionId"]


def on_one_connection(service: Serve, content: bytes) -> bytes:
    """Sends everything at once, the last request asking for a close, and reads until the server closes."""
    host, _, port = service.rest.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(content)
        parts = []
        while part := connection.recv(65_536):
            parts.append(part)
    return b"".join(parts)


def head_of(answer: bytes) -> dict[str, str]:
    """The headers of an answer, in lower case, without the date and the request's id."""
    lines = answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    named = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert named.pop("date")
    assert named.pop("x-request-id")
    return named


CLOSE = (("Connection", "close"),)
PAGE = "http://localhost:5173"


@pytest.mark.parametrize("path", GETS)
def test_head_is_get_without_the_body(service: Serve, session: str, path: str) -> None:
    path = path.replace("$sid", session)
    got = on_one_connection(service, request("GET", path, headers=CLOSE))
    head = on_one_connection(service, request("HEAD", path, headers=CLOSE))
    assert head.startswith(b"HTTP/1.1 200 ")
    assert head.endswith(b"\r\n\r\n")
    assert head_of(head) == head_of(got)
    assert int(head_of(head)["content-length"]) == len(got.partition(b"\r\n\r\n")[2]) > 0


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        f"/api/messaging/sessions/{USER}",
        "/api/messaging/sessions/$sid/messages?before=x",
        "/api/messaging/sessions/$sid/renew",
    ],
)
def test_head_of_an_error_has_its_headers_and_no_body(service: Serve, session: str, path: str) -> None:
    path = path.replace("$sid", session)
    got = on_one_connection(service, request("GET", path, headers=CLOSE))
    head = on_one_connection(service, request("HEAD", path, headers=CLOSE))
    assert head.split(b" ")[1] == got.split(b" ")[1]
    assert head.split(b" ")[1] in (b"400", b"404", b"405")
    assert head.endswith(b"\r\n\r\n")
    if b" 405 " not in got[:20]:
        # The method is in the body of a 405.
        assert head_of(head) == head_of(got)


@pytest.mark.parametrize("path", PATHS)
def test_a_preflight_is_answered(service: Serve, session: str, path: str) -> None:
    path = path.replace("$sid", session)
    allowed = (
        service.http.options(f"http://{service.rest}{path}", timeout=PATIENCE_SECONDS)
        .headers["Allow"]
        .split(", ")
    )
    for method in allowed:
        headers = {
            "Origin": PAGE,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": "content-type, x-api-key",
        }
        response = service.http.options(
            f"http://{service.rest}{path}", headers=headers, timeout=PATIENCE_SECONDS
        )
        assert response.status_code == 204
        assert response.content == b""
        assert response.headers["Access-Control-Allow-Origin"] == PAGE
        assert method in response.headers["Access-Control-Allow-Methods"].split(", ")
        assert {"content-type", "x-api-key"} <= {
            name.strip() for name in response.headers["Access-Control-Allow-Headers"].lower().split(",")
        }
        assert int(response.headers["Access-Control-Max-Age"]) > 0


def test_the_methods_of_a_path_are_those_of_the_contract(service: Serve, session: str) -> None:
    documented: dict[str, set[str]] = {}
    for endpoint in ENDPOINTS:
        methods = {endpoint.method, "HEAD"} if endpoint.method == "GET" else {endpoint.method}
        documented.setdefault(endpoint.path, {"OPTIONS"}).update(methods)
    for path, methods in documented.items():
        url = f"http://{service.rest}{PREFIX}{path.replace('{sessionId}', session)}"
        assert (
            set(service.http.options(url, timeout=PATIENCE_SECONDS).headers["Allow"].split(", ")) == methods
        )
        refused = service.http.put(url, timeout=PATIENCE_SECONDS)
        failure = read_error(refused.status_code, refused.headers, refused.content)
        assert failure.code == "METHOD_NOT_ALLOWED"
        assert refused.headers["Allow"] == ", ".join(failure.details["allowed"])
        assert set(failure.details["allowed"]) == methods


def test_options_of_an_unknown_path_is_not_found(service: Serve) -> None:
    response = service.http.options(
        f"http://{service.rest}/nothing", headers={"Origin": PAGE}, timeout=PATIENCE_SECONDS
    )
    assert read_error(response.status_code, response.headers, response.content).code == "PATH_NOT_FOUND"

    assert "Retry-After" in response.headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Credentials" not in response.headers


def test_a_name_with_an_underscore_is_refused(service: Serve, session: str) -> None:
    """WSGI and CGI cannot tell it from the one with a dash: whoever is in front may have judged that one."""
    path = f"/api/messaging/sessions/{session}"
    kind = ("Content-Type", "application/json")
    for header in (
        ("Content_Length", "10"),
        ("Content_Type", "text/plain"),
        ("If_Match", '"no such"'),
        ("Transfer_Encoding", "chunked"),
        ("X_API_KEY", "a"),
        ("X_Forwarded-For", "1.1.1.1"),
        ("_", "a"),
        ("__Host", "a"),
    ):
        for more in ([header, kind], [kind, header]):
            body = b'{"timeoutMinutes": 20}'
            answer = on_one_connection(service, request("PATCH", f"{path}/timeout", body, [*more, *CLOSE]))
            assert answer.startswith(b"HTTP/1.1 400 "), answer
            assert b"INVALID_REQUEST" in answer
    polling = request("GET", "/socket.io/?EIO=4&transport=polling", None, [("Content_Length", "x"), *CLOSE])
    assert on_one_connection(service, polling).startswith(b"HTTP/1.1 400 ")


def test_a_trailer_is_not_taken_for_a_header(service: Serve, session: str) -> None:
    body = (
        b'16\r\n{"timeoutMinutes": 20}\r\n0\r\nContent-Type: application/json\r\nIf-Match: "no such"\r\n\r\n'
    )
    for kind, status in (([("Content-Type", "application/json")], b"200"), ([], b"415")):
        headers = [("Transfer-Encoding", "chunked"), *kind, *CLOSE]
        answer = on_one_connection(
            service, request("PATCH", f"/api/messaging/sessions/{session}/timeout", body, headers)
        )
        assert answer.split(b" ")[1] == status, answer


@pytest.mark.parametrize("slashes", ["/", "///"])
@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_a_trailing_slash_changes_nothing(
    service: Serve, slashes: str, method: str, path: str, body: Any
) -> None:
    def call(end: str) -> tuple[int, set[str]]:
        url = service.url + path.replace("$sid", service.create()["sessionId"]) + end
        response = service.http.request(
            method, url, json=body, allow_redirects=False, timeout=PATIENCE_SECONDS
        )
        return response.status_code, response.json().keys()

    assert call(slashes) == call("")
    assert call(slashes)[0] < 300


@pytest.mark.parametrize("slashes", ["/", "///"])
def test_a_trailing_slash_before_a_query_changes_nothing(service: Serve, session: str, slashes: str) -> None:
    service.http.post(
        f"{service.url}/{session}/messages", json={"content": "Hello"}, timeout=PATIENCE_SECONDS
    )
    page = service.http.get(
        f"{service.url}/{session}/messages{slashes}?limit=1", timeout=PATIENCE_SECONDS
    ).json()
    assert len(page["messages"]) == 1
    clock = service.http.get(f"http://{service.rest}/test/clock{slashes}", timeout=PATIENCE_SECONDS)
    assert clock.json().keys() == {"now"}


@pytest.mark.parametrize("body", [b'{"limit": 1}', b"{", b"[]", b"\xff", b"x" * 100_000])
@pytest.mark.parametrize("kind", ["application/json", "text/plain", None])
def test_a_body_of_a_get_is_ignored(service: Serve, session: str, body: bytes, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    for path in ("", "/health", f"/{session}", f"/{session}/messages"):
        response = service.http.get(
            f"{service.url}{path}", data=body, headers=headers, timeout=PATIENCE_SECONDS
        )
        assert response.status_code == 200, response.text


@pytest.mark.parametrize("path", ["renew", "heartbeat"])
def test_a_post_without_a_body_needs_no_content_type(service: Serve, session: str, path: str) -> None:
    for content in (
        request("POST", f"/api/messaging/sessions/{session}/{path}", None, CLOSE),
        request("POST", f"/api/messaging/sessions/{session}/{path}", b"", CLOSE),
    ):
        assert on_one_connection(service, content).startswith(b"HTTP/1.1 200 ")
    assert service.http.get(f"{service.url}/{session}", timeout=PATIENCE_SECONDS).json()["renewalCount"] == 2


def test_a_body_that_renew_and_heartbeat_do_not_need_is_let_pass(service: Serve, session: str) -> None:
    for path in ("renew", "heartbeat"):
        response = service.http.post(
            f"{service.url}/{session}/{path}", json={"anything": [1]}, timeout=PATIENCE_SECONDS
        )
        assert response.status_code == 200


def test_requests_may_follow_each_other_on_a_connection_without_waiting(service: Serve, session: str) -> None:
    path, kind = f"/api/messaging/sessions/{session}", ("Content-Type", "application/json")
    contents = [
        request("POST", f"{path}/messages", b'{"content": "one"}', (kind,)),
        request("POST", f"{path}/messages", b'{"content": ""}', (kind,)),
        request("HEAD", path),
        request("POST", f"{path}/messages", b'{"content": "two"}', (kind,)),
        request("GET", "/nothing"),
        request("GET", path, None, CLOSE),
    ]
    answer = on_one_connection(service, b"".join(contents))
    statuses = [part.split(b" ")[0] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"201", b"400", b"200", b"201", b"404", b"200"]
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["renewalCount"] == 2


def test_health_comes_before_sessions(service: Serve) -> None:
    assert service.http.get(f"{service.url}/health", timeout=PATIENCE_SECONDS).json()["status"] == "healthy"
    response = service.http.get(f"{service.url}/HEALTH", timeout=PATIENCE_SECONDS)
    assert read_error(response.status_code, response.headers, response.content).code == "SESSION_NOT_FOUND"


def test_nothing_published_has_a_key_success(service: Serve, session: str) -> None:
    """Contract: "It never has a key `success`: a published client drops the body of any response that has
    one".
    """
    for metadata in ({}, {"success": True}):
        response = service.http.post(
            f"{service.url}/{session}/messages",
            json={"content": "Hello", "metadata": metadata},
            timeout=PATIENCE_SECONDS,
        )
        assert response.status_code == 201
        assert "success" not in response.json()


def test_the_test_clock_does_not_exist_unless_it_is_switched_on(start: Any) -> None:
    running = start()
    for method, body in (("GET", None), ("POST", {"advanceMs": 1}), ("POST", {"advanceMs": "x"})):
        response = running.http.request(
            method, f"http://{running.rest}/test/clock", json=body, timeout=PATIENCE_SECONDS
        )
        failure = read_error(response.status_code, response.headers, response.content)
        assert (response.status_code, failure.code) == (404, "PATH_NOT_FOUND")


@pytest.mark.parametrize("path", ["", "/health"])
def test_an_open_service_does_not_mind_a_proxys_credentials(service: Serve, path: str) -> None:
    headers = {"X-API-KEY": "the client's", "Authorization": "Bearer the-proxys"}
    answer = service.http.get(service.url + path, headers=headers, timeout=10)
    assert answer.status_code == 200, answer.text
