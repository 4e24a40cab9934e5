"""Tells the console's own pages from others, where a request changes something.

The console has no cookie, so that a foreign page cannot use a caller's key. An open service on loopback wants
no key. There the front door refuses foreign origins, and this refuses what is left: other pages of this
machine.
"""

from typing import Final

import flask

from rest_facade.front_door.origins import is_same
from rest_facade.routes.caller import sent_credential
from rest_facade.shapes.errors import ApiError

HEADER: Final = "HX-Request"
"""A page can send it to another origin only after that has allowed it. Htmx and our modules always do."""


def require_own_page() -> None:
    """Raises ORIGIN_NOT_ALLOWED where a request may come from a page that is none of the console's."""
    headers = flask.request.headers
    if headers.get(HEADER) != "true" or not _is_own():
        raise ApiError(
            "ORIGIN_NOT_ALLOWED",
            f"Only the console's own pages may do this: {HEADER}: true is wanted",
            origin=headers.get("Origin", ""),
        )


def _is_own() -> bool:
    """Whether the request comes from a page of this origin, or from what is no browser and has no page."""
    headers = flask.request.headers
    if (site := headers.get("Sec-Fetch-Site")) is not None:
        return site.strip().lower() == "same-origin"
    origin = headers.get("Origin")
    # An old browser, or one without TLS. Who has a key need not trick anybody into using it.
    return origin is None or is_same(origin, [headers.get("Host", "")]) or sent_credential(flask.request)
