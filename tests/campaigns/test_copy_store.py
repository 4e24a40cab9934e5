"""A store that is copied to PostgreSQL and back over interruptions, and served there."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.campaigns.copy_store import campaign
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.postgres


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("sessions", "interruptions", "batch_rows"),
    [(300, 3, 100), pytest.param(100_000, 5, 5_000, marks=pytest.mark.slow)],
    ids=["short", "full"],
)
def test_an_interrupted_copy_is_equal_and_is_served(
    tmp_path: Path, server: PostgresServer, sessions: int, interruptions: int, batch_rows: int
) -> None:
    seed = int(os.environ.get("COPY_STORE_SEED") or random.SystemRandom().randrange(10**9))
    print(f"COPY_STORE_SEED={seed}")
    found = campaign(
        tmp_path, server, seed, sessions=sessions, interruptions=interruptions, batch_rows=batch_rows
    )
    for findings in found:
        print(findings.line())
        assert findings.problems == []
        assert findings.killed == (interruptions + 1) // 2
        assert findings.killed + findings.stopped == findings.refused == interruptions
        assert findings.rows > sessions
        assert findings.checked > 50
