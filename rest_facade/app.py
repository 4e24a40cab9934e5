"""The Flask app: routes, errors, and how it reads paths."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import flask
import grpc.aio
import structlog
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from eliza.sessions.errors import forget_frames, truncate
from rest_facade import agents, bodies, clock, errors, openapi, routes, sse
from rest_facade.backend import Backend
from rest_facade.bridge import TOO_LARGE
from rest_facade.errors import ApiError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_log = structlog.get_logger(__name__)


class _App(flask.Flask):
    def wsgi_app(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        # A trailing slash changes nothing, and neither do several; Flask's own tolerance ends at one.
        environ["PATH_INFO"] = environ["PATH_INFO"].rstrip("/") or "/"
        return super().wsgi_app(environ, start_response)

    def make_default_options_response(self) -> flask.Response:
        response = super().make_default_options_response()
        response.status_code = 204
        del response.headers["Content-Type"]
        return response


def create_app(backend: Backend) -> flask.Flask:
    """The WSGI app over a backend. It runs in the bridge: its views await their calls."""
    app = _App("rest_facade", static_folder=None)
    # No path is ever answered with a redirect.
    app.url_map.merge_slashes = False
    routes.add_routes(app, backend)
    agents.add_routes(app, backend)
    clock.add_routes(app, backend)
    openapi.add_routes(app)
    app.before_request(_refuse_large_body)
    app.after_request(bodies.name_unknown)
    app.register_error_handler(ApiError, _answering(_logged))
    app.register_error_handler(grpc.aio.AioRpcError, _answering(errors.from_rpc))
    app.register_error_handler(HTTPException, _answering(lambda error: _logged(_from_http(error))))
    app.register_error_handler(Exception, _answering(errors.unforeseen))
    return app


def _answering(judge: Callable[[Any], ApiError]) -> Callable[[Exception], flask.Response]:
    """The handler that answers an error as it is judged; afterwards nothing of the request is left in the error."""

    def answer(error: Exception) -> flask.Response:
        try:
            return _tell(judge(error))
        finally:
            forget_frames(error)

    return answer


def _tell(error: ApiError) -> flask.Response:
    request = flask.request
    accept = request.headers.get("Accept", "")
    if error.http_status in sse.TEMPORARY and sse.is_followed(request.method, request.path, accept):
        headers = {**sse.HEADERS, "Connection": "close"}
        return flask.Response(sse.come_back(), content_type=sse.CONTENT_TYPE, headers=headers)
    return bodies.respond(error.body, error.http_status, error.headers)


def _logged(error: ApiError) -> ApiError:
    """The error, with a line in the log: the server logs the calls that it refuses, and has not seen this request."""
    level = "warning" if error.http_status >= 500 else "info"
    getattr(_log, level)("failed request", method=flask.request.method, code=error.row.reason, error=truncate(error.message))
    return error


def _refuse_large_body() -> None:
    limit = flask.request.environ.get(TOO_LARGE)
    if limit is not None:
        raise ApiError("REQUEST_TOO_LARGE", f"The body is larger than {limit} bytes", maxBytes=limit)


def _from_http(error: HTTPException) -> ApiError:
    """Flask's own refusals in the words of the table."""
    if isinstance(error, MethodNotAllowed):
        allowed = sorted(error.valid_methods or ())
        return ApiError("METHOD_NOT_ALLOWED", "The path does not have this method", method=flask.request.method, allowed=allowed)
    if isinstance(error, NotFound):
        return ApiError("PATH_NOT_FOUND", "There is no such path", path=truncate(flask.request.path))
    if error.code is not None and 400 <= error.code < 500:
        return ApiError("INVALID_REQUEST", f"Invalid request: {error.name}", reason=error.name)
    return errors.unforeseen(error)
