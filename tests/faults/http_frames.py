"""HTTP/1 and HTTP/2 as nobody should speak them: requests and frames as bytes, and clients that take a second for each byte."""

import asyncio
import contextlib
import json
import random
import re
import socket
import struct
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from eliza.sessions.v1 import message_service_pb2, session_service_pb2
from tests.harness import ECHO, Serve
from tests.wire.raw_http import request

AT_A_TIME: Final = 12
QUIET_SECONDS: Final = 0.2
"""How long a server that does not close is listened to after its last byte."""

PATIENCE_SECONDS: Final = 30

SMUGGLED_USER: Final = "66666666-6666-4666-8666-666666666666"
"""Whoever sees a session of this user has taken bytes of a body for a request."""

_SESSIONS: Final = "/api/messaging/sessions"
_JSON: Final = ("Content-Type", "application/json")
_CREATE: Final = json.dumps({"agentId": ECHO, "userId": str(uuid.UUID(int=1))}).encode()
_SMUGGLED: Final = request("POST", _SESSIONS, json.dumps({"agentId": ECHO, "userId": SMUGGLED_USER}).encode(), [_JSON])


@dataclass(frozen=True)
class Attack:
    """Bytes for one connection. `refused`: the answer must be this status alone, and the connection closed."""

    name: str
    content: bytes
    refused: int = 0
    half_close: bool = False


def _post(name: str, headers: Iterable[tuple[str, str]], body: bytes, *, refused: int = 0, half_close: bool = False) -> Attack:
    return Attack(name, request("POST", _SESSIONS, body, [_JSON, *headers]), refused, half_close)


def _chunked(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)


def http1_attacks(flood: int) -> Iterator[Attack]:
    """Every attack once; floods have so many pieces."""
    chunked, length = ("Transfer-Encoding", "chunked"), ("Content-Length", str(len(_CREATE)))
    yield _post("a length and chunks", [("Content-Length", "5"), chunked], b"0\r\n\r\n" + _SMUGGLED, refused=400)
    yield _post("chunks and a length", [chunked, ("Content-Length", "5")], b"0\r\n\r\n" + _SMUGGLED, refused=400)
    yield _post("two lengths", [("Content-Length", "5"), length], b"{}   " + _SMUGGLED, refused=400)
    yield _post("two lengths in one", [("Content-Length", "5, 6")], b"{}   " + _SMUGGLED, refused=400)
    yield _post("chunks twice", [chunked, ("Transfer-Encoding", "identity")], b"0\r\n\r\n" + _SMUGGLED, refused=400)
    for value in ("-1", "+5", "0x10", "1e3", "", " ", "5 5", "5\t5", "18446744073709551616", "9" * 100, "٥"):
        head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %b\r\n\r\n" % (
            _SESSIONS.encode(),
            value.encode(),
        )
        yield Attack(f"a length of {value!r}", head + _CREATE, refused=400 if value.strip() else 0)
    for value in ("xchunked", "chunked, identity", "chunked;q=1", "\x0bchunked", "chunked\x00", '"chunked"'):
        yield _post(f"an encoding of {value!r}", [("Transfer-Encoding", value)], _chunked(_CREATE))
    yield _post(
        "a space before the colon", [("Transfer-Encoding ", "chunked"), ("Content-Length", "5")], b"0\r\n\r\n" + _SMUGGLED, refused=400
    )
    yield _post("a folded header", [("X", "a\r\n Transfer-Encoding: chunked"), ("Content-Length", "5")], b"{}   ")
    for size in ("-1", "f" * 16, "f" * 17, "zz", "", "0x5", "5 ;", "5;" + "x" * 100_000, "5\n"):
        yield _post(f"a chunk of the size {size[:20]!r}", [chunked], size.encode() + b"\r\n" + _CREATE + b"\r\n0\r\n\r\n")
    yield _post("a chunk that goes on", [chunked], b"2\r\n{}xxxx\r\n0\r\n\r\n", refused=400)
    yield _post("trailers without end", [chunked], b"0\r\n" + b"X: y\r\n" * flood)
    yield _post("chunks of one byte", [chunked], b"1\r\n \r\n" * flood + b"0\r\n\r\n")
    yield _post("a body that ends early", [("Content-Length", "1000")], _CREATE, half_close=True)
    yield _post("a body that does not come", [("Content-Length", "1000")], b"", half_close=True)
    yield _post("a body of 2 GiB, it says", [("Content-Length", str(2**31))], b"x" * 100_000)
    yield _post("chunks over the limit", [chunked], (b"ffff\r\n" + b" " * 0xFFFF + b"\r\n") * 40 + b"0\r\n\r\n", refused=413)
    yield _post("more than it says", [("Content-Length", "2")], b"{}" + b"garbage" * 100)
    yield _post("an expectation", [("Expect", "100-continue")], _CREATE)
    yield _post("another expectation", [("Expect", "the-unexpected")], _CREATE)
    for line in (
        b"", b"GET", b"GET /", b"GET / HTTP/9.9", b"GET / HTTP/1.1 x", b"get / http/1.1", b"GET  /  HTTP/1.1", b"\x00",
        b"GET /\x00 HTTP/1.1",
        b"GET /%00%ff%c0%af HTTP/1.1", b"GET //////.. HTTP/1.1", b"GET http://x:y@[::1/ HTTP/1.1", b"CONNECT x:1 HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1", b"X" * 100_000, b"GET \xff\xfe HTTP/1.1", b"GET /?" + b"&" * 50_000 + b" HTTP/1.1",
        b"PRI * HTTP/2.0", b"GET / HTTP/0.9", b"GET / HTTP/1.0", b"GET /\r HTTP/1.1", b"\r\n" * 5000 + b"GET / HTTP/1.1",
    ):  # fmt: skip
        yield Attack(f"a request line of {line[:30]!r}", line + b"\r\nHost: x\r\n\r\n")
    for header in (
        b"X: \x00", b"\x00: x", b": x", b"X", b" X: y", b"X : y", b"X: \r y", b"X: \xff\xfe", b"X: " + b"x" * 2**20, b"X: y\r\n" * flood,
        b"Host: a\r\nHost: b", b"Host: \x00", b"Cookie: " + b"a=b;" * 10_000, b"Content-Type: " + b"application/json;" * 3000,
        b"Upgrade: websocket\r\nConnection: Upgrade", b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: ////",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ?\r\nSec-WebSocket-Version: 99",
        b"Range: bytes=0-" + b",0-" * 5000,
        b"If-Match: " + b'"x",' * 10_000, b"Last-Event-ID: " + b"9" * 5000, b"Idempotency-Key: " + b"k" * 10_000,
        b"Accept-Encoding: gzip;q=\xff",
        b"Origin: null\r\nAccess-Control-Request-Method: \xff", b"X-Forwarded-For: " + b"1," * 5000, b"Connection: " + b"close," * 1000,
    ):  # fmt: skip
        for path in (_SESSIONS, "/socket.io/?EIO=4&transport=websocket", f"{_SESSIONS}/{uuid.UUID(int=1)}/events"):
            yield Attack(f"a header of {header[:30]!r} to {path[-12:]}", b"GET %b HTTP/1.1\r\n%b\r\n\r\n" % (path.encode(), header))
    yield Attack("pipelined requests", request("GET", f"{_SESSIONS}/health") * min(flood, 500))
    yield Attack("pipelined garbage", request("GET", f"{_SESSIONS}/health") + b"\x00garbage\r\n\r\n" * 100)
    yield Attack("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500))
    yield Attack("a preface of HTTP/2", PREFACE + frame(4, 0, 0, b""))
    yield Attack("lines that end with LF", b"GET %b HTTP/1.1\nHost: x\n\n" % _SESSIONS.encode())


def http1_mutants(rng: random.Random, count: int) -> Iterator[Attack]:
    """Good requests with bad bytes in them."""
    missing = f"{_SESSIONS}/{uuid.UUID(int=2)}"
    good = (
        request("GET", f"{_SESSIONS}/health"),
        request("POST", _SESSIONS, _CREATE, [_JSON]),
        request("POST", _SESSIONS, _chunked(_CREATE), [_JSON, ("Transfer-Encoding", "chunked")]),
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
    bad = (b"\r", b"\n", b"\0", b"\r\n", b"\r\n\r\n", b" ", b":", b"\xff", b"%", b"\xed\xa0\x80", b"{", b'"', b"," * 1000)
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


PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _PRIORITY, _RST, _SETTINGS, _PUSH, _PING, _GOAWAY, _WINDOW, _CONTINUATION = range(10)
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_START: Final = PREFACE + b"\0\0\0\x04\0\0\0\0\0"


def frame(kind: int, flags: int, stream: int, payload: bytes, *, length: int | None = None) -> bytes:
    """A frame, which may lie about its length."""
    return struct.pack(">I", len(payload) if length is None else length)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _text(value: bytes) -> bytes:
    size, rest = len(value), b""
    if size >= 127:
        rest, size = b"", size - 127
        while size > 127:
            rest += bytes([size & 127 | 128])
            size >>= 7
        return b"\x7f" + rest + bytes([size]) + value
    return bytes([size]) + value


def _headers(path: str, *extra: tuple[str, str]) -> bytes:
    """The header block of a call, nothing compressed."""
    fields = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    )
    return b"".join(b"\0" + _text(name.encode()) + _text(value.encode()) for name, value in (*fields, *extra))


_GET: Final = "/eliza.sessions.v1.SessionService/GetSession"
_CALL: Final = _headers(_GET)
_ASKED: Final = session_service_pb2.GetSessionRequest(session_id=str(uuid.UUID(int=2))).SerializeToString()


def _message(content: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    return struct.pack(">BI", flag, len(content) if length is None else length) + content


def _opened(stream: int = 1, flags: int = _END_HEADERS) -> bytes:
    return frame(_HEADERS, flags, stream, _CALL)


def _asked(stream: int = 1) -> bytes:
    """The request of that call, whole."""
    return frame(_DATA, _END_STREAM, stream, _message(_ASKED))


def http2_attacks(flood: int) -> Iterator[Attack]:
    """Every attack once; floods have so many frames."""
    streams = range(1, 2 * flood, 2)
    big = b"\0" + _text(b"x") + _text(b"y" * 1000)
    for name, content in (
        ("no preface", bytes(200)),
        ("garbage", random.Random(0).randbytes(5000)),
        ("HTTP/1", request("GET", "/")),
        ("half a preface", PREFACE[:10]),
        ("a preface twice", _START + PREFACE),
        ("no settings", PREFACE + _opened() + _asked()),
    ):
        yield Attack(name, content)
    for name, content in (
        ("a frame longer than agreed", frame(_DATA, 0, 1, bytes(2**20))),
        ("a frame of 16 MiB, it says", frame(_HEADERS, 0, 1, b"", length=2**24 - 1)),
        ("settings of a bad length", frame(_SETTINGS, 0, 0, bytes(5))),
        ("settings on a stream", frame(_SETTINGS, 0, 1, b"")),
        ("settings out of range", frame(_SETTINGS, 0, 0, struct.pack(">HIHIHI", 4, 2**32 - 1, 5, 1, 2, 7))),
        ("a window of nothing", frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, 0)) + _opened() + _asked()),
        ("a flood of settings", frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, 65535)) * flood),
        ("a flood of acknowledgements", frame(_SETTINGS, _ACK, 0, b"") * flood),
        ("a flood of pings", frame(_PING, 0, 0, bytes(8)) * flood),
        ("a ping of a bad length", frame(_PING, 0, 0, bytes(7))),
        ("rapid reset", b"".join(_opened(stream) + frame(_RST, 0, stream, bytes(4)) for stream in streams)),
        ("rapid reset of whole calls", b"".join(
            _opened(stream) + _asked(stream) + frame(_RST, 0, stream, bytes(4)) for stream in streams)),
        ("streams that stay open", b"".join(map(_opened, streams))),
        ("resets of streams that are not", b"".join(frame(_RST, 0, stream, bytes(4)) for stream in streams)),
        ("a window that overflows", frame(_WINDOW, 0, 0, struct.pack(">I", 2**31 - 1)) * 3),
        ("a stream's window that overflows", _opened() + frame(_WINDOW, 0, 1, struct.pack(">I", 2**31 - 1)) * 3),
        ("a window that grows by nothing", frame(_WINDOW, 0, 0, bytes(4))),
        ("a flood of windows", frame(_WINDOW, 0, 0, struct.pack(">I", 1)) * flood),
        ("headers that are garbage", frame(_HEADERS, _END_HEADERS, 1, random.Random(1).randbytes(300))),
        ("an index that is not there", frame(_HEADERS, _END_HEADERS, 1, b"\xff\xff\xff\xff\xff\x0f")),
        ("a table of 4 GiB", frame(_HEADERS, _END_HEADERS, 1, b"\x3f\xe1\xff\xff\xff\x0f" + _CALL)),
        ("a header bomb", frame(_HEADERS, _END_HEADERS, 1, _CALL + b"\x40" + _text(b"x") + _text(b"y" * 4000) + b"\xbe" * 12_000)),
        ("Huffman garbage", frame(_HEADERS, _END_HEADERS, 1, b"\0\x84\xff\xff\xff\xff\x84\xff\xff\xff\xff")),
        ("a flood of continuations", frame(_HEADERS, 0, 1, _CALL) + frame(_CONTINUATION, 0, 1, big) * flood),
        ("a flood of empty continuations", frame(_HEADERS, 0, 1, _CALL) + frame(_CONTINUATION, 0, 1, b"") * flood),
        ("a continuation of nothing", frame(_CONTINUATION, _END_HEADERS, 1, _CALL)),
        ("another frame between the headers", frame(_HEADERS, 0, 1, _CALL) + frame(_PING, 0, 0, bytes(8))),
        ("headers of the connection", frame(_HEADERS, _END_HEADERS, 0, _CALL)),
        ("headers of an even stream", _opened(2)),
        ("streams backwards", _opened(5) + _opened(3)),
        ("data of no stream", frame(_DATA, 0, 7, b"x")),
        ("a flood of empty data", _opened() + frame(_DATA, 0, 1, b"") * flood),
        ("more data than the window", _opened() + frame(_DATA, 0, 1, bytes(16384)) * 40),
        ("padding longer than the frame", _opened() + frame(_DATA, 8, 1, b"\xff\0\0")),
        ("a stream that depends on itself", frame(_PRIORITY, 0, 1, struct.pack(">IB", 1, 0))),
        ("a flood of priorities", frame(_PRIORITY, 0, 1, struct.pack(">IB", 3, 0)) * flood),
        ("a push", frame(_PUSH, _END_HEADERS, 1, struct.pack(">I", 2) + _CALL)),
        ("goodbye, and more", frame(_GOAWAY, 0, 0, bytes(8)) + _opened() + _asked()),
        ("frames of unknown kinds", b"".join(frame(kind, 255, 1, b"x" * 50) for kind in range(10, 255))),
        ("a message of 4 GiB, it says", _opened() + frame(_DATA, 0, 1, _message(b"x" * 100, length=2**32 - 1))),
        ("a message that ends early", _opened() + frame(_DATA, _END_STREAM, 1, _message(b"x" * 3, length=10))),
        ("a message that ends in its head", _opened() + frame(_DATA, _END_STREAM, 1, b"\0\0")),
        ("a message with a tail", _opened() + frame(_DATA, _END_STREAM, 1, _message(_ASKED) + b"tail")),
        ("two messages for one", _opened() + frame(_DATA, _END_STREAM, 1, _message(_ASKED) * 2)),
        ("compressed with nothing", _opened() + frame(_DATA, _END_STREAM, 1, _message(_ASKED, flag=1))),
        ("an unknown flag of a message", _opened() + frame(_DATA, _END_STREAM, 1, _message(_ASKED, flag=254))),
        ("no message", frame(_HEADERS, _END_HEADERS | _END_STREAM, 1, _CALL)),
        ("no path", frame(_HEADERS, _END_HEADERS | _END_STREAM, 1, b"\0" + _text(b"x") + _text(b"y"))),
        ("a bad timeout", frame(_HEADERS, _END_HEADERS, 1, _headers(_GET, ("grpc-timeout", "99999999999999999999H"))) + frame(
            _DATA, _END_STREAM, 1, _message(_ASKED))),
        ("an unknown encoding", frame(_HEADERS, _END_HEADERS, 1, _headers(_GET, ("grpc-encoding", "zzz"))) + frame(
            _DATA, _END_STREAM, 1, _message(_ASKED, flag=1))),
        ("gzip garbage", frame(_HEADERS, _END_HEADERS, 1, _headers(_GET, ("grpc-encoding", "gzip"))) + frame(
            _DATA, _END_STREAM, 1, _message(b"\x1f\x8bgarbage", flag=1))),
        ("binary metadata that is not base64", frame(_HEADERS, _END_HEADERS, 1, _headers(_GET, ("x-bin", "?!?"))) + frame(
            _DATA, _END_STREAM, 1, _message(_ASKED))),
        ("a path that is not UTF-8", frame(_HEADERS, _END_HEADERS | _END_STREAM, 1, _CALL.replace(b"GetSession", b"GetSessi\xe8n"))),
        ("a path of 8 KiB", frame(_HEADERS, _END_HEADERS | _END_STREAM, 1, _headers("/" + "x" * 8000))),
    ):  # fmt: skip
        yield Attack(name, _START + content)


def http2_mutants(rng: random.Random, count: int) -> Iterator[Attack]:
    """A good conversation with bad bytes in it."""
    good = _START + frame(_SETTINGS, _ACK, 0, b"") + _opened() + _asked()
    good += _opened(3) + frame(_DATA, 0, 3, _message(_ASKED)) + frame(_WINDOW, 0, 0, struct.pack(">I", 1000)) + frame(_RST, 0, 3, bytes(4))
    for _ in range(count):
        content = bytearray(good)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(PREFACE), len(content))
            match rng.randrange(4):
                case 0:
                    content[at] = rng.randrange(256)
                case 1:
                    content[at:at] = rng.randbytes(rng.randint(1, 20))
                case 2 if at + 10 < len(content):
                    del content[at : at + rng.randint(1, 10)]
                case 3:
                    content[at:at] = content[at : at + rng.randint(1, 60)]
        yield Attack("a mutated conversation", bytes(content))


_DOWN: Final = "The port is closed:"


class Frames:
    """A run against a service. What it finds is in `problems`."""

    def __init__(self, service: Serve, run_seed: int) -> None:
        self._service = service
        self._random = random.Random(run_seed)
        self.statuses: Counter[str] = Counter()
        self.problems: list[str] = []
        self.connections = 0
        self._last = "none"

    def run(self, count: int, flood: int) -> None:
        """Makes about so many connections to each port, every attack once at least; floods have so many pieces."""
        for port, attacks, mutants in (
            (self._service.rest, list(http1_attacks(flood)), http1_mutants),
            (self._service.grpc, list(http2_attacks(flood)), http2_mutants),
        ):
            rounds = max(1, count // 4 // len(attacks))
            todo = [*attacks * rounds, *mutants(self._random, max(0, count - rounds * len(attacks)))]
            self._random.shuffle(todo)
            with ThreadPoolExecutor(AT_A_TIME) as pool:
                for attack, answer in zip(todo, pool.map(lambda attack, port=port: self._talk(port, attack), todo), strict=True):
                    if answer is not None:
                        self._judge(port, attack, *answer)
        listed = self._service.http.get(self._service.url, params={"userId": SMUGGLED_USER}, timeout=60)
        if listed.status_code != 200 or listed.json()["sessions"]:
            self.problems.append(f"requests were smuggled, or nobody knows: {listed.status_code} {listed.text[:300]}")

    def _talk(self, port: str, attack: Attack) -> tuple[bytes, bool] | None:
        """Its answer; None when the port is closed: then the service is down, and nothing else can be tried."""
        if self.problems and self.problems[-1].startswith(_DOWN):
            return None
        try:
            return talk(port, attack)
        except OSError as error:
            self.problems.append(
                f"{_DOWN} {error!r}, at the latest after {self.connections} connections, of which the last was {self._last}"
            )
            return None

    def _judge(self, port: str, attack: Attack, answer: bytes, closed: bool) -> None:
        self.connections += 1
        self._last = f"{attack.name} {attack.content[:300]!r}"
        if port == self._service.grpc:
            self.statuses["HTTP/2 closed" if closed else "HTTP/2 open"] += 1
            return
        statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]
        self.statuses[f"HTTP/1 {statuses[0] if statuses else 'no answer'}"] += 1
        if any(status >= 500 for status in statuses):
            self.problems.append(f"{attack.name} is answered with {statuses}: {answer[:300]!r}; sent {attack.content[:300]!r}")
        if attack.refused and not (statuses == [attack.refused] and closed):
            self.problems.append(f"{attack.name} is not refused: {statuses}, closed {closed}: {answer[:300]!r}")


def talk(address: str, attack: Attack) -> tuple[bytes, bool]:
    """Sends it and listens until the server closes or falls silent: what it said, and whether it closed."""
    host, _, port = address.rpartition(":")
    answer = bytearray()
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
            # Who does not read what the server says, but goes on, is stopped by the timeout: that is an answer too.
            connection.sendall(attack.content)
            if attack.half_close:
                connection.shutdown(socket.SHUT_WR)
        # What must be answered is waited for.
        connection.settimeout(PATIENCE_SECONDS if attack.refused else QUIET_SECONDS)
        try:
            while piece := connection.recv(65536):
                answer += piece
        except TimeoutError:
            return bytes(answer), False
        except ConnectionResetError:
            pass
    return bytes(answer), True


class SlowClients:
    """Connections that send a byte a second each, with a request that never ends while they do."""

    PACE_SECONDS: Final = 1.0

    def __init__(self, service: Serve) -> None:
        big = message_service_pb2.SendMessageRequest(session_id=str(uuid.UUID(int=2)), content="x" * 4000).SerializeToString()
        send = _headers("/eliza.sessions.v1.MessageService/SendMessage")
        watch = _headers("/eliza.sessions.v1.SessionService/WatchSessions")
        head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" % _SESSIONS.encode()
        self._clients: Final = {
            # By what is slow: what they send at once, and what byte by byte.
            "heads": ((service.rest, b"", head + b"X: " + b"y" * 1000), (service.grpc, b"", _START + _opened())),
            "bodies": (
                (service.rest, head + b"Content-Length: 4000\r\n\r\n", b" " * 4000),
                (service.rest, head + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 1000),
                (service.grpc, _START + frame(_HEADERS, _END_HEADERS, 1, send), frame(_DATA, 0, 1, _message(big))),
                (service.grpc, _START + frame(_HEADERS, _END_HEADERS, 1, watch), frame(_DATA, 0, 1, _message(big))),
            ),
        }
        self.opened = 0
        self.cut: Counter[str] = Counter()

    def run(self, kind: str, count: int, seconds: float) -> None:
        """So many of them on each port, for so long."""
        asyncio.run(self._run(kind, count, seconds))

    async def _run(self, kind: str, count: int, seconds: float) -> None:
        clients = self._clients[kind]
        running = []
        for port in {address for address, _, _ in clients}:
            mine = [client for client in clients if client[0] == port]
            running += [self._one(*mine[number % len(mine)], seconds) for number in range(count)]
        for outcome in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(outcome, BaseException):
                self.cut[type(outcome).__name__] += 1

    async def _one(self, address: str, at_once: bytes, slowly: bytes, seconds: float) -> None:
        host, _, port = address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        self.opened += 1
        try:
            writer.write(at_once)
            for byte in slowly[: max(1, round(seconds / self.PACE_SECONDS))]:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(self.PACE_SECONDS)
        finally:
            writer.transport.abort()
