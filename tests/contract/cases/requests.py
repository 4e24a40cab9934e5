"""Requests over HTTP, whatever they ask for."""

from tests.contract.cases.common import JSON_TEXT, PATHS
from tests.contract.steps import Fails, case, create, http
from tests.support.service import USER

_SESSIONS = "/api/messaging/sessions"
_JSON = "application/json"

CASES = [
    *(
        case(
            f"there is no path {path}",
            http("GET", path, fails=Fails("PATH_NOT_FOUND", {"path": shown})),
            rest_only=PATHS,
        )
        for path, shown in (
            ("/nothing", "/nothing"),
            ("/api", "/api"),
            ("/api/messaging", "/api/messaging"),
            ("/sessions", "/sessions"),
            (f"{_SESSIONS}/health/x", f"{_SESSIONS}/health/x"),
            (f"{_SESSIONS}/{USER}/colour", f"{_SESSIONS}/{USER}/colour"),
            ("/api/Messaging/sessions", "/api/Messaging/sessions"),
            ("/api/messaging/sessions2", "/api/messaging/sessions2"),
        )
    ),
    *(
        case(
            f"{path} does not have {method}",
            http(method, path, fails=Fails("METHOD_NOT_ALLOWED", {"method": method, "allowed": allowed})),
            rest_only=PATHS,
        )
        for path, method, allowed in (
            (_SESSIONS, "DELETE", ["GET", "HEAD", "OPTIONS", "POST"]),
            (_SESSIONS, "PUT", ["GET", "HEAD", "OPTIONS", "POST"]),
            (f"{_SESSIONS}/health", "POST", ["GET", "HEAD", "OPTIONS"]),
            (f"{_SESSIONS}/health", "DELETE", ["GET", "HEAD", "OPTIONS"]),
            (f"{_SESSIONS}/{USER}", "POST", ["DELETE", "GET", "HEAD", "OPTIONS"]),
            (f"{_SESSIONS}/{USER}", "PATCH", ["DELETE", "GET", "HEAD", "OPTIONS"]),
            (f"{_SESSIONS}/{USER}/messages", "DELETE", ["GET", "HEAD", "OPTIONS", "POST"]),
            (f"{_SESSIONS}/{USER}/renew", "GET", ["OPTIONS", "POST"]),
            (f"{_SESSIONS}/{USER}/timeout", "POST", ["OPTIONS", "PATCH"]),
            (f"{_SESSIONS}/{USER}/heartbeat", "PUT", ["OPTIONS", "POST"]),
        )
    ),
    *(
        case(
            f"a body cannot be {kind or 'without a type'}",
            create(),
            http(
                "POST",
                f"{_SESSIONS}",
                data='{"agentId": 1}',
                fails=Fails("UNSUPPORTED_MEDIA_TYPE", {"contentType": kind}),
                Content_Type=kind,
            ),
            rest_only="gRPC has one encoding",
        )
        for kind in (
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/json; charset=latin-1",
            "application/jsonp",
            "",
        )
    ),
    *(
        case(
            f"a body may be {kind}",
            http("POST", _SESSIONS, data="{}", fails=Fails("MISSING_FIELDS"), Content_Type=kind),
            rest_only="gRPC has one encoding",
        )
        for kind in (
            _JSON,
            "application/json; charset=utf-8",
            'Application/JSON; charset="UTF-8"',
            "application/problem+json",
            "application/json;x=y",
        )
    ),
    *(
        case(
            f"a body cannot be {body!r}",
            http("POST", _SESSIONS, data=body, fails=Fails("INVALID_REQUEST"), Content_Type=_JSON),
            rest_only=JSON_TEXT,
        )
        for body in ("{", "[]", '"text"', "5", "null", "true", "{'a': 1}", "{} {}", " ", "NaN")
    ),
    case(
        "a body has room for 2 MiB",
        http(
            "POST",
            _SESSIONS,
            data='{"x":"' + "x" * (2 * 1024 * 1024 - 8) + '"}',
            fails=Fails("MISSING_FIELDS"),
            Content_Type=_JSON,
        ),
        http(
            "POST",
            _SESSIONS,
            data='{"x":"' + "x" * (2 * 1024 * 1024 - 7) + '"}',
            fails=Fails("REQUEST_TOO_LARGE", {"maxBytes": 2 * 1024 * 1024}),
            Content_Type=_JSON,
        ),
        rest_only="gRPC has a limit of its own",
    ),
]
