"""Whose request it is: the address of a client, also behind proxies that the operator trusts."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from rest_facade.shapes.numbers import whole_number

Address: TypeAlias = IPv4Address | IPv6Address
Networks: TypeAlias = tuple[IPv4Network | IPv6Network, ...]

IPV6_PREFIX_BITS = 64
"""An IPv6 client usually has a whole network of this size, which therefore counts as one client."""


def read_address(text: str) -> Address | None:
    """Reads an address as proxies write it: with or without a port, brackets, quotes or a zone.

    None for anything else.
    """
    text = text.strip().strip('"')
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or (port and not _is_port(port)):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not _is_port(f":{port}"):
            return None
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A socket for both families shows IPv4 addresses in this form.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def find_client(peer: str, forwarded: Iterable[bytes], trusted: Networks) -> str | None:
    """Finds the client that a request counts for. None means no bound: loopback, a trusted proxy, no address.

    `forwarded` are the values of X-Forwarded-For, in order. They count only where the peer is trusted, and
    are read from the end: a client can write anything in front of what the proxies add.
    """
    address = find_address(peer, forwarded, trusted)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, IPV6_PREFIX_BITS), strict=False))
    return None if address is None else str(address)


def find_address(peer: str, forwarded: Iterable[bytes], trusted: Networks) -> Address | None:
    """Finds the address of the client of a request, as `find_client` does it."""
    address = read_address(peer)
    if address is not None and is_within(address, trusted):
        texts = b",".join(forwarded).decode("latin-1").split(",")
        for text in reversed(texts):
            hop = read_address(text)
            if hop is None:
                break
            address = hop
            if not is_within(hop, trusted):
                break
    if address is None or address.is_loopback or is_within(address, trusted):
        return None
    return address


def is_within(address: Address, networks: Networks) -> bool:
    """Whether an address is in one of the networks."""
    return any(address in network for network in networks)


def _is_port(text: str) -> bool:
    return text.startswith(":") and whole_number(text[1:], 65535) is not None
