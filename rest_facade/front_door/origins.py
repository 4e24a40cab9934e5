"""Makes all decisions on Origin, Host and CORS: which web pages may use the API, and under which names.

A browser sends the requests of any page to any address, also to one that only its own machine can reach.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

import structlog

from eliza.sessions.errors import truncate
from rest_facade.shapes import fields
from rest_facade.shapes.errors import ApiError

Headers = Sequence[tuple[bytes, bytes]]
"""The header fields of a request or an answer, their names in lower case."""

ALWAYS: Final = ((b"x-content-type-options", b"nosniff"), (b"vary", b"Origin"))
"""Headers of every answer: no page may run it as a script, no cache may give it to another origin."""

ANY: Final = "*"
"""The setting that lets in pages of every origin, or requests for every host."""

PREFLIGHT_SECONDS: Final = 24 * 60 * 60
"""How long a browser may keep the answer to a preflight."""

MAX_LOGGED: Final = 100
"""How many refused origins and hosts are logged: each once, and no more after that, whatever clients make up.
"""

_METHODS: Final = b"GET, HEAD, POST, PATCH, DELETE, OPTIONS"
_EXPOSED: Final = ", ".join(
    (
        *("Retry-After", "RateLimit", "RateLimit-Policy", "WWW-Authenticate", "Allow", "ETag"),
        "X-Request-Id",
        *("Idempotency-Replayed", fields.UNKNOWN_HEADER, fields.APPLIED_HEADER),
    )
).encode()

_OWN_SITES: Final = (b"same-origin", b"none")
_FOREIGN_SITES: Final = (b"cross-site", b"same-site")
"""The values of Sec-Fetch-Site; `none` is an address that the user has typed."""

_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^:/?#@\[\]\s]+?)\.?(?::([0-9]*))?")
_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://(.+)")
_PORTS: Final = {"http": "80", "https": "443"}

_log = structlog.get_logger(__name__)


class Origins:
    """The pages and the hosts that one address of the API serves."""

    def __init__(
        self, allowed_origins: Iterable[str], allowed_hosts: Iterable[str], *, is_loopback: bool
    ) -> None:
        """`allowed_origins` holds origins, `https://*.example.com` or `*`; `allowed_hosts` hosts,
        `*.example.com` or `*`.

        Without origins, pages of this machine are allowed on loopback, and all pages elsewhere. Without
        hosts, the names of this machine are allowed on loopback, and all names elsewhere.
        """
        origins = [_normal(origin) for origin in allowed_origins]
        hosts = [host.lower().rstrip(".") for host in allowed_hosts]
        self._is_any_origin = ANY in origins or not (origins or is_loopback)
        self._is_any_host = ANY in hosts or not (hosts or is_loopback)
        self._takes_loopback_origins = is_loopback and not origins
        self._origins = origins
        self._hosts = hosts
        self._logged: set[tuple[str, str]] = set()

    def check(self, headers: Headers) -> None:
        """Raises ApiError where a request must not be served: HOST_NOT_ALLOWED, ORIGIN_NOT_ALLOWED."""
        hosts = _values(headers, b"host")
        for host in hosts:
            if not self._is_allowed_host(host):
                self._log_once("REST_ALLOWED_HOSTS", truncate(host), (_split(host) or ("",))[0])
                reason = "This service is not known by this host: REST_ALLOWED_HOSTS does not name it"
                raise ApiError("HOST_NOT_ALLOWED", reason, host=truncate(host))
        if not self._is_any_origin and _is_foreign(headers, hosts):
            # A browser sends Origin with all that a page can read, but not with links that a user follows.
            origins = _values(headers, b"origin") or [""]
            for origin in origins:
                if not self._is_allowed_origin(origin):
                    self._log_once(
                        "REST_ALLOWED_ORIGINS", truncate(origin), origin if _ORIGIN.fullmatch(origin) else ""
                    )
                    reason = (
                        "Pages of this origin may not use this service: REST_ALLOWED_ORIGINS does not name it"
                    )
                    raise ApiError("ORIGIN_NOT_ALLOWED", reason, origin=truncate(origin))

    def cors(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """The header fields by which a browser lets a page read the answer.

        They allow no credentials: a client sends its key in a header.
        """
        origins = [value for name, value in headers if name == b"origin"]
        if self._is_any_origin:
            answer = [(b"access-control-allow-origin", b"*")]
        elif len(origins) == 1 and self._is_allowed_origin(origins[0].decode("latin-1")):
            answer = [(b"access-control-allow-origin", origins[0])]
        else:
            return []
        answer.append((b"access-control-expose-headers", _EXPOSED))
        if origins and any(name == b"access-control-request-method" for name, _ in headers):
            answer.append((b"access-control-allow-methods", _METHODS))
            answer.append((b"access-control-max-age", str(PREFLIGHT_SECONDS).encode()))
            if wanted := [value for name, value in headers if name == b"access-control-request-headers"]:
                answer.append((b"access-control-allow-headers", b", ".join(wanted)))
        return answer

    def _is_allowed_host(self, text: str) -> bool:
        if self._is_any_host:
            return True
        found = _split(text)
        return found is not None and (
            is_loopback(found[0]) or any(_matches(found[0], host) for host in self._hosts)
        )

    def _is_allowed_origin(self, text: str) -> bool:
        origin = _normal(text)
        found = _ORIGIN.fullmatch(origin)
        authority = _split(found[2]) if found else None
        if found is None or authority is None:
            return False
        if self._takes_loopback_origins and found[1] in _PORTS and is_loopback(authority[0]):
            return True
        return any(_matches(origin, allowed) for allowed in self._origins)

    def _log_once(self, setting: str, value: str, to_add: str) -> None:
        """Logs the first refusal of an origin or a host, with the setting that would allow it."""
        if (setting, value) not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged.add((setting, value))
            add = {"add": truncate(to_add)} if to_add else {}
            _log.warning(
                "refused requests: a setting does not name their origin or host",
                setting=setting,
                value=value,
                **add,
            )


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether a host names the caller's own machine. IPv6 addresses may have brackets."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _is_foreign(headers: Headers, hosts: Sequence[str]) -> bool:
    """Whether a request comes from a page of another origin, as its browser says or as its origin shows."""
    sites = [value.strip().lower() for name, value in headers if name == b"sec-fetch-site"]
    if any(site in _FOREIGN_SITES for site in sites):
        return True
    if any(site in _OWN_SITES for site in sites):
        return False
    return any(not is_same(origin, hosts) for origin in _values(headers, b"origin"))


def is_same(origin: str, hosts: Sequence[str]) -> bool:
    """Whether an origin has the host and the port of the header Host.

    Its scheme it cannot have: TLS may end before us.
    """
    found = _ORIGIN.fullmatch(origin.lower())
    if found is None or len(hosts) != 1:
        return False
    ours, theirs = _split(hosts[0]), _split(found[2])
    usual = _PORTS.get(found[1], "")
    return (
        ours is not None
        and theirs is not None
        and (ours[0], ours[1] or usual) == (theirs[0], theirs[1] or usual)
    )


def _values(headers: Headers, wanted: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for name, value in headers if name == wanted]


@lru_cache(maxsize=256)
def _split(authority: str) -> tuple[str, str] | None:
    """The host in lower case, and the port or an empty text; None where it is none."""
    found = _HOST.fullmatch(authority.lower())
    return (found[1], found[2] or "") if found else None


def _normal(origin: str) -> str:
    """An origin in lower case, without the usual port of its scheme."""
    origin = origin.lower()
    scheme = origin.partition("://")[0]
    return origin.removesuffix(f":{_PORTS[scheme]}") if scheme in _PORTS else origin


def _matches(value: str, pattern: str) -> bool:
    """Whether a host or an origin is the one of a pattern, or of the domains below its `*.`."""
    before, star, after = pattern.partition("*")
    if not star:
        return value == pattern
    return value.startswith(before) and value.endswith(after) and len(value) > len(before) + len(after)
