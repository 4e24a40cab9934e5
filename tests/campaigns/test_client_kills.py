"""The Python client and its workers over kills of the service: nothing is lost, nothing is done twice."""

import os
import random
from pathlib import Path

import pytest

from tests.campaigns.client_kills import campaign


@pytest.mark.parametrize(
    ("kills", "sessions", "each"),
    [(2, 4, 12), pytest.param(50, 12, 200, marks=pytest.mark.slow)],
    ids=["short", "full"],
)
def test_the_client_loses_nothing_and_does_nothing_twice(
    tmp_path: Path, kills: int, sessions: int, each: int
) -> None:
    seed = int(os.environ.get("CLIENT_KILLS_SEED") or random.SystemRandom().randrange(10**9))
    print(f"CLIENT_KILLS_SEED={seed}")
    findings = campaign(tmp_path, seed, kills=kills, sessions=sessions, each=each)
    print(findings.line())
    assert findings.problems == []
    assert (findings.acknowledged, findings.in_doubt) == (sessions * each, 0)
    assert findings.stored == findings.replies == sessions * each
