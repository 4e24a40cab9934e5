"""A disk under SQLite that can be interfered with: every change of a file goes through here, and is
remembered until it is synced.

`Disk` is an apsw VFS over ordinary files. `mounted` has `sqlite3.connect`, and so the store, open what lies
below the disk's directory with apsw; everything else stays with the standard library. `in_step` makes a
store's groups depend on nothing but what is queued.
"""

import asyncio
import itertools
import os
import queue
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

import apsw

from server.store.sqlite import writer as sqlite_writer
from server.store.sqlite.writer import SqliteWriter

SECTOR: Final = 512
_CHANGE_COUNTER: Final = slice(8, 12)
"""Where the wal-index counts the commits."""
_DIRECTORY_IS_SYNCED_WITH: Final = (
    apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL
)
_numbers = itertools.count(1)

Before = Callable[[str, str], None]
"""Is told what is about to be done (`read`, `write`, `sync`, `truncate`, `delete`, `open`) and to which file;
may raise to prevent it.
"""
After = Callable[[str, str], None]
"""Is told what was done, of the changes."""

Image = Mapping[str, bytes]
"""The files of a disk, by name."""


@dataclass
class _Remembered:
    """A file as it was last synced, and what was done to it since: (offset, bytes) for a write, (size, None)
    for a truncation.
    """

    synced: bytes
    since: list[tuple[int, bytes | None]] = field(default_factory=list)
    # Whether its name is in the directory on the disk.
    named: bool = True

    def now(self) -> bytes:
        """As it was written."""
        content = bytearray(self.synced)
        for offset, data in self.since:
            if data is None:
                del content[offset:]
                continue
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data
        return bytes(content)

    def sync(self) -> None:
        self.synced, self.since = self.now(), []

    def after_power_cut(self, rng: random.Random) -> bytes:
        """What of it may be on the disk: each sector as it was at some moment since the sync, whatever the
        others are; so too the size.
        """
        size, sizes = len(self.synced), [len(self.synced)]
        versions: dict[int, list[tuple[int, bytes]]] = {}
        for offset, data in self.since:
            if data is None:
                for sector in range(offset // SECTOR, -(-size // SECTOR)):
                    start = max(offset, sector * SECTOR)
                    versions.setdefault(sector, []).append((start, bytes((sector + 1) * SECTOR - start)))
                size = offset
            else:
                for start in _sector_starts(offset, len(data)):
                    piece = data[start - offset : (start // SECTOR + 1) * SECTOR - offset]
                    versions.setdefault(start // SECTOR, []).append((start, piece))
                size = max(size, offset + len(data))
            sizes.append(size)
        content = bytearray(self.synced)
        content.extend(bytes(max(0, max(sizes) + SECTOR - len(content))))
        luck = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        for pieces in versions.values():
            kept = (
                rng.randint(0, len(pieces))
                if rng.random() < 0.3
                else len(pieces)
                if rng.random() < luck
                else 0
            )
            for start, piece in pieces[:kept]:
                content[start : start + len(piece)] = piece
        return bytes(content[: rng.choice([sizes[0], sizes[-1], rng.choice(sizes)])])


def _sector_starts(offset: int, length: int) -> Iterator[int]:
    yield offset
    yield from range((offset // SECTOR + 1) * SECTOR, offset + length, SECTOR)


class Disk(apsw.VFS):
    """See the module.

    `before` and `after` are there to be set; `busy_ms` bounds how long a connection waits for a lock.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = f"disk-{next(_numbers)}"
        self.before: Before = lambda what, name: None
        self.after: After = lambda what, name: None
        self.raised: Callable[[bool, int], None] = lambda by_writer, code: None
        """Is told the code of each error that SQLite raises, and whether it was to the store's writer;
        `executed`, of each statement.
        """
        self.executed: Callable[[bool, str], None] = lambda by_writer, statement: None
        self.read_only = False
        self.busy_ms = 5000
        self.pragmas: Sequence[str] = ()
        """Given to each new connection: small caches and frequent checkpoints, so that a little work meets
        everything.
        """
        self.files: dict[str, _Remembered] = {}
        self.open_files: list[_File] = []
        self._gone: dict[str, _Remembered] = {}
        self.lock = threading.Lock()
        self._index: int | None = None
        super().__init__(self.name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        if name is None:
            return apsw.VFSFile("", name, flags)
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name)
        self.before("open", path.name)
        if self.read_only:
            # As the ordinary VFS does where the file system does not let it write.
            flags[0] = (
                flags[0] & ~(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE) | apsw.SQLITE_OPEN_READONLY
            )
        with self.lock:
            if not path.exists():
                self.files[path.name] = _Remembered(b"", named=False)
            elif path.name not in self.files:
                self.files[path.name] = _Remembered(path.read_bytes())
        return _File(self, path.name, name, flags)

    def xDelete(self, name: str, sync_directory: bool) -> None:
        path = Path(name)
        self.before("delete", path.name)
        if self.read_only:
            raise apsw.exception_for(apsw.SQLITE_IOERR_DELETE)
        super().xDelete(name, sync_directory)
        with self.lock:
            self._gone[path.name] = self.files.pop(path.name)
            if sync_directory:
                self.directory_synced()
        self.after("delete", path.name)

    def directory_synced(self) -> None:
        """What was created is there for good, what was deleted is gone."""
        self._gone.clear()
        for file in self.files.values():
            file.named = True

    def after_kill(self) -> Image:
        """What is there when the process ends now."""
        with self.lock:
            return {name: file.now() for name, file in self.files.items()}

    def after_power_cut(self, rng: random.Random) -> Image:
        """What may be on the disk when the power fails now: of what was not synced, any part."""
        with self.lock:
            files = {name: file for name, file in self.files.items() if file.named or rng.random() < 0.5}
            files |= {
                name: file
                for name, file in self._gone.items()
                if name not in files and file.named and rng.random() < 0.5
            }
            return {name: file.after_power_cut(rng) for name, file in files.items()}

    def commits(self) -> bytes:
        """How many commits the wal-index has seen.

        Its file stays open, lest its locks be lost with the descriptor.
        """
        if self._index is None:
            found = list(self.root.glob("*-shm"))
            if not found:
                return b""
            self._index = os.open(found[0], os.O_RDONLY)
        return os.pread(self._index, 48, 0)[_CHANGE_COUNTER]

    def close(self) -> None:
        """Unregisters it. All connections must be closed."""
        if self._index is not None:
            os.close(self._index)
        self.unregister()


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, file_name: str, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self.disk, self.file_name = disk, file_name
        self._file = disk.files[file_name]
        self._names = bool(flags[0] & _DIRECTORY_IS_SYNCED_WITH) and not self._file.named
        disk.open_files.append(self)

    def xRead(self, amount: int, offset: int) -> bytes:
        self.disk.before("read", self.file_name)
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        self.disk.before("write", self.file_name)
        if self.disk.read_only:
            raise apsw.exception_for(apsw.SQLITE_IOERR_WRITE)
        super().xWrite(data, offset)
        with self.disk.lock:
            self._file.since.append((offset, bytes(data)))
        self.disk.after("write", self.file_name)

    def xTruncate(self, size: int) -> None:
        self.disk.before("truncate", self.file_name)
        if self.disk.read_only:
            raise apsw.exception_for(apsw.SQLITE_IOERR_TRUNCATE)
        super().xTruncate(size)
        with self.disk.lock:
            self._file.since.append((size, None))
        self.disk.after("truncate", self.file_name)

    def xSync(self, flags: int) -> None:
        self.disk.before("sync", self.file_name)
        # Not carried out: whether the bytes reach the machine's disk makes no difference here.
        with self.disk.lock:
            self._file.sync()
            if self._names:
                self.disk.directory_synced()
                self._names = False
        self.disk.after("sync", self.file_name)

    def xClose(self) -> None:
        self.disk.open_files.remove(self)
        super().xClose()


class _Cursor:
    """What the store uses of sqlite3.Cursor."""

    def __init__(self, cursor: apsw.Cursor, rowcount: int) -> None:
        self._cursor = cursor
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        with _translated():
            return next(self._cursor)

    def fetchone(self) -> Any:
        return next(self, None)

    def fetchall(self) -> list[Any]:
        return list(self)

    def close(self) -> None:
        with _translated():
            self._cursor.close(True)


class _Connection:
    """What the store uses of sqlite3.Connection, in autocommit mode."""

    def __init__(self, disk: Disk, path: Path, timeout: float) -> None:
        self._disk = disk
        with _translated():
            self._connection = apsw.Connection(str(path), vfs=disk.name)
        self._connection.set_busy_timeout(min(round(timeout * 1000), disk.busy_ms))
        self.given_pragmas = False

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, statement: str, values: Any = ()) -> _Cursor:
        before = self._disk.commits() if statement == "COMMIT" else b""
        try:
            with _translated():
                cursor = self._connection.execute(statement, values)
        except sqlite3.Error as error:
            # SQLite keeps to itself what goes wrong in a checkpoint after a commit; apsw tells it all the
            # same.
            if not before or self._connection.in_transaction or before == self._disk.commits():
                self._disk.raised(_by_writer(), error.sqlite_errorcode)
                raise
            cursor = self._connection.cursor()
        self._disk.executed(_by_writer(), statement)
        return _Cursor(cursor, self._connection.changes())

    def executescript(self, script: str) -> None:
        self.execute(script).fetchall()

    def close(self) -> None:
        # SQLite closes whatever happens, and tells of nothing; apsw tells of it.
        with suppress(apsw.Error):
            self._connection.close()


def _by_writer() -> bool:
    return threading.current_thread().name == "sqlite-writer"


@contextmanager
def _translated() -> Iterator[None]:
    """Raises the errors of apsw as sqlite3 does."""
    try:
        yield
    except apsw.Error as error:
        code = getattr(error, "extendedresult", None) or getattr(error, "result", apsw.SQLITE_ERROR)
        primary = code & 0xFF
        if primary == apsw.SQLITE_NOMEM:
            raise MemoryError from error
        kind = {
            apsw.SQLITE_CORRUPT: sqlite3.DatabaseError,
            apsw.SQLITE_NOTADB: sqlite3.DatabaseError,
            apsw.SQLITE_CONSTRAINT: sqlite3.IntegrityError,
            apsw.SQLITE_MISUSE: sqlite3.InterfaceError,
        }.get(primary, sqlite3.OperationalError)
        translated = kind(str(error))
        translated.sqlite_errorcode = code
        names = apsw.mapping_extended_result_codes if code > 0xFF else apsw.mapping_result_codes
        translated.sqlite_errorname = str(names.get(code, code))
        raise translated from error


@contextmanager
def mounted(disk: Disk) -> Iterator[None]:
    """Below the disk's directory `sqlite3.connect` opens on the disk."""
    ordinary = sqlite3.connect

    def connect(path: Any, timeout: float = 5.0, **options: Any) -> Any:
        if not Path(path).is_relative_to(disk.root):
            return ordinary(path, timeout=timeout, **options)
        return _Tuned(disk, Path(path), timeout)

    with patch.object(sqlite3, "connect", connect):
        yield


class _Tuned(_Connection):
    """Gives the disk's own pragmas after those that the store gives on connecting: before the first statement
    that is none.
    """

    def execute(self, statement: str, values: Any = ()) -> _Cursor:
        if not self.given_pragmas and not statement.startswith("PRAGMA"):
            self.given_pragmas = True
            for pragma in self._disk.pragmas:
                super().execute(f"PRAGMA {pragma}").fetchall()
        return super().execute(statement, values)


def settle(loop: asyncio.AbstractEventLoop) -> None:
    """From another thread: returns once everything on the loop waits for something."""
    settled = threading.Event()

    def turn(left: int) -> None:
        if left:
            loop.call_soon(turn, left - 1)
        else:
            settled.set()

    loop.call_soon_threadsafe(turn, 12)
    settled.wait()


@contextmanager
def in_step() -> Iterator[None]:
    """A store that lives in here takes into a group all that can be queued by then, and the loop rests while
    it writes.

    So equal seeds make equal groups, and equal calls of the disk.
    """
    loop = asyncio.get_running_loop()
    carry_out = SqliteWriter._carry_out

    class Queue:
        def __init__(self) -> None:
            self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
            self.put, self.qsize = self._queue.put, self._queue.qsize

        def get(self, block: bool = True) -> Any:
            item = self._queue.get(block)
            if block and item is not None:
                settle(loop)
            return item

    def carry_out_in_step(writer: SqliteWriter, group: list[Any]) -> None:
        settle(loop)
        carry_out(writer, group)

    with (
        patch.object(sqlite_writer, "queue", SimpleNamespace(SimpleQueue=Queue, Empty=queue.Empty)),
        patch.object(SqliteWriter, "_carry_out", carry_out_in_step),
    ):
        yield


def flipped(disk: Disk, name: str, offset: int, length: int) -> bytes:
    """Inverts bytes of an open file behind SQLite's back; returns what was there."""
    file = next(file for file in disk.open_files if file.file_name == name)
    before = apsw.VFSFile.xRead(file, length, offset)
    apsw.VFSFile.xWrite(file, bytes(byte ^ 0xFF for byte in before), offset)
    return before


def restored(disk: Disk, name: str, offset: int, data: bytes) -> None:
    """Puts bytes back behind SQLite's back."""
    apsw.VFSFile.xWrite(next(file for file in disk.open_files if file.file_name == name), data, offset)
