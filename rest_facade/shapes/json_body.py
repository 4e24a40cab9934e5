"""JSON bodies: reading a request's, writing a response's."""

from typing import TYPE_CHECKING, Any, Final

import flask
import orjson
from werkzeug.http import parse_options_header

from eliza.sessions import json_text
from eliza.sessions.errors import truncate
from rest_facade.shapes import fields
from rest_facade.shapes.errors import ApiError
from rest_facade.shapes.response import Response

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_UNKNOWN: Final = "rest_facade.unknown_fields"
"""The key of an environ under which are the unknown fields of the body, where that has been read."""


def read_object(known: fields.Fields) -> dict[str, Any]:
    """The JSON object in the present request's body; an empty body counts as `{}` and needs no content type.

    The answer will name fields that are not `known`; `refuse_unknown` says whether they are an error.

    Raises UNSUPPORTED_MEDIA_TYPE when the body is not JSON by its content type, INVALID_REQUEST when it is
    malformed or no object. Strings may hold lone surrogates and numbers may be infinite: what they mean is
    for each field to say.
    """
    environ = flask.request.environ
    environ[_UNKNOWN] = []
    # The front door has read it as a whole.
    data = environ["wsgi.input"].read()
    if not data:
        return {}
    content_type = flask.request.content_type or ""
    if not _is_json(content_type):
        raise ApiError(
            "UNSUPPORTED_MEDIA_TYPE",
            "The body must be application/json in UTF-8",
            contentType=truncate(content_type),
        )
    body = _parse(data)
    if not isinstance(body, dict):
        raise _invalid("the body is not a JSON object")
    environ[_UNKNOWN] = fields.find_unknown(body, known)
    return body


def refuse_unknown() -> None:
    """Raises INVALID_REQUEST when the body has unknown fields and the client prefers strict handling."""
    environ = flask.request.environ
    unknown = environ.get(_UNKNOWN)
    if unknown and _is_strict(environ):
        raise _invalid(f"unknown fields: {', '.join(fields.show(unknown))}")


def name_unknown(environ: "WSGIEnvironment", response: Response) -> Response:
    """Names a request's unknown fields in the headers of its answer, and whether they were an error."""
    unknown = environ.get(_UNKNOWN)
    if unknown:
        response.headers[fields.UNKNOWN_HEADER] = fields.encode(unknown)
    if unknown is not None and _is_strict(environ):
        response.headers[fields.APPLIED_HEADER] = "handling=strict"
    return response


def _is_strict(environ: "WSGIEnvironment") -> bool:
    return fields.is_strict(environ.get("HTTP_PREFER", ""))


def respond(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A response with a JSON body."""
    return Response(dump(body), status, {"Content-Type": "application/json", **(headers or {})})


def dump(body: object) -> bytes:
    """Encodes JSON in which no string holds a character that some readers take for the end of a line."""
    return json_text.escape_lines_utf8(orjson.dumps(body))


def _is_json(content_type: str) -> bool:
    if content_type == "application/json":
        return True
    kind, parameters = parse_options_header(content_type)
    kind = kind.lower()
    json_kind = kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
    return json_kind and parameters.get("charset", "utf-8").lower() in ("utf-8", "utf8")


def _parse(data: bytes) -> Any:
    try:
        return json_text.load(data)
    except RecursionError as error:
        raise _invalid("the body nests too deeply") from error
    except UnicodeDecodeError as error:
        raise _invalid("the body is not UTF-8") from error
    except ValueError as error:
        raise _invalid("the body is not well-formed JSON") from error


def _invalid(reason: str) -> ApiError:
    return ApiError("INVALID_REQUEST", f"Invalid request: {reason}", reason=reason)
