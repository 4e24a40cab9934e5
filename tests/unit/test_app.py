"""What the app leaves out of Flask: nobody misses it.

Each override is held against Flask's own, with the requests that it concerns.
"""

import inspect
import io
from collections.abc import Iterable
from functools import partial
from typing import Any
from unittest.mock import Mock

import flask
import grpc
import pytest
from werkzeug.routing import Rule

from rest_facade.routes import app as app_module
from rest_facade.routes.app import App, create_app
from rest_facade.shapes import json_body
from rest_facade.shapes.credentials import METADATA
from rest_facade.shapes.errors import ApiError
from rest_facade.shapes.response import Response
from rest_facade.upstream.backend import Backend, dial

OVERRIDES = (
    *("create_url_adapter", "request_context", "request_class", "session_interface"),
    "url_rule_class",
    *("full_dispatch_request", "ensure_sync", "do_teardown_request", "do_teardown_appcontext"),
)
"""What is left out of Flask; its other overrides add something."""


class Away(Backend):
    """The way to a server that is away."""

    sessions = Mock()

    def call(self, *_: Any) -> Any:
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())


BACKEND = Away(partial(dial, "127.0.0.1:1"), 1, 1)
SESSION = "/api/messaging/sessions/11111111-1111-4111-8111-111111111111"
REQUESTS: list[tuple[str, str, dict[str, str], bytes]] = [
    ("GET", "/constant/x", {}, b""),
    ("HEAD", "/constant/x", {}, b""),
    ("GET", "//constant//x/", {}, b""),
    ("GET", "/constant/a%2Fb", {}, b""),
    ("GET", "/constant/é?é=ü&x", {"HTTP_HOST": "api.example.com:8443"}, b""),
    ("GET", "/constant/x", {"HTTP_HOST": "b\xe4d host"}, b""),
    ("GET", "/constant/x", {"HTTP_HOST": ""}, b""),
    ("POST", "/constant/x", {}, b"{}"),
    ("GET", "/nothing", {}, b""),
    ("GET", "", {}, b""),
    ("GET", "/fails", {}, b""),
    ("GET", "/breaks", {}, b""),
    ("GET", "/reads", {}, b""),
    ("OPTIONS", SESSION, {}, b""),
    ("OPTIONS", "/nothing", {}, b""),
    ("DELETE", f"{SESSION}/messages", {}, b""),
    ("POST", "/api/messaging/sessions", {"CONTENT_TYPE": "text/plain"}, b"x"),
    (
        "POST",
        "/api/messaging/sessions",
        {"CONTENT_TYPE": "application/json", "HTTP_PREFER": "handling=strict"},
        b'{"a": 1}',
    ),
    ("GET", "/openapi.json", {}, b""),
]


def make(monkeypatch: pytest.MonkeyPatch, *stock: str) -> flask.Flask:
    """The app with some views of the test; `stock` are the overrides in whose place is Flask's own."""

    class Mixed(App):
        pass

    for name in stock:
        setattr(Mixed, name, inspect.getattr_static(flask.Flask, name))
    if "full_dispatch_request" in stock:
        # So it worked before.
        Mixed.make_response = lambda _, response: response  # type: ignore[assignment]
        Mixed.process_response = lambda _, response: json_body.name_unknown(flask.request.environ, response)  # type: ignore[method-assign]
    with monkeypatch.context() as patched:
        patched.setattr(app_module, "App", Mixed)
        made = create_app(BACKEND)

    def constant(part: str) -> Response:
        return json_body.respond(
            {"part": part, "args": dict(flask.request.args), "method": flask.request.method}
        )

    def fails() -> Response:
        raise ApiError("INVALID_FIELD", "Invalid x: y", field="x", value="", reason="y")

    def breaks() -> Response:
        raise ZeroDivisionError

    def reads() -> Response:
        # A key that is not there is a 400 in Flask.
        return json_body.respond(flask.request.args["x"])

    made.add_url_rule("/constant/<part>", view_func=constant, methods=["GET"])
    for view in (fails, breaks, reads):
        made.add_url_rule(f"/{view.__name__}", view_func=view, methods=["GET"])
    return made


def ask(app: flask.Flask, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[Any, ...]:
    path, _, query = path.partition("?")
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path.encode().decode("latin-1"),
        "QUERY_STRING": query.encode().decode("latin-1"),
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "3000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost:3000",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,
        "wsgi.url_scheme": "http",
        "wsgi.errors": io.StringIO(),
        METADATA: (),
        **headers,
    }
    seen: list[Any] = []

    def start_response(status: str, told: list[tuple[str, str]], _exc_info: Any = None) -> Any:
        seen.extend((status, sorted(told)))

    chunks: Iterable[bytes] = app(environ, start_response)
    content = b"".join(chunks)
    if b"errorId" in content:
        # No two have the same.
        content = content[: content.index(b"errorId")]
    return (*seen, content)


@pytest.mark.parametrize("override", OVERRIDES)
def test_flask_answers_the_same_with_its_own_way(monkeypatch: pytest.MonkeyPatch, override: str) -> None:
    # Our context alone tells the adapter which path it is asked for.
    together = ("create_url_adapter",) if override == "request_context" else ()
    ours, stock = make(monkeypatch), make(monkeypatch, override, *together)
    for request in REQUESTS:
        assert ask(ours, *request) == ask(stock, *request), request


@pytest.mark.parametrize("override", OVERRIDES)
def test_flask_still_has_what_is_overridden(override: str) -> None:
    own = inspect.getattr_static(flask.Flask, override)
    assert own is not inspect.getattr_static(App, override)
    if inspect.isfunction(own):
        assert list(inspect.signature(own).parameters) == list(
            inspect.signature(getattr(App, override)).parameters
        )


def test_no_rule_has_what_builds_urls() -> None:
    """Were werkzeug's name for it another one, each start would take longer again."""
    app = create_app(BACKEND)
    assert "_compile_builder" in vars(Rule)
    for rule in app.url_map.iter_rules():
        with pytest.raises(NotImplementedError, match=r"no URL is built of /"):
            rule.build({})
    with app.test_request_context("/"), pytest.raises(NotImplementedError):
        flask.url_for(next(app.url_map.iter_rules()).endpoint)


def test_nobody_uses_what_does_not_work() -> None:
    app = create_app(BACKEND)
    registered = (
        *(
            app.before_request_funcs,
            app.after_request_funcs,
            app.teardown_request_funcs,
            app.teardown_appcontext_funcs,
        ),
        *(app.url_value_preprocessors, app.blueprints),
    )
    assert not any(registered)
    signals = (
        flask.request_started,
        flask.request_finished,
        flask.request_tearing_down,
        flask.appcontext_tearing_down,
        flask.got_request_exception,
    )
    assert not any(signal.receivers for signal in signals)
    assert not any(inspect.iscoroutinefunction(view) for view in app.view_functions.values())
    assert (app.config["SERVER_NAME"], app.config["TRUSTED_HOSTS"], app.url_map.host_matching) == (
        None,
        None,
        False,
    )


def test_the_requests_of_these_tests_meet_views_errors_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    app = make(monkeypatch)
    statuses = {ask(app, *request)[0].split()[0] for request in REQUESTS}
    assert statuses >= {"200", "204", "400", "404", "405", "415", "500"}
    with app.test_request_context("/constant/x"):
        assert flask.session.get("anything") is None
