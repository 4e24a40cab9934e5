"""Load on a real service of every kind of client, while somebody does something to its database."""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from server.store.postgres.check import problems
from server.store.postgres.place import Place
from tests.campaigns.failover.tally import spread, told
from tests.campaigns.traffic.callers import Traffic
from tests.campaigns.traffic.clients import PAUSE_SECONDS, AgainError
from tests.campaigns.traffic.grpc_client import GrpcClient
from tests.campaigns.traffic.model import Findings
from tests.support.service import Serve

BACK_SECONDS: Final = 180.0
"""After which a service that does not serve every kind of client again is given up."""


@dataclass
class Report:
    """What a campaign came to. `pauses_s`: from each trouble to the first new acknowledgement."""

    seed: int
    troubles: Counter[str] = field(default_factory=Counter)
    pauses_s: list[float] = field(default_factory=list)
    acknowledged: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    findings: Findings = field(default_factory=Findings)
    resumed: int = 0

    @property
    def is_sound(self) -> bool:
        return not self.findings

    def __str__(self) -> str:
        return "\n".join(
            [
                f"seed {self.seed}: {told(self.troubles)}",
                "acknowledged: " + ", ".join(f"{count} {what}" for what, count in self.acknowledged.items()),
                f"attempts: {told(self.attempts)}; watchers connected again {self.resumed} times",
                spread("the first new acknowledgement", self.pauses_s),
                str(self.findings),
            ]
        )


class ServiceLoad:
    """The service under load, as a trouble sees it."""

    def __init__(self, traffic: Traffic, probe: GrpcClient, report: Report) -> None:
        self.report = report
        self._traffic = traffic
        self._probe = probe

    async def until_all_served(self) -> None:
        """Waits until each kind of client has been served from now on; that it is not is a finding."""
        await self._traffic.all_kinds(BACK_SECONDS)

    def is_sound(self) -> bool:
        """Whether nothing was found so far; callers may have given up otherwise."""
        return not self._traffic.model.findings

    async def note_pause(self, since_s: float) -> None:
        """Calls until something is acknowledged; notes how long after `since_s` that was.

        What the others are told may be an answer that was on its way before.
        """
        mark, limit_s = f"probe-{len(self.report.pauses_s)}", time.monotonic() + BACK_SECONDS
        while time.monotonic() < limit_s:
            try:
                self._traffic.model.created[mark] = await self._probe.create(mark, mark)
            except AgainError:
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                self.report.pauses_s.append(time.monotonic() - since_s)
                return
        self.report.findings.other.append(
            f"nothing is acknowledged {time.monotonic() - since_s:.0f} s after {told(self.report.troubles)}"
        )


async def endure_served(
    url: str,
    trouble: Callable[[ServiceLoad], Awaitable[None]],
    seed: int,
    *,
    senders: int = 6,
    **settings: str,
) -> Report:
    """Has a service on this database serve while there is trouble; compares everything then."""
    report = Report(seed)
    with tempfile.TemporaryDirectory() as name:
        service = await asyncio.to_thread(lambda: Serve(Path(name), fresh=True, DATABASE_URL=url, **settings))
        traffic = Traffic([service.grpc], [service.rest], seed, senders=senders)
        probe = GrpcClient(service.grpc)
        try:
            await traffic.begin()
            await trouble(ServiceLoad(traffic, probe, report))
            await traffic.all_kinds(BACK_SECONDS)
            await traffic.stop(BACK_SECONDS)
            found = await traffic.check()
            for what, lines in vars(found).items():
                getattr(report.findings, what).extend(lines)
            report.acknowledged = traffic.model.acknowledged
            for (_, kind, how), count in traffic.attempts.items():
                report.attempts[f"{kind} {how}"] += count
            report.resumed = sum(watcher.resumed for watcher in traffic.watchers)
            status = await asyncio.to_thread(service.stop)
            if status:
                report.findings.other.append(f"the service ended with status {status}")
        except BaseException:
            await asyncio.to_thread(service.kill)
            raise
        finally:
            await probe.close()
            await traffic.close()
        if report.findings:
            (Path(tempfile.gettempdir()) / f"failover-{seed}.log").write_text(service.log())
    with Place(url).connect_now("check") as link:
        report.findings.other += problems(link)
    return report
