"""What becomes of the credentials of a request: each goes to the server with every call, and into no log."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from ipaddress import ip_network
from typing import Any

import pytest

from eliza.sessions.call_metadata import CLIENT_ADDRESS_KEY
from rest_facade.patches import grpcio
from rest_facade.shapes.credentials import MAX_BYTES, UNSENDABLE
from rest_facade.upstream.backend import Backend, dial
from tests.contract.answers import read_error
from tests.contract.facade_alone import Facade, running
from tests.contract.fake_server import AGENT, EXPIRED, TOKEN, FakeServer, fake_server
from tests.contract.openapi import problems
from tests.contract.raw_http import Response, exchange, request

ID = "11111111-1111-4111-8111-111111111111"
BASE = "/api/messaging/sessions"
SESSION = f"{BASE}/{ID}"
USER = "22222222-2222-4222-8222-222222222222"
HEADERS = (("Authorization", "Bearer a.b.c"), ("X-API-KEY", "key-one"), ("x-on-behalf-of", USER))
PAIRS = (("authorization", "Bearer a.b.c"), ("x-api-key", "key-one"), ("x-on-behalf-of", USER))
JSON = ("Content-Type", "application/json")
STREAM = ("Accept", "text/event-stream")
MESSAGE: dict[str, Any] = {"content": "hi"}

ROUTES: dict[str, tuple[str, str, object, str]] = {
    "create": ("POST", BASE, {"agentId": ID, "userId": USER}, "CreateSession"),
    "list": ("GET", BASE, None, "ListSessions"),
    "health": ("GET", f"{BASE}/health", None, "GetServiceStatus"),
    "get": ("GET", SESSION, None, "GetSession"),
    "head": ("HEAD", SESSION, None, "GetSession"),
    "delete": ("DELETE", SESSION, None, "DeleteSession"),
    "send": ("POST", f"{SESSION}/messages", MESSAGE, "SendMessage"),
    "send and wait": ("POST", f"{SESSION}/messages", {**MESSAGE, "transport": "http"}, "SendMessage"),
    "send and stream": ("POST", f"{SESSION}/messages", {**MESSAGE, "transport": "sse"}, "Converse"),
    "send nothing": ("POST", f"{SESSION}/messages", {}, "GetSession"),
    "history": ("GET", f"{SESSION}/messages", None, "ListMessages"),
    "history forward": ("GET", f"{SESSION}/messages?after=1", None, "ListMessages"),
    "renew": ("POST", f"{SESSION}/renew", None, "RenewSession"),
    "timeout": ("PATCH", f"{SESSION}/timeout", {"timeoutMinutes": 20}, "UpdateTimeout"),
    "heartbeat": ("POST", f"{SESSION}/heartbeat", None, "SendHeartbeat"),
    "token": ("POST", f"{SESSION}/tokens", {}, "CreateAccessToken"),
    "transcript": ("GET", f"{SESSION}/transcript", None, "ExportTranscript"),
    "agents": ("GET", "/api/agents", None, "ListAgents"),
    "clock": ("GET", "/test/clock", None, "GetClock"),
    "set the clock": ("POST", "/test/clock", {"now": "2026-01-31T09:05:00.000Z"}, "SetClock"),
    "move the clock": ("POST", "/test/clock", {"advanceMs": 1}, "AdvanceClock"),
}


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with fake_server() as server:
        yield server


@pytest.fixture
async def facade(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Facade]:
    async with running(monkeypatch, server.address) as facade:
        yield facade


async def ask(
    facade: Facade, method: str, path: str, body: object = None, headers: tuple[tuple[str, str], ...] = ()
) -> Response:
    content = None if body is None else json.dumps(body).encode()
    sent = request(method, path, content, (*headers, JSON) if content else headers)
    answer = await asyncio.to_thread(exchange, f"127.0.0.1:{facade.port}", [sent], method=method)
    assert answer is not None
    return answer


async def read_until(reader: asyncio.StreamReader, text: bytes) -> bytes:
    """What a stream tells, up to a text."""
    async with asyncio.timeout(20):
        return await reader.readuntil(text)


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
async def test_every_call_for_a_request_carries_its_credentials(
    server: FakeServer, facade: Facade, route: tuple[str, str, object, str]
) -> None:
    method, path, body, called = route
    answer = await ask(facade, method, path, body, HEADERS)
    assert answer.status < 300 or called == "GetSession", answer
    assert called in {name for name, _ in server.calls}
    # A client on this machine has no address of its own.
    assert {pairs for _, pairs in server.calls} == {PAIRS}
    # No cache on the way gives it to somebody else.
    assert answer.headers["cache-control"] == "no-store"
    server.calls.clear()
    answer = await ask(facade, method, path, body)
    assert {pairs for _, pairs in server.calls} == {()}
    assert (answer.headers.get("cache-control") == "no-store") == (
        called in ("CreateAccessToken", "ExportTranscript")
    )


async def test_a_stream_of_events_carries_its_credentials(server: FakeServer, facade: Facade) -> None:
    reader, _ = await facade.connect(request("GET", f"{SESSION}/events", None, HEADERS))
    await read_until(reader, b"retry: 1000\n\n")
    server.tell(ID, "hello")
    told = await read_until(reader, b"\n\n")
    assert {pairs for _, pairs in server.calls} == {PAIRS}
    # The agent's name comes with the join: no call of its own asks for it.
    assert [name for name, _ in server.calls] == ["WatchSessions"]
    assert json.loads(told.partition(b"data: ")[2])["senderName"] == AGENT


async def test_a_header_that_came_twice_goes_twice(server: FakeServer, facade: Facade) -> None:
    await ask(
        facade, "GET", SESSION, None, (("X-API-KEY", "one"), ("x-Api-Key", "two"), ("X-API-KEY", "one"))
    )
    assert server.calls == [
        ("GetSession", (("x-api-key", "one"), ("x-api-key", "two"), ("x-api-key", "one")))
    ]


@pytest.mark.parametrize(
    "header",
    [
        b"X_API_KEY: one",
        b"x-api_key: one",
        b"Authorization_: Bearer a",
        b"_: a",
        b"X-API-KEY: one\r\n two",
        b"X-API-KEY: one\r\n\ttwo",
        b"X-API-KEY:\r\n one",
        b"X-API-KEY : one",
        b"X-API-KEY: one\0two",
        b"X-API-KEY: one\x7ftwo",
    ],
)
@pytest.mark.parametrize("path", [SESSION, "/socket.io/?EIO=4&transport=polling"])
async def test_a_header_that_may_be_read_in_two_ways_is_refused(
    server: FakeServer, facade: Facade, header: bytes, path: str
) -> None:
    for more in (b"", b"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Key: eA==\r\n"):
        head = b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n%b\r\n" % (path.encode(), header, more)
        assert await facade.status(head) == 400
    assert server.calls == []


@pytest.mark.parametrize(
    ("header", "pair"),
    [
        (("X-API-KEY", "sch\xfcssel"), ("x-api-key", UNSENDABLE)),
        (("X-API-KEY", "a\tb"), ("x-api-key", UNSENDABLE)),
        (("X-API-KEY", "x" * MAX_BYTES), ("x-api-key", UNSENDABLE)),
        (("Authorization", "Bearer \xff"), ("authorization", f"Bearer {UNSENDABLE}")),
        (("Authorization", "Bearer " + "x" * MAX_BYTES), ("x-api-key", UNSENDABLE)),
    ],
)
async def test_a_value_that_grpc_cannot_carry_is_no_good_credential(
    server: FakeServer, facade: Facade, header: tuple[str, str], pair: tuple[str, str]
) -> None:
    server.good = {"good"}
    answer = await ask(facade, "GET", SESSION, None, (header,))
    assert read_error(answer.status, answer.headers, answer.content).code == "UNAUTHENTICATED"
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert server.sent("GetSession") == [(pair,)]


async def test_a_large_token_that_grpc_can_carry_goes_through(server: FakeServer, facade: Facade) -> None:
    token = "x" * (MAX_BYTES - 100)
    assert (await ask(facade, "GET", SESSION, None, (("Authorization", f"Bearer {token}"),))).status == 200
    assert server.sent("GetSession") == [(("authorization", f"Bearer {token}"),)]


async def test_a_proxys_own_authorization_is_not_passed_on(server: FakeServer, facade: Facade) -> None:
    server.good = {"good"}
    answer = await ask(facade, "GET", SESSION, None, (("Authorization", "Basic dXNlcjpwYXNz"),))
    assert (answer.status, "error=" in answer.headers["www-authenticate"]) == (401, False)
    assert server.sent("GetSession") == [(("authorization", f"Basic {UNSENDABLE}"),)]


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("2001:db8::7", "2001:db8::7"),
        ("127.0.0.1", None),
        ("nonsense", None),
    ],
)
async def test_the_address_of_a_client_behind_a_proxy_goes_with_its_calls(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, forwarded: str, address: str | None
) -> None:
    wanted = ((CLIENT_ADDRESS_KEY, address),) if address else ()
    async with running(monkeypatch, server.address, trusted_proxies=(ip_network("127.0.0.1"),)) as facade:
        for headers, pairs in (((), ()), (HEADERS[1:2], PAIRS[1:2])):
            await ask(facade, "GET", SESSION, None, (*headers, ("X-Forwarded-For", forwarded)))
            assert server.calls.pop() == ("GetSession", (*pairs, *wanted))


async def test_a_client_that_is_no_proxy_cannot_name_its_address(server: FakeServer, facade: Facade) -> None:
    named = (("X-Forwarded-For", "203.0.113.9"), ("eliza-client-address", "203.0.113.9"))
    await ask(facade, "GET", SESSION, None, (*named, ("eliza-facade-key", "x")))
    assert server.calls == [("GetSession", ())]


async def test_a_token_in_the_query_counts_for_events_alone(server: FakeServer, facade: Facade) -> None:
    given = ("authorization", "Bearer est_the-token")
    reader, _ = await facade.connect(
        request("GET", f"{SESSION}/events?access_token=est_the-token", None, HEADERS[1:2])
    )
    await read_until(reader, b"retry: 1000\n\n")
    assert server.calls == [("WatchSessions", (given, PAIRS[1]))]
    # Also while its own parameters are judged.
    assert (await ask(facade, "GET", f"{SESSION}/events?after=x&access_token=est_the-token")).status == 400
    assert server.calls.pop() == ("GetSession", (given,))
    # A key in an address is in the logs of others: it is not taken.
    await ask(facade, "GET", f"{SESSION}/events?after=x&access_token=es_shop_key")
    assert server.calls.pop() == ("GetSession", (("authorization", "Bearer -"),))
    server.calls.clear()
    for method, path, body, _ in ROUTES.values():
        await ask(facade, method, f"{path}{'&' if '?' in path else '?'}access_token=est_the-token", body)
    assert {pairs for _, pairs in server.calls} == {()}


@pytest.mark.parametrize("path", [SESSION, f"{SESSION}/events", f"{BASE}/health"])
@pytest.mark.parametrize("accept", [(), (STREAM,)])
async def test_who_has_no_good_credential_is_told_what_is_wanted(
    server: FakeServer, facade: Facade, path: str, accept: tuple[tuple[str, str], ...]
) -> None:
    server.good = {"good"}
    cases: tuple[tuple[tuple[tuple[str, str], ...], str], ...] = (
        ((), ""),
        ((("X-API-KEY", "bad"),), ', error="invalid_token"'),
        ((("Authorization", "bearer bad"),), ', error="invalid_token"'),
    )
    for headers, more in cases[path.endswith("health") :]:
        answer = await ask(facade, "GET", path, None, (*headers, *accept))
        assert read_error(answer.status, answer.headers, answer.content).code == "UNAUTHENTICATED"
        assert answer.headers["www-authenticate"] == f'Bearer realm="eliza-sessions"{more}'
        assert answer.headers["cache-control"] == "no-store"
        assert problems("GET", path, answer.status, answer.headers, answer.content) == []
    answer = await ask(facade, "GET", f"{SESSION}/events?access_token=est_bad")
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


async def test_a_caller_that_may_not_is_told_so(server: FakeServer, facade: Facade) -> None:
    server.faults = {name: ("PERMISSION_DENIED", {}) for name in ("GetSession", "WatchSessions")}
    for path, headers in ((SESSION, ()), (f"{SESSION}/events", (STREAM,))):
        answer = await ask(facade, "GET", path, None, headers)
        assert read_error(answer.status, answer.headers, answer.content).code == "PERMISSION_DENIED"
        assert "www-authenticate" not in answer.headers


RATE = {"policy": "read", "limit": "10", "windowSeconds": "60", "retryAfterSeconds": "7"}
QUOTA = {"quota": "sessions", "limit": "3", "retryAfterSeconds": "60"}


async def test_a_limit_says_when_to_come_back(server: FakeServer, facade: Facade) -> None:
    server.faults = dict.fromkeys(("GetSession", "WatchSessions", "GetServiceStatus"), ("RATE_LIMITED", RATE))
    for path in (SESSION, f"{SESSION}/events", f"{BASE}/health"):
        answer = await ask(facade, "GET", path)
        failure = read_error(answer.status, answer.headers, answer.content)
        assert (failure.code, failure.details["limit"]) == ("RATE_LIMITED", 10)
        assert answer.headers["retry-after"] == "7"
        assert answer.headers["ratelimit-policy"] == '"read";q=10;w=60'
        assert answer.headers["ratelimit"] == '"read";r=0;t=7'
        assert problems("GET", path, answer.status, answer.headers, answer.content) == []
    # On another status than 200 an EventSource gives up for good.
    answer = await ask(facade, "GET", f"{SESSION}/events", None, (STREAM,))
    assert (answer.status, answer.content.startswith(b"retry: ")) == (200, True)
    server.faults = {"CreateSession": ("QUOTA_EXCEEDED", QUOTA)}
    answer = await ask(facade, "POST", BASE, {"agentId": ID, "userId": USER})
    assert read_error(answer.status, answer.headers, answer.content).code == "QUOTA_EXCEEDED"
    assert (answer.headers["retry-after"], "ratelimit" in answer.headers) == ("60", False)
    assert problems("POST", BASE, answer.status, answer.headers, answer.content) == []


async def test_a_page_may_send_credentials_and_read_what_is_said_of_them(
    server: FakeServer, facade: Facade
) -> None:
    page = ("Origin", "http://localhost:5173")
    wanted = "authorization,x-api-key,x-on-behalf-of"
    asked = (page, ("Access-Control-Request-Method", "GET"), ("Access-Control-Request-Headers", wanted))
    answer = await ask(facade, "OPTIONS", SESSION, None, asked)
    assert (answer.status, answer.headers["access-control-allow-headers"]) == (204, wanted)
    assert server.calls == []
    server.good = {"good"}
    answer = await ask(facade, "GET", SESSION, None, (page,))
    exposed = set(answer.headers["access-control-expose-headers"].split(", "))
    assert {"WWW-Authenticate", "RateLimit", "RateLimit-Policy", "Retry-After"} <= exposed
    assert not {"access-control-allow-credentials", "set-cookie"} & answer.headers.keys()


async def test_a_stream_whose_credential_expires_says_so_and_ends(server: FakeServer, facade: Facade) -> None:
    for fault in (EXPIRED, ("UNAUTHENTICATED", {})):
        reader, _ = await facade.connect(
            request("GET", f"{SESSION}/events?access_token=est_once", None, (("Connection", "close"),))
        )
        await read_until(reader, b"retry: 1000\n\n")
        server.end_streams(fault)
        told = await asyncio.wait_for(reader.read(), 20)
        assert b'event: credentialExpired\ndata: {"code":"CREDENTIAL_EXPIRED"}\n\n' in told
        assert b"id:" not in told
        assert told.endswith(b"0\r\n\r\n")
    server.faults = {"WatchSessions": EXPIRED}
    answer = await ask(facade, "GET", f"{SESSION}/events?access_token=est_once", None, (STREAM,))
    assert read_error(answer.status, answer.headers, answer.content).code == "CREDENTIAL_EXPIRED"
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


async def test_a_stream_that_is_opened_again_with_an_expired_credential_says_so(
    server: FakeServer, facade: Facade
) -> None:
    reader, _ = await facade.connect(request("GET", f"{SESSION}/events", None, HEADERS[:1]))
    await read_until(reader, b"retry: 1000\n\n")
    server.faults = {"WatchSessions": ("UNAUTHENTICATED", {})}
    server.end_streams(("UNAVAILABLE", {"retryAfterSeconds": "1"}))
    await read_until(reader, b'event: credentialExpired\ndata: {"code":"CREDENTIAL_EXPIRED"}\n\n')


async def test_a_reply_whose_credential_expires_ends_with_that_error(
    server: FakeServer, facade: Facade
) -> None:
    server.faults = {"reply": EXPIRED}
    answer = await ask(facade, "POST", f"{SESSION}/messages", {**MESSAGE, "transport": "sse"})
    assert answer.status == 200
    last = answer.content.decode().strip().split("\n\n")[-1]
    assert last.startswith("event: error\n")
    assert json.loads(last.partition("data: ")[2])["code"] == "CREDENTIAL_EXPIRED"


async def test_a_token_for_a_session_is_made_by_the_server(server: FakeServer, facade: Facade) -> None:
    path = f"{SESSION.upper().replace(BASE.upper(), BASE)}/tokens"
    for body, verbs, seconds in (
        (None, [], 0.0),
        ({}, [], 0.0),
        ({"verbs": None, "seconds": None}, [], 0.0),
        ({"verbs": ["read", "change"], "seconds": 90.5}, ["read", "change"], 90.5),
        ({"seconds": 10**9}, [], 10.0**9),
    ):
        answer = await ask(facade, "POST", path, body, HEADERS)
        assert json.loads(answer.content) == {
            "accessToken": TOKEN,
            "expiresAt": "2027-01-15T08:00:00.000Z",
            "verbs": ["read"],
            "sessionId": ID,
        }
        assert (answer.status, answer.headers["cache-control"]) == (201, "no-store")
        assert problems("POST", path, answer.status, answer.headers, answer.content) == []
        asked = server.tokens.pop()
        assert (list(asked.verbs), asked.lifetime.ToNanoseconds() / 1e9) == (verbs, seconds)
        assert asked.HasField("lifetime") == (seconds > 0)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"verbs": "read"}, "verbs"),
        ({"verbs": {"read": True}}, "verbs"),
        ({"verbs": [1]}, "verbs"),
        ({"verbs": ["\ud800"]}, "verbs"),
        ({"seconds": 0}, "seconds"),
        ({"seconds": 0.5}, "seconds"),
        ({"seconds": -1}, "seconds"),
        ({"seconds": 10**9 + 1}, "seconds"),
        ({"seconds": 10**400}, "seconds"),
        ({"seconds": 1.7e308}, "seconds"),
        ({"seconds": "60"}, "seconds"),
        ({"seconds": True}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
    ],
)
async def test_a_token_of_another_kind_is_refused(
    server: FakeServer, facade: Facade, body: dict[str, Any], field: str
) -> None:
    answer = await ask(facade, "POST", f"{SESSION}/tokens", body, HEADERS)
    failure = read_error(answer.status, answer.headers, answer.content)
    if failure.code != "INVALID_REQUEST":
        assert (failure.code, failure.details["field"]) == ("INVALID_FIELD", field)
    assert server.tokens == []


async def test_the_servers_own_refusal_of_a_lifetime_is_about_seconds(
    server: FakeServer, facade: Facade
) -> None:
    server.faults = {
        "CreateAccessToken": ("INVALID_FIELD", {"field": "lifetime", "value": "x", "reason": "y"})
    }
    answer = await ask(facade, "POST", f"{SESSION}/tokens", {"seconds": 60})
    assert read_error(answer.status, answer.headers, answer.content).details["field"] == "seconds"


async def test_who_may_not_know_the_counts_hears_the_status_alone(server: FakeServer, facade: Facade) -> None:
    server.status_only = True
    answer = await ask(facade, "GET", f"{BASE}/health")
    assert json.loads(answer.content) == {"status": "healthy", "timestamp": "2027-01-15T08:00:00.000Z"}
    assert problems("GET", f"{BASE}/health", answer.status, answer.headers, answer.content) == []


async def test_a_facade_that_may_not_call_answers_as_if_the_server_were_away(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backend, "is_held", True)
    async with running(monkeypatch, server.address) as facade:
        for method, path, body, _ in ROUTES.values():
            assert (await ask(facade, method, path, body)).status == 503, path
        assert (await ask(facade, "GET", f"{SESSION}/events")).status == 503
        assert (await ask(facade, "GET", "/openapi.json")).status == 200
    assert server.calls == []


async def test_the_calls_of_the_installed_library_have_the_names_that_are_needed(server: FakeServer) -> None:
    async with Backend(partial(dial, server.address), 1, 1) as backend:
        call = backend.watch(())
        assert [name for name in grpcio.PRIVATE_NAMES if not hasattr(call, name)] == []
        call.cancel()


async def test_a_stream_that_is_refused_is_asked_for_once(server: FakeServer, facade: Facade) -> None:
    server.faults = {"WatchSessions": ("UNAUTHENTICATED", {})}
    for _ in range(30):
        assert (await ask(facade, "GET", f"{SESSION}/events")).status == 401
    # Each was told at once why, although its join came to a call that had ended.
    assert len(server.sent("WatchSessions")) == 30
