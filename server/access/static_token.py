"""ELIZA_SERVER_AUTH_TOKEN: one key of a service, as this ecosystem has it."""

from typing import Final

from eliza.sessions.call_metadata import SESSION_TOKEN_PREFIX
from server.access.keys import PROOF_DIGITS, digest_of
from server.domain.access import Principal, Role

VARIABLE: Final = "ELIZA_SERVER_AUTH_TOKEN"
LEAST_LENGTH: Final = 16
FORM: Final = (
    f"at least {LEAST_LENGTH} characters without spaces at the ends, which do not begin with "
    f"{SESSION_TOKEN_PREFIX}; unset it for none"
)


def check_token(token: str) -> str:
    """Returns the token. Raises ValueError where it is too short to be a secret, or cannot be sent."""
    if len(token) < LEAST_LENGTH or not token.isprintable() or token != token.strip():
        raise ValueError(FORM)
    if token.startswith(SESSION_TOKEN_PREFIX):
        raise ValueError(FORM)
    return token


def read_static_token(token: str) -> tuple[bytes, Principal]:
    """The token's digest, and its caller: a service of the tenant ''. Raises ValueError."""
    digest = digest_of(check_token(token))
    return digest, Principal(VARIABLE, Role.SERVICE, source="static", proof=digest.hex()[:PROOF_DIGITS])
