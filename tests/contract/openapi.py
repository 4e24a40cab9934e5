"""Whether an answer of REST is one that the OpenAPI document tells of."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

from jsonschema_rs import Draft202012Validator

from eliza.sessions.errors import TABLE
from rest_facade.routes.openapi import document

DOCUMENT: Final = document()

METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
"""The keys of a path that are its operations."""

TOLD_HEADERS: Final = (
    *("etag", "idempotency-replayed", "retry-after", "allow"),
    *("eliza-unknown-fields", "preference-applied"),
    *("www-authenticate", "ratelimit", "ratelimit-policy"),
)
"""The headers of ours: an answer that has one is documented with it."""

_EVENTS: Final = {"user_message": "MessageResponse", "done": "AgentResponse", "error": "Error"}
"""What the data of an event is, where a POST answers with a stream.

OpenAPI 3.1 has no words for that but the description's.
"""

STREAM: Final = "#stream"
"""Ends the documented path of an operation that answers with a stream, where another one of that path and
method answers with JSON.
"""

_PATHS: Final = {
    path: re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))) for path in DOCUMENT["paths"]
}


def operation(method: str, path: str, streams: bool) -> dict[str, Any] | None:
    """The documented operation of a request; None where there is none. A path without parameters wins over
    one with.

    `streams`: it was answered with a stream of events.
    """
    path = path.rstrip("/")
    found = [template for template, pattern in _PATHS.items() if pattern.fullmatch(path)]
    if not found:
        return None
    template = min(found, key=lambda template: template.count("{"))
    item = DOCUMENT["paths"][template]
    if streams and method == "POST":
        item = DOCUMENT["paths"].get(template + STREAM, item)
    return item.get(
        method.lower(), {"responses": {"405": {"$ref": "#/components/responses/MethodNotAllowed"}}}
    )


def problems(
    method: str, url: str, status: int, headers: Mapping[str, str], content: bytes | None
) -> list[str]:
    """How an answer differs from what the document says; `content` None: it is a stream that was not read to
    its end.
    """
    return list(
        _problems(method, url, status, {name.lower(): value for name, value in headers.items()}, content)
    )


def _problems(
    method: str, url: str, status: int, headers: dict[str, str], content: bytes | None
) -> Iterator[str]:
    if method == "OPTIONS":
        if (status, content) != (204, b"") and status != 404:
            yield f"OPTIONS is answered with {status} {content!r}"
        return
    kind = headers.get("content-type", "").partition(";")[0]
    found = operation("GET" if method == "HEAD" else method, urlsplit(url).path, kind == "text/event-stream")
    responses = found["responses"] if found else {"404": {"$ref": "#/components/responses/NotFound"}}
    if str(status) not in responses:
        yield f"{method} {url}: {status} is not documented: {content!r}"
        return
    response = resolved(responses[str(status)])
    told = {name.lower(): resolved(header) for name, header in response.get("headers", {}).items()}
    for name, header in told.items():
        if name in headers:
            yield from _schema_problems(header["schema"], headers[name], f"header {name}")
        elif header.get("required"):
            yield f"{method} {url}: {status} without the header {name}"
    yield from (
        f"{method} {url}: {status} with the header {name}"
        for name in TOLD_HEADERS
        if name in headers and name not in told
    )
    if kind not in response["content"]:
        yield f"{method} {url}: {status} has the content type {kind!r}"
    elif kind == "text/event-stream":
        yield from _event_problems((content or b"").decode()) if method == "POST" else ()
    elif kind == "application/jsonl":
        for line in (content or b"").splitlines():
            json.loads(line)
    elif method != "HEAD":
        body = json.loads(content or b"")
        yield from _schema_problems(response["content"][kind]["schema"], body, f"{method} {url}: {status}")
        if status >= 400 and TABLE[body["code"]].http_status != status:
            yield f"{method} {url}: {body['code']} comes with {status}"


def _event_problems(stream: str) -> Iterator[str]:
    for block in stream.split("\n\n"):
        # Not `splitlines`: a text may have other separators of lines in it.
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if schema := _EVENTS.get(fields.get("event", "")):
            yield from _schema_problems(
                {"$ref": f"#/components/schemas/{schema}"}, json.loads(fields["data"]), fields["event"]
            )


def _schema_problems(schema: dict[str, Any], value: Any, where: str) -> Iterator[str]:
    for error in _validator(json.dumps(schema)).iter_errors(value):
        yield f"{where}: {'.'.join(map(str, error.instance_path))}: {error.message[:300]}"


@cache
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator({"components": DOCUMENT["components"], "allOf": [json.loads(schema)]})


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """What a node of the document is, or refers to."""
    if "$ref" not in node:
        return node
    target: Any = DOCUMENT
    for part in node["$ref"].removeprefix("#/").split("/"):
        target = target[part]
    return target
