"""`python -m tests.campaigns.failover`: what the store of PostgreSQL promises, while its database fails in
every way that we know of.

Each campaign prints its seed, what was acknowledged, what of it was lost or doubled, gaps, and how long it
took to the first new acknowledgement. Its exit status is 1 when it broke a promise.
"""

import argparse
import asyncio
import logging
import random
import sys
import time
from collections.abc import Callable

import structlog

from tests.campaigns.failover.cuts import cut_in_every_phase
from tests.campaigns.failover.failovers import fail_over_at_random
from tests.campaigns.failover.patroni import kill_primaries
from tests.campaigns.failover.queue import QueueReport, hold_vacuum_up
from tests.campaigns.failover.service_load import Report
from tests.campaigns.failover.standby import send_standby_away
from tests.campaigns.failover.store_load import hold_for, new_server, restart_at_random
from tests.campaigns.failover.tally import Tally


def cuts(asked: argparse.Namespace) -> Tally:
    """Connections are cut in every phase of a group."""
    with new_server() as (_, target):
        return asyncio.run(cut_in_every_phase(target, asked.count, asked.seed))


def restarts(asked: argparse.Namespace) -> Tally:
    """The database ends at once, and starts again."""
    with new_server() as (server, target):
        return asyncio.run(restart_at_random(server, target, asked.count, asked.seed))


def held(asked: argparse.Namespace) -> Tally:
    """No packet arrives for a while."""
    with new_server() as (_, target):
        return asyncio.run(hold_for(target, asked.seconds, asked.seed))


def failovers(asked: argparse.Namespace) -> Report:
    """The primary is killed, and its synchronous standby promoted."""
    return asyncio.run(
        fail_over_at_random(asked.failovers, asked.seed, is_synchronous=not asked.asynchronous)
    )


def patroni(asked: argparse.Namespace) -> Report:
    """Patroni and etcd decide who is the primary; its node is killed."""
    return asyncio.run(kill_primaries(asked.kills, asked.seed))


def standby(asked: argparse.Namespace) -> Tally:
    """The standby goes; commits that wait for it are cancelled; it comes back, or is promoted."""
    return asyncio.run(send_standby_away(asked.count, asked.seed, is_synchronous=not asked.asynchronous))


def queue(asked: argparse.Namespace) -> QueueReport:
    """Deliveries are claimed while dead rows cannot be removed."""
    with new_server() as (server, target):
        return asyncio.run(hold_vacuum_up(server, target, asked.minutes))


CAMPAIGNS: dict[
    Callable[[argparse.Namespace], Tally | Report | QueueReport], dict[str, tuple[type, float, str]]
] = {
    cuts: {"count": (int, 1000, "how many connections")},
    restarts: {"count": (int, 20, "how often")},
    held: {"seconds": (float, 30.0, "for how long")},
    failovers: {"failovers": (int, 10, "how often")},
    patroni: {"kills": (int, 2, "how often")},
    standby: {"count": (int, 10, "how often")},
    queue: {"minutes": (float, 10.0, "for how long")},
}
"""Each with its numbers: their kind, what they are unless given, and what they mean."""


def main() -> None:
    """Runs a campaign and prints what it came to."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns.failover",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)
    for campaign, numbers in CAMPAIGNS.items():
        command = commands.add_parser(campaign.__name__, help=campaign.__doc__)
        command.set_defaults(campaign=campaign)
        command.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
        for name, (kind, usual, meaning) in numbers.items():
            command.add_argument(f"--{name}", type=kind, default=usual, help=f"{meaning} (default {usual:g})")
        if campaign in (failovers, standby):
            command.add_argument(
                "--asynchronous", action="store_true", help="do not wait for the standby: something is lost"
            )
    asked = parser.parse_args()
    # What the lanes say of each trouble is no news here.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    print(f"seed {asked.seed}", flush=True)
    begun_s = time.monotonic()
    came_to = asked.campaign(asked)
    print(came_to)
    print(f"{time.monotonic() - begun_s:.1f} s in all")
    sys.exit(not came_to.is_sound)


if __name__ == "__main__":
    main()
