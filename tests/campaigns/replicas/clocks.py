"""Servers on one store whose clocks are minutes apart: no session is warned or expires early or late, because
all go by the database's clock. Together first, then each alone, so that nobody else can make good for it.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from eliza.sessions import values
from tests.campaigns.kills import BACK_SECONDS
from tests.campaigns.replicas.campaign import judge_store
from tests.campaigns.replicas.fleet import Fleet, Member
from tests.campaigns.replicas.mortals import EXPIRED, WARNED, Mortals
from tests.campaigns.traffic.callers import Traffic
from tests.campaigns.traffic.clients import RefusedError
from tests.campaigns.traffic.grpc_client import GrpcClient
from tests.campaigns.traffic.model import Findings
from tests.support.postgres import PostgresServer
from tests.support.service import ECHO, HIDDEN_PACKAGES

SHIFTED: Final = Path(__file__).parent / "shifted"
WARNED_AFTER_SECONDS: Final = (0.5, 3)
GAP_SECONDS: Final = 2


@dataclass
class Report:
    """What a campaign came to."""

    seed: int
    minutes: float
    lines: list[str] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)

    def __str__(self) -> str:
        head = f"seed {self.seed}: clocks {self.minutes:g} minutes behind, right, and {self.minutes:g} ahead"
        return "\n".join([head, *self.lines, str(self.findings)])


def wrong_clock(shift_s: float) -> dict[str, str]:
    """The environment of a server whose clock is wrong by this much."""
    return {"PYTHONPATH": f"{SHIFTED}:{HIDDEN_PACKAGES}", "CLOCK_SHIFT_SECONDS": str(shift_s)}


async def campaign(directory: Path, seed: int, minutes: float, *, sessions: int = 10) -> Report:
    """Runs the campaign on a database server of its own; `sessions` in each part."""
    server = await asyncio.to_thread(PostgresServer)
    try:
        return await _run(directory, server, seed, minutes, sessions)
    finally:
        await asyncio.to_thread(server.close)


async def _run(directory: Path, server: PostgresServer, seed: int, minutes: float, sessions: int) -> Report:
    report = Report(seed, minutes)
    url = server.url(await asyncio.to_thread(server.make_database))
    fleet = Fleet.of(directory, url, 3, 0)
    shifts_s = dict(zip((one.name for one in fleet.servers), (-60 * minutes, 0.0, 60 * minutes), strict=True))
    try:
        behind, right, ahead = fleet.servers
        for part in ([behind, right, ahead], [behind], [ahead]):
            for member in fleet.servers:
                if member in part and not member.program:
                    await fleet.start(member, **wrong_clock(shifts_s[member.name]))
                elif member not in part and member.program:
                    await fleet.end(member)
            await _play(part, url, seed, report, minutes, sessions, [shifts_s[one.name] for one in part])
    except BaseException:
        await asyncio.to_thread(fleet.kill_all)
        raise
    report.findings.other += await fleet.stop()
    said = fleet.logs().count("the clock is wrong by")
    if said < 2:
        report.findings.other.append(f"{said} servers had a wrong clock")
    await asyncio.to_thread(judge_store, directory, server, url, report.lines, report.findings)
    return report


async def _play(
    members: list[Member],
    url: str,
    seed: int,
    report: Report,
    minutes: float,
    sessions: int,
    shifts_s: list[float],
) -> None:
    """Has sessions warned and expired by these servers, watched at each; each must be served till then."""
    part = "-".join(f"{shift_s:+g}" for shift_s in shifts_s)
    traffic = Traffic([one.grpc for one in members], [one.rest for one in members], seed)
    mortals = Mortals(url, seed, warned_after_s=WARNED_AFTER_SECONDS, gap_s=GAP_SECONDS)
    choose = random.Random(f"{seed}-{part}")
    try:
        for number in range(sessions):
            watched_at = members[number % len(members)].grpc
            client: Any = traffic.client("gRPC" if number % 2 else "REST")
            mark = f"mortal-{part}-{number}"
            await mortals.make(traffic, client, traffic.client("gRPC", watched_at), mark, ECHO)
            # A server that went by its own clock would refuse it, or be wrong about the rest of its life.
            fresh = await traffic.create(f"fresh-{part}-{number}", traffic.client("gRPC"))
            for member in members:
                wrong = await _look_at(traffic.client("gRPC", member.grpc), fresh, 30 * minutes)
                report.findings.other += [f"{part}: {what}" for what in wrong]
            await asyncio.sleep(choose.uniform(0, 0.3))
        report.findings.add(await mortals.finish(BACK_SECONDS))
        report.findings.add(traffic.model.findings)
    finally:
        await traffic.close()
    report.findings.other += [
        f"{part}: a {kind} was told {max(late)} ms late"
        for kind, late in mortals.lateness.of.items()
        if max(late) > 30_000 * minutes
    ]
    for kind in (WARNED, EXPIRED):
        if len(mortals.lateness.of[kind]) < sessions:
            report.findings.lost.append(f"{part}: {len(mortals.lateness.of[kind])} of {sessions} {kind}")
    report.lines.append(f"wrong by {', '.join(f'{shift_s:g} s' for shift_s in shifts_s)}: {mortals.lateness}")


async def _look_at(client: GrpcClient, session_id: str, most_wrong_s: float) -> list[str]:
    """What a server gets wrong about a session that has just been created."""
    try:
        await client.heartbeat(session_id)
        session = await client.get(session_id)
    except RefusedError as error:
        return [f"a fresh session is refused: {error}"]
    left_s = session.time_remaining_ms / 1000
    true_s = values.ms_floor(session.expires_at) / 1000 - time.time()
    return [f"{left_s:.1f} s are left of {true_s:.1f} s"] if abs(left_s - true_s) > most_wrong_s else []
