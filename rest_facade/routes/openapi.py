"""The OpenAPI document of the REST API: openapi.yaml beside this file, served as JSON."""

from functools import cache
from importlib import metadata, resources
from typing import Any

import flask

from rest_facade.shapes import json_body
from rest_facade.shapes.response import Response

PATH = "/openapi.json"


@cache
def document() -> dict[str, Any]:
    """The document, with the version of the package that serves it. Read once, when it is first asked for."""
    # A start does without the parser.
    import yaml

    text = (resources.files("rest_facade.routes") / "openapi.yaml").read_text(encoding="utf-8")
    # Libyaml's loader, where it is there, takes a seventh of the time.
    loaded: dict[str, Any] = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    loaded["info"]["version"] = metadata.version("eliza-sessions")
    return loaded


def add_routes(app: flask.Flask) -> None:
    """Gives the app the document's endpoint."""

    def get_openapi() -> Response:
        """Tells this API as an OpenAPI 3.1 document."""
        return json_body.respond(document())

    app.add_url_rule(PATH, view_func=get_openapi, methods=["GET"])
