"""One process has the file, by whatever name it is opened."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from server.domain.access import EVERYTHING
from server.domain.errors import UnavailableError
from server.store.sqlite.copy import CopyError, restore_store
from server.store.sqlite.file import FileLock
from server.store.values import StoreOpenError
from tests.store.conformance.common import contents, history, say
from tests.store.sqlite_file.opened import opened
from tests.support.inside_sqlite import lock_of
from tests.support.waiting import PATIENCE_SECONDS
from tests.unit.samples import put, session

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


class TestOneOwner:
    """Never two processes on one file, whatever names it has.

    Locks of one process exclude each other as those of two do.
    """

    @pytest.fixture(autouse=True)
    def _directories(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700)

    async def test_a_symbolic_link_opens_no_second_one(self, path: Path, tmp_path: Path) -> None:
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
            held = is_held(lock_of(store))
            begun.set()
            goes_on.wait()
            return held

        with mock.patch.object(lock_of(store), "is_held", look):
            writing = asyncio.create_task(store.apply(one.id, say("last"), scope=EVERYTHING))
            await asyncio.to_thread(begun.wait)
        path.with_name("store.db.lock").unlink()
        opening = asyncio.create_task(opened(path))
        # It has its lock, so it comes to the point where it waits.
        async with asyncio.timeout(PATIENCE_SECONDS):
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
