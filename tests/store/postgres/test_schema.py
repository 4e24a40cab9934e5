"""How a PostgreSQL store is made, opened, and migrated while servers of two versions run."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psycopg
import pytest
from structlog.testing import capture_logs

from server.store import build_clock, maintenance, open_store
from server.store.postgres import schema
from server.store.postgres.place import Place
from server.store.postgres.schema import prepare, schema_version
from server.store.values import CopyError, StoreOpenError
from tests.store.postgres.opened import Cluster
from tests.store.postgres.opened import open_store as open_postgres
from tests.support.inside_postgres import all_migrations

pytestmark = pytest.mark.postgres

NEXT = {
    2: ("ALTER TABLE agents ADD COLUMN more text", "ALTER TABLE agents DROP COLUMN name"),
    3: ("ALTER TABLE agents ADD COLUMN most text", ""),
}


@pytest.fixture
def empty(cluster: Cluster) -> Iterator[str]:
    """The URL of a database without any table."""
    name = cluster.server.make_database()
    yield cluster.server.url(name)
    cluster.server.remove_database(name)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version of the service with two more migrations."""
    known = all_migrations()
    monkeypatch.setattr(schema, "_migrations", lambda: {**known, **NEXT})


def columns(url: str) -> set[str]:
    with psycopg.connect(url) as link:
        found = link.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'agents'"
        ).fetchall()
    return {name for (name,) in found}


def versions(url: str) -> tuple[int, int]:
    with psycopg.connect(url) as link:
        ((version, cleared),) = link.execute("SELECT version, cleared FROM schema_version").fetchall()
    return version, cleared


def test_servers_that_start_together_make_the_store_once(empty: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(prepare, [Place(empty)] * 4))
    assert versions(empty) == (1, 1)
    assert maintenance(empty).stored_schema() == schema_version() == 1


@pytest.mark.usefixtures("later")
def test_a_store_is_migrated_step_by_step(empty: str) -> None:
    with capture_logs() as logs:
        prepare(Place(empty))
    told = [(line["event"], line["schema"]) for line in logs]
    assert told == [("made the tables", 1), ("migrated the store", 2), ("migrated the store", 3)]
    assert versions(empty) == (3, 3)
    assert {"more", "most"} <= columns(empty)
    assert "name" not in columns(empty)


async def test_what_an_older_server_needs_stays_as_long_as_it_runs(
    empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = await open_postgres(empty)
    known = all_migrations()
    monkeypatch.setattr(schema, "_migrations", lambda: {**known, **NEXT})
    await asyncio.to_thread(prepare, Place(empty))
    # The new server has what it needs, and the old one goes on.
    assert versions(empty) == (3, 1)
    assert {"name", "more", "most"} <= columns(empty)
    await older.check_writable()
    await older.close()
    await asyncio.to_thread(prepare, Place(empty))
    assert versions(empty) == (3, 3)
    assert "name" not in columns(empty)


def test_a_migration_that_fails_changes_nothing(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = all_migrations()
    broken = {**known, 2: ("ALTER TABLE agents ADD COLUMN more text; SELECT nonsense", "")}
    prepare(Place(empty))
    monkeypatch.setattr(schema, "_migrations", lambda: broken)
    with pytest.raises(StoreOpenError, match="nonsense"):
        prepare(Place(empty))
    assert versions(empty) == (1, 1)
    assert "more" not in columns(empty)


@pytest.mark.usefixtures("later")
def test_a_store_of_a_newer_version_is_refused(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(Place(empty))
    monkeypatch.undo()
    for refused in (partial(prepare, Place(empty)), maintenance(empty).stored_schema):
        with pytest.raises(StoreOpenError, match="newer version \\(schema 3, this one knows 1\\)"):
            refused()


def test_a_database_of_another_program_is_left_alone(empty: str) -> None:
    with psycopg.connect(empty, autocommit=True) as link:
        link.execute("CREATE TABLE theirs (id integer)")
    with pytest.raises(StoreOpenError, match="tables of another program"):
        prepare(Place(empty))
    with pytest.raises(StoreOpenError, match="holds no store"):
        maintenance(empty).check(str)


def test_a_database_of_another_encoding_is_refused(cluster: Cluster) -> None:
    cluster.server.execute("CREATE DATABASE latin ENCODING LATIN1 TEMPLATE template0")
    with pytest.raises(StoreOpenError, match="LATIN1: make the database with UTF8"):
        prepare(Place(cluster.server.url("latin")))


@pytest.mark.parametrize(
    "url", ["postgresql://eliza:secret@127.0.0.1:1/x", "postgresql://eliza:secret@127.0.0.1/x?nonsense=1"]
)
async def test_a_store_that_cannot_be_reached_is_said_so_without_its_password(url: str) -> None:
    with pytest.raises(StoreOpenError) as caught:
        await open_store(url, build_clock(url, is_test=False))
    assert "secret" not in str(caught.value)


def test_what_only_a_file_has_is_refused(empty: str, tmp_path: Path) -> None:
    tools = maintenance(empty)
    tools.migrate()
    problems: list[str] = []
    assert tools.check(problems.append) == "0 sessions, 0 entries, 0 deliveries, 0 requests"
    assert problems == []
    assert "secret" not in maintenance("postgresql://a:secret@h,i:5/x").place
    assert maintenance("postgresql://a:secret@h,i:5/x").place == "postgresql://h,i:5/x"
    with pytest.raises(StoreOpenError, match="autovacuum"):
        tools.compact(lambda done, total: None)
    for copy, tool in ((tools.back_up, "pg_dump"), (tools.restore, "pg_restore")):
        with pytest.raises(CopyError, match=tool):
            copy(tmp_path / "file", lambda done, total: None)
