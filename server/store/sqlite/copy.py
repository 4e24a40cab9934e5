"""Copies of a SQLite store: taken while it is served, checked, and put in place whole or not at all."""

import os
import secrets
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from server.store.sqlite.check import problems
from server.store.sqlite.file import (
    FileLock,
    check_sound,
    check_version,
    connect,
    make_directory,
    migrate,
    reading,
    real_path,
    schema_version,
)
from server.store.tools import Progress
from server.store.values import CopyError, StoreOpenError

STEP_PAGES: Final = 256


@contextmanager
def reading_current(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that reads a store in this version's schema; of a store of an older schema, a copy that is
    migrated.

    The copy needs as much room as the store in the directory for temporary files, and is removed afterwards.

    Raises StoreOpenError, OSError or sqlite3.Error.
    """
    with reading(path) as connection:
        if check_version(path, connection) == schema_version():
            yield connection
            return
        with tempfile.TemporaryDirectory(prefix="eliza-sessions-") as directory:
            copy = Path(directory) / path.name
            _copy(connection, copy, lambda done, total: None)
            with closing(connect(copy)) as writing:
                migrate(copy, writing)
            with reading(copy) as migrated:
                yield migrated


def stored_schema(path: Path) -> int:
    """The schema of a store, which may be an older one. Raises StoreOpenError, OSError or sqlite3.Error."""
    with reading(path) as connection:
        return check_version(path, connection)


def copy_store(source: Path, target: Path, progress: Progress) -> None:
    """Copies a store, as it is at one moment, to a file that must not be there yet. Raises CopyError.

    Writers go on meanwhile: the copy reads one snapshot.
    """
    if not target.name:
        raise CopyError("no file is named")
    for name in (target.name, f"{target.name}-wal", f"{target.name}-shm", f"{target.name}-journal"):
        if target.with_name(name).exists():
            raise CopyError(f"{target.with_name(name)} exists already: it is not overwritten")
    partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}.partial")
    try:
        with reading(source) as connection:
            _copy(connection, partial, progress)
        # A link refuses where a rename would overwrite what somebody has put there meanwhile.
        os.link(partial, target)
        _sync_directory(target.parent)
    except (OSError, sqlite3.Error, StoreOpenError) as error:
        raise CopyError(f"{source} cannot be copied to {target}: {error}") from error
    finally:
        # Where it could not be made it cannot be removed either, and that has been told.
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def restore_store(source: Path, target: Path, progress: Progress) -> None:
    """Copies a sound backup to where a store is to be, which nobody may be serving. Raises CopyError.

    A backup of an older schema is copied as it is: whoever opens the store migrates it.
    """
    target = real_path(target)
    try:
        make_directory(target)
        lock = FileLock(target)
    except (OSError, StoreOpenError) as error:
        raise CopyError(f"{source} cannot be copied to {target}: {error}") from error
    try:
        _require_sound(source)
        copy_store(source, target, progress)
    finally:
        lock.release()


def _require_sound(source: Path) -> None:
    """Raises CopyError for a backup in which not everything fits together."""
    try:
        with reading_current(source) as connection:
            problem = next(problems(connection), None)
    except (OSError, sqlite3.Error, StoreOpenError) as error:
        raise CopyError(f"{source} cannot be restored: {error}") from error
    if problem:
        raise CopyError(
            f"{source} is not sound ({problem}): `eliza-sessions check` tells all that is wrong with it"
        )


def _copy(source: sqlite3.Connection, partial: Path, progress: Progress) -> None:
    """Copies a database as it is at one moment into a new file that only its owner can read.

    Raises OSError, sqlite3.Error.
    """
    os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(partial, isolation_level=None)) as writing:
        # Held open, so that all steps read one snapshot; else a copy would begin anew at every commit.
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        source.backup(
            writing,
            pages=STEP_PAGES,
            progress=lambda _, remaining, total: progress(total - remaining, total),
            sleep=0,
        )
        source.execute("ROLLBACK")
        check_sound(writing)
        # One file, without a log beside it.
        writing.execute("PRAGMA journal_mode = DELETE").fetchall()
    descriptor = os.open(partial, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
