"""Where HTTP to agents may go, and how long an agent may ask to be left alone."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_network

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.agents.allowed import Endpoint, canonical_host, endpoint_of
from server.agents.hosts import (
    AddressRefusedError,
    Hosts,
    NoAddressError,
)
from server.agents.public_addresses import is_public
from server.domain.agents import Agent, AgentKind, WebhookSettings, check_agent
from server.domain.errors import InvalidFieldError
from tests.unit.samples import POLICY


def at(host: str, port: int = 80) -> Endpoint:
    """An endpoint, however its host is written."""
    return Endpoint(canonical_host(host), port)


PRIVATE = {
    "loopback": ("127.0.0.1", "127.255.255.254", "::1"),
    "private": (
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "fc00::",
        "fd00:ec2::254",
        "fec0::1",
    ),
    "link-local": ("169.254.0.1", "169.254.169.254", "fe80::1", "fe80::1%eth0", "fe80::a9fe:a9fe%1"),
    "carrier-grade NAT": ("100.64.0.1", "100.100.100.200", "100.127.255.254"),
    "unspecified": ("0.0.0.0", "0.1.2.3", "::"),
    "multicast": ("224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1", "ff02::1%eth0"),
    "broadcast and reserved": ("255.255.255.255", "240.0.0.1"),
    "documentation and benchmarks": (
        "192.0.2.1",
        "198.51.100.1",
        "203.0.113.1",
        "198.18.0.1",
        "2001:db8::1",
        "100::1",
    ),
    "mapped": (
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::FFFF:169.254.169.254",
        "::ffff:10.0.0.1",
        "::ffff:0.0.0.0",
        "::ffff:100.64.0.1",
    ),
    "compatible": ("::127.0.0.1", "::7f00:1", "::10.0.0.1", "::8.8.8.8"),
    "metadata of clouds": (
        "168.63.129.16",
        "192.0.0.192",
        "169.254.170.2",
        "169.254.169.253",
        "::ffff:168.63.129.16",
        "fd20:ce::254",
    ),
    "6to4 relays": ("192.88.99.0", "192.88.99.1", "192.88.99.255"),
    "AS112 and AMT": (
        "192.31.196.1",
        "192.52.193.1",
        "192.175.48.1",
        "2001:3::1",
        "2001:4:112::1",
        "2620:4f:8000::1",
    ),
    "segment routing": ("5f00::1", "5f00:ffff::1"),
    "documentation of 2024": ("3fff::1", "3fff:fff:ffff::1"),
    "discard, dummy and benchmarks": (
        "100::1",
        "100:0:0:1::1",
        "2001:2::1",
        "2001:1::1",
        "2001:10::1",
        "2001:20::1",
        "2001:30::1",
    ),
    "not allocated": ("4000::1", "8000::1", "e000::1", "1::1", "400::1"),
    "ISATAP": ("2606:4700::5efe:7f00:1", "2606:4700::200:5efe:10.0.0.1", "fe80::5efe:808:808"),
    "translated": ("::ffff:0:a00:1",),
    "NAT64": (
        "64:ff9b::7f00:1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::192.168.1.1",
        "64:ff9b:1::7f00:1",
    ),
    "6to4": ("2002:7f00:1::", "2002:7f00:1::1", "2002:a9fe:a9fe::1", "2002:c0a8:101::", "2002:a00:1::"),
    # The client's address is in the last bits, inverted.
    "Teredo": ("2001:0:4136:e378:8000:63bf:80ff:fffe", "2001::f5ff:fffe", "2001::1"),
}
PUBLIC = (
    *(
        "8.8.8.8",
        "1.1.1.1",
        "172.15.255.255",
        "172.32.0.1",
        "100.63.255.255",
        "100.128.0.1",
        "169.253.255.255",
        "11.0.0.1",
        "223.255.255.255",
    ),
    *(
        "2606:4700:4700::1111",
        "2a00:1450:4001:80b::200e",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::1",
    ),
)


# The registries of IANA for special purposes, IPv4 and IPv6, and multicast: first and last of each, and what
# is beside it where that is an ordinary address.
SPECIAL = (
    *(
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.0.0/29",
    ),
    *(
        "192.0.0.8/32",
        "192.0.0.9/32",
        "192.0.0.10/32",
        "192.0.0.170/32",
        "192.0.0.171/32",
        "192.0.2.0/24",
        "192.31.196.0/24",
    ),
    *(
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
    ),
    *("224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32"),
    *(
        "::1/128",
        "::/128",
        "64:ff9b:1::/48",
        "100::/64",
        "100:0:0:1::/64",
        "2001::/23",
        "2001::/32",
        "2001:1::1/128",
        "2001:1::2/128",
    ),
    *(
        "2001:1::3/128",
        "2001:2::/48",
        "2001:3::/32",
        "2001:4:112::/48",
        "2001:10::/28",
        "2001:20::/28",
        "2001:30::/28",
    ),
    *(
        "2001:db8::/32",
        "2620:4f:8000::/48",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    ),
)


@pytest.mark.parametrize(
    ("what", "address"), [(what, address) for what, addresses in PRIVATE.items() for address in addresses]
)
def test_a_private_address_is_refused(what: str, address: str) -> None:
    assert not is_public(address)
    with pytest.raises(AddressRefusedError):
        Hosts([]).check(at(address))


@pytest.mark.parametrize("network", SPECIAL)
def test_a_network_of_special_purpose_is_refused(network: str) -> None:
    found = ip_network(network)
    assert not is_public(str(found[0]))
    assert not is_public(str(found[-1]))


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address: str) -> None:
    assert is_public(address)
    Hosts([]).check(at(address))


@settings(deadline=None)
@given(st.ip_addresses(v=4).map(int))
def test_wrapping_an_address_up_does_not_make_it_public(number: int) -> None:
    plain = is_public(str(IPv4Address(number)))
    for prefix, shift in (
        (0xFFFF << 32, 0),
        (0x64FF9B << 96, 0),
        (0x2002 << 112, 80),
        (0x26064700 << 96 | 0x5EFE << 32, 0),
    ):
        assert is_public(str(IPv6Address(prefix | number << shift))) == plain


# Of the lists of payloads for server-side request forgery that the public has (PayloadsAllTheThings,
# HackTricks, OWASP, IP fuzzers): each is 127.0.0.1, 169.254.169.254, ::1 or the like, if it is a host at all.
SPELLINGS = (
    *(
        "127.0.0.1",
        "127.0.1.3",
        "127.127.127.127",
        "127.1",
        "127.0.1",
        "0",
        "0.0.0.0",
        "0x0",
        "00",
        "0000.0000.0000.0000",
    ),
    *(
        "2130706433",
        "017700000001",
        "0x7f000001",
        "0x7F000001",
        "0x7f.0x0.0x0.0x1",
        "0177.0.0.1",
        "0177.0.0.01",
        "00177.0.0.1",
    ),
    *(
        "0x7f.1",
        "0177.1",
        "127.0x1",
        "0x7f.0.0.0x01",
        "127.000.000.001",
        "0000000177.0.0.1",
        "0x00000000000000007f.1",
        "127.0.0.1.",
    ),
    *(
        "2852039166",
        "0xA9FEA9FE",
        "0xa9.0xfe.0xa9.0xfe",
        "0251.0376.0251.0376",
        "0251.254.169.254",
        "169.16689662",
        "169.254.43518",
    ),
    *(
        "025177524776",
        "169.254.169.254.",
        "0xa9.254.0251.254",
        "3232235521",
        "3232235777",
        "0xc0a80101",
        "192.168.257",
        "10.1",
    ),
    *(
        "4294967295",
        "037777777777",
        "425.510.425.510",
        "7147006462",
        "256.256.256.256",
        "0x100000000",
        "127.0.0.256",
        "127.0.0.0.1",
    ),
    *(
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[0000::1]",
        "[::1%25lo]",
        "[::1%25eth0]",
        "[0000:0000:0000:0000:0000:0000:0000:0001]",
    ),
    *(
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:127.0.0.1]",
        "[::FFFF:A9FE:A9FE]",
        "[::ffff:169.254.169.254]",
    ),
    *(
        "[::127.0.0.1]",
        "[::7f00:1]",
        "[::169.254.169.254]",
        "[::ffff:0:127.0.0.1]",
        "[::ffff:0:169.254.169.254]",
        "[::ffff:0:0]",
    ),
    *(
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b:1::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "[2002:a9fe:a9fe::1]",
    ),
    *(
        "[2001:0:a9fe:a9fe::1]",
        "[2001::5601:5601]",
        "[fe80::5efe:7f00:1]",
        "[2606:4700::5efe:a9fe:a9fe]",
        "[fe80::1%25eth0]",
    ),
    *(
        "[fd00:ec2::254]",
        "[fd20:ce::254]",
        "[fc00::1]",
        "[ff02::1]",
        "[::ffff:0x7f.1]",
        "[::ffff:0177.0.0.1]",
        "[127.0.0.1]",
        "[1.2.3]",
    ),
    *(
        "localhost",
        "LOCALHOST",
        "LocalHost",
        "localhost.",
        "a.localhost",
        "a.b.LocalHost.",
        "localhost..",
        "%6c%6f%63alhost",
    ),
    *(
        "①②⑦.⓪.⓪.①",
        "⑯⑨。②⑤④。⑯⑨｡②⑤④",
        "127。0。0。1",
        "127．0．0．1",
        "127｡0｡0｡1",
        "１２７.0.0.1",
        "٠١٢٣",
        "१२७.०.०.१",
        "０ｘ7f.1",
    ),
    *(
        "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
        "ｌｏｃａｌｈｏｓｔ",
        "loc\u00adalhost",
        "localhost\u3002",
        "𝐥𝐨𝐜𝐚𝐥𝐡𝐨𝐬𝐭",
        "lo\u200bcalhost",
        "ſocalhost",
        "localhoſt",
    ),
    *(
        "%31%32%37.0.0.1",
        "127.0.0.1%00.example.com",
        "127.0.0.1%2eexample.com",
        "127.0.0.1%09",
        "127.0.0.1%20",
        "0x7f%2e1",
    ),
    *(
        "8.8.8.8@127.0.0.1",
        "example.com:80@127.0.0.1",
        "example.com%40127.0.0.1",
        "example.com@[::1]",
        "user:password@localhost",
    ),
    *(
        "example.com#@127.0.0.1",
        "127.0.0.1#@example.com",
        "127.0.0.1\\@example.com",
        "example.com\\@127.0.0.1",
        "127.0.0.1:80@127.1",
    ),
    *(
        "127.0.0.1\t",
        "127.0.0.1\n.example.com",
        "127.0.0.1 .example.com",
        "127.0.0.1\0.example.com",
        "[::1",
        "::1",
        "::1]",
        "[[::1]]",
    ),
)


class TestHosts:
    @pytest.mark.parametrize("spelling", SPELLINGS)
    async def test_however_it_is_written_nobody_gets_there(
        self, spelling: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By the way of a delivery: from the URL to the addresses.

        Real names are not looked up: they would be public.
        """
        real, hosts = socket.getaddrinfo, Hosts([])

        def look_up(host: str, *arguments: object, **options: object) -> list:
            return real(host, *arguments, **{**options, "flags": socket.AI_NUMERICHOST})

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        url = f"http://{spelling}/"
        try:
            host = httpx2.URL(url).raw_host.decode()
        except (httpx2.InvalidURL, UnicodeError):
            return
        if host == "example.com":
            # Read as a user, a fragment or a path of an ordinary host: that is where it goes, whatever stands
            # beside it.
            return
        with pytest.raises((AddressRefusedError, NoAddressError)):
            await hosts.addresses(at(host))

    @pytest.mark.parametrize("spelling", SPELLINGS)
    def test_what_is_refused_at_registration_and_what_is_asked_are_one_host(self, spelling: str) -> None:
        """Two readers of URLs: where they differ, one could be shown what the other does not go to."""
        url = f"http://{spelling}/"
        try:
            check_agent(
                Agent("", "x", AgentKind.WEBHOOK, 0, 0, settings=WebhookSettings(url, "env:X")), POLICY
            )
            asked = httpx2.URL(url)
        except (InvalidFieldError, httpx2.InvalidURL):
            return
        assert canonical_host(asked.raw_host.decode()) == endpoint_of(url).host

    @pytest.mark.parametrize(
        "host",
        [
            "localhost",
            "LOCALHOST",
            "localhost.",
            "a.localhost",
            "A.LocalHost.",
            "127.0.0.1",
            "::1",
            "[::1]",
            "[fe80::1%25eth0]",
        ],
    )
    def test_a_loopback_host_is_refused_by_its_name(self, host: str) -> None:
        with pytest.raises(AddressRefusedError, match="AGENT_ALLOWED_HOSTS") as caught:
            Hosts([]).check(at(host))
        assert host not in str(caught.value)

    @pytest.mark.parametrize(
        "host",
        ["agent.example", "localhost.example", "notlocalhost", "8.8.8.8", "[2606:4700:4700::1111]", ""],
    )
    def test_any_other_host_passes_by_its_name(self, host: str) -> None:
        """It is judged by its addresses, once it has some."""
        Hosts([]).check(at(host))

    def test_a_host_that_the_setting_names_is_allowed(self) -> None:
        hosts = Hosts(["LocalHost", "10.0.0.7", "[::1]"])
        for host in ("localhost", "LOCALHOST", "localhost.", "10.0.0.7", "10.7", "::1", "[::1]", "[0:0::1]"):
            hosts.check(at(host))
        for host in ("a.localhost", "10.0.0.8", "127.0.0.1", "::2", "[::ffff:10.0.0.7]"):
            with pytest.raises(AddressRefusedError):
                hosts.check(at(host))

    def test_a_port_in_the_setting_allows_that_port_alone(self) -> None:
        hosts = Hosts(["localhost:11434", "[::1]:8", "10.0.0.7:9", "10.0.0.7:10"])
        for host, port in (("localhost", 11434), ("::1", 8), ("10.0.0.7", 9), ("10.0.0.7", 10)):
            hosts.check(at(host, port))
        for host, port in (("localhost", 80), ("localhost", 8), ("::1", 11434), ("10.0.0.7", 11)):
            with pytest.raises(AddressRefusedError):
                hosts.check(at(host, port))
        assert hosts.list_open() == []

    def test_without_one_it_opens_all_ports_but_those_of_the_service(self) -> None:
        hosts = Hosts(["localhost", "127.0.0.1", "127.0.0.1:50051"])
        hosts.add_own_port(50051)
        hosts.add_own_port(3000)
        hosts.check(at("localhost", 11434))
        # Named with its host, so it is meant.
        hosts.check(at("127.0.0.1", 50051))
        for host, port in (("localhost", 50051), ("localhost", 3000), ("127.0.0.1", 3000), ("127.1", 3000)):
            with pytest.raises(AddressRefusedError):
                hosts.check(at(host, port))
        assert hosts.list_open() == ["localhost", "127.0.0.1"]

    @pytest.mark.parametrize(
        "host",
        [
            "localhost",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "127.1",
            "127.0.0.1",
            "::1",
            "0",
            "::ffff:7f00:1",
        ],
    )
    async def test_a_name_is_judged_by_its_addresses(self, host: str) -> None:
        """However it is written; the resolver reads these without asking anybody."""
        with pytest.raises(AddressRefusedError) as caught:
            await Hosts([]).addresses(at(host))
        assert "127.0.0.1" not in str(caught.value)
        assert await Hosts([host]).addresses(at(host))

    async def test_every_address_of_a_name_must_be_public(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for found, fine in (
            (["8.8.8.8"], True),
            (["8.8.8.8", "10.0.0.1"], False),
            (["::1", "8.8.8.8"], False),
            (["1.1.1.1", "8.8.8.8"], True),
        ):
            monkeypatch.setattr(Hosts, "_resolve", staticmethod(lambda host, found=found: found))
            assert await Hosts(["a.example"]).addresses(at("A.example")) == found
            if fine:
                assert await Hosts([]).addresses(at("a.example")) == found
            else:
                with pytest.raises(AddressRefusedError):
                    await Hosts([]).addresses(at("a.example"))

    @pytest.mark.parametrize("host", ["", "a..b", "x" * 64 + ".example", "999.999.999.999"])
    async def test_a_name_that_cannot_be_resolved_is_an_error(
        self, host: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def resolve(host: str) -> list[str]:
            host.encode("idna")
            raise OSError("no such name")

        monkeypatch.setattr(Hosts, "_resolve", staticmethod(resolve))
        with pytest.raises(NoAddressError):
            await Hosts([]).addresses(at(host))
