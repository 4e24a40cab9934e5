"""The metadata of gRPC calls that the server and its clients agree on."""

import secrets
from collections.abc import Iterable
from typing import Final

MESSAGE_ID_KEY: Final = "eliza-message-id"
"""In the initial metadata of a SendMessage that waits for its reply: the id of the stored message."""

AUTHORIZATION_KEY: Final = "authorization"
"""A credential, as `Bearer TOKEN`."""

API_KEY_KEY: Final = "x-api-key"
"""A credential, as it is."""

ON_BEHALF_OF_KEY: Final = "x-on-behalf-of"
"""The UUID of the user for whom a service makes the call."""

FACADE_KEY_KEY: Final = "eliza-facade-key"
"""The credential of a REST facade on another machine or in another process, besides that of its client."""

CLIENT_ADDRESS_KEY: Final = "eliza-client-address"
"""From which address the client of a facade comes. Believed of the facade in the process, and of one with a
key."""

SESSION_TOKEN_PREFIX: Final = "est_"
"""How session access tokens begin."""

REQUEST_ID_KEY: Final = "x-request-id"
"""By which name the logs have a request, be it one of REST or a call. It goes back with the answer."""

MAX_REQUEST_ID: Final = 128


def take_request_id(given: Iterable[str]) -> str:
    """Returns the id that a request came with, or a fresh one where it has none, several, or one that is too
    long or not printable ASCII.
    """
    ids = list(given)
    if len(ids) == 1 and 0 < len(ids[0]) <= MAX_REQUEST_ID and ids[0].isascii() and ids[0].isprintable():
        return ids[0]
    return secrets.token_hex(16)
