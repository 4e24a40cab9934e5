"""`python -m tests.campaigns.copy_store`: a store goes from SQLite to PostgreSQL and back, interrupted by
SIGKILL and SIGINT, and a service of the other back end goes on with it.

A real service talks to clients, and is killed. The rules add many sessions. `copy-store` runs as a process of
its own, which a signal ends in the midst of writing a random row, and the last time while it verifies one,
until the last run comes to its end. Then all columns that both back ends have are compared by SQL of this
campaign, the digests with those of a copy that nobody has interrupted; and a service on the copy is asked for
all that clients have been told, and goes on.
"""

import argparse
import asyncio
import hashlib
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import orjson
import psycopg

from server.clock import SystemClock
from server.domain.access import EVERYTHING
from server.domain.idempotency import RequestKey
from server.domain.sessions import Session
from server.store import maintenance
from server.store.copying import TABLES, copy
from server.store.sqlite.store import SqliteStore
from server.store.values import StoreOpenError
from tests.campaigns.copied_service import SETTINGS, Seen
from tests.store.conformance.common import expire, give_up, respond, say, take
from tests.support.postgres import PostgresServer
from tests.support.service import Serve, environment
from tests.support.waiting import until
from tests.unit.samples import put, session

SIGNALS: Final = (signal.SIGKILL, signal.SIGINT)
ROOT: Final = Path(__file__).parents[2]
_TOGETHER: Final = 250
"""How many sessions are added at a time."""
_STATES: Final = "SELECT CASE WHEN expired THEN 'expired' ELSE 'live' END FROM sessions"
_OPEN_SOURCE: Final = re.compile("is served by|is in use by")


@dataclass
class Findings:
    """What was copied, and what is wrong with it."""

    direction: str
    rows: int = 0
    killed: int = 0
    stopped: int = 0
    """How many runs SIGKILL has ended, and how many SIGINT."""
    refused: int = 0
    """How many times the unfinished copy was not opened."""
    seconds: float = 0.0
    """How long a copy takes that nobody interrupts."""
    checked: int = 0
    """How many answers of the service on the copy were compared."""
    problems: list[str] = field(default_factory=list)

    def line(self) -> str:
        """All of it in a line."""
        return (
            f"{self.direction}: {self.rows} rows, {self.seconds:.1f} s without an interruption "
            f"({self.rows / self.seconds:.0f}/s, with the verification), killed {self.killed}, "
            f"stopped {self.stopped}, refused {self.refused}, answers compared {self.checked}, "
            f"problems {len(self.problems)}"
        )


def campaign(
    directory: Path, server: PostgresServer, seed: int, *, sessions: int, interruptions: int, batch_rows: int
) -> list[Findings]:
    """Takes a store to PostgreSQL and back; returns what was found on each way."""
    chance = random.Random(seed)
    first = f"sqlite:///{directory / 'first.db'}"
    there = server.url(server.make_database())
    back = f"sqlite:///{directory / 'back.db'}"
    others = server.url(server.make_database()), f"sqlite:///{directory / 'other.db'}"
    found = []
    service = Serve(directory / "first", "--no-rest", DATABASE_URL=first, **SETTINGS)
    seen = _talk(service, sessions)
    asyncio.run(add_sessions(directory / "first.db", sessions, seed))
    for number, (source, target) in enumerate(((first, there), (there, back))):
        findings = Findings(f"{source.split(':')[0]} to {target.split(':')[0]}")
        found.append(findings)
        _wait_until_free(source)
        told = _interrupt(source, target, findings, chance, interruptions, batch_rows)
        _compare(source, target, findings)
        active = sum(state == "live" for (state,) in _query(source, _STATES))
        _copy_whole(source, others[number], findings, told)
        service = Serve(directory / f"copy{number}", "--no-rest", DATABASE_URL=target, **SETTINGS)
        try:
            seen.compare(service, active)
            seen.go_on(service)
        finally:
            findings.checked += seen.checked
            findings.problems += seen.problems
        if target == there:
            seen = _talk(service, sessions)
        else:
            service.kill()
    return found


def _talk(service: Serve, sessions: int) -> Seen:
    """Talks to a service, and kills it."""
    try:
        seen = Seen(service, min(20, 7 + sessions // 1000))
    finally:
        service.kill()
    seen.close()
    return seen


async def add_sessions(path: Path, sessions: int, seed: int) -> None:
    """Adds sessions with messages that are answered, open or failed, some of them expired."""
    chance, numbers = random.Random(seed), count()
    store = await SqliteStore.open(path, SystemClock(), max_writes=100_000)

    async def add() -> None:
        number = next(numbers)
        user = f"{chance.getrandbits(32):08x}-0000-4000-8000-{number % 997:012d}"
        new: Session = session(SystemClock().now_ms(), user_id=user, metadata=f'{{"n":{number}}}')
        new = new._replace(tenant=chance.choice(["", "north"]), retention_ms=chance.choice([None, 60_000]))
        await put(store, new, RequestKey(f"user:{user}", f"bulk {number}", "print"))
        ends = [chance.choice("aaaof") for _ in range(chance.randrange(4))]
        for sequence, end in enumerate(ends, 1):
            rule = say("x" * chance.randrange(1, 400))
            request = RequestKey(f"session:{new.id}", str(sequence), "print")
            last = await store.apply(new.id, rule, request, scope=EVERYTHING)
            if end == "o":
                # Those behind it stay open with it.
                break
            for what in (take, respond() if end == "a" else give_up):
                await store.apply_delivery(new.id, last.session.last_sequence, what, scope=EVERYTHING)
        if chance.random() < 0.2:
            await store.apply(new.id, expire, scope=EVERYTHING)

    for start in range(0, sessions, _TOGETHER):
        await asyncio.gather(*(add() for _ in range(min(_TOGETHER, sessions - start))))
    await store.close()


def _interrupt(
    source: str, target: str, findings: Findings, chance: random.Random, times: int, batch_rows: int
) -> str:
    """Copies in several runs, all of which but the last are interrupted; returns what that one prints."""
    total = sum(_count(source, table) for table in TABLES)
    for number in range(times):
        how = SIGNALS[number % len(SIGNALS)]
        left = total - _noted(target)
        is_last = number == times - 1
        phase, most = ("verify", total) if is_last else ("copy", left * 0.6)
        done = _run(source, target, batch_rows, phase, round(chance.uniform(1, max(1, most))), how)
        findings.killed += done.returncode == -signal.SIGKILL
        findings.stopped += done.returncode == 1 and "the same command goes on from there" in done.stderr
        try:
            maintenance(target).stored_schema()
        except StoreOpenError as error:
            findings.refused += "is a copy that is not finished" in str(error)
    done = _run(source, target, batch_rows)
    if done.returncode:
        findings.problems.append(f"copy-store has ended with {done.returncode}: {done.stderr}")
    if (interrupted := findings.killed + findings.stopped) != times or findings.refused != times:
        findings.problems.append(
            f"{interrupted} interruptions, {findings.refused} refusals instead of {times}"
        )
    found = re.search(r"holds what .* holds: (\d+) rows", done.stdout)
    findings.rows = int(found[1]) if found else 0
    return done.stdout


def _copy_whole(source: str, target: str, findings: Findings, expected: str) -> None:
    """Copies without interruption, in this process, and compares the digests."""
    began_s = time.monotonic()
    with maintenance(source).copy_source() as read, maintenance(target).copy_target() as written:
        copied = copy(read, written, lambda done, total: None, lambda: False)
    findings.seconds = time.monotonic() - began_s
    digests = [one.digest for one in copied]
    if [line.split()[-1] for line in expected.splitlines()[:-1]] != digests:
        findings.problems.append(f"other digests without an interruption: {digests}; {expected}")


def _run(
    source: str, target: str, batch_rows: int, phase: str = "", row: int = 0, how: int = 0
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [
            *(sys.executable, "-m", "tests.campaigns.copy_store_run"),
            *(phase, str(row), str(int(how)), str(batch_rows), source, target),
        ],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        check=False,
    )


def _wait_until_free(source: str) -> None:
    """Waits until a killed server does not count any more."""

    def is_free() -> bool:
        try:
            with maintenance(source).copy_source():
                return True
        except StoreOpenError as error:
            if not _OPEN_SOURCE.search(str(error)):
                raise
            return False

    until(is_free, "a store that nobody serves")


def _noted(target: str) -> int:
    """How many rows the target says it has."""
    with suppress(sqlite3.Error, psycopg.Error, IndexError):
        ((note,),) = list(_query(target, "SELECT note FROM store_copy"))
        rows: int = orjson.loads(note)["rows"]
        return rows
    return 0


def _compare(source: str, target: str, findings: Findings) -> None:
    """Compares all columns that both have, without a line of what has copied them; checks the copy."""
    held = [maintenance(store).check(findings.problems.append) for store in (source, target)]
    if held[0] != held[1]:
        findings.problems.append(f"{held[0]} became {held[1]}")
    for table in TABLES:
        columns = sorted(
            _columns(source, table) & _columns(target, table) - {"lane", "head_due_ms", "holder"}
        )
        sums = [_digest(store, table, columns) for store in (source, target)]
        if sums[0] != sums[1] or not sums[0][0]:
            findings.problems.append(f"{table} ({', '.join(columns)}): {sums[0]} and {sums[1]}")


def _digest(store: str, table: str, columns: list[str]) -> tuple[int, str]:
    """How many rows there are of sessions that are there, and what they add up to in any order."""
    chosen = [f"sum({one})" if one == "sessions" else one for one in columns]
    wanted = f"SELECT {', '.join(chosen)} FROM {table}"
    if "session_id" in columns:
        wanted += " WHERE session_id IN (SELECT id FROM sessions)"
    if table == "session_counts":
        wanted += " GROUP BY state, agent_id, user_id, tenant HAVING sum(sessions) <> 0"
    number, total = 0, 0
    for row in _query(store, wanted):
        plain = [int(one) if isinstance(one, bool) or type(one).__name__ == "Decimal" else one for one in row]
        total += int.from_bytes(hashlib.sha256(repr(plain).encode()).digest()[:16])
        number += 1
    return number, f"{total % 2**128:032x}"


def _columns(store: str, table: str) -> set[str]:
    if store.startswith("sqlite"):
        return {name for (name,) in _query(store, f"SELECT name FROM pragma_table_info('{table}')")}
    statement = f"SELECT column_name FROM information_schema.columns WHERE table_name = '{table}'"
    return {name for (name,) in _query(store, statement)}


def _count(store: str, table: str) -> int:
    condition = (
        " WHERE session_id IN (SELECT id FROM sessions)" if "session_id" in _columns(store, table) else ""
    )
    ((rows,),) = list(_query(store, f"SELECT count(*) FROM {table}{condition}"))
    return int(rows)


def _query(store: str, statement: str) -> Iterator[tuple[Any, ...]]:
    if store.startswith("sqlite"):
        path = store.removeprefix("sqlite:///")
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            yield from connection.execute(statement)
    else:
        with psycopg.connect(store) as link, link.cursor(name="read") as cursor:
            for row in cursor.execute(statement.encode()):
                yield tuple(str(one) if type(one).__name__ == "UUID" else one for one in row)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--interruptions", type=int, default=5)
    parser.add_argument("--batch-rows", type=int, default=5_000, help="how many rows are written at a time")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}, {arguments.sessions} sessions", flush=True)
    server = PostgresServer()
    try:
        with tempfile.TemporaryDirectory(prefix="eliza-copy-") as directory:
            found = campaign(
                Path(directory),
                server,
                arguments.seed,
                sessions=arguments.sessions,
                interruptions=arguments.interruptions,
                batch_rows=arguments.batch_rows,
            )
    finally:
        server.close()
    for findings in found:
        print(findings.line())
        for problem in findings.problems[:20]:
            print(f"  {problem}")
    sys.exit(any(findings.problems for findings in found))


if __name__ == "__main__":
    main()
