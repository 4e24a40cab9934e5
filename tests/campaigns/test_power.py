"""What was acknowledged survives power cuts: the short form of `tests.campaigns.power`, and
that it can fail.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.errors import SessionNotFoundError
from server.domain.idempotency import request_key
from server.domain.sessions import fall_due
from server.store.sqlite.file import prepare
from server.store.sqlite.store import SqliteStore
from tests.campaigns.power import put
from tests.campaigns.vfs import Disk, mounted
from tests.store.conformance.common import say
from tests.unit.samples import MINUTE, T0, session
from tests.unit.samples import put as put_session


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a campaign as its command does, because only then equal seeds mean equal runs."""
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)


def test_power_cuts_lose_nothing_that_was_acknowledged() -> None:
    campaign = run("tests.campaigns.power", "--seed", "1", "--cuts", "40")
    assert campaign.returncode == 0, campaign.stdout + campaign.stderr
    assert "\n40 cuts in " in campaign.stdout


@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
def test_a_store_that_does_not_sync_each_commit_is_found_out(synchronous: str) -> None:
    campaign = run(
        "tests.campaigns.power", "--seed", "3", "--cuts", "25", "--pragma", f"synchronous = {synchronous}"
    )
    assert campaign.returncode == 1, campaign.stdout + campaign.stderr
    assert " is lost" in campaign.stdout


async def test_a_first_start_that_a_power_cut_ended_is_made_good(tmp_path: Path) -> None:
    """The file has its size by then, and nothing in it; SQLite's journal has it empty again."""
    disk, left = Disk(tmp_path), {}

    def at_first_write(what: str, name: str) -> None:
        if not left and (what, name) == ("write", "store.db"):
            left.update(disk.after_kill())

    disk.after = at_first_write
    with mounted(disk):
        prepare(tmp_path / "store.db").release()
    disk.close()
    assert "store.db-journal" in left
    put({**left, "store.db": bytes(len(left["store.db"]))}, tmp_path / "left")
    store = await SqliteStore.open(tmp_path / "left" / "store.db", TestClock())
    await store.check_writable()
    await store.close()


@pytest.mark.parametrize("steps", [1, 2, 4])
async def test_a_retry_between_two_steps_of_the_purge_finds_no_session(tmp_path: Path, steps: int) -> None:
    """Its request, its delivery and its log may still be there."""
    clock = TestClock()
    clock.set_ms(T0)
    store = await SqliteStore.open(tmp_path / "store.db", clock)
    one = session()
    await put_session(store, one)
    asked = request_key(f"session:{one.id}", "again", "hello")
    await store.apply(one.id, say("hello"), asked, scope=EVERYTHING)
    clock.set_ms(T0 + 60 * MINUTE)
    await store.apply(one.id, fall_due, scope=EVERYTHING)
    # Its request, its delivery, its message and its expiry.
    assert await store.purge(clock.now_ms(), steps) == steps
    with pytest.raises(SessionNotFoundError):
        await store.apply(one.id, say("hello"), asked, scope=EVERYTHING)
    await store.close()


@pytest.mark.slow
def test_two_thousand_power_cuts_lose_nothing_that_was_acknowledged() -> None:
    campaign = run("tests.campaigns.power", "--seed", "1", "--cuts", "2000")
    assert campaign.returncode == 0, campaign.stdout + campaign.stderr
