"""`python -m tests.campaigns.load.streams`: how late what falls due arrives at a watch, and what a thousand
event streams of each kind cost.

Lateness is measured on the real clock: sessions with timeouts of a minute and a little more, each with a
watch, first in a store of their own and then beside many other live sessions. The streams are opened on one
facade process: one SSE stream and one Socket.IO client for each session. What counts are the ratio of a REST
GET's median time to that without them, the memory of each stream, and that closing gives it back. The driver
runs on the same machine.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import grpc
import psutil
import uvloop
from websockets.asyncio.client import ClientConnection, connect

from eliza.sessions import values
from eliza.sessions.v1 import (
    message_service_pb2,
    message_service_pb2_grpc,
    session_pb2,
    session_service_pb2,
    session_service_pb2_grpc,
    timeout_pb2,
)
from tests.campaigns.load.programs.filled import fill
from tests.support.service import ECHO, USER, Serve

T = TypeVar("T")

OPENING = 50
"""How many streams are being opened at a time."""
SETTLING_SECONDS = 60
"""After which what has not been given back counts as kept."""


async def in_turns(work: Callable[[str], Awaitable[T]], items: Iterable[str]) -> list[T]:
    """Does the same for all items, OPENING at a time; the results in order."""
    limit = asyncio.Semaphore(OPENING)

    async def one(item: str) -> T:
        async with limit:
            return await work(item)

    return list(await asyncio.gather(*map(one, items)))


async def lateness(address: str, count: int) -> tuple[list[float], list[float]]:
    """By how many ms the warnings and the expiries of so many sessions arrive later than they fall due."""
    warnings: list[float] = []
    expiries: list[float] = []
    async with grpc.aio.insecure_channel(address) as channel:
        sessions = session_service_pb2_grpc.SessionServiceStub(channel)

        async def follow(number: int) -> None:
            # The first is of one minute, whose warning falls due at once: the least threshold is a minute.
            config = timeout_pb2.TimeoutConfig(
                timeout_minutes=1 + 0.2 * number / count, warning_threshold_minutes=1
            )
            request = session_service_pb2.CreateSessionRequest(
                agent_id=ECHO, user_id=USER, timeout_config=config
            )
            session: session_pb2.Session = (await sessions.CreateSession(request)).session
            expires_ms = values.ms_floor(session.expires_at)
            async for response in sessions.WatchSession(
                session_service_pb2.WatchSessionRequest(session_id=session.session_id)
            ):
                now_ms = time.time() * 1000
                if response.entry.HasField("expiration_warning"):
                    warnings.append(now_ms - (expires_ms - 60_000))
                elif response.entry.HasField("expiry"):
                    expiries.append(now_ms - expires_ms)

        await asyncio.gather(*map(follow, range(count)))
    assert len(warnings) == len(expiries) == count, (len(warnings), len(expiries))
    return warnings, expiries


def measure_lateness(watched: int, others: int) -> None:
    """Starts a service with a filled store and prints how late things arrive."""
    with tempfile.TemporaryDirectory() as directory:
        uvloop.run(fill(Path(directory) / "store.db", others))
        service = Serve(Path(directory), "--no-rest", SESSION_MIN_TIMEOUT_MINUTES="1")
        try:
            warnings, expiries = uvloop.run(lateness(service.grpc, watched))
        finally:
            service.stop()
    for name, late_ms in (("warning", warnings), ("expiry", expiries)):
        print(
            f"{name:8} beside {others:7} live sessions, {watched} watched: "
            f"late by {statistics.median(late_ms):6.0f} ms (median), {max(late_ms):6.0f} ms (max)",
            flush=True,
        )


class Sse:
    """A stream of server-sent events on a bare connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, address: str, session_id: str) -> "Sse":
        """Opens the stream and reads until it says that it is there."""
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"GET /api/messaging/sessions/{session_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await reader.readuntil(b"retry: ")
        return cls(reader, writer)

    async def first(self) -> None:
        """Waits for the first event."""
        await self._reader.readuntil(b"event: ")

    async def close(self) -> None:
        """Closes the connection."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


class SocketIo:
    """A Socket.IO client on a bare websocket."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._arrived = asyncio.Event()
        self.joined = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, address: str, session_id: str) -> "SocketIo":
        """Connects and joins a session."""
        socket = await connect(
            f"ws://{address}/socket.io/?EIO=4&transport=websocket", compression=None, ping_interval=None
        )
        assert str(await socket.recv()).startswith("0")
        await socket.send("40")
        client = cls(socket)
        await socket.send("42" + json.dumps(["join", {"roomId": session_id}]))
        await client.joined.wait()
        return client

    async def first(self) -> None:
        """Waits for the first event of the session."""
        await self._arrived.wait()

    async def close(self) -> None:
        """Closes the connection."""
        await self._socket.close()
        await self._reading

    async def _read(self) -> None:
        async for text in self._socket:
            if text == "2":
                await self._socket.send("3")
            elif str(text).startswith("42"):
                name = json.loads(str(text)[2:])[0]
                if name == "room_joined":
                    self.joined.set()
                elif name not in ("connection_established", "channel_joined"):
                    assert name != "messageError", text
                    self._arrived.set()


async def get_ms(address: str, session_id: str, count: int) -> list[float]:
    """How long so many GETs of a session take, one after the other on one connection, in ms."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    taken = []
    for _ in range(count):
        begun = time.perf_counter()
        writer.write(f"GET /api/messaging/sessions/{session_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await reader.readexactly(
            next(
                int(line[16:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")
            )
        )
        taken.append((time.perf_counter() - begun) * 1000)
    writer.close()
    return taken


def standing(process: psutil.Process) -> tuple[float, int, int]:
    """The memory of a process in MiB, its descriptors and its TCP connections."""
    return process.memory_info().rss / 2**20, process.num_fds(), len(process.net_connections("tcp"))


def report(moment: str, processes: dict[str, psutil.Process]) -> dict[str, float]:
    """Prints how the processes stand; returns their memory."""
    memory = {}
    for name, process in processes.items():
        memory[name], descriptors, connections = standing(process)
        print(
            f"{moment:28} {name:7} RSS {memory[name]:7.1f} MiB, {descriptors:5} descriptors, "
            f"{connections:5} connections",
            flush=True,
        )
    return memory


async def given_back(process: psutil.Process, descriptors: int) -> None:
    """Waits until a process has no more descriptors than these, but not for ever."""
    give_up = time.perf_counter() + SETTLING_SECONDS
    while process.num_fds() > descriptors and time.perf_counter() < give_up:  # noqa: ASYNC110 - another process tells nobody
        await asyncio.sleep(0.1)


async def streams(service: Serve, count: int, gets: int) -> None:
    """Opens the streams, measures and prints, closes them, and measures again; then all that once more, on a
    warm service.
    """
    server = psutil.Process(service.process.pid)
    processes = {"service": server}
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        sessions = session_service_pb2_grpc.SessionServiceStub(channel)
        messages = message_service_pb2_grpc.MessageServiceStub(channel)

        async def new(_: str) -> str:
            session_id: str = (await sessions.CreateSession(request)).session.session_id
            return session_id

        request = session_service_pb2.CreateSessionRequest(agent_id=ECHO, user_id=USER)
        beside = await new("")
        await get_ms(service.rest, beside, gets)
        for turn in ("first", "second"):
            ids = await in_turns(new, map(str, range(count)))
            alone_ms = await get_ms(service.rest, beside, gets)
            before = report(f"{turn} turn, before", processes)
            descriptors = server.num_fds()
            begun = time.perf_counter()
            opened: Sequence[Sse | SocketIo] = [
                *await in_turns(lambda session_id: Sse.open(service.rest, session_id), ids),
                *await in_turns(lambda session_id: SocketIo.open(service.rest, session_id), ids),
            ]
            print(f"{len(opened)} streams opened in {time.perf_counter() - begun:.1f} s")
            during = report(f"{turn} turn, streams open", processes)
            for name in processes:
                print(f"{name}: {(during[name] - before[name]) * 1024 / len(opened):.1f} KiB for each stream")
            beside_ms = await get_ms(service.rest, beside, gets)

            begun = time.perf_counter()
            arrivals = asyncio.gather(*(stream.first() for stream in opened))
            await in_turns(
                lambda session_id: messages.SendMessage(
                    message_service_pb2.SendMessageRequest(session_id=session_id, content="hello")
                ),
                ids,
            )
            sent = time.perf_counter() - begun
            await arrivals
            arrived = time.perf_counter() - begun
            print(
                f"{count} messages sent in {sent:.1f} s; all {len(opened)} streams had their first after "
                f"{arrived:.1f} s"
            )
            report(f"{turn} turn, after messages", processes)

            await asyncio.gather(*(stream.close() for stream in opened))
            del opened
            begun = time.perf_counter()
            await given_back(server, descriptors)
            print(f"closed; descriptors back after {time.perf_counter() - begun:.1f} s")
            report(f"{turn} turn, streams closed", processes)
            again_ms = await get_ms(service.rest, beside, gets)
            alone, median = (
                statistics.median(itertools.chain(alone_ms, again_ms)),
                statistics.median(beside_ms),
            )
            print(
                f"a GET takes {alone:.2f} ms without the streams, {median:.2f} ms beside them: "
                f"{median / alone:.2f} times as long",
                flush=True,
            )


def measure_streams(count: int, gets: int) -> None:
    """Starts a service and measures its streams."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as directory:
        service = Serve(Path(directory), REST_WORKERS="1")
        try:
            uvloop.run(streams(service, count, gets))
        finally:
            status = service.stop()
            print(
                f"the service ended with {status}; tracebacks in its log: {service.log().count('Traceback')}"
            )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=["lateness", "streams"], help="measure only this")
    parser.add_argument(
        "--watched", type=int, default=20, help="how many sessions are watched for lateness (default 20)"
    )
    parser.add_argument(
        "--others",
        type=int,
        default=100_000,
        help="how many live sessions there are beside them (default 100000)",
    )
    parser.add_argument(
        "--streams", type=int, default=1000, help="how many streams of each kind (default 1000)"
    )
    parser.add_argument("--gets", type=int, default=1000, help="how many GETs are timed (default 1000)")
    arguments = parser.parse_args()
    if arguments.only != "lateness":
        measure_streams(arguments.streams, arguments.gets)
    if arguments.only != "streams":
        for others in (0, arguments.others):
            measure_lateness(arguments.watched, others)


if __name__ == "__main__":
    main()
