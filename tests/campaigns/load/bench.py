"""`python -m tests.campaigns.load.bench`: the whole table of what the service costs, beside its goals, in
under ten minutes.

`serve` is measured as an operator runs it. What is compared alternates in rounds, so that a noisy machine
hits all alike: what counts are the ratios within a run. `--checkout DIR` measures a second checkout in the
same rounds. The figures go to a JSON file and a plot, too.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc
import orjson

from tests.campaigns.load import beside_rows, grpc_rows, overload_rows, plot, rest_rows, start_rows
from tests.campaigns.load.figures import Figures, Plan, missed, table
from tests.campaigns.load.goals import BY_NAME
from tests.campaigns.load.subjects import THIS, Checkout, other

TOOLS: Final = {"wrk": "wrk", "h2load": "nghttp2-client"}
"""What loads are made with, and the Debian packages that have it."""

FAULTS: Final = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    ZeroDivisionError,
    subprocess.SubprocessError,
    grpc.RpcError,
)
"""With which a measurement fails; nothing at all is answered, where it divides by zero."""

Measure = Callable[[list[Checkout], Plan, Figures], None]
GROUPS: Final[dict[Measure, tuple[str, ...]]] = {
    start_rows.measure: ("memory", "start"),
    rest_rows.measure: ("rest-get", "rest-create", "rest-send", "rest-reply", "rest-page", "host-cpu"),
    rest_rows.measure_rich: ("rich-page", "rich-list", "rich-send"),
    grpc_rows.measure: ("grpc-get", "grpc-send", "grpc-reply"),
    beside_rows.measure_no_op: ("no-op-beside-pages",),
    beside_rows.measure_lag: ("lag-grpc", "lag-rest"),
    rest_rows.measure_lists: ("list-stored",),
    overload_rows.measure: ("overload-grpc", "health-grpc", "overload-rest", "health-rest"),
}
"""Who measures which rows, in order."""


def missing_tools() -> list[str]:
    """The Debian packages that are to be installed before this command works."""
    return [package for command, package in TOOLS.items() if not shutil.which(command)]


def measure(
    checkouts: list[Checkout], plan: Plan, save: Callable[[Figures], None]
) -> tuple[Figures, list[str]]:
    """Measures what is wanted, and says what it is at; the figures, and the rows that could not be measured.

    Saves as it goes on.
    """
    figures, failed, begun = Figures(), list[str](), time.monotonic()
    for group, rows in GROUPS.items():
        if plan.wants(*rows):
            print(
                f"{time.monotonic() - begun:4.0f} s  {', '.join(filter(plan.wants, rows))}",
                file=sys.stderr,
                flush=True,
            )
            try:
                group(checkouts, plan, figures)
            except FAULTS:
                # What else there is, of ten minutes, is not to be lost.
                traceback.print_exc()
                failed += filter(plan.wants, rows)
            save(figures)
    return figures, failed


def conditions(checkouts: list[Checkout], plan: Plan) -> dict[str, Any]:
    """What the figures are of."""
    return {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "checkouts": {one.name: one.commit() for one in checkouts},
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "rounds": plan.rounds,
        "seconds of a load": plan.seconds,
    }


def describe(found: dict[str, Any]) -> str:
    """The same in words."""
    commits = "; ".join(f"{name}: {commit}" for name, commit in found["checkouts"].items())
    load = " to ".join(f"{one[0]:.1f}" for one in (found["load"], found["load at the end"]))
    rounds = f"{found['rounds']} rounds of {found['seconds of a load']:g} s, {found['took s']:.0f} s in all"
    return (
        f"{commits}\n{found['made']}, Python {found['python']}, {found['cores']} cores, load average "
        f"{load}, {rounds}"
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        metavar="ROW",
        action="append",
        choices=BY_NAME,
        help=f"measure only this, of {', '.join(BY_NAME)}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="one short round of each: shows that it works, and no more"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each has its turn (default 3)")
    parser.add_argument("--seconds", type=float, default=2, help="how long a load is (default 2)")
    parser.add_argument(
        "--checkout", type=Path, metavar="DIR", help="measure this second checkout in the same rounds"
    )
    parser.add_argument(
        "--python", type=Path, help="the Python of its environment (default DIR/.venv/bin/python)"
    )
    parser.add_argument(
        "--against", type=Path, metavar="FILE.json", help="compare with what an earlier run has written"
    )
    parser.add_argument(
        "--json", type=Path, default=Path("bench.json"), help="where the figures go (default bench.json)"
    )
    parser.add_argument("--svg", type=Path, help="where the plot goes (default beside the figures)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints and writes. Ends with status 1 where a goal is missed or a tool is missing."""
    options = parse(arguments)
    if packages := missing_tools():
        sys.exit(
            "tests.campaigns.load.bench: missing; install them, then run it again: sudo apt-get install "
            f"{' '.join(packages)}"
        )
    # Read first: a file that is not there is to be heard of before ten minutes are over, and it may be the
    # one that is written.
    earlier = Figures.read(options.against) if options.against else None
    checkouts = [THIS, *([other(options.checkout, options.python)] if options.checkout else [])]
    wanted = frozenset(options.only or BY_NAME)
    if options.quick:
        plan = Plan(wanted, rounds=1, seconds=0.5, stored=5000, watchers=100)
    else:
        plan = Plan(wanted, options.rounds, options.seconds, stored=100_000, watchers=1000)
    found, begun = conditions(checkouts, plan), time.monotonic()

    def save(figures: Figures) -> None:
        found.update({"load at the end": os.getloadavg(), "took s": time.monotonic() - begun})
        options.json.write_bytes(
            orjson.dumps(found | {"rows": figures.as_json()}, option=orjson.OPT_INDENT_2)
        )

    figures, failed = measure(checkouts, plan, save)
    described = describe(found)
    print(f"{described}\n\n{table(figures, earlier)}")
    (options.svg or options.json.with_suffix(".svg")).write_text(plot.svg(figures, described))
    if told := [
        *(f"missed: {name}" for name in missed(figures)),
        *(f"not measured: {name}" for name in failed),
    ]:
        sys.exit("\n".join(told))


if __name__ == "__main__":
    main()
