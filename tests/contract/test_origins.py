"""Pages of other origins and foreign hosts, over every way into the facade."""

import json
import socket
import uuid
from collections.abc import Mapping
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as connect_websocket

from tests.contract.answers import check_headers, read_error
from tests.contract.drivers import PATIENCE_SECONDS
from tests.contract.raw_http import Response, exchange, request
from tests.support.service import ECHO, Serve, Start

FOREIGN = "https://evil.example"
PAGE = "http://localhost:5173"
SESSIONS = "/api/messaging/sessions"
POLLING = "/socket.io/?EIO=4&transport=polling"
JSON = ("Content-Type", "application/json")

FOREIGN_REQUESTS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "an origin": (("Origin", FOREIGN),),
    "no origin that it names": (("Origin", "null"),),
    "another site": (("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors")),
    "another site with its origin": (("Sec-Fetch-Site", "cross-site"), ("Origin", FOREIGN)),
    "a link": (
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Mode", "navigate"),
        ("Sec-Fetch-Dest", "document"),
    ),
}

TARGETS: Mapping[str, tuple[str, str, bytes | None]] = {
    "create": ("POST", SESSIONS, json.dumps({"agentId": ECHO, "userId": "$user"}).encode()),
    "list": ("GET", SESSIONS, None),
    "head": ("HEAD", SESSIONS, None),
    "health": ("GET", f"{SESSIONS}/health", None),
    "delete": ("DELETE", f"{SESSIONS}/$sid", None),
    "events": ("GET", f"{SESSIONS}/$sid/events", None),
    "document": ("GET", "/openapi.json", None),
    "nothing": ("GET", "/nothing", None),
    "preflight": ("OPTIONS", SESSIONS, None),
    "poll": ("GET", POLLING, None),
    "preflight of a poll": ("OPTIONS", POLLING, None),
    "post to a poll": ("POST", POLLING, b"40"),
}


@pytest.fixture
def service(rest_service: Serve) -> Serve:
    """REST is asked both ways."""
    return rest_service


def ask(
    service: Serve,
    method: str,
    path: str,
    body: bytes | None,
    headers: tuple[tuple[str, str], ...],
    *,
    user: str = "",
) -> Response:
    """Makes a request; `user` is the one whom it names, where it names any: somebody new by default."""
    sent = (*headers, JSON) if body else headers
    body = body and body.replace(b"$user", (user or str(uuid.uuid4())).encode())
    if method == "OPTIONS":
        sent = (*sent, ("Access-Control-Request-Method", "POST"))
    answer = exchange(
        service.rest, [request(method, path, body, sent)], method=method, timeout=PATIENCE_SECONDS
    )
    assert answer is not None
    return answer


def count_sessions(service: Serve, user: str) -> int:
    answer = service.http.get(service.url, params={"userId": user}, timeout=PATIENCE_SECONDS)
    return answer.json()["total"]


@pytest.mark.parametrize("page", FOREIGN_REQUESTS.values(), ids=FOREIGN_REQUESTS)
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_page_of_another_origin_is_refused_before_anything_is_done(
    service: Serve, target: tuple[str, str, bytes | None], page: tuple[tuple[str, str], ...]
) -> None:
    method, path, body = target
    user = str(uuid.uuid4())
    session = service.create(userId=user)["sessionId"]
    answer = ask(service, method, path.replace("$sid", session), body, page, user=user)
    assert answer.status == 403
    check_headers(answer.headers)
    assert "access-control-allow-origin" not in answer.headers
    if method != "HEAD":
        failure = read_error(answer.status, answer.headers, answer.content)
        assert failure.code == "ORIGIN_NOT_ALLOWED"
        assert failure.details == {"origin": dict(page).get("Origin", "")}
    # Nobody was given a second session, and the first is still there.
    assert count_sessions(service, user) == 1


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_host_that_is_not_ours_is_refused(service: Serve, target: tuple[str, str, bytes | None]) -> None:
    method, path, body = target
    session = service.create()["sessionId"]
    answer = ask(
        service,
        method,
        path.replace("$sid", session),
        body,
        (("Host", "evil.example"), ("Sec-Fetch-Site", "same-origin")),
    )
    assert answer.status == 421
    check_headers(answer.headers)
    if method != "HEAD":
        failure = read_error(answer.status, answer.headers, answer.content)
        assert (failure.code, failure.details) == ("HOST_NOT_ALLOWED", {"host": "evil.example"})
    assert service.http.get(f"{service.url}/{session}", timeout=PATIENCE_SECONDS).status_code == 200


@pytest.mark.parametrize("origin", [PAGE, "http://127.0.0.1:8080", "https://app.localhost"])
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_page_of_this_machine_reads_what_it_gets(
    service: Serve, target: tuple[str, str, bytes | None], origin: str
) -> None:
    method, path, body = target
    session = service.create()["sessionId"]
    if path.endswith("/events"):
        service.http.delete(f"{service.url}/{session}", timeout=PATIENCE_SECONDS)
    answer = ask(
        service,
        method,
        path.replace("$sid", session),
        body,
        (("Origin", origin), ("Sec-Fetch-Site", "cross-site")),
    )
    assert answer.status not in (403, 421)
    check_headers(answer.headers)
    assert answer.headers["access-control-allow-origin"] == origin
    assert "access-control-allow-credentials" not in answer.headers
    assert "Retry-After" in answer.headers["access-control-expose-headers"]
    assert ("access-control-allow-methods" in answer.headers) == (method == "OPTIONS")


@pytest.mark.parametrize(
    "raw", [b"\0\r\n\r\n", b"GET / HTTP/1.1\r\n: x\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\n\r\n"]
)
def test_what_cannot_be_read_is_answered_with_the_headers_of_all(service: Serve, raw: bytes) -> None:
    answer = exchange(service.rest, [raw], timeout=PATIENCE_SECONDS)
    assert answer is not None
    check_headers(answer.headers)


def open_websocket(
    service: Serve, path: str = "/socket.io/?EIO=4&transport=websocket", **options: Any
) -> None:
    with connect_websocket(f"ws://{service.rest}{path}", proxy=None, **options) as client:
        assert client.response is not None
        check_headers(dict(client.response.headers))
        assert client.recv(timeout=PATIENCE_SECONDS).startswith("0")


def refused_websocket(
    service: Serve, path: str = "/socket.io/?EIO=4&transport=websocket", **options: Any
) -> str:
    with pytest.raises(InvalidStatus) as caught:
        open_websocket(service, path, **options)
    answer = caught.value.response
    return read_error(answer.status_code, dict(answer.headers), answer.body or b"").code


def test_a_websocket_of_a_page_of_another_origin_is_refused(service: Serve) -> None:
    open_websocket(service)
    open_websocket(service, origin=PAGE)
    open_websocket(service, origin=f"http://{service.rest}")
    assert refused_websocket(service, origin=FOREIGN) == "ORIGIN_NOT_ALLOWED"
    assert refused_websocket(service, origin="null") == "ORIGIN_NOT_ALLOWED"
    assert refused_websocket(service, "/nothing", origin=FOREIGN) == "ORIGIN_NOT_ALLOWED"
    assert (
        refused_websocket(service, additional_headers={"Sec-Fetch-Site": "cross-site"})
        == "ORIGIN_NOT_ALLOWED"
    )


def test_a_websocket_for_another_host_is_refused(service: Serve) -> None:
    host, _, port = service.rest.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as connection:
        url = f"ws://evil.example:{port}/socket.io/?EIO=4&transport=websocket"
        with pytest.raises(InvalidStatus) as caught, connect_websocket(url, sock=connection, proxy=None):
            pass
    assert caught.value.response.status_code == 421


def test_a_refused_request_is_not_waited_for(service: Serve) -> None:
    """Its body never comes, and it has its answer; nor is the next request taken for the body of one that
    waits to send it.
    """
    head = (("Origin", FOREIGN), JSON, ("Content-Length", "1000000"))
    answer = exchange(service.rest, [request("POST", SESSIONS, headers=head)], timeout=PATIENCE_SECONDS)
    assert answer is not None
    assert answer.status == 403
    answer = exchange(
        service.rest,
        [request("POST", SESSIONS, headers=(*head, ("Expect", "100-continue")))],
        timeout=PATIENCE_SECONDS,
    )
    assert answer is not None
    assert (answer.status, answer.headers["connection"]) == (403, "close")


def test_http_1_0_without_a_host_is_served(service: Serve) -> None:
    answer = exchange(
        service.rest, [f"GET {SESSIONS}/health HTTP/1.0\r\n\r\n".encode()], timeout=PATIENCE_SECONDS
    )
    assert answer is not None
    assert answer.status == 200


def test_the_settings_let_origins_and_hosts_in_and_the_log_names_them(start: Start) -> None:
    service = start(
        REST_ALLOWED_ORIGINS="https://app.example.com, https://*.example.org",
        REST_ALLOWED_HOSTS="api.example.com",
    )
    for origin in ("https://app.example.com", "https://a.example.org"):
        answer = ask(service, "GET", SESSIONS, None, (("Origin", origin), ("Host", "api.example.com:8443")))
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, origin)
        open_websocket(service, origin=origin)
    for headers in ((("Origin", PAGE),), (("Origin", FOREIGN),)):
        assert ask(service, "GET", SESSIONS, None, headers).status == 403
    assert ask(service, "GET", SESSIONS, None, (("Host", "other.example.com"),)).status == 421
    log = service.log()
    for setting, added in (
        ("REST_ALLOWED_ORIGINS", PAGE),
        ("REST_ALLOWED_ORIGINS", FOREIGN),
        ("REST_ALLOWED_HOSTS", "other.example.com"),
    ):
        assert [line for line in log.splitlines() if setting in line and added in line and "refused" in line]


def test_a_service_for_everyone_serves_every_page(start: Start) -> None:
    service = start(REST_ADDRESS="0.0.0.0:0", GRPC_ADDRESS="0.0.0.0:0", ALLOW_OPEN="true")
    service.rest = service.rest.replace("0.0.0.0", "127.0.0.1")
    for page in FOREIGN_REQUESTS.values():
        answer = ask(service, "GET", SESSIONS, None, (*page, ("Host", "anything.example")))
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "*")
        assert "access-control-allow-credentials" not in answer.headers
    open_websocket(service, origin=FOREIGN)
