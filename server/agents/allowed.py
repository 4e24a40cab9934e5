"""The hosts (AGENT_ALLOWED_HOSTS) and secrets (AGENT_SECRETS) that an operator allows agents."""

import ipaddress
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, TypeAlias
from urllib.parse import urlsplit

PORTS: Final = {"http": 80, "https": 443}
"""The port of a URL that names none, by its scheme."""

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_HOST: Final = re.compile(r"(?:\*|(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|[0-9a-f:.]+)")
_NAMED_PORT: Final = re.compile(r"(?P<host>\[[^]]*\]|[^:]*):(?P<port>[0-9]{1,5})", re.ASCII)
_UNCLEAR: Final = re.compile(r"[,@*?\[\s]")
"""Characters that mean something else in an entry of the setting."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an agent is: the host as `canonical_host` writes it, and the port."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class HostRule:
    """A host that a setting names. No port: all of them. `*` is any host, `*.example.com` any below it."""

    host: str
    port: int | None

    def matches(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint is one that the rule names."""
        if self.port not in (None, endpoint.port):
            return False
        if self.host.startswith("*"):
            return endpoint.host.endswith(self.host[1:])
        return endpoint.host == self.host


@dataclass(frozen=True, slots=True)
class SecretRule:
    """Secrets that a setting names: variables (`env`) or files (`file`).

    With a host: for agents there alone.
    """

    kind: str
    pattern: str
    host: HostRule | None

    def matches(self, kind: str, name: str) -> bool:
        return self.kind == kind and matches_path(name, self.pattern)


def literal(host: str) -> IpAddress | None:
    """Returns the address that a host is, in any form that resolvers take (0x7f.1), else None."""
    with suppress(ValueError):
        return ipaddress.ip_address(host)
    with suppress(OSError, UnicodeError):
        return ipaddress.IPv4Address(socket.inet_aton(host))
    return None


def canonical_host(host: str) -> str:
    """Returns the one spelling of a host: lower case, IDNA, addresses in full, no brackets, no last dot."""
    host = host.removeprefix("[").removesuffix("]")
    with suppress(UnicodeError):
        # As socket.getaddrinfo reads it.
        host = host.encode("idna").decode()
    host = host.lower().removesuffix(".")
    return str(literal(host) or host)


def endpoint_of(url: str) -> Endpoint:
    """Returns the endpoint of an http or https URL. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in PORTS:
        raise ValueError("not an http or https URL")
    return Endpoint(canonical_host(parts.hostname or ""), parts.port or PORTS[parts.scheme])


def matches_path(name: str, pattern: str) -> bool:
    """Whether a name matches a pattern as in a shell, where no wildcard matches a `/`."""
    parts, patterns = name.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def read_host_rules(entries: Iterable[str]) -> tuple[HostRule, ...]:
    """The rules of AGENT_ALLOWED_HOSTS: `HOST`, `HOST:PORT`, `[IPv6]:PORT`. Raises ValueError."""
    rules = tuple(map(_host_rule, entries))
    if wild := [rule.host for rule in rules if "*" in rule.host]:
        raise ValueError(f"hosts by name, without a wildcard, and {wild[0]!r} has one")
    return rules


def read_secret_rules(entries: Iterable[str]) -> tuple[SecretRule, ...]:
    """The rules of AGENT_SECRETS: `NAME`, `/PATH`, `env:NAME`, `file:/PATH`, each with `@HOST` or not.

    Raises ValueError.
    """
    return tuple(map(_secret_rule, entries))


def secret_entry(kind: str, name: str, endpoint: Endpoint | None) -> str:
    """Returns the entry of AGENT_SECRETS that allows a secret; empty where that is not clear.

    Without an endpoint the secret only signs.
    """
    host = "" if endpoint is None else f"@{join_endpoint(endpoint)}"
    if _UNCLEAR.search(name) or (endpoint and not _HOST.fullmatch(endpoint.host)):
        return ""
    return f"file:{name}{host}" if kind == "file" else f"{name}{host}"


def join_endpoint(endpoint: Endpoint) -> str:
    """`HOST:PORT`, or `[IPv6]:PORT`."""
    return (
        f"[{endpoint.host}]:{endpoint.port}" if ":" in endpoint.host else f"{endpoint.host}:{endpoint.port}"
    )


def _host_rule(entry: str) -> HostRule:
    named = _NAMED_PORT.fullmatch(entry)
    host, port = (named["host"], int(named["port"])) if named else (entry, None)
    is_whole = host.startswith("[") == host.endswith("]") and (port is None or 0 < port < 65536)
    host = canonical_host(host)
    if not is_whole or not _HOST.fullmatch(host) or (":" in host and literal(host) is None):
        raise ValueError(f"entries like HOST, HOST:PORT or [IPv6]:PORT, and {entry!r} is none")
    return HostRule(host, port)


def _secret_rule(entry: str) -> SecretRule:
    named, at, host = entry.rpartition("@") if "@" in entry else (entry, "", "")
    kind, colon, pattern = named.partition(":")
    if not colon:
        kind, pattern = ("file" if named.startswith("/") else "env"), named
    if kind not in ("env", "file") or not pattern or (kind == "file") != pattern.startswith("/"):
        raise ValueError(f"entries like NAME, file:/PATH or NAME@HOST, and {entry!r} is none")
    return SecretRule(kind, pattern, _host_rule(host) if at else None)
