"""`python -m tests.campaigns.hostile [--seed S] [--size X] [--rounds N] [--row N]…`: what a stranger can make
the service do.

Every row is played against a service with defaults, three rounds of it. Judged: the memory of server and
facade, with what the row holds open and after it has let go; and the answers. Printed beside it: the worst
latency of another client, and that at rest. The status is 1 where a goal of memory is missed, or an answer is
a fault of the service.
"""

import argparse
import random
import resource
import sys
import time

from tests.campaigns.hostile.campaign import campaign
from tests.campaigns.hostile.rows import ROWS


def main() -> None:
    """Runs the campaign at the size that is asked for, and prints its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument(
        "--size", type=float, default=1, help="how much of everything, 1 being the full size (default 1)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each row (default 3)")
    parser.add_argument(
        "--row",
        action="append",
        choices=[row.number for row in ROWS],
        help="only this one; may be given again",
    )
    given = parser.parse_args()
    # The connections of thousands of clients are descriptors here, too.
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    print(f"seed {given.seed}, size {given.size:g}, {given.rounds} rounds", flush=True)
    missed, late = [], []
    with campaign(size=given.size, seed=given.seed, rounds=given.rounds) as running:
        for row in ROWS:
            if given.row and row.number not in given.row:
                continue
            begun_s = time.monotonic()
            outcome = running.run(row)
            print(*outcome.lines(), f"      in {time.monotonic() - begun_s:.0f} s", sep="\n", flush=True)
            missed += [row.number] if outcome.missed() else []
            late += [row.number] if outcome.late() else []
    print(f"goals of memory or counts are missed by: {', '.join(missed) or 'none'}")
    print(f"others are late in: {', '.join(late) or 'none'}")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
