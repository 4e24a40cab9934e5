"""Servers and facades on one PostgreSQL store, on fixed ports: killed, ended, frozen and started again."""

import asyncio
import os
import re
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psycopg

from tests.campaigns.kills import GRACE_SECONDS, Patient, free_port
from tests.campaigns.kills import Facade as FacadeProgram
from tests.support.service import Serve

_TRACEBACK: Final = re.compile(r"[^\n]*\nTraceback .*?\n(?=\S*\d\d:\d\d:\d\d|\Z)", re.DOTALL)
"""With the line of the log before it, and up to the next one."""
LEASES_BACK_SECONDS: Final = 15.0
"""How long a delivery is held at most by a server that is dead."""


@dataclass(eq=False)
class Member:
    """A server, or a facade. It runs where it has a program.

    `replica_id`: that of the running server in the store. `is_out`: it is not to be killed: it is frozen, or
    about to be started.
    """

    name: str
    grpc: str
    """Of a facade: of its server."""
    rest: str
    is_facade: bool = False
    program: Serve | FacadeProgram | None = None
    replica_id: str = ""
    is_out: bool = False

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where clients reach it."""
        return (self.rest,) if self.is_facade else (self.grpc, self.rest)

    @property
    def runs(self) -> bool:
        return self.program is not None and not self.is_out


def _address() -> str:
    return f"127.0.0.1:{free_port()}"


@dataclass
class Fleet:
    """The servers, and the facades: each of one of the servers, in turn."""

    directory: Path
    url: str
    settings: dict[str, str]
    servers: list[Member] = field(default_factory=list)
    facades: list[Member] = field(default_factory=list)
    # So that each new row among the replicas is that of the server that was started last.
    _starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    _known: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, directory: Path, url: str, servers: int, facades: int, **settings: str) -> "Fleet":
        fleet = cls(directory, url, settings)
        fleet.servers = [Member(f"server{n}", _address(), _address()) for n in range(servers)]
        fleet.facades = [
            Member(f"facade{n}", fleet.servers[n % servers].grpc, _address(), is_facade=True)
            for n in range(facades)
        ]
        return fleet

    @property
    def members(self) -> list[Member]:
        return [*self.servers, *self.facades]

    @property
    def grpc(self) -> list[str]:
        """The servers' addresses of gRPC."""
        return [one.grpc for one in self.servers]

    @property
    def rest(self) -> list[str]:
        """All addresses of REST."""
        return [one.rest for one in self.members]

    async def start(self, member: Member, **settings: str) -> None:
        """Starts a member and waits until it is ready. Servers are started one after the other."""
        directory = self.directory / member.name
        directory.mkdir(exist_ok=True)
        if member.is_facade:
            member.program = await asyncio.to_thread(
                FacadeProgram, directory, member.grpc, member.rest, fresh=False
            )
            return
        async with self._starting:
            member.program = await asyncio.to_thread(
                Patient,
                directory,
                DATABASE_URL=self.url,
                GRPC_ADDRESS=member.grpc,
                REST_ADDRESS=member.rest,
                SHUTDOWN_GRACE_SECONDS=str(GRACE_SECONDS),
                **{**self.settings, **settings},
            )
            new = set(await asyncio.to_thread(self._replicas)) - self._known
            # Frozen before it is looked for, a server has no row for a moment.
            member.replica_id = new.pop() if len(new) == 1 else ""
            self._known |= {member.replica_id} | new

    async def start_all(self) -> None:
        """Starts all members. Where one fails, the others have come up when it raises."""
        done = await asyncio.gather(*map(self.start, self.members), return_exceptions=True)
        for error in done:
            if error:
                raise error

    async def kill(self, member: Member) -> None:
        """Kills a member with SIGKILL."""
        program, member.program = member.program, None
        assert program
        await asyncio.to_thread(program.kill)

    async def end(self, member: Member) -> tuple[int, float]:
        """Ends a member with SIGTERM; returns its exit status, and how many seconds it took."""
        program, member.program = member.program, None
        assert program
        begun_s = time.perf_counter()
        return await asyncio.to_thread(program.stop), time.perf_counter() - begun_s

    @staticmethod
    def freeze(member: Member) -> None:
        """Has a member stand still, as on a machine that is paused."""
        assert member.program
        os.kill(member.program.process.pid, signal.SIGSTOP)

    @staticmethod
    def thaw(member: Member) -> None:
        """Has it go on."""
        assert member.program
        os.kill(member.program.process.pid, signal.SIGCONT)

    async def stop(self) -> list[str]:
        """Ends all with SIGTERM, the facades first; returns what is wrong with the ends."""
        wrong = []
        for member in [*self.facades, *self.servers]:
            if member.program:
                status, _ = await self.end(member)
                if status:
                    wrong.append(f"the last end of {member.name} had status {status}")
        return wrong

    def kill_all(self) -> None:
        """Kills what still runs, or stands still."""
        for member in self.members:
            if member.program:
                member.program.kill()
                member.program = None

    def logs(self) -> str:
        """What all have logged."""
        found = sorted(self.directory.glob("*/serve.log"))
        return "".join(f"{path.parent.name}: {path.read_text(errors='replace')}" for path in found)

    def tracebacks(self) -> list[str]:
        """The tracebacks in the logs, but for those of a figure that a busy machine was too slow for."""
        found = [part for part in _TRACEBACK.findall(self.logs()) if "recorder.py" not in part]
        return [f"{len(found)} tracebacks in the logs: {found[0][:2000]}"] if found else []

    def _replicas(self) -> list[str]:
        with psycopg.connect(self.url) as link:
            return [str(row[0]) for row in link.execute("SELECT id FROM replicas")]
