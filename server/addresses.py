"""Addresses to listen on, as settings write them."""

import ipaddress
import socket
from typing import Final

MAX_PATH_BYTES: Final = 107
"""How long the path of a Unix socket may be: the system allows no more."""


def split_address(text: str) -> tuple[str, int]:
    """Splits `HOST:PORT` or `[IPv6]:PORT`; no host means all addresses. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    is_port = port.isascii() and port.isdigit() and int(port) <= 65535
    has_brackets_for_ipv6 = (":" in host) == host.startswith("[")
    if not (colon and is_port and has_brackets_for_ipv6):
        raise ValueError("HOST:PORT with a port from 0 to 65535")
    return host.strip("[]") or "0.0.0.0", int(port)


def join_address(host: str, port: int) -> str:
    """Returns `HOST:PORT`, or `[IPv6]:PORT`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def unix_path(text: str) -> str:
    """Returns the path of `unix:/PATH`; empty for another address."""
    path = text.removeprefix("unix:")
    return "" if path == text else path.removeprefix("//")


def is_reachable(address: str) -> bool:
    """Whether others than this machine can reach an address that is listened on."""
    return not unix_path(address) and not _is_loopback(split_address(address)[0])


def _is_loopback(host: str) -> bool:
    """Whether all addresses of a host are loopback. True for none: listening there then reports the fault."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return True
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)


def check_grpc_address(text: str) -> None:
    """Raises ValueError for what is neither `HOST:PORT` nor `unix:/PATH`."""
    if not text.startswith("unix:"):
        split_address(text)
        return
    path = unix_path(text)
    if not path.startswith("/") or len(path.encode()) > MAX_PATH_BYTES:
        raise ValueError(f"unix: and an absolute path of at most {MAX_PATH_BYTES} bytes")
