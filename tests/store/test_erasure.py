"""After an erase no trace of a user is left in the file, its log, or a table; others keep what is theirs."""

import asyncio
import random
import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from unittest import mock

import pytest

from server.clock import TestClock
from server.domain.access import EVERYTHING, Scope
from server.domain.idempotency import RequestKey, creation_scope
from server.domain.sessions import Session, heartbeat
from server.store.sqlite import rewrite
from server.store.sqlite.check import problems
from server.store.sqlite.store import SqliteStore
from server.store.values import Erased
from tests.store.conformance.common import expire, give_up, respond, say
from tests.store.old_schemas import make_old_store
from tests.unit.samples import T0, USER, put, session

GONE = "99999999-aaaa-4aaa-8aaa-999999999999"
SECRET = "Xq7-secret-"
"""Stands in all that GONE has."""


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


async def erase(store: SqliteStore, scope: Scope = EVERYTHING, user_id: str = GONE) -> Erased:
    total = Erased()
    while any(step := await store.erase_user(user_id, scope=scope, limit=2000)):
        total = Erased(*map(sum, zip(total, step, strict=True)))
    return total


def traces(path: Path, *texts: str) -> dict[str, list[str]]:
    """Which of the texts are in which of the files of a store."""
    found = {}
    for file in sorted(path.parent.iterdir()):
        content = file.read_bytes()
        if met := [text for text in texts if text.encode() in content]:
            found[file.name] = met
    return found


async def test_large_files_are_rewritten_at_the_next_start(
    store: SqliteStore, clock: TestClock, tmp_path: Path
) -> None:
    path = tmp_path / "store.db"
    await add(store, GONE, random.Random(1))
    await erase(store)
    with mock.patch.object(rewrite, "REWRITE_BYTES", 0):
        (problem,) = await store.finish_erasure()
    assert "rewritten at the next start" in problem
    await store.close()
    with mock.patch.object(rewrite.shutil, "disk_usage", return_value=mock.Mock(free=100)):
        store = await SqliteStore.open(path, clock)
        assert await store.finish_erasure() == [problem]
        await store.close()
    store = await SqliteStore.open(path, clock)
    with mock.patch.object(rewrite, "REWRITE_BYTES", 0):
        assert len(await store.finish_erasure()) == 1
    assert await store.finish_erasure() == []
    await store.close()


async def test_a_reader_that_keeps_the_log_is_told(store: SqliteStore, tmp_path: Path) -> None:
    await add(store, GONE, random.Random(1))
    with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM log").fetchone()
        await erase(store)
        assert any("store.db-wal" in problem for problem in await store.finish_erasure())
        assert "store.db-wal" in traces(tmp_path / "store.db", SECRET)
    assert await store.finish_erasure() == []
    assert traces(tmp_path / "store.db", GONE, SECRET) == {}
    # The writer goes on with the file as it is now.
    await add(store, USER, random.Random(2))


async def test_what_an_older_version_has_removed_is_gone_after_the_upgrade(
    tmp_path: Path, clock: TestClock
) -> None:
    path = tmp_path / "store.db"
    make_old_store(path, 10)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("UPDATE log SET content = ? WHERE sequence = 1", (SECRET + "x" * 900,))
        connection.commit()
        connection.execute("UPDATE log SET content = '' WHERE sequence = 1")
    assert traces(path, SECRET)
    store = await SqliteStore.open(path, clock)
    assert traces(path, SECRET) == {}
    await store.close()


async def test_an_erase_stays_in_its_tenant_and_tells_who_is_gone(store: SqliteStore) -> None:
    chance, told = random.Random(3), []
    own, other = await add(store, GONE, chance, "a"), await add(store, GONE, chance, "b")
    await store.apply(own.id, expire, scope=EVERYTHING)
    store.add_listener(lambda commit: told.extend(one.id for one in commit.deleted))
    entries = (await store.get_session(own.id, scope=EVERYTHING)).last_sequence
    erased = await erase(store, Scope("a"))
    assert (erased.sessions, erased.entries) == (1, entries)
    assert erased.deliveries < erased.requests <= entries
    assert erased.rows == 1 + sum(erased[:4])
    assert told == [own.id]
    assert await erase(store, Scope("a", USER)) == Erased()
    page = await store.list_user_sessions(GONE, scope=EVERYTHING, limit=9)
    assert [one.id for one in page.sessions] == [other.id]


async def test_a_step_is_small_and_others_write_between(store: SqliteStore) -> None:
    one = await add(store, GONE, random.Random(3))
    await asyncio.gather(*(store.apply(one.id, say(), scope=EVERYTHING) for _ in range(3000)))
    counted = 0
    while any(step := await store.erase_user(GONE, scope=EVERYTHING, limit=500)):
        assert step.rows <= 500
        counted += 1
        await add(store, USER, random.Random(counted))
    assert counted > 6


async def add(store: SqliteStore, user_id: str, chance: random.Random, tenant: str = "") -> Session:
    mark = SECRET if user_id == GONE else "kept-"
    new = session(user_id=user_id, metadata=f'{{"m":"{mark}{"m" * chance.randrange(900)}"}}')
    new = new._replace(tenant=tenant)
    await put(store, new, RequestKey(creation_scope(user_id, tenant), f"create {new.id}", "content"))
    for n in range(chance.randrange(1, 12)):
        text = f"{mark}{n} {'c' * chance.choice([5, 400, 2500, 3900])}"
        rule = say(text, metadata=f'{{"k":"{mark}"}}', attachments=f'["{mark}{"a" * chance.randrange(500)}"]')
        sent = await store.apply(
            new.id, rule, RequestKey(f"session:{new.id}", f"{n}", "content"), scope=EVERYTHING
        )
        deed = chance.choice([respond(f"{mark}reply {'r' * chance.randrange(4000)}"), give_up, None])
        if deed:
            await store.apply_delivery(new.id, sent.entry.sequence, deed, scope=EVERYTHING)
        await store.apply(new.id, heartbeat, scope=EVERYTHING)
    return new


@pytest.mark.parametrize("seed", range(1, 4))
async def test_no_trace_is_left_of_a_user_and_others_keep_theirs(
    store: SqliteStore, clock: TestClock, tmp_path: Path, seed: int
) -> None:
    chance, path = random.Random(seed), tmp_path / "store.db"
    users = [GONE, USER, str(uuid.UUID(int=seed + 1, version=4))]
    made: list[Session] = []
    for _ in range(25):
        made.append(await add(store, chance.choice(users), chance))
        if chance.random() < 0.3:
            one = made.pop(chance.randrange(len(made)))
            await store.delete_session(one.id, scope=EVERYTHING)
        if chance.random() < 0.2:
            await store.purge(0, chance.choice([1, 50]))
        if made and chance.random() < 0.2:
            one = chance.choice(made)
            await store.apply(one.id, expire, scope=EVERYTHING)
    clock.set_ms(max(one.expires_at_ms for one in made))
    await store.purge(clock.now_ms() - 25 * 60_000, 100)
    kept = {}
    for user_id in users[1:]:
        page = await store.list_user_sessions(user_id, scope=EVERYTHING, limit=1000)
        kept[user_id] = [
            (one, await store.list_entries(one.id, scope=EVERYTHING, after_sequence=0, limit=1000))
            for one in page.sessions
        ]
    assert traces(path, GONE, SECRET)
    erased = await erase(store)
    assert erased.sessions
    assert erased.entries > erased.sessions
    assert await store.finish_erasure() == []
    assert traces(path, GONE, SECRET) == {}
    for user_id, sessions in kept.items():
        page = await store.list_user_sessions(user_id, scope=EVERYTHING, limit=1000)
        assert page.sessions == [one for one, _ in sessions]
        for one, entries in sessions:
            assert await store.list_entries(one.id, scope=EVERYTHING, after_sequence=0, limit=1000) == entries
    assert list(problems(store._read_connection)) == []
    await store.close()
    assert traces(path, GONE, SECRET) == {}
