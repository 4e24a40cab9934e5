"""A file that is made, opened again, or left by a process that was killed."""

import os
import re
import shutil
import sqlite3
import stat
from pathlib import Path

import pytest

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.errors import SessionExpiredError
from server.store import maintenance, open_store
from server.store.sqlite import file as sqlite_file
from server.store.values import Description, StoreOpenError
from tests.store.conformance.common import contents, history, say
from tests.store.sqlite_file.opened import opened, populated
from tests.support.inside_sqlite import read_connections, write_connection
from tests.unit.samples import AGENT, T0, put, session


class TestAFreshFile:
    async def test_only_its_owner_can_read_it(self, path: Path) -> None:
        old = os.umask(0)
        try:
            store = await opened(path)
        finally:
            os.umask(old)
        await put(store, session())
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert modes == dict.fromkeys(("store.db", "store.db-wal", "store.db-shm", "store.db.lock"), 0o600)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        await store.close()

    async def test_no_directories_above_its_own_are_made(self, tmp_path: Path) -> None:
        with pytest.raises(StoreOpenError, match=f"there is no directory {tmp_path / 'a'}"):
            await opened(tmp_path / "a" / "b" / "store.db")
        assert os.listdir(tmp_path) == []

    async def test_it_tells_where_it_is(self, path: Path) -> None:
        path.parent.mkdir()
        link = path.with_name("link.db")
        link.symlink_to(path)
        store = await opened(link)
        assert await store.describe() == Description(str(path), sqlite_file.schema_version(), 0)
        await store.close()

    async def test_a_directory_that_is_there_is_left_as_it_is(self, path: Path) -> None:
        path.parent.mkdir(mode=0o755)
        os.chmod(path.parent, 0o755)
        await (await opened(path)).close()
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755

    async def test_a_commit_has_reached_the_disk(self, path: Path) -> None:
        store = await opened(path)

        def pragma(name: str) -> object:
            return write_connection(store).execute(f"PRAGMA {name}").fetchone()[0]

        assert (pragma("journal_mode"), pragma("synchronous"), pragma("foreign_keys")) == ("wal", 2, 0)
        for reader in read_connections(store):
            with pytest.raises(sqlite3.OperationalError):
                reader.execute("DELETE FROM sessions")
        await store.close()

    async def test_it_is_marked_and_numbered(self, path: Path) -> None:
        await (await opened(path)).close()
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA application_id").fetchone()[0] == sqlite_file.APPLICATION_ID
            assert (
                connection.execute("PRAGMA user_version").fetchone()[0] == sqlite_file.schema_version() >= 1
            )
        connection.close()

    async def test_migrations_are_numbered_from_1_without_gaps(self) -> None:
        directory = Path(sqlite_file.__file__).parent / "migrations"
        files = sorted(file.name for file in directory.iterdir() if file.suffix == ".sql")
        assert [re.fullmatch(r"(\d{4})_\w+\.sql", name).group(1) for name in files] == [
            f"{n:04}" for n in range(1, len(files) + 1)
        ]
        assert sqlite_file.schema_version() == len(files)

    async def test_its_url_leads_to_it_and_no_other_kind_does(self, tmp_path: Path) -> None:
        store = await open_store(f"sqlite:///{tmp_path}/x.db", TestClock())
        await store.close()
        assert (tmp_path / "x.db").exists()
        assert maintenance("sqlite:///relative.db").place == "relative.db"
        for url in (
            "mysql://host/db",
            "sqlite:///",
            "sqlite://x.db",
            "",
            "store.db",
            "sqlite:///x.db?mode=ro",
            "sqlite:///file:x.db?mode=ro",
            "sqlite:////x.db#part",
            "sqlite:///:memory:",
        ):
            with pytest.raises(StoreOpenError, match="DATABASE_URL"):
                maintenance(url)


class TestReopening:
    async def test_everything_is_there_again(self, path: Path) -> None:
        many = await populated(path)
        store = await opened(path)
        assert (await store.list_sessions(T0, limit=100, scope=EVERYTHING)).total == len(many)
        for one in many[::7]:
            assert contents(await history(store, one)) == [f"{n}" + "x" * 200 for n in range(20)]
            stored = await store.get_session(one.id, scope=EVERYTHING)
            assert (stored.last_sequence, stored.renewal_count) == (20, 20)
            assert (await store.apply(one.id, say("on"), scope=EVERYTHING)).entry.sequence == 21
        assert [agent.id for agent in await store.list_agents(limit=5, scope=EVERYTHING)] == [AGENT]
        await store.close()

    async def test_a_closed_store_leaves_one_file_and_the_lock(self, path: Path) -> None:
        await populated(path)
        assert {file.name for file in path.parent.iterdir()} == {"store.db", "store.db.lock"}

    async def test_what_was_written_is_there_after_the_process_was_killed(
        self, path: Path, tmp_path: Path
    ) -> None:
        """A copy of the files of an open store is what a killed process leaves."""
        store = await opened(path)
        one = session()
        await put(store, one)
        for n in range(10):
            await store.apply(one.id, say(f"{n}"), scope=EVERYTHING)
        shutil.copytree(path.parent, tmp_path / "copy")
        await store.close()
        copy = await opened(tmp_path / "copy" / "store.db")
        assert contents(await history(copy, one)) == [f"{n}" for n in range(10)]
        with pytest.raises(SessionExpiredError):
            await copy.apply(one.id, lambda start, _: say()(start, start.expires_at_ms), scope=EVERYTHING)
        await copy.close()
