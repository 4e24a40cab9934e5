"""Which pages and hosts are served, rule by rule."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from rest_facade.front_door.origins import MAX_LOGGED, Origins, is_loopback
from rest_facade.shapes.errors import ApiError

HOST = "127.0.0.1:3000"
FOREIGN = "https://evil.example"


def headers(**named: str | list[str]) -> list[tuple[bytes, bytes]]:
    """Header fields: `sec_fetch_site="none"`; a list is several of a name."""
    fields = {"host": HOST, **named}
    return [
        (name.replace("_", "-").encode(), value.encode("latin-1"))
        for name, values in fields.items()
        for value in ([values] if isinstance(values, str) else values)
    ]


def verdict(origins: Origins, **named: Any) -> str:
    try:
        origins.check(headers(**named))
    except ApiError as error:
        return error.row.reason
    return ""


def local(origins: tuple[str, ...] = (), hosts: tuple[str, ...] = ()) -> Origins:
    return Origins(origins, hosts, is_loopback=True)


def public(origins: tuple[str, ...] = (), hosts: tuple[str, ...] = ()) -> Origins:
    return Origins(origins, hosts, is_loopback=False)


@pytest.mark.parametrize(
    ("sent", "is_refused"),
    [
        ({}, False),
        ({"origin": FOREIGN}, True),
        ({"origin": "null"}, True),
        ({"origin": ""}, True),
        ({"origin": "nonsense"}, True),
        ({"origin": [f"http://{HOST}", FOREIGN]}, True),
        ({"sec_fetch_site": "none"}, False),
        ({"sec_fetch_site": "same-origin", "origin": FOREIGN}, False),
        ({"sec_fetch_site": "cross-site"}, True),
        ({"sec_fetch_site": "same-site"}, True),
        ({"sec_fetch_site": "Cross-Site"}, True),
        ({"sec_fetch_site": ["none", "cross-site"]}, True),
        ({"sec_fetch_site": "cross-site", "origin": f"http://{HOST}"}, False),
        ({"sec_fetch_site": "cross-site", "origin": FOREIGN}, True),
        # A value that no browser sends counts as absent.
        ({"sec_fetch_site": "else", "origin": FOREIGN}, True),
        ({"origin": "https://sessions.example", "host": "sessions.example"}, False),
        ({"origin": "http://localhost:5173"}, False),
        ({"origin": "https://app.localhost:5173", "sec_fetch_site": "cross-site"}, False),
        ({"origin": "http://127.9.9.9", "sec_fetch_site": "cross-site"}, False),
        ({"origin": "http://[::1]:80", "sec_fetch_site": "cross-site"}, False),
        ({"origin": "http://localhost.evil.example"}, True),
        ({"origin": "http://evillocalhost"}, True),
        ({"origin": "http://127.0.0.1.evil.example"}, True),
        ({"origin": "ftp://localhost"}, True),
        ({"origin": "http://evil.example@localhost"}, True),
        ({"origin": "http://localhost/"}, True),
    ],
)
def test_a_loopback_service_refuses_foreign_pages(sent: dict[str, Any], is_refused: bool) -> None:
    origins = local(hosts=("sessions.example",))
    assert verdict(origins, **sent) == ("ORIGIN_NOT_ALLOWED" if is_refused else "")
    assert verdict(public(), **sent) == ""


@pytest.mark.parametrize(
    ("origin", "host", "is_own"),
    [
        ("https://a.example", "a.example", True),
        ("https://a.example", "A.EXAMPLE:443", True),
        ("https://a.example:443", "a.example", True),
        ("http://a.example", "a.example:80", True),
        ("http://a.example", "a.example:443", False),
        ("https://a.example:8443", "a.example:8443", True),
        ("https://a.example:8443", "a.example", False),
        ("https://a.example", "a.example.", True),
        ("https://b.example", "a.example", False),
        ("http://[::1]:3000", "[::1]:3000", True),
        ("https://a.example", ["a.example", "a.example"], False),
    ],
)
def test_a_page_of_its_own_is_known_by_host_and_port(
    origin: str, host: str | list[str], is_own: bool
) -> None:
    origins = public(origins=("https://app.example",))
    assert verdict(origins, origin=origin, host=host) == ("" if is_own else "ORIGIN_NOT_ALLOWED")


@pytest.mark.parametrize(
    ("allowed", "origin", "is_allowed"),
    [
        ("https://app.example", "https://app.example", True),
        ("https://app.example", "https://APP.example:443", True),
        ("https://APP.example:443", "https://app.example", True),
        ("https://app.example", "http://app.example", False),
        ("https://app.example", "https://app.example:8443", False),
        ("https://app.example", "https://app.example.evil", False),
        ("https://*.example.com", "https://a.example.com", True),
        ("https://*.example.com", "https://a.b.example.com", True),
        ("https://*.example.com", "https://example.com", False),
        ("https://*.example.com", "https://.example.com", False),
        ("https://*.example.com", "http://a.example.com", False),
        ("https://*.example.com", "https://evilexample.com", False),
        ("https://*.example.com", "https://evil.com/.example.com", False),
        ("https://*.example.com", "https://evil.com#.example.com", False),
        ("https://*.example.com", "https://evil.com:1.example.com", False),
        ("https://*.example.com", "https://evil.com:80@a.example.com", False),
        ("https://*.example.com:8443", "https://a.example.com:8443", True),
        ("https://*.example.com:8443", "https://a.example.com", False),
        ("capacitor://localhost", "capacitor://localhost", True),
        ("*", "null", True),
        ("*", "https://anything", True),
        # The setting takes the place of the default.
        ("https://app.example", "http://localhost:5173", False),
    ],
)
def test_the_origins_that_the_setting_names_are_allowed(allowed: str, origin: str, is_allowed: bool) -> None:
    for origins in (local((allowed,)), public((allowed,))):
        assert verdict(origins, origin=origin, sec_fetch_site="cross-site") == (
            "" if is_allowed else "ORIGIN_NOT_ALLOWED"
        )


def test_an_allowed_page_may_read_the_answer_and_its_headers() -> None:
    page = "http://localhost:5173"
    told = dict(local().cors(headers(origin=page)))
    assert told[b"access-control-allow-origin"] == page.encode()
    assert b"Retry-After" in told[b"access-control-expose-headers"]
    assert local().cors(headers(origin=FOREIGN)) == local().cors(headers()) == []
    for sent in ({}, {"origin": "null"}, {"origin": FOREIGN}):
        told = dict(public().cors(headers(**sent)))
        assert told[b"access-control-allow-origin"] == b"*"
        assert b"access-control-allow-credentials" not in told


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("localhost", True),
        ("LOCALHOST:3000", True),
        ("localhost.:3000", True),
        ("app.localhost", True),
        ("127.0.0.1:3000", True),
        ("127.255.0.9", True),
        ("[::1]:3000", True),
        ("[::ffff:127.0.0.1]", True),
        ("api.example.com:8443", True),
        ("a.b.internal", True),
        ("internal", False),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example:127.0.0.1", False),
        ("localhost@evil.example", False),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("", False),
        ("[::", False),
        ("[::]", False),
        (["localhost", "evil.example"], False),
    ],
)
def test_a_host_is_allowed_where_it_is_this_machines_or_named(
    host: str | list[str], is_allowed: bool
) -> None:
    named = ("api.example.com", "*.Internal")
    for origins in (local(hosts=named), public(hosts=named)):
        assert verdict(origins, host=host) == ("" if is_allowed else "HOST_NOT_ALLOWED")
    for origins in (local(hosts=("*",)), public()):
        assert verdict(origins, host=host) == ""


def test_a_request_without_a_host_is_served() -> None:
    local().check([(b"accept", b"*/*")])


def test_a_refusal_is_logged_once_and_not_without_end() -> None:
    origins = local()
    with capture_logs() as logs:
        for _ in range(3):
            verdict(origins, origin=FOREIGN)
            verdict(origins, host="api.example:8080")
        lines = [str(line) for line in logs]
        assert len(lines) == 2
        assert "REST_ALLOWED_ORIGINS" in lines[0]
        assert FOREIGN in lines[0]
        assert "REST_ALLOWED_HOSTS" in lines[1]
        assert "api.example" in lines[1]
        for number in range(2 * MAX_LOGGED):
            verdict(origins, host=f"host-{number}.example")
        assert len(logs) == MAX_LOGGED


@pytest.mark.parametrize("host", ["::1", "127.0.0.1", "localhost", "::ffff:127.1.2.3"])
def test_an_address_of_this_machine_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "10.0.0.1", "fe80::1", "localhost.example", "169.254.169.254"]
)
def test_any_other_address_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)
