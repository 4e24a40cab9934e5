"""Where HTTP to agents may go, how long an agent may ask to be left alone, and which secrets may be read."""

import os
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.agents.http import (
    MAX_DETAIL_CHARACTERS,
    MAX_RETRY_AFTER_SECONDS,
    AddressRefusedError,
    Hosts,
    NoAddressError,
    cause,
    detail,
    is_public,
    is_temporary,
    read_clean_json,
    read_json,
    retry_after_s,
)
from server.agents.secrets import MAX_SECRET_BYTES, SecretError, Secrets
from tests.unit.samples import T0

PRIVATE = {
    "loopback": ("127.0.0.1", "127.255.255.254", "::1"),
    "private": ("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "fc00::", "fd00:ec2::254", "fec0::1"),
    "link-local": ("169.254.0.1", "169.254.169.254", "fe80::1", "fe80::1%eth0", "fe80::a9fe:a9fe%1"),
    "carrier-grade NAT": ("100.64.0.1", "100.100.100.200", "100.127.255.254"),
    "unspecified": ("0.0.0.0", "0.1.2.3", "::"),
    "multicast": ("224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1", "ff02::1%eth0"),
    "broadcast and reserved": ("255.255.255.255", "240.0.0.1"),
    "documentation and benchmarks": ("192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "2001:db8::1", "100::1"),
    "mapped": ("::ffff:127.0.0.1", "::ffff:7f00:1", "::FFFF:169.254.169.254", "::ffff:10.0.0.1", "::ffff:0.0.0.0", "::ffff:100.64.0.1"),
    "compatible": ("::127.0.0.1", "::7f00:1", "::10.0.0.1"),
    "translated": ("::ffff:0:a00:1",),
    "NAT64": ("64:ff9b::7f00:1", "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::192.168.1.1", "64:ff9b:1::7f00:1"),
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
    *("2606:4700:4700::1111", "2a00:1450:4001:80b::200e", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"),
)


@pytest.mark.parametrize(("what", "address"), [(what, address) for what, addresses in PRIVATE.items() for address in addresses])
def test_no_agent_may_be_at(what: str, address: str) -> None:
    assert not is_public(address)
    with pytest.raises(AddressRefusedError):
        Hosts([]).check(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_agent_may_be_at(address: str) -> None:
    assert is_public(address)
    Hosts([]).check(address)


@settings(deadline=None)
@given(st.ip_addresses(v=4).map(int))
def test_wrapping_an_address_up_does_not_make_it_public(number: int) -> None:
    plain = is_public(str(IPv4Address(number)))
    for prefix, shift in ((0xFFFF << 32, 0), (0x64FF9B << 96, 0), (0x2002 << 112, 80)):
        assert is_public(str(IPv6Address(prefix | number << shift))) == plain


class TestHosts:
    @pytest.mark.parametrize(
        "host", ["localhost", "LOCALHOST", "localhost.", "a.localhost", "A.LocalHost.", "127.0.0.1", "::1", "[::1]", "[fe80::1%25eth0]"]
    )
    def test_what_is_refused_by_its_name(self, host: str) -> None:
        with pytest.raises(AddressRefusedError, match="AGENT_ALLOWED_HOSTS") as caught:
            Hosts([]).check(host)
        assert host not in str(caught.value)

    @pytest.mark.parametrize("host", ["agent.example", "localhost.example", "notlocalhost", "8.8.8.8", "[2606:4700:4700::1111]", ""])
    def test_what_is_not(self, host: str) -> None:
        """It is judged by its addresses, once it has some."""
        Hosts([]).check(host)

    def test_what_the_setting_names_is_not_judged(self) -> None:
        hosts = Hosts(["LocalHost", "10.0.0.7", "[::1]"])
        for host in ("localhost", "LOCALHOST", "10.0.0.7", "::1", "[::1]"):
            hosts.check(host)
        for host in ("a.localhost", "10.0.0.8", "127.0.0.1", "::2"):
            with pytest.raises(AddressRefusedError):
                hosts.check(host)

    @pytest.mark.parametrize(
        "host", ["localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "127.0.0.1", "::1", "0", "::ffff:7f00:1"]
    )
    async def test_a_name_is_judged_by_its_addresses(self, host: str) -> None:
        """However it is written; the resolver reads these without asking anybody."""
        with pytest.raises(AddressRefusedError) as caught:
            await Hosts([]).addresses(host, 80)
        assert "127.0.0.1" not in str(caught.value)
        assert await Hosts([host]).addresses(host, 80)

    async def test_every_address_of_a_name_must_be_public(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for found, fine in (
            (["8.8.8.8"], True),
            (["8.8.8.8", "10.0.0.1"], False),
            (["::1", "8.8.8.8"], False),
            (["1.1.1.1", "8.8.8.8"], True),
        ):
            monkeypatch.setattr(Hosts, "_resolve", staticmethod(lambda host, port, found=found: found))
            assert await Hosts(["a.example"]).addresses("A.example", 80) == found
            if fine:
                assert await Hosts([]).addresses("a.example", 80) == found
            else:
                with pytest.raises(AddressRefusedError):
                    await Hosts([]).addresses("a.example", 80)

    @pytest.mark.parametrize("host", ["", "a..b", "x" * 64 + ".example", "999.999.999.999"])
    async def test_a_name_that_cannot_be_resolved(self, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def resolve(host: str, port: int) -> list[str]:
            host.encode("idna")
            raise OSError("no such name")

        monkeypatch.setattr(Hosts, "_resolve", staticmethod(resolve))
        with pytest.raises(NoAddressError):
            await Hosts([]).addresses(host, 80)


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            *((None, 0), ("", 0), ("0", 0), ("1", 1), (" 30 ", 30), ("007", 7), ("600", 600), ("601", 600), ("9" * 400, 600)),
            *(("-1", 0), ("1.5", 0), ("1e3", 0), ("soon", 0), ("0x10", 0), ("+5", 0), ("\xb2", 0), ("nan", 0), ("inf", 0), ("5, 6", 0)),
            # The clock stands at 2026-01-31T09:05:00.000Z.
            *(("Sat, 31 Jan 2026 09:05:30 GMT", 30), ("Sat, 31 Jan 2026 10:05:30 +0100", 30), ("Saturday, 31-Jan-26 09:05:30 GMT", 30)),
            *(("Sat, 31 Jan 2026 09:05:00 GMT", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("Fri, 31 Dec 9999 23:59:59 GMT", 600)),
            *(("Mon, 01 Jan 0001 00:00:00 GMT", 0), ("Mon, 99 Jan 2026 00:00:00 GMT", 0), ("Mon, 01 Jan 99999 00:00:00 GMT", 0)),
            ("Mon, 01 Jan 2024 00:00:00 +9999999999999999", 0),
        ],
    )
    def test_what_it_says(self, value: str | None, seconds: float) -> None:
        headers = httpx2.Headers({} if value is None else {"Retry-After": value.encode("latin-1")})
        assert retry_after_s(headers, T0) == pytest.approx(seconds)

    @given(
        st.text(st.characters(max_codepoint=255))
        | st.from_regex(r"\A[A-Z][a-z]{2}, [0-9]{1,6} Jan [0-9]{1,6} [0-9]+:[0-9]+:[0-9]+ [-+][0-9]{1,6}\Z")
    )
    def test_whatever_it_says_it_is_a_time_within_bounds(self, value: str) -> None:
        assert 0 <= retry_after_s(httpx2.Headers({"Retry-After": value.encode("latin-1")}), T0) <= MAX_RETRY_AFTER_SECONDS


@pytest.mark.parametrize(
    ("status", "temporary", "with_retry_after"),
    [
        *((number, True, True) for number in (408, 409, 421, 425, 429, 500, 501, 503, 599)),
        *((number, False, False) for number in (300, 307, 400, 401, 402, 403, 404, 405, 410, 422, 423, 451)),
        (413, False, True),
    ],
)
def test_which_status_is_worth_another_attempt(status: int, temporary: bool, with_retry_after: bool) -> None:
    assert is_temporary(status, httpx2.Headers()) is temporary
    assert is_temporary(status, httpx2.Headers({"Retry-After": "1"})) is with_retry_after


class TestDetail:
    @pytest.mark.parametrize(
        ("url", "place"),
        [
            ("http://agent.example/hook?token=1", "agent.example:80"),
            ("https://user:password@Agent.Example/v1", "agent.example:443"),
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("https://[::1]:8443/", "[::1]:8443"),
            *((url, "an address that is none") for url in ("http://[x", "http://x:99999", "ftp://x", "")),
        ],
    )
    def test_it_names_host_and_port_and_no_more_of_the_address(self, url: str, place: str) -> None:
        assert (detail(url, "", ""), detail(url, "oh", "")) == (place, f"{place}: oh")

    @given(
        st.lists(st.text() | st.sampled_from(["whsec_", "c2Vj/cmV0", "c2Vj\\/cmV0", "c2Vj%2FcmV0", "\x1b[0m", "\r\n"])).map("".join),
        st.sampled_from(["c2Vj/cmV0", "whsec_c2Vj/cmV0"]),
    )
    def test_it_is_short_and_harmless_and_holds_no_secret(self, words: str, secret: str) -> None:
        told = detail("https://a.example/", words, secret)
        assert told.isprintable()
        assert len(told) <= len("a.example:443: ") + MAX_DETAIL_CHARACTERS
        assert not any(form in told for form in ("c2Vj/cmV0", "c2Vj\\/cmV0", "c2Vj%2FcmV0"))

    def test_the_secret_is_replaced_before_the_words_are_cut(self) -> None:
        told = detail("http://x/", "y" * (MAX_DETAIL_CHARACTERS - 3) + "secret", "secret")
        assert told == "x:80: " + "y" * (MAX_DETAIL_CHARACTERS - 3) + "[se"


def test_the_cause_of_a_failure_is_never_empty() -> None:
    assert cause(httpx2.ConnectTimeout("")) == "ConnectTimeout"
    broken = httpx2.ReadError("")
    broken.__cause__ = ConnectionResetError(104, "a text of whoever raised it")
    assert cause(broken) == "Connection reset by peer"


class TestJson:
    @pytest.mark.parametrize(
        ("text", "value", "cleaned"),
        [
            (r'{"a":"x\ud83e"}', {"a": "x\ud83e"}, {"a": "x\ufffd"}),
            (r'["\ud83e\udd16"]', ["🤖"], ["🤖"]),
            (r'["\udd16\ud83e\udd16",1,null]', ["\udd16🤖", 1, None], ["\ufffd🤖", 1, None]),
            (r'{"\ud83e":{"\\ud83e":"\u0000"}}', {"\ud83e": {r"\ud83e": "\0"}}, {"\ufffd": {r"\ud83e": "\0"}}),
        ],
    )
    def test_halves_of_a_surrogate_pair(self, text: str, value: object, cleaned: object) -> None:
        assert read_json(text) == value
        assert read_clean_json(text) == cleaned

    @pytest.mark.parametrize(
        "text", ["", "x", "NaN", "[Infinity]", "'x'", '"\0"', "[" * 200_000, r'["\ud83e",NaN]', r'["\ud83e"' + ",[" * 200_000]
    )
    def test_what_is_not_json(self, text: str) -> None:
        for read in (read_json, read_clean_json):
            with pytest.raises(ValueError):  # noqa: PT011 - of whichever reader
                read(text)


class TestSecrets:
    @pytest.fixture
    def vault(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A directory of secrets, beside something that is none of the agents' business."""
        monkeypatch.setenv("AGENT_SECRET_X", " hunter2\n")
        monkeypatch.setenv("AGENT_SECRET_EMPTY", " \n")
        monkeypatch.setenv("DATABASE_PASSWORD", "none of theirs")
        (tmp_path / "vault").mkdir()
        (tmp_path / "vault" / "x").write_text("hunter3\n")
        (tmp_path / "private").write_text("none of theirs")
        return tmp_path / "vault"

    @pytest.fixture
    def secrets(self, vault: Path) -> Secrets:
        return Secrets(["AGENT_SECRET_*", f"{vault}/*"])

    def test_one_in_the_environment_or_in_a_file(self, secrets: Secrets, vault: Path) -> None:
        assert secrets.read("env:AGENT_SECRET_X") == "hunter2"
        assert secrets.read(f"file:{vault}/x") == "hunter3"

    def test_it_is_read_anew_each_time(self, secrets: Secrets, vault: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        secrets.read("env:AGENT_SECRET_X"), secrets.read(f"file:{vault}/x")
        monkeypatch.setenv("AGENT_SECRET_X", "new2")
        (vault / "x").write_text("new3")
        assert (secrets.read("env:AGENT_SECRET_X"), secrets.read(f"file:{vault}/x")) == ("new2", "new3")

    @pytest.mark.parametrize(
        "reference",
        [
            *("env:DATABASE_PASSWORD", "env:XAGENT_SECRET_X", "env:agent_secret_x", "env:PATH", "env:AGENT_SECRET", "file:{vault}", "env:"),
            *("file:{vault}/../private", "file:{vault}/x/../../private", "file:{vault}/./x", "file:{vault}//x", "file:/{vault}/x"),
            *(
                "file:{vault}/../vault/x",
                "file:{vault}/x/",
                "file:/run/secrets/../../etc/passwd",
                "file:/etc/passwd",
                "file:/proc/self/environ",
            ),
        ],
    )
    def test_what_the_setting_does_not_name(self, secrets: Secrets, vault: Path, reference: str) -> None:
        with pytest.raises(SecretError, match="AGENT_SECRETS does not allow") as caught:
            secrets.read(reference.format(vault=vault))
        assert "none of theirs" not in str(caught.value)

    def test_nothing_is_allowed_unless_named(self, vault: Path) -> None:
        for reference in ("env:AGENT_SECRET_X", f"file:{vault}/x"):
            with pytest.raises(SecretError):
                Secrets([]).read(reference)

    @pytest.mark.parametrize("reference", ["env:AGENT_SECRET_ABSENT", "env:AGENT_SECRET_EMPTY", "file:{vault}/empty", "file:{vault}/blank"])
    def test_one_that_is_not_set_or_empty(self, secrets: Secrets, vault: Path, reference: str) -> None:
        (vault / "empty").touch()
        (vault / "blank").write_text(" \t\n")
        with pytest.raises(SecretError, match="not set or empty"):
            secrets.read(reference.format(vault=vault))

    def test_a_path_is_no_variable_and_a_variable_no_file(self, secrets: Secrets, vault: Path) -> None:
        with pytest.raises(SecretError, match="not set"):
            secrets.read(f"env:{vault}/x")

    def test_one_that_cannot_be_read(self, secrets: Secrets, vault: Path) -> None:
        (vault / "directory").mkdir()
        (vault / "closed").write_text("hunter4")
        (vault / "closed").chmod(0)
        for name in ("absent", "directory", *(["closed"] if os.geteuid() else [])):
            with pytest.raises(SecretError, match="cannot be read") as caught:
                secrets.read(f"file:{vault}/{name}")
            assert f"{vault}/{name}" in str(caught.value)

    def test_one_that_is_not_text_is_not_told(self, secrets: Secrets, vault: Path) -> None:
        (vault / "binary").write_bytes(b"hunter2\xff\xfe\0")
        with pytest.raises(SecretError, match="not text") as caught:
            secrets.read(f"file:{vault}/binary")
        assert "hunter2" not in str(caught.value)

    def test_a_file_without_end_is_read_so_far(self, secrets: Secrets, vault: Path) -> None:
        (vault / "huge").write_text("x" * (MAX_SECRET_BYTES + 1))
        assert len(secrets.read(f"file:{vault}/huge")) == MAX_SECRET_BYTES
