"""The OpenAPI document: valid, and in step with the routes, the table of errors and the bounds of the code.

That answers are those it tells of is checked with every answer of the wire cases (drivers.py), and by
tests/campaigns/bad_input.py.
"""

import re
import time
import tomllib
from collections.abc import Iterator, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from jsonschema_rs import Draft202012Validator, meta

from eliza.sessions import limits, times
from eliza.sessions.errors import TABLE
from rest_facade.routes.agents import MAX_AGENTS
from rest_facade.routes.app import create_app
from rest_facade.routes.openapi import PATH
from rest_facade.routes.pages import WHOLE_BYTES
from rest_facade.upstream.backend import Backend, dial
from server.domain.timeouts import MAX_WARNING_THRESHOLD_MINUTES, MIN_WARNING_THRESHOLD_MINUTES
from server.settings import Settings
from tests.contract import openapi
from tests.contract.answers import check_headers
from tests.contract.openapi import DOCUMENT, METHODS
from tests.support.service import Serve

GRPC_ONLY = {"AGENT_ALREADY_EXISTS", "DELIVERY_NOT_FOUND", "DELIVERY_ALREADY_ANSWERED", "DELIVERY_NOT_LEASED"}
"""Reasons of calls that REST does not have."""

MANY = {"minimum", "maximum", "minLength", "maxLength", "maxItems", "default", "pattern"}
"""Keywords that hold a bound."""


def _policy() -> Any:
    return Settings.model_construct().timeout_policy


def _bounds() -> dict[str, Any]:
    """What the code says, by where the document repeats it."""
    policy = _policy()
    timeout = "components.schemas.TimeoutConfigRequest.properties"
    lists, history = (
        "paths./api/messaging/sessions.get.parameters.0",
        "paths./api/messaging/sessions/{sessionId}/messages.get.parameters.0",
    )
    return {
        f"{lists}.schema.maximum": limits.MAX_SESSIONS,
        "components.schemas.SessionList.properties.sessions.maxItems": limits.MAX_SESSIONS,
        f"{history}.schema.maximum": limits.MAX_MESSAGES,
        f"{history}.schema.default": limits.DEFAULT_MESSAGES,
        "components.schemas.MessagesPage.properties.messages.maxItems": limits.MAX_MESSAGES,
        "paths./api/messaging/sessions/{sessionId}/events.get.parameters.0.schema.maximum": 2**63 - 1,
        "components.parameters.IdempotencyKey.schema.maxLength": limits.MAX_REQUEST_ID,
        "components.schemas.Cursor.anyOf.0.minimum": times.FIRST_MS,
        "components.schemas.Cursor.anyOf.0.maximum": times.LAST_MS,
        f"{timeout}.timeoutMinutes.minimum": policy.min_timeout_minutes,
        f"{timeout}.timeoutMinutes.maximum": policy.max_timeout_minutes,
        f"{timeout}.maxDurationMinutes.minimum": policy.min_timeout_minutes,
        f"{timeout}.maxDurationMinutes.maximum": policy.max_duration_minutes,
        f"{timeout}.warningThresholdMinutes.minimum": MIN_WARNING_THRESHOLD_MINUTES,
        f"{timeout}.warningThresholdMinutes.maximum": MAX_WARNING_THRESHOLD_MINUTES,
        "components.schemas.TimeoutConfig.properties.warningThresholdMinutes.minimum": MIN_WARNING_THRESHOLD_MINUTES,
        "components.schemas.SendMessageRequest.properties.content.maxLength": limits.MAX_CONTENT_CODE_POINTS,
        "components.schemas.StreamMessageRequest.properties.content.maxLength": limits.MAX_CONTENT_CODE_POINTS,
        # The greatest whole number that every JSON reader reads exactly.
        "paths./test/clock.post.requestBody.content.application/json.schema.properties.advanceMs.maximum": 2
        ** 53
        - 1,
    }


def _texts() -> dict[str, str]:
    """What descriptions have to say, by where they are."""
    attachments = (
        f"At most {limits.MAX_ATTACHMENTS_BYTES // 2**20} MiB as compact JSON, "
        f"{limits.MAX_DEPTH} levels deep and {limits.MAX_ATTACHMENT_VALUES:,} values."
    )
    large = (
        f"Above {WHOLE_BYTES // 2**20} MiB it is sent as it arrives, without Content-Length; "
        "one that ends without its last chunk is not whole."
    )
    return {
        "paths./api/messaging/sessions.get.responses.200.description": "A page of the active sessions. "
        f"{large}",
        "paths./api/messaging/sessions/{sessionId}/messages.get.responses.200.description": "A page of the history. "
        f"{large}",
        "components.schemas.Metadata.description": (
            f"At most {limits.MAX_METADATA_BYTES:,} bytes as compact JSON, and {limits.MAX_DEPTH} levels "
            "deep."
        ),
        "components.schemas.SendMessageRequest.properties.attachments.description": attachments,
        "components.schemas.StreamMessageRequest.properties.attachments.description": attachments,
        "paths./api/agents.get.responses.200.description": f"The agents, at most {MAX_AGENTS:,}.",
        "components.responses.TooLarge.description": "The body is larger than "
        f"{limits.MAX_BODY_BYTES // 2**20} MiB.",
        "paths./api/messaging/sessions.get.parameters.0.description": (
            f"At most this many; without it, {limits.MAX_SESSIONS}. Out of range it is clamped, not a "
            "number counts as absent."
        ),
        "paths./api/messaging/sessions/{sessionId}/messages.get.parameters.0.description": (
            f"At most this many; out of range it is clamped, not a number means {limits.DEFAULT_MESSAGES}."
        ),
        "paths./test/clock.post.requestBody.content.application/json.schema.description": (
            f"One of the two. The clock goes from 1970 to {time.gmtime(times.LATEST_MS // 1000).tm_year}."
        ),
    }


def _leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from _leaves(value, (*path, str(key)))
    if not isinstance(node, Mapping | list):
        yield path, node


LEAVES = {".".join(path): value for path, value in _leaves(DOCUMENT)}


def test_it_is_valid() -> None:
    # Its import takes a second, in each process that collects tests.
    import schemathesis

    schemathesis.openapi.from_dict(DOCUMENT).validate()
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert meta.is_valid(schema), name
        Draft202012Validator({"components": DOCUMENT["components"], **schema})


def test_everything_it_refers_to_is_there_and_nothing_is_there_in_vain() -> None:
    referred = {value for path, value in LEAVES.items() if path.endswith("$ref")}
    there = {
        f"#/components/{kind}/{name}"
        for kind, items in DOCUMENT["components"].items()
        for name in items
        if kind != "securitySchemes"
    }
    # What no operation can list: the answer to a method that is no operation.
    assert referred == there - {"#/components/responses/MethodNotAllowed"}


def test_its_version_and_licence_are_those_of_the_package() -> None:
    # As it was installed: after a change of pyproject.toml, install anew.
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert DOCUMENT["info"]["version"] == project["version"]
    assert DOCUMENT["info"]["license"] == {"name": project["license"], "identifier": project["license"]}
    installed = metadata.metadata("eliza-sessions")
    assert (installed["License-Expression"], installed.get_all("License-File")) == (
        project["license"],
        ["LICENSE"],
    )


def test_its_operations_are_the_routes() -> None:
    app = create_app(Backend(partial(dial, "127.0.0.1:1"), 1, 1))
    routes = {
        (re.sub(r"<\w+:session_id>", "{sessionId}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    operations = {
        (path, method): item[method]
        for path, item in DOCUMENT["paths"].items()
        for method in METHODS
        if method in item
    }
    assert {(path.removesuffix(openapi.STREAM), method) for path, method in operations} == routes
    names = [operation["operationId"] for operation in operations.values()]
    assert len(set(names)) == len(names)


def test_no_answer_is_json_or_a_stream_as_the_request_asks() -> None:
    """Generators take the one content type and drop the other."""
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS:
            told = {
                kind
                for name, one in item.get(method, {"responses": {}})["responses"].items()
                if int(name) < 400
                for kind in openapi.resolved(one)["content"]
            }
            assert len(told) <= 1, (path, method)


def _schemas(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of the document with a type, and where it is."""
    if isinstance(node, Mapping):
        # A property may be called `type`: that one's value is a schema.
        if isinstance(node.get("type"), str | list):
            yield path, dict(node)
        for key, value in node.items():
            yield from _schemas(value, f"{path}.{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _schemas(value, f"{path}.{number}")


def test_arrays_say_what_is_in_them_and_free_objects_that_they_are_free() -> None:
    """Generators refuse an array without `items`, and make an empty class of an object that says nothing."""
    schemas = dict(_schemas(DOCUMENT))
    assert len(schemas) > 100
    assert [
        path for path, schema in schemas.items() if "array" in schema["type"] and "items" not in schema
    ] == []
    free = [
        path for path, schema in schemas.items() if schema["type"] == "object" and "properties" not in schema
    ]
    assert [path for path in free if schemas[path].get("additionalProperties") is not True] == []


def test_its_error_codes_are_those_of_the_table_that_rest_can_give() -> None:
    assert set(DOCUMENT["components"]["schemas"]["ErrorCode"]["enum"]) == TABLE.keys() - GRPC_ONLY


def test_every_status_of_an_error_is_one_of_the_table_and_has_the_body_of_an_error() -> None:
    statuses = {str(row.http_status) for reason, row in TABLE.items() if reason not in GRPC_ONLY}
    told = set()
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS:
            for status, response in item.get(method, {"responses": {}})["responses"].items():
                if int(status) >= 400:
                    told.add(status)
                    schema = openapi.resolved(response)["content"]["application/json"]["schema"]
                    # Health says what it can besides.
                    wanted = "HealthError" if path.endswith("/health") and status == "503" else "Error"
                    assert schema == {"$ref": f"#/components/schemas/{wanted}"}, (path, method, status)
    # It belongs to no operation.
    assert told == statuses - {"405"}


def test_every_operation_but_that_of_the_document_may_want_a_credential() -> None:
    schemes = DOCUMENT["components"]["securitySchemes"].keys()
    for path, item in DOCUMENT["paths"].items():
        for method in item.keys() & set(METHODS):
            security = item[method].get("security", DOCUMENT["security"])
            # Without one: where the service is open.
            assert security == [] if path == PATH else {} in security, path
            assert {name for one in security for name in one} <= schemes
            wanted = item[method]["responses"].keys() & {"401", "403", "429"}
            assert wanted == ({"403"} if path == PATH else {"401", "403", "429"}), path
            takes_token = any("accessToken" in one for one in security)
            assert takes_token == (path.endswith("/events") and method == "get"), path


@pytest.mark.parametrize("path", _bounds())
def test_a_bound_is_that_of_the_code(path: str) -> None:
    assert LEAVES[path] == _bounds()[path]


@pytest.mark.parametrize("path", _texts())
def test_a_text_says_what_the_code_does(path: str) -> None:
    assert LEAVES[path] == _texts()[path]


def test_no_bound_is_left_out() -> None:
    bounds = {
        path
        for path, value in LEAVES.items()
        if path.rpartition(".")[2] in MANY and value not in (0, 1) and isinstance(value, int | float)
    }
    assert bounds == {path for path in _bounds() if LEAVES[path] != 1}
    told = {
        path
        for path, value in LEAVES.items()
        if path.endswith("description") and re.search(r"\d\d|MiB", value)
    }
    # Whatever else has digits is about a status or a time.
    assert {path for path in told if not re.search(r"\(40[45]\)|ISO 8601", LEAVES[path])} == _texts().keys()


def test_the_key_of_a_request_is_as_long_as_it_may_be() -> None:
    assert (
        f"{{1,{limits.MAX_REQUEST_ID}}}"
        in DOCUMENT["components"]["parameters"]["IdempotencyKey"]["schema"]["pattern"]
    )


def test_it_is_served(rest_service: Serve) -> None:
    answer = rest_service.http.get(f"http://{rest_service.rest}{PATH}", timeout=10)
    assert (answer.status_code, answer.json()) == (200, DOCUMENT)
    assert answer.headers["Content-Type"] == "application/json"
    check_headers(answer.headers)


@pytest.mark.parametrize(
    "base", ["http://127.0.0.1:3000", "https://example.org/chat", "https://example.org/a/b"]
)
def test_its_server_is_where_it_was_read_also_behind_a_sub_path(base: str) -> None:
    (server,) = DOCUMENT["servers"]
    # As tools do it: relative to the document's own address, without a slash at its end.
    assert urljoin(f"{base}{PATH}", server["url"]).rstrip("/") == base


ANSWER = {"Content-Type": "application/json"}
HEALTHY = (
    b'{"status":"healthy","activeSessions":0,"timestamp":"2026-01-31T09:05:00.000Z",'
    b'"expiringSoon":0,"invalidSessions":0,"uptime":1.5,"version":"0"}'
)


@pytest.mark.parametrize(
    ("method", "status", "headers", "content"),
    [
        pytest.param("GET", 418, ANSWER, b"{}", id="a status that is not documented"),
        pytest.param("GET", 200, {"Content-Type": "text/html"}, HEALTHY, id="another content type"),
        pytest.param(
            "GET", 200, ANSWER, HEALTHY.replace(b"{", b'{"extra":1,', 1), id="a field that is not documented"
        ),
        pytest.param(
            "GET",
            200,
            ANSWER,
            HEALTHY.replace(b'"uptime":1.5', b'"uptime":"1.5"'),
            id="a field of another type",
        ),
        pytest.param(
            "GET", 200, ANSWER, HEALTHY.replace(b".000Z", b"Z"), id="a time without its milliseconds"
        ),
        pytest.param("GET", 200, {**ANSWER, "ETag": "x"}, HEALTHY, id="a header that is not documented"),
        pytest.param(
            "GET",
            500,
            ANSWER,
            b'{"error":"","details":{},"code":"UNAVAILABLE"}',
            id="a code of another status",
        ),
        pytest.param(
            "GET",
            500,
            ANSWER,
            b'{"error":"","details":{},"code":"AGENT_ALREADY_EXISTS"}',
            id="a code that REST does not have",
        ),
        pytest.param(
            "POST",
            405,
            ANSWER,
            b'{"error":"","details":{},"code":"METHOD_NOT_ALLOWED"}',
            id="a header missing",
        ),
    ],
)
def test_the_check_of_answers_can_fail(
    method: str, status: int, headers: dict[str, str], content: bytes
) -> None:
    url = "http://localhost/api/messaging/sessions/health"
    assert openapi.problems("GET", url, 200, ANSWER, HEALTHY) == []
    assert openapi.problems(method, url, status, headers, content) != []
