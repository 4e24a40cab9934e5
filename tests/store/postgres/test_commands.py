"""The commands on a PostgreSQL store, as an operator has them."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result

from server.cli.backup import backup, restore
from server.cli.check import check
from server.cli.compact import compact
from server.cli.migrate import migrate
from server.store.postgres import check as checks
from server.store.postgres.store import PostgresStore
from tests.store.conformance.common import say
from tests.store.postgres.opened import Cluster, open_store
from tests.support.postgres import free_port
from tests.unit.samples import EVERYTHING, put, session

pytestmark = pytest.mark.postgres


@pytest.fixture
def empty(cluster: Cluster) -> Iterator[str]:
    """The URL of a database without a store."""
    name = cluster.server.make_database()
    yield cluster.server.url(name)
    cluster.server.remove_database(name)


def run(command: object, url: str, *arguments: str) -> Result:
    result = CliRunner().invoke(command, ["--database-url", url, *arguments])  # type: ignore[arg-type]
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_a_store_is_made_and_checked_and_a_database_without_one_is_said_to_have_none(empty: str) -> None:
    none = run(check, empty)
    assert none.exit_code == 1
    assert "holds no store" in none.output
    for _ in range(2):
        made = run(migrate, empty)
        assert made.exit_code == 0
        assert "is at schema" in made.output
    sound = run(check, empty)
    assert sound.exit_code == 0
    assert "is sound: 0 sessions, 0 entries" in sound.output


async def test_a_store_that_is_served_is_checked_and_what_is_wrong_is_printed(database: str) -> None:
    store: PostgresStore = await open_store(database)
    one = session()
    await put(store, one)
    await store.apply(one.id, say(), scope=EVERYTHING)
    assert "1 sessions, 1 entries, 1 deliveries" in run(check, database).output
    with psycopg.connect(database, autocommit=True) as link:
        link.execute("DELETE FROM log")
    broken = run(check, database)
    await store.close()
    assert broken.exit_code == 1
    assert f"session {one.id}: its log should have" in broken.output
    assert "problems" in broken.output


def test_a_check_takes_as_long_as_it_takes(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads whole tables: what bounds the statements of a call does not end it."""
    slow = "pg_sleep(1.2) AS slow"
    monkeypatch.setattr(checks, "QUESTIONS", {"{}": f"SELECT 1 FROM {slow} WHERE slow::text = 'x'"})
    counted = f"(SELECT gen_random_uuid() AS session_id FROM {slow}) AS slow"
    monkeypatch.setattr(checks, "_TABLES", (counted, "deliveries", "requests"))
    result = run(check, f"{database}?options=-c%20statement_timeout%3D1000")
    assert result.exit_code == 0, result.output
    assert "0 sessions, 1 entries" in result.output


@pytest.mark.parametrize(
    ("command", "says", "arguments"),
    [
        (backup, "pg_dump", ["copy.db"]),
        (restore, "pg_restore", ["copy.db"]),
        (compact, "autovacuum", []),
    ],
)
def test_what_postgresql_does_itself_is_refused_and_says_so(
    database: str, tmp_path: Path, command: object, says: str, arguments: list[str]
) -> None:
    result = run(command, database, *(str(tmp_path / name) for name in arguments))
    assert result.exit_code == 1
    assert says in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [check, migrate])
def test_a_database_that_cannot_be_reached_is_one_line_without_the_password(command: object) -> None:
    for url in (
        f"postgresql://eliza:secret@127.0.0.1:{free_port()}/x",
        "postgresql://eliza:secret@h/x?what=1",
    ):
        result = run(command, url)
        assert result.exit_code == 1
        assert "secret" not in result.output
        assert len(result.output.strip().splitlines()) == 1
