"""The short forms of the campaign of kills (see `kills`)."""

import os
import random
from pathlib import Path

import pytest
import uvloop

from tests.campaigns.kills import campaign


def check(directory: Path, kills: int, terms: int, senders: int) -> None:
    seed = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(10**9))
    print(f"KILL_SEED={seed}")
    report = uvloop.run(campaign(directory, seed, kills, terms, senders=senders))
    print(report)
    assert not report.findings


def test_a_kill_and_an_end_lose_double_and_drop_nothing(tmp_path: Path) -> None:
    check(tmp_path, kills=1, terms=1, senders=3)


@pytest.mark.slow
def test_two_hundred_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    check(tmp_path, kills=200, terms=20, senders=6)
