"""The campaign of killed replicas: see `__main__`."""

import asyncio
import random
import statistics
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.campaigns.kills import BACK_SECONDS, GRACE_SECONDS
from tests.campaigns.replicas.agents import SECRET, Webhook, Worker, asked_twice, register
from tests.campaigns.replicas.fleet import LEASES_BACK_SECONDS, Fleet, Member
from tests.campaigns.replicas.leases import Leases
from tests.campaigns.replicas.mortals import Mortals
from tests.campaigns.traffic.callers import Traffic
from tests.campaigns.traffic.calling import now_ms
from tests.campaigns.traffic.model import Findings
from tests.support.postgres import PostgresServer
from tests.support.service import COMMAND, ECHO, environment

SERVERS: Final = 3
FACADES: Final = 2
WORKERS: Final = 3
PACE_SECONDS: Final = 0.3
SETTINGS: Final = {
    "DELIVERY_ATTEMPTS": "100",
    "DELIVERY_BACKOFF_SECONDS": "0.05",
    "DELIVERY_MAX_BACKOFF_SECONDS": "0.5",
    "MAX_OPEN_DELIVERIES": "100",
    "AGENT_SECRET_HOOK": SECRET,
}
"""Leases have their default, two minutes: nothing but the death of a server brings them back sooner."""
_DONE: Final = {"kill": "kills", "end": "ends", "freeze": "freezes", "facade": "kills of a facade"}


@dataclass(frozen=True)
class Plan:
    """How much happens. `freezes_s`: how long a server stands still. `gap_s`: of the mortal sessions from the
    warning to the expiry, longer than a frozen server holds a row.
    """

    kills: int
    ends: int
    freezes: int
    facade_kills: int
    freezes_s: tuple[float, float] = (1, 14)
    gap_s: float = 15
    senders: int = 6
    leases_back_s: float = LEASES_BACK_SECONDS
    longest_end_s: float = GRACE_SECONDS

    def rounds(self, choose: random.Random) -> list[str]:
        """What happens, one after the other."""
        found = [
            *["kill"] * self.kills,
            *["end"] * self.ends,
            *["freeze"] * self.freezes,
            *["facade"] * self.facade_kills,
        ]
        choose.shuffle(found)
        return found


@dataclass
class Outage:
    """A kill, and how long it took until calls that were begun since were acknowledged: the first of all, and
    the first of each client that was there.
    """

    at_s: float
    clients: set[Any]
    first_s: float | None = None
    moved_s: list[float] = field(default_factory=list)


@dataclass
class Report:
    """What a campaign came to."""

    seed: int
    done: Counter[str] = field(default_factory=Counter)
    outages: list[Outage] = field(default_factory=list)
    ends_s: list[float] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    lines: list[str] = field(default_factory=list)

    def on_answer(self, client: Any, begun_s: float) -> None:
        """Notes an acknowledgement of a call."""
        for outage in self.outages[-5:]:
            if begun_s < outage.at_s:
                continue
            took_s = time.monotonic() - outage.at_s
            if outage.first_s is None:
                outage.first_s = took_s
            if client in outage.clients:
                outage.clients.discard(client)
                outage.moved_s.append(took_s)

    def note_traffic(self, traffic: Traffic) -> None:
        """Adds its figures."""
        ends: Counter[str] = Counter()
        for (_, kind, how), count in traffic.attempts.items():
            ends[f"{kind} {how}"] += count
        unanswered = sum(count for how, count in ends.items() if not how.endswith(" ok"))
        self.lines += [
            "acknowledged: " + ", ".join(f"{n} {what}" for what, n in traffic.model.acknowledged.items()),
            f"attempts: {ends.total() - unanswered} answered, {unanswered} unanswered or refused for now: "
            + ", ".join(f"{how} {n}" for how, n in sorted(ends.items())),
            f"{len(traffic.watchers)} watchers connected again "
            f"{sum(watcher.resumed for watcher in traffic.watchers)} times",
        ]

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: " + ", ".join(f"{what} {n}" for what, n in sorted(self.done.items()))]
        firsts = [one.first_s for one in self.outages if one.first_s is not None]
        moved = [seconds for one in self.outages for seconds in one.moved_s]
        if firsts:
            lines.append(
                "the first new acknowledgement after a kill: "
                f"median {statistics.median(firsts):.3f} s, at most {max(firsts):.3f} s"
            )
        if moved:
            lines.append(
                f"of each of the {len(moved)} clients that were there: "
                f"median {statistics.median(moved):.3f} s, at most {max(moved):.3f} s"
            )
        if self.ends_s:
            lines.append(
                f"ends by SIGTERM: the longest {max(self.ends_s):.1f} s of {GRACE_SECONDS} s allowed"
            )
        return "\n".join([*lines, *self.lines, str(self.findings)])


class Breaker:
    """Kills, ends and freezes members of a fleet, and starts them again."""

    def __init__(
        self,
        fleet: Fleet,
        traffic: Traffic,
        leases: Leases,
        plan: Plan,
        report: Report,
        choose: random.Random,
    ) -> None:
        self.ended_ms: dict[str, int] = {}
        # When a server was killed, ended, frozen or thawed, on the monotonic clock.
        self.disturbed_s: list[float] = []
        self._fleet = fleet
        self._traffic = traffic
        self._leases = leases
        self._plan = plan
        self._report = report
        self._choose = choose
        self._repairs: set[asyncio.Task[None]] = set()

    async def run(self, *, show: bool) -> None:
        """Plays all rounds, and has everything run again."""
        rounds = self._plan.rounds(self._choose)
        for number, how in enumerate(rounds):
            if self._traffic.model.findings:
                break
            # Mostly not before everyone has been served again; sometimes sooner.
            if self._choose.random() < 0.7:
                await self._traffic.all_kinds(BACK_SECONDS)
            await asyncio.sleep(self._choose.uniform(0.1, 1.5))
            member = await self._victim(self._fleet.facades if how == "facade" else self._fleet.servers)
            self._traffic.phase = f"{how}-{number}"
            self._report.done[_DONE[how]] += 1
            member.is_out = True
            self.disturbed_s.append(time.monotonic())
            await getattr(self, f"_{how}")(member, self._traffic.phase)
            if show and number % 10 == 9:
                print(
                    f"{number + 1} of {len(rounds)}: {self._traffic.model.acknowledged.total()} acknowledged",
                    flush=True,
                )
        await self.repaired()

    async def repaired(self) -> None:
        """Waits until everything runs again. Raises what a start has failed with."""
        while self._repairs:
            await asyncio.gather(*self._repairs)

    async def let_go(self) -> None:
        """Waits for what is being started, so that it can be killed."""
        await asyncio.gather(*self._repairs, return_exceptions=True)

    async def _victim(self, members: list[Member]) -> Member:
        """One that runs; of the servers one stays."""
        spared = 0 if members is self._fleet.facades else 1
        while len(running := [one for one in members if one.runs]) <= spared:
            await asyncio.sleep(0.02)
            self._raise_failed()
        return self._choose.choice(running)

    def _raise_failed(self) -> None:
        for task in self._repairs:
            if task.done():
                task.result()

    async def _kill(self, member: Member, phase: str) -> None:
        clients = {one for one in self._traffic.clients if getattr(one, "address", "") in member.addresses}
        self._report.outages.append(Outage(time.monotonic(), clients))
        if member.replica_id:
            self._leases.note_death(member.replica_id)
        await self._fleet.kill(member)
        self._repair(self._start(member))

    async def _facade(self, member: Member, phase: str) -> None:
        await self._fleet.kill(member)
        self._repair(self._start(member))

    async def _end(self, member: Member, phase: str) -> None:
        for address in member.addresses:
            self._traffic.phase_at[address] = phase
        status, seconds = await self._fleet.end(member)
        self.ended_ms[phase] = now_ms()
        self._report.ends_s.append(seconds)
        if status or seconds > self._plan.longest_end_s:
            self._report.findings.other.append(f"{phase} ended with {status} after {seconds:.1f} s")
        self._repair(self._start(member))

    async def _freeze(self, member: Member, phase: str) -> None:
        self._fleet.freeze(member)
        self._repair(self._thaw(member, self._choose.uniform(*self._plan.freezes_s)))

    async def _start(self, member: Member) -> None:
        await self._fleet.start(member)
        for address in member.addresses:
            self._traffic.phase_at.pop(address, None)
        member.is_out = False

    async def _thaw(self, member: Member, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.disturbed_s.append(time.monotonic())
        self._fleet.thaw(member)
        member.is_out = False

    def _repair(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._repairs.add(task)
        task.add_done_callback(lambda done: self._repairs.discard(done) if not done.exception() else None)


async def campaign(directory: Path, seed: int, plan: Plan, *, show: bool = False) -> Report:
    """Runs the campaign on a database server of its own, which writes as it does in production."""
    server = await asyncio.to_thread(PostgresServer)
    try:
        return await _run(directory, server, seed, plan, show=show)
    finally:
        await asyncio.to_thread(server.close)


async def _run(directory: Path, server: PostgresServer, seed: int, plan: Plan, *, show: bool) -> Report:
    choose, report = random.Random(seed), Report(seed)
    url = server.url(await asyncio.to_thread(server.make_database))
    webhook = Webhook(random.Random(f"{seed}-webhook"))
    webhook_address = await webhook.start()
    fleet = Fleet.of(directory, url, SERVERS, FACADES, **SETTINGS, AGENT_ALLOWED_HOSTS=webhook_address)
    background: list[asyncio.Task[None]] = []
    traffic: Traffic | None = None
    breaker: Breaker | None = None
    try:
        await fleet.start_all()
        stream_id, webhook_id = await register(fleet.servers[0].grpc, webhook_address)
        agents = (ECHO, stream_id, webhook_id)
        traffic = Traffic(
            fleet.grpc, fleet.rest, seed, senders=plan.senders, agents=agents, pace_seconds=PACE_SECONDS
        )
        traffic.on_answer = report.on_answer
        workers = [Worker(fleet.grpc, stream_id, random.Random(f"{seed}-{n}")) for n in range(WORKERS)]
        leases = Leases(url)
        mortals = Mortals(url, seed, warned_after_s=(0.5, 4), gap_s=plan.gap_s)
        stop = asyncio.Event()
        background = [
            asyncio.create_task(traffic.reported(work))
            for work in (*(worker.run() for worker in workers), leases.watch())
        ]
        await traffic.begin()
        making = asyncio.create_task(traffic.reported(mortals.go_on(traffic, agents, stop)))
        background.append(making)
        breaker = Breaker(fleet, traffic, leases, plan, report, choose)
        await breaker.run(show=show)
        stop.set()
        await traffic.all_kinds(BACK_SECONDS)
        await traffic.stop(BACK_SECONDS)
        await making
        report.findings.add(await mortals.finish(BACK_SECONDS))
        report.findings.add(await traffic.check(breaker.ended_ms))
        report.note_traffic(traffic)
        report.findings.other += leases.late(plan.leases_back_s)
        report.findings.doubled += asked_twice(webhook.asked, breaker.disturbed_s)
        report.lines += [
            f"workers were given {sum(worker.given for worker in workers)} deliveries, "
            f"the webhook was asked {sum(map(len, webhook.asked.values()))} times for {len(webhook.asked)}",
            f"{len(mortals.all)} sessions ended by themselves: {mortals.lateness}",
            f"leases: {leases}",
        ]
    except BaseException:
        if breaker:
            await breaker.let_go()
        await asyncio.to_thread(fleet.kill_all)
        raise
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        if traffic:
            await traffic.close()
        webhook.close()
    report.findings.other += await fleet.stop()
    await asyncio.to_thread(judge_store, directory, server, url, report.lines, report.findings)
    report.findings.other += fleet.tracebacks()
    return report


def judge_store(
    directory: Path, server: PostgresServer, url: str, lines: list[str], findings: Findings
) -> None:
    """Has `eliza-sessions check` look at the store, and asks the database for deadlocks."""
    checked = subprocess.run(
        [*COMMAND, "check", "--database-url", url],
        env=environment(),
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    lines.append(f"the store: {checked.stdout.strip()[-300:]}")
    if checked.returncode:
        findings.other.append(f"check: {checked.stdout}{checked.stderr}")
    ((deadlocks, commits),) = server.execute(
        "SELECT sum(deadlocks), sum(xact_commit) FROM pg_stat_database WHERE datname LIKE 'test%'"
    )
    lines.append(f"the database: {deadlocks} deadlocks in {commits} transactions")
    if deadlocks:
        findings.other.append(f"{deadlocks} deadlocks")
