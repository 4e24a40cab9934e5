"""How a SQLite file becomes smaller: in small steps while it is served, or as a whole while it is not."""

import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from server.store.sqlite.file import (
    FileLock,
    check_header,
    check_sound,
    check_version,
    connect,
    explaining,
    real_path,
    schema_version,
)
from server.store.sqlite.removal import Pieces
from server.store.sqlite.rewrite import vacuum
from server.store.tools import Progress
from server.store.values import StoreOpenError

KEPT_PAGES: Final = 256
KEPT_PART: Final = 10
"""How many free pages stay in the file for what comes next: as many as this, and a part in so many of all."""

STEP_PAGES: Final = 256
"""How many pages a step gives back at most."""

_TEMPORARY: Final = ("/var/tmp", "/usr/tmp", "/tmp")
_OPS_PER_ROW: Final = 4.3
"""How many operations SQLite's machine takes for each row, of a table or an index; measured."""
_OPS: Final = 1000
_LOOK_SECONDS: Final = 0.1


def shrink(connection: sqlite3.Connection, pieces: Pieces) -> bool:
    """Takes a step of giving free pages back; returns whether there are more to give.

    A file that was made without `auto_vacuum` gives none. The file itself gets smaller at a checkpoint.
    """
    if not read_pragma(connection, "auto_vacuum"):
        return False
    kept = max(KEPT_PAGES, read_pragma(connection, "page_count") // KEPT_PART)
    surplus = read_pragma(connection, "freelist_count") - kept

    def take_piece(pages: int) -> int:
        before = read_pragma(connection, "freelist_count")
        for _ in range(pages):
            # Python takes one step only of a statement without columns, which is one page.
            connection.execute("PRAGMA incremental_vacuum(1)")
        return before - read_pragma(connection, "freelist_count")

    return surplus > 0 and 0 < pieces.take(min(surplus, STEP_PAGES), take_piece) < surplus


def compact(path: Path, progress: Progress) -> tuple[int, int]:
    """Rewrites a store that nobody serves, without its free pages, and has it give such back from then on.

    Returns its size in bytes before and afterwards. Raises StoreOpenError, saying why.
    """
    path = real_path(path)
    if not path.is_file() or not path.stat().st_size:
        raise StoreOpenError(f"{path} is not there, or empty")
    with explaining(path):
        lock = FileLock(path)
        try:
            check_header(path)
            with closing(connect(path)) as connection:
                return _compact(path, connection, progress)
        finally:
            lock.release()


def _compact(path: Path, connection: sqlite3.Connection, progress: Progress) -> tuple[int, int]:
    if (version := check_version(path, connection)) < schema_version():
        raise StoreOpenError(
            f"{path} is of schema {version}: `eliza-sessions migrate` brings it to {schema_version()} first"
        )
    check_sound(connection)
    # What a killed service has left in the log counts, too.
    _empty_log(path, connection)
    before = path.stat().st_size
    _require_room(path, _live_bytes(connection))
    with _watching(path, connection, progress):
        vacuum(connection)
    _empty_log(path, connection)
    connection.execute("DELETE FROM pending_rewrite")
    return before, path.stat().st_size


def _empty_log(path: Path, connection: sqlite3.Connection) -> None:
    """Has the log of writes moved into the file. Raises StoreOpenError where a reader hinders it."""
    if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        raise StoreOpenError(
            f"{path} is being read, by a backup perhaps, and cannot become smaller: try again afterwards"
        )


def _require_room(path: Path, live_bytes: int) -> None:
    """Raises StoreOpenError where there is no room for a copy in SQLite's directory for temporary files and
    one in its log.
    """
    # A twentieth more for the log's own records.
    copy_bytes, needed = live_bytes + live_bytes // 20, dict[int, int]()
    for directory in (_temporary_directory(), path.parent):
        device = directory.stat().st_dev
        needed[device] = needed.get(device, 0) + copy_bytes
        free = shutil.disk_usage(directory).free
        if free < needed[device]:
            raise StoreOpenError(
                f"{path} cannot be compacted: {needed[device]} bytes must be free on the file system of "
                f"{directory}, which has {free}"
            )


def _temporary_directory() -> Path:
    """Where SQLite puts temporary files: the first of these that it can write to."""
    named = (os.environ.get("SQLITE_TMPDIR"), os.environ.get("TMPDIR"), *_TEMPORARY)
    found = (Path(name) for name in named if name and os.path.isdir(name))
    return next((one for one in found if os.access(one, os.W_OK | os.X_OK)), Path())


@contextmanager
def _watching(path: Path, connection: sqlite3.Connection, progress: Progress) -> Iterator[None]:
    """Tells how far a rewrite is, about: the first half is the copy, the second one the log of writes."""
    live_bytes, ops, is_done = _live_bytes(connection), 0, threading.Event()
    expected_ops = max(1.0, _count_rows(connection) * _OPS_PER_ROW)
    log_path = path.with_name(f"{path.name}-wal")

    def count() -> None:
        nonlocal ops
        ops += _OPS

    def tell() -> None:
        while not is_done.wait(_LOOK_SECONDS):
            copied = round(live_bytes * min(1.0, ops / expected_ops))
            written = log_path.stat().st_size if log_path.is_file() else 0
            progress(copied + min(live_bytes, written), 2 * live_bytes)

    thread = threading.Thread(target=tell, name="compact-progress", daemon=True)
    connection.set_progress_handler(count, _OPS)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()
        connection.set_progress_handler(None, 0)
    progress(2 * live_bytes, 2 * live_bytes)


def _count_rows(connection: sqlite3.Connection) -> int:
    """How many rows the tables and the indexes have, about."""
    rows = 0
    for name, indexes in connection.execute(
        "SELECT name, (SELECT count(*) FROM sqlite_schema AS other WHERE other.type = 'index' AND "
        "other.tbl_name = one.name) FROM sqlite_schema AS one WHERE type = 'table'"
    ).fetchall():
        found = connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
        rows += found * (1 + indexes)
    return rows


def _live_bytes(connection: sqlite3.Connection) -> int:
    """How large the file is without its free pages."""
    pages = read_pragma(connection, "page_count") - read_pragma(connection, "freelist_count")
    return pages * read_pragma(connection, "page_size")


def read_pragma(connection: sqlite3.Connection, name: str) -> int:
    """The number that a pragma says."""
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value
