"""The SQLite file: made, locked, checked and migrated before anyone uses it."""

import fcntl
import os
import re
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path
from typing import Final

import structlog

from server.domain.errors import ResourceExhaustedError, UnavailableError
from server.store.copying import UNFINISHED
from server.store.sqlite.damage import corrupt, reading_schema
from server.store.sqlite.rewrite import AUTO_VACUUM, BUSY_TIMEOUT_S, rewrite
from server.store.values import StoreDamagedError, StoreOpenError

APPLICATION_ID: Final = 0x656C7A61
"""Marks a file as ours: "elza" in ASCII."""

COPY_TABLE: Final = "store_copy"
"""The table that a copy has until it is finished."""

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_NOTE_COLUMNS = f"PRAGMA table_info({COPY_TABLE})"
_APPLICATION_ID = slice(68, 72)

_CACHE_KIB = 32_768
# A reader's cache is empty after each commit, which is another connection's.
_READ_CACHE_KIB = 4_096
# SQLite's own, 1,000, is reached every few groups of writes, each of which would then write most of the same
# pages into the file.
_CHECKPOINT_PAGES = 4000
_JOURNAL_LIMIT_BYTES = 64 * 1024 * 1024
_LITTLE_ROOM_BYTES = 1024 * 1024

log = structlog.get_logger()


class FileLock:
    """Holds `<file>.lock` for this process, so that no second one works on the same file.

    The system lets go of it however the process ends.
    """

    def __init__(self, path: Path) -> None:
        """Takes the lock of a file under its real path.

        Raises StoreOpenError, naming the process that has it, or OSError.
        """
        self._path = path.with_name(path.name + ".lock")
        # Not through a link, which somebody may have put there to have another file emptied.
        self._fd = os.open(
            self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600
        )
        try:
            self._take(path)
        except BaseException:
            os.close(self._fd)
            raise

    def _take(self, path: Path) -> None:
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise StoreOpenError(
                f"{self._path} is a link or no regular file: remove it, if no service runs on {path}"
            )
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._fd, 20).decode(errors="replace").strip() or "unknown"
            raise StoreOpenError(
                f"{path} is in use by another process (pid {holder}): one process owns the file"
            ) from None
        if not self.is_held():
            raise StoreOpenError(f"{self._path} was replaced while {path} was opened: try again")
        if stat.S_IMODE(found.st_mode) != 0o600:
            os.fchmod(self._fd, 0o600)
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def is_held(self) -> bool:
        """Whether the lock still keeps others out: once its file is gone from its place, another process can
        take a new one.
        """
        held = os.fstat(self._fd)
        return file_identity(self._path) == (held.st_dev, held.st_ino)

    def release(self) -> None:
        """Lets go of the lock."""
        os.close(self._fd)


def real_path(path: Path) -> Path:
    """The path of a file itself, where `path` leads to it through links: so all who open it
    meet at one lock.
    """
    return Path(os.path.realpath(path))


def prepare(path: Path, *, is_copying: bool = False) -> FileLock:
    """Makes the file and its last directory where they are missing, locks it, checks that it is sound and
    ours, and migrates it. Only whoever is copying may open a copy that is not finished.

    Raises StoreOpenError, saying why; the file is then as it was.
    """
    path = real_path(path)
    with explaining(path):
        make_directory(path)
        lock = FileLock(path)
        try:
            _make_file(path)
            check_header(path)
            with closing(connect(path)) as connection:
                check_sound(connection)
                migrate(path, connection, is_copying=is_copying)
                rewrite(path, connection)
                # Waits for the last write of a process that has lost its lock: in each write it looks whether
                # it has it.
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            _warn_of_others(path)
        except BaseException:
            lock.release()
            raise
    return lock


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Raises StoreOpenError, saying why, where the file cannot be used."""
    try:
        yield
    except OSError as error:
        raise StoreOpenError(f"{path} cannot be opened: {error.strerror}") from error
    except sqlite3.Error as error:
        if _primary_code(error) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise _damaged(path, str(error)) from error
        raise StoreOpenError(f"{path} cannot be used: {error}{_room(path)}") from error


def _make_file(path: Path) -> None:
    """Makes the file, for its owner only, unless it is there.

    Raises OSError, or StoreOpenError where it has a second name.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise StoreOpenError(f"{path} is no regular file")
    if found.st_nlink > 1:
        # Under the other one a second process would have another lock, and SQLite another log.
        raise StoreOpenError(f"{path} has {found.st_nlink} names (hard links): remove the others")


def _warn_of_others(path: Path) -> None:
    """Tells the operator where others may touch the file, or put their own in the place of
    those beside it.
    """
    file_mode = path.stat().st_mode
    if file_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = oct(stat.S_IMODE(file_mode))
        log.warning(
            "others may read or write the store's file", file=str(path), mode=mode, remedy="chmod 600"
        )
    if path.parent.stat().st_mode & stat.S_IWOTH:
        log.warning("others may put files beside the store", directory=str(path.parent), remedy="chmod o-w")


def make_directory(path: Path) -> None:
    """Makes the directory of a file where it is missing, but none above it: a wrong path is refused.

    Raises StoreOpenError, OSError.
    """
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError as error:
        raise StoreOpenError(f"{path} cannot be made: there is no directory {path.parent.parent}") from error


def _room(path: Path) -> str:
    """Says so where there is hardly room: SQLite calls that an I/O error, or worse."""
    free = shutil.disk_usage(path.parent).free
    return f" ({free} bytes are free on its file system)" if free < _LITTLE_ROOM_BYTES else ""


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode, for use by one thread at a time. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    with reading_schema():
        connection.execute(f"PRAGMA cache_size = -{_READ_CACHE_KIB if read_only else _CACHE_KIB}")
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    else:
        # FULL: a commit has reached the disk before anyone is told of it.
        connection.execute("PRAGMA synchronous = FULL")
        # What is removed is overwritten, so that nobody reads it in the file.
        connection.execute("PRAGMA secure_delete = ON").fetchall()
        # Removed sessions leave rows for a while, see `removal`.
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_LIMIT_BYTES}")
    return connection


@contextmanager
def reading(path: Path, *, is_copying: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection that reads a store as it is, also while it is served.

    Raises StoreOpenError, OSError or sqlite3.Error.
    """
    path = real_path(path)
    if not path.is_file() or not path.stat().st_size:
        raise StoreOpenError(f"{path} is not there, or empty")
    check_header(path)
    with closing(_connect_reading(path)) as connection:
        with reading_schema():
            check_version(path, connection, is_copying=is_copying)
        yield connection


def _connect_reading(path: Path) -> sqlite3.Connection:
    wal = path.with_name(f"{path.name}-wal")
    if not wal.is_file() or not wal.stat().st_size:
        # SQLite removes the empty log that it makes for reading, which it leaves behind where it may not
        # write.
        return connect(path, read_only=True)
    # At the end SQLite would move what a killed service has left in its log into the file.
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None
    )


def check_sound(connection: sqlite3.Connection) -> None:
    """Raises sqlite3.DatabaseError, as SQLite itself would on meeting it, for a database that is damaged."""
    problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise corrupt(problem.replace("\n", " "))


def leaves_doubt(error: sqlite3.Error) -> bool:
    """Whether after this error nobody knows what is in the file: what failed to be synced may be lost even if
    a later sync succeeds.
    """
    return _primary_code(error) in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def file_identity(path: Path) -> tuple[int, int] | None:
    """What tells the file at a path from another that takes its place; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def is_locked(error: sqlite3.Error) -> bool:
    """Whether somebody else holds the file."""
    return _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def check_header(path: Path) -> None:
    """Looks at the first bytes of the file, without SQLite, which might write to it. An empty file is one
    that we shall make.

    So is one of zeros: the power may have failed while it was made; then SQLite's journal beside it has it
    empty again.

    Raises StoreOpenError, OSError.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if not any(header):
        return
    if not header.startswith(_MAGIC) or len(header) < _HEADER_BYTES:
        raise _damaged(path, "it does not begin like one")
    if int.from_bytes(header[_APPLICATION_ID], "big") != APPLICATION_ID:
        raise StoreOpenError(
            f"{path} is a SQLite database of another program: name another file in DATABASE_URL"
        )


def _damaged(path: Path, problem: str) -> StoreDamagedError:
    return StoreDamagedError(
        f"{path} is damaged or is no SQLite database ({problem}): restore it from a backup, or name another "
        "file"
    )


def check_version(path: Path, connection: sqlite3.Connection, *, is_copying: bool = False) -> int:
    """The schema of the file.

    Raises StoreOpenError for one that is newer than this version knows, and for a copy that is not finished,
    unless it is opened to copy.
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > schema_version():
        raise StoreOpenError(
            f"{path} was written by a newer version (schema {version}, this one knows {schema_version()}): "
            "upgrade"
        )
    is_whole = is_copying or not connection.execute(_NOTE_COLUMNS).fetchall()
    if not is_whole:
        raise StoreOpenError(UNFINISHED.format(path))
    return version


def migrate(path: Path, connection: sqlite3.Connection, *, is_copying: bool = False) -> None:
    """Brings the file to the schema of this version.

    Raises StoreOpenError, sqlite3.Error; a migration that fails changes nothing.
    """
    version = check_version(path, connection, is_copying=is_copying)
    migrations = _migrations()
    if version == 0:
        # Both in one commit: a file with the one alone is nobody's.
        connection.execute("BEGIN")
        # Before anything is written; later it takes a rewrite.
        connection.execute(AUTO_VACUUM)
        # Before WAL is on, so that it stands in the file itself, where check_header looks.
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise StoreOpenError(f"{path} does not support SQLite's WAL mode: put it on a local file system")
    for number, script in enumerate(migrations[version:], start=version + 1):
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def schema_version() -> int:
    """The schema that this version works with: the number of its last migration."""
    return len(_migrations())


def _migrations() -> list[str]:
    directory = resources.files("server.store.sqlite") / "migrations"
    files = sorted(
        (file for file in directory.iterdir() if re.fullmatch(r"\d{4}_\w+\.sql", file.name)),
        key=lambda file: file.name,
    )
    if [int(file.name[:4]) for file in files] != list(range(1, len(files) + 1)):
        raise StoreOpenError(
            f"the migrations are not numbered from 1 without gaps: {', '.join(file.name for file in files)}"
        )
    return [file.read_text() for file in files]


def _primary_code(error: sqlite3.Error) -> int:
    # Python's own errors, of text that is not UTF-8 say, have no code.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def public_error(error: sqlite3.Error) -> Exception:
    """What a caller gets for an error of the database: a typed one where the database cannot be used now,
    otherwise the error itself.
    """
    code = _primary_code(error)
    if code == sqlite3.SQLITE_FULL:
        log.error("the store has no room left", cause=str(error))
        return ResourceExhaustedError("The store has no room left")
    if code in _UNUSABLE:
        log.error("the store cannot be used", cause=str(error), code=error.sqlite_errorname)
        return UnavailableError("The store cannot be used now")
    return error


_UNUSABLE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PERM,
}
