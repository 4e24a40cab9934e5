"""What others feel: a no-op beside saturating pages, and the lag of the loops where one session has many
watchers.
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from eliza.sessions.v1 import message_service_pb2
from tests.campaigns.load.figures import Figures, Plan
from tests.campaigns.load.grpc_rows import silent_agent
from tests.campaigns.load.rest_rows import Rest
from tests.campaigns.load.sessions import CONTENT, create
from tests.campaigns.load.subjects import PROGRAMS, Checkout
from tests.support.service import HIDDEN_PACKAGES, Serve

T = TypeVar("T")

PROBE_PAUSE_SECONDS: Final = 0.002
WRITE_SECONDS: Final = 0.25
"""Between two messages; a message is not sent before all have the one before."""
SAMPLE_SECONDS: Final = 0.005
"""Between two notes of a lag."""
WAIT_SECONDS: Final = 120
"""For all that watchers take part in."""


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
        for turn in plan.alternate(services):
            for name, service in turn:
                alone, _ = no_op_ms(service, partial(time.sleep, plan.seconds / 2))
                beside, pages = no_op_ms(service, rests[name].page)
                noted = {"p99 ms": percentile(beside, 0.99), "alone p50 ms": statistics.median(alone)}
                figures.add(
                    "no-op-beside-pages",
                    name,
                    statistics.median(beside),
                    **noted,
                    **{"pages per s": pages.rate},
                )


@contextmanager
def watching(surface: str, address: str, session_id: str, count: int) -> Iterator[Callable[[], None]]:
    """Many clients watch a session; what is yielded waits until all of them have heard the next message, the
    first to begin with.
    """
    command = [sys.executable, "-P", str(PROGRAMS / "watchers.py"), surface, address, session_id, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        # A client that hangs is ended, and with it the wait.
        timer = threading.Timer(WAIT_SECONDS, process.kill)
        timer.start()

        def hear() -> None:
            if not process.stdout.readline():
                raise EOFError(
                    f"the watchers ended with {process.wait()}, or took more than {WAIT_SECONDS} s"
                )

        try:
            yield hear
        finally:
            timer.cancel()
            process.kill()


def write_beside(
    service: Serve, surface: str, plan: Plan
) -> tuple[tuple[float, float], tuple[float, float], int]:
    """The times (monotonic) in which the watches were open and nothing was written, and in which messages
    were; how many these were.
    """
    session_id = create(service, 1, agent_id=silent_agent(service))[0]
    request = message_service_pb2.SendMessageRequest(session_id=session_id, content=CONTENT)
    service.messages.SendMessage(request, timeout=30)
    with watching(
        surface, service.rest if surface == "rest" else service.grpc, session_id, plan.watchers
    ) as hear:
        hear()
        opened, sent = time.monotonic(), 0
        time.sleep(plan.seconds / 2)
        begun = time.monotonic()
        while (now := time.monotonic()) < begun + 1.5 * plan.seconds:
            service.messages.SendMessage(request, timeout=30)
            sent += 1
            hear()
            time.sleep(max(0, now + WRITE_SECONDS - time.monotonic()))
        return (opened, begun), (begun, now), sent


def lags_ms(folder: Path, times: tuple[float, float]) -> list[float]:
    """The lags of the loop that is the later one at the 99th percentile, while the time went from one instant
    to another.

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
                    with one.service(PYTHONPATH=f"{folder}:{HIDDEN_PACKAGES}") as service:
                        alone, beside, sent = write_beside(service, row.removeprefix("lag-"), plan)
                    # The notes are there now that the service has ended.
                    lags, at_rest = lags_ms(folder, beside), lags_ms(folder, alone)
                noted = {
                    "p50 ms": percentile(lags, 0.5),
                    "worst ms": max(lags),
                    "p99 ms unwritten": percentile(at_rest, 0.99),
                }
                figures.add(
                    row, one.name, percentile(lags, 0.99), **noted, messages=sent, watchers=plan.watchers
                )
