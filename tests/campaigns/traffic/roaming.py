"""A client of several servers: it keeps to one, and takes another at random where that does not answer."""

import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from tests.campaigns.traffic.clients import AgainError

WANDERS = 0.02
"""The share of calls before which it takes another server of its own accord."""


class Roaming:
    """Has the methods of the clients that it makes, one for each address. `address`: where it is.

    An AgainError says who was asked.
    """

    def __init__(
        self, kind: str, make: Callable[[str], Any], addresses: Sequence[str], choose: random.Random
    ) -> None:
        self.kind = kind
        self._make = make
        self._addresses = addresses
        self._choose = choose
        self._clients: dict[str, Any] = {}
        self.address = choose.choice(addresses)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*values: Any, **named: Any) -> Any:
            if self._choose.random() < WANDERS:
                self.address = self._choose.choice(self._addresses)
            address = self.address
            try:
                return await getattr(self._at(address), name)(*values, **named)
            except AgainError as again:
                self._leave(address, again)
                raise

        return call

    async def watch(self, session_id: str, after: int) -> AsyncIterator[Any]:
        """The events of a session behind a sequence. Raises AgainError, RefusedError."""
        address = self.address
        try:
            async with contextlib.aclosing(self._at(address).watch(session_id, after)) as events:
                async for event in events:
                    yield event
        except AgainError as again:
            self._leave(address, again)
            raise

    async def close(self) -> None:
        """Closes all connections."""
        for client in self._clients.values():
            await client.close()

    def _at(self, address: str) -> Any:
        if address not in self._clients:
            self._clients[address] = self._make(address)
        return self._clients[address]

    def _leave(self, address: str, again: AgainError) -> None:
        again.address = address
        # Unless another call has left it already.
        if self.address == address:
            self.address = self._choose.choice(self._addresses)
