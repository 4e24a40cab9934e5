"""Links, pipes and modes: no other file is emptied, and nobody else may read."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog.testing

from server.store.sqlite.copy import copy_store
from server.store.values import StoreOpenError
from tests.store.sqlite_file.opened import opened, populated


class TestLinksAndModes:
    """What somebody else may have put where our files go."""

    @pytest.fixture(autouse=True)
    def _directories(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700)

    @pytest.mark.parametrize("put", [os.symlink, os.link])
    async def test_a_lock_that_is_a_link_empties_no_other_file(
        self, path: Path, put: Callable[[Path, Path], None]
    ) -> None:
        victim = path.with_name("victim")
        victim.write_text("precious")
        put(victim, path.with_name("store.db.lock"))
        with pytest.raises(StoreOpenError, match=r"store\.db"):
            await opened(path)
        assert victim.read_text() == "precious"

    async def test_a_lock_that_is_there_becomes_its_owners_alone(self, path: Path) -> None:
        lock = path.with_name("store.db.lock")
        lock.touch()
        lock.chmod(0o666)
        await (await opened(path)).close()
        assert stat.S_IMODE(lock.stat().st_mode) == 0o600

    @pytest.mark.parametrize("name", ["store.db", "store.db.lock"])
    async def test_a_pipe_holds_nobody_up(self, path: Path, name: str) -> None:
        os.mkfifo(path.with_name(name))
        with pytest.raises(StoreOpenError, match="regular file"):
            await opened(path)

    async def test_a_copy_goes_through_no_link_and_takes_over_no_file(self, path: Path) -> None:
        await populated(path, 1)
        victim, copy = path.with_name("victim"), path.with_name("copy.db")
        victim.write_text("precious")
        path.with_name("copy.db.partial").symlink_to(victim)
        copy_store(path, copy, lambda done, total: None)
        assert victim.read_text() == "precious"
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        assert {file.name for file in path.parent.iterdir()} == {
            "store.db",
            "store.db.lock",
            "victim",
            "copy.db",
            "copy.db.partial",
        }

    @pytest.mark.parametrize(
        ("file_mode", "directory_mode", "told"),
        [
            (0o600, 0o755, []),
            (0o644, 0o700, ["file"]),
            (0o660, 0o700, ["file"]),
            (0o600, 0o1777, ["directory"]),
            (0o666, 0o777, ["file", "directory"]),
        ],
    )
    async def test_what_others_may_touch_is_told_at_the_start(
        self, path: Path, file_mode: int, directory_mode: int, told: list[str]
    ) -> None:
        await (await opened(path)).close()
        os.chmod(path, file_mode)
        os.chmod(path.parent, directory_mode)
        with structlog.testing.capture_logs() as logs:
            await (await opened(path)).close()
        assert [
            (one["log_level"], next(key for key in one if key in ("file", "directory"))) for one in logs
        ] == [("warning", what) for what in told]
        assert stat.S_IMODE(os.stat(path).st_mode) == file_mode
