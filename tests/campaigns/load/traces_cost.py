"""`python -m tests.campaigns.load.traces_cost`: what traces cost a call, as a share of one without.

As `metrics_cost`, against a service without TRACES and one with it whose spans go to a collector in this
process. Without TRACES no code of traces runs but a look at a switch; `bench --checkout` compares that.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.campaigns.access.subjects import SETTINGS, Caller, open_caller
from tests.campaigns.load.metrics_cost import SESSIONS, compare
from tests.service.traces.collector import Collector
from tests.support.service import Serve


@contextmanager
def subjects() -> Iterator[dict[str, Caller]]:
    """A caller of a service that traces nothing, and one of a service that traces everything."""
    with TemporaryDirectory() as name, Collector() as collector:
        directory = Path(name)
        plain = Serve(directory / "plain", **SETTINGS)
        traced = Serve(directory / "traced", TRACES="on", **collector.variables, **SETTINGS)
        try:
            yield {"without": open_caller(plain, SESSIONS), "with traces": open_caller(traced, SESSIONS)}
        finally:
            plain.stop()
            traced.stop()


def main(arguments: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=int, default=1)
    options = parser.parse_args(arguments)
    with subjects() as callers:
        compare(callers, options.rounds, options.seconds)


if __name__ == "__main__":
    main()
