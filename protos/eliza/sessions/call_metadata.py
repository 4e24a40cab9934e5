"""The metadata of gRPC calls that the server and its clients agree on."""

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
