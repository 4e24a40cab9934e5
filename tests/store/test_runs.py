"""Notes of how the last backup and the last check have ended."""

import os
from pathlib import Path

import pytest

from server.store.sqlite.runs import MAX_DETAIL, note_path, read_runs, write_run
from server.store.values import Run, Runs


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def test_a_note_is_read_as_it_was_written_and_takes_the_place_of_the_last(path: Path) -> None:
    assert read_runs(path) == Runs(None, None)
    first, second, check = Run(1, True, "copy.db"), Run(2, False, "no room: 😀"), Run(3, True, "sound")
    write_run(path, "backup", first)
    write_run(path, "check", check)
    assert read_runs(path) == Runs(first, check)
    write_run(path, "backup", second)
    assert read_runs(path) == Runs(second, check)
    assert sorted(one.name for one in path.parent.iterdir()) == [
        "store.db.last-backup",
        "store.db.last-check",
    ]
    assert {one.stat().st_mode & 0o777 for one in path.parent.iterdir()} == {0o600}


def test_a_long_detail_is_cut(path: Path) -> None:
    write_run(path, "check", Run(1, False, "😀" * 10_000))
    found = read_runs(path).check
    assert found
    assert found.detail == "😀" * MAX_DETAIL


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"at_ms": 1}', b'{"at_ms": "x", "is_good": 1, "detail": ""}', b"\xff" * 99],
)
def test_a_note_that_cannot_be_read_says_nothing(path: Path, content: bytes) -> None:
    note_path(path, "backup").write_bytes(content)
    assert read_runs(path) == Runs(None, None)


def test_a_pipe_or_a_link_in_its_place_holds_up_nobody(path: Path) -> None:
    os.mkfifo(note_path(path, "backup"))
    other = path.with_name("other")
    other.write_text('{"at_ms": 1, "is_good": true, "detail": "not ours"}')
    note_path(path, "check").symlink_to(other)
    assert read_runs(path) == Runs(None, None)
    write_run(path, "check", Run(1, True, "ours"))
    assert "not ours" in other.read_text()
    found = read_runs(path).check
    assert found
    assert found.detail == "ours"


def test_the_notes_are_beside_the_file_that_a_link_leads_to(path: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path.symlink_to(tmp_path / "data" / "real.db")
    write_run(path, "backup", Run(1, True, "copy.db"))
    assert (tmp_path / "data" / "real.db.last-backup").exists()
    assert read_runs(tmp_path / "data" / "real.db").backup == Run(1, True, "copy.db")


def test_a_note_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_run(tmp_path / "nowhere" / "store.db", "backup", Run(1, True, ""))
    note_path(tmp_path / "store.db", "check").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        write_run(tmp_path / "store.db", "check", Run(1, True, ""))
    assert [one.name for one in tmp_path.iterdir()] == ["store.db.last-check"]
