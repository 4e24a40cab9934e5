"""The file gets smaller: in steps after the purge, and as a whole with `compact`."""

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from unittest import mock

import pytest

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.lifecycle.purge import Purge
from server.store.sqlite import compact as sqlite_compact
from server.store.sqlite import rewrite
from server.store.sqlite.check import problems
from server.store.sqlite.compact import KEPT_PAGES, KEPT_PART, compact
from server.store.sqlite.file import connect
from server.store.sqlite.store import SqliteStore
from server.store.values import StoreOpenError
from tests.store.conformance.common import say
from tests.store.old_schemas import make_old_store
from tests.unit.samples import T0, put, session

INCREMENTAL = 2


@pytest.fixture
def clock() -> TestClock:
    clock = TestClock()
    clock.set_ms(T0)
    return clock


@pytest.fixture
async def store(tmp_path: Path, clock: TestClock) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "store.db", clock)
    yield store
    await store.close()


def pragma(path: Path, name: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


async def fill(store: SqliteStore, messages: int = 1000) -> str:
    """A session with messages; returns its id."""
    one = session()
    await put(store, one)
    text = say(content="x" * 4000)
    await asyncio.gather(*(store.apply(one.id, text, scope=EVERYTHING) for _ in range(messages)))
    return one.id


def purge_of(store: SqliteStore, clock: TestClock) -> Purge:
    return Purge(store, clock, retention_minutes=10, request_retention_minutes=10, interval_minutes=5)


async def test_what_is_purged_is_given_back_in_steps_but_for_some_room(
    store: SqliteStore, clock: TestClock, tmp_path: Path
) -> None:
    path = tmp_path / "store.db"
    assert pragma(path, "auto_vacuum") == INCREMENTAL
    kept, gone = await fill(store, 20), await fill(store)
    full = pragma(path, "page_count")
    assert full > 4 * KEPT_PAGES
    await store.delete_session(gone, scope=EVERYTHING)
    while await store.purge(0, 100):
        assert pragma(path, "page_count") == full
    free = pragma(path, "freelist_count")
    steps = [pragma(path, "page_count")]
    while await store.shrink():
        steps.append(pragma(path, "page_count"))
    assert len(steps) > 2
    # A page in a thousand says where others belong.
    most = sqlite_compact.STEP_PAGES + 1
    assert all(0 < before - after <= most for before, after in itertools.pairwise(steps))
    assert pragma(path, "freelist_count") == max(KEPT_PAGES, full // KEPT_PART) < free
    assert not await store.shrink()
    with closing(connect(path, read_only=True)) as connection:
        assert list(problems(connection)) == []
    assert (await store.get_session(kept, scope=EVERYTHING)).last_sequence == 20


async def test_the_purge_gives_back_what_it_has_removed(
    store: SqliteStore, clock: TestClock, tmp_path: Path
) -> None:
    path = tmp_path / "store.db"
    gone = await fill(store)
    full = pragma(path, "page_count")
    await store.delete_session(gone, scope=EVERYTHING)
    await purge_of(store, clock).run_due()
    assert pragma(path, "page_count") < full / 2


async def test_an_old_store_gives_nothing_back_until_it_is_compacted(
    clock: TestClock, tmp_path: Path
) -> None:
    path = tmp_path / "store.db"
    with (
        mock.patch.object(rewrite, "AUTO_VACUUM", "PRAGMA auto_vacuum = NONE"),
        mock.patch("server.store.sqlite.file.AUTO_VACUUM", "PRAGMA auto_vacuum = NONE"),
    ):
        store = await SqliteStore.open(path, clock)
        kept, gone = await fill(store, 20), await fill(store)
        await store.delete_session(gone, scope=EVERYTHING)
        await purge_of(store, clock).run_due()
        assert not await store.shrink()
        await store.close()
    size, told = path.stat().st_size, []
    assert pragma(path, "auto_vacuum") == 0
    before, after = compact(path, lambda done, total: told.append((done, total)))
    assert (before, after) == (size, path.stat().st_size)
    assert after < size / 5
    assert (pragma(path, "auto_vacuum"), pragma(path, "freelist_count")) == (INCREMENTAL, 0)
    done, total = told[-1]
    assert done == total > 0
    store = await SqliteStore.open(path, clock)
    assert (await store.get_session(kept, scope=EVERYTHING)).last_sequence == 20
    await store.close()
    # Once more there is nothing to gain.
    assert compact(path, lambda done, total: None)[1] <= after


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_store_that_is_rewritten_for_an_upgrade_gives_back_too(
    clock: TestClock, tmp_path: Path, at_once: bool
) -> None:
    """Also where an erase rewrites it under a writer that opened it as it was."""
    path = tmp_path / "store.db"
    make_old_store(path, 10)
    assert pragma(path, "auto_vacuum") == 0
    free = 10**12 if at_once else 0
    with mock.patch.object(rewrite.shutil, "disk_usage", return_value=mock.Mock(free=free)):
        store = await SqliteStore.open(path, clock)
    assert (pragma(path, "auto_vacuum") == INCREMENTAL) == at_once
    before = await fill(store, 300)
    assert await store.finish_erasure() == []
    assert pragma(path, "auto_vacuum") == INCREMENTAL
    gone = await fill(store)
    await store.delete_session(gone, scope=EVERYTHING)
    await purge_of(store, clock).run_due()
    assert pragma(path, "freelist_count") <= max(KEPT_PAGES, pragma(path, "page_count") // 8)
    assert (await store.get_session(before, scope=EVERYTHING)).last_sequence == 300
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_a_store_that_is_served_or_read_is_not_compacted(
    store: SqliteStore, clock: TestClock, tmp_path: Path
) -> None:
    path = tmp_path / "store.db"
    await fill(store, 10)
    with pytest.raises(StoreOpenError, match="in use by another process"):
        compact(path, lambda done, total: None)
    await store.close()
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as reader,
        closing(sqlite3.connect(path)) as other,
    ):
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM log").fetchone()
        other.execute("CREATE TABLE more (one)")
        with (
            mock.patch("server.store.sqlite.file.BUSY_TIMEOUT_S", 0.1),
            pytest.raises(StoreOpenError, match="is being read"),
        ):
            compact(path, lambda done, total: None)


async def test_it_says_how_much_room_it_needs(store: SqliteStore, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await fill(store, 10)
    await store.close()
    content = path.read_bytes()
    with (
        mock.patch.object(sqlite_compact.shutil, "disk_usage", return_value=mock.Mock(free=1000)),
        pytest.raises(
            StoreOpenError, match=r"\d+ bytes must be free on the file system of .*, which has 1000"
        ),
    ):
        compact(path, lambda done, total: None)
    assert path.read_bytes() == content


def test_what_is_no_store_of_this_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with pytest.raises(StoreOpenError, match="is not there"):
        compact(path, lambda done, total: None)
    assert list(tmp_path.iterdir()) == []
    make_old_store(path, 9)
    with pytest.raises(StoreOpenError, match="eliza-sessions migrate"):
        compact(path, lambda done, total: None)
    assert pragma(path, "user_version") == 9
    path.write_bytes(b"no database" * 100)
    with pytest.raises(StoreOpenError, match="damaged"):
        compact(path, lambda done, total: None)
