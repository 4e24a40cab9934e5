"""Carries out a step through REST."""

import json
from typing import Any, Final

import requests

from tests.contract import openapi
from tests.contract.answers import Failure, Success, check_headers, read_error
from tests.contract.contract import ENDPOINTS, PREFIX
from tests.contract.drivers import PATIENCE_SECONDS
from tests.contract.grpc_driver import GrpcDriver, read_records
from tests.contract.steps import Text
from tests.support.service import Serve

ROUTES: Final = {
    "create": ("POST", "/sessions"),
    "get": ("GET", "/sessions/{sessionId}"),
    "send": ("POST", "/sessions/{sessionId}/messages"),
    "messages": ("GET", "/sessions/{sessionId}/messages"),
    "renew": ("POST", "/sessions/{sessionId}/renew"),
    "update_timeout": ("PATCH", "/sessions/{sessionId}/timeout"),
    "heartbeat": ("POST", "/sessions/{sessionId}/heartbeat"),
    "delete": ("DELETE", "/sessions/{sessionId}"),
    "list": ("GET", "/sessions"),
    "health": ("GET", "/sessions/health"),
}
"""The endpoint of each operation, as the contract's table writes it."""

_CLOCK_ROUTES = {"clock": "GET", "set_clock": "POST", "advance": "POST"}
_SUCCESS = {(endpoint.method, endpoint.path): endpoint.success for endpoint in ENDPOINTS}


class RestDriver:
    """Makes requests to the documented paths. What REST does not have, the agents, goes through gRPC."""

    def __init__(self, service: Serve) -> None:
        self._service = service
        self._grpc = GrpcDriver(service)

    def perform(self, call: str, session: str, given: Any) -> Success | Failure:
        if call == "http":
            response = self._http(
                given["method"], given["path"], data=given["data"].encode(), headers=given["headers"]
            )
            return read_error(response.status_code, response.headers, response.content)
        if call == "converse":
            return self.perform("send", session, {**given, "transport": "http"})
        if call == "stream":
            return self._events(session, {**given, "transport": "sse"})
        if call in ROUTES:
            method, path = ROUTES[call]
            return self._request(
                method, PREFIX + path.replace("{sessionId}", session), given, _SUCCESS[method, path]
            )
        if call == "token":
            return self._request("POST", f"{PREFIX}/sessions/{session}/tokens", given, 201)
        if call == "transcript":
            answer = self._http("GET", f"{PREFIX}/sessions/{session}/transcript")
            if answer.status_code >= 400:
                return read_error(answer.status_code, answer.headers, answer.content)
            return Success(read_records(answer.content), {})
        if call in _CLOCK_ROUTES:
            return self._request(_CLOCK_ROUTES[call], "/test/clock", given, 200)
        return self._grpc.perform(call, session, given)

    def _http(self, method: str, path: str, **sent: Any) -> requests.Response:
        """Makes a request, whose answer is one that the OpenAPI document tells of."""
        response = self._service.http.request(
            method, f"http://{self._service.rest}{path}", timeout=PATIENCE_SECONDS, **sent
        )
        problems = openapi.problems(
            method, response.url, response.status_code, response.headers, response.content
        )
        assert not problems, problems
        return response

    def _events(self, session: str, given: Any) -> Success | Failure:
        """Reads a stream of events to its end."""
        response = self._http("POST", f"{PREFIX}/sessions/{session}/messages", json=given)
        if response.status_code >= 400:
            return read_error(response.status_code, response.headers, response.content)
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        check_headers(response.headers)
        events = []
        for block in response.content.decode().split("\n\n"):
            fields = dict(
                line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":")
            )
            if "event" in fields:
                events.append({"event": fields["event"], "data": json.loads(fields["data"])})
        return Success({"events": events}, {})

    def _request(self, method: str, path: str, given: Any, success: int) -> Success | Failure:
        sent: dict[str, Any] = {}
        if isinstance(given, Text):
            sent = {"data": given.text.encode(), "headers": {"Content-Type": "application/json"}}
        elif given:
            sent = {"params" if method == "GET" else "json": given}
        response = self._http(method, path, **sent)
        if response.status_code >= 400:
            return read_error(response.status_code, response.headers, response.content)
        assert response.status_code == success, response.text
        assert response.headers["Content-Type"] == "application/json"
        check_headers(response.headers)
        return Success(json.loads(response.content), {})
