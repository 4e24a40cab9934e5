"""Tells the console's own pages from others, where a request changes something.

The console has no cookie, so that a foreign page cannot use a caller's key. An open service on loopback wants
no key. There the front door refuses foreign origins, and this refuses what is left: other pages of this
machine.
"""

from typing import Final

import flask

from rest_facade.shapes.errors import ApiError

HEADER: Final = "HX-Request"
"""A page can send it to another origin only after that has allowed it. Htmx and our modules always do."""


def require_own_page() -> None:
    """Raises ORIGIN_NOT_ALLOWED where a request may come from a page that is none of the console's."""
    headers = flask.request.headers
    # A browser always says whose page it is; what is no browser has no page.
    is_own = headers.get("Sec-Fetch-Site", "same-origin").strip().lower() == "same-origin"
    if headers.get(HEADER) != "true" or not is_own:
        raise ApiError(
            "ORIGIN_NOT_ALLOWED",
            f"Only the console's own pages may do this: {HEADER}: true is wanted",
            origin=headers.get("Origin", ""),
        )
