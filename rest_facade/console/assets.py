"""The console's static files: each with its ETag, under a path that names the state of all of them.

Behind that path a browser may keep a file for ever. ES modules import each other by relative paths, so a new
state is a new path for them, too.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final, NamedTuple

import flask

from rest_facade.shapes.response import Response

TYPES: Final[Mapping[str, str]] = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Which files are served: those whose names end so. Licences stay on the disk."""

_FOR_EVER: Final = "public, max-age=31536000, immutable"
_ASK_AGAIN: Final = "no-cache"


class Asset(NamedTuple):
    """A file with its media type and its ETag."""

    content: bytes
    media_type: str
    etag: str


@cache
def assets() -> Mapping[str, Asset]:
    """All files by their paths, such as `js/console.js`. Read once, when the first is asked for: 2 MB."""
    return dict(_read(resources.files("rest_facade.console") / "static", ""))


@cache
def digest() -> str:
    """Names the state of all files."""
    told = "".join(f"{path} {asset.etag}\n" for path, asset in sorted(assets().items()))
    return _digest(told.encode())


def asset_url(path: str) -> str:
    """The address of a file, relative to the root. Raises KeyError where there is none."""
    assets()[path]
    return f"console/static/{digest()}/{path}"


def answer_asset(state: str, path: str, headers: Mapping[str, str]) -> Response | None:
    """The answer to a request for a file, whatever state its page knows; None where there is none."""
    asset = assets().get(path)
    if asset is None:
        return None
    # Of another version of the service: this one's file is the better answer, but not to be kept.
    caching = {"Cache-Control": _FOR_EVER if state == digest() else _ASK_AGAIN}
    return respond(asset.content, {"Content-Type": asset.media_type, **caching, **headers}, asset.etag)


def respond(content: bytes, headers: Mapping[str, str], etag: str) -> Response:
    """Answers with a body, or with 304 where the client has it already."""
    told = {**headers, "ETag": f'"{etag}"'}
    if flask.request.if_none_match.contains_weak(etag):
        del told["Content-Type"]
        return Response(b"", 304, told)
    return Response(content, 200, told)


def etag_of(content: bytes) -> str:
    """The ETag of a body, without its quotes."""
    return _digest(content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _read(directory: Traversable, prefix: str) -> list[tuple[str, Asset]]:
    found: list[tuple[str, Asset]] = []
    for entry in directory.iterdir():
        path = prefix + entry.name
        if entry.is_dir():
            found += _read(entry, f"{path}/")
        elif media_type := TYPES.get(f".{entry.name.rpartition('.')[2]}"):
            content = entry.read_bytes()
            found.append((path, Asset(content, media_type, _digest(content))))
    return found
