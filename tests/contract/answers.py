"""What every answer of REST keeps, good or bad."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eliza.sessions.errors import TABLE
from tests.contract.contract import STATUSES
from tests.contract.shapes import details_shape, differences

_INSIDE = ("Traceback", 'File "', ".py", "/work/", "sqlite3", "grpc._", "werkzeug")
_PROTO_NAMES = (
    "agent_id",
    "user_id",
    "session_id",
    "timeout_minutes",
    "timeout_config",
    "page_size",
    "page_token",
    "advance_ms",
)


@dataclass(frozen=True)
class Success:
    """An answer; `extras` are what gRPC says beyond the documented body."""

    body: Any
    extras: Mapping[str, Any]


@dataclass(frozen=True)
class Failure:
    """An error, its details as REST types them."""

    code: str
    error: str
    details: Mapping[str, Any]


def read_error(status: int, headers: Mapping[str, str], content: bytes) -> Failure:
    """The error in an answer of REST, which keeps to the contract in every respect."""
    headers = {name.lower(): value for name, value in headers.items()}
    assert headers["content-type"] == "application/json", headers
    check_headers(headers)
    body = json.loads(content)
    assert body.keys() - {"status"} == {"error", "details", "code"}, body
    code = body["code"]
    assert code in TABLE, body
    assert status == STATUSES[code] == TABLE[code].http_status, (status, body)
    problems = [*differences(details_shape(code), body["details"], "details")]
    assert not problems, (problems, body)
    assert isinstance(body["error"], str), body
    assert body["error"], body
    assert ("retry-after" in headers) == (status in (429, 503)), headers
    assert ("allow" in headers) == (status == 405), headers
    _keeps_its_words(code, body["error"])
    assert not [word for word in (*_INSIDE, *_PROTO_NAMES) if word.encode() in content], content
    return Failure(code, body["error"], body["details"])


def check_headers(headers: Mapping[str, str]) -> None:
    """Every answer says that it is no script, and that it is for one origin."""
    headers = {name.lower(): value for name, value in headers.items()}
    assert headers.get("x-content-type-options") == "nosniff", headers
    assert headers.get("vary") == "Origin", headers


def _keeps_its_words(code: str, text: str) -> None:
    """Contract: "The message of a content error contains the word `content`, that of a metadata error
    `metadata`".
    """
    if code == "INVALID_CONTENT":
        assert "content" in text
    if code == "INVALID_METADATA":
        assert "metadata" in text
