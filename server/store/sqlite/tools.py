"""What the commands do with a SQLite store."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

from server.store.sqlite.check import problems, summary
from server.store.sqlite.compact import compact
from server.store.sqlite.copy import copy_store, reading_current, restore_store, stored_schema
from server.store.sqlite.file import prepare, schema_version
from server.store.tools import Progress, StoreTools
from server.store.values import StoreOpenError


class SqliteTools(StoreTools):
    """See StoreTools."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.place = str(path)
        self.schema = schema_version()

    def stored_schema(self) -> int:
        return stored_schema(self._path)

    def migrate(self) -> None:
        prepare(self._path).release()

    def check(self, on_problem: Callable[[str], None]) -> str:
        try:
            with reading_current(self._path) as connection:
                for problem in problems(connection):
                    on_problem(problem)
                return summary(connection)
        except (OSError, sqlite3.Error) as error:
            raise StoreOpenError(f"{self._path} cannot be checked: {error}") from error

    def compact(self, progress: Progress) -> tuple[int, int]:
        return compact(self._path, progress)

    def back_up(self, target: Path, progress: Progress) -> None:
        copy_store(self._path, target, progress)

    def restore(self, source: Path, progress: Progress) -> None:
        restore_store(source, self._path, progress)
