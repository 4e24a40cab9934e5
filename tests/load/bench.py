"""`python -m tests.load.bench`: what a durable SendMessage, a GetSession and a REST send cost beside a no-op RPC, in one run.

A fresh service is started. Each kind of call is driven with 64 in flight, in turns, so that a noisy machine hits all alike. What counts are
the ratios: calls per second as a share of the no-op's, and CPU time of the service (server and facade) per call, as a multiple of its.
The no-op is grpc.health.v1 Check on the same server. The driver runs in this process, on the same machine: its own cost is in every rate.
"""

import argparse
import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import orjson
import psutil
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc

from eliza.sessions.v1 import (
    agent_pb2,
    agent_service_pb2,
    agent_service_pb2_grpc,
    message_service_pb2,
    message_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)
from tests.harness import ECHO, USER, Serve

IN_FLIGHT = 64
CONTENT = "How do I reset my password?"

Call = Callable[[int], Awaitable[object]]
"""Makes one call; the argument is the number of the caller."""


@dataclass
class Row:
    """What was measured of one kind of call."""

    name: str
    call: Call
    # Waits until everything that the calls have set going is done: that time counts, too.
    settle: Callable[[], Awaitable[None]] | None = None
    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)


class RestClient:
    """Keeps one connection and sends the same POST over it: as little as a client can cost."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> None:
        """Sends a POST and reads its answer."""
        if self._streams is None or self._streams[0].at_eof():
            host, port = self._address.split(":")
            self._streams = await asyncio.open_connection(host, int(port))
        reader, writer = self._streams
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 201"), head
        length = next(int(line[16:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: "))
        await reader.readexactly(length)

    def close(self) -> None:
        """Closes the connection."""
        if self._streams:
            self._streams[1].close()


def cpu_seconds(process: psutil.Process) -> float:
    """The CPU time that a process and its children have used so far."""
    return sum(sum(one.cpu_times()[:2]) for one in (process, *process.children(recursive=True)))


async def drive(row: Row, process: psutil.Process, seconds: float) -> None:
    """Drives one kind of call for a while and notes rate, latencies and CPU time."""
    end = time.perf_counter() + seconds
    count = itertools.count()

    async def caller(number: int) -> None:
        while (begun := time.perf_counter()) < end:
            await row.call(number)
            row.latencies_ms.append((time.perf_counter() - begun) * 1000)
            next(count)

    cpu, begun = cpu_seconds(process), time.perf_counter()
    await asyncio.gather(*map(caller, range(IN_FLIGHT)))
    if row.settle:
        await row.settle()
    calls = next(count)
    row.rates.append(calls / (time.perf_counter() - begun))
    row.cpu_us.append((cpu_seconds(process) - cpu) / calls * 1e6)


async def measure(service: Serve, turns: int, seconds: float) -> list[Row]:
    """Drives every kind of call in turns."""
    process = psutil.Process(service.process.pid)
    rest = [RestClient(service.rest) for _ in range(IN_FLIGHT)]
    async with grpc.aio.insecure_channel(service.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        agents = agent_service_pb2_grpc.AgentServiceStub(channel)
        sessions = session_service_pb2_grpc.SessionServiceStub(channel)
        messages = message_service_pb2_grpc.MessageServiceStub(channel)

        async def create(agent_id: str) -> list[str]:
            request = session_service_pb2.CreateSessionRequest(agent_id=agent_id, user_id=USER)
            return [(await sessions.CreateSession(request)).session.session_id for _ in range(IN_FLIGHT)]

        # Sessions of an agent that nobody works for: their messages are kept, and get no reply.
        agent = agent_pb2.Agent(name="nobody works for it", kind=agent_pb2.AGENT_KIND_STREAM)
        agent_id = (await agents.CreateAgent(agent_service_pb2.CreateAgentRequest(agent=agent))).agent.agent_id
        silent, echoed = await create(agent_id), await create(ECHO)
        last_sent = dict.fromkeys(echoed, 0)

        async def ask(request: message_service_pb2.SendMessageRequest) -> None:
            sent = await messages.SendMessage(request)
            last_sent[request.session_id] = max(last_sent[request.session_id], sent.message.sequence)

        async def answered() -> None:
            for session_id, sequence in last_sent.items():
                newest = message_service_pb2.ListMessagesRequest(session_id=session_id, page_size=1)
                while (await messages.ListMessages(newest)).messages[0].reply_to_sequence != sequence:  # noqa: ASYNC110 - nothing tells
                    await asyncio.sleep(0.01)

        check, body = health_pb2.HealthCheckRequest(), orjson.dumps({"content": CONTENT})
        reads = [session_service_pb2.GetSessionRequest(session_id=session_id) for session_id in silent]
        sends, asks = (
            [message_service_pb2.SendMessageRequest(session_id=session_id, content=CONTENT) for session_id in ids]
            for ids in (silent, echoed)
        )
        paths = [f"/api/messaging/sessions/{session_id}/messages" for session_id in silent]
        rows = [
            Row("no-op RPC (health Check)", lambda _: health.Check(check)),
            Row("GetSession", lambda caller: sessions.GetSession(reads[caller])),
            Row("SendMessage", lambda caller: messages.SendMessage(sends[caller])),
            Row("SendMessage, and the echo's reply", lambda caller: ask(asks[caller]), answered),
            Row("REST send", lambda caller: rest[caller].post(paths[caller], body)),
        ]
        for _ in range(turns):
            for row in rows:
                await drive(row, process, seconds)
    for client in rest:
        client.close()
    return rows


def report(rows: list[Row]) -> None:
    """Prints the table: the first row is what the others are compared with."""

    def share(name: str) -> float:
        return statistics.median(next(row.rates for row in rows if row.name == name))

    print(f"{'call':34} {'calls/s':>8} {'of no-op':>9} {'CPU µs':>7} {'of no-op':>9} {'p50 ms':>7} {'p99 ms':>7}")
    rate, cpu = statistics.median(rows[0].rates), statistics.median(rows[0].cpu_us)
    for row in rows:
        own_rate, own_cpu = statistics.median(row.rates), statistics.median(row.cpu_us)
        percentiles = statistics.quantiles(row.latencies_ms, n=100)
        print(
            f"{row.name:34} {own_rate:8.0f} {own_rate / rate:9.2f} {own_cpu:7.0f} {own_cpu / cpu:9.2f} "
            f"{percentiles[49]:7.1f} {percentiles[98]:7.1f}"
        )
    cost = share("SendMessage, and the echo's reply") / share("SendMessage")
    print(f"\nDelivery: a message with its reply stored goes at {cost:.2f} of the rate of a message without one.")


def main() -> None:
    """Starts a service, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="how often each kind has its turn (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a turn is (default 2)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        service = Serve(Path(directory))
        try:
            report(uvloop.run(measure(service, arguments.turns, arguments.seconds)))
        finally:
            service.stop()


if __name__ == "__main__":
    main()
