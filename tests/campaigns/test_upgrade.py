"""Servers of two versions on one PostgreSQL, replaced one by one under load: no call fails."""

import os
import random
import subprocess
from pathlib import Path

import pytest

from tests.campaigns.upgrade import campaign
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


def play(directory: Path, old: Version, new: Version) -> list[str]:
    """Plays the short form; returns what was wrong."""
    seed = int(os.environ.get("UPGRADE_SEED") or random.SystemRandom().randrange(10**9))
    print(f"UPGRADE_SEED={seed}")
    upgrade = campaign(directory / "play", seed, database_of(directory), old, new, sessions=SESSIONS)
    print(upgrade.line())
    assert upgrade.replaced == 3 or upgrade.problems
    return upgrade.problems


def test_from_the_first_version_to_this_one_no_call_fails(tmp_path: Path) -> None:
    try:
        old = first(tmp_path / "first")
    except NoHistoryError as error:
        pytest.skip(str(error))
    assert play(tmp_path, old, present()) == []


def test_over_a_migration_in_two_parts_no_call_fails(tmp_path: Path) -> None:
    assert play(tmp_path, present(), later(tmp_path / "later")) == []


# It hung once beside other tests: then its clients wait for replies that nobody gives.
@pytest.mark.slow
def test_a_migration_that_takes_away_what_older_servers_need_is_found(tmp_path: Path) -> None:
    problems = play(tmp_path, present(), later(tmp_path / "later", takes_away_too_early=True))
    assert any(problem.startswith("failed: ") for problem in problems)


def test_without_a_history_the_first_version_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(NoHistoryError, match="no git history"):
        first_commit(tmp_path)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    with pytest.raises(NoHistoryError, match="rev-parse"):
        first_commit(tmp_path)
