"""Whose request it is: X-Forwarded-For as proxies and liars write it."""

from ipaddress import ip_network

import pytest

from rest_facade.front_door.clients import find_client
from server.environment import SettingsError, load_settings

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("192.0.2.7"), ip_network("2001:db8:1::/48"))
PROXY = "10.0.0.1"


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        # From others the header says nothing.
        ("198.51.100.1", [], "198.51.100.1"),
        ("198.51.100.1", [b"203.0.113.9"], "198.51.100.1"),
        ("::ffff:198.51.100.1", [], "198.51.100.1"),
        ("127.0.0.1", [b"203.0.113.9"], None),
        ("::1", [], None),
        ("::ffff:127.0.0.1", [], None),
        ("", [b"203.0.113.9"], None),
        # From a trusted one the last address that is not trusted counts, whatever the client wrote before it.
        (PROXY, [], None),
        (PROXY, [b"203.0.113.9"], "203.0.113.9"),
        (PROXY, [b"1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        (PROXY, [b"1.1.1.1", b"203.0.113.9"], "203.0.113.9"),
        (PROXY, [b"1.1.1.1, 203.0.113.9,10.2.3.4", b"192.0.2.7"], "203.0.113.9"),
        (PROXY, [b"127.0.0.1, 203.0.113.9"], "203.0.113.9"),
        (PROXY, [b"10.9.9.9, 10.8.8.8"], None),
        (PROXY, [b"203.0.113.9, 127.0.0.1"], None),
        ("::ffff:10.0.0.1", [b"203.0.113.9"], "203.0.113.9"),
        ("2001:db8:1::5", [b"203.0.113.9"], "203.0.113.9"),
        # Ports, brackets, quotes, zones.
        (PROXY, [b"203.0.113.9:4711"], "203.0.113.9"),
        (PROXY, [b'"203.0.113.9"'], "203.0.113.9"),
        (PROXY, [b"2001:db8::1"], "2001:db8::/64"),
        (PROXY, [b"[2001:db8::1]"], "2001:db8::/64"),
        (PROXY, [b"[2001:db8::1]:4711"], "2001:db8::/64"),
        (PROXY, [b'"[2001:db8::1]:4711"'], "2001:db8::/64"),
        (PROXY, [b"2001:db8::ffff:ffff"], "2001:db8::/64"),
        (PROXY, [b"fe80::1%eth0"], "fe80::/64"),
        (PROXY, [b"::ffff:203.0.113.9"], "203.0.113.9"),
        # Behind what is no address nothing is believed.
        (PROXY, [b"203.0.113.9, unknown"], None),
        (PROXY, [b"203.0.113.9, "], None),
        (PROXY, [b"junk, 203.0.113.9"], "203.0.113.9"),
        (PROXY, [b"203.0.113.9:x"], None),
        (PROXY, [b"203.0.113.9:70000"], None),
        (PROXY, [b"203.0.113.9:" + b"9" * 5000], None),
        (PROXY, [b"203.0.113.9:" + b"0" * 5000], "203.0.113.9"),
        (PROXY, [b"[2001:db8::1]x"], None),
        (PROXY, [b"[2001:db8::1"], None),
        (PROXY, [b"\xff\xfe"], None),
        (PROXY, [b"203.0.113.009"], None),
        (PROXY, [b"1," * 5000], None),
    ],
)
def test_the_client_that_a_request_counts_for(peer: str, forwarded: list[bytes], client: str | None) -> None:
    assert find_client(peer, forwarded, TRUSTED) == client


@pytest.mark.parametrize("value", ["", "10.0.0.0/8", " 10.0.0.1 , 2001:db8::/32,::1"])
def test_trusted_proxies_that_can_be_read(value: str) -> None:
    assert load_settings(trusted_proxies=value).trusted_proxies == value


@pytest.mark.parametrize(
    "value", ["proxy.example", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.1:80", "10.0.0.1 10.0.0.2", "*"]
)
def test_trusted_proxies_that_cannot_be_read(value: str) -> None:
    with pytest.raises(
        SettingsError, match=r"TRUSTED_PROXIES is .*: it must be addresses or networks, separated by commas"
    ):
        load_settings(trusted_proxies=value)
