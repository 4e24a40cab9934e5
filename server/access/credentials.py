"""Reads what a call presents out of its metadata, without judging it."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from eliza.sessions.call_metadata import (
    API_KEY_KEY,
    AUTHORIZATION_KEY,
    CLIENT_ADDRESS_KEY,
    FACADE_KEY_KEY,
    ON_BEHALF_OF_KEY,
)
from server.domain.errors import InvalidUuidError, UnauthenticatedError

ON_BEHALF_OF_FIELD: Final = "X-On-Behalf-Of"
"""How clients know the header that names the user for whom a service calls."""

KEYS: Final = frozenset(
    (AUTHORIZATION_KEY, API_KEY_KEY, ON_BEHALF_OF_KEY, FACADE_KEY_KEY, CLIENT_ADDRESS_KEY)
)
"""The keys of the metadata that are looked at, in lower case."""

_SECRETS: Final = (AUTHORIZATION_KEY, API_KEY_KEY)


class Credentials(NamedTuple):
    """What a call presents; '' where it presents nothing.

    `secret` is the key or the token. `facade_key` and `client_address` are said by a REST facade.
    `certificate_names` are those of the client certificate.
    """

    secret: str = ""
    on_behalf_of: str = ""
    facade_key: str = ""
    client_address: str = ""
    certificate_names: tuple[str, ...] = ()


_NOTHING: Final = Credentials()


def read_credentials(
    metadata: Iterable[tuple[str, str | bytes]] | None,
    certificate_names: tuple[str, ...] = (),
    *,
    is_open: bool = False,
) -> Credentials:
    """What a call presents.

    `is_open`: the service wants none. Keys and tokens are for somebody else then, a proxy in front of it, and
    may be as many as they like.

    :raises UnauthenticatedError: two credentials, or one header sent twice
    :raises InvalidUuidError: an empty X-On-Behalf-Of, which must not mean a service's whole tenant
    """
    found: dict[str, str] = {}
    for name, value in metadata or ():
        key = name.lower()
        if key not in KEYS:
            continue
        text = value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")
        if key == AUTHORIZATION_KEY:
            scheme, _, text = text.partition(" ")
            if scheme.lower() != "bearer":
                # A proxy's Basic, say: none of ours.
                continue
        if key in found and not (is_open and key in _SECRETS):
            raise UnauthenticatedError(f"The header {key} was sent twice")
        found[key] = text.strip()
    if not found:
        return Credentials("", "", "", "", certificate_names) if certificate_names else _NOTHING
    token, api_key = found.get(AUTHORIZATION_KEY, ""), found.get(API_KEY_KEY, "")
    if token and api_key and token != api_key and not is_open:
        raise UnauthenticatedError("Two different credentials were sent")
    user = found.get(ON_BEHALF_OF_KEY, "")
    if not user and ON_BEHALF_OF_KEY in found:
        raise InvalidUuidError(ON_BEHALF_OF_FIELD, "")
    return Credentials(
        token or api_key,
        user,
        found.get(FACADE_KEY_KEY, ""),
        found.get(CLIENT_ADDRESS_KEY, ""),
        certificate_names,
    )
