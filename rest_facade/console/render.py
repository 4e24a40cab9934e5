"""Turns templates into answers: whole pages, which hold no data, and parts of pages, which do."""

import datetime as dt
import json
import time
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import flask
import jinja2
from google.protobuf.timestamp_pb2 import Timestamp

from eliza.sessions import times, values
from rest_facade.console import assets
from rest_facade.routes.app import ASKED_PATH
from rest_facade.shapes import json_body
from rest_facade.shapes.response import Response

_POLICY: Final = {
    "default-src": "'self'",
    # The page's own <base> makes its addresses relative, so that the console works below a path of a proxy.
    "base-uri": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
    "object-src": "'none'",
}
_DOCS_POLICY: Final = {**_POLICY, "style-src": "'self' 'unsafe-inline'", "img-src": "'self' data:"}

_SECURITY: Final = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


def _security_headers(policy: Mapping[str, str]) -> dict[str, str]:
    told = "; ".join(f"{name} {value}" for name, value in policy.items())
    return {"Content-Security-Policy": told, **_SECURITY}


HEADERS: Final = _security_headers(_POLICY)
"""The security headers of all pages, parts and files of the console."""

DOCS_HEADERS: Final = _security_headers(_DOCS_POLICY)
"""Those of the API docs: Swagger UI sets inline styles and has its icons as data."""

HTMX: Final = json.dumps(
    {
        "allowEval": False,
        "allowScriptTags": False,
        "includeIndicatorStyles": False,
        "selfRequestsOnly": True,
        # It would keep pages with their data in the browser's storage.
        "historyCacheSize": 0,
        "refreshOnHistoryMiss": True,
        "timeout": 40_000,
        "responseHandling": [
            {"code": "204", "swap": False},
            {"code": "[23]..", "swap": True},
            {"code": "[45]..", "swap": True, "error": True},
        ],
    }
)
"""The settings of htmx."""

_HTML: Final = "text/html; charset=utf-8"
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def respond_page(
    template: str, *, status: int = 200, headers: Mapping[str, str] = HEADERS, **facts: Any
) -> Response:
    """Answers with a whole page. It is for everyone, and the same for everyone: nothing of a caller is in
    it.
    """
    content = render(template, root=_root(), **facts).encode()
    told = {"Content-Type": _HTML, "Cache-Control": "no-cache", **headers}
    if status != 200:
        return Response(content, status, told)
    return assets.respond(content, told, assets.etag_of(content))


def respond_part(
    template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **facts: Any
) -> Response:
    """Answers with a part of a page, which nobody keeps."""
    content = render(template, **facts).encode()
    told = {"Content-Type": _HTML, "Cache-Control": "no-store", **HEADERS, **(headers or {})}
    return Response(content, status, told)


def respond_data(body: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answers with JSON, which nobody keeps."""
    return json_body.respond(body, status, {"Cache-Control": "no-store", **HEADERS, **(headers or {})})


def render(template: str, **facts: Any) -> str:
    """The text of a template. A name that it does not get is an error."""
    return _templates().get_template(template).render(facts)


@cache
def _templates() -> jinja2.Environment:
    """The templates. What they write is escaped, unless it is markup already."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("rest_facade.console"),
        autoescape=True,
        auto_reload=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(size=show_size, duration=show_duration, instant=show_instant, ago=show_ago, iso=iso)
    made.globals.update(asset=assets.asset_url, htmx_settings=HTMX)
    return made


def _root() -> str:
    """The way from the present page to the root, as a relative address."""
    asked: str = flask.request.environ.get(ASKED_PATH, flask.request.path)
    return "../" * (asked.count("/") - 1) or "./"


def show_size(size_bytes: float) -> str:
    """A number of bytes in words: `1.5 GiB`."""
    size, steps = size_bytes, 0
    while size >= 1000 and steps < len(_UNITS) - 1:
        size, steps = size / 1024, steps + 1
    return f"{size:.1f} {_UNITS[steps]}" if steps and size < 100 else f"{size:.0f} {_UNITS[steps]}"


def show_duration(seconds: float) -> str:
    """A length of time in its two largest units: `2 d 3 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds else "0 s"
    whole = round(seconds)
    parts = (
        (whole // 86400, "d"),
        (whole // 3600 % 24, "h"),
        (whole // 60 % 60, "min"),
        (whole % 60, "s"),
    )
    first = next(index for index, (count, _) in enumerate(parts) if count or index == 3)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count)


def show_instant(when: Timestamp) -> str:
    """An instant in UTC, to the second."""
    at = dt.datetime.fromtimestamp(values.ms_floor(when) // 1000, dt.UTC)
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


def show_ago(when: Timestamp) -> str:
    """How long ago an instant was, by this process's clock."""
    seconds = time.time() - values.ms_floor(when) / 1000
    return f"{show_duration(seconds)} ago" if seconds >= 1 else "now"


def iso(when: Timestamp) -> str:
    """An instant as the attribute `datetime` wants it."""
    return times.iso(values.ms_floor(when))
