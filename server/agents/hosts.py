"""Which hosts agents may be on, and the checked addresses of those hosts.

`guarded_http` connects to the very addresses that are checked here. So a name that leads elsewhere by then
changes nothing (no time of check, time of use).
"""

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import httpx2

from server.agents.allowed import Endpoint, literal, read_host_rules
from server.agents.blocking import BlockingCalls
from server.agents.public_addresses import is_public

CONNECT_SECONDS: Final = 10.0
MAX_LOOKUPS: Final = 64
MAX_LOOKUPS_OF_A_DOMAIN: Final = 4
"""How many names may be looked up at a time: in all, and of those within one registered domain.

An agent has one host, and a host one look-up. So a name server that hangs takes up few of the threads,
however many agents are there.
"""
REFUSED: Final = "is on a private, loopback or link-local address, which AGENT_ALLOWED_HOSTS does not allow"


class AddressRefusedError(httpx2.TransportError):
    """The host is, or resolves to, a forbidden address. The text does not name the address."""


class NoAddressError(httpx2.TransportError):
    """The host's name does not resolve now."""


class Hosts:
    """The hosts that agents may be on: public ones, and those that AGENT_ALLOWED_HOSTS names."""

    def __init__(self, allowed: Sequence[str]) -> None:
        """`allowed`: the entries of AGENT_ALLOWED_HOSTS. Raises ValueError."""
        self._rules = read_host_rules(allowed)
        self._own_ports: set[int] = set()
        self._lookups: BlockingCalls[list[str]] = BlockingCalls(
            "resolver", most=MAX_LOOKUPS, most_of_a_group=MAX_LOOKUPS_OF_A_DOMAIN
        )

    @property
    def open_lookups(self) -> int:
        """How many names are being looked up, or wait for that."""
        return self._lookups.open_count

    def add_own_port(self, port: int) -> None:
        """Closes a port of this service to agents on hosts that are allowed without a port."""
        self._own_ports.add(port)

    def list_open(self) -> list[str]:
        """The hosts that are allowed with every port."""
        return [rule.host for rule in self._rules if rule.port is None]

    def is_allowed(self, endpoint: Endpoint) -> bool:
        """Whether the setting names an endpoint: it is not judged by its addresses."""
        matching = [rule for rule in self._rules if rule.matches(endpoint)]
        return any(rule.port is not None or endpoint.port not in self._own_ports for rule in matching)

    def check(self, endpoint: Endpoint) -> None:
        """Raises AddressRefusedError for an endpoint that is refused whatever its name resolves to."""
        if self.is_allowed(endpoint):
            return
        with suppress(ValueError):
            if not is_public(endpoint.host):
                raise AddressRefusedError(REFUSED)
        if endpoint.host.rpartition(".")[2] == "localhost":
            raise AddressRefusedError(REFUSED)

    async def addresses(self, endpoint: Endpoint) -> list[str]:
        """Looks up and checks the addresses of an endpoint. Raises AddressRefusedError, NoAddressError.

        Concurrent look-ups of a name share one result; later ones look it up again.
        """
        self.check(endpoint)
        host = endpoint.host
        if literal(host):
            return [host]
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                found = await self._lookups.run(_domain(host), host, lambda: self._resolve(host))
        except TimeoutError:
            raise NoAddressError("the name of the agent's host did not resolve in time") from None
        except (OSError, UnicodeError) as error:
            raise NoAddressError("the name of the agent's host does not resolve") from error
        if not self.is_allowed(endpoint) and not all(map(is_public, found)):
            raise AddressRefusedError(REFUSED)
        return found

    @staticmethod
    def _resolve(host: str) -> list[str]:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(info[4][0]) for info in infos))


def _domain(host: str) -> str:
    """Returns the part of a name that is most likely registered: names below it share a name server."""
    labels = host.split(".")
    # As in example.co.uk.
    count = 3 if len(labels[-1]) == 2 and len(labels) > 2 and len(labels[-2]) <= 3 else 2
    return ".".join(labels[-count:])
