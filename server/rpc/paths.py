"""The paths of this API's methods."""

from typing import Final

from eliza.sessions.errors import DOMAIN

PREFIX: Final = f"/{DOMAIN}."
"""How they all begin."""
