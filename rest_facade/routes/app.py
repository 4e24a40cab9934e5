"""The Flask app: routes, errors, and how it reads paths."""

import re
from collections.abc import Callable, Iterable
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Final

import flask
import grpc.aio
import structlog
from flask.ctx import RequestContext
from flask.sessions import NullSession, SessionInterface
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.routing import MapAdapter

from eliza.sessions.errors import forget_frames, truncate
from rest_facade.front_door.observer import ROUTE
from rest_facade.patches.werkzeug import MatchedRule
from rest_facade.routes import agents, clock, openapi, sessions, sse
from rest_facade.routes.caller import sent_credential
from rest_facade.routes.route_table import RouteTable
from rest_facade.shapes import errors, event_stream, json_body
from rest_facade.shapes.errors import ApiError
from rest_facade.shapes.response import Response
from rest_facade.upstream.backend import Backend

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

ASKED_PATH: Final = "rest_facade.asked_path"
"""The key of an environ under which is the path as it was asked for, with its trailing slashes."""

_log = structlog.get_logger(__name__)


class _NoSession(SessionInterface):
    _nothing: Final = NullSession()

    def open_session(self, app: flask.Flask, request: flask.Request) -> NullSession:
        return self._nothing


class _Request(flask.Request):
    def close(self) -> None:
        """There is nothing to close: no view reads a form's files."""


class _Context(RequestContext):
    """A request, whose route is looked up in the table of its app."""

    app: "App"

    def match_request(self) -> None:
        request = self.request
        if found := self.app.route_table.find(request.method, request.path):
            request.url_rule, request.view_args = found
            return
        try:
            rule, variables = self.app.adapter.match(request.path, request.method, return_rule=True)
            request.url_rule, request.view_args = rule, dict(variables)
        except HTTPException as error:
            request.routing_exception = error


class App(flask.Flask):
    """Flask without what nobody here uses, which is two thirds of its time. A test holds each override
    against Flask's own.

    These silently do not work: signals of requests, `before_request`, `after_request`, `teardown_request`,
    `teardown_appcontext`, `url_value_preprocessor`, sessions, uploaded files, coroutines as views,
    SERVER_NAME, TRUSTED_HOSTS, matching by host or subdomain. `url_for` raises NotImplementedError. Views and
    handlers must answer with our `Response`.
    """

    request_class = _Request
    url_rule_class = MatchedRule
    session_interface = _NoSession()

    @cached_property
    def route_table(self) -> RouteTable:
        """Its routes, once it serves: Flask takes no more of them then."""
        return RouteTable(self.url_map)

    @cached_property
    def adapter(self) -> MapAdapter:
        """The same for all requests: no path has another host, or a redirect."""
        return self.url_map.bind("")

    def wsgi_app(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        # A trailing slash changes nothing, and neither do several; Flask's own tolerance ends at one.
        environ[ASKED_PATH] = environ["PATH_INFO"]
        environ["PATH_INFO"] = environ["PATH_INFO"].rstrip("/") or "/"
        return super().wsgi_app(environ, start_response)

    def make_default_options_response(self) -> Response:  # type: ignore[override] # it is a WSGI app, too
        methods = self.adapter.allowed_methods(flask.request.path)
        return Response(b"", 204, {"Allow": ", ".join(sorted(methods))})

    def request_context(self, environ: "WSGIEnvironment") -> RequestContext:
        return _Context(self, environ)

    def create_url_adapter(self, request: flask.Request | None) -> MapAdapter | None:
        return self.adapter if request else None

    def full_dispatch_request(self) -> Any:
        try:
            response = self.dispatch_request()
        except Exception as error:  # noqa: BLE001 - Flask finds its handler
            response = self.handle_user_exception(error)
        request = flask.globals.request_ctx.request
        answer = json_body.name_unknown(request.environ, response)  # type: ignore[arg-type] # all views and handlers answer with ours
        if sent_credential(request):
            # A cache that others share would give it to whoever asks for the same path.
            answer.headers["Cache-Control"] = "no-store"
        return answer

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func

    def do_teardown_request(self, exc: BaseException | None = None) -> None:
        pass

    def do_teardown_appcontext(self, exc: BaseException | None = None) -> None:
        pass


class RoutesTellingApp(App):
    """The same, which leaves in the environ to which route a request came."""

    def do_teardown_request(self, exc: BaseException | None = None) -> None:
        request = flask.globals.request_ctx.request
        if request.url_rule:
            request.environ[ROUTE] = _template(request.url_rule.rule)


@cache
def _template(rule: str) -> str:
    """A rule as docs/api.md writes it: with `{sessionId}` for `<session:session_id>`."""
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda found: "{" + _camel_case(found[1]) + "}", rule)


def _camel_case(name: str) -> str:
    return re.sub("_(.)", lambda found: found[1].upper(), name)


def create_app(backend: Backend, *, tells_routes: bool = False) -> flask.Flask:
    """The WSGI app over a backend. Its views await their calls, so it runs behind the front door only."""
    app = (RoutesTellingApp if tells_routes else App)("rest_facade", static_folder=None)
    # No path is ever answered with a redirect.
    app.url_map.merge_slashes = False
    sessions.add_routes(app, backend)
    agents.add_routes(app, backend)
    clock.add_routes(app, backend)
    openapi.add_routes(app)
    app.register_error_handler(ApiError, make_handler(log_failure))
    app.register_error_handler(grpc.aio.AioRpcError, make_handler(errors.from_rpc))
    app.register_error_handler(HTTPException, make_handler(from_http))
    app.register_error_handler(Exception, make_handler(errors.unforeseen))
    return app


def make_handler(
    judge: Callable[[Any], ApiError], tell: Callable[[ApiError], Response] | None = None
) -> Callable[[Exception], Response]:
    """The handler that answers an error as it is judged, in JSON or as `tell` says; afterwards nothing of the
    request is left in the error.
    """

    def answer(error: Exception) -> Response:
        try:
            return (tell or _tell)(judge(error))
        finally:
            forget_frames(error)

    return answer


def _tell(error: ApiError) -> Response:
    request = flask.request
    accept = request.headers.get("Accept", "")
    if error.http_status in sse.TEMPORARY and event_stream.is_followed(request.method, request.path, accept):
        headers = {"Content-Type": event_stream.CONTENT_TYPE, **event_stream.HEADERS, "Connection": "close"}
        return Response(event_stream.come_back(), 200, headers)
    has_credential = error.http_status == 401 and sent_credential(request)
    headers = error.headers_for(has_credential=has_credential)
    return json_body.respond(error.body, error.http_status, headers)


def log_failure(error: ApiError) -> ApiError:
    """The error, with a line in the log: the server logs the calls that it refuses, and has not seen this
    request.
    """
    level = "warning" if error.http_status >= 500 else "info"
    getattr(_log, level)(
        "failed request", method=flask.request.method, code=error.row.reason, error=truncate(error.message)
    )
    return error


def from_http(error: HTTPException) -> ApiError:
    """Flask's own refusals in the words of the table, with a line in the log."""
    return log_failure(_from_http(error))


def _from_http(error: HTTPException) -> ApiError:
    if isinstance(error, MethodNotAllowed):
        allowed = sorted(error.valid_methods or ())
        return ApiError(
            "METHOD_NOT_ALLOWED",
            "The path does not have this method",
            method=flask.request.method,
            allowed=allowed,
        )
    if isinstance(error, NotFound):
        return ApiError("PATH_NOT_FOUND", "There is no such path", path=truncate(flask.request.path))
    if error.code is not None and 400 <= error.code < 500:
        return ApiError("INVALID_REQUEST", f"Invalid request: {error.name}", reason=error.name)
    return errors.unforeseen(error)
