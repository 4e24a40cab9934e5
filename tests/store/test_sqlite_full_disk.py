"""A disk that takes no more: typed errors, nothing half-written, and all is well again when there is room."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.store.sqlite.store import SqliteStore
from tests.store.conformance.common import contents, history
from tests.store.small_disk import CALLERS


@pytest.mark.parametrize("room", [-1, 0, 1, 4096 * 3 + 100, 300_000])
def test_files_that_cannot_grow_lose_nothing_acknowledged(tmp_path: Path, room: int) -> None:
    path = tmp_path / "store.db"
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-m", "tests.store.small_disk", path, str(room)],
        cwd=root,
        capture_output=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr.decode()
    assert b"Traceback" not in run.stderr
    seen = json.loads(run.stdout.splitlines()[-1])
    assert seen["before"] == CALLERS
    assert seen["reasons"]
    assert set(seen["reasons"]) <= {"UNAVAILABLE", "RESOURCE_EXHAUSTED"}
    # A little room may be enough for the small write of the health check.
    assert seen["unhealthy"] in (seen["reasons"] if room <= 1 else [*seen["reasons"], None])
    assert seen["readable"]
    assert seen["refusedAfterwards"] == 0
    assert seen["gapless"]
    assert asyncio.run(stored(path, seen["acknowledged"])) == seen["acknowledged"]


async def stored(path: Path, session_ids: Iterable[str]) -> dict[str, list[str | None]]:
    store = await SqliteStore.open(path, TestClock())
    found = {
        session_id: contents(await history(store, await store.get_session(session_id, scope=EVERYTHING)))
        for session_id in session_ids
    }
    await store.close()
    return found
