"""What the rows play with: calls and connections, each bounded, whose answers are counted."""

import contextlib
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import requests

from tests.campaigns.http2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    START,
    frame,
    headers,
    message,
)
from tests.support.service import Serve

ROUND_SECONDS: Final = 30.0
"""After which a round begins nothing more."""
CALL_SECONDS: Final = 30.0
WORKERS: Final = 8

SEND: Final = "/eliza.sessions.v1.MessageService/SendMessage"

FAULTS: Final = ("INTERNAL", "UNKNOWN", "DATA_LOSS", "500", "502")
"""Answers that are a fault of the service, whatever was asked."""


@dataclass
class Playing:
    """One round of a row against a service.

    `kept` outlives the round: what the row has made in the service.
    """

    service: Serve
    size: float
    random: random.Random
    kept: dict[str, Any] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    held: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self._ends_s = time.monotonic() + ROUND_SECONDS

    def scaled(self, count: int, least: int = 1) -> int:
        """So many at full size; fewer at a smaller one."""
        return max(least, round(count * self.size))

    def is_over(self) -> bool:
        return time.monotonic() > self._ends_s

    def require(self, is_met: bool, problem: str) -> None:
        if not is_met:
            self.problems.append(problem)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What was made under this name in an earlier round, or is made now."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def linger(self, seconds: float) -> None:
        """Leaves open what is open: that is the attack."""
        threading.Event().wait(min(seconds, max(0.0, self._ends_s - time.monotonic())))

    def at_once(self, job: Callable[[int], str], count: int, workers: int = WORKERS) -> None:
        """Does a job so many times, some at a time, and counts what each comes to."""

        def one(number: int) -> None:
            self.answers["not begun" if self.is_over() else job(number)] += 1

        with ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(one, range(count)):
                pass

    def call(
        self,
        path: str,
        request: bytes,
        seconds: float = CALL_SECONDS,
        compression: grpc.Compression | None = None,
    ) -> str:
        """One gRPC call with these bytes; what it came to."""
        return self.called(path, request, seconds, compression)[0]

    def called(
        self,
        path: str,
        request: bytes,
        seconds: float = CALL_SECONDS,
        compression: grpc.Compression | None = None,
    ) -> tuple[str, bytes]:
        """One gRPC call with these bytes: what it came to, and the response where there is one."""
        try:
            return "OK", self.service.channel.unary_unary(path)(
                request, timeout=seconds, compression=compression
            )
        except grpc.RpcError as error:
            return error.code().name, b""

    def stream(self, path: str, request: bytes, seconds: float) -> str:
        """One call that is answered by a stream, which is read for so long."""
        try:
            for _ in self.service.channel.unary_stream(path)(request, timeout=seconds):
                pass
        except grpc.RpcError as error:
            return error.code().name
        return "OK"

    def rest(self, method: str, path: str, body: bytes | None = None) -> str:
        """One REST request; the status of its answer. `path` begins behind that of the sessions."""
        kind = {} if body is None else {"Content-Type": "application/json"}
        try:
            answer = requests.request(
                method, self.service.url + path, data=body, headers=kind, timeout=CALL_SECONDS
            )
        except requests.RequestException as error:
            return type(error).__name__
        return str(answer.status_code)

    def connect(self, address: str, *, receive_bytes: int | None = None) -> socket.socket:
        """A connection that is open until the round is measured.

        Few `receive_bytes`: what is not read stays at the service.
        """
        host, _, port = address.rpartition(":")
        connection = socket.socket()
        self.held.callback(connection.close)
        if receive_bytes:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.settimeout(10)
        connection.connect((host, int(port)))
        return connection

    def open(self, address: str, *pieces: bytes, receive_bytes: int | None = None) -> socket.socket | None:
        """A connection on which this is sent and nothing read; None where the service refuses it. Counted."""
        connection = None
        try:
            connection = self.connect(address, receive_bytes=receive_bytes)
            for piece in pieces:
                connection.sendall(piece)
        except OSError as error:
            self.answers[f"connection {type(error).__name__}"] += 1
            return None
        self.answers["connection open"] += 1
        return connection

    def flood(
        self, connection: socket.socket | None, piece: bytes, most_bytes: int, seconds: float = 5.0
    ) -> None:
        """Sends a piece again and again, until so much is sent, the service does not take it or closes.

        Counts how that ended.
        """
        if connection is None:
            return
        connection.settimeout(1)
        until_s = time.monotonic() + seconds
        sent = 0
        try:
            while sent < most_bytes and time.monotonic() < until_s and not self.is_over():
                connection.sendall(piece)
                sent += len(piece)
        except TimeoutError:
            self.answers["flood not taken"] += 1
        except OSError:
            self.answers["flood cut off"] += 1
        else:
            self.answers["flood taken"] += 1

    def closed(self, connections: list[socket.socket | None]) -> int:
        """How many of these the service has closed by now."""
        count = 0
        for connection in connections:
            if connection is None:
                continue
            connection.setblocking(False)
            try:
                while data := connection.recv(65536):
                    # What was said before it closed.
                    del data
                count += 1
            except BlockingIOError:
                continue
            except OSError:
                count += 1
        return count


def ask_streams(path: str, request: bytes | None, count: int) -> bytes:
    """HTTP/2 that opens so many calls on one connection. No request: the call waits for its first message."""
    content = [START]
    for stream in range(1, 2 * count, 2):
        content.append(frame(HEADERS, END_HEADERS, stream, headers(path)))
        if request is not None:
            content.append(frame(DATA, END_STREAM, stream, message(request)))
    return b"".join(content)


def begin_messages(path: str, length: int, sent: int, count: int) -> bytes:
    """HTTP/2 that opens so many calls, each with a message of this length of which only the
    first bytes come.
    """
    content = [START]
    for stream in range(1, 2 * count, 2):
        content.append(frame(HEADERS, END_HEADERS, stream, headers(path)))
        content.append(frame(DATA, 0, stream, message(b"\0" * sent, length=length)))
    return b"".join(content)


def field_bytes(number: int, content: bytes) -> bytes:
    """A field of protobuf whose content has a length."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    content = b""
    while value > 127:
        content += bytes([value & 127 | 128])
        value >>= 7
    return content + bytes([value])


def quietly(close: Callable[[], object]) -> None:
    """Closes something that the service may have closed before."""
    with contextlib.suppress(OSError):
        close()
