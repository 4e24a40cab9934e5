"""`python -m tests.campaigns.load.agents`: what a stuck agent costs the others, in one run.

Two agents of the kind `stream`, each with a worker. The one answers at once; what counts is how long whoever
asks it waits for its reply. The other takes all it can get and never answers, so that its share of
concurrency is taken and more waits. The rounds without and beside it alternate, so that a noisy machine hits
both alike, and so do rounds that differ in nothing: their ratio is what is noise. The workers and the clients
run in this process, on the same machine: their own cost is in every latency.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import grpc
import uvloop

from eliza.sessions.v1 import (
    agent_pb2,
    agent_service_pb2_grpc,
    message_service_pb2,
    message_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)
from eliza.sessions.v1 import agent_service_pb2 as pb
from tests.support.service import USER, Serve

CONCURRENCY = 50
"""The service's bound for one agent."""
STUCK_SESSIONS = 4 * CONCURRENCY
CLIENTS = 8


async def answer(stub: agent_service_pb2_grpc.AgentServiceStub, agent_id: str) -> None:
    """A worker that answers at once."""
    said: asyncio.Queue[pb.ConnectRequest] = asyncio.Queue()
    said.put_nowait(pb.ConnectRequest(hello=pb.ConnectRequest.Hello(agent_id=agent_id, max_deliveries=100)))
    async for response in stub.Connect(_requests(said)):
        if response.HasField("delivery"):
            reply = pb.ConnectRequest.Reply(
                delivery_id=response.delivery.delivery_id, reply=pb.AgentReply(content="at once")
            )
            said.put_nowait(pb.ConnectRequest(reply=reply))


async def take(stub: agent_service_pb2_grpc.AgentServiceStub, agent_id: str, taken: set[str]) -> None:
    """A worker that takes all it can get and never answers; `taken` are the sessions."""
    said: asyncio.Queue[pb.ConnectRequest] = asyncio.Queue()
    said.put_nowait(pb.ConnectRequest(hello=pb.ConnectRequest.Hello(agent_id=agent_id, max_deliveries=1000)))
    async for response in stub.Connect(_requests(said)):
        if response.HasField("delivery"):
            taken.add(response.delivery.session.session_id)


async def _requests(said: "asyncio.Queue[pb.ConnectRequest]") -> AsyncIterator[pb.ConnectRequest]:
    while True:
        yield await said.get()


class Driver:
    """The clients, and the agent that gets stuck."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.agents = agent_service_pb2_grpc.AgentServiceStub(channel)
        self._sessions = session_service_pb2_grpc.SessionServiceStub(channel)
        self._messages = message_service_pb2_grpc.MessageServiceStub(channel)

    async def agent(self, name: str) -> str:
        """Registers an agent."""
        agent = agent_pb2.Agent(name=name, kind=agent_pb2.AGENT_KIND_STREAM)
        return (await self.agents.CreateAgent(pb.CreateAgentRequest(agent=agent))).agent.agent_id

    async def create(self, agent_id: str, count: int) -> list[str]:
        """Creates sessions."""
        request = session_service_pb2.CreateSessionRequest(agent_id=agent_id, user_id=USER)
        return [
            response.session.session_id
            for response in await asyncio.gather(
                *(self._sessions.CreateSession(request) for _ in range(count))
            )
        ]

    async def send(self, ids: list[str]) -> None:
        """Sends a message into each session."""
        requests = [
            message_service_pb2.SendMessageRequest(session_id=session_id, content="hello")
            for session_id in ids
        ]
        await asyncio.gather(*map(self._messages.SendMessage, requests))

    async def delete(self, ids: list[str]) -> None:
        """Ends sessions, and with them what is under way in them."""
        requests = [session_service_pb2.DeleteSessionRequest(session_id=session_id) for session_id in ids]
        await asyncio.gather(*map(self._sessions.DeleteSession, requests))

    async def converse_ms(self, ids: list[str], seconds: float) -> list[float]:
        """How long replies take, in ms, where each session asks one message after the other for a while."""
        taken: list[float] = []
        end = time.perf_counter() + seconds

        async def client(session_id: str) -> None:
            message = message_service_pb2.SendMessageRequest(session_id=session_id, content="hello")
            while (begun := time.perf_counter()) < end:
                *_, last = [
                    part
                    async for part in self._messages.Converse(
                        message_service_pb2.ConverseRequest(message=message)
                    )
                ]
                assert last.HasField("reply")
                taken.append((time.perf_counter() - begun) * 1000)

        await asyncio.gather(*map(client, ids))
        return taken


async def measure(address: str, rounds: int, seconds: float) -> dict[str, list[float]]:
    """The latencies in ms, of alternating rounds."""
    async with grpc.aio.insecure_channel(address) as channel:
        driver, taken = Driver(channel), set[str]()
        quick, stuck = await driver.agent("quick"), await driver.agent("stuck")
        workers = [
            asyncio.create_task(answer(driver.agents, quick)),
            asyncio.create_task(take(driver.agents, stuck, taken)),
        ]
        asking = await driver.create(quick, CLIENTS)
        await driver.converse_ms(asking, seconds)
        found: dict[str, list[float]] = {"alone": [], "alone again": [], "beside a stuck agent": []}
        for _ in range(rounds):
            for name, latencies in found.items():
                waiting = await driver.create(stuck, STUCK_SESSIONS) if "stuck" in name else []
                await driver.send(waiting)
                share = min(len(waiting), CONCURRENCY)
                while len(taken.intersection(waiting)) < share:  # noqa: ASYNC110 - nothing tells
                    await asyncio.sleep(0.01)
                latencies += await driver.converse_ms(asking, seconds)
                assert len(taken.intersection(waiting)) == share, (
                    "the stuck agent was given more than its share"
                )
                await driver.delete(waiting)
        for worker in workers:
            worker.cancel()
            with suppress(asyncio.CancelledError):
                await worker
    return found


def report(found: dict[str, list[float]]) -> None:
    """Prints the table: the first row is what the others are compared with."""
    print(f"{'the other agent':22} {'replies':>8} {'p50 ms':>7} {'ratio':>6} {'p99 ms':>7} {'ratio':>6}")
    first: list[float] = []
    for name, latencies in found.items():
        percentiles = statistics.quantiles(latencies, n=100)
        p50, p99 = percentiles[49], percentiles[98]
        first = first or [p50, p99]
        print(
            f"{name:22} {len(latencies):8} {p50:7.2f} {p50 / first[0]:6.2f} {p99:7.2f} {p99 / first[1]:6.2f}"
        )


def main() -> None:
    """Starts a service, measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10, help="how often each has its turn (default 10)")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long a turn is (default 1)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        service = Serve(
            Path(directory), "--no-rest", AGENT_CONCURRENCY=str(CONCURRENCY), DELIVERY_LEASE_SECONDS="3600"
        )
        try:
            print(
                f"{CLIENTS} clients; the stuck agent has {CONCURRENCY} deliveries in hand and "
                f"{STUCK_SESSIONS - CONCURRENCY} waiting"
            )
            report(uvloop.run(measure(service.grpc, arguments.rounds, arguments.seconds)))
        finally:
            status = service.stop()
            print(
                f"the service ended with {status}; tracebacks in its log: {service.log().count('Traceback')}"
            )


if __name__ == "__main__":
    main()
