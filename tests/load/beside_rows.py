"""What others feel: a no-op beside saturating pages, and the lag of the loops where one session has many watchers."""

import asyncio
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Final, TypeVar

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc

from eliza.sessions.v1 import message_service_pb2, session_service_pb2, session_service_pb2_grpc
from tests.harness import ABSENT, Serve
from tests.load.figures import Figures, Plan
from tests.load.grpc_rows import silent_agent
from tests.load.rest_rows import SESSIONS, Rest
from tests.load.sessions import CONTENT, create
from tests.load.subjects import PROGRAMS, Checkout

T = TypeVar("T")

PROBE_PAUSE_SECONDS: Final = 0.002
WRITE_SECONDS: Final = 0.25
"""Between two messages; a message is not sent before all have the one before."""
SAMPLE_SECONDS: Final = 0.005
"""Between two notes of a lag."""
WATCHES_OF_A_CHANNEL: Final = 100
OPENING: Final = 50
"""How many watches are being opened at a time."""
WAIT_SECONDS: Final = 60


def percentile(values: list[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def no_op_ms(service: Serve, work: Callable[[], T]) -> tuple[list[float], T]:
    """How long health checks take, one after the other, while some work goes on; and what that returns."""
    taken: list[float] = []
    over = threading.Event()

    def probe() -> None:
        with grpc.insecure_channel(service.grpc) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
            while not over.wait(PROBE_PAUSE_SECONDS):
                begun = time.perf_counter()
                stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
                taken.append((time.perf_counter() - begun) * 1000)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        result = work()
    finally:
        over.set()
        thread.join()
    return taken, result


def measure_no_op(checkouts: list[Checkout], plan: Plan, figures: Figures) -> None:
    """The latency of a gRPC no-op while wrk asks for pages of 50."""
    with ExitStack() as stack:
        services = {one.name: stack.enter_context(one.service()) for one in checkouts}
        rests = {name: Rest(service, plan.whole_seconds) for name, service in services.items()}
        for _ in range(plan.rounds):
            for name, service in services.items():
                alone, _ = no_op_ms(service, partial(time.sleep, plan.seconds / 2))
                beside, pages = no_op_ms(service, rests[name].page)
                noted = {"p99 ms": percentile(beside, 0.99), "alone p50 ms": statistics.median(alone)}
                figures.add("no-op-beside-pages", name, statistics.median(beside), **noted, **{"pages per s": pages.rate})


class Watchers:
    """Clients that watch one session, and count the messages that they hear."""

    def __init__(self, watch: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        """`watch` calls its argument for each message."""
        self._watch = watch
        self._heard = 0
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Future[None]] = []
        self._ended: list[asyncio.Future[None]] = []

    async def open(self, count: int) -> None:
        """Opens the watches of a session that has one message, some at a time: gRPC cancels calls that come too many at once."""
        while len(self._tasks) < count:
            for _ in range(min(OPENING, count - len(self._tasks))):
                task = asyncio.ensure_future(self._watch(self._note))
                task.add_done_callback(self._note_end)
                self._tasks.append(task)
            await self.hear(1)

    async def hear(self, messages: int) -> None:
        """Waits until the watchers have heard so many messages each. Raises TimeoutError, or what has ended one; EOFError for nothing."""
        async with asyncio.timeout(WAIT_SECONDS):
            while self._heard < messages * len(self._tasks):
                self._changed.clear()
                await self._changed.wait()
                for task in self._ended:
                    task.result()
                    raise EOFError("a watch has ended")

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _note(self) -> None:
        self._heard += 1
        self._changed.set()

    def _note_end(self, task: "asyncio.Future[None]") -> None:
        self._ended.append(task)
        self._changed.set()


async def watch_stream(address: str, session_id: str, on_message: Callable[[], None]) -> None:
    """Watches from the first message on, over REST: an event stream."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {SESSIONS}/{session_id}/events HTTP/1.1\r\nHost: {address}\r\nLast-Event-ID: 0\r\n\r\n".encode())
    try:
        while line := await reader.readline():
            if line.startswith(b"event: messageBroadcast"):
                on_message()
    finally:
        writer.close()


async def watch_rpc(channel: grpc.aio.Channel, session_id: str, on_message: Callable[[], None]) -> None:
    """The same over gRPC."""
    stub = session_service_pb2_grpc.SessionServiceStub(channel)
    async for response in stub.WatchSession(session_service_pb2.WatchSessionRequest(session_id=session_id, after_sequence=0)):
        if response.entry.HasField("message"):
            on_message()


async def write_beside(service: Serve, session_id: str, plan: Plan, *, rest: bool) -> tuple[tuple[float, float], tuple[float, float], int]:
    """The times (monotonic) in which the watches were open and nothing was written, and in which messages were; how many these were."""
    request = message_service_pb2.SendMessageRequest(session_id=session_id, content=CONTENT)
    await asyncio.to_thread(service.messages.SendMessage, request, timeout=30)
    async with AsyncExitStack() as stack:
        if rest:
            watchers = Watchers(partial(watch_stream, service.rest, session_id))
        else:
            # Channels of one process share connections, unless they are told not to: and a connection has so many streams.
            options = [("grpc.use_local_subchannel_pool", 1)]
            channels = [grpc.aio.insecure_channel(service.grpc, options=options) for _ in range(-(-plan.watchers // WATCHES_OF_A_CHANNEL))]
            for channel in channels:
                await stack.enter_async_context(channel)
            turns = cycle(channels)
            watchers = Watchers(lambda note: watch_rpc(next(turns), session_id, note))
        stack.push_async_callback(watchers.close)
        sent = 1
        await watchers.open(plan.watchers)
        opened = time.monotonic()
        await asyncio.sleep(plan.seconds / 2)
        begun = time.monotonic()
        while time.monotonic() < begun + 1.5 * plan.seconds:
            pause = asyncio.create_task(asyncio.sleep(WRITE_SECONDS))
            await asyncio.to_thread(service.messages.SendMessage, request, timeout=30)
            sent += 1
            await watchers.hear(sent)
            await pause
        return (opened, begun), (begun, time.monotonic()), sent - 1


def lags_ms(folder: Path, times: tuple[float, float]) -> list[float]:
    """The lags of the loop that is the later one at the 99th percentile, while the time went from one instant to another.

    A lag longer than the time between two notes stands for those that could not be made meanwhile, too.
    """
    found = []
    for file in folder.glob("*.lag"):
        lags: list[float] = []
        for line in file.read_text().splitlines():
            due, lag = map(float, line.split())
            if times[0] <= due < times[1]:
                while lag > 0:
                    lags.append(lag * 1000)
                    lag -= SAMPLE_SECONDS
        found.append(lags or [0.0])
    return max(found, key=lambda lags: percentile(lags, 0.99))


def measure_lag(checkouts: list[Checkout], plan: Plan, figures: Figures) -> None:
    """How late the loops of `serve` are while a session with many watchers is written to."""
    for _ in range(plan.rounds):
        for row in filter(plan.wants, ("lag-grpc", "lag-rest")):
            for one in checkouts:
                with tempfile.TemporaryDirectory() as name:
                    # Into the folder itself, because the facade is not told our variables.
                    folder = Path(shutil.copytree(PROGRAMS / "lag", Path(name) / "lag"))
                    with one.service(PYTHONPATH=f"{folder}:{ABSENT}") as service:
                        session_id = create(service, 1, agent_id=silent_agent(service))[0]
                        alone, beside, sent = uvloop.run(write_beside(service, session_id, plan, rest=row == "lag-rest"))
                    # The notes are there now that the service has ended.
                    lags, at_rest = lags_ms(folder, beside), lags_ms(folder, alone)
                noted = {"p50 ms": percentile(lags, 0.5), "worst ms": max(lags), "p99 ms unwritten": percentile(at_rest, 0.99)}
                figures.add(row, one.name, percentile(lags, 0.99), **noted, messages=sent, watchers=plan.watchers)
