"""Offers in a head to change the protocol: a WebSocket's handshake, or one that is ignored."""

import httptools

from rest_facade.front_door.origins import Headers


def is_handshake(parser: httptools.HttpRequestParser, headers: Headers) -> bool:
    """Whether a head begins a WebSocket (RFC 6455, 4.1)."""
    names = {name for name, _ in headers}
    return (
        parser.get_method() == b"GET"
        and parser.get_http_version() == "1.1"
        and [value.strip().lower() for name, value in headers if name == b"upgrade"] == [b"websocket"]
        and b"sec-websocket-key" in names
        and b"transfer-encoding" not in names
        and all(value == b"0" for name, value in headers if name == b"content-length")
    )


def head_without_offer(parser: httptools.HttpRequestParser, target: bytes, headers: Headers) -> bytes:
    """A head without the option `upgrade` that makes an offer of it (RFC 9110, 7.8: it is ignored)."""
    lines = [b"%b %b HTTP/%b" % (parser.get_method(), target, parser.get_http_version().encode())]
    for name, value in headers:
        if name == b"connection":
            options = value.split(b",")
            value = b",".join(option for option in options if option.strip().lower() != b"upgrade")
        lines.append(name + b": " + value)
    return b"\r\n".join((*lines, b"\r\n"))
