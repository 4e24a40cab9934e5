"""HTTP/2 as bytes: frames, good and bad, and a call made of them."""

import struct
import uuid
from typing import Final

from eliza.sessions.v1 import session_service_pb2

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4
START: Final = PREFACE + b"\0\0\0\x04\0\0\0\0\0"


def frame(kind: int, flags: int, stream: int, payload: bytes, *, length: int | None = None) -> bytes:
    """A frame, which may lie about its length."""
    return (
        struct.pack(">I", len(payload) if length is None else length)[1:]
        + struct.pack(">BBI", kind, flags, stream)
        + payload
    )


def text(value: bytes) -> bytes:
    size, rest = len(value), b""
    if size >= 127:
        rest, size = b"", size - 127
        while size > 127:
            rest += bytes([size & 127 | 128])
            size >>= 7
        return b"\x7f" + rest + bytes([size]) + value
    return bytes([size]) + value


def headers(path: str, *extra: tuple[str, str]) -> bytes:
    """The header block of a call, nothing compressed."""
    fields = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    )
    return b"".join(b"\0" + text(name.encode()) + text(value.encode()) for name, value in (*fields, *extra))


GET: Final = "/eliza.sessions.v1.SessionService/GetSession"
CALL: Final = headers(GET)
ASKED: Final = session_service_pb2.GetSessionRequest(session_id=str(uuid.UUID(int=2))).SerializeToString()


def message(content: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    return struct.pack(">BI", flag, len(content) if length is None else length) + content


def opened(stream: int = 1, flags: int = END_HEADERS) -> bytes:
    return frame(HEADERS, flags, stream, CALL)


def asked(stream: int = 1) -> bytes:
    """The request of that call, whole."""
    return frame(DATA, END_STREAM, stream, message(ASKED))
