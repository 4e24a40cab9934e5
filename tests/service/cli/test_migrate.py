"""`eliza-sessions migrate` as a user meets it."""

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.clients import (
    agent_ids,
    clean_failure,
    create,
    history,
    invoke,
    refused,
    replies,
    run,
    send,
)
from tests.support.service import ECHO, Start

pytestmark = pytest.mark.sqlite


def test_migrate_makes_a_store_and_leaves_it_alone_afterwards(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "new" / "store.db"
    for _ in range(2):
        done = invoke("migrate", "--database-url", f"sqlite:///{path}")
        assert (done.status, done.errors) == (0, "")
        assert re.fullmatch(rf"{re.escape(str(path))} is at schema \d+\n", done.out)
        content = path.read_bytes()
    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o600
    assert agent_ids(start("--no-rest", DATABASE_URL=f"sqlite:///{path}")) == [ECHO]


def test_migrate_keeps_what_is_in_the_store(start: Start, tmp_path: Path) -> None:
    first = start("--no-rest")
    session_id = create(first).session_id
    send(first, session_id, "kept")
    replies(first, session_id, 1)
    first.kill()
    assert invoke("migrate", DATABASE_URL=f"sqlite:///{tmp_path / 'store.db'}").status == 0
    assert [message.content for message in history(start("--no-rest"), session_id)] == ["kept", "kept"]


def test_migrate_takes_a_relative_path(tmp_path: Path) -> None:
    assert run("migrate", cwd=tmp_path).out.startswith("eliza-sessions.db is at schema ")
    assert (tmp_path / "eliza-sessions.db").exists()


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE customers (name TEXT)")


def newer(path: Path) -> None:
    assert invoke("migrate", DATABASE_URL=f"sqlite:///{path}").status == 0
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def damaged(path: Path) -> None:
    path.write_text("Dear diary, today I became a database.\n" * 100)


@pytest.mark.parametrize(
    ("make", "word"), [(foreign, "another program"), (newer, "newer"), (damaged, "no SQLite database")]
)
def test_a_file_that_is_not_ours_is_refused_and_left_alone(
    tmp_path: Path, make: Callable[[Path], None], word: str
) -> None:
    path = tmp_path / "file.db"
    make(path)
    content = path.read_bytes()
    url = f"sqlite:///{path}"
    for line in (
        clean_failure(invoke("migrate", DATABASE_URL=url)),
        refused("serve", cwd=tmp_path, DATABASE_URL=url),
    ):
        assert [part for part in (str(path), word) if part not in line] == []
    assert path.read_bytes() == content


def test_a_place_that_cannot_hold_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "store.db"):
        assert str(path) in clean_failure(invoke("migrate", DATABASE_URL=f"sqlite:///{path}"))
