"""The OpenAPI document of the REST API: openapi.yaml beside this file, served as JSON."""

from importlib import metadata, resources
from typing import Any

import flask
import yaml

from rest_facade.shapes import json_body
from rest_facade.shapes.response import Response

PATH = "/openapi.json"

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Libyaml's, where it is there: it takes a seventh of the time."""


def document() -> dict[str, Any]:
    """The document, with the version of the package that serves it."""
    text = (resources.files("rest_facade.routes") / "openapi.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.load(text, _LOADER)
    loaded["info"]["version"] = metadata.version("eliza-sessions")
    return loaded


def add_routes(app: flask.Flask) -> None:
    """Gives the app the document's endpoint."""
    content = document()

    def get_openapi() -> Response:
        """Tells this API as an OpenAPI 3.1 document."""
        return json_body.respond(content)

    app.add_url_rule(PATH, view_func=get_openapi, methods=["GET"])
