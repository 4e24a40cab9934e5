"""What removed rows leave outside of tables: bytes in the file from before they were overwritten, and the log
of writes.
"""

import shutil
import sqlite3
from pathlib import Path
from typing import Final

import structlog

AUTO_VACUUM: Final = "PRAGMA auto_vacuum = INCREMENTAL"
"""Has a file give pages back that it no longer needs, once `shrink` asks: in a new file at once, in another
from its next rewrite on.
"""
BUSY_TIMEOUT_S: Final = 5.0
"""How long a connection waits for another one's lock."""
REWRITE_BYTES: Final = 256 * 1024 * 1024
"""How large a file is rewritten while the service runs: writers wait for a few seconds."""
_CHECKPOINT_TIMEOUT_MS: Final = 500
"""How long the emptying of the log waits for readers: others wait to write meanwhile."""

log = structlog.get_logger()


def rewrite(path: Path, connection: sqlite3.Connection) -> None:
    """Rewrites the file once, where a migration or an erase asks for it: earlier versions did not overwrite
    what they removed, and SQLite leaves copies of rows behind that it has moved to another page.

    Where there is no room, the file stays as it is until the next start. Raises sqlite3.Error where it cannot
    be read.
    """
    if not _is_pending(connection):
        return
    size, free = path.stat().st_size, shutil.disk_usage(path.parent).free
    # SQLite writes the whole file into its log, then into the file.
    if free < 2 * size:
        log.warning("the store is not rewritten: there is no room", file=str(path), size=size, free=free)
        return
    log.info("rewriting the store once, so that nothing removed is left in it", file=str(path), size=size)
    try:
        vacuum(connection)
    except sqlite3.OperationalError as error:
        log.warning("the store is not rewritten", file=str(path), cause=str(error))
        return
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.execute("DELETE FROM pending_rewrite")


def vacuum(connection: sqlite3.Connection) -> None:
    """Rewrites the file as a whole, and has it give pages back from then on. Raises sqlite3.Error."""
    connection.execute(AUTO_VACUUM)
    connection.execute("VACUUM")


def finish_erasure(path: Path, connection: sqlite3.Connection) -> list[str]:
    """Rewrites the file, which SQLite has moved rows within, and empties the log; nobody may be writing.

    A large file is rewritten at the next start, because writers would wait too long. Returns what could not
    be done. Raises sqlite3.Error.
    """
    if not _is_pending(connection):
        connection.execute("INSERT INTO pending_rewrite VALUES (0)")
    if path.stat().st_size <= REWRITE_BYTES:
        rewrite(path, connection)
    return [*_empty_log(path, connection), *_why_not_rewritten(path, connection)]


def _empty_log(path: Path, connection: sqlite3.Connection) -> list[str]:
    """Has the log of writes moved into the file and emptied. Returns why not, if a reader hinders it."""
    connection.execute(f"PRAGMA busy_timeout = {_CHECKPOINT_TIMEOUT_MS}").fetchall()
    try:
        is_busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    finally:
        connection.execute(f"PRAGMA busy_timeout = {round(BUSY_TIMEOUT_S * 1000)}").fetchall()
    if not is_busy:
        return []
    return [f"A reader of the store, such as a backup, kept {path.name}-wal from being emptied: erase again"]


def _why_not_rewritten(path: Path, connection: sqlite3.Connection) -> list[str]:
    """Says so where the file is yet to be rewritten."""
    if not _is_pending(connection):
        return []
    size = path.stat().st_size
    return [
        f"Unused parts of {path.name} may still hold removed bytes: it is rewritten at the next start of the "
        f"service, which needs {2 * size} bytes free"
    ]


def _is_pending(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM pending_rewrite").fetchone() is not None
