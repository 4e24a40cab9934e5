"""The detail of a failed attempt, for the operator: what the provider said, without secrets."""

import os
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final
from urllib.parse import quote, urlsplit

from server.agents.agent_json import read_json
from server.agents.allowed import PORTS
from server.agents.connector import NoReplyError

MAX_DETAIL_CHARACTERS: Final = 500
"""How much of a provider's message is kept for operators."""


@contextmanager
def add_detail(url: str, secret: str) -> Iterator[None]:
    """Makes the detail of a NoReplyError from within safe to keep, and puts host and port before it."""
    try:
        yield
    except NoReplyError as failure:
        failure.detail = make_detail(url, failure.detail, secret)
        raise


def make_detail(url: str, words: str, secret: str) -> str:
    """Returns host and port of the URL, and the first MAX_DETAIL_CHARACTERS of the words.

    Replaces the secret, with or without `whsec_`, and unprintable characters.
    """
    place, words = (_printable(_without(secret, text)) for text in (_place(url), words))
    return f"{place}: {words[:MAX_DETAIL_CHARACTERS]}" if words else place


def read_error_words(body: str) -> str:
    """Returns the message in the body of an error, if it is JSON with one, else the whole body."""
    with suppress(ValueError):
        found = read_json(body)
        for name in ("error", "message", "detail"):
            if isinstance(found, dict) and found.get(name):
                return read_error_text(found[name], body)
    return body


def read_error_text(error: object, body: str) -> str:
    """The message of an error, which may be the error itself; the whole body where there is none."""
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) and message else body


def describe_cause(error: BaseException) -> str:
    """Returns why a connection failed, in the words of the first error ("Connection refused")."""
    words = ""
    found: BaseException | None = error
    while found is not None:
        match found:
            case ssl.SSLCertVerificationError():
                return f"the certificate is not valid: {found.verify_message}"
            case socket.gaierror() | ssl.SSLError():
                return found.strerror or str(found)
            case OSError(errno=int(number)):
                return os.strerror(number)
        # A timeout comes from a cancellation, which says nothing.
        words = (str(found) if isinstance(found, Exception) else "") or words
        # The library suppresses the errors that it has mapped.
        found = found.__cause__ or found.__context__
    return words or type(error).__name__


def _place(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    except (ValueError, KeyError):
        return "an address that is none"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _without(secret: str, text: str) -> str:
    """Replaces the secret in a text, also where it is escaped as in a body or a URL."""
    if not secret:
        return text
    bare = secret.removeprefix("whsec_")
    forms: list[str] = []
    for form in filter(None, (secret, bare)):
        # Plain, as JSON may escape it, and as in a URL.
        forms += (form, form.replace("/", "\\/"), quote(form, safe=""))
    # In one go, so that no replacement is replaced again.
    return re.sub("|".join(map(re.escape, forms)), "[secret]", text)


def _printable(text: str) -> str:
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())
