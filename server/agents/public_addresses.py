"""Which IP addresses are public: agents may be there without being named in a setting."""

import ipaddress
from typing import Final

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_UNICAST: Final = ipaddress.ip_network("2000::/3")
"""All of IPv6 that is in use out in the world. The rest is local, or reserved."""
_ISATAP: Final = (0x5EFE, 0x200_5EFE)
"""The third quarter of an address of ISATAP; the fourth is its IPv4 address."""
SPECIAL_NETWORKS: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        # The registry of special-purpose IPv4 addresses (IANA), and multicast.
        *(
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
        ),
        *(
            "192.0.2.0/24",
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "192.175.48.0/24",
        ),
        *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        # Of IPv6, networks within 2000::/3. The IPv4 address inside 6to4 is checked instead.
        *("2001::/23", "2001:db8::/32", "2620:4f:8000::/48", "3fff::/20"),
        # Azure's platform has an ordinary address. Other clouds' metadata are within the networks above.
        "168.63.129.16/32",
    )
)
"""Networks that are not public, beside those that this version of Python takes for not global."""


def is_public(address: str) -> bool:
    """Whether an IP address is public, and so is an IPv4 address inside it."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if parsed in _NAT64 or int(parsed) >> 32 & 0xFFFFFFFF in _ISATAP:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner and not is_public(str(inner)):
            return False
        if parsed.ipv4_mapped or parsed in _NAT64 or parsed.sixtofour:
            return True
        if parsed not in _GLOBAL_UNICAST:
            return False
    return (
        parsed.is_global
        and not parsed.is_multicast
        and not any(parsed in network for network in SPECIAL_NETWORKS)
    )
