"""`python -m tests.campaigns.growth`: whether what the service does on PostgreSQL takes as long with 400,000
sessions and 4,000,000 messages as with a hundredth of that.

Each row is a call of both stores in turn; what counts is the ratio of the medians. The plans are those of the
large store for the last call, with their parameters; the campaign fails where one reads a large table from
end to end, too.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import psycopg
import uvloop
from psycopg import AsyncCursor

from server.store.postgres.place import PLANS, Link, Place
from server.store.postgres.store import PostgresStore
from server.store.values import Position
from tests.campaigns.growth.fill import fill
from tests.campaigns.growth.rows import ROWS, START, Row, Subject
from tests.support.plans import reads_whole, tell
from tests.support.postgres import PostgresServer
from tests.support.service import Serve

SESSIONS: Final = 400_000
SHARE: Final = 100
GOAL: Final = 1.2
LARGE, SMALL = "large", "small"
SAMPLES: Final = 400
"""Sessions and users that are asked for."""
PLACES: Final = 50
"""From which lists go on: behind each of them a small store has enough for a page, too."""
WARM_UP: Final = 8
"""Calls that do not count: PostgreSQL makes its plans anew for the first five."""
TABLES: Final = ("sessions", "log", "deliveries", "requests", "commits", "session_counts", "removed_sessions")
CLUSTER: Final = {"shared_buffers": "256MB", "max_wal_size": "8GB", "checkpoint_timeout": "1h"}


class Recorder(AsyncCursor[tuple[Any, ...]]):
    """A cursor that keeps what it has carried out."""

    kept: list[tuple[str, Any]] = []  # noqa: RUF012 - of all cursors

    async def execute(self, query: Any, params: Any = None, **settings: Any) -> "Recorder":
        self.kept.append((str(query), params))
        return await super().execute(query, params, **settings)


class RecordedPlace(Place):
    """A place whose connections keep what they have carried out."""

    async def connect(self, purpose: str, *, listens: bool = False) -> Link:
        link = await super().connect(purpose, listens=listens)
        link.cursor_factory = Recorder
        return link


async def open_subject(name: str, url: str, now_ms: int) -> Subject:
    """Opens a store, and chooses what it is asked for."""
    one = Subject(name, await PostgresStore.open(RecordedPlace(url)), now_ms)
    async with await psycopg.AsyncConnection.connect(url) as link:
        of_sessions = await link.execute(
            "SELECT id::text, user_id::text FROM sessions WHERE due_at_ms > %s "
            "ORDER BY md5(id::text) LIMIT %s",
            [now_ms, SAMPLES],
        )
        for session_id, user_id in await of_sessions.fetchall():
            one.ids.append(session_id)
            one.users.append(user_id)
        oldest = await link.execute(
            "SELECT created_at_ms, id::text FROM sessions WHERE NOT expired "
            "ORDER BY created_at_ms, id LIMIT %s",
            [PLACES],
        )
        one.places = [Position(*row) for row in await oldest.fetchall()]
    return one


async def measure(
    row: Row, subjects: Sequence[Subject], calls: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """How long a call takes, in ms, of each store; and the statements of the large one's last call, with the
    last parameters of each.
    """
    taken: dict[str, list[float]] = {one.name: [] for one in subjects}
    statements: dict[str, Any] = {}
    warm_up = min(WARM_UP, row.most // 4)
    for number in range(min(calls + warm_up, row.most)):
        for one in subjects[:: -1 if number % 2 else 1]:
            Recorder.kept.clear()
            begun = time.perf_counter()
            await row.call(one)
            if number >= warm_up:
                taken[one.name].append((time.perf_counter() - begun) * 1000)
            if one.name == LARGE:
                statements = dict(Recorder.kept)
    return taken, statements


def measure_starts(urls: Mapping[str, str], rounds: int) -> dict[str, list[float]]:
    """How long a service takes until it is ready, in ms; the first of each does not count."""
    taken: dict[str, list[float]] = {name: [] for name in urls}
    for number in range(rounds + 1):
        for name, url in list(urls.items())[:: -1 if number % 2 else 1]:
            with TemporaryDirectory() as directory:
                begun = time.perf_counter()
                service = Serve(Path(directory), DATABASE_URL=url)
                if number:
                    taken[name].append((time.perf_counter() - begun) * 1000)
                service.stop()
    return taken


def explain(url: str, statements: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The plans of statements with their parameters, most of them carried out and taken back."""
    plans = []
    with psycopg.connect(url, options=PLANS) as link:
        for query, values in statements.items():
            if query.startswith(("SELECT", "(SELECT", "INSERT", "UPDATE", "DELETE", "WITH")):
                # What was inserted cannot be inserted again.
                carried_out = "" if query.startswith("INSERT") else "ANALYZE, BUFFERS, "
                text = f"EXPLAIN ({carried_out}FORMAT JSON) {query}"
                with link.transaction(force_rollback=True):
                    ((plan,),) = psycopg.ClientCursor(link).execute(text.encode(), values).fetchall()
                plans.append((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])
    return plans


def measure_all(
    urls: Mapping[str, str], now_ms: int, calls: int, starts: int
) -> tuple[dict[str, dict[str, list[float]]], dict[str, list[dict[str, Any]]]]:
    """The times of each row, and the plans of the large store."""

    async def of_calls() -> None:
        subjects = [await open_subject(name, url, now_ms) for name, url in urls.items()]
        for row in ROWS:
            say(row.name)
            times[row.name], statements = await measure(row, subjects, calls)
            plans[row.name] = await asyncio.to_thread(explain, urls[LARGE], statements)
        for one in subjects:
            await one.store.close()

    times: dict[str, dict[str, list[float]]] = {}
    plans: dict[str, list[dict[str, Any]]] = {}
    uvloop.run(of_calls())
    say(START)
    times[START] = measure_starts(urls, starts)
    return times, plans


def say(what: str) -> None:
    """Tells on standard error what it is at."""
    print(f"{time.strftime('%H:%M:%S')}  {what}", file=sys.stderr, flush=True)


def report(
    times: Mapping[str, Mapping[str, Sequence[float]]], plans: Mapping[str, Sequence[dict[str, Any]]]
) -> list[str]:
    """Prints the table, a plan below each row; returns what is not as it should be."""
    wrong = []
    print(f"{'':32} {'small ms':>9} {'large ms':>9}  {'p90':>6} {'p90':>6}  ratio, goal ≤ {GOAL}")
    for name, taken in times.items():
        small, large = (statistics.median(taken[one]) for one in (SMALL, LARGE))
        worst = [sorted(taken[one])[int(len(taken[one]) * 0.9)] for one in (SMALL, LARGE)]
        is_reached = large <= GOAL * small
        print(
            f"{name:32} {small:9.3f} {large:9.3f}  {worst[0]:6.2f} {worst[1]:6.2f}  {large / small:5.2f} "
            f"{'reached' if is_reached else 'MISSED'}"
        )
        if not is_reached:
            wrong.append(f"{name}: {large / small:.2f}")
        for plan in plans.get(name, ()):
            for line in tell(plan):
                print(f"{'':8}{line}")
            wrong += [f"{name} reads all of {table}" for table in reads_whole(plan, TABLES)]
    return wrong


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="shows that it works, and judges nothing")
    parser.add_argument(
        "--sessions", type=int, default=SESSIONS, help=f"of the large store (default {SESSIONS:,})"
    )
    parser.add_argument("--calls", type=int, default=300, help="of each row and store (default 300)")
    parser.add_argument("--starts", type=int, default=7, help="of a service on each store (default 7)")
    parser.add_argument("--json", type=Path, default=Path("growth.json"), help="where the figures go")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints and writes. Ends with status 1 where a goal is missed."""
    options = parse(arguments)
    if options.quick:
        options.sessions, options.calls, options.starts = 4000, 3, 1
    now_ms, begun, load = time.time_ns() // 10**6, time.monotonic(), os.getloadavg()[0]
    with closing(PostgresServer(**CLUSTER)) as server:
        urls = {}
        for name, sessions in ((LARGE, options.sessions), (SMALL, options.sessions // SHARE)):
            say(f"{name}: {sessions:,} sessions")
            urls[name] = server.url(server.make_database())
            fill(urls[name], sessions, now_ms)
        filled_s = time.monotonic() - begun
        times, plans = measure_all(urls, now_ms, options.calls, options.starts)
    conditions = {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "sessions": options.sessions,
        "calls": options.calls,
        "cores": os.cpu_count(),
        "load": [load, os.getloadavg()[0]],
        "filled in s": round(filled_s),
        "took s": round(time.monotonic() - begun),
    }
    print("; ".join(f"{name}: {value}" for name, value in conditions.items()))
    wrong = report(times, plans)
    options.json.write_text(json.dumps({**conditions, "ms": times, "wrong": wrong}, indent=2))
    if wrong and not options.quick:
        sys.exit("\n".join(f"missed: {one}" for one in wrong))


if __name__ == "__main__":
    main()
