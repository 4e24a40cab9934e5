"""`python -m tests.campaigns.kills`: the service under mixed load, killed by SIGKILL at random moments, and
ended by SIGTERM now and then.

It runs as one program (`serve`) and as two (`serve --no-rest` and `rest`), always on the same store and
ports; killed are the server, the facade, or both, also while they start. Whoever died is started anew, with
no hand on the store. In the end the model of what was acknowledged is compared with the store and with what
the watchers saw.

An end by SIGTERM must come within SHUTDOWN_GRACE_SECONDS with status 0, and no message may have been stored
whose sender's connection was dropped without an answer.
"""

import argparse
import asyncio
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from server.store import maintenance
from tests.campaigns.traffic.callers import Traffic
from tests.campaigns.traffic.calling import now_ms
from tests.campaigns.traffic.model import Findings
from tests.support.service import Serve, direct_url, start_command

GRACE_SECONDS = 10
BACK_SECONDS = 180
"""After which a service that does not start, or does not answer each kind of client again, is given up;
others use the machine, too.
"""


class Patient(Serve):
    """A service that is waited for, however busy the machine is."""

    def _ready_line(self) -> str:
        timer = threading.Timer(BACK_SECONDS, self.process.kill)
        timer.start()
        try:
            assert self.process.stdout is not None
            return self.process.stdout.readline().decode().strip()
        finally:
            timer.cancel()


class _Interrupted(Serve):
    """A service that is killed before it is ready."""

    seconds = 0.0

    def _ready_line(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=self.seconds)
        return ""


class Facade:
    """`eliza-sessions rest` beside its server."""

    def __init__(self, directory: Path, server: str, address: str, *, fresh: bool = True) -> None:
        """`fresh` see `start_command`."""
        with (directory / "serve.log").open("ab") as log:
            self.process = start_command(
                ["rest", "--server", server, "--rest-address", address],
                directory,
                stderr=log,
                fresh=fresh,
                SHUTDOWN_GRACE_SECONDS=str(GRACE_SECONDS),
            )
        assert self.process.stdout is not None
        timer = threading.Timer(BACK_SECONDS, self.process.kill)
        timer.start()
        ready = self.process.stdout.readline().decode()
        timer.cancel()
        assert ready.startswith("ready "), (directory / "serve.log").read_text()[-2000:]

    def kill(self) -> None:
        """Kills it with SIGKILL."""
        self.process.kill()
        self.process.wait(timeout=30)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def stop(self) -> int:
        """Ends it with SIGTERM; returns its exit status."""
        self.process.terminate()
        status = self.process.wait(timeout=60)
        self.kill()
        return status


def free_port() -> int:
    """A port that is free, and that no outgoing connection is given while the service is away."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", random.SystemRandom().randrange(10_000, 32_000)))
            return int(probe.getsockname()[1])


@dataclass
class Fleet:
    """The service as one program or two, on fixed ports."""

    directory: Path
    grpc: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    rest: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    server: Serve | None = None
    facade: Facade | None = None
    apart: bool = False

    def start(self) -> None:
        """Starts what is not running."""
        if self.server is None:
            arguments = ["--no-rest"] if self.apart else []
            self.server = Patient(self.directory, *arguments, **self._settings())
        if self.apart and self.facade is None:
            self.facade = Facade(self.directory, self.grpc, self.rest, fresh=False)

    def interrupt(self, seconds: float) -> None:
        """Starts a server and kills it after so long, ready or not."""
        interrupted = type("Interrupted", (_Interrupted,), {"seconds": seconds})
        with suppress(RuntimeError):
            arguments = ["--no-rest"] if self.apart else []
            interrupted(self.directory, *arguments, **self._settings())

    def kill(self, what: str) -> None:
        """Kills `server`, `facade` or `both`."""
        if what != "server" and self.facade:
            self.facade.kill()
            self.facade = None
        if what != "facade" and self.server:
            self.server.kill()
            self.server = None

    def stop(self) -> tuple[int, float]:
        """Ends one program after the other with SIGTERM; returns the sum of the exit statuses, and how long
        the slowest took.
        """
        status, slowest = 0, 0.0
        for program in (self.facade, self.server):
            if program:
                begun = time.perf_counter()
                status += program.stop()
                slowest = max(slowest, time.perf_counter() - begun)
        self.server = self.facade = None
        return status, slowest

    def log(self) -> str:
        return (self.directory / "serve.log").read_text(errors="replace")

    def _settings(self) -> dict[str, str]:
        return {
            "GRPC_ADDRESS": self.grpc,
            "REST_ADDRESS": self.rest,
            "SHUTDOWN_GRACE_SECONDS": str(GRACE_SECONDS),
        }


@dataclass
class Report:
    """What a campaign came to."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    term_seconds: list[float] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    acknowledged: Counter[str] = field(default_factory=Counter)
    attempts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    resumed: int = 0
    left: str = ""

    def __str__(self) -> str:
        by_phase: dict[str, Counter[str]] = {}
        for (phase, kind, how), count in self.attempts.items():
            by_phase.setdefault("SIGTERM" if phase.startswith("term") else "otherwise", Counter())[
                f"{kind} {how}"
            ] += count
        lines = [
            f"seed {self.seed}: {self.kills.total()} kills: "
            + ", ".join(f"{what} {n}" for what, n in sorted(self.kills.items()))
        ]
        if self.term_seconds:
            lines.append(
                f"{len(self.term_seconds)} ends by SIGTERM, the longest {max(self.term_seconds):.1f} s of "
                f"{GRACE_SECONDS} s allowed"
            )
        lines.append("acknowledged: " + ", ".join(f"{n} {what}" for what, n in self.acknowledged.items()))
        for phase, how in sorted(by_phase.items()):
            lines.append(f"attempts, {phase}: " + ", ".join(f"{what} {n}" for what, n in sorted(how.items())))
        lines.append(f"watchers connected again {self.resumed} times; the store: {self.left}")
        return "\n".join([*lines, str(self.findings)])


async def campaign(
    directory: Path, seed: int, kills: int, terms: int, *, senders: int = 6, show: bool = False
) -> Report:
    """Runs the campaign."""
    choose, fleet, report = random.Random(seed), Fleet(directory, apart=False), Report(seed)
    fleet.apart = choose.random() < 0.5
    rounds = ["kill"] * kills + ["term"] * terms
    choose.shuffle(rounds)
    await asyncio.to_thread(fleet.start)
    traffic = Traffic([fleet.grpc], [fleet.rest], seed, senders=senders)
    ended_ms: dict[str, int] = {}
    try:
        await traffic.begin()
        for number, how in enumerate(rounds):
            if traffic.model.findings:
                break
            # Mostly not before everyone has been served again; sometimes sooner.
            if choose.random() < 0.8:
                await traffic.all_kinds(BACK_SECONDS)
            await asyncio.sleep(choose.uniform(0, 1))
            if how == "term":
                phase = traffic.phase = f"term-{number}"
                status, seconds = await asyncio.to_thread(fleet.stop)
                ended_ms[phase] = now_ms()
                report.term_seconds.append(seconds)
                if status or seconds > GRACE_SECONDS:
                    report.findings.other.append(
                        f"{phase}{' (apart)' * fleet.apart} ended with {status} after {seconds:.1f} s"
                    )
            else:
                what = choose.choice(["server", "facade", "both"] if fleet.apart else ["server"])
                await asyncio.to_thread(fleet.kill, what)
                report.kills[f"{what}{' (apart)' if fleet.apart else ''}"] += 1
            if fleet.server is None and fleet.facade is None:
                fleet.apart = choose.random() < 0.5
            if fleet.server is None and how == "kill" and choose.random() < 0.15:
                await asyncio.to_thread(fleet.interrupt, choose.uniform(0, 1.5))
                report.kills["server while it starts"] += 1
            traffic.phase = f"round-{number}"
            await asyncio.to_thread(fleet.start)
            if show and number % 10 == 9:
                print(
                    f"{number + 1} of {len(rounds)}: {traffic.model.acknowledged.total()} acknowledged",
                    flush=True,
                )
        await traffic.all_kinds(BACK_SECONDS)
        await traffic.stop(BACK_SECONDS)
        report.findings.add(await traffic.check(ended_ms))
        report.acknowledged, report.attempts = traffic.model.acknowledged, traffic.attempts
        report.resumed = sum(watcher.resumed for watcher in traffic.watchers)
        status, _ = await asyncio.to_thread(fleet.stop)
        if status:
            report.findings.other.append(f"the last end had status {status}")
    except BaseException:
        await asyncio.to_thread(fleet.kill, "both")
        raise
    finally:
        await traffic.close()
    report.left = maintenance(direct_url(directory)).check(report.findings.other.append)
    log = fleet.log()
    if "Traceback" in log:
        report.findings.other.append(
            f"tracebacks in the log: {log.count('Traceback')}: {log[log.index('Traceback') :][:1500]}"
        )
    return report


def main() -> None:
    """Runs the campaign and prints what it came to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--kills", type=int, default=200, help="how many kills (default 200)")
    parser.add_argument(
        "--terms", type=int, default=20, help="how many ends by SIGTERM between them (default 20)"
    )
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        report = uvloop.run(campaign(Path(name), arguments.seed, arguments.kills, arguments.terms, show=True))
        if report.findings:
            (Path(tempfile.gettempdir()) / f"kills-{arguments.seed}.log").write_bytes(
                (Path(name) / "serve.log").read_bytes()
            )
    print(report)
    sys.exit(1 if report.findings else 0)


if __name__ == "__main__":
    main()
