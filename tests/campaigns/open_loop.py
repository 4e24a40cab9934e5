"""A generator of load that does not wait for answers: bare HTTP/2 or HTTP/1.1, so that it costs a fraction of
what the service does.

Every call has a deadline, as those of real clients do: one that has no answer by then is given up. Where the
other side holds calls back (HTTP/2's bound on streams, or on bytes), they wait here, and their time counts.
"""

import asyncio
import itertools
import time
from array import array
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import uvloop

from tests.campaigns.http2_frames import PREFACE, frame

TICK_SECONDS: Final = 0.002
_WINDOW: Final = 2**30
_TRUE_BINARY: Final = 0xFE03
"""gRPC's own setting: trailers whose names end in -bin come as they are."""
_STATUS: Final = {0: "ok", 1: "cancelled", 4: "late", 8: "refused", 14: "unavailable"}


@dataclass(frozen=True)
class Spec:
    """What one process offers: `rate` calls per second, or, where that is 0, always `in_flight` of them."""

    address: str
    requests: Sequence[tuple[str, bytes]]
    """Paths and bodies, used in turns; over gRPC the bodies are the messages."""
    seconds: float
    rate: float = 0
    in_flight: int = 0
    connections: int = 4
    deadline_s: float = 1
    rest: bool = False


@dataclass
class Offered:
    """What came of it: the latencies in ms by outcome (`ok`, `refused`, `late`, …), and how many calls were
    made.
    """

    latencies_ms: dict[str, array] = field(default_factory=dict)
    calls: int = 0
    seconds: float = 0
    statuses: Counter[str] = field(default_factory=Counter)
    longest_queue: int = 0

    def add(self, other: "Offered") -> None:
        for outcome, values in other.latencies_ms.items():
            self.latencies_ms.setdefault(outcome, array("d")).extend(values)
        self.calls += other.calls
        self.seconds = max(self.seconds, other.seconds)
        self.statuses += other.statuses
        self.longest_queue += other.longest_queue

    def rate(self, outcome: str) -> float:
        return len(self.latencies_ms.get(outcome, ())) / self.seconds


class _Connection(asyncio.Protocol):
    """One connection. `free` says whether it can take a call now."""

    def __init__(self, load: "_Load") -> None:
        self.load = load
        self.buffer = b""
        self.transport: asyncio.Transport | None = None
        # When the calls under way were due.
        self.under_way: dict[int, float] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        for due in self.under_way.values():
            self.load.note("lost", due)
        self.under_way.clear()
        self.load.lost(self)

    def give_up(self, before: float) -> None:
        """Gives up the calls that were due before an instant."""
        while self.under_way:
            number, due = next(iter(self.under_way.items()))
            if due >= before:
                return
            del self.under_way[number]
            self.load.note("late", due)
            self.cancel(number)

    def cancel(self, number: int) -> None:
        raise NotImplementedError


class _Grpc(_Connection):
    """HTTP/2, as far as unary calls need it: no header of the answer is compressed, because our table has no
    room.
    """

    def __init__(self, load: "_Load") -> None:
        super().__init__(load)
        self.number = -1
        self.room = 65_535
        self.max_streams = 2**31
        self.unread = 0
        self.ready = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        settings = b"".join(
            key.to_bytes(2, "big") + value.to_bytes(4, "big")
            for key, value in ((1, 0), (2, 0), (4, _WINDOW), (_TRUE_BINARY, 1))
        )
        self.write(PREFACE + frame(4, 0, 0, settings) + frame(8, 0, 0, (_WINDOW - 65_535).to_bytes(4, "big")))

    @property
    def free(self) -> bool:
        return (
            self.ready
            and self.transport is not None
            and len(self.under_way) < self.max_streams
            and self.room > 2000
        )

    def write(self, data: bytes) -> None:
        if self.transport:
            self.transport.write(data)

    def call(self, due: float, head: bytes, body: bytes) -> None:
        self.number += 2
        self.under_way[self.number] = due
        self.room -= len(body)
        self.write(frame(1, 4, self.number, head) + frame(0, 1, self.number, body))

    def cancel(self, number: int) -> None:
        self.write(frame(3, 0, number, (8).to_bytes(4, "big")))

    def data_received(self, data: bytes) -> None:
        data = self.buffer + data
        at, end = 0, len(data)
        while at + 9 <= end:
            size = int.from_bytes(data[at : at + 3], "big")
            if at + 9 + size > end:
                break
            kind, flags, number = data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9], "big")
            if kind == 0:
                self.unread += size
            elif kind != 1 or flags & 1:
                self._take(kind, flags, number, data[at + 9 : at + 9 + size])
            at += 9 + size
        self.buffer = data[at:]
        if self.unread > 2**24:
            self.write(frame(8, 0, 0, self.unread.to_bytes(4, "big")))
            self.unread = 0

    def _take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == 1:
            due = self.under_way.pop(number, None)
            if due is not None:
                at = payload.find(b"grpc-status") + 11
                status = int(payload[at + 1 : at + 1 + payload[at]])
                self.load.note(_STATUS.get(status, f"status {status}"), due)
                if status == 8:
                    self.load.offered.statuses[
                        "with RetryInfo" if b"RetryInfo" in payload else "without RetryInfo"
                    ] += 1
        elif kind == 3:
            due = self.under_way.pop(number, None)
            if due is not None:
                self.load.note(f"reset {int.from_bytes(payload, 'big')}", due)
        elif kind == 4 and not flags & 1:
            for at in range(0, len(payload), 6):
                if int.from_bytes(payload[at : at + 2], "big") == 3:
                    self.max_streams = int.from_bytes(payload[at + 2 : at + 6], "big")
            self.ready = True
            self.write(frame(4, 1, 0, b""))
        elif kind == 6 and not flags & 1:
            self.write(frame(6, 1, 0, payload))
        elif kind == 8 and number == 0:
            self.room += int.from_bytes(payload, "big")
        elif kind == 7:
            self.ready = False


class _Rest(_Connection):
    """HTTP/1.1: one call at a time."""

    free = False

    def __init__(self, load: "_Load") -> None:
        super().__init__(load)
        self.numbers = itertools.count()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.free = True
        self.load.idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.free = False
        super().connection_lost(exc)

    def call(self, due: float, head: bytes, body: bytes) -> None:
        self.free = False
        self.under_way[next(self.numbers)] = due
        if self.transport:
            self.transport.write(head + body)

    def cancel(self, number: int) -> None:
        # Over HTTP/1.1 a call is given up with its connection.
        if self.transport:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        low = head.lower()
        _, sized, rest = low.partition(b"content-length: ")
        complete = len(body) >= int(rest.split(b"\r\n", 1)[0]) if sized else body.endswith(b"0\r\n\r\n")
        if not complete or not self.under_way:
            return
        self.buffer = b""
        status = int(head[9:12])
        _, due = self.under_way.popitem()
        self.load.note({201: "ok", 503: "refused", 504: "late"}.get(status, f"status {status}"), due)
        if status == 503:
            self.load.offered.statuses[
                "with Retry-After" if b"retry-after: " in low else "without Retry-After"
            ] += 1
        if b"connection: close" in low:
            if self.transport:
                self.transport.close()
        else:
            self.free = True
            self.load.idle.append(self)


class _Load:
    """The load of one process."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.offered = Offered()
        self.connections: list[_Connection] = []
        self.idle: deque[_Connection] = deque()
        self.waiting: deque[float] = deque()
        self.opening: set[asyncio.Task[None]] = set()
        heads = [
            _rest_head(path, body) if spec.rest else _grpc_head(path, spec) for path, body in spec.requests
        ]
        bodies = [
            body if spec.rest else b"\0" + len(body).to_bytes(4, "big") + body for _, body in spec.requests
        ]
        self.turns = itertools.cycle(list(zip(heads, bodies, strict=True)))
        self.ending = False

    def note(self, outcome: str, due: float) -> None:
        self.offered.latencies_ms.setdefault(outcome, array("d")).append((time.perf_counter() - due) * 1000)
        if self.spec.in_flight and not self.ending:
            self.waiting.append(time.perf_counter())
            self.offered.calls += 1
            asyncio.get_running_loop().call_soon(self._serve)

    def lost(self, connection: _Connection) -> None:
        self.connections.remove(connection)

    def _open(self) -> None:
        host, port = self.spec.address.split(":")
        connection = (_Rest if self.spec.rest else _Grpc)(self)
        self.connections.append(connection)

        async def connect() -> None:
            try:
                await asyncio.get_running_loop().create_connection(lambda: connection, host, int(port))
                if not self.spec.rest:
                    self.idle.append(connection)
            except OSError:
                self.connections.remove(connection)
                self.offered.statuses["no connection"] += 1

        task = asyncio.get_running_loop().create_task(connect())
        self.opening.add(task)
        task.add_done_callback(self.opening.discard)

    def _serve(self) -> None:
        """Starts what waits, as far as connections take it."""
        if self.ending:
            return
        full: list[_Connection] = []
        while self.waiting and self.idle:
            connection = self.idle.popleft()
            if connection.transport is None:
                continue
            if not connection.free:
                if not self.spec.rest:
                    full.append(connection)
                continue
            connection.call(self.waiting.popleft(), *next(self.turns))
            if not self.spec.rest:
                self.idle.append(connection)
        self.idle.extend(full)
        while len(self.connections) < self.spec.connections and (
            len(self.waiting) > len(self.opening) or not self.spec.rest
        ):
            self._open()

    async def run(self) -> Offered:
        spec = self.spec
        begun = last = time.perf_counter()
        if spec.in_flight:
            self.waiting.extend([begun] * spec.in_flight)
            self.offered.calls = spec.in_flight
        while (now := time.perf_counter()) < begun + spec.seconds:
            if spec.rate:
                wanted = int((now - begun) * spec.rate) - self.offered.calls
                self.waiting.extend(last + (now - last) * (n + 1) / wanted for n in range(wanted))
                self.offered.calls += wanted
            last = now
            self._give_up(now)
            self._serve()
            if spec.rest and spec.rate:
                while self.waiting and len(self.connections) >= spec.connections and not self.opening:
                    self.note("held back", self.waiting.popleft())
            self.offered.longest_queue = max(self.offered.longest_queue, len(self.waiting))
            await asyncio.sleep(TICK_SECONDS)
        self.offered.seconds = time.perf_counter() - begun
        self.ending = True
        # What was sent may still be answered, but counts no longer: the rates are those of the time of load.
        # uvloop may hang as it closes with connections on it that are half open.
        await asyncio.gather(*self.opening)
        while self.connections:
            for connection in list(self.connections):
                connection.under_way.clear()
                if connection.transport:
                    connection.transport.abort()
            await asyncio.sleep(0)
        return self.offered

    def _give_up(self, now: float) -> None:
        before = now - self.spec.deadline_s
        while self.waiting and self.waiting[0] < before:
            self.note("held back", self.waiting.popleft())
        for connection in list(self.connections):
            connection.give_up(before)


def _literal(name: bytes, value: str) -> bytes:
    return name + bytes((len(value),)) + value.encode()


def _grpc_head(path: str, spec: Spec) -> bytes:
    """The header block of a call: indexes of the static table, and literals that are not to be indexed."""
    return b"".join(
        (
            b"\x83\x86",
            _literal(b"\x04", path),
            _literal(b"\x01", spec.address),
            _literal(b"\x0f\x10", "application/grpc"),
            _literal(b"\x00\x02te", "trailers"),
            _literal(b"\x00\x0cgrpc-timeout", f"{round(spec.deadline_s * 1000)}m"),
        )
    )


def _rest_head(path: str, body: bytes) -> bytes:
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "",
        "",
    )
    return "\r\n".join(lines).encode()


def offer(spec: Spec) -> Offered:
    """Offers the load; for a process of its own."""
    return uvloop.run(_Load(spec).run())
