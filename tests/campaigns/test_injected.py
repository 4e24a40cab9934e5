"""Faults of the disk cost those whom they concern, and nobody anything afterwards: the short form of
`tests.campaigns.injected`.
"""

import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import pytest

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.errors import UnavailableError
from server.lifecycle.health import HealthMonitor
from server.store.sqlite import reading as sqlite
from server.store.sqlite import writer as sqlite_writer
from server.store.sqlite.store import SqliteStore
from server.store.values import StoreOpenError
from tests.campaigns.injected import Campaign
from tests.campaigns.test_power import run
from tests.campaigns.vfs import Disk, mounted


def test_injected_faults_lose_nothing_that_was_acknowledged() -> None:
    campaign = run("tests.campaigns.injected", "--seed", "1", "--size", "0.005")
    assert campaign.returncode == 0, campaign.stdout + campaign.stderr


async def test_a_writer_that_goes_on_after_an_io_error_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(error: sqlite3.Error) -> bool:
        return False

    monkeypatch.setattr(sqlite_writer, "leaves_doubt", nothing)
    campaign = Campaign(1, 0.1)
    await campaign.run("disk_faults", "I/O error on sync")
    assert any("without opening and checking the file anew" in line for line in campaign.figures.violations)


async def test_a_store_that_cannot_connect_says_so_and_lets_go_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(path: Path, **options: Any) -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    with monkeypatch.context() as patched:
        patched.setattr(sqlite, "connect", connect)
        with pytest.raises(StoreOpenError, match="unable to open"):
            await SqliteStore.open(tmp_path / "store.db", TestClock())
    await (await SqliteStore.open(tmp_path / "store.db", TestClock())).close()


async def test_health_sees_that_the_store_cannot_be_read(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.pragmas = ("cache_size = 1",)

    def fail(what: str, name: str) -> None:
        if what == "read":
            raise apsw.exception_for(apsw.SQLITE_IOERR_READ)

    def fine(what: str, name: str) -> None:
        pass

    with mounted(disk):
        store = await SqliteStore.open(tmp_path / "store.db", TestClock())
        monitor = HealthMonitor(store, lambda _: None)
        seen = []
        for disk.before in (fine, fail, fail, fine):
            with suppress(UnavailableError):
                await store.counts(scope=EVERYTHING)
            await monitor.check()
            seen.append(monitor.is_serving)
        await store.close()
    disk.close()
    assert seen == [True, False, False, True]


@pytest.mark.slow
def test_injected_faults_at_every_point_lose_nothing_that_was_acknowledged() -> None:
    campaign = run("tests.campaigns.injected", "--seed", "1")
    assert campaign.returncode == 0, campaign.stdout + campaign.stderr
