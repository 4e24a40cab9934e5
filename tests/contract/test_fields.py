"""Fields that the contract does not know: accepted and named, or refused where the client prefers that."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import pytest
import requests

from rest_facade.shapes.fields import is_strict
from tests.contract import openapi
from tests.support.service import ECHO, UNKNOWN, USER, Serve

HEADER = "Eliza-Unknown-Fields"
APPLIED = "Preference-Applied"
STRICT = {"Prefer": "handling=strict"}

CREATE = {"agentId": ECHO, "userId": USER}

CALLS: Mapping[str, tuple[str, str, dict[str, Any], int]] = {
    "create": ("POST", "", CREATE, 201),
    "send": ("POST", "/{id}/messages", {"content": "hi"}, 201),
    "send, waiting": ("POST", "/{id}/messages", {"content": "hi", "transport": "http"}, 201),
    "send, streaming": ("POST", "/{id}/messages", {"content": "hi", "transport": "sse"}, 200),
    "patch": ("PATCH", "/{id}/timeout", {"timeoutMinutes": 10}, 200),
    "renew": ("POST", "/{id}/renew", {}, 200),
    "heartbeat": ("POST", "/{id}/heartbeat", {}, 200),
}


@pytest.fixture
def service(rest_service: Serve) -> Serve:
    """REST is asked both ways."""
    return rest_service


def ask(service: Serve, method: str, path: str, body: object, **headers: str) -> requests.Response:
    answer = service.http.request(method, f"{service.url}{path}", json=body, headers=headers, timeout=20)
    assert openapi.problems(method, answer.url, answer.status_code, answer.headers, answer.content) == []
    return answer


@pytest.fixture
def session_id(service: Serve) -> str:
    return str(service.create()["sessionId"])


@pytest.mark.parametrize("call", CALLS)
def test_a_typo_is_named_and_nothing_else(service: Serve, session_id: str, call: str) -> None:
    method, path, body, status = CALLS[call]
    answer = ask(
        service,
        method,
        path.format(id=session_id),
        {**body, "timeoutConfg": {}, "x": None},
        Origin="http://localhost",
    )
    assert (answer.status_code, answer.headers.get(HEADER)) == (status, "timeoutConfg, x")
    assert APPLIED not in answer.headers
    exposed = answer.headers["Access-Control-Expose-Headers"]
    assert HEADER in exposed
    assert APPLIED in exposed
    assert HEADER not in ask(service, method, path.format(id=session_id), body).headers


@pytest.mark.parametrize("call", CALLS)
def test_who_prefers_strict_handling_gets_it(service: Serve, session_id: str, call: str) -> None:
    method, path, body, status = CALLS[call]
    refused = ask(service, method, path.format(id=session_id), {**body, "timeoutConfg": {}}, **STRICT)
    assert (refused.status_code, refused.json()["code"]) == (400, "INVALID_REQUEST")
    assert "timeoutConfg" in refused.json()["details"]["reason"]
    assert (refused.headers[HEADER], refused.headers[APPLIED]) == ("timeoutConfg", "handling=strict")
    fine = ask(service, method, path.format(id=session_id), body, **STRICT)
    assert (fine.status_code, fine.headers[APPLIED]) == (status, "handling=strict")
    assert HEADER not in fine.headers


def test_nothing_was_done_that_was_refused(service: Serve, session_id: str) -> None:
    ask(service, "POST", f"/{session_id}/messages", {"content": "hi", "metdata": {}}, **STRICT)
    assert service.http.get(f"{service.url}/{session_id}/messages", timeout=10).json()["messages"] == []


@pytest.mark.parametrize("call", [call for call in CALLS if call != "create"])
def test_that_a_session_is_gone_is_said_first(service: Serve, call: str) -> None:
    """The body parses (400), the session exists (404), it is live (410), the body is valid (400)."""
    method, path, body, _ = CALLS[call]
    expired = service.create(timeoutConfig={"timeoutMinutes": 5})["sessionId"]
    service.advance(minutes=6)
    for session_id, status in ((UNKNOWN, 404), (expired, 410)):
        answer = ask(service, method, path.format(id=session_id), {**body, "x": 1}, **STRICT)
        assert (answer.status_code, answer.headers[HEADER]) == (status, "x")
        assert answer.headers[APPLIED] == "handling=strict"
        assert ask(service, method, path.format(id=session_id), [], **STRICT).status_code == 400


def test_an_error_names_them_too(service: Serve, session_id: str) -> None:
    answer = ask(service, "POST", f"/{session_id}/messages", {"contnt": "hi"})
    assert (answer.json()["code"], answer.headers[HEADER]) == ("INVALID_CONTENT", "contnt")
    answer = ask(service, "POST", "", {"agent_id": ECHO, "userId": USER})
    assert (answer.json()["code"], answer.headers[HEADER]) == ("MISSING_FIELDS", "agent_id")


def test_fields_below_timeout_config_are_named_and_those_below_metadata_are_not(service: Serve) -> None:
    config = {"timeoutMinuts": 5, "autoRenew": True}
    answer = ask(service, "POST", "", {**CREATE, "metadata": {"anything": {"x": 1}}, "timeoutConfig": config})
    assert (answer.status_code, answer.headers[HEADER]) == (201, "timeoutConfig.timeoutMinuts")


def test_a_patch_has_no_timeout_config_of_its_own(service: Serve, session_id: str) -> None:
    answer = ask(service, "PATCH", f"/{session_id}/timeout", {"timeoutConfig": {"timeoutMinutes": 10}})
    assert (answer.status_code, answer.headers[HEADER]) == (200, "timeoutConfig")


NAMES = [
    "a\r\nSet-Cookie: x=1",
    "a,b",
    "ключ",
    "\ud800",
    "a b",
    "a.b",
    "%2C",
    "x" * 5000,
    "\0",
    '"',
    "𝄞" * 5000,
]


def test_a_name_without_characters_is_named(service: Serve) -> None:
    assert ask(service, "POST", "", {**CREATE, "": 1}).headers[HEADER] == '""'


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:9]))
def test_a_name_stays_within_its_header(service: Serve, name: str) -> None:
    before = len(service.log())
    for headers in ({}, STRICT):
        answer = ask(service, "POST", "", {**CREATE, name: 1, "last": 1}, **headers)
        assert answer.status_code == (400 if headers else 201)
        assert "Set-Cookie" not in answer.headers
        first, second = answer.headers[HEADER].split(", ")
        assert second == "last"
        decoded = unquote(first, errors="surrogatepass")
        assert name.startswith(decoded)
        assert len(name) > 100 or decoded == name
        assert len(answer.headers[HEADER]) <= 1024
    assert "Traceback" not in service.log()[before:]


def test_there_are_ten_names_at_most(service: Serve) -> None:
    answer = ask(service, "POST", "", {**CREATE, **{"ы" * 200 + str(n): n for n in range(500)}})
    names = answer.headers[HEADER].split(", ")
    assert len(names) == 10
    assert len(answer.headers[HEADER]) <= 1024


def test_the_query_is_not_looked_at(service: Serve, session_id: str) -> None:
    """Caches and proxies add parameters of their own."""
    answer = ask(service, "POST", f"/{session_id}/messages?_=1", {"content": "hi"}, **STRICT)
    assert answer.status_code == 201
    answer = service.http.get(f"{service.url}?limt=1&_=1", headers=STRICT, timeout=10)
    assert answer.status_code == 200
    assert not {HEADER, APPLIED} & set(answer.headers)


@pytest.mark.parametrize(
    ("prefer", "strict"),
    [
        ("handling=strict", True),
        ("Handling=STRICT", True),
        ('handling="strict"', True),
        (r'handling="st\rict"', True),
        ("handling = strict", True),
        ("respond-async, handling=strict, wait=10", True),
        ("return=minimal;foo, handling=strict; bar=1", True),
        (' foo="a, handling=lenient" , handling=strict', True),
        ("handling=strict, handling=lenient", True),
        ("handling=lenient, handling=strict", False),
        ('foo="a, handling=strict"', False),
        ("foo; handling=strict", False),
        ("handling", False),
        ("handling=", False),
        ("handling=stricter", False),
        ("strict", False),
        ("", False),
        (",,;=", False),
        ('"' * 1001, False),
    ],
)
def test_preferences_are_read_as_their_rfc_has_them(prefer: str, strict: bool) -> None:
    assert is_strict(prefer) is strict
