"""`python -m tests.campaigns.load.postgres`: the rates of the service on PostgreSQL, beside those of pgbench
with the same statements, of one to three servers, and of SQLite.

`store-…` calls the stores without RPC: a lane against a program without groups. The goals are these rows'.
`grpc-…` calls services; their Python, and that of the callers, has the same cores as PostgreSQL. What is
compared alternates in rounds, on a cluster of its own whose commits are durable. CPU is of /proc.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson

from tests.campaigns.load import pgbench
from tests.campaigns.load.beside_rows import percentile
from tests.campaigns.load.figures import Figures, Plan, Series, ratio
from tests.campaigns.load.goals import Row
from tests.campaigns.load.postgres_subjects import (
    CLUSTER,
    GRPC_CALLERS,
    STORE_CALLERS,
    Callers,
    Load,
    beside,
    drive_services,
    drive_stores,
    serving,
)
from tests.campaigns.load.subjects import THIS
from tests.support.postgres import PostgresServer
from tests.support.service import Serve

PGBENCH: Final = "pgbench"
SQLITE: Final = "SQLite"
SERVERS: Final = {1: "one", 2: "two", 3: "three"}
ONE: Final = SERVERS[1]
CALLERS: Final = 64
MAX_OPEN: Final = "1000000"
PER_SECOND: Final = "/s"
OWN: Final = "CPU µs"
OF_DATABASE: Final = "PostgreSQL µs"

RATE: Final = "rate"
CPU: Final = "cpu"
HOT: Final = "hot"
ROWS: Final = (
    Row("store-send", "the store alone, SendMessage, 64 callers", PER_SECOND),
    Row("store-hot", "the store alone, 64 senders to one session", PER_SECOND),
    Row("store-get", "the store alone, GetSession, 64 callers", PER_SECOND),
    Row("grpc-send", "over gRPC, SendMessage, 64 callers", PER_SECOND),
    Row("grpc-hot", "over gRPC, 64 senders to one session", PER_SECOND),
    Row("grpc-get", "over gRPC, GetSession, 64 callers", PER_SECOND),
    Row("event", "from the call of SendMessage until a watch hears of it", "ms"),
    Row("event-busy", "the same, while others send", "ms"),
)
GOALS: Final = (
    Row(RATE, "store-send: rate, of pgbench's", "×", 1.2, "more"),
    Row(CPU, "store-send: PostgreSQL's CPU a message, of pgbench's", "×", 1 / 3),
    Row(HOT, "rate to one session, of that to all: store", "×", 0.8, "more"),
)
HERE, THERE = "the same server", "another server"
BUSY_CALLERS: Final = 8


@dataclass(frozen=True)
class Size(Plan):
    """How much is measured: a Plan; and how many callers, and at most how many servers."""

    callers: int
    most_servers: int

    @property
    def servers(self) -> dict[int, str]:
        return {number: name for number, name in SERVERS.items() if number <= self.most_servers}


@dataclass(frozen=True)
class Stage:
    """Where the loads are run: a cluster, the stores by subject, of which pgbench has one of its own, and
    who calls them.
    """

    server: PostgresServer
    directory: Path
    databases: Mapping[str, str]
    sessions: int
    store_callers: Sequence[Callers]
    grpc_callers: Callers

    def url(self, subject: str) -> str:
        if subject == SQLITE:
            return f"sqlite:///{self.directory / 'store.db'}"
        return self.server.url(self.databases[subject])


def make_stage(stack: ExitStack, plan: Size) -> Stage:
    """Starts a cluster, and makes a store with sessions for each subject: a copy of the first."""
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    server = stack.enter_context(closing(PostgresServer(**CLUSTER)))
    processes = [stack.enter_context(closing(Callers(STORE_CALLERS))) for _ in plan.servers]
    over_grpc = stack.enter_context(closing(Callers(GRPC_CALLERS)))
    first = server.make_database()
    processes[0].ask("fill", server.url(first), plan.stored)
    others = {name: server.make_database(first) for name in (PGBENCH, *list(plan.servers.values())[1:])}
    server.execute("CHECKPOINT")
    stage = Stage(server, directory, {ONE: first, **others}, plan.stored, processes, over_grpc)
    processes[0].ask("fill", stage.url(SQLITE), plan.stored)
    return stage


def store_loads(stage: Stage, plan: Size, what: str, sessions: int) -> dict[str, Callable[[], Load]]:
    """What a row of the store's has measured, by subject."""

    def drive(subject: str, number: int) -> Load:
        return drive_stores(
            stage.server,
            stage.store_callers[:number],
            stage.url(subject),
            what,
            plan.callers,
            sessions,
            plan.seconds,
        )

    return {
        PGBENCH: lambda: pgbench.drive(
            stage.server, stage.databases[PGBENCH], what, plan.callers, sessions, round(plan.seconds)
        ),
        SQLITE: partial(drive, SQLITE, 1),
        **{name: partial(drive, name, number) for number, name in plan.servers.items()},
    }


def service_loads(
    stage: Stage, plan: Size, services: Mapping[str, list[Serve]], what: str, sessions: int
) -> dict[str, Callable[[], Load]]:
    """The same over gRPC."""
    return {
        name: partial(
            drive_services,
            stage.server,
            stage.grpc_callers,
            mine,
            what,
            plan.callers,
            sessions,
            plan.seconds,
        )
        for name, mine in services.items()
    }


def measure_loads(
    plan: Size, figures: Figures, loads: Mapping[str, Mapping[str, Callable[[], Load]]]
) -> None:
    """Runs the loads of some rows in rounds, and notes what comes of them."""
    for number in range(plan.rounds):
        for row, of in loads.items():
            for subject in list(of)[:: -1 if number % 2 else 1]:
                say(f"round {number + 1}: {row}, {subject}")
                found = of[subject]()
                of_database = {} if subject == SQLITE else {OF_DATABASE: found.database_us}
                figures.add(row, subject, found.rate, **{OWN: found.own_us}, **of_database, **found.details)


def measure_events(stage: Stage, plan: Size, figures: Figures, services: list[Serve]) -> None:
    """How late watches are told, by the server that a message was sent to and by another one."""
    first, second = (one.grpc for one in services)
    for row in filter(plan.wants, ("event", "event-busy")):
        for number in range(plan.rounds):
            say(f"round {number + 1}: {row}")
            with ExitStack() as stack:
                if row == "event-busy":
                    stack.enter_context(beside(first, BUSY_CALLERS, stage.sessions - 1))
                for subject, watched_at in ((HERE, first), (THERE, second)):
                    found = stage.grpc_callers.ask("events", plan.watchers, stage.sessions, first, watched_at)
                    late, since_call = found["since its answer"], found["since the call"]
                    figures.add(
                        row,
                        subject,
                        statistics.median(since_call),
                        **{
                            "p99 ms": percentile(since_call, 0.99),
                            # The commit lies between the two. An event may come before the answer.
                            "since the answer, p50 ms": statistics.median(late),
                            "since the answer, p99 ms": percentile(late, 0.99),
                        },
                    )


def services_of(stage: Stage, stack: ExitStack, plan: Size) -> dict[str, list[Serve]]:
    """Services on the stores, by subject: events take two on one store."""
    wanted = {SQLITE: 1, **{name: number for number, name in plan.servers.items()}}
    if not plan.wants(*(row.name for row in ROWS if row.name.startswith("grpc-"))):
        wanted = {SERVERS[2]: 2}
    return {
        name: [
            stack.enter_context(
                serving(
                    stage.directory / f"{name}-{one}",
                    DATABASE_URL=stage.url(name),
                    MAX_OPEN_DELIVERIES=MAX_OPEN,
                )
            )
            for one in range(number)
        ]
        for name, number in wanted.items()
    }


def measure(plan: Size, figures: Figures) -> None:
    """Measures what is wanted."""
    with ExitStack() as stack:
        stage = make_stage(stack, plan)
        loads = {"send": ("send", plan.stored), "hot": ("send", 1), "get": ("get", plan.stored)}
        measure_loads(
            plan,
            figures,
            {
                f"store-{name}": store_loads(stage, plan, *load)
                for name, load in loads.items()
                if plan.wants(f"store-{name}")
            },
        )
        if not plan.wants(*(row.name for row in ROWS if not row.name.startswith("store-"))):
            return
        say("starts services")
        services = services_of(stage, stack, plan)
        measure_loads(
            plan,
            figures,
            {
                f"grpc-{name}": service_loads(stage, plan, services, *load)
                for name, load in loads.items()
                if plan.wants(f"grpc-{name}")
            },
        )
        measure_events(stage, plan, figures, services[SERVERS[2]])


def compared(figures: Figures, row: str, subject: str, to: str, detail: str = "") -> float | None:
    """The median of the rounds' ratios of two subjects' figures, or of a detail of them."""
    of, others = (figures.series.get(row, {}).get(name) for name in (subject, to))
    if of is None or others is None:
        return None
    return ratio(of.details[detail], others.details[detail]) if detail else ratio(of.rounds, others.rounds)


def goals(figures: Figures) -> Iterator[tuple[Row, str, float, bool]]:
    """Each goal, whose it is, its figure and whether it is reached. It is that of one server; with more,
    the figures are told.
    """
    for subject in SERVERS.values():
        hot, all_of = (figures.series.get(row, {}).get(subject) for row in ("store-hot", "store-send"))
        found = (
            compared(figures, "store-send", subject, PGBENCH),
            compared(figures, "store-send", subject, PGBENCH, OF_DATABASE),
            ratio(hot.rounds, all_of.rounds) if hot and all_of else None,
        )
        for row, figure in zip(GOALS, found, strict=True):
            if figure is not None:
                yield row, subject, figure, bool(row.is_reached(figure, None))


def missed(figures: Figures) -> list[str]:
    """The goals that one server does not reach, in words."""
    return [
        f"{row.what}: {figure:.2f}, goal {row.told_goal()}"
        for row, subject, figure, is_reached in goals(figures)
        if subject == ONE and not is_reached
    ]


def table(figures: Figures) -> str:
    """What was measured, a line for each row and subject; then the goals."""
    lines = []
    for row in ROWS:
        series = figures.series.get(row.name, {})
        lines += [f"{row.name}: {row.what}"] if series else []
        lines += [_line(row, name, one) for name, one in series.items()]
    lines += ["", "goals, of one server (the median of the rounds' ratios)"]
    for row, subject, figure, is_reached in goals(figures):
        told = ("reached" if is_reached else "MISSED") if subject == ONE else ""
        lines.append(f"  {row.what:55} {subject:6} {figure:6.2f}  {row.told_goal():9} {told}".rstrip())
    return "\n".join(lines)


def _line(row: Row, subject: str, series: Series) -> str:
    spread = f"({_short(min(series.rounds))} to {_short(max(series.rounds))})"
    details = "; ".join(
        f"{name} {_short(statistics.median(values))}" for name, values in series.details.items()
    )
    return f"  {subject:15} {_short(series.median):>7} {row.unit:2} {spread:20} {details}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def say(what: str) -> None:
    """Tells on standard error what it is at."""
    print(f"{time.strftime('%H:%M:%S')}  {what}", file=sys.stderr, flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [row.name for row in ROWS]
    parser.add_argument(
        "--only", metavar="ROW", action="append", choices=names, help=f"only this, of {', '.join(names)}"
    )
    parser.add_argument("--quick", action="store_true", help="shows that it works, and judges nothing")
    parser.add_argument("--rounds", type=int, default=3, help="how often each has its turn (default 3)")
    parser.add_argument("--seconds", type=float, default=3, help="how long a load is (default 3)")
    parser.add_argument("--sessions", type=int, default=20_000, help="how many a store has (default 20,000)")
    parser.add_argument("--events", type=int, default=400, help="how many a round waits for (default 400)")
    parser.add_argument("--json", type=Path, default=Path("postgres.json"), help="where the figures go")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints and writes. Ends with status 1 where a goal is missed."""
    options = parse(arguments)
    wanted = frozenset(options.only or (row.name for row in ROWS))
    if options.quick:
        plan = Size(wanted, 1, 0.1, stored=50, watchers=2, callers=4, most_servers=2)
    else:
        plan = Size(
            wanted,
            options.rounds,
            options.seconds,
            options.sessions,
            options.events,
            CALLERS,
            max(SERVERS),
        )
    figures, begun, load = Figures(), time.monotonic(), os.getloadavg()
    measure(plan, figures)
    conditions: dict[str, Any] = {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": THIS.commit(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": [load[0], os.getloadavg()[0]],
        "rounds": plan.rounds,
        "seconds of a load": plan.seconds,
        "sessions": plan.stored,
        "took s": round(time.monotonic() - begun),
    }
    told = {
        f"{row.name} {subject}": {"figure": figure, "reached": is_reached}
        for row, subject, figure, is_reached in goals(figures)
    }
    options.json.write_bytes(
        orjson.dumps(conditions | {"rows": figures.as_json(), "goals": told}, option=orjson.OPT_INDENT_2)
    )
    print("; ".join(f"{name}: {value}" for name, value in conditions.items()))
    print(table(figures))
    if not options.quick and (found := missed(figures)):
        sys.exit("\n".join(f"missed: {one}" for one in found))


if __name__ == "__main__":
    main()
