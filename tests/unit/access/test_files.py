"""Files that are read again when they change, and never let go of their last good content."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from server.access import files
from server.access.errors import AccessError
from server.access.files import WatchedFile
from server.access.keys import open_keys
from server.domain.access import ALL_VERBS
from tests.unit.access.support import write


def parse(content: bytes) -> str:
    text = content.decode()
    if text.startswith("bad"):
        raise ValueError("line 1: it is bad")
    return text


def watch(path: Path) -> WatchedFile[str]:
    return WatchedFile("KEYS_FILE", path, parse)


def test_a_change_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "keys", "one")
    watched = watch(path)
    assert (watched.value, watched.reload_if_changed()) == ("one", False)
    write(path, "two")
    assert watched.reload_if_changed()
    assert watched.value == "two"
    assert not watched.reload_if_changed()
    replacement = write(tmp_path / "new", "six")
    replacement.rename(path)
    assert watched.reload_if_changed()
    assert watched.value == "six"


def test_a_write_that_the_times_hide_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "keys", "one")
    monkeypatch.setattr(files, "_stamp_of", lambda status: (0, 0, status.st_size, status.st_ino))
    watched = watch(path)
    path.write_text("two")
    assert watched.reload_if_changed()
    assert watched.value == "two"


def test_an_unchanged_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = watch(write(tmp_path / "keys", "one"))
    watched.reload_if_changed()
    monkeypatch.setattr(files, "_read", lambda path: pytest.fail("it was read"))
    assert not watched.reload_if_changed()


def test_a_file_that_is_nested_too_deeply_is_wrong(tmp_path: Path) -> None:
    path = write(tmp_path / "keys", "")
    keys = open_keys(path, lambda: 0, ALL_VERBS)
    write(path, "keys = " + "[" * 20_000)
    with capture_logs() as lines:
        assert not keys.reload_if_changed()
    assert "nested too deeply" in lines[0]["cause"]
    with pytest.raises(AccessError, match="nested too deeply"):
        open_keys(path, lambda: 0, ALL_VERBS)


def test_a_broken_change_leaves_the_last_content_and_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "keys", "one")
    watched = watch(path)
    for breaking in (lambda: write(path, "bad"), path.unlink, lambda: write(path, "x", 0o622)):
        breaking()
        with capture_logs() as lines:
            assert not any(watched.reload_if_changed() for _ in range(4))
        assert watched.value == "one"
        assert [line["log_level"] for line in lines] == ["warning"]
        assert str(path) in lines[0]["cause"]
        assert "KEYS_FILE" in lines[0]["cause"]
    path.chmod(0o600)
    assert watched.reload_if_changed()
    assert watched.value == "x"


def test_a_broken_file_stops_the_start(tmp_path: Path) -> None:
    path = write(tmp_path / "keys", "bad")
    with pytest.raises(AccessError, match=r"^KEYS_FILE /.*/keys: line 1: it is bad$"):
        watch(path)
    with pytest.raises(AccessError, match="No such file"):
        watch(tmp_path / "none")
    with pytest.raises(AccessError, match="Is a directory"):
        watch(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(AccessError, match="it is no file"):
        watch(tmp_path / "pipe")


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_stops_the_start(tmp_path: Path, mode: int) -> None:
    with pytest.raises(AccessError, match="others than its owner may write it"):
        watch(write(tmp_path / "keys", "one", mode))


def test_a_file_that_is_too_large_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 2)
    with pytest.raises(AccessError, match="more than 2 bytes"):
        watch(write(tmp_path / "keys", "one"))


@pytest.mark.parametrize(("mode", "warnings"), [(0o600, 0), (0o400, 0), (0o640, 1), (0o604, 1), (0o444, 1)])
def test_a_file_that_others_may_read_is_warned_of_once(tmp_path: Path, mode: int, warnings: int) -> None:
    path = write(tmp_path / "keys", "one", mode)
    with capture_logs() as lines:
        watched = watch(path)
        for _ in range(3):
            watched.reload_if_changed()
    assert len(lines) == warnings
    assert all("may read" in line["event"] for line in lines)
