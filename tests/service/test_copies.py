"""`eliza-sessions check`, `backup` and `restore`, as an operator meets them."""

import os
import pty
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.store.sqlite.copy import reading_current
from server.store.sqlite.file import schema_version
from server.store.sqlite.runs import read_runs
from tests.store.old_schemas import LIVE, make_old_store
from tests.support.clients import clean_failure, command, create, fails, history, invoke, replies, run, send
from tests.support.service import Serve, Start, environment
from tests.support.waiting import until

pytestmark = pytest.mark.sqlite


def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of a store with a conversation in it, which nobody serves any more."""
    directory = tmp_path_factory.mktemp("made")
    service = Serve(directory, "--no-rest")
    session_id = create(service).session_id
    send(service, session_id, "Hello")
    replies(service, session_id, 1)
    assert service.stop() == 0
    assert run("backup", "backup.db", cwd=directory, DATABASE_URL=url(directory / "store.db")).status == 0
    return directory / "backup.db"


@pytest.fixture
def backup(made: Path, tmp_path: Path) -> Path:
    """A copy of it for each test."""
    return Path(shutil.copy2(made, tmp_path))


def test_a_backup_while_messages_come_has_all_that_was_acknowledged_before_it(
    start: Start, tmp_path: Path
) -> None:
    service = start("--no-rest", directory=tmp_path / "served")
    session_id = create(service).session_id
    ended = threading.Event()
    acknowledged = [send(service, session_id, f"before {number}").message_id for number in range(20)]

    def talk() -> None:
        while not ended.is_set():
            send(service, session_id, "meanwhile")

    talker = threading.Thread(target=talk)
    talker.start()
    try:
        done = run("backup", "copy.db", cwd=tmp_path, DATABASE_URL=url(tmp_path / "served" / "store.db"))
    finally:
        ended.set()
        talker.join()
    assert (done.status, done.errors) == (0, "")
    assert done.out == f"copy.db: {(tmp_path / 'copy.db').stat().st_size} bytes\n"
    assert {path.name for path in tmp_path.iterdir()} == {"served", "copy.db"}
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    assert service.stop() == 0

    restored = run("restore", "copy.db", cwd=tmp_path, DATABASE_URL=url(tmp_path / "new" / "store.db"))
    assert restored.status == 0, restored.errors
    checked = run("check", cwd=tmp_path, DATABASE_URL=url(tmp_path / "new" / "store.db"))
    assert checked.status == 0, checked.errors
    assert "store.db is sound: 1 sessions" in checked.out
    again = start("--no-rest", directory=tmp_path / "new")
    assert {message.message_id for message in history(again, session_id)} >= set(acknowledged)
    assert again.stop() == 0


def test_a_backup_shows_its_progress_on_a_terminal(backup: Path) -> None:
    leader, follower = pty.openpty()
    arguments = command("backup", "again.db", "--database-url", url(backup))
    with subprocess.Popen(
        arguments, cwd=backup.parent, env=environment(), stdout=subprocess.DEVNULL, stderr=follower
    ) as process:
        os.close(follower)
        shown = b""
        try:
            while piece := os.read(leader, 4096):
                shown += piece
        except OSError:
            # Linux has a terminal that nobody holds open end so.
            assert process.wait(timeout=30) == 0
    os.close(leader)
    assert b"again.db" in shown
    assert b"100%" in shown


def contents(directory: Path) -> dict[Path, bytes]:
    """What is in the files of a directory, but for the notes of how commands have ended."""
    return {
        path: path.read_bytes()
        for path in directory.iterdir()
        if path.is_file() and path.suffix not in (".last-backup", ".last-check")
    }


@pytest.mark.parametrize("target", ["backup.db", "there", "backup.db/x.db", "nowhere/x.db", ""])
def test_a_backup_that_cannot_be_made_says_why_and_changes_nothing(backup: Path, target: str) -> None:
    (backup.parent / "there").write_text("not mine")
    before = contents(backup.parent)
    clean_failure(run("backup", target, cwd=backup.parent, DATABASE_URL=url(backup)))
    assert contents(backup.parent) == before


def _changed(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute(statement)


def _newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def _damaged(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * 2)
        file.write(b"\xff" * 4096)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _scrambled_schema(path: Path) -> None:
    """Damage that SQLite quotes in its message, which is no UTF-8 then."""
    text = path.read_bytes()
    assert text.count(b"CREATE TABLE deliveries") == 1
    path.write_bytes(text.replace(b"CREATE TABLE deliveries", b"CR\xdfATE TABLE deliveri\xff\xfe"))


BAD: dict[str, Callable[[Path], object]] = {
    "damaged": _damaged,
    "cut": _cut,
    "schema": _scrambled_schema,
    "newer": _newer,
    "not sound": lambda path: _changed(path, "DELETE FROM deliveries"),
    "text": lambda path: path.write_text("hello"),
    "empty": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
}


@pytest.mark.parametrize("harm", BAD)
def test_a_file_that_is_no_sound_backup_is_not_put_in_place(backup: Path, harm: str) -> None:
    BAD[harm](backup)
    clean_failure(run("restore", "backup.db", cwd=backup.parent, DATABASE_URL=url(backup.parent / "new.db")))
    assert not (backup.parent / "new.db").exists()


@pytest.mark.parametrize("harm", BAD)
def test_check_refuses_what_it_cannot_read_and_names_it(backup: Path, harm: str) -> None:
    BAD[harm](backup)
    done = run("check", cwd=backup.parent, DATABASE_URL=url(backup))
    assert done.status == 1
    assert "Traceback" not in done.errors
    assert "backup.db" in done.errors
    if harm in ("damaged", "cut", "schema", "not sound", "text"):
        # The service tells it, too.
        noted = read_runs(backup).check
        assert noted
        assert not noted.is_good


def test_a_restore_overwrites_nothing_and_puts_nothing_under_a_running_service(
    backup: Path, start: Start
) -> None:
    service = start("--no-rest", directory=backup.parent / "served")
    store = backup.parent / "served" / "store.db"
    before = create(service).session_id
    assert "in use" in clean_failure(run("restore", "backup.db", cwd=backup.parent, DATABASE_URL=url(store)))
    # Also where somebody has moved the file away, but not stopped the service.
    store.rename(backup.parent / "moved.db")
    assert "in use" in clean_failure(run("restore", "backup.db", cwd=backup.parent, DATABASE_URL=url(store)))
    (backup.parent / "moved.db").rename(store)
    assert service.stop() == 0
    assert "exists already" in clean_failure(
        run("restore", "backup.db", cwd=backup.parent, DATABASE_URL=url(store))
    )
    again = start("--no-rest", directory=backup.parent / "served")
    assert history(again, before) == []
    assert again.stop() == 0


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (
            "DELETE FROM log WHERE sequence = 1",
            "its log should have the sequences up to 2, but has 1 from 2 to 2",
        ),
        (
            "UPDATE log SET at_ms = at_ms - 100000 WHERE sequence = 2",
            "the times of its log do not increase at sequence 2",
        ),
        ("DELETE FROM deliveries", "it has no delivery"),
        (
            "UPDATE sessions SET head_sequence = 1, head_due_ms = 0",
            "by its row 1 is its first open delivery, but that is None",
        ),
        ("UPDATE deliveries SET state = 'pending', due_at_ms = 1", "there is a reply, but it is pending"),
        ("UPDATE sessions SET metadata = '{'", "what it has in JSON cannot be read"),
        (
            "UPDATE session_counts SET sessions = 3 WHERE state = 'live' AND agent_id = '' AND user_id = ''",
            "sessions that are live, of agent '' and user '' (empty: any), of tenant '': 1 are there, but 3 "
            "are counted",
        ),
        (
            "DELETE FROM session_counts WHERE user_id != ''",
            "(empty: any), of tenant '': 1 are there, but 0 are counted",
        ),
        (
            "INSERT INTO requests SELECT 'user:u', 'r', 'f', '{\"id\":\"gone\"}', 0, 'gone'",
            "request r of user:u: its session is gone",
        ),
        (
            "INSERT INTO requests SELECT 'user:u', 'r', 'f', '{\"id\":\"other\"}', 0, id FROM sessions",
            "request r of user:u: it is kept with another session, ",
        ),
    ],
)
def test_check_finds_what_does_not_fit_together(backup: Path, harm: str, told: str) -> None:
    _changed(backup, harm)
    done = run("check", cwd=backup.parent, DATABASE_URL=url(backup))
    assert done.status == 1
    assert told in done.out
    assert "Traceback" not in done.errors


SCHEMAS = range(1, schema_version() + 1)


@pytest.mark.parametrize("version", SCHEMAS)
def test_a_store_of_every_schema_is_checked_and_left_as_it_is(tmp_path: Path, version: int) -> None:
    path, temporary = tmp_path / "old" / "old.db", tmp_path / "temporary"
    temporary.mkdir()
    make_old_store(path, version)
    before = path.read_bytes(), path.stat().st_mtime_ns
    done = run("check", cwd=tmp_path, DATABASE_URL=url(path), TMPDIR=str(temporary))
    assert (done.status, done.errors) == (0, "")
    assert f"{path} is sound: 2 sessions" in done.out
    assert (f"schema {version}" in done.out) == (version < schema_version())
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["old.db", "old.db.last-check"]
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("version", SCHEMAS)
def test_a_backup_of_every_schema_is_restored_and_goes_on(tmp_path: Path, version: int) -> None:
    make_old_store(tmp_path / "old.db", version)
    copied = invoke("backup", str(tmp_path / "backup.db"), DATABASE_URL=url(tmp_path / "old.db"))
    assert (copied.status, copied.errors) == (0, "")
    target = tmp_path / "new" / "store.db"
    restored = invoke("restore", str(tmp_path / "backup.db"), DATABASE_URL=url(target))
    assert (restored.status, restored.errors) == (0, "")
    told = f"it is of schema {version}: the next start brings it to {schema_version()}"
    assert (told in restored.out) == (version < schema_version())
    with closing(sqlite3.connect(target)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (version,)
    assert invoke("migrate", DATABASE_URL=url(target)).status == 0
    assert invoke("check", DATABASE_URL=url(target)).out.startswith(f"{target} is sound: 2 sessions")
    with closing(sqlite3.connect(target)) as connection:
        found = connection.execute(
            "SELECT content FROM log WHERE session_id = ? AND NOT is_agent ORDER BY sequence", (LIVE,)
        ).fetchall()
        requests = connection.execute("SELECT id, session_id FROM requests ORDER BY id").fetchall()
    assert [content for (content,) in found] == ["hi", "two", "three", "four"][: min(version, 4)]
    # What a session that is gone had left is not taken over.
    assert requests == ([("create", LIVE), ("message", LIVE)] if version >= 4 else [])


@pytest.mark.parametrize("version", SCHEMAS[:-1])
def test_check_finds_what_is_wrong_in_a_store_of_an_older_schema(tmp_path: Path, version: int) -> None:
    path = tmp_path / "old.db"
    make_old_store(path, version)
    _changed(path, f"UPDATE log SET sequence = 90 WHERE session_id = '{LIVE}' AND sequence = 1")
    done = invoke("check", DATABASE_URL=url(path))
    assert done.status == 1
    assert f"session {LIVE}: its log should have the sequences" in done.out
    assert "is not sound" in clean_failure(
        invoke("restore", str(path), DATABASE_URL=url(tmp_path / "new.db"))
    )
    assert not (tmp_path / "new.db").exists()


def test_only_its_owner_can_read_the_copy_of_an_older_store(tmp_path: Path) -> None:
    make_old_store(tmp_path / "old.db", 1)
    old = os.umask(0)
    try:
        with reading_current(tmp_path / "old.db") as connection:
            copy = Path(connection.execute("PRAGMA database_list").fetchone()[2])
            modes = {file.stat().st_mode & 0o777 for file in copy.parent.iterdir()}
            assert (modes, copy.parent.stat().st_mode & 0o777) == ({0o600}, 0o700)
    finally:
        os.umask(old)
    assert not copy.parent.exists()


def test_check_leaves_what_a_killed_service_has_left(start: Start, tmp_path: Path) -> None:
    service = start("--no-rest")
    send(service, create(service).session_id, "hi")
    service.kill()
    names = ("store.db", "store.db-wal")
    before = [(tmp_path / name).read_bytes() for name in names]
    assert run("check", cwd=tmp_path, DATABASE_URL=url(tmp_path / "store.db")).status == 0
    assert [(tmp_path / name).read_bytes() for name in names] == before


def test_a_file_that_is_moved_away_under_a_running_service_takes_no_more_writes(
    start: Start, tmp_path: Path
) -> None:
    """What was written to it would be gone with the process."""
    service = start("--no-rest")
    store, moved = tmp_path / "store.db", tmp_path / "moved.db"
    session_id = create(service).session_id
    send(service, session_id, "before")
    replies(service, session_id, 1)
    for name in (moved, None):
        if name:
            store.rename(name)
        else:
            store.write_bytes(moved.read_bytes())
        fails(lambda: send(service, session_id, "meanwhile"), "UNAVAILABLE")
        with pytest.raises(grpc.RpcError):
            create(service)
        assert len(history(service, session_id)) == 2
        assert health(service) == health_pb2.HealthCheckResponse.NOT_SERVING
    moved.rename(store)
    until(lambda: health(service) == health_pb2.HealthCheckResponse.SERVING, "it is well again")
    send(service, session_id, "after")
    assert service.stop() == 0
    again = start("--no-rest")
    assert [message.content for message in history(again, session_id) if not message.is_agent] == [
        "before",
        "after",
    ]
    assert again.stop() == 0


def health(service: Serve) -> int:
    """The status of the whole service."""
    return (
        health_pb2_grpc.HealthStub(service.channel).Check(health_pb2.HealthCheckRequest(), timeout=10).status
    )
