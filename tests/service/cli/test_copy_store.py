"""`eliza-sessions copy-store`, as an operator meets it."""

import re
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from server.store import copying
from server.store.copying import TABLES
from tests.support.clients import clean_failure, command, create, history, invoke, refused, replies, send
from tests.support.service import Start, environment
from tests.support.terminal import Terminal
from tests.support.waiting import until


def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A store that somebody has made, and that has nothing in it."""
    path = tmp_path / "store.db"
    assert invoke("migrate", DATABASE_URL=url(path)).status == 0
    return path


def test_a_store_is_copied_while_nobody_serves_it(start: Start, tmp_path: Path) -> None:
    target = tmp_path / "moved" / "store.db"
    service = start("--no-rest", DATABASE_URL=url(tmp_path / "from.db"))
    session_id = create(service).session_id
    send(service, session_id, "kept")
    replies(service, session_id, 1)
    copied = ("copy-store", url(tmp_path / "from.db"), url(target))
    assert "from.db is in use by another process" in clean_failure(invoke(*copied))
    assert not target.exists()
    assert service.stop() == 0
    done = invoke(*copied)
    assert (done.status, done.errors) == (0, "")
    *lines, last = done.out.splitlines()
    assert last == f"{target} holds what {tmp_path / 'from.db'} holds: 10 rows"
    assert [re.sub(r" +(\d+)  [0-9a-f]{32}$", r" \1", line) for line in lines] == [
        f"{table} {rows}" for table, rows in zip(TABLES, (1, 1, 1, 4, 2, 1, 0), strict=True)
    ]
    assert invoke("check", "--database-url", url(target)).status == 0
    assert "holds a store already: name an empty place" in clean_failure(invoke(*copied))
    moved = start("--no-rest", DATABASE_URL=url(target))
    assert [message.content for message in history(moved, session_id)] == ["kept", "kept"]


def test_ctrl_c_ends_it_in_order_and_the_same_command_goes_on(source: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) INSERT INTO "
            "seeded_agents SELECT printf('%08x-0000-4000-8000-000000000000', i) FROM n"
        )
    target = tmp_path / "to.db"
    arguments = "copy-store", url(source), url(target)
    # Small transactions, so that there are many of them.
    program = (
        "from server.store import copying; copying.BATCH_ROWS = 20; from server.cli import main; "
        "main(prog_name='eliza-sessions')"
    )
    process = subprocess.Popen(
        [command()[0], "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    until(lambda: noted(target) > 0, "the first rows")
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    told = re.fullmatch(
        r"Error: stopped after (\d+) of 400000 steps: the same command goes on from there; until then "
        rf"{re.escape(str(target))} cannot be served\n",
        errors,
    )
    assert told, errors
    assert int(told[1]) == noted(target)
    assert "is a copy that is not finished: repeat `eliza-sessions copy-store FROM TO`" in refused(
        "serve", "--no-rest", cwd=tmp_path, DATABASE_URL=url(target)
    )
    with Terminal(*arguments) as terminal:
        terminal.expect(f"{source} to {target}")
        terminal.expect("100%")
        terminal.expect("200000 rows")
        assert terminal.end() == 0


def noted(target: Path) -> int:
    """How many rows a copy has, by its note."""
    if not target.is_file():
        return 0
    with closing(sqlite3.connect(f"file:{target}?mode=ro", uri=True)) as connection:
        try:
            ((note,),) = connection.execute("SELECT note FROM store_copy").fetchall()
        except sqlite3.OperationalError:
            # It is being made.
            return 0
    return copying.read_note(note).rows


def test_what_cannot_be_copied_is_told_in_a_line(source: Path, tmp_path: Path) -> None:
    none = url(tmp_path / "none.db")
    assert "none.db is not there, or empty" in clean_failure(
        invoke("copy-store", none, url(tmp_path / "to.db"))
    )
    told = clean_failure(invoke("copy-store", "mysql://me:secret@host/db", none))
    assert "FROM is 'mysql://me:…@host/db': this version opens" in told
    for place in ("mysql://host/db?user=me&password=secret", "host=h password = 'my secret' user=me"):
        assert "secret" not in clean_failure(invoke("copy-store", place, none))
    assert "TO is" in clean_failure(invoke("copy-store", url(source), "somewhere"))
    same = invoke("copy-store", url(source), url(source))
    assert (same.status, same.out) == (2, "")
    assert "FROM and TO are the same" in same.errors
    assert invoke("copy-store", url(source)).status == 2
