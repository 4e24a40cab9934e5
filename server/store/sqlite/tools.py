"""What the commands do with a SQLite store."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import structlog

from server.store.copying import CopySource, CopyTarget
from server.store.sqlite.check import problems, summary
from server.store.sqlite.compact import compact
from server.store.sqlite.copy import copy_store, reading_current, restore_store, stored_schema
from server.store.sqlite.copying import open_source, open_target
from server.store.sqlite.file import explaining, prepare, schema_version
from server.store.sqlite.runs import Kind, write_run
from server.store.tools import Progress, StoreTools
from server.store.values import CopyError, Run, StoreDamagedError, StoreOpenError

log = structlog.get_logger()


class SqliteTools(StoreTools):
    """See StoreTools."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.place = str(path)
        self.schema = schema_version()

    def stored_schema(self) -> int:
        with explaining(self._path):
            return stored_schema(self._path)

    def migrate(self) -> None:
        prepare(self._path).release()

    def check(self, on_problem: Callable[[str], None]) -> str:
        found = 0
        try:
            with reading_current(self._path) as connection:
                for problem in problems(connection):
                    found += 1
                    if found == 1:
                        first = problem
                    on_problem(problem)
                held = summary(connection)
        except StoreDamagedError as error:
            # Others say nothing about the store: the file is not there, or of another version.
            self._note("check", is_good=False, detail=str(error))
            raise
        except (OSError, sqlite3.Error) as error:
            self._note("check", is_good=False, detail=f"it cannot be checked: {error}")
            raise StoreOpenError(f"{self._path} cannot be checked: {error}") from error
        self._note("check", is_good=not found, detail=f"{found} problems; {first}" if found else held)
        return held

    def compact(self, progress: Progress) -> tuple[int, int]:
        return compact(self._path, progress)

    def back_up(self, target: Path, progress: Progress) -> None:
        try:
            copy_store(self._path, target, progress)
        except CopyError as error:
            self._note("backup", is_good=False, detail=str(error))
            raise
        self._note("backup", is_good=True, detail=str(target.absolute()))

    def restore(self, source: Path, progress: Progress) -> None:
        restore_store(source, self._path, progress)

    def copy_source(self) -> AbstractContextManager[CopySource]:
        return open_source(self._path)

    def copy_target(self) -> AbstractContextManager[CopyTarget]:
        return open_target(self._path)

    def _note(self, kind: Kind, *, is_good: bool, detail: str) -> None:
        """Notes how a command has ended, for the service to tell. What it has done is done without a note."""
        if not self._path.is_file():
            return
        try:
            write_run(self._path, kind, Run(round(time.time() * 1000), is_good, detail))
        except OSError as error:
            log.warning("the end of the command cannot be noted beside the store", cause=str(error))
