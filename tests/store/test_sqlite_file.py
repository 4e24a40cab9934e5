"""The SQLite file: who may open it, what is refused, and that nothing is lost when it is closed."""

import asyncio
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import structlog.testing

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.agents import Agent, AgentKind
from server.domain.deliveries import Delivery, DeliveryState
from server.domain.errors import DeliveryNotFoundError, SessionExpiredError, UnavailableError
from server.domain.log import TimeoutChange
from server.domain.messages import AgentMessage
from server.domain.sessions import Session, fall_due
from server.domain.timeouts import PartialTimeoutConfig
from server.store import maintenance, open_store
from server.store.sqlite import file as sqlite_file
from server.store.sqlite.copy import CopyError, copy_store, restore_store
from server.store.sqlite.file import FileLock
from server.store.sqlite.store import SqliteStore
from server.store.values import Description, StoreOpenError
from tests.store.conformance.common import contents, delivery, history, respond, say
from tests.unit.samples import AGENT, MINUTE, T0, USER, put, session

HANGS_SECONDS = 15

HOLDER = """
import asyncio, sys
from pathlib import Path
from server.clock import TestClock
from server.store.sqlite.store import SqliteStore

async def main():
    store = await SqliteStore.open(Path(sys.argv[1]), TestClock())
    print("open", flush=True)
    sys.stdin.readline()
    await store.close()

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "store.db"


async def opened(path: Path, now_ms: int = T0) -> SqliteStore:
    clock = TestClock()
    clock.set_ms(now_ms)
    return await SqliteStore.open(path, clock)


async def populated(path: Path, sessions: int = 40) -> list[Session]:
    """Makes a store with some pages of everything, and closes it."""
    store = await opened(path)
    many = [session(T0 + n, metadata='{"a":"' + "m" * 500 + '"}') for n in range(sessions)]
    await asyncio.gather(*map(partial(put, store), many))
    await asyncio.gather(
        *(store.apply(one.id, say(f"{n}" + "x" * 200), scope=EVERYTHING) for one in many for n in range(20))
    )
    await store.create_agent(Agent(AGENT, "a", AgentKind.ECHO, T0, T0))
    await store.close()
    return many


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
            return store._writer._connection.execute(f"PRAGMA {name}").fetchone()[0]

        assert (pragma("journal_mode"), pragma("synchronous"), pragma("foreign_keys")) == ("wal", 2, 0)
        for reader in (store._read_connection, store._long_reader.connection):
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

    async def test_by_its_url(self, tmp_path: Path) -> None:
        store = await open_store(f"sqlite:///{tmp_path}/x.db", TestClock())
        await store.close()
        assert (tmp_path / "x.db").exists()
        assert maintenance("sqlite:///relative.db").place == "relative.db"
        for url in (
            "postgresql://host/db",
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

    async def test_what_was_written_when_the_process_was_killed(self, path: Path, tmp_path: Path) -> None:
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


BEFORE_DELIVERIES = f"""
INSERT INTO agents VALUES ('{AGENT}', 'old', 'echo', {T0}, {T0}, 45.0, 0, NULL, NULL);
INSERT INTO sessions VALUES ('{USER}', '{AGENT}', '{AGENT}', '{USER}', '{{"a":1}}', 30.0, 1, 720.0, 5.0, {T0}, {T0 + 4}, {T0 + 4},
    {T0 + 4 + 30 * MINUTE}, 2, 0, 0, 4, {T0 + 4}, {T0 + 4 + 25 * MINUTE});
INSERT INTO log VALUES ('{USER}', 1, {T0 + 1}, 'message', {T0}, 1, 1, 0, 'm1', 0, 'hi', '{{}}', NULL, NULL, NULL, NULL);
INSERT INTO log VALUES ('{USER}', 2, {T0 + 2}, 'message', {T0}, 1, 0, 0, 'm2', 1, 'ho', '{{}}', '[1]', '"hm"', '["X"]', NULL);
INSERT INTO log VALUES ('{USER}', 3, {T0 + 3}, 'timeout_change', {T0}, 1, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    '{{"timeout_minutes":30.0,"auto_renew":true,"max_duration_minutes":720.0,"warning_threshold_minutes":5.0}}');
INSERT INTO log VALUES ('{USER}', 4, {T0 + 4}, 'message', {T0}, 2, 1, 0, 'm3', 0, 'unanswered', '{{}}', NULL, NULL, NULL, NULL);
"""
"""What a service wrote that knew migrations 0001 and 0002."""


class TestAnOlderVersion:
    async def test_a_database_from_before_deliveries_goes_on(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as older:
            migrations = sqlite_file._migrations()[:2]
            older.setattr(sqlite_file, "_migrations", lambda: migrations)
            older.setattr(sqlite_file, "rewrite", lambda path, connection: None)
            sqlite_file.prepare(path).release()
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA user_version").fetchone()[0] == 2
        connection.executescript(BEFORE_DELIVERIES)
        connection.close()
        store = await opened(path)
        assert await store.list_agents(limit=5, scope=EVERYTHING) == [
            Agent(AGENT, "old", AgentKind.ECHO, T0, T0, PartialTimeoutConfig(45.0, False))
        ]
        one = await store.get_session(USER, scope=EVERYTHING)
        assert (one.metadata, one.last_sequence, one.renewal_count) == ('{"a":1}', 4, 2)
        log = await store.list_entries(USER, after_sequence=0, limit=9, scope=EVERYTHING)
        assert log[1].message == AgentMessage("m2", "ho", "{}", "[1]", "hm", ("X",))
        assert log[2].event == TimeoutChange(one.timeout)
        assert len(log) == 4
        # Nobody waits for replies to what was sent before.
        assert await store.count_open() == {}
        for sequence in (1, 4):
            assert await delivery(store, one, sequence) == Delivery(
                USER, sequence, DeliveryState.ANSWERED, 0, None
            )
        with pytest.raises(DeliveryNotFoundError):
            await delivery(store, one, 2)
        await store.apply(USER, say("new"), scope=EVERYTHING)
        assert [left.delivery.sequence for left in await store.lease_due(AGENT, T0, 9)] == [5]
        assert contents(await store.list_history(one, before_sequence=5, limit=9)) == [
            "hi",
            "ho",
            "unanswered",
        ]
        answered = await store.apply_delivery(USER, 5, respond("yes"), scope=EVERYTHING)
        assert contents(await store.list_history(one, before_sequence=7, limit=9)) == [
            "hi",
            "ho",
            "unanswered",
            "new",
            "yes",
        ]
        await store.close()
        store = await opened(path, answered.session.expires_at_ms)
        assert await store.get_session(USER, scope=EVERYTHING) == answered.session
        assert (await store.list_entries(USER, after_sequence=5, limit=9, scope=EVERYTHING)) == [
            answered.entry
        ]
        await store.apply(USER, fall_due, scope=EVERYTHING)
        assert await store.purge(answered.session.expires_at_ms, 100) == 11
        await store.close()


class TestASecondProcess:
    @pytest.fixture
    def holder(self, path: Path) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout.readline() == b"open\n"
        yield process
        process.kill()
        process.communicate()

    async def test_it_is_refused_and_told_which_process_has_the_file(
        self, path: Path, holder: subprocess.Popen
    ) -> None:
        with pytest.raises(StoreOpenError) as caught:
            await opened(path)
        assert re.search(rf"\b{holder.pid}\b", str(caught.value))
        assert str(path) in str(caught.value)

    async def test_it_may_when_the_first_has_ended(self, path: Path, holder: subprocess.Popen) -> None:
        holder.communicate(b"\n")
        assert holder.returncode == 0
        await (await opened(path)).close()

    async def test_it_may_when_the_first_was_killed(self, path: Path, holder: subprocess.Popen) -> None:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        await (await opened(path)).close()

    async def test_a_second_store_of_this_process_is_refused_too(self, path: Path) -> None:
        store = await opened(path)
        with pytest.raises(StoreOpenError, match=rf"\b{os.getpid()}\b"):
            await opened(path)
        await put(store, session())
        await store.close()
        await (await opened(path)).close()


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
    async def test_a_database_of_another_program(self, path: Path, make: Callable[[Path], None]) -> None:
        make(path)
        assert "another program" in await refused(path)

    @pytest.mark.parametrize(
        "junk", [b"xy", b"hello, world\n" * 1000, bytes(range(256)) * 64, b"SQLite format 2\0" + b"\0" * 5000]
    )
    async def test_a_file_that_is_no_database(self, path: Path, junk: bytes) -> None:
        write(path, junk)
        assert "no SQLite database" in await refused(path)

    async def test_a_database_with_a_damaged_page(self, path: Path) -> None:
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

    async def test_a_database_that_was_cut(self, path: Path) -> None:
        await populated(path)
        whole = read(path)
        write(path, whole[: len(whole) // 2])
        assert "damaged" in await refused(path)

    async def test_a_database_of_a_newer_version(self, path: Path) -> None:
        await populated(path)
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA user_version = {sqlite_file.schema_version() + 1}")
        connection.close()
        why = await refused(path)
        assert "newer version" in why
        assert str(sqlite_file.schema_version() + 1) in why

    async def test_a_path_that_is_a_directory(self, path: Path) -> None:
        make_directory(path)
        assert "cannot be opened" in await refused(path)

    async def test_a_path_below_a_file(self, path: Path) -> None:
        path.parent.write_text("a file")
        with pytest.raises(StoreOpenError, match="cannot be opened"):
            await opened(path)
        assert path.parent.read_text() == "a file"

    async def test_a_migration_that_fails_leaves_what_was_there(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        many = await populated(path, 3)
        good = sqlite_file._migrations()
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
        good = sqlite_file._migrations()
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


class TestOneOwner:
    """Never two processes on one file, whatever names it has.

    Locks of one process exclude each other as those of two do.
    """

    @pytest.fixture(autouse=True)
    def _directories(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700)

    async def test_not_by_a_symbolic_link_either(self, path: Path, tmp_path: Path) -> None:
        store = await opened(path)
        for link, target in ((tmp_path / "link.db", path), (tmp_path / "again.db", tmp_path / "link.db")):
            link.symlink_to(target)
            with pytest.raises(StoreOpenError, match="in use"):
                await opened(link)
            with pytest.raises(CopyError, match="in use"):
                restore_store(path, link, lambda done, total: None)
        await store.close()
        store = await opened(tmp_path / "again.db")
        with pytest.raises(StoreOpenError, match="in use"):
            await opened(path)
        await store.close()
        assert set(os.listdir(tmp_path)) == {"data", "link.db", "again.db"}

    async def test_what_is_opened_by_a_link_that_leads_elsewhere_later_is_the_same(
        self, path: Path, tmp_path: Path
    ) -> None:
        link = tmp_path / "link.db"
        link.symlink_to(path)
        store = await opened(link)
        link.unlink()
        link.symlink_to(tmp_path / "other.db")
        one = session()
        await put(store, one)
        assert (await store.describe()).place == str(path)
        await store.close()
        store = await opened(path)
        assert await store.get_session(one.id, scope=EVERYTHING) == one
        await store.close()

    @pytest.mark.parametrize("is_taken_again", [False, True])
    async def test_whoever_has_lost_the_lock_writes_no_more(self, path: Path, is_taken_again: bool) -> None:
        store, lock = await opened(path), path.with_name("store.db.lock")
        one = session()
        await put(store, one)
        lock.rename(lock.with_name("aside"))
        second = await opened(path) if is_taken_again else None
        for call in (
            lambda: store.apply(one.id, say("lost"), scope=EVERYTHING),
            store.check_writable,
            store.clear_sessions,
        ):
            with pytest.raises(UnavailableError):
                await call()
        assert await store.get_session(one.id, scope=EVERYTHING) == one
        if second:
            await second.apply(one.id, say("kept"), scope=EVERYTHING)
            assert contents(await history(store, one)) == ["kept"]
            await second.close()
        lock.with_name("aside").rename(lock)
        await store.apply(one.id, say("again"), scope=EVERYTHING)
        await store.close()

    async def test_a_second_one_waits_for_the_last_write_of_the_first(self, path: Path) -> None:
        store = await opened(path)
        one, begun, goes_on = session(), threading.Event(), threading.Event()
        await put(store, one)

        def look(is_held: Callable[[FileLock], bool] = FileLock.is_held) -> bool:
            held = is_held(store._lock)
            begun.set()
            goes_on.wait()
            return held

        with mock.patch.object(store._lock, "is_held", look):
            writing = asyncio.create_task(store.apply(one.id, say("last"), scope=EVERYTHING))
            await asyncio.to_thread(begun.wait)
        path.with_name("store.db.lock").unlink()
        opening = asyncio.create_task(opened(path))
        # It has its lock, so it comes to the point where it waits.
        async with asyncio.timeout(HANGS_SECONDS):
            while not path.with_name("store.db.lock").exists():  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.001)
        goes_on.set()
        second = await opening
        assert (await second.get_session(one.id, scope=EVERYTHING)).last_sequence == 1
        await writing
        await second.close()
        with pytest.raises(UnavailableError):
            await store.apply(one.id, say("late"), scope=EVERYTHING)
        await store.close()

    async def test_a_file_with_two_names_is_refused(self, path: Path, tmp_path: Path) -> None:
        store = await opened(path)
        os.link(path, tmp_path / "other.db")
        with pytest.raises(StoreOpenError, match="2 names"):
            await opened(tmp_path / "other.db")
        await put(store, session())
        await store.close()
        (tmp_path / "other.db").unlink()
        await (await opened(path)).close()


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
