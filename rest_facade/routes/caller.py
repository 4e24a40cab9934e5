"""Who makes the present request: the metadata that every call for it carries."""

from typing import Final

import flask

from rest_facade.shapes.credentials import METADATA, Metadata, add_tokens, has_credential

ACCESS_TOKEN: Final = "access_token"
"""The parameter of a query that holds a token: an EventSource can send no header."""


def request_metadata() -> Metadata:
    """Returns the metadata of the present request: what its headers and its connection say."""
    metadata: Metadata = flask.request.environ[METADATA]
    return metadata


def stream_metadata() -> Metadata:
    """Returns the metadata of the present request for events, whose query may hold a token, too."""
    tokens = flask.request.args.getlist(ACCESS_TOKEN)
    return add_tokens(request_metadata(), tokens) if tokens else request_metadata()


def sent_credential(request: flask.Request) -> bool:
    """Whether a request has a credential, be it good or bad."""
    return has_credential(request.environ.get(METADATA, ())) or (
        # In this order: few requests need their query parsed.
        request.path.endswith("/events") and ACCESS_TOKEN in request.args
    )
