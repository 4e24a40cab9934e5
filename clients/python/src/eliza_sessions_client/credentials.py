"""Who makes the calls: what goes into their metadata."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from inspect import isawaitable, iscoroutine
from typing import Final, TypeAlias

API_KEY: Final = "x-api-key"
AUTHORIZATION: Final = "authorization"
ON_BEHALF_OF: Final = "x-on-behalf-of"
"""The keys of metadata that the service reads."""

Token: TypeAlias = str | Callable[[], str] | Callable[[], Awaitable[str]]
"""A token, or a function that gives the present one. It is asked for each call, so it should keep what is
good.
"""

Metadata: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key or a token, and the user for whom a service calls. It never shows them."""

    key: str | None = field(default=None, repr=False)
    token: Token | None = field(default=None, repr=False)
    on_behalf_of: str | None = None

    def __post_init__(self) -> None:
        if self.key is not None and self.token is not None:
            raise ValueError("give a key or a token, not both")

    @property
    def is_renewable(self) -> bool:
        """Whether a new token can take the place of an expired one."""
        return callable(self.token)

    def metadata(self) -> Metadata:
        """The metadata of a call. Raises TypeError where the token comes from an asynchronous function."""
        token = self._token()
        if isawaitable(token):
            if iscoroutine(token):
                token.close()
            raise TypeError("only AsyncClient and workers take an asynchronous function as token")
        return tuple(self._pairs(token))

    async def metadata_async(self) -> Metadata:
        """The same, on an event loop."""
        token = self._token()
        return tuple(self._pairs(await token if isawaitable(token) else token))

    def _token(self) -> str | Awaitable[str] | None:
        return self.token() if callable(self.token) else self.token

    def _pairs(self, token: object) -> Iterator[tuple[str, str]]:
        if self.key is not None:
            yield API_KEY, self.key
        if isinstance(token, str):
            yield AUTHORIZATION, f"Bearer {token}"
        if self.on_behalf_of is not None:
            yield ON_BEHALF_OF, self.on_behalf_of
