"""Reads of the SQLite file: short ones where they are called, long ones on a thread of their own."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from server.domain.errors import UnavailableError
from server.store.sqlite.file import check_sound, connect, leaves_doubt, public_error

T = TypeVar("T")


class _Reader:
    """A thread that reads on a connection of its own."""

    def __init__(self, path: Path, name: str) -> None:
        self.connection = connect(path, read_only=True)
        self.thread = ThreadPoolExecutor(1, name)

    def close(self) -> None:
        """Waits for the reads under way."""
        self.thread.shutdown()
        self.connection.close()


class Reading:
    """The part of a store that reads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_connection = connect(path, read_only=True)
        self._long_reader = _Reader(path, "sqlite-reader")
        # Whether a read has failed so that nobody knows what else cannot be read.
        self._unreadable = False
        self._closed = False

    def _read(self, read: Callable[[sqlite3.Connection], T]) -> T:
        """A short, indexed read, where it is called: a hop to a thread costs more."""
        return self._guarded(read, self._read_connection)

    async def _read_long(self, read: Callable[[sqlite3.Connection], T]) -> T:
        """A read of much, off the event loop."""
        if self._closed:
            raise UnavailableError("The service is stopping")
        reader = self._long_reader
        return await asyncio.get_running_loop().run_in_executor(
            reader.thread, self._guarded, read, reader.connection
        )

    def _guarded(self, read: Callable[[sqlite3.Connection], T], connection: sqlite3.Connection) -> T:
        if self._closed:
            raise UnavailableError("The service is stopping")
        try:
            return read(connection)
        except sqlite3.Error as error:
            self._unreadable = self._unreadable or leaves_doubt(error)
            raise public_error(error) from error

    def _check_readable(self, _: sqlite3.Connection) -> None:
        """Reads everything, on a connection that has nothing in its cache."""
        with closing(connect(self._path, read_only=True)) as connection:
            check_sound(connection)
