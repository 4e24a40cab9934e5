"""`python -m tests.campaigns.replicas`: three servers and two facades on one PostgreSQL store, under mixed
load, killed by SIGKILL at random moments; now and then one is ended by SIGTERM, or stands still for some
seconds, and now and then a facade is killed.

Clients call any of them, and another one where theirs does not answer. Workers and a webhook answer. In the
end what was acknowledged is compared with the store, and with what the watchers of all servers saw.

`--clocks-apart 5`: instead, servers whose clocks are five minutes behind and ahead. `--hot 200`: instead, 64
senders at two servers, which send so many messages each into one session, and then into ten.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop

from tests.campaigns.replicas import clocks, hot
from tests.campaigns.replicas.campaign import Plan, campaign


def main() -> int:
    """Runs the campaign and prints what it came to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--kills", type=int, default=100, help="how many kills of a server (default 100)")
    parser.add_argument("--ends", type=int, help="how many ends by SIGTERM (default a tenth of the kills)")
    parser.add_argument("--freezes", type=int, help="how often one stands still (default an eighth)")
    parser.add_argument("--facade-kills", type=int, help="how many kills of a facade (default a tenth)")
    parser.add_argument("--senders", type=int, default=6, help="how many callers of each kind (default 6)")
    parser.add_argument("--clocks-apart", type=float, metavar="MINUTES", help="clocks that are wrong")
    parser.add_argument("--hot", type=int, metavar="EACH", help="hot sessions")
    told = parser.parse_args()
    print(f"seed {told.seed}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        report = uvloop.run(play(Path(name), told))
    print(report)
    return 1 if report.findings else 0


def play(directory: Path, told: argparse.Namespace) -> Coroutine[Any, Any, Any]:
    """The campaign that the arguments name."""
    if told.clocks_apart is not None:
        return clocks.campaign(directory, told.seed, told.clocks_apart, sessions=40)
    if told.hot is not None:
        return hot.campaign(directory, told.seed, each=told.hot)
    plan = Plan(
        told.kills,
        ends=-(-told.kills // 10) if told.ends is None else told.ends,
        freezes=-(-told.kills // 8) if told.freezes is None else told.freezes,
        facade_kills=-(-told.kills // 10) if told.facade_kills is None else told.facade_kills,
        senders=told.senders,
    )
    return campaign(directory, told.seed, plan, show=True)


if __name__ == "__main__":
    sys.exit(main())
