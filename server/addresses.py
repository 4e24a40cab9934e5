"""Addresses to listen on, as settings write them."""


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
