"""The credentials of a request, as metadata of the calls that serve it.

The facade forwards them and judges none. Each header goes as often as it came: the server says whether
several are one credential.
"""

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from eliza.sessions.call_metadata import (
    API_KEY_KEY,
    AUTHORIZATION_KEY,
    CLIENT_ADDRESS_KEY,
    ON_BEHALF_OF_KEY,
    SESSION_TOKEN_PREFIX,
)

Metadata: TypeAlias = tuple[tuple[str, str], ...]
"""The pairs that the calls of one request carry: its credentials, then its client's address."""

METADATA: Final = "eliza.metadata"
"""The key of a request's metadata in its WSGI environ."""

ADDRESS: Final = "rest_facade.address"
"""The key of a scope's state under which is the client's address, as metadata."""

_HEADERS: Final[Mapping[bytes, str]] = {
    key.encode(): key for key in (AUTHORIZATION_KEY, API_KEY_KEY, ON_BEHALF_OF_KEY)
}

UNSENDABLE: Final = "-"
"""Goes in place of a value that gRPC cannot carry. No credential is so short, so the server refuses it."""

MAX_BYTES: Final = 7168
"""How many bytes the credentials of a request may have, as HTTP/2 counts them.

gRPC takes 8 KiB of metadata, its own included.
"""

_OVERHEAD_BYTES: Final = 32


def read_headers(headers: Iterable[tuple[bytes, bytes]], address: Metadata = ()) -> Metadata:
    """Makes the metadata of a request with these header fields, from a client with this address."""
    found = [header for header in headers if header[0] in _HEADERS]
    if not found:
        return address
    return (*_bound([_pair(_HEADERS[name], value.decode("latin-1")) for name, value in found]), *address)


def read_auth(auth: object) -> Metadata:
    """Makes metadata of the `auth` of a socket's handshake. Absent, null and empty values count as none."""
    if not isinstance(auth, Mapping):
        return ()
    values = (
        (API_KEY_KEY, "", auth.get("apiKey")),
        (AUTHORIZATION_KEY, "Bearer ", auth.get("token")),
        (ON_BEHALF_OF_KEY, "", auth.get("onBehalfOf")),
    )
    return _bound(
        [
            _pair(key, scheme + (value if isinstance(value, str) else UNSENDABLE))
            for key, scheme, value in values
            if value is not None and value != ""
        ]
    )


def add_tokens(metadata: Metadata, tokens: Iterable[str]) -> Metadata:
    """Adds tokens from a query to the metadata of a request.

    Addresses get into logs of others, so a key or a JWT there is a wrong credential: it is to be noticed.
    """
    told = (token if token.startswith(SESSION_TOKEN_PREFIX) else UNSENDABLE for token in tokens)
    return (*_bound([_pair(AUTHORIZATION_KEY, f"Bearer {token}") for token in told]), *metadata)


def add_trace(metadata: Metadata, trace: Metadata) -> Metadata:
    """Adds traceparent, and tracestate where there is room for it, to the metadata of a request."""
    fits = _size([*metadata, *trace]) <= MAX_BYTES
    return (*metadata, *(trace if fits else trace[:1]))


def of_address(address: str) -> Metadata:
    """Makes metadata of a client's address."""
    return ((CLIENT_ADDRESS_KEY, address),)


def without_address(metadata: Metadata) -> Metadata:
    """The credentials alone: equal ones are one principal, wherever its calls come from."""
    return tuple(pair for pair in metadata if pair[0] != CLIENT_ADDRESS_KEY)


def has_credential(metadata: Metadata) -> bool:
    """Whether there is a credential of ours. An Authorization that is not Bearer is a proxy's."""
    return any(
        key == API_KEY_KEY or (key == AUTHORIZATION_KEY and _is_bearer(value)) for key, value in metadata
    )


def _pair(key: str, value: str) -> tuple[str, str]:
    """A header as metadata. The scheme of an Authorization stays, what is not Bearer is not passed on."""
    value = value.strip(" \t")
    if key != AUTHORIZATION_KEY:
        return key, _text(value)
    scheme, _, token = value.partition(" ")
    return key, f"{_text(scheme)} {_text(token.strip(' ')) if _is_bearer(value) else UNSENDABLE}"


def _is_bearer(value: str) -> bool:
    return value.partition(" ")[0].lower() == "bearer"


def _text(value: str) -> str:
    return value if value.isascii() and value.isprintable() else UNSENDABLE


def _bound(pairs: list[tuple[str, str]]) -> Metadata:
    """The pairs; where they are too large, a credential that the server refuses."""
    return tuple(pairs) if _size(pairs) <= MAX_BYTES else ((API_KEY_KEY, UNSENDABLE),)


def _size(pairs: Iterable[tuple[str, str]]) -> int:
    return sum(len(key) + len(value) + _OVERHEAD_BYTES for key, value in pairs)
