"""Files and directories that are no store of ours are refused and left as they are."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from server.domain.access import EVERYTHING
from server.store.sqlite import file as sqlite_file
from server.store.values import StoreOpenError
from tests.store.sqlite_file.opened import opened, populated
from tests.support.inside_sqlite import all_migrations


def what_is_on_the_disk(path: Path) -> dict[str, bytes]:
    """The database and its write-ahead log, where that has anything in it."""
    files = {name: path.with_name(name) for name in (path.name, path.name + "-wal", path.name + "-journal")}
    return {
        name: content for name, file in files.items() if file.is_file() and (content := file.read_bytes())
    }


async def refused(path: Path) -> str:
    """Why the store cannot be opened; what is on the disk is as it was."""
    before = what_is_on_the_disk(path)
    with pytest.raises(StoreOpenError) as caught:
        await opened(path)
    assert what_is_on_the_disk(path) == before
    assert str(path) in str(caught.value)
    return str(caught.value)


def make_directory(path: Path) -> None:
    path.mkdir(parents=True)


def read(path: Path) -> bytes:
    return path.read_bytes()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def foreign(path: Path) -> None:
    make_directory(path.parent)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.execute("INSERT INTO bookmarks VALUES ('x')")
    connection.commit()
    connection.close()


def foreign_with_a_wal(path: Path) -> None:
    """What a program leaves that was killed: its last commits are in the write-ahead log only."""
    make_directory(path.parent)
    made = path.with_name("made.db")
    connection = sqlite3.connect(made, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    for suffix in ("", "-wal"):
        shutil.copy(f"{made}{suffix}", f"{path}{suffix}")
    connection.close()
    made.unlink()


class TestWhatIsRefused:
    """Each with a text that says why, and the file is as it was."""

    @pytest.mark.parametrize("make", [foreign, foreign_with_a_wal], ids=lambda make: make.__name__)
    async def test_a_database_of_another_program_is_refused(
        self, path: Path, make: Callable[[Path], None]
    ) -> None:
        make(path)
        assert "another program" in await refused(path)

    @pytest.mark.parametrize(
        "junk", [b"xy", b"hello, world\n" * 1000, bytes(range(256)) * 64, b"SQLite format 2\0" + b"\0" * 5000]
    )
    async def test_a_file_that_is_no_database_is_refused(self, path: Path, junk: bytes) -> None:
        write(path, junk)
        assert "no SQLite database" in await refused(path)

    async def test_a_database_with_a_damaged_page_is_refused(self, path: Path) -> None:
        await populated(path)
        whole = read(path)
        size = 4096
        for start in range(0, len(whole), 7 * size):
            page = bytes(byte ^ 0xFF for byte in whole[start : start + size])
            write(path, whole[:start] + page + whole[start + size :])
            why = await refused(path)
            assert "damaged" in why, f"page {start // size + 1}: {why}"
        write(path, whole)
        await (await opened(path)).close()

    async def test_a_database_that_was_cut_is_refused(self, path: Path) -> None:
        await populated(path)
        whole = read(path)
        write(path, whole[: len(whole) // 2])
        assert "damaged" in await refused(path)

    async def test_a_database_of_a_newer_version_is_refused(self, path: Path) -> None:
        await populated(path)
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA user_version = {sqlite_file.schema_version() + 1}")
        connection.close()
        why = await refused(path)
        assert "newer version" in why
        assert str(sqlite_file.schema_version() + 1) in why

    async def test_a_path_that_is_a_directory_is_refused(self, path: Path) -> None:
        make_directory(path)
        assert "cannot be opened" in await refused(path)

    async def test_a_path_below_a_file_is_refused(self, path: Path) -> None:
        path.parent.write_text("a file")
        with pytest.raises(StoreOpenError, match="cannot be opened"):
            await opened(path)
        assert path.parent.read_text() == "a file"

    async def test_a_migration_that_fails_leaves_what_was_there(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        many = await populated(path, 3)
        good = all_migrations()
        broken = (
            "CREATE TABLE extra (a TEXT) STRICT; UPDATE sessions SET metadata = 'lost'; INSERT INTO "
            "nowhere VALUES (1);"
        )
        monkeypatch.setattr(sqlite_file, "_migrations", lambda: [*good, broken])
        assert "nowhere" in await refused(path)
        monkeypatch.setattr(sqlite_file, "_migrations", lambda: good)
        store = await opened(path)
        assert (await store.get_session(many[0].id, scope=EVERYTHING)).metadata == many[0].metadata
        await store.close()

    async def test_a_migration_is_made_once(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        many = await populated(path, 3)
        good = all_migrations()
        monkeypatch.setattr(
            sqlite_file, "_migrations", lambda: [*good, "CREATE TABLE extra (a TEXT) STRICT;"]
        )
        for _ in range(2):
            store = await opened(path)
            assert (await store.get_session(many[0].id, scope=EVERYTHING)).metadata == many[0].metadata
            await store.close()
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA user_version").fetchone()[0] == len(good) + 1
        connection.close()

    async def test_a_refusal_lets_go_of_the_lock(self, path: Path) -> None:
        write(path, b"junk")
        await refused(path)
        write(path, b"")
        await (await opened(path)).close()
