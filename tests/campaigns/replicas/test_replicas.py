"""The short forms of the campaigns of several servers on one store (see `__main__`)."""

import os
import random
from pathlib import Path
from typing import Final

import pytest
import uvloop

from tests.campaigns.replicas import clocks, hot
from tests.campaigns.replicas.campaign import Plan, campaign

pytestmark = pytest.mark.postgres

SHORT: Final = Plan(
    kills=4,
    ends=1,
    freezes=1,
    facade_kills=1,
    freezes_s=(1, 2),
    gap_s=4,
    senders=3,
    # That it happens is judged here; how soon, on a machine that does nothing else.
    leases_back_s=60,
    longest_end_s=60,
)


def chosen_seed() -> int:
    seed = int(os.environ.get("REPLICAS_SEED") or random.SystemRandom().randrange(10**9))
    print(f"REPLICAS_SEED={seed}")
    return seed


def test_replicas_that_are_killed_lose_and_double_nothing(tmp_path: Path) -> None:
    report = uvloop.run(campaign(tmp_path, chosen_seed(), SHORT))
    print(report)
    assert not report.findings
    assert report.done["kills"] == SHORT.kills


def test_clocks_that_are_apart_make_nothing_early_or_late(tmp_path: Path) -> None:
    report = uvloop.run(clocks.campaign(tmp_path, chosen_seed(), 5, sessions=4))
    print(report)
    assert not report.findings


def test_hot_sessions_are_written_in_order(tmp_path: Path) -> None:
    report = uvloop.run(hot.campaign(tmp_path, chosen_seed(), each=4))
    print(report)
    assert not report.findings


@pytest.mark.slow
def test_a_hundred_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    report = uvloop.run(campaign(tmp_path, chosen_seed(), Plan(100, 10, 12, 10)))
    print(report)
    assert not report.findings
