"""`python -m tests.campaigns.overload`: the service is offered about ten times what it can take, for a
minute, at gRPC and at REST.

The peak is measured: the rate of acknowledged SendMessage at the best number of calls in flight, before the
load and after it, because these machines change their speed from one minute to the next. In between calls
with a deadline are offered without waiting for answers, by processes that share the machine with the service
and give way to it, as clients on machines of their own do; what was really offered is counted. Judged:
goodput above 90 % of the peak, refusals within 100 ms at the median, bounded memory, latency back within 5 s.
Settings are taken from the environment (MAX_CALLS=100, …).
"""

import argparse
import asyncio
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import orjson
import psutil
import requests
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc

from eliza.sessions.v1 import agent_pb2, agent_service_pb2, message_service_pb2, session_service_pb2
from tests.campaigns.open_loop import Offered, Spec, offer
from tests.support.service import USER, Serve

CONTENT = "How do I reset my password?"
SESSIONS = 500
"""Of an agent that nobody works for: messages are stored, and get no replies that would be load, too."""
METHOD = "/eliza.sessions.v1.MessageService/SendMessage"
CALLERS = [16, 64, 256]
"""Calls in flight with which the peak is looked for."""
PASSED = ("MAX_CALLS", "REST_MAX_REQUESTS")

GRPC_CONNECTIONS = 4
"""Of each process that calls over gRPC."""

REST_CONNECTIONS = 1000
"""As many users are there over HTTP/1.1, each of whom waits for an answer before asking again."""

GOODPUT = 0.9
REFUSED_MS = 100
BACK_SECONDS = 5
GROWTH_MIB = 200
"""By how much the memory of server and facade together may grow."""


def sessions(service: Serve, count: int) -> list[str]:
    """Ids of new sessions."""
    agent = agent_pb2.Agent(name="nobody works for it", kind=agent_pb2.AGENT_KIND_STREAM)
    agent_id = service.agents.CreateAgent(
        agent_service_pb2.CreateAgentRequest(agent=agent), timeout=30
    ).agent.agent_id
    request = session_service_pb2.CreateSessionRequest(agent_id=agent_id, user_id=USER)
    return [service.sessions.CreateSession(request, timeout=30).session.session_id for _ in range(count)]


@dataclass
class Watch:
    """What is seen beside the load: the time in ms that health probes take, over gRPC and, on a connection of
    their own as orchestrators have it, over REST; that a REST client takes to hear that it is refused who
    waits as it is told; and the memory in MiB.
    """

    service: Serve
    path: str
    """Of a session's messages over REST; nothing where it is gRPC that is loaded."""
    grpc_ms: list[float] = field(default_factory=list)
    rest_ms: list[float] = field(default_factory=list)
    patient_ms: list[float] = field(default_factory=list)
    patient_failed: int = 0
    failed: int = 0
    memory: list[float] = field(default_factory=list)
    stopping: bool = False

    def probe(self) -> None:
        """Probes until told to stop; for a thread."""
        server = psutil.Process(self.service.process.pid)
        refused_s = 0.0
        with grpc.insecure_channel(self.service.grpc) as channel, requests.Session() as patient:
            stub = health_pb2_grpc.HealthStub(channel)
            while not self.stopping:
                begun = time.perf_counter()
                try:
                    answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
                    self.failed += answer.status != health_pb2.HealthCheckResponse.SERVING
                except grpc.RpcError:
                    self.failed += 1
                self.grpc_ms.append((time.perf_counter() - begun) * 1000)
                begun = time.perf_counter()
                try:
                    self.failed += requests.get(f"{self.service.url}/health", timeout=10).status_code != 200
                except requests.RequestException:
                    self.failed += 1
                self.rest_ms.append((time.perf_counter() - begun) * 1000)
                if self.path and time.perf_counter() - refused_s > 1:
                    begun = time.perf_counter()
                    try:
                        status = patient.post(
                            f"http://{self.service.rest}{self.path}", json={"content": CONTENT}, timeout=10
                        ).status_code
                    except requests.RequestException:
                        status = 0
                    if status == 503:
                        refused_s = time.perf_counter()
                        self.patient_ms.append((refused_s - begun) * 1000)
                    self.patient_failed += status not in (201, 503)
                self.memory.append(memory(server))
                time.sleep(0.1)


def memory(server: psutil.Process) -> float:
    """The memory of server and facade, in MiB."""
    return sum(one.memory_info().rss for one in (server, *server.children())) / 2**20


class Campaign:
    """The load on one surface of a running service."""

    def __init__(
        self, service: Serve, ids: list[str], pool: ProcessPoolExecutor, processes: int, *, rest: bool
    ) -> None:
        self.service = service
        self.rest = rest
        self.pool = pool
        self.processes = processes
        self.address = service.rest if rest else service.grpc
        if rest:
            body = orjson.dumps({"content": CONTENT})
            self.requests = [(f"/api/messaging/sessions/{session_id}/messages", body) for session_id in ids]
        else:
            message = message_service_pb2.SendMessageRequest
            self.requests = [
                (METHOD, message(session_id=session_id, content=CONTENT).SerializeToString())
                for session_id in ids
            ]

    async def offered(self, processes: int, **spec: float) -> Offered:
        """Has the load offered by so many processes, each with its share of the requests."""
        loop, total = asyncio.get_running_loop(), Offered()
        specs = [
            Spec(self.address, self.requests[n::processes], rest=self.rest, **spec)  # type: ignore[arg-type]
            for n in range(processes)
        ]
        for one in await asyncio.gather(*(loop.run_in_executor(self.pool, offer, spec) for spec in specs)):
            total.add(one)
        return total

    async def alone_ms(self, seconds: float) -> float:
        """The median latency of one caller."""
        found = await self.offered(1, seconds=seconds, in_flight=1, connections=1, deadline_s=10)
        return statistics.median(found.latencies_ms["ok"])

    async def run(
        self, *, factor: float, seconds: float, peak_seconds: float, deadline_s: float, callers: list[int]
    ) -> "Result":
        """Measures the peak, loads, and measures the peak again."""
        alone = await self.alone_ms(min(2, peak_seconds))
        rates = {count: await self._rate(count, peak_seconds) for count in callers}
        best = max(rates, key=lambda count: rates[count])
        before_rate = await self._rate(best, 2 * peak_seconds)
        watch = Watch(self.service, self.requests[0][0] if self.rest else "")
        before = memory(psutil.Process(self.service.process.pid))
        probing = asyncio.create_task(asyncio.to_thread(watch.probe))
        share = before_rate * factor / self.processes
        connections = REST_CONNECTIONS // self.processes if self.rest else GRPC_CONNECTIONS
        found = await self.offered(
            self.processes, seconds=seconds, rate=share, connections=connections, deadline_s=deadline_s
        )
        back_s = await self._back(alone)
        watch.stopping = True
        await probing
        after_rate = await self._rate(best, 2 * peak_seconds)
        return Result(
            "REST" if self.rest else "gRPC",
            alone,
            rates,
            (before_rate, after_rate),
            found,
            watch,
            back_s,
            before,
        )

    async def _rate(self, in_flight: int, seconds: float) -> float:
        """The rate of acknowledged calls with so many of them in flight, each answered before the next is
        made.
        """
        found = await self.offered(
            1,
            seconds=seconds,
            in_flight=in_flight,
            connections=in_flight if self.rest else GRPC_CONNECTIONS,
            deadline_s=10,
        )
        return found.rate("ok")

    async def _back(self, alone_ms: float) -> float:
        """How long it takes until the median of five calls one after the other is at most 1.5 times what it
        was; infinite after a while.
        """
        begun = time.perf_counter()
        request = (
            message_service_pb2.SendMessageRequest.FromString(self.requests[0][1]) if not self.rest else None
        )

        def five() -> float:
            taken = []
            for _ in range(5):
                started = time.perf_counter()
                if request:
                    self.service.messages.SendMessage(request, timeout=30)
                else:
                    path, body = self.requests[0]
                    headers = {"Content-Type": "application/json"}
                    self.service.http.post(
                        f"http://{self.service.rest}{path}", data=body, headers=headers, timeout=30
                    )
                taken.append((time.perf_counter() - started) * 1000)
            return statistics.median(taken)

        ended = begun + 30
        while time.perf_counter() < ended:
            try:
                # This client is dearer than the bare one by about a millisecond.
                if await asyncio.to_thread(five) <= 1.5 * alone_ms + 1:
                    return time.perf_counter() - begun
            except (grpc.RpcError, requests.RequestException):
                continue
        return float("inf")


@dataclass(frozen=True)
class Result:
    """What came of an overload."""

    surface: str
    alone_ms: float
    rates: dict[int, float]
    """Acknowledged calls per second, by how many were in flight."""
    peaks: tuple[float, float]
    """The best of them, before the load and after it."""
    found: Offered
    watch: Watch
    back_s: float
    memory_before: float

    @property
    def peak(self) -> float:
        """Acknowledged calls per second without overload."""
        return sum(self.peaks) / 2

    @property
    def goodput(self) -> float:
        """The share of the peak that was acknowledged under overload."""
        return self.found.rate("ok") / self.peak

    @property
    def factor(self) -> float:
        """How many times the peak was really offered."""
        return self.found.calls / self.found.seconds / self.peak

    def report(self) -> list[str]:
        """Prints it; returns what the demands miss."""
        found, watch = self.found, self.watch
        print(
            f"{self.surface}: alone {self.alone_ms:.1f} ms; acknowledged per second by calls in flight: "
            + ", ".join(f"{count}: {rate:.0f}" for count, rate in self.rates.items())
        )
        print("  peak {:.0f}/s: {:.0f}/s before and {:.0f}/s after the load".format(self.peak, *self.peaks))
        # gRPC itself, where more calls have come than Python has looked at, cancels them without a word of
        # why.
        refused = [one for outcome in ("refused", "cancelled") for one in found.latencies_ms.get(outcome, ())]
        growth = max(watch.memory) - self.memory_before
        print(
            f"  offered {found.calls / found.seconds:.0f}/s for {found.seconds:.0f} s ({self.factor:.1f} "
            "times the peak)"
        )
        for outcome, values in sorted(found.latencies_ms.items()):
            times = f"median {statistics.median(values):7.1f} ms, p99 {p99(values):7.1f} ms"
            print(f"  {outcome:>12}: {len(values) / found.seconds:8.0f}/s  {times}")
        if watch.patient_ms:
            times = (
                f"median {statistics.median(watch.patient_ms):7.1f} ms, p99 {p99(watch.patient_ms):7.1f} ms"
            )
            print(f"  refused over REST, waiting as it is told: {times}, of {len(watch.patient_ms)}")
        if found.statuses:
            print("  " + ", ".join(f"{count} {what}" for what, count in found.statuses.items()))
        print(
            f"  goodput {self.goodput:.0%} of the peak; health over gRPC median "
            f"{statistics.median(watch.grpc_ms):.0f} ms, p99 "
            f"{p99(watch.grpc_ms):.0f} ms, over REST median {statistics.median(watch.rest_ms):.0f} ms, p99 "
            f"{p99(watch.rest_ms):.0f} ms, "
            f"{watch.failed} of {2 * len(watch.grpc_ms)} failed; RSS {self.memory_before:.0f} to at most "
            f"{max(watch.memory):.0f} MiB; "
            f"back after {self.back_s:.1f} s",
            flush=True,
        )
        name, wrong = self.surface, []
        if self.goodput < GOODPUT:
            wrong.append(f"{name}: goodput is {self.goodput:.0%} of the peak")
        if len(refused) and statistics.median(refused) > REFUSED_MS:
            wrong.append(f"{name}: refusals take {statistics.median(refused):.0f} ms at the median")
        if growth > GROWTH_MIB:
            wrong.append(f"{name}: memory grows by {growth:.0f} MiB")
        if self.back_s > BACK_SECONDS:
            wrong.append(f"{name}: latency is back after {self.back_s:.1f} s")
        if watch.failed:
            wrong.append(f"{name}: {watch.failed} health probes failed")
        if watch.patient_failed:
            wrong.append(
                f"{name}: {watch.patient_failed} requests of who waits as it is told have another answer, "
                "or none"
            )
        if any(
            what.startswith(("status", "without", "cancelled"))
            for what in (*found.latencies_ms, *found.statuses)
        ):
            wrong.append(f"{name}: answers that are none of ours: {[*found.latencies_ms, *found.statuses]}")
        return wrong


def p99(values: object) -> float:
    """The 99th percentile."""
    ordered = sorted(values)  # type: ignore[call-overload]
    return float(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)])


def main() -> None:
    """Runs it on both surfaces and prints what it came to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--factor", type=float, default=10, help="how many times the peak is offered (default 10)"
    )
    parser.add_argument("--seconds", type=float, default=60, help="how long (default 60)")
    parser.add_argument(
        "--peak-seconds",
        type=float,
        default=4,
        help="how long each measurement of the peak takes (default 4)",
    )
    parser.add_argument(
        "--deadline", type=float, default=1, help="the deadline of each call in seconds (default 1)"
    )
    parser.add_argument(
        "--processes", type=int, default=2, help="how many processes offer the load (default 2)"
    )
    parser.add_argument("--only", choices=["grpc", "rest"])
    arguments = parser.parse_args()
    settings = {name: os.environ[name] for name in PASSED if name in os.environ}
    print(
        f"settings: {settings or 'the defaults'}; no choice is left to chance, so there is no seed",
        flush=True,
    )
    wrong = []
    with (
        tempfile.TemporaryDirectory() as name,
        ProcessPoolExecutor(
            arguments.processes,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=os.nice,
            initargs=(10,),
        ) as pool,
    ):
        service = Serve(Path(name), **settings)
        try:
            ids = sessions(service, SESSIONS)
            for rest in (False, True):
                if arguments.only != ("grpc" if rest else "rest"):
                    campaign = Campaign(service, ids, pool, arguments.processes, rest=rest)
                    result = uvloop.run(
                        campaign.run(
                            factor=arguments.factor,
                            seconds=arguments.seconds,
                            peak_seconds=arguments.peak_seconds,
                            deadline_s=arguments.deadline,
                            callers=CALLERS,
                        )
                    )
                    wrong += result.report()
        finally:
            status = service.stop()
        if status or (at := service.log().find("Traceback") + 1):
            wrong.append(
                f"the service ended with {status}, tracebacks in its log: {service.log().count('Traceback')}"
            )
            print(service.log()[max(0, at - 500) : at + 3000])
    print("; ".join(wrong) or "all demands are met")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
