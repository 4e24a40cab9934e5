"""Two servers whose callers all write to the same few sessions: order, nothing twice, no gap, no deadlock,
and no call that fails.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.campaigns.kills import BACK_SECONDS
from tests.campaigns.replicas.campaign import judge_store
from tests.campaigns.replicas.fleet import Fleet
from tests.campaigns.traffic.callers import Traffic
from tests.campaigns.traffic.model import Findings
from tests.campaigns.traffic.watcher import Watcher
from tests.support.postgres import PostgresServer

SENDERS: Final = 64


@dataclass
class Report:
    """What a campaign came to."""

    seed: int
    lines: list[str] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)

    def __str__(self) -> str:
        return "\n".join(
            [f"seed {self.seed}: two servers, {SENDERS} senders", *self.lines, str(self.findings)]
        )


async def campaign(directory: Path, seed: int, *, each: int, hot: Sequence[int] = (1, 10)) -> Report:
    """Runs the campaign on a database server of its own: `each` messages of each sender, into as many
    sessions as `hot` says, one after the other.
    """
    server = await asyncio.to_thread(PostgresServer)
    try:
        report = Report(seed)
        url = server.url(await asyncio.to_thread(server.make_database))
        fleet = Fleet.of(directory, url, 2, 0, MAX_OPEN_DELIVERIES="1000000")
        traffic = Traffic(fleet.grpc, fleet.rest, seed)
        try:
            await fleet.start_all()
            for sessions in hot:
                report.lines.append(await _play(fleet, traffic, sessions, each))
            begun_s = time.monotonic()
            report.findings.add(await traffic.check())
            report.lines.append(f"all replies were there after {time.monotonic() - begun_s:.1f} s more")
            if len(hot) * SENDERS * each != traffic.model.acknowledged["messages"]:
                report.findings.lost.append("not all messages were sent")
            failed = {how: n for (_, _, how), n in traffic.attempts.items() if how != "ok"}
            report.lines.append(f"attempts that failed: {failed or 'none'}")
            if failed:
                report.findings.other.append(f"attempts that failed: {failed}")
        except BaseException:
            await asyncio.to_thread(fleet.kill_all)
            raise
        finally:
            await traffic.close()
        report.findings.other += await fleet.stop()
        await asyncio.to_thread(judge_store, directory, server, url, report.lines, report.findings)
        report.findings.other += fleet.tracebacks()
        return report
    finally:
        await asyncio.to_thread(server.close)


async def _play(fleet: Fleet, traffic: Traffic, sessions: int, each: int) -> str:
    """Has all senders write, half of them at each server; returns how long it took."""
    ids = [await traffic.create(f"hot-{sessions}-{n}") for n in range(sessions)]
    clients = [traffic.client("gRPC", address) for address in fleet.grpc]
    for session_id in ids:
        traffic.watchers += [Watcher(client, session_id) for client in clients]
    begun_s = time.monotonic()
    traffic.start(
        [
            traffic.send_on(clients[n % 2], ids[n // 2 % sessions], f"of{sessions}-sender{n}", count=each)
            for n in range(SENDERS)
        ]
    )
    await traffic.finish(BACK_SECONDS + each)
    took_s = time.monotonic() - begun_s
    return (
        f"{sessions} hot sessions: {SENDERS * each} messages acknowledged in {took_s:.1f} s "
        f"({SENDERS * each / took_s:.0f}/s)"
    )
