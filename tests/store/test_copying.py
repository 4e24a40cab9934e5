"""A SQLite store that is copied to another file: all that it holds, what is refused, what interrupts it."""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.store import copying, maintenance
from server.store.copying import Copied, CopyStoppedError, copy
from server.store.sqlite import copying as sqlite_copying
from server.store.sqlite.file import prepare
from server.store.sqlite.store import SqliteStore
from server.store.values import CopyError, StoreOpenError
from tests.store.filling import LEFT, SESSIONS, fill
from tests.store.old_schemas import make_old_store
from tests.unit.samples import T0

UNFINISHED = "is a copy that is not finished: repeat `eliza-sessions copy-store FROM TO`"


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def copied(source: str, target: str, should_stop: Callable[[], bool] = lambda: False) -> list[Copied]:
    with maintenance(source).copy_source() as read, maintenance(target).copy_target() as written:
        return copy(read, written, lambda done, total: None, should_stop)


def stopping_after(times: int) -> Callable[[], bool]:
    """Stops a copy once it has asked so often."""
    asked = count()
    return lambda: next(asked) >= times


def check(store: str) -> str:
    problems: list[str] = []
    held = maintenance(store).check(problems.append)
    assert problems == []
    return held


async def filled(path: Path) -> Path:
    clock = TestClock()
    clock.set_ms(T0)
    store = await SqliteStore.open(path, clock)
    await fill(store)
    await store.close()
    return path


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with every kind of row, which nobody writes to."""
    return asyncio.run(filled(tmp_path_factory.mktemp("template") / "full.db"))


@pytest.fixture
def full(template: Path, tmp_path: Path) -> Path:
    """A test's own store with every kind of row."""
    # Once it is closed, a store is in its one file.
    return Path(shutil.copy(template, tmp_path))


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "BATCH_ROWS", 7)


def rows_of(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        found: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return found


def note_of(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        found: str = connection.execute("SELECT note FROM store_copy").fetchone()[0]
        return found


def test_a_copy_holds_all_but_what_removed_sessions_have_left(full: Path, tmp_path: Path) -> None:
    target = tmp_path / "to.db"
    found = {one.table: one.rows for one in copied(url(full), url(target))}
    assert found["sessions"] == SESSIONS
    assert check(url(target)) == check(url(full))
    assert (rows_of(full, "removed_sessions"), rows_of(target, "removed_sessions")) == (1, 0)
    for table in ("log", "deliveries", "requests"):
        assert rows_of(target, table) == found[table]
        assert rows_of(full, table) > found[table] + LEFT / 3
    # All columns, also those that only this back end has.
    with closing(sqlite3.connect(target)) as connection:
        connection.execute("ATTACH ? AS origin", [str(full)])
        for one in ("agents", "seeded_agents", "sessions", "session_counts"):
            both = f"SELECT * FROM main.{one} EXCEPT SELECT * FROM origin.{one}"
            assert connection.execute(both).fetchall() == []


@pytest.mark.usefixtures("small_batches")
async def test_a_copy_that_is_stopped_at_every_batch_is_the_same_in_the_end(
    full: Path, tmp_path: Path
) -> None:
    whole = copied(url(full), url(tmp_path / "whole.db"))
    target = tmp_path / "to.db"
    notes: list[str] = []
    while len(notes) < 2 or notes[-1] != notes[-2]:
        # Two looks for the marks, one for the note, and one after the first batch.
        with pytest.raises(CopyStoppedError):
            copied(url(full), url(target), stopping_after(3))
        notes.append(note_of(target))
    assert len(notes) > sum(one.rows // 7 for one in whole)
    assert copied(url(full), url(target)) == whole
    assert check(url(target)) == check(url(full))


@pytest.mark.usefixtures("small_batches")
async def test_an_unfinished_copy_can_only_be_gone_on_with(full: Path, tmp_path: Path) -> None:
    target = tmp_path / "to.db"
    with pytest.raises(CopyStoppedError):
        copied(url(full), url(target), stopping_after(9))
    tools = maintenance(url(target))
    for refuse in (
        tools.migrate,
        tools.stored_schema,
        lambda: tools.check(print),
        lambda: tools.compact(lambda done, total: None),
        lambda: prepare(target),
    ):
        with pytest.raises(StoreOpenError, match=UNFINISHED):
            refuse()
    with pytest.raises(StoreOpenError, match=UNFINISHED):
        await SqliteStore.open(target, TestClock())
    # Nor is it copied itself.
    with pytest.raises(StoreOpenError, match=UNFINISHED):
        copied(url(target), url(tmp_path / "third.db"))
    assert not (tmp_path / "third.db").exists()
    copied(url(full), url(target))
    store = await SqliteStore.open(target, TestClock())
    assert (await store.counts(scope=EVERYTHING)).active > 0
    await store.close()


@pytest.mark.usefixtures("small_batches")
async def test_a_copy_of_a_store_that_was_served_meanwhile_is_refused(full: Path, tmp_path: Path) -> None:
    target = tmp_path / "to.db"
    with pytest.raises(CopyStoppedError):
        copied(url(full), url(target), stopping_after(9))
    await filled(full.with_name("other.db"))
    with closing(sqlite3.connect(full)) as connection, connection:
        connection.execute("UPDATE sessions SET last_sequence = last_sequence + 1")
    for source in (full, full.with_name("other.db")):
        with pytest.raises(CopyError, match=r"to\.db was begun as a copy of \S+full\.db as it then was"):
            copied(url(source), url(target))


async def test_what_is_in_use_is_not_copied(full: Path, tmp_path: Path) -> None:
    target = tmp_path / "to.db"
    store = await SqliteStore.open(full, TestClock())
    with pytest.raises(StoreOpenError, match=r"full\.db is in use by another process"):
        copied(url(full), url(target))
    assert not target.exists()
    await store.close()
    running = await SqliteStore.open(target, TestClock())
    with pytest.raises(StoreOpenError, match=r"to\.db is in use by another process"):
        copied(url(full), url(target))
    await running.close()


def test_where_a_store_is_nothing_is_written(full: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    copied(url(full), url(other))
    before = other.read_bytes()
    with pytest.raises(CopyError, match=r"other\.db holds a store already: name an empty place"):
        copied(url(full), url(other))
    old = tmp_path / "old.db"
    make_old_store(old, 12)
    before_old = old.read_bytes()
    with pytest.raises(StoreOpenError, match=r"old\.db holds a store of schema 12: name an empty place"):
        copied(url(full), url(old))
    assert (other.read_bytes(), old.read_bytes()) == (before, before_old)


def test_what_is_no_store_of_this_version_is_not_copied(tmp_path: Path) -> None:
    old, target = tmp_path / "old.db", url(tmp_path / "to.db")
    with pytest.raises(StoreOpenError, match=r"none\.db is not there, or empty"):
        copied(url(tmp_path / "none.db"), target)
    make_old_store(old, 12)
    with pytest.raises(
        StoreOpenError, match=r"old\.db is of schema 12: `eliza-sessions migrate` brings it to"
    ):
        copied(url(old), target)
    maintenance(url(old)).migrate()
    copied(url(old), target)
    assert check(target) == check(url(old))


def test_a_place_that_was_only_made_is_filled(full: Path, tmp_path: Path) -> None:
    target = tmp_path / "to.db"
    maintenance(url(target)).migrate()
    copied(url(full), url(target))
    assert check(url(target)) == check(url(full))


def test_huge_entries_are_copied_a_few_at_a_time(
    full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = 8 * 1024 * 1024
    with closing(sqlite3.connect(full)) as connection, connection:
        connection.execute(
            "UPDATE log SET content = replace(hex(zeroblob(?)), '00', 'é') WHERE (session_id, sequence) IN "
            "(SELECT session_id, sequence FROM log JOIN sessions ON id = session_id "
            "WHERE message_id IS NOT NULL ORDER BY 1, 2 LIMIT 4)",
            [huge],
        )
    sizes: list[int] = []

    def noting(rows: Iterator[copying.Row]) -> Iterator[list[copying.Row]]:
        for batch in original(rows):
            sizes.append(sum(len(value) for row in batch for value in row if isinstance(value, str)))
            yield batch

    original = copying.batches
    monkeypatch.setattr(copying, "batches", noting)
    copied(url(full), url(tmp_path / "to.db"))
    assert huge <= max(sizes) < huge + copying.BATCH_BYTES


def test_every_column_of_every_table_is_copied_or_said_to_stay(tmp_path: Path) -> None:
    prepare(tmp_path / "new.db").release()
    with closing(sqlite3.connect(tmp_path / "new.db")) as connection:
        tables = {
            table: {column for _, column, *_ in connection.execute(f"PRAGMA table_info({table})")}
            for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        }
    # Deliveries bring these.
    tables["sessions"] -= {"head_sequence", "head_due_ms"}
    for stays in ("removed_sessions", "pending_rewrite"):
        tables.pop(stays)
    assert tables == {table: set(columns) for table, columns in sqlite_copying._WRITE.items()}
