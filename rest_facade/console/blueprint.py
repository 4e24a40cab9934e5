"""The routes of the console, the API docs and the page at the root.

A page is the same for everyone. Its data come from `/console/parts/…` (HTML) and `/console/data/…` (JSON),
each from a call with the caller's own credential: the console may no more than the caller.
"""

from functools import partial, wraps
from importlib import metadata
from typing import Final

import flask
import grpc.aio
from werkzeug.exceptions import HTTPException, NotFound

from rest_facade.console import agents, assets, overview, search, session, status, system
from rest_facade.console.pages import NAVIGATION, PAGES, Page
from rest_facade.console.parts import DATA, View
from rest_facade.console.render import DOCS_HEADERS, HEADERS, respond_data, respond_page, respond_part
from rest_facade.routes import openapi
from rest_facade.routes.app import from_http, log_failure, make_handler
from rest_facade.routes.caller import sent_credential
from rest_facade.routes.sessions import HEALTH
from rest_facade.shapes import errors
from rest_facade.shapes.errors import ApiError
from rest_facade.shapes.response import Response
from rest_facade.upstream.backend import Backend

_PARTS: Final = (status, overview, system, search, session, agents)
"""The modules of parts: each has `add_parts`."""


class Console:
    """Whether there is a console, and its routes."""

    def __init__(self, backend: Backend, *, is_on: bool) -> None:
        """While it is not `is_on`, its paths are answered as if they did not exist."""
        self.is_on = is_on
        self._backend = backend

    def add_routes(self, app: flask.Flask) -> None:
        """Gives an app the console. Call it before the app serves."""
        blueprint = flask.Blueprint("console", __name__)
        blueprint.register_error_handler(ApiError, make_handler(log_failure, _tell))
        blueprint.register_error_handler(grpc.aio.AioRpcError, make_handler(errors.from_rpc, _tell))
        blueprint.register_error_handler(HTTPException, make_handler(from_http))
        blueprint.register_error_handler(Exception, make_handler(errors.unforeseen, _tell))

        def add(rule: str, view: View, *methods: str) -> None:
            name = rule.strip("/").replace("/", " ").replace(".", " ")
            blueprint.add_url_rule(rule, name, self._while_on(view), methods=methods or ("GET",))

        for page in PAGES:
            add(page.rule, partial(_show, page))
        add("/console/<path:path>", _miss)
        add("/console/static/<state>/<path:path>", _serve_asset)
        add("/docs", _show_docs)
        for parts in _PARTS:
            parts.add_parts(add, self._backend)
        blueprint.add_url_rule("/", "root", self._show_root, methods=["GET"])
        blueprint.add_url_rule("/readme", "readme", _show_readme, methods=["GET"])
        app.register_blueprint(blueprint)

    def _while_on(self, view: View) -> View:
        @wraps(view)
        def answer(**values: str) -> Response:
            if not self.is_on:
                raise NotFound
            return view(**values)

        return answer

    def _show_root(self) -> Response:
        """Leads to the console, the API docs, the service's health and the README."""
        return respond_page("root.html", is_on=self.is_on, health=HEALTH[1:], openapi=openapi.PATH[1:])


def _show(page: Page, **_values: str) -> Response:
    return respond_page(page.template, page=page, navigation=NAVIGATION)


def _miss(path: str) -> Response:
    """Tells a person that there is no such page, and a program the same."""
    if path.startswith(("parts/", "data/", "static/")):
        raise NotFound
    page = Page("", "pages/missing.html", "No such page")
    return respond_page(page.template, status=404, page=page, navigation=NAVIGATION)


def _serve_asset(state: str, path: str) -> Response:
    answer = assets.answer_asset(state, path, HEADERS)
    if answer is None:
        raise NotFound
    return answer


def _show_docs() -> Response:
    page = Page("/docs", "docs.html", "API docs", "API docs")
    return respond_page(page.template, headers=DOCS_HEADERS, page=page, navigation=NAVIGATION)


def _show_readme() -> Response:
    """The README of the version that is installed, as text."""
    text = metadata.metadata("eliza-sessions").json["description"]
    headers = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-cache", **HEADERS}
    content = str(text).encode()
    return assets.respond(content, headers, assets.etag_of(content))


def _tell(error: ApiError) -> Response:
    """An error as JSON or as a part of a page."""
    headers = error.headers_for(has_credential=error.http_status == 401 and sent_credential(flask.request))
    if flask.request.path.startswith(f"{DATA}/"):
        return respond_data(error.body, status=error.http_status, headers=headers)
    return respond_part(
        "parts/error.html",
        status=error.http_status,
        headers=headers,
        status_code=error.http_status,
        message=error.message,
        code=error.row.reason,
        details=error.details,
    )
