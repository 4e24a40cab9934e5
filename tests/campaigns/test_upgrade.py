"""Servers of two versions on one PostgreSQL, replaced one by one under load: no call fails."""

import os
import random
import subprocess
from pathlib import Path

import pytest

from tests.campaigns.upgrade import PATIENCE, Patience, Upgrade, campaign
from tests.campaigns.upgrade_versions import (
    NoHistoryError,
    Version,
    first,
    first_commit,
    later,
    present,
)
from tests.support.postgres import database_of

pytestmark = pytest.mark.postgres

SESSIONS = 2
FEW_SECONDS = 10.0
"""More than a call takes while nothing is replaced, also on a busy machine."""


def play(directory: Path, old: Version, new: Version, patience: Patience = PATIENCE) -> Upgrade:
    """Plays the short form in the directory's `play`."""
    seed = int(os.environ.get("UPGRADE_SEED") or random.SystemRandom().randrange(10**9))
    print(f"UPGRADE_SEED={seed}")
    upgrade = campaign(
        directory / "play",
        seed,
        database_of(directory),
        (old, new),
        sessions=SESSIONS,
        patience=patience,
    )
    print(upgrade.line())
    return upgrade


def assert_good(upgrade: Upgrade) -> None:
    assert upgrade.problems == []
    assert upgrade.replaced == 3


def test_from_the_first_version_to_this_one_no_call_fails(tmp_path: Path) -> None:
    try:
        old = first(tmp_path / "first")
    except NoHistoryError as error:
        pytest.skip(str(error))
    assert_good(play(tmp_path, old, present()))


def test_over_a_migration_in_two_parts_no_call_fails(tmp_path: Path) -> None:
    assert_good(play(tmp_path, present(), later(tmp_path / "later")))


def test_a_migration_that_takes_away_what_older_servers_need_is_found(tmp_path: Path) -> None:
    planted = later(tmp_path / "later", takes_away_too_early=True)
    # Its clients repeat in vain what older servers answer with UNAVAILABLE, to the end of their patience.
    upgrade = play(tmp_path, present(), planted, Patience(call=FEW_SECONDS, reply=FEW_SECONDS))
    assert upgrade.replaced == 1
    assert any(problem.startswith("failed: ") for problem in upgrade.problems)
    # They failed for what was planted, not because the machine is busy.
    assert 'relation "commits" does not exist' in (tmp_path / "play" / "server1" / "serve.log").read_text()


def test_without_a_history_the_first_version_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(NoHistoryError, match="no git history"):
        first_commit(tmp_path)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    with pytest.raises(NoHistoryError, match="rev-parse"):
        first_commit(tmp_path)
