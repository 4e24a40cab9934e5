"""A store that is copied to PostgreSQL, and back: equal by digests, sound, and refused where it must be."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from server.store import copying, maintenance
from server.store.copying import CopyStoppedError
from server.store.postgres import copying as postgres_copying
from server.store.postgres.place import Place
from server.store.postgres.schema import prepare
from server.store.values import CopyError, StoreOpenError
from tests.store.filling import SESSIONS, fill
from tests.store.old_schemas import make_old_store
from tests.store.postgres.opened import Cluster, open_store
from tests.store.test_copying import UNFINISHED, check, copied, filled, stopping_after, url

pytestmark = pytest.mark.postgres


@pytest.fixture
async def full(tmp_path: Path) -> str:
    """A SQLite store with every kind of row."""
    return url(await filled(tmp_path / "full.db"))


@pytest.fixture
def empty(cluster: Cluster) -> Iterator[str]:
    """A database without tables."""
    name = cluster.server.make_database()
    yield cluster.server.url(name)
    cluster.server.remove_database(name)


def execute(store: str, statement: str) -> None:
    with psycopg.connect(store, autocommit=True) as link:
        link.execute(statement.encode())


def count_rows(store: str, table: str) -> int:
    with psycopg.connect(store) as link:
        found: int = link.execute(f"SELECT count(*) FROM {table}".encode()).fetchall()[0][0]
        return found


async def test_a_sqlite_store_goes_to_postgresql_and_back(full: str, empty: str, tmp_path: Path) -> None:
    there = copied(full, empty)
    assert {one.table: one.rows for one in there}["sessions"] == SESSIONS
    assert check(empty) == check(full)
    back = url(tmp_path / "back.db")
    assert copied(empty, back) == there
    assert check(back) == check(full)
    with closing(sqlite3.connect(tmp_path / "back.db")) as connection:
        connection.execute("ATTACH ? AS origin", [str(tmp_path / "full.db")])
        for one in ("agents", "seeded_agents", "sessions", "session_counts"):
            both = f"SELECT * FROM main.{one} EXCEPT SELECT * FROM origin.{one}"
            assert connection.execute(both).fetchall() == []


async def test_a_postgresql_store_goes_to_sqlite_and_back(
    database: str, empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(database)
    await fill(store)
    # Nothing here renews the row of the server, which filling may have outlived.
    execute(database, f"UPDATE replicas SET alive_until_ms = {2**60}")
    with pytest.raises(StoreOpenError, match="is served by 1 server: stop them first"):
        copied(database, url(tmp_path / "to.db"))
    assert not (tmp_path / "to.db").exists()
    # As a server leaves it that was killed: what it had in hand is due at once.
    execute(database, "UPDATE replicas SET alive_until_ms = 1")
    assert count_rows(database, "deliveries WHERE holder IS NOT NULL") == 1
    there = copied(database, url(tmp_path / "to.db"))
    assert check(url(tmp_path / "to.db")) == check(database)
    assert copied(url(tmp_path / "to.db"), empty) == there
    assert check(empty) == check(database)
    assert count_rows(empty, "deliveries WHERE holder IS NOT NULL") == 0
    assert count_rows(empty, "deliveries WHERE state = 'leased' AND head_due_ms = 0") == 1
    with psycopg.connect(empty) as link:
        counted = link.execute(
            "SELECT (SELECT sum(size) FROM log), (SELECT count(failed_sequence) FROM log), "
            "(SELECT sum(expired_at_ms) FROM sessions), (SELECT sum(kept_until_ms) FROM sessions), "
            "(SELECT sum(head_due_ms) FROM deliveries)"
        ).fetchall()
    with psycopg.connect(database) as link:
        of_sessions = "FROM log WHERE EXISTS (SELECT 1 FROM sessions WHERE id = session_id)"
        assert (
            counted
            == link.execute(
                f"SELECT (SELECT sum(size) {of_sessions}), (SELECT count(failed_sequence) {of_sessions}), "
                "(SELECT sum(expired_at_ms) FROM sessions), (SELECT sum(kept_until_ms) FROM sessions), "
                "(SELECT sum(head_due_ms) FROM deliveries "
                "WHERE EXISTS (SELECT 1 FROM sessions WHERE id = session_id))".encode()
            ).fetchall()
        )
    await store.close()


async def test_a_copy_to_postgresql_goes_on_wherever_it_stops(
    full: str, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "BATCH_ROWS", 20)
    stored = postgres_copying._stored
    failing_at = 0

    def breaking(table: str, rows: object) -> Iterator[object]:
        nonlocal failing_at
        failing_at -= 1
        if not failing_at:
            raise KeyboardInterrupt
        yield from stored(table, rows)

    monkeypatch.setattr(postgres_copying, "_stored", breaking)
    stops = 0
    while True:
        # In the middle of the second batch: the first one stays, with its note.
        failing_at = 2
        try:
            there = copied(full, empty)
        except KeyboardInterrupt:
            stops += 1
            with pytest.raises(StoreOpenError, match=UNFINISHED):
                maintenance(empty).stored_schema()
        else:
            break
    assert stops >= 10
    monkeypatch.undo()
    assert check(empty) == check(full)
    assert maintenance(empty).stored_schema() == maintenance(empty).schema
    assert there == copied(empty, url(Path(full.removeprefix("sqlite:///")).with_name("back.db")))


async def test_an_unfinished_copy_is_not_served(full: str, empty: str) -> None:
    with pytest.raises(CopyStoppedError):
        copied(full, empty, stopping_after(4))
    with pytest.raises(StoreOpenError, match=UNFINISHED):
        await open_store(empty)
    for refuse in (maintenance(empty).migrate, lambda: maintenance(empty).check(print)):
        with pytest.raises(StoreOpenError, match=UNFINISHED):
            refuse()
    copied(full, empty)
    await (await open_store(empty)).close()


async def test_a_server_that_starts_meanwhile_waits_for_the_end(
    full: str, empty: str, tmp_path: Path
) -> None:
    copied(full, empty)
    with maintenance(empty).copy_source():
        starting = threading.Thread(target=prepare, args=[Place(empty)])
        starting.start()
        with psycopg.connect(empty, autocommit=True) as link:
            while not link.execute(
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
                "AND cardinality(pg_blocking_pids(pid)) > 0"
            ).fetchall():
                assert starting.is_alive()
        with pytest.raises(StoreOpenError, match="is being migrated or copied by another process"):
            copied(empty, url(tmp_path / "to.db"))
    starting.join()


async def test_a_copy_whose_last_run_still_writes_is_refused(full: str, empty: str) -> None:
    with pytest.raises(CopyStoppedError):
        copied(full, empty, stopping_after(4))
    with maintenance(empty).copy_target() as target:
        note = target.read_note()
        assert note is not None
        execute(empty, "UPDATE store_copy SET note = note || ' '")
        with pytest.raises(CopyError, match="is written by another process, too"):
            target.write_rows("seeded_agents", [("00000000-0000-4000-8000-000000000009",)], note, note)
        assert count_rows(empty, "seeded_agents WHERE id::text LIKE '%9'") == 0


async def test_where_something_is_nothing_is_written(full: str, database: str, empty: str) -> None:
    store = await open_store(database)
    execute(database, f"UPDATE replicas SET alive_until_ms = {2**60}")
    with pytest.raises(StoreOpenError, match="is served by 1 server"):
        copied(full, database)
    await fill(store)
    await store.close()
    with pytest.raises(CopyError, match="holds a store already: name an empty place"):
        copied(full, database)
    execute(empty, "CREATE TABLE other (one text)")
    with pytest.raises(StoreOpenError, match="has tables of another program"):
        copied(full, empty)
    with pytest.raises(StoreOpenError, match="holds no store"):
        copied(empty, full)


async def test_an_older_store_is_neither_copied_nor_copied_to(
    full: str, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_copying, "schema_version", lambda: 9)
    with pytest.raises(StoreOpenError, match="is of schema 1: `eliza-sessions migrate` brings it to 9 first"):
        copied(database, url(tmp_path / "to.db"))
    with pytest.raises(StoreOpenError, match="holds a store of an older schema: name an empty place"):
        copied(full, database)


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("UPDATE sessions SET metadata = char(0) || metadata", "NUL"),
        ("UPDATE sessions SET user_id = 'secret-name' WHERE rowid = 1", "invalid input syntax for type uuid"),
    ],
)
async def test_a_row_that_postgresql_does_not_take_is_told(
    full: str, empty: str, statement: str, why: str
) -> None:
    with closing(sqlite3.connect(full.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute(statement)
    with pytest.raises(CopyError, match=f"does not take a row: .*{why}") as raised:
        copied(full, empty)
    assert "CONTEXT" not in str(raised.value)


async def test_channels_that_sqlite_wants_to_be_unique_are_told(database: str, tmp_path: Path) -> None:
    store = await open_store(database)
    await fill(store)
    await store.close()
    execute(database, "UPDATE sessions SET channel_id = (SELECT min(channel_id::text)::uuid FROM sessions)")
    with pytest.raises(CopyError, match=r"to\.db does not take a row: UNIQUE constraint failed"):
        copied(database, url(tmp_path / "to.db"))


@pytest.mark.parametrize("schema", [1, 3, 5, 12])
def test_what_a_store_has_kept_of_old_versions_is_sound(schema: int, empty: str, tmp_path: Path) -> None:
    old = tmp_path / "old.db"
    make_old_store(old, schema)
    maintenance(url(old)).migrate()
    there = copied(url(old), empty)
    assert check(empty) == check(url(old))
    assert copied(empty, url(tmp_path / "back.db")) == there
    assert check(url(tmp_path / "back.db")) == check(url(old))


async def test_a_huge_entry_goes_there_and_back(full: str, empty: str, tmp_path: Path) -> None:
    with closing(sqlite3.connect(full.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute(
            "UPDATE log SET content = replace(hex(zeroblob(?)), '00', 'é') WHERE rowid = "
            "(SELECT log.rowid FROM log JOIN sessions ON id = session_id "
            "WHERE message_id IS NOT NULL LIMIT 1)",
            [16 * 1024 * 1024],
        )
    there = copied(full, empty)
    assert copied(empty, url(tmp_path / "back.db")) == there
    assert count_rows(empty, f"log WHERE size >= {16 * 1024 * 1024}") == 1


async def test_a_copy_is_planned_by_its_indexes(full: str, empty: str) -> None:
    copied(full, empty)
    with psycopg.connect(empty) as link:
        link.execute(postgres_copying._SETTINGS)
        for table in copying.TABLES:
            statement, _ = postgres_copying.select_rows(table, None)
            plan = "\n".join(row[0] for row in link.execute(f"EXPLAIN {statement}".encode()).fetchall())
            assert "Sort" not in plan, plan


def test_every_column_of_every_table_is_copied_or_said_to_stay(database: str) -> None:
    with psycopg.connect(database) as link:
        found = link.execute(
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = current_schema() AND is_generated = 'NEVER'"
        ).fetchall()
    tables: dict[str, set[str]] = {}
    for table, column in found:
        tables.setdefault(table, set()).add(column)
    for stays in ("commits", "removed_sessions", "replicas", "schema_version", "test_clock"):
        tables.pop(stays)
    assert tables == {table: set(columns) for table, columns in postgres_copying._WRITE.items()}
