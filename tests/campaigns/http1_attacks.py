"""HTTP/1 as nobody should speak it: requests as bytes."""

import json
import random
import uuid
from collections.abc import Iterable, Iterator
from typing import Final

from tests.campaigns.http2_frames import PREFACE, frame
from tests.campaigns.http_attack import SESSIONS, SMUGGLED_USER, Attack
from tests.contract.raw_http import request
from tests.support.service import ECHO

_JSON: Final = ("Content-Type", "application/json")
_CREATE: Final = json.dumps({"agentId": ECHO, "userId": str(uuid.UUID(int=1))}).encode()
_SMUGGLED: Final = request(
    "POST", SESSIONS, json.dumps({"agentId": ECHO, "userId": SMUGGLED_USER}).encode(), [_JSON]
)


def _post(
    name: str, headers: Iterable[tuple[str, str]], body: bytes, *, refused: int = 0, half_close: bool = False
) -> Attack:
    return Attack(name, request("POST", SESSIONS, body, [_JSON, *headers]), refused, half_close)


def _chunked(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)


def http1_attacks(flood: int) -> Iterator[Attack]:
    """Every attack once; floods have so many pieces."""
    chunked, length = ("Transfer-Encoding", "chunked"), ("Content-Length", str(len(_CREATE)))
    yield _post(
        "a length and chunks", [("Content-Length", "5"), chunked], b"0\r\n\r\n" + _SMUGGLED, refused=400
    )
    yield _post(
        "chunks and a length", [chunked, ("Content-Length", "5")], b"0\r\n\r\n" + _SMUGGLED, refused=400
    )
    yield _post("two lengths", [("Content-Length", "5"), length], b"{}   " + _SMUGGLED, refused=400)
    yield _post("two lengths in one", [("Content-Length", "5, 6")], b"{}   " + _SMUGGLED, refused=400)
    yield _post(
        "chunks twice", [chunked, ("Transfer-Encoding", "identity")], b"0\r\n\r\n" + _SMUGGLED, refused=400
    )
    for value in ("-1", "+5", "0x10", "1e3", "", " ", "5 5", "5\t5", "18446744073709551616", "9" * 100, "٥"):
        head = (
            b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
            b"%b\r\n\r\n"
            % (
                SESSIONS.encode(),
                value.encode(),
            )
        )
        yield Attack(f"a length of {value!r}", head + _CREATE, refused=400 if value.strip() else 0)
    for value in ("xchunked", "chunked, identity", "chunked;q=1", "\x0bchunked", "chunked\x00", '"chunked"'):
        yield _post(f"an encoding of {value!r}", [("Transfer-Encoding", value)], _chunked(_CREATE))
    yield _post(
        "a space before the colon",
        [("Transfer-Encoding ", "chunked"), ("Content-Length", "5")],
        b"0\r\n\r\n" + _SMUGGLED,
        refused=400,
    )
    yield _post(
        "a folded header", [("X", "a\r\n Transfer-Encoding: chunked"), ("Content-Length", "5")], b"{}   "
    )
    for size in ("-1", "f" * 16, "f" * 17, "zz", "", "0x5", "5 ;", "5;" + "x" * 100_000, "5\n"):
        yield _post(
            f"a chunk of the size {size[:20]!r}",
            [chunked],
            size.encode() + b"\r\n" + _CREATE + b"\r\n0\r\n\r\n",
        )
    yield _post("a chunk that goes on", [chunked], b"2\r\n{}xxxx\r\n0\r\n\r\n", refused=400)
    yield _post("trailers without end", [chunked], b"0\r\n" + b"X: y\r\n" * flood)
    yield _post("chunks of one byte", [chunked], b"1\r\n \r\n" * flood + b"0\r\n\r\n")
    yield _post("a body that ends early", [("Content-Length", "1000")], _CREATE, half_close=True)
    yield _post("a body that does not come", [("Content-Length", "1000")], b"", half_close=True)
    yield _post("a body of 2 GiB, it says", [("Content-Length", str(2**31))], b"x" * 100_000)
    yield _post(
        "chunks over the limit",
        [chunked],
        (b"ffff\r\n" + b" " * 0xFFFF + b"\r\n") * 40 + b"0\r\n\r\n",
        refused=413,
    )
    yield _post("more than it says", [("Content-Length", "2")], b"{}" + b"garbage" * 100)
    for offer in ("h2c", "websocket", "websocket, h2c", "TLS/1.0"):
        offered = [("Connection", "Upgrade"), ("Upgrade", offer)]
        yield _post(f"an offer of {offer} with a request for a body", offered, _SMUGGLED)
        yield _post(
            f"an offer of {offer} with a request in a chunk", [*offered, chunked], _chunked(_SMUGGLED)
        )
        yield _post(
            f"an offer of {offer} with a length and chunks",
            [*offered, ("Content-Length", "5"), chunked],
            _SMUGGLED,
            refused=400,
        )
        connect = request("CONNECT", "localhost:80", _SMUGGLED, [_JSON, *offered])
        yield Attack(f"a tunnel with an offer of {offer}", connect, refused=400)
    yield _post("an expectation", [("Expect", "100-continue")], _CREATE)
    yield _post("another expectation", [("Expect", "the-unexpected")], _CREATE)
    for line in (
        b"", b"GET", b"GET /", b"GET / HTTP/9.9", b"GET / HTTP/1.1 x", b"get / http/1.1", b"GET  /  HTTP/1.1", b"\x00",
        b"GET /\x00 HTTP/1.1",
        b"GET /%00%ff%c0%af HTTP/1.1", b"GET //////.. HTTP/1.1", b"GET http://x:y@[::1/ "
        b"HTTP/1.1", b"CONNECT x:1 HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1", b"X" * 100_000, b"GET \xff\xfe HTTP/1.1", b"GET /?" + b"&" * 50_000 + b" HTTP/1.1",
        b"PRI * HTTP/2.0", b"GET / HTTP/0.9", b"GET / HTTP/1.0", b"GET /\r HTTP/1.1", b"\r\n" * 5000 + b"GET / HTTP/1.1",
    ):  # fmt: skip
        yield Attack(f"a request line of {line[:30]!r}", line + b"\r\nHost: localhost\r\n\r\n")
    for header in (
        b"X: \x00", b"\x00: x", b": x", b"X", b" X: y", b"X : y", b"X: \r y", b"X: \xff\xfe", b"X: " + b"x" * 2**20, b"X: y\r\n" * flood,
        b"Host: a\r\nHost: b", b"Host: \x00", b"Cookie: " + b"a=b;" * 10_000, b"Content-Type: " + b"application/json;" * 3000,
        b"Upgrade: websocket\r\nConnection: Upgrade", b"Upgrade: h2c\r\nConnection: Upgrade, "
        b"HTTP2-Settings\r\nHTTP2-Settings: ////",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ?\r\nSec-WebSocket-Version: 99",
        b"Range: bytes=0-" + b",0-" * 5000,
        b"If-Match: " + b'"x",' * 10_000, b"Last-Event-ID: " + b"9" * 5000, b"Idempotency-Key: " + b"k" * 10_000,
        b"Accept-Encoding: gzip;q=\xff",
        b"Origin: null\r\nAccess-Control-Request-Method: \xff", b"X-Forwarded-For: " + b"1," * 5000, b"Connection: " + b"close," * 1000,
    ):  # fmt: skip
        for path in (
            SESSIONS,
            "/socket.io/?EIO=4&transport=websocket",
            f"{SESSIONS}/{uuid.UUID(int=1)}/events",
        ):
            yield Attack(
                f"a header of {header[:30]!r} to {path[-12:]}",
                b"GET %b HTTP/1.1\r\n%b\r\n\r\n" % (path.encode(), header),
            )
    yield Attack("pipelined requests", request("GET", f"{SESSIONS}/health") * min(flood, 500))
    yield Attack("pipelined garbage", request("GET", f"{SESSIONS}/health") + b"\x00garbage\r\n\r\n" * 100)
    yield Attack("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500))
    yield Attack("a preface of HTTP/2", PREFACE + frame(4, 0, 0, b""))
    yield Attack("lines that end with LF", b"GET %b HTTP/1.1\nHost: localhost\n\n" % SESSIONS.encode())


def http1_mutants(rng: random.Random, count: int) -> Iterator[Attack]:
    """Good requests with bad bytes in them."""
    missing = f"{SESSIONS}/{uuid.UUID(int=2)}"
    good = (
        request("GET", f"{SESSIONS}/health"),
        request("POST", SESSIONS, _CREATE, [_JSON]),
        request("POST", SESSIONS, _chunked(_CREATE), [_JSON, ("Transfer-Encoding", "chunked")]),
        request(
            "POST",
            f"{missing}/messages",
            b'{"content": "x", "metadata": {"a": [1, null]}, "transport": "sse"}',
            [_JSON, ("Idempotency-Key", "a")],
        ),
        request("PATCH", f"{missing}/timeout", b'{"timeoutMinutes": 5}', [_JSON, ("If-Match", '"x"')]),
        request("GET", f"{missing}/messages?limit=5&before=2026-01-31T09:05:00Z"),
        request("GET", f"{missing}/events?after=1", None, [("Last-Event-ID", "1")]),
    )
    bad = (
        b"\r",
        b"\n",
        b"\0",
        b"\r\n",
        b"\r\n\r\n",
        b" ",
        b":",
        b"\xff",
        b"%",
        b"\xed\xa0\x80",
        b"{",
        b'"',
        b"," * 1000,
    )
    for _ in range(count):
        content = bytearray(rng.choice(good))
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(content))
            match rng.randrange(4):
                case 0:
                    content[at] = rng.randrange(256)
                case 1:
                    content[at:at] = rng.choice(bad)
                case 2:
                    del content[at : at + rng.randint(1, 10)]
                case 3:
                    content[at:at] = content[at : at + rng.randint(1, 60)]
            content = content or bytearray(b"\0")
        yield Attack("a mutated request", bytes(content))
