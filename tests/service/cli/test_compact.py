"""`eliza-sessions compact`, as an operator meets it."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.clients import clean_failure, create, history, invoke, replies, send
from tests.support.service import Start
from tests.support.terminal import Terminal

pytestmark = pytest.mark.sqlite


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def bloat(path: Path) -> None:
    """Has the file grow by much that nothing needs any more, and give none of it back."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE more (one)")
        connection.executemany("INSERT INTO more VALUES (?)", [("x" * 4000,)] * 2000)
        connection.execute("DROP TABLE more")


def test_a_store_is_compacted_while_nobody_serves_it(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    service = start("--no-rest")
    session_id = create(service).session_id
    send(service, session_id, "kept")
    replies(service, session_id, 1)
    told = clean_failure(invoke("compact", DATABASE_URL=url(path)))
    assert "in use by another process" in told
    assert service.stop() == 0
    bloat(path)
    size = path.stat().st_size
    done = invoke("compact", "--database-url", url(path))
    assert (done.status, done.errors) == (0, "")
    assert done.out == f"{path}: {size} bytes before, {path.stat().st_size} bytes now\n"
    assert path.stat().st_size < size / 10
    assert invoke("check", DATABASE_URL=url(path)).status == 0
    assert [message.content for message in history(start("--no-rest"), session_id)] == ["kept", "kept"]


def test_who_watches_sees_how_far_it_is(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    assert invoke("migrate", DATABASE_URL=url(path)).status == 0
    bloat(path)
    with Terminal("compact", "--database-url", url(path)) as terminal:
        terminal.expect(f"Compacting {path}")
        terminal.expect("100%")
        terminal.expect("bytes now")
        assert terminal.end() == 0


def test_a_store_that_cannot_be_compacted_is_told_in_a_line(tmp_path: Path) -> None:
    told = clean_failure(invoke("compact", DATABASE_URL=url(tmp_path / "none.db")))
    assert re.fullmatch(r"Error: \S+none\.db is not there, or empty", told)
