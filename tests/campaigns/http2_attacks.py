"""HTTP/2 as nobody should speak it: frames that gRPC's port must withstand."""

import random
import struct
from collections.abc import Iterator

from tests.campaigns.http2_frames import (
    ACK,
    ASKED,
    CALL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    PUSH,
    RST,
    SETTINGS,
    START,
    WINDOW,
    asked,
    frame,
    headers,
    message,
    opened,
    text,
)
from tests.campaigns.http_attack import Attack
from tests.contract.raw_http import request


def http2_attacks(flood: int) -> Iterator[Attack]:
    """Every attack once; floods have so many frames."""
    streams = range(1, 2 * flood, 2)
    big = b"\0" + text(b"x") + text(b"y" * 1000)
    for name, content in (
        ("no preface", bytes(200)),
        ("garbage", random.Random(0).randbytes(5000)),
        ("HTTP/1", request("GET", "/")),
        ("half a preface", PREFACE[:10]),
        ("a preface twice", START + PREFACE),
        ("no settings", PREFACE + opened() + asked()),
    ):
        yield Attack(name, content)
    for name, content in (
        ("a frame longer than agreed", frame(DATA, 0, 1, bytes(2**20))),
        ("a frame of 16 MiB, it says", frame(HEADERS, 0, 1, b"", length=2**24 - 1)),
        ("settings of a bad length", frame(SETTINGS, 0, 0, bytes(5))),
        ("settings on a stream", frame(SETTINGS, 0, 1, b"")),
        ("settings out of range", frame(SETTINGS, 0, 0, struct.pack(">HIHIHI", 4, 2**32 - 1, 5, 1, 2, 7))),
        ("a window of nothing", frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)) + opened() + asked()),
        ("a flood of settings", frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65535)) * flood),
        ("a flood of acknowledgements", frame(SETTINGS, ACK, 0, b"") * flood),
        ("a flood of pings", frame(PING, 0, 0, bytes(8)) * flood),
        ("a ping of a bad length", frame(PING, 0, 0, bytes(7))),
        ("rapid reset", b"".join(opened(stream) + frame(RST, 0, stream, bytes(4)) for stream in streams)),
        ("rapid reset of whole calls", b"".join(
            opened(stream) + asked(stream) + frame(RST, 0, stream, bytes(4)) for stream in streams)),
        ("streams that stay open", b"".join(map(opened, streams))),
        ("resets of streams that are not", b"".join(frame(RST, 0, stream, bytes(4)) for stream in streams)),
        ("a window that overflows", frame(WINDOW, 0, 0, struct.pack(">I", 2**31 - 1)) * 3),
        ("a stream's window that overflows", opened() + frame(WINDOW, 0, 1, struct.pack(">I", 2**31 - 1)) * 3),
        ("a window that grows by nothing", frame(WINDOW, 0, 0, bytes(4))),
        ("a flood of windows", frame(WINDOW, 0, 0, struct.pack(">I", 1)) * flood),
        ("headers that are garbage", frame(HEADERS, END_HEADERS, 1, random.Random(1).randbytes(300))),
        ("an index that is not there", frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\x0f")),
        ("a table of 4 GiB", frame(HEADERS, END_HEADERS, 1, b"\x3f\xe1\xff\xff\xff\x0f" + CALL)),
        ("a header bomb", frame(HEADERS, END_HEADERS, 1, CALL + b"\x40" + text(b"x") + text(b"y" * 4000) + b"\xbe" * 12_000)),
        ("Huffman garbage", frame(HEADERS, END_HEADERS, 1, b"\0\x84\xff\xff\xff\xff\x84\xff\xff\xff\xff")),
        ("a flood of continuations", frame(HEADERS, 0, 1, CALL) + frame(CONTINUATION, 0, 1, big) * flood),
        ("a flood of empty continuations", frame(HEADERS, 0, 1, CALL) + frame(CONTINUATION, 0, 1, b"") * flood),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, CALL)),
        ("another frame between the headers", frame(HEADERS, 0, 1, CALL) + frame(PING, 0, 0, bytes(8))),
        ("headers of the connection", frame(HEADERS, END_HEADERS, 0, CALL)),
        ("headers of an even stream", opened(2)),
        ("streams backwards", opened(5) + opened(3)),
        ("data of no stream", frame(DATA, 0, 7, b"x")),
        ("a flood of empty data", opened() + frame(DATA, 0, 1, b"") * flood),
        ("more data than the window", opened() + frame(DATA, 0, 1, bytes(16384)) * 40),
        ("padding longer than the frame", opened() + frame(DATA, 8, 1, b"\xff\0\0")),
        ("a stream that depends on itself", frame(PRIORITY, 0, 1, struct.pack(">IB", 1, 0))),
        ("a flood of priorities", frame(PRIORITY, 0, 1, struct.pack(">IB", 3, 0)) * flood),
        ("a push", frame(PUSH, END_HEADERS, 1, struct.pack(">I", 2) + CALL)),
        ("goodbye, and more", frame(GOAWAY, 0, 0, bytes(8)) + opened() + asked()),
        ("frames of unknown kinds", b"".join(frame(kind, 255, 1, b"x" * 50) for kind in range(10, 255))),
        ("a message of 4 GiB, it says", opened() + frame(DATA, 0, 1, message(b"x" * 100, length=2**32 - 1))),
        ("a message that ends early", opened() + frame(DATA, END_STREAM, 1, message(b"x" * 3, length=10))),
        ("a message that ends in its head", opened() + frame(DATA, END_STREAM, 1, b"\0\0")),
        ("a message with a tail", opened() + frame(DATA, END_STREAM, 1, message(ASKED) + b"tail")),
        ("two messages for one", opened() + frame(DATA, END_STREAM, 1, message(ASKED) * 2)),
        ("compressed with nothing", opened() + frame(DATA, END_STREAM, 1, message(ASKED, flag=1))),
        ("an unknown flag of a message", opened() + frame(DATA, END_STREAM, 1, message(ASKED, flag=254))),
        ("no message", frame(HEADERS, END_HEADERS | END_STREAM, 1, CALL)),
        ("no path", frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\0" + text(b"x") + text(b"y"))),
        ("a bad timeout", frame(HEADERS, END_HEADERS, 1, headers(GET, ("grpc-timeout", "99999999999999999999H"))) + frame(
            DATA, END_STREAM, 1, message(ASKED))),
        ("an unknown encoding", frame(HEADERS, END_HEADERS, 1, headers(GET, ("grpc-encoding", "zzz"))) + frame(
            DATA, END_STREAM, 1, message(ASKED, flag=1))),
        ("gzip garbage", frame(HEADERS, END_HEADERS, 1, headers(GET, ("grpc-encoding", "gzip"))) + frame(
            DATA, END_STREAM, 1, message(b"\x1f\x8bgarbage", flag=1))),
        ("binary metadata that is not base64", frame(HEADERS, END_HEADERS, 1, headers(GET, ("x-bin", "?!?"))) + frame(
            DATA, END_STREAM, 1, message(ASKED))),
        ("a path that is not UTF-8", frame(HEADERS, END_HEADERS | END_STREAM, 1, CALL.replace(b"GetSession", b"GetSessi\xe8n"))),
        ("a path of 8 KiB", frame(HEADERS, END_HEADERS | END_STREAM, 1, headers("/" + "x" * 8000))),
    ):  # fmt: skip
        yield Attack(name, START + content)


def http2_mutants(rng: random.Random, count: int) -> Iterator[Attack]:
    """A good conversation with bad bytes in it."""
    good = START + frame(SETTINGS, ACK, 0, b"") + opened() + asked()
    good += (
        opened(3)
        + frame(DATA, 0, 3, message(ASKED))
        + frame(WINDOW, 0, 0, struct.pack(">I", 1000))
        + frame(RST, 0, 3, bytes(4))
    )
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
