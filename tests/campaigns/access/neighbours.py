"""`python -m tests.campaigns.access.neighbours`: a greedy caller at ten times its rate, beside a polite one.

The polite one sends a message at a time, well within its rate; alone and beside the greedy one, in
alternating rounds. Its latency may be at most 1.3 times that when it is alone.
"""

import argparse
import asyncio
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import grpc

from eliza.sessions.errors import error_info
from eliza.sessions.v1 import message_service_pb2, message_service_pb2_grpc, session_service_pb2
from tests.campaigns.access.subjects import SETTINGS
from tests.service.access.world import ALICE, BOB, key_lines, make_key, write_keys
from tests.support.service import ECHO, Serve

RATE: Final = 50
"""Messages a second that each may send."""

GOAL: Final = 1.3


class Sender(NamedTuple):
    """A user who sends messages into a session of its own."""

    address: str
    key: str
    session_id: str

    async def send(self, per_second: float, seconds: float) -> tuple[list[float], int]:
        """Sends at this rate for a while: the milliseconds of those that were answered, and how many were
        refused for their rate.
        """
        taken: list[float] = []
        refused = 0
        loop = asyncio.get_running_loop()
        request = message_service_pb2.SendMessageRequest(session_id=self.session_id, content="Hello")
        metadata = (("x-api-key", self.key),)
        async with grpc.aio.insecure_channel(self.address) as channel:
            stub = message_service_pb2_grpc.MessageServiceStub(channel)

            async def one() -> None:
                nonlocal refused
                begun = time.perf_counter()
                try:
                    await stub.SendMessage(request, metadata=metadata, timeout=30)
                except grpc.aio.AioRpcError as error:
                    info = error_info(error)
                    # gRPC's core itself refuses a caller that has too many calls waiting.
                    if info.reason != "RATE_LIMITED" if info else error.code() != grpc.StatusCode.UNAVAILABLE:
                        raise
                    refused += 1
                else:
                    taken.append((time.perf_counter() - begun) * 1000)

            begun_s, tasks = loop.time(), list[asyncio.Task[None]]()
            for number in range(int(per_second * seconds)):
                await asyncio.sleep(max(0.0, begun_s + number / per_second - loop.time()))
                tasks.append(loop.create_task(one()))
            await asyncio.gather(*tasks)
        return taken, refused


def make_sender(service: Serve, key: str, user_id: str) -> Sender:
    """A user with a session."""
    request = session_service_pb2.CreateSessionRequest(agent_id=ECHO, user_id=user_id)
    answer = service.sessions.CreateSession(request, metadata=(("x-api-key", key),), timeout=30)
    return Sender(service.grpc, key, answer.session.session_id)


def run(sender: Sender, per_second: float, seconds: float) -> tuple[list[float], int]:
    """Sends from a process of its own, so that the callers do not wait for each other."""
    return asyncio.run(sender.send(per_second, seconds))


def measure(greedy: Sender, polite: Sender, rounds: int, seconds: float) -> tuple[list[float], ...]:
    """The polite one's medians alone, and beside the greedy one, by round."""
    alone: list[float] = []
    beside: list[float] = []
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as callers:
        # Both processes have begun before anything is measured.
        for warm in [callers.submit(run, one, RATE / 2, 1) for one in (greedy, polite)]:
            warm.result()
        for _ in range(rounds):
            alone.append(median(callers.submit(run, polite, RATE / 2, seconds).result()[0]))
            other = callers.submit(run, greedy, RATE * 10, seconds)
            beside.append(median(callers.submit(run, polite, RATE / 2, seconds).result()[0]))
            if not other.result()[1]:
                raise RuntimeError("the greedy one was never refused")
    return alone, beside


def main(arguments: list[str] | None = None) -> None:
    """Measures and prints. Ends with status 1 where the goal is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as name:
        keys = {"greedy": (make_key("greedy"), ALICE), "polite": (make_key("polite"), BOB)}
        path = Path(name) / "keys.toml"
        write_keys(
            path,
            "".join(key_lines(key_id, key, role="user", user=user) for key_id, (key, user) in keys.items()),
        )
        service = Serve(Path(name) / "service", KEYS_FILE=str(path), RATE_SEND=f"{RATE}/second", **SETTINGS)
        try:
            senders = [make_sender(service, *keys[key_id]) for key_id in ("greedy", "polite")]
            alone, beside = measure(*senders, options.rounds, options.seconds)
        finally:
            service.stop()
    ratio = median(after / before for before, after in zip(alone, beside, strict=True))
    print(
        f"the polite one: {median(alone):.2f} ms alone, {median(beside):.2f} ms beside the greedy one, "
        f"{ratio:.2f} times"
    )
    if ratio > GOAL:
        sys.exit(f"missed: {ratio:.2f} is more than {GOAL}")


if __name__ == "__main__":
    main()
